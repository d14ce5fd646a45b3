"""Patches from the published iSAID data set, with NumPy and Pillow only.

iSAID (Waqas Zamir et al., CVPR workshops 2019) labels the images of DOTA with colors:
`P0003.png` and `P0003_instance_color_RGB.png`, in folders `train` and `val`, side by side or in
`images` and `Semantic_masks`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from geoseg.classes import ISAID, ISAID_MASK_COLORS
from geoseg.datasets.collection import check_complete
from geoseg.datasets.layout import (
    SPLIT_COLUMNS,
    Patch,
    Patching,
    Prepared,
    patch_name,
    read_table,
    refuse,
    write_classes,
    write_patch,
    write_split,
)
from geoseg.errors import DataError

MASK_SUFFIX = "_instance_color_RGB"
SPLITS = ("train", "val")
GROUP = "isaid"
ROWS_AT_ONCE = 1024
"""Rows of a mask that are converted at once; bounds the memory."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its color mask."""

    split: str
    name: str
    image: Path
    mask: Path


def prepare_isaid(
    source: Path,
    target: Path,
    patching: Patching,
    *,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Cut iSAID into patches; patches that are up to date are not written again.

    Images smaller than a patch are not padded; training does that.

    Args:
        skip_bad: leave out images that cannot be used.
        workers: threads; None = one a core.
        progress: called with images done and in all.

    Raises:
        DataError: no images, or images that cannot be used: unreadable, without a mask, of
            another size than their mask, or with a color that is not iSAID's; or `target` has
            patches of other images.
        OutputError: `target` cannot be written.
    """
    if others := other_groups(target):
        raise DataError(
            f"{target} holds patches of other images ({others[0]}); iSAID has class ids of its "
            "own, so choose another folder"
        )
    pairs, problems = find_pairs(source)
    if not pairs:
        detail = f": {problems[0]}" if problems else ""
        raise DataError(
            f"{source} has no pair of NAME.png and NAME{MASK_SUFFIX}.png under train or val{detail}"
        )
    total = len(pairs) + len(problems)
    patches: list[Patch] = []
    counts = np.zeros(len(ISAID), np.int64)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        jobs = {pool.submit(cut, pair, target, patching): pair for pair in pairs}
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                try:
                    made, pixels = job.result()
                except DataError as error:
                    problems.append(str(error))
                else:
                    patches += made
                    counts += pixels
                progress(done, len(pairs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    problems.sort()
    if problems and not skip_bad:
        raise refuse(problems, total, "images")
    if not patches:
        raise refuse(problems, total, "images")
    patches.sort(key=lambda patch: (patch.split, patch.name))
    write_classes(target, ISAID)
    write_split(target, patches)
    return Prepared(
        classes=ISAID,
        patches={split: sum(p.split == split for p in patches) for split in SPLITS},
        pixels={c.name: int(counts[c.id]) for c in ISAID},
        skipped=tuple(problems),
    )


def other_groups(target: Path) -> list[str]:
    """Return groups in `target` other than iSAID; DataError for an incomplete folder."""
    check_complete(target)
    if not (table := target / "split.csv").is_file():
        return []
    return sorted({row["group"] for row in read_table(table, SPLIT_COLUMNS)} - {GROUP})


def find_pairs(source: Path) -> tuple[list[Pair], list[str]]:
    """Return images with their masks, and a sentence for every unpaired file."""
    pairs, problems = [], []
    for split in SPLITS:
        files: dict[str, Path] = {}
        for path in sorted((source / split).rglob("*.png")):
            if path.stem in files:
                problems.append(f"{path} and {files[path.stem]} have the same name")
            files[path.stem] = path
        # Other instance masks have a color for each object, not for each class.
        images = {stem for stem in files if "_instance_" not in stem}
        masks = {s.removesuffix(MASK_SUFFIX) for s in files if s.endswith(MASK_SUFFIX)}
        problems += [f"{files[name]} has no {name}{MASK_SUFFIX}.png" for name in images - masks]
        problems += [
            f"{files[name + MASK_SUFFIX]} has no {name}.png" for name in sorted(masks - images)
        ]
        pairs += [
            Pair(split, name, files[name], files[name + MASK_SUFFIX])
            for name in sorted(images & masks)
        ]
    return pairs, problems


def cut(pair: Pair, target: Path, patching: Patching) -> tuple[list[Patch], NDArray[np.int64]]:
    """Write the patches of an image, unless all are newer than the image and its mask.

    Returns:
        The patches of the image, and their pixels by class (C,).
    """
    with open_image(pair.image) as image, open_image(pair.mask) as mask:
        if image.size != mask.size:
            raise DataError(
                f"{pair.image} is {image.width}×{image.height} px, its mask "
                f"{mask.width}×{mask.height}"
            )
        windows = {
            Patch(GROUP, patch_name(pair.name, window), pair.split): window
            for window in patching.windows(*image.size)
        }
        newest = max(path.stat().st_mtime for path in (pair.image, pair.mask))
        if all(is_newer(target / patch.mask, newest) for patch in windows):
            return list(windows), sum_counts(target / patch.mask for patch in windows)
        if mask.mode not in ("RGB", "RGBA", "P"):
            raise DataError(f"{pair.mask} has mode {mask.mode}; iSAID's masks are colored")
        pixels, colors = decode_rgb(image, pair.image), decode_rgb(mask, pair.mask)
    ids = ids_of_colors(colors, pair.mask)
    counts = np.zeros(len(ISAID), np.int64)
    for patch, window in windows.items():
        rows, columns = window.slices
        write_patch(target, patch, pixels[rows, columns], ids[rows, columns])
        counts += np.bincount(ids[rows, columns].ravel(), minlength=len(ISAID))
    return list(windows), counts


def is_newer(path: Path, time: float) -> bool:
    """Whether a file exists and was modified at `time` or later."""
    return path.is_file() and path.stat().st_mtime >= time


def open_image(path: Path) -> Image.Image:
    """Open an image; DataError if that is impossible."""
    try:
        return Image.open(path)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def decode_rgb(picture: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Decode an 8-bit image to RGB (H,W,3); DataError if it has another depth or is damaged."""
    if picture.mode not in ("L", "P", "RGB", "RGBA"):
        raise DataError(f"{path} has mode {picture.mode}; an 8-bit picture is needed")
    try:
        return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow's PNG reader raises SyntaxError
        raise DataError(f"{path} is damaged: {error}") from error


def ids_of_colors(colors: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """Map iSAID's colors (H,W,3) to class ids (H,W); DataError for any other color."""
    known = pack_rgb(np.array(list(ISAID_MASK_COLORS.values()), np.uint8))
    order = np.argsort(known)
    ids = np.empty(colors.shape[:2], np.uint8)
    for top in range(0, len(colors), ROWS_AT_ONCE):
        codes = pack_rgb(colors[top : top + ROWS_AT_ONCE])
        position = np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)
        found = order[position]
        if (wrong := known[found] != codes).any():
            row, column = np.argwhere(wrong)[0]
            color = tuple(int(v) for v in colors[top + row, column])
            raise DataError(
                f"{path} has the color {color}, which iSAID does not use, at column {column}, "
                f"row {top + row}"
            )
        ids[top : top + ROWS_AT_ONCE] = found
    return ids


def pack_rgb(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Pack colors (...,3) to integers (...)."""
    red, green, blue = np.moveaxis(colors.astype(np.uint32), -1, 0)
    return (red << 16) | (green << 8) | blue


def sum_counts(masks: Iterable[Path]) -> NDArray[np.int64]:
    """Count the pixels by class (C,) of stored masks."""
    counts = np.zeros(len(ISAID), np.int64)
    for path in masks:
        with open_image(path) as mask:
            counts += np.bincount(np.asarray(mask).ravel(), minlength=len(ISAID))
    return counts
