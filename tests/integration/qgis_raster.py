"""Open a raster as QGIS does when it is dropped on a map; run by test_qgis.

    python3 qgis_raster.py RASTER PICTURE.png

Prints its renderer as JSON, and draws it over magenta.
"""

import json
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings, QgsRasterLayer
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor


def main(path, picture):
    application = QgsApplication([], False)
    application.initQgis()
    layer = QgsRasterLayer(path)
    renderer = layer.renderer()
    described = {
        "renderer": renderer.type(),
        "legend": [
            [item.label, item.value, list(item.color.getRgb())] for item in renderer.classes()
        ],
    }
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setOutputSize(QSize(200, 200))
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(layer.extent())
    settings.setBackgroundColor(QColor(255, 0, 255))
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(picture)
    print(json.dumps(described))


main(*sys.argv[1:])
