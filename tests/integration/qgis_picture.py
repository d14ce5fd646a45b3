"""Draw layers as QGIS's map canvas does; for scripts that the system's Python runs."""

from qgis.core import QgsMapRendererSequentialJob, QgsMapSettings, QgsRectangle
from qgis.PyQt.QtCore import QSize


def save_picture(layers, side, path, background=None):
    """Draw layers of one CRS over each other, the first at the bottom, on `side` × `side` px."""
    settings = QgsMapSettings()
    settings.setLayers(layers[::-1])  # QGIS counts from the top
    settings.setOutputSize(QSize(side, side))
    settings.setDestinationCrs(layers[0].crs())
    extent = QgsRectangle()
    for layer in layers:
        extent.combineExtentWith(layer.extent())
    settings.setExtent(extent)
    if background is not None:
        settings.setBackgroundColor(background)
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(path)
