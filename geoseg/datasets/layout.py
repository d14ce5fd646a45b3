"""Layout of folders of labeled images, which `geoseg prepare` writes and `geoseg train` reads.

A folder has `split.csv` (group,name,split,image,mask; paths relative to the folder),
`classes.csv` (id,name,color) and the files they name. Masks are one-channel PNGs of class ids,
IGNORE where nothing is known. `split.csv` is written last: a folder with one is complete.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoseg.atomic import replace
from geoseg.classes import LabelClass
from geoseg.errors import DataError, OptionError, OutputError
from geoseg.tiling.grid import Window

SPLIT_COLUMNS = ("group", "name", "split", "image", "mask")
CLASS_COLUMNS = ("id", "name", "color")
BOX_COLUMNS = ("group", "name", "class", "x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
"""Columns of `boxes.csv`, the objects of evaluation: corners in pixels of the image."""
IGNORED = "ignore"
"""Class of boxes that do not count in scores."""


@dataclass(frozen=True, slots=True)
class Patching:
    """The grid by which images are cut into patches of one size."""

    size: int = 896
    """Side of a patch, px."""
    overlap: int = 384
    """Overlap of neighboring patches, px."""

    def __post_init__(self) -> None:
        if self.size < 32:
            raise OptionError(f"--patch is {self.size}; give at least 32")
        if not 0 <= self.overlap < self.size:
            raise OptionError(
                f"--overlap is {self.overlap}; give 0 or more and less than --patch {self.size}"
            )

    def windows(self, width: int, height: int) -> list[Window]:
        """Return windows row by row; the last of a row or column shifts inward to fit.

        An image smaller than a patch is one window.
        """
        return [
            Window(left, top, min(self.size, width), min(self.size, height))
            for top in self.starts(height)
            for left in self.starts(width)
        ]

    def starts(self, length: int) -> list[int]:
        """Return the offsets of the windows along an axis of `length` px."""
        last = max(0, length - self.size)
        return [*range(0, last, self.size - self.overlap), last]


@dataclass(frozen=True, slots=True)
class Patch:
    """One row of `split.csv`."""

    group: str
    name: str
    split: str
    """train or val."""

    @property
    def image(self) -> str:
        """Path of the image in the folder."""
        return f"images/{self.split}/{self.name}.png"

    @property
    def mask(self) -> str:
        """Path of the mask in the folder."""
        return f"masks/{self.split}/{self.name}.png"

    @property
    def row(self) -> tuple[str, ...]:
        """Values of `SPLIT_COLUMNS`."""
        return self.group, self.name, self.split, self.image, self.mask


@dataclass(frozen=True, slots=True)
class Prepared:
    """Summary of a preparation."""

    classes: tuple[LabelClass, ...]
    patches: dict[str, int]
    """Number of patches by split."""
    pixels: dict[str, int]
    """Number of labeled pixels by class name."""
    skipped: tuple[str, ...]
    """A sentence for each image or label that was left out."""
    notes: tuple[str, ...] = ()
    """Notices for the user."""

    @property
    def absent(self) -> list[str]:
        """Classes without a single pixel."""
        return [name for name, count in self.pixels.items() if count == 0]


def patch_name(name: str, window: Window) -> str:
    """Return the name of a patch, as mmsegmentation's converter: name_top_bottom_left_right."""
    return f"{name}_{window.row_off}_{window.row_end}_{window.col_off}_{window.col_end}"


def write_patch(
    folder: Path, patch: Patch, image: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> None:
    """Write image (H,W,3) and mask (H,W); a patch with a mask, the last file, is complete."""
    for name, pixels in ((patch.image, image), (patch.mask, mask)):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG", compress_level=3)
        atomic_write(folder / name, content.getvalue())


def write_split(folder: Path, patches: Iterable[Patch]) -> None:
    """Write `split.csv`, which completes the folder."""
    write_table(folder / "split.csv", SPLIT_COLUMNS, [patch.row for patch in patches])


def write_classes(folder: Path, classes: Sequence[LabelClass]) -> None:
    """Write `classes.csv`."""
    rows = [(str(c.id), c.name, "#" + bytes(c.color).hex()) for c in classes]
    write_table(folder / "classes.csv", CLASS_COLUMNS, rows)


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a CSV file; DataError if it is unreadable or lacks one of `columns`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            # Spreadsheets write semicolons where the comma is the decimal separator.
            separator = max(",;\t", key=head.count)
            reader = csv.DictReader(file, restval="", delimiter=separator)
            rows = list(reader)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise DataError(f"{path} lacks the column {missing[0]}; needed are {', '.join(columns)}")
    return rows


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file atomically."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    atomic_write(path, text.getvalue().encode())


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file atomically; OutputError if that is impossible."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def refuse(problems: Sequence[str], total: int, what: str) -> DataError:
    """Return the error for unusable data that may not be skipped."""
    shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" * (len(problems) > 3))
    return DataError(
        f"{len(problems)} of {total} {what} cannot be used: {shown}. "
        "Repair or remove them, or go on without them: --skip-bad"
    )
