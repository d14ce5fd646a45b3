"""Patches with masks from images with boxes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.classes import IGNORE, ISAID, LabelClass, class_color, name_problem, read_class_list
from geoseg.datasets.box_masks import paint_boxes, polygon
from geoseg.datasets.boxes import Box, BoxedImage, read_boxes, translate
from geoseg.datasets.collection import Addition, adding
from geoseg.datasets.images import read_image
from geoseg.datasets.layout import (
    BOX_COLUMNS,
    IGNORED,
    Patch,
    Patching,
    Prepared,
    patch_name,
    read_table,
    refuse,
    write_patch,
    write_table,
)
from geoseg.errors import DataError
from geoseg.tiling.grid import Window

RUNS = 10
"""Images with consecutive names often overlap, so the validation split takes runs of consecutive
images: one from each of this many parts of the list."""
VISIBLE = 0.5
"""A box belongs to the patches that show this share of its area."""


def prepare_boxes(
    source: Path,
    target: Path,
    form: str,
    patching: Patching,
    *,
    group: str | None = None,
    renamed: Mapping[str, str] | None = None,
    classes: tuple[LabelClass, ...] | None = None,
    val_share: float = 0.1,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Cut images with boxes into patches with masks, which `paint_boxes` draws.

    Several sources can be prepared into one `target`, one after the other; a source that is
    prepared again replaces its own patches.

    Args:
        form: a key of `geoseg.datasets.boxes.FORMATS`.
        group: name of the images in `split.csv`; None = that of the source.
        renamed: class of the masks by class of the source; `ignore` excludes a class.
        classes: None = those of `target`, else iSAID's if it has all names, else those found.
        val_share: share of the images for validation, if the source has no split of its own.
        skip_bad: leave out images that cannot be used.
        progress: called with images done and in all.

    Raises:
        DataError: nothing to read, an unknown class, or images that cannot be used.
        OutputError: `target` cannot be written.
        InUseError: another preparation adds to it.
    """
    images, problems = read_boxes(source, form)
    names = sorted({box.name for image in images for box in image.boxes if not box.ignored})
    stems = patch_stems([image.path for image in images], source)
    splits = choose_splits(images, val_share)
    with adding(target, str(source), group or re.sub(r"\W+", "_", source.resolve().stem)) as new:
        class_names, classes = name_classes(names, renamed or {}, classes_of(target, classes))
        cutter = Cutter(new, patching, classes, class_names)
        for done, (image, split, name) in enumerate(zip(images, splits, stems, strict=True), 1):
            try:
                cutter.cut(image, split, name)
            except DataError as error:
                problems.append(str(error))
            progress(done, len(images))
        if problems and not (skip_bad and cutter.patches):
            raise refuse(sorted(problems), len(images) + len(problems), "images")
        boxes = [*other_boxes(target, new), *cutter.rows]
        write_table(new.staging / "boxes.csv", BOX_COLUMNS, boxes)
        new.complete(classes, cutter.patches)
    return Prepared(
        classes=classes,
        patches={each: sum(p.split == each for p in cutter.patches) for each in ("train", "val")},
        pixels={c.name: int(cutter.counts[c.id]) for c in classes},
        skipped=tuple(sorted(problems)),
        notes=tuple(filter(None, [new.note, *cutter.notes])),
    )


def classes_of(
    target: Path, wanted: tuple[LabelClass, ...] | None
) -> tuple[LabelClass, ...] | None:
    """Return the classes of a folder that has patches already, else `wanted`.

    Raises:
        DataError: both exist and differ.
    """
    if not (listed := target / "classes.csv").is_file():
        return wanted
    known = read_class_list(listed)
    if wanted is not None and [c.name for c in wanted] != [c.name for c in known]:
        raise DataError(
            f"the classes in {listed} are not those of --classes; leave that out, or choose "
            "another DST"
        )
    return known


class Cutter:
    """Cuts images into patches and collects what was written.

    Args:
        class_names: class by name in the source.
    """

    def __init__(
        self,
        target: Addition,
        patching: Patching,
        classes: Sequence[LabelClass],
        class_names: Mapping[str, str],
    ) -> None:
        self.target, self.patching, self.class_names = target, patching, class_names
        self.ids = {c.name: c.id for c in classes}
        self.counts = np.zeros(len(classes), np.int64)
        """(C,) labeled pixels by class."""
        self.patches: list[Patch] = []
        self.rows: list[tuple[str, ...]] = []
        """Rows of `boxes.csv`."""
        self.notes: dict[str, None] = {}

    def cut(self, image: BoxedImage, split: str, name: str) -> None:
        """Cut one image; DataError if it cannot be read."""
        picture = read_image(image.path)
        self.notes.update(dict.fromkeys(picture.notes))
        pixels = picture.image
        size = np.array(pixels.shape[1::-1] if image.relative else (1, 1))
        boxes = [as_class(box, self.class_names, size) for box in image.boxes]
        mask = paint_boxes(boxes, self.ids, pixels.shape[:2])
        mask[~picture.valid] = IGNORE
        for window in self.patching.windows(*pixels.shape[1::-1]):
            group, part = self.target.group, mask[window.slices]
            patch = Patch(group, patch_name(f"{group}_{name}", window), split)
            image_part = np.ascontiguousarray(pixels[window.slices])
            write_patch(self.target.staging, patch, image_part, part)
            self.counts += np.bincount(part[part != IGNORE], minlength=len(self.counts))
            self.rows += [box_row(patch, box) for box in boxes_in(boxes, window)]
            self.patches.append(patch)


