"""What a person looks at: predictions beside their images, and the confusion matrix."""

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
from geoseg.datasets.layout import write_whole
from geoseg.train.metrics import Scores

FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
)
"""Of Linux, macOS and Windows; Pillow looks in the folders where they keep theirs."""
SIZE = 13
UNKNOWN = "\uffff"
"""No font has it: it is drawn as what stands for a missing letter."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font() -> Font:
    """The first of FONTS that is there, else Pillow's own, which knows English letters only."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, SIZE)
        except OSError:
            continue
    return ImageFont.load_default(SIZE)


def legible(text: str, instead: str) -> str:
    """`text`, its letters without their accents where the font lacks those, else `instead`."""
    if all(map(is_drawn, text)):
        return text
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return plain if all(map(is_drawn, plain)) else instead


@cache
def is_drawn(letter: str) -> bool:
    return letter.isspace() or bytes(font().getmask(letter)) != bytes(font().getmask(UNKNOWN))


def width(text: str) -> int:
    """Of the text when drawn, px."""
    return int(font().getlength(text)) + 1


PANE = 384
"""Longest side of a pane, px."""
GAP = 8
LINE = 20
"""Height of a line of text, px."""
KEY = 19
"""Room for a colour of the legend before its name, px."""
VEIL = 0.55
"""Opacity of a class's colour over the image."""
CELL = 44
"""Side of a field of the confusion matrix, px."""
CAPTION = "rows: truth, columns: prediction; percent of the true pixels"

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Image (H,W,3), truth and prediction (H,W)."""
NEAREST = Image.Resampling.NEAREST


def shown_name(name: str, class_id: int) -> str:
    """The class's name in letters that can be drawn."""
    return legible(name, f"class {class_id}")


def sample_sheet(samples: Sequence[Sample], classes: Sequence[LabelClass]) -> Image.Image:
    """A row per sample: image, truth and prediction, and below a legend."""
    colors = np.zeros((256, 3), np.float32)
    for item in classes:
        colors[item.id] = item.color
    rows = [
        [
            fitted(pane)
            for pane in (image, tinted(image, truth, colors), tinted(image, found, colors))
        ]
        for image, truth, found in samples
    ]
    present = {int(i) for _, truth, found in samples for i in np.union1d(truth, found)}
    sheet_width = 3 * PANE + 4 * GAP
    legend = lines_of([c for c in classes if c.id in present and c.id != 0], sheet_width)
    height = LINE + sum(row[0].height + GAP for row in rows) + LINE * len(legend)
    sheet = Image.new("RGB", (sheet_width, height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, title in enumerate(("image", "truth (dark: not labelled)", "prediction")):
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
            draw.rectangle(box, item.color, outline="grey")
            name = shown_name(item.name, item.id)
            draw.text((left + KEY, top + LINE * y), name, "black", font())
            left += KEY + width(name) + 2 * GAP
    return sheet


def lines_of(classes: Sequence[LabelClass], room: int) -> list[list[LabelClass]]:
    """The legend's lines, as many classes in each as fit into `room` px."""
    lines: list[list[LabelClass]] = []
    left = room
    for item in classes:
        taken = KEY + width(shown_name(item.name, item.id)) + 2 * GAP
        if left + taken > room:
            lines.append([])
            left = GAP
        lines[-1].append(item)
        left += taken
    return lines


def tinted(
    image: NDArray[np.uint8], ids: NDArray[np.uint8], colors: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Classes in colour over the grey image, background bare, unlabelled pixels dark."""
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float32)[..., None]
    drawn = np.where((ids == 0)[..., None], grey, grey * (1 - VEIL) + colors[ids] * VEIL)
    return np.where((ids == IGNORE)[..., None], grey * 0.3, drawn).astype(np.uint8)


def fitted(pixels: NDArray[np.uint8]) -> Image.Image:
    """As a picture no larger than a pane; small ones are enlarged by a whole number."""
    picture = Image.fromarray(pixels)
    if (factor := PANE // max(picture.size)) > 1:
        return picture.resize((picture.width * factor, picture.height * factor), NEAREST)
    picture.thumbnail((PANE, PANE), Image.Resampling.BOX)
    return picture


def confusion_picture(scores: Scores) -> Image.Image:
    """Rows are the truth, columns the prediction; fields show percent of the row."""
    names = [shown_name(row.name, i) for i, row in enumerate(scores.classes)]
    counts = np.array(scores.confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side, margin = CELL * len(names), max(map(width, names)) + 2 * GAP
    size = (margin + max(side, width(CAPTION)) + GAP, margin + side + 2 * LINE)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(names):
        center = margin + CELL * i + CELL // 2
        draw.text((margin - GAP, center), name, "black", font(), anchor="rm")
        label = Image.new("RGB", (margin - GAP, LINE), "white")
        ImageDraw.Draw(label).text((0, LINE // 2), name, "black", font(), anchor="lm")
        sheet.paste(label.rotate(90, expand=True), (center - LINE // 2, 0))
    for row, column in np.ndindex(shares.shape):
        share = shares[row, column]
        left, top = margin + CELL * column, margin + CELL * row
        # Square roots, so that small confusions are seen.
        ink = np.sqrt(share)
        color = tuple(int(255 - ink * (255 - dark)) for dark in (8, 48, 107))
        draw.rectangle((left, top, left + CELL - 2, top + CELL - 2), color)
        if share >= 0.0005:
            text = f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"
            place = (left + CELL // 2, top + CELL // 2)
            draw.text(place, text, "white" if ink > 0.6 else "black", font(), anchor="mm")
    draw.text((margin, margin + side + GAP), CAPTION, "black", font())
    return sheet


def write_picture(path: Path, picture: Image.Image) -> None:
    """As PNG, complete or not at all."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    write_whole(path, content.getvalue())
