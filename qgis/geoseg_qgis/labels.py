"""Polygons of QGIS layers as a file that the commands read."""

from __future__ import annotations

from collections.abc import Sequence
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

CLASS = "class"


def write_polygons(
    layers: Sequence[QgsVectorLayer], field: str, context: QgsProcessingContext
) -> str:
    """Write polygons of layers, with their attributes, into a temporary GeoPackage.

    Unsaved edits count, filters hold, and layers need not be files.

    Args:
        field: attribute that names the class, which is written as `class`. Where it is missing or
            empty, the layer names it. Empty: the layers are no labels, and keep their attributes.

    Raises:
        QgsProcessingException: a layer cannot be written.
    """
    path = QgsProcessingUtils.generateTempFilename("polygons.gpkg")
    actions = QgsVectorFileWriter.ActionOnExistingFile
    for number, layer in enumerate(layers, 1):
        copy = copy_of(layer, field)
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


def copy_of(layer: QgsVectorLayer, field: str) -> QgsVectorLayer:
    """Return a layer in memory with the polygons of a layer, and their class if `field` is given.

    Attributes are kept, for they tell a prediction from what was drawn; but not the primary key,
    which new features lack.
    """
    source = layer.fields()
    own = [CLASS] if field else []
    index = source.lookupField(field) if field else -1
    dropped = {"fid", *own}
    kept = [i for i in range(source.count()) if source.at(i).name().lower() not in dropped]
    uri = "&".join(["MultiPolygon?index=no", *(f"field={name}:string" for name in own)])
    copy = QgsVectorLayer(uri, "polygons", "memory")
    copy.setCrs(layer.crs())
    copy.dataProvider().addAttributes([source.at(i) for i in kept])
    copy.updateFields()
    made = []
    for feature in layer.getFeatures():
        geometry = feature.geometry()
        geometry.convertToMultiType()
        named = feature.attribute(index) if index >= 0 else None
        classes = [str(named) if is_given(named) else class_of(layer)] if field else []
        made.append(QgsFeature(copy.fields()))
        made[-1].setGeometry(geometry)
        made[-1].setAttributes([*classes, *(feature.attribute(i) for i in kept)])
    copy.dataProvider().addFeatures(made)
    return copy


def is_given(value: object) -> bool:
    """Whether an attribute has a value; QGIS has had several kinds of NULL."""
    return value is not None and str(value) not in ("", "NULL")


def class_of(layer: QgsVectorLayer) -> str:
    """Return the name of a layer in its file, or in the project if it is no file."""
    _, _, inside = layer.source().partition("|layername=")
    return inside.partition("|")[0] or layer.name() or Path(layer.source()).stem
