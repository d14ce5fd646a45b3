"""Text in pictures, of any script that a font of the machine has."""

from __future__ import annotations

import unicodedata
from functools import cache

from PIL import ImageFont

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
