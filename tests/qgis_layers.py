"""Opens a GeoPackage with QGIS's own libraries, as QGIS's Python runs it: not a test by itself.

    python3 qgis_layers.py LAYERS.gpkg PICTURE.png

Prints a JSON list of the layers, in the file's order, as QGIS sees them with their default styles,
and draws them over each other, the first at the bottom.
"""

import json
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import (
    QgsApplication,
    QgsCoordinateTransformContext,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsProviderRegistry,
    QgsProviderSublayerDetails,
    QgsRectangle,
    QgsRenderContext,
)
from qgis.PyQt.QtCore import QSize


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
            "legend": [item.label() for item in layer.renderer().legendSymbolItems()],
        }
        for layer, styled in layers
    ]
    settings = QgsMapSettings()
    settings.setLayers([layer for layer, _ in reversed(layers)])  # QGIS counts from the top
    settings.setOutputSize(QSize(800, 800))
    settings.setDestinationCrs(layers[0][0].crs())
    extent = QgsRectangle()
    for layer, _ in layers:
        extent.combineExtentWith(layer.extent())
    settings.setExtent(extent)
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(picture)
    print(json.dumps(described))


main(*sys.argv[1:])
