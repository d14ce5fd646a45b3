"""Results as layers of the project."""

from __future__ import annotations

from pathlib import Path

from qgis.core import QgsMapLayer, QgsProject, QgsProviderRegistry, QgsRasterLayer, QgsVectorLayer


def load(project: QgsProject, title: str, scene: str, objects: str, rasters: list[str]) -> None:
    """Add layers to the project at the top, in the styles of their files; several in one group.

    Layers that the project has already are redrawn instead. The scene is added below them if the
    project does not have it.

    Args:
        scene: a raster, or empty.
        objects: a GeoPackage, or empty. Its first layer is drawn first, that is at the bottom.
    """
    parts = QgsProviderRegistry.instance().querySublayers(objects) if objects else []
    vectors = [QgsVectorLayer(part.uri(), part.name(), "ogr") for part in parts]
    pictures = [QgsRasterLayer(path, Path(path).stem) for path in rasters]
    background = [QgsRasterLayer(scene, Path(scene).stem)] if scene else []
    present = {file_of(layer) for layer in project.mapLayers().values()}
    for layer in project.mapLayers().values():
        if file_of(layer) in {file_of(each) for each in (*vectors, *pictures)}:
            layer.reload()
    new = [each for each in (*reversed(vectors), *pictures) if file_of(each) not in present]
    if not new:
        return
    new += [each for each in background if file_of(each) not in present]
    group = root = project.layerTreeRoot()
    if len(new) > 1:
        if root.findGroup(title) is not None:  # of another folder
            title = f"{title} ({Path(objects or rasters[0]).absolute().parent.name})"
        group = root.insertGroup(0, title)
    for place, layer in enumerate(new):
        project.addMapLayer(layer, False)
        node = group.insertLayer(place, layer)
        node.setExpanded(False)
        node.setItemVisibilityChecked(layer not in pictures)


def file_of(layer: QgsMapLayer) -> tuple[Path, str]:
    """Return the file of a layer, and its name in there. Paths of Windows compare without case."""
    path, _, inside = layer.source().partition("|layername=")
    return Path(path.partition("|")[0]).absolute(), inside.partition("|")[0]


def in_use(project: QgsProject, path: str) -> list[str]:
    """Return the names of layers in the project that show this file."""
    wanted = Path(path).absolute()
    return [layer.name() for layer in project.mapLayers().values() if file_of(layer)[0] == wanted]
