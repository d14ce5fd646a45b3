"""Parameters and outputs of Processing from the tables, and their values as text for a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingOutputDefinition,
    QgsProcessingOutputFile,
    QgsProcessingOutputNumber,
    QgsProcessingOutputRasterLayer,
    QgsProcessingOutputVectorLayer,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterCrs,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorLayer,
)

from .commands import Output, Parameter
from .labels import write_polygons
from .text import tr

POLYGONS = QgsProcessing.SourceType.TypeVectorPolygon
OUTPUTS: dict[str, type[QgsProcessingOutputDefinition]] = {
    "file": QgsProcessingOutputFile,
    "number": QgsProcessingOutputNumber,
    "raster": QgsProcessingOutputRasterLayer,
    "vector": QgsProcessingOutputVectorLayer,
}


def define_output(output: Output) -> QgsProcessingOutputDefinition:
    """Return an output of an algorithm."""
    return OUTPUTS[output.kind](output.name, tr(output.label))


def define(parameter: Parameter) -> QgsProcessingParameterDefinition:
    """Return a parameter of an algorithm."""
    common = {"defaultValue": parameter.default, "optional": parameter.optional}
    defined = KINDS[parameter.kind][0](parameter, (parameter.name, tr(parameter.label)), common)
    if parameter.help:
        defined.setHelp(tr(parameter.help))
    if parameter.advanced:
        defined.setFlags(defined.flags() | QgsProcessingParameterDefinition.Flag.FlagAdvanced)
    return defined


class Values:
    """Values of an algorithm's parameters, read in QGIS's main thread."""

    def __init__(
        self,
        algorithm: QgsProcessingAlgorithm,
        given: Mapping[str, Any],
        context: QgsProcessingContext,
    ) -> None:
        self.algorithm, self.given, self.context = algorithm, given, context

    def read(self, parameters: tuple[Parameter, ...]) -> dict[str, Any]:
        """Return text, numbers and bools by name; None where an option is not given.

        Raises:
            QgsProcessingException: a value cannot be handed to a command.
        """
        return {each.name: self.value(each) for each in parameters}

    def value(self, parameter: Parameter) -> Any:
        """Return the value of one parameter."""
        given = self.given.get(parameter.name, parameter.default)
        if given is None or (isinstance(given, str) and not given):
            return None if parameter.flag else parameter.default
        return KINDS[parameter.kind][1](self, parameter.name)

    def of(self, kind: str, name: str) -> Any:
        """Return a value as Processing's `parameterAs<kind>` gives it."""
        return getattr(self.algorithm, f"parameterAs{kind}")(self.given, name, self.context)

    def raster(self, name: str) -> str:
        """Return the file of a raster."""
        layer = self.of("RasterLayer", name)
        if layer is None or not layer.isValid():
            raise QgsProcessingException(self.algorithm.invalidRasterError(self.given, name))
        if layer.providerType() != "gdal":
            raise QgsProcessingException(
                tr("{} is not a file but a service; save it as a GeoTIFF first").format(
                    layer.name()
                )
            )
        return layer.source().partition("|")[0]

    def layers(self, name: str) -> str:
        """Write layers of polygons into a temporary GeoPackage, and return its path."""
        return write_polygons(self.of("LayerList", name), self.class_field(), self.context)

    def layer(self, name: str) -> str:
        """Write a layer of polygons into a temporary GeoPackage, and return its path."""
        layer = self.of("VectorLayer", name)
        if layer is None:
            raise QgsProcessingException(self.algorithm.invalidSourceError(self.given, name))
        return write_polygons([layer], "", self.context)

    def class_field(self) -> str:
        """Return the attribute that names classes."""
        return self.of("String", "FIELD") or "class"

    def extent(self, name: str) -> str | None:
        """Return a rectangle in the CRS of the scene."""
        scene = self.of("RasterLayer", "SCENE")
        crs = scene.crs() if scene else None
        bounds = self.algorithm.parameterAsExtent(self.given, name, self.context, crs)
        if bounds.isEmpty():
            return None
        corners = (bounds.xMinimum(), bounds.yMinimum(), bounds.xMaximum(), bounds.yMaximum())
        return ",".join(f"{value:.12g}" for value in corners)

    def crs(self, name: str) -> str | None:
        """Return a CRS by its code, or as WKT."""
        crs = self.of("Crs", name)
        return (crs.authid() or crs.toWkt()) if crs.isValid() else None


