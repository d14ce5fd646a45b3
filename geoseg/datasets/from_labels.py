"""Patches from a scene and the polygons drawn over it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely import STRtree

from geoseg.classes import IGNORE, LabelClass, class_color, name_problem, read_class_list
from geoseg.datasets.collection import Addition, adding
from geoseg.datasets.corrected import read_area, read_corrected
from geoseg.datasets.layout import Patch, Patching, Prepared, patch_name, refuse, write_patch
from geoseg.errors import DataError, OptionError
from geoseg.geo.layers.labels import Labels, read_labels
from geoseg.geo.raster.scene import Scene
from geoseg.tiling.grid import Window

BACKGROUND = "background"
Square = tuple[int, int]
"""Row and column in the grid of squares of patch size, each of which belongs to one split."""


@dataclass(frozen=True, slots=True)
class Painter:
    """Rasterizes labels in windows of the scene."""

    shapes: NDArray[np.object_]
    """Polygons, largest first, so that small ones cover large ones."""
    ids: NDArray[np.int64]
    """Class ids of `shapes`."""
    area: NDArray[np.object_]
    """Polygons within which everything is labeled: the rest of them is background."""
    shape_tree: STRtree
    """Index of `shapes`."""
    area_tree: STRtree
    """Index of `area`."""

    @classmethod
    def of(cls, labels: Labels, ids: dict[str, int], area: Labels | None) -> Painter:
        order = np.argsort(-labels.area, kind="stable")
        shapes = labels.geometry[order]
        class_ids = np.array([ids[name] for name in labels.names[order]], dtype=np.int64)
        surroundings = area.geometry if area is not None else np.array([], dtype=object)
        return cls(shapes, class_ids, surroundings, STRtree(shapes), STRtree(surroundings))

    def classes_in(self, window: Window) -> set[int]:
        """Return class ids of polygons that touch the window; 0 if the area touches it."""
        touched = set(self.ids[self.shape_tree.query(box(window), "intersects")].tolist())
        return touched | ({0} if len(self.area_tree.query(box(window), "intersects")) else set())

    def paint(self, window: Window) -> NDArray[np.uint8]:
        """Rasterize class ids (H,W) by pixel centers; IGNORE where nothing is labeled."""
        area_indices = self.area_tree.query(box(window))
        shape_indices = np.sort(self.shape_tree.query(box(window)))
        drawn = [(self.area[i], 0) for i in area_indices]
        drawn += [(self.shapes[i], int(self.ids[i])) for i in shape_indices]
        shape = (window.height, window.width)
        if not drawn:
            return np.full(shape, IGNORE, np.uint8)
        origin = Affine.translation(window.col_off, window.row_off)
        return rasterize(drawn, shape, fill=IGNORE, transform=origin, dtype="uint8")


def prepare_labels(
    scene_path: str,
    labels_path: Path,
    target: Path,
    *,
    field: str,
    layer: str | None = None,
    area_path: Path | None = None,
    update: bool = False,
    patching: Patching | None = None,
    val_share: float = 0.2,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Cut the labeled parts of a scene into patches.

    Class 0 is `background`; the others follow in alphabetical order, or in that of `classes.csv`
    if `target` has one. Pixels outside of all polygons are IGNORE, or background within the
    polygons of `area_path`. Squares of patch size form the validation split, such that every
    class is in both splits if possible; no pixel is in both. Earlier patches of the scene in
    `target` are replaced, see `Addition`.

    Args:
        update: the labels are results that were corrected: only polygons within the area, and
            those that somebody drew or changed, are labels; see `read_corrected`.

    Raises:
        DataError: labels that cannot be used, or none on the scene.
        SceneError, OutputError, InUseError, OptionError: as named there.
    """
    patching = patching or Patching(512, 0)
    if not 0 <= val_share < 1:
        raise OptionError(f"--val-share is {val_share}; give 0 or more and less than 1")
    scene = Scene.open(scene_path)
    area = None if area_path is None else read_area(area_path, scene.geobox)
    labels, notes = _read(scene, labels_path, field, layer, area, update=update)
    if labels.problems and not skip_bad:
        raise refuse(labels.problems, len(labels) + len(labels.problems), "features")
    if not len(labels) and not update:
        raise DataError(
            f"none of the {labels.outside} polygons in {labels_path} lies on {scene.path}; "
            "check their coordinate reference system"
        )
    with adding(target, scene.path, scene.stem) as addition:
        classes = class_list(target, labels.names)
        painter = Painter.of(labels, {c.name: c.id for c in classes}, area)
        validation = choose_squares(scene, painter, patching.size, val_share)
        windows = [
            window
            for window in patching.windows(scene.geobox.width, scene.geobox.height)
            if painter.classes_in(window)
        ]
        patches, counts = [], np.zeros(256, np.int64)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            make = partial(cut, scene, painter, addition, patching.size, validation)
            for done, made in enumerate(pool.map(make, windows), start=1):
                if made is not None:
                    patches.append(made[0])
                    counts += made[1]
                progress(done, len(windows))
        if not patches:
            raise DataError(f"no valid pixel of {scene.path} lies in a polygon")
        addition.complete(classes, patches)
    return Prepared(
        classes=classes,
        patches={split: sum(p.split == split for p in patches) for split in ("train", "val")},
        pixels={c.name: int(counts[c.id]) for c in classes},
        skipped=labels.problems,
        notes=(*notes, *([addition.note] if addition.note else [])),
    )


