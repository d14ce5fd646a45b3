"""Figures: sheets of predictions beside their images, and the confusion matrix."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from geoseg.classes import IGNORE, LabelClass
from geoseg.datasets.layout import atomic_write
from geoseg.train.metrics import Scores

FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
)
"""Common fonts of Linux, macOS and Windows; Pillow searches their font folders."""
SIZE = 13
"""Size of the letters, px."""
UNKNOWN = "\uffff"
"""A code point of no font: it is drawn as the glyph for missing letters."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font() -> Font:
    """Return the first of FONTS that exists, else Pillow's own, which has ASCII letters only."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, SIZE)
        except OSError:
            continue
    return ImageFont.load_default(SIZE)


def legible(text: str, instead: str) -> str:
    """Return `text`, without accents if the font lacks them, else `instead`."""
    if all(map(is_drawn, text)):
        return text
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return plain if all(map(is_drawn, plain)) else instead


@cache
def is_drawn(letter: str) -> bool:
    """Whether the font has the letter."""
    return letter.isspace() or bytes(font().getmask(letter)) != bytes(font().getmask(UNKNOWN))


def width(text: str) -> int:
    """Return the width of the drawn text, px."""
    return int(font().getlength(text)) + 1


PANE = 384
"""Longest side of a pane, px."""
GAP = 8
"""Space around panes, px."""
LINE = 20
"""Height of a line of text, px."""
SWATCH = 19
"""Width of the color swatch before a name in the legend, px."""
OVERLAY_OPACITY = 0.55
"""Opacity of class colors over the image."""
MATRIX_CELL = 44
"""Side of a cell of the confusion matrix, px."""
CAPTION = "rows: truth, columns: prediction; percent of the true pixels"

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Image (H,W,3), truth and prediction (H,W)."""
NEAREST = Image.Resampling.NEAREST


def shown_name(name: str, class_id: int) -> str:
    """Return the name of a class in letters that the font has."""
    return legible(name, f"class {class_id}")


def sample_sheet(samples: Sequence[Sample], classes: Sequence[LabelClass]) -> Image.Image:
    """Draw a row per sample (image, truth, prediction) and a legend below."""
    colors = np.zeros((256, 3), np.float32)
    for item in classes:
        colors[item.id] = item.color
    rows = [
        [
            fit_pane(pane)
            for pane in (image, overlay(image, truth, colors), overlay(image, found, colors))
        ]
        for image, truth, found in samples
    ]
    present = {int(i) for _, truth, found in samples for i in np.union1d(truth, found)}
    sheet_width = 3 * PANE + 4 * GAP
    legend = legend_lines([c for c in classes if c.id in present and c.id != 0], sheet_width)
    height = LINE + sum(row[0].height + GAP for row in rows) + LINE * len(legend)
    sheet = Image.new("RGB", (sheet_width, height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, title in enumerate(("image", "truth (dark: not labeled)", "prediction")):
        draw.text((GAP + i * (PANE + GAP), 2), title, "black", font())
    top = LINE
    for row in rows:
        for i, pane in enumerate(row):
            sheet.paste(pane, (GAP + i * (PANE + GAP), top))
        top += row[0].height + GAP
    for y, line in enumerate(legend):
        left = GAP
        for item in line:
            box = (left, top + LINE * y + 2, left + 13, top + LINE * y + 15)
            draw.rectangle(box, item.color, outline="gray")
            name = shown_name(item.name, item.id)
            draw.text((left + SWATCH, top + LINE * y), name, "black", font())
            left += SWATCH + width(name) + 2 * GAP
    return sheet


def legend_lines(classes: Sequence[LabelClass], room: int) -> list[list[LabelClass]]:
    """Break the legend into lines of at most `room` px."""
    lines: list[list[LabelClass]] = []
    left = room
    for item in classes:
        taken = SWATCH + width(shown_name(item.name, item.id)) + 2 * GAP
        if left + taken > room:
            lines.append([])
            left = GAP
        lines[-1].append(item)
        left += taken
    return lines


def overlay(
    image: NDArray[np.uint8], ids: NDArray[np.uint8], colors: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Blend class colors over the gray image; background stays gray, IGNORE becomes dark."""
    gray = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float32)[..., None]
    drawn = np.where(
        (ids == 0)[..., None], gray, gray * (1 - OVERLAY_OPACITY) + colors[ids] * OVERLAY_OPACITY
    )
    return np.where((ids == IGNORE)[..., None], gray * 0.3, drawn).astype(np.uint8)


def fit_pane(pixels: NDArray[np.uint8]) -> Image.Image:
    """Resize to fit a pane; small images are enlarged by a whole number."""
    picture = Image.fromarray(pixels)
    if (factor := PANE // max(picture.size)) > 1:
        return picture.resize((picture.width * factor, picture.height * factor), NEAREST)
    picture.thumbnail((PANE, PANE), Image.Resampling.BOX)
    return picture


def confusion_picture(scores: Scores) -> Image.Image:
    """Draw the confusion matrix: rows are the truth; cells show percent of the row."""
    names = [shown_name(row.name, i) for i, row in enumerate(scores.classes)]
    counts = np.array(scores.confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side, margin = MATRIX_CELL * len(names), max(map(width, names)) + 2 * GAP
    size = (margin + max(side, width(CAPTION)) + GAP, margin + side + 2 * LINE)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(names):
        center = margin + MATRIX_CELL * i + MATRIX_CELL // 2
        draw.text((margin - GAP, center), name, "black", font(), anchor="rm")
        label = Image.new("RGB", (margin - GAP, LINE), "white")
        ImageDraw.Draw(label).text((0, LINE // 2), name, "black", font(), anchor="lm")
        sheet.paste(label.rotate(90, expand=True), (center - LINE // 2, 0))
    for row, column in np.ndindex(shares.shape):
        share = shares[row, column]
        left, top = margin + MATRIX_CELL * column, margin + MATRIX_CELL * row
        # The square root makes small confusions visible.
        ink = np.sqrt(share)
        color = tuple(int(255 - ink * (255 - dark)) for dark in (8, 48, 107))
        draw.rectangle((left, top, left + MATRIX_CELL - 2, top + MATRIX_CELL - 2), color)
        if share >= 0.0005:
            text = f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"
            middle = (left + MATRIX_CELL // 2, top + MATRIX_CELL // 2)
            draw.text(middle, text, "white" if ink > 0.6 else "black", font(), anchor="mm")
    draw.text((margin, margin + side + GAP), CAPTION, "black", font())
    return sheet


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG atomically."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    atomic_write(path, content.getvalue())