def other_boxes(target: Path, addition: Addition) -> list[tuple[str, ...]]:
    """Return the rows of `boxes.csv` in `target` that belong to other groups."""
    if not (table := target / "boxes.csv").is_file():
        return []
    rows = read_table(table, BOX_COLUMNS)
    return [tuple(row[c] for c in BOX_COLUMNS) for row in rows if row["group"] != addition.group]


def name_classes(
    names: Sequence[str],
    renamed: Mapping[str, str],
    classes: tuple[LabelClass, ...] | None,
) -> tuple[dict[str, str], tuple[LabelClass, ...]]:
    """Map names of the source to class names or `ignore`; also return the classes.

    Raises:
        DataError: a name that no class has, or that no class can have.
    """
    if unknown := sorted(renamed.keys() - set(names)):
        raise DataError(f"no box has the class {unknown[0]!r}; found {', '.join(names) or 'none'}")
    wanted = {name: renamed.get(name, plain(name)) for name in names}
    known = {c.name for c in classes or ISAID}
    missing = sorted(name for name, new in wanted.items() if new not in known | {IGNORED})
    if not missing:
        return wanted, classes or ISAID
    if classes is not None:
        raise DataError(
            f"class {missing[0]!r} is not among {', '.join(sorted(known))}; "
            f"give --map {missing[0]}=CLASS, or --map {missing[0]}={IGNORED}"
        )
    found = sorted(set(wanted.values()) - {IGNORED, "background"})
    for name in found:
        if fault := name_problem(name):
            raise DataError(f"the class name {name!r:.80} {fault}, or give --map {name}=NAME")
    own = [LabelClass(0, "background", (0, 0, 0))]
    own += [LabelClass(i, name, class_color(i)) for i, name in enumerate(found, start=1)]
    return wanted, tuple(own)


def plain(name: str) -> str:
    """Return the name in the spelling of iSAID; DOTA writes `small-vehicle`."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def choose_splits(images: Sequence[BoxedImage], val_share: float) -> list[str]:
    """Return the split of each image: the source's own, or runs of images for validation."""
    if any(image.split == "val" for image in images):
        return [image.split or "train" for image in images]
    if val_share == 0:
        return ["train"] * len(images)
    if len(images) < 2:
        raise DataError(
            "one image cannot be for training and for validation; give --val-share 0 if other "
            "images are for validation"
        )
    parts = max(1, min(RUNS, round(len(images) * val_share)))
    splits = ["train"] * len(images)
    for part in range(parts):
        first, last = (len(images) * (part + i) // parts for i in (0, 1))
        length = max(1, round((last - first) * val_share))
        middle = (first + last - length) // 2
        splits[middle : middle + length] = ["val"] * length
    return splits


def as_class(box: Box, class_names: Mapping[str, str], size: NDArray[np.int_]) -> Box:
    """Return the box with its class name and in pixels: coordinates are multiplied by `size`."""
    name = class_names.get(box.name, IGNORED)
    return Box(name, box.outline * size, box.oriented, box.exact, box.ignored or name == IGNORED)


def boxes_in(boxes: Iterable[Box], window: Window) -> list[Box]:
    """Return the boxes that the window shows, in its coordinates."""
    frame = shapely.box(window.col_off, window.row_off, window.col_end, window.row_end)
    shapes = [polygon(box.outline) for box in boxes]
    visible = shapely.area(shapely.intersection(shapes, frame))
    enough = visible >= VISIBLE * shapely.area(shapes)
    return [
        translate(box, window.col_off, window.row_off)
        for box, here in zip(boxes, enough, strict=True)
        if here
    ]


def box_row(patch: Patch, box: Box) -> tuple[str, ...]:
    """Return a row of `boxes.csv`; exact outlines become their bounding boxes."""
    outline = box.outline
    if len(outline) != 4:
        (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
        outline = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    name = IGNORED if box.ignored else box.name
    return (patch.group, patch.name, name, *(f"{value:.1f}" for value in outline.ravel()))


def patch_stems(paths: Sequence[Path], source: Path) -> list[str]:
    """Return the stems of the files, prefixed with their folders where two files share one."""
    times = Counter(path.stem for path in paths)
    root = source if source.is_dir() else source.parent
    return [
        path.stem
        if times[path.stem] == 1
        else "_".join(path.relative_to(root).with_suffix("").parts)
        for path in paths
    ]
