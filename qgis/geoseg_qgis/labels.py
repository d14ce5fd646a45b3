"""Polygons of QGIS layers as a file that the commands read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from qgis.core import (
    QgsFeature,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingUtils,
    QgsVectorFileWriter,
    QgsVectorLayer,
)

from .text import tr


def write_polygons(
    layers: Sequence[QgsVectorLayer], field: str, context: QgsProcessingContext
) -> str:
    """Write polygons of layers, with their class, into a temporary GeoPackage.

    Unsaved edits count, filters hold, and layers need not be files.

    Args:
        field: attribute that names the class. Where it is missing or empty, the layer names it.

    Raises:
        QgsProcessingException: a layer cannot be written.
    """
    path = QgsProcessingUtils.generateTempFilename("polygons.gpkg")
    actions = QgsVectorFileWriter.ActionOnExistingFile
    for number, layer in enumerate(layers, 1):
        copy = QgsVectorLayer("MultiPolygon?field=class:string", "polygons", "memory")
        copy.setCrs(layer.crs())
        copy.dataProvider().addFeatures(list(labeled(layer, field)))
        options = QgsVectorFileWriter.SaveVectorOptions()
        options.driverName = "GPKG"
        options.layerName = f"{number} {class_of(layer)}"
        options.actionOnExistingFile = (
            actions.CreateOrOverwriteFile if number == 1 else actions.CreateOrOverwriteLayer
        )
        code, message, *_ = QgsVectorFileWriter.writeAsVectorFormatV3(
            copy, path, context.transformContext(), options
        )
        if code != QgsVectorFileWriter.WriterError.NoError:
            raise QgsProcessingException(tr("{}: {}").format(layer.name(), message))
    return path


def labeled(layer: QgsVectorLayer, field: str) -> Iterable[QgsFeature]:
    """Yield the polygons of a layer with their class as the only attribute."""
    index = layer.fields().lookupField(field) if field else -1
    for feature in layer.getFeatures():
        geometry = feature.geometry()
        geometry.convertToMultiType()
        named = feature.attribute(index) if index >= 0 else None
        label = QgsFeature()
        label.setGeometry(geometry)
        label.setAttributes([str(named) if is_given(named) else class_of(layer)])
        yield label


def is_given(value: object) -> bool:
    """Whether an attribute has a value; QGIS has had several kinds of NULL."""
    return value is not None and str(value) not in ("", "NULL")


def class_of(layer: QgsVectorLayer) -> str:
    """Return the name of a layer in its file, or in the project if it is no file."""
    _, _, inside = layer.source().partition("|layername=")
    return inside.partition("|")[0] or layer.name() or Path(layer.source()).stem