def _read(
    scene: Scene,
    path: Path,
    field: str,
    layer: str | None,
    area: Labels | None,
    *,
    update: bool,
) -> tuple[Labels, list[str]]:
    """Return the labels on a scene, and notes for the user. Raises DataError."""
    if not update:
        return read_labels(path, scene.geobox, field=field, layer=layer), [*scene.notes]
    found = read_corrected(path, scene.geobox, field=field, layer=layer, area=area)
    if not len(found.labels) and area is None:
        raise DataError(
            f"no polygon of {path} was drawn or changed by hand, and without --area it is not "
            "known what was looked at; give the area"
        )
    notes = [*scene.notes, found.note, *found.labels.problems]
    return replace(found.labels, problems=()), notes


def class_list(target: Path, names: Iterable[str]) -> tuple[LabelClass, ...]:
    """Return background, other classes of `target`, then new ones in alphabetical order.

    Raises:
        DataError: a name that no class can have, or two that differ by case only.
    """
    classes = [LabelClass(0, BACKGROUND, (0, 0, 0))]
    if (table := target / "classes.csv").is_file():
        classes = [*read_class_list(table)]
    known = [item.name for item in classes]
    known += sorted(set(names) - set(known))
    for name in known:
        if fault := name_problem(name):
            raise DataError(f"the class name {name!r:.80} {fault}")
    folded = [name.casefold() for name in known]
    if twins := [name for name in known if folded.count(name.casefold()) > 1]:
        raise DataError(f"classes {twins[0]!r} and {twins[1]!r} differ by case only; rename one")
    if len(known) > IGNORE:
        raise DataError(f"{len(known)} classes; at most {IGNORE} are possible: is the field right?")
    new = [LabelClass(i, known[i], class_color(i)) for i in range(len(classes), len(known))]
    return (*classes, *new)


def choose_squares(scene: Scene, painter: Painter, side: int, share: float) -> frozenset[Square]:
    """Choose squares for validation: about `share` of the labeled ones, at most half of them.

    Classes in several squares are put into both splits, rarest first.
    """
    if share == 0:
        return frozenset()
    contents = {}
    for row in range(-(-scene.geobox.height // side)):
        for column in range(-(-scene.geobox.width // side)):
            if found := painter.classes_in(Window(column * side, row * side, side, side)):
                contents[row, column] = found
    if len(contents) < 2:
        raise DataError(
            f"the labels lie in one square of {side} px, but training and validation need "
            "one each; give a smaller --patch, or --val-share 0 if other scenes are for validation"
        )
    order = list(contents)
    np.random.default_rng(0).shuffle(order)
    by_class = {c: [square for square in order if c in contents[square]] for c in range(IGNORE)}
    most = len(order) // 2
    chosen: list[Square] = []
    for squares in sorted(filter(None, by_class.values()), key=len):
        if len(squares) > 1 and not set(squares) & set(chosen) and len(chosen) < most:
            chosen.append(squares[0])
    others = [square for square in order if square not in chosen]
    chosen += others[: max(1, round(share * len(order))) - len(chosen)]
    return frozenset(chosen[:most] if len(chosen) > most else chosen)


def cut(
    scene: Scene,
    painter: Painter,
    addition: Addition,
    side: int,
    validation: frozenset[Square],
    window: Window,
) -> tuple[Patch, NDArray[np.int64]] | None:
    """Write one patch and count its pixels by class; None if none is labeled."""
    pixels, mask = scene.read(window), painter.paint(window)
    rows = np.arange(window.row_off, window.row_end) // side
    columns = np.arange(window.col_off, window.col_end) // side
    in_val = np.array([[(r, c) in validation for c in np.unique(columns)] for r in np.unique(rows)])
    held_out = in_val[np.ix_(rows - rows[0], columns - columns[0])]
    is_val = bool(held_out[window.height // 2, window.width // 2])
    mask[(held_out != is_val) | ~pixels.valid] = IGNORE
    counts = np.bincount(mask.ravel(), minlength=256)
    if counts[IGNORE] == mask.size:
        return None
    group, split = addition.group, "val" if is_val else "train"
    patch = Patch(group, patch_name(group, window), split)
    image = np.ascontiguousarray(pixels.image.transpose(1, 2, 0))
    write_patch(addition.staging, patch, image, mask)
    return patch, counts


def box(window: Window) -> shapely.Polygon:
    """Return the outline of a window, px."""
    return shapely.box(window.col_off, window.row_off, window.col_end, window.row_end)
