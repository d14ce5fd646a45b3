"""Open a raster as QGIS does when it is dropped on a map; run by test_qgis.

    python3 qgis_raster.py RASTER PICTURE.png

Prints its renderer as JSON, and draws it over magenta.
"""

import json
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import QgsApplication, QgsRasterLayer
from qgis.PyQt.QtGui import QColor
from qgis_picture import save_picture


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
    save_picture([layer], 200, picture, QColor(255, 0, 255))
    print(json.dumps(described))


main(*sys.argv[1:])
