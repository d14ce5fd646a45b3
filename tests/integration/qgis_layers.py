"""Open a GeoPackage with QGIS's own libraries; run by test_qgis with the system's Python.

    python3 qgis_layers.py LAYERS.gpkg PICTURE.png

Prints a JSON list of the layers, in the file's order, with their default styles, and draws them
over each other, the first at the bottom.
"""

import json
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import (
    QgsApplication,
    QgsCoordinateTransformContext,
    QgsExpression,
    QgsExpressionContext,
    QgsExpressionContextUtils,
    QgsProviderRegistry,
    QgsProviderSublayerDetails,
    QgsRenderContext,
)
from qgis.gui import QgsGui
from qgis_picture import save_picture


def shown(layer):
    """Return the first feature as the attribute table shows it."""
    feature = next(layer.getFeatures())
    texts = {}
    for index, field in enumerate(layer.fields()):
        setup = QgsGui.editorWidgetRegistry().findBest(layer, field.name())
        formatter = QgsApplication.fieldFormatterRegistry().fieldFormatter(setup.type())
        value = feature[field.name()]
        texts[field.name()] = formatter.representValue(layer, index, setup.config(), None, value)
    return texts


def tip(layer):
    """Return the display name and the map tip of the first feature."""
    context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(layer))
    feature = next(layer.getFeatures())
    context.setFeature(feature)
    name = QgsExpression(layer.displayExpression()).evaluate(context)
    return [name, QgsExpression.replaceExpressionText(layer.mapTipTemplate(), context)]


def main(path, picture):
    application = QgsApplication([], False)
    application.initQgis()
    layers = []
    for details in QgsProviderRegistry.instance().querySublayers(path):
        options = QgsProviderSublayerDetails.LayerOptions(QgsCoordinateTransformContext())
        layer = details.toLayer(options)
        _, styled = layer.loadDefaultStyle()
        layers.append((layer, styled))
    described = [
        {
            "name": layer.name(),
            "valid": layer.isValid(),
            "features": layer.featureCount(),
            "crs": layer.crs().authid(),
            "styled": styled,
            "colors": [
                symbol.color().getRgb()[:3]
                for symbol in layer.renderer().symbols(QgsRenderContext())
            ],
            "renderer": layer.renderer().type(),
            "legend": [item.label() for item in layer.renderer().legendSymbolItems()],
            "fields": {field.name(): field.displayName() for field in layer.fields()},
            "shown": shown(layer),
            "tip": tip(layer),
        }
        for layer, styled in layers
    ]
    save_picture([layer for layer, _ in layers], 800, picture)
    print(json.dumps(described))


main(*sys.argv[1:])