Make = Callable[..., QgsProcessingParameterDefinition]
Read = Callable[[Values, str], Any]


def reader(kind: str) -> Read:
    """Return a reader that takes values as Processing gives them."""
    return lambda values, name: values.of(kind, name)


def file(p: Parameter, name: tuple[str, str], common: dict[str, Any]) -> Any:
    """Define a file to read; without a suffix, a name such as `default` may stand for a file.

    QGIS's own filter of all files, *.*, refuses names without a dot.
    """
    accepted = {"extension": p.filter} if p.filter else {"fileFilter": tr("All files (*)")}
    return QgsProcessingParameterFile(*name, **accepted, **common)


def folder(p: Parameter, name: tuple[str, str], common: dict[str, Any]) -> Any:
    """Define a folder to read."""
    return QgsProcessingParameterFile(
        *name, behavior=QgsProcessingParameterFile.Behavior.Folder, **common
    )


def integer(p: Parameter, name: tuple[str, str], common: dict[str, Any]) -> Any:
    """Define a whole number."""
    return QgsProcessingParameterNumber(
        *name, type=QgsProcessingParameterNumber.Type.Integer, minValue=p.least, **common
    )


def number(p: Parameter, name: tuple[str, str], common: dict[str, Any]) -> Any:
    """Define a number that is not negative."""
    return QgsProcessingParameterNumber(
        *name, type=QgsProcessingParameterNumber.Type.Double, minValue=0.0, **common
    )


def choice(p: Parameter, name: tuple[str, str], common: dict[str, Any]) -> Any:
    """Define a choice; its values are its texts."""
    common["defaultValue"] = p.default or p.choices[0]
    return QgsProcessingParameterEnum(
        *name, options=list(p.choices), usesStaticStrings=True, **common
    )


def new_file(p: Parameter, name: tuple[str, str], common: dict[str, Any]) -> Any:
    """Define a file to write."""
    return QgsProcessingParameterFileDestination(
        *name, fileFilter=p.filter, createByDefault=not p.optional, **common
    )


KINDS: dict[str, tuple[Make, Read]] = {
    "raster": (lambda p, name, c: QgsProcessingParameterRasterLayer(*name, **c), Values.raster),
    "layer": (
        lambda p, name, c: QgsProcessingParameterVectorLayer(*name, types=[POLYGONS], **c),
        Values.layer,
    ),
    "layers": (
        lambda p, name, c: QgsProcessingParameterMultipleLayers(*name, layerType=POLYGONS, **c),
        Values.layers,
    ),
    "extent": (lambda p, name, c: QgsProcessingParameterExtent(*name, **c), Values.extent),
    "crs": (lambda p, name, c: QgsProcessingParameterCrs(*name, **c), Values.crs),
    "file": (file, reader("String")),
    "folder": (folder, reader("String")),
    "text": (lambda p, name, c: QgsProcessingParameterString(*name, **c), reader("String")),
    "flag": (lambda p, name, c: QgsProcessingParameterBoolean(*name, **c), reader("Bool")),
    "integer": (integer, reader("Int")),
    "number": (number, reader("Double")),
    "choice": (choice, reader("EnumString")),
    "new folder": (
        lambda p, name, c: QgsProcessingParameterFolderDestination(*name, **c),
        reader("String"),
    ),
    "new file": (new_file, reader("FileOutput")),
}
"""How a parameter of each kind is defined, and how its value is read."""
KINDS |= {
    "words": KINDS["text"],  # options as on a command line
    "load": KINDS["flag"],  # for the plugin, not for the command
    "field": (KINDS["text"][0], lambda values, name: "class"),  # labels are written with this one
}
