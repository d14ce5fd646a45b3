"""Readers of images and masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from geoseg.errors import DataError, SceneError

MASK_MODES = ("L", "P", "1", "I", "I;16")
"""Pillow's modes of one integer channel; entries of a palette are ids."""
UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError, UnidentifiedImageError)
"""Errors of Pillow; its PNG reader raises SyntaxError."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as the model sees it in `geoseg predict`."""

    image: NDArray[np.uint8]
    """(H,W,3) red, green, blue."""
    valid: NDArray[np.bool_]
    """(H,W), False where the file declares nodata."""
    notes: tuple[str, ...] = ()
    """Conversions of the stored values, a sentence each."""


def read_image(path: Path) -> Picture:
    """Read an image of any kind that `geoseg predict` reads.

    Bands, stretch, palette and nodata are those of `geoseg.geo.raster.scene`, which is imported
    only if needed: 8-bit PNGs, gray or RGB, are read by Pillow, so training on them needs no GIS
    library. An undeclared collar is excluded from the stretch but stays valid: the mask says what
    is known of its pixels.

    Raises:
        DataError: unreadable, or not an image.
    """
    try:
        with Image.open(path) as picture:
            plain = holds_pixels(picture)
            if plain and (picture.format == "PNG" or not find_spec("rasterio")):
                image = np.array(picture.convert("RGB"))
                return Picture(image, np.ones(image.shape[:2], bool))
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # GDAL may read this format or size
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    if not find_spec("rasterio"):
        raise DataError(
            f"{path} is not an 8-bit gray or RGB image, and other kinds are read by rasterio, "
            "which is not installed: pip install geoseg"
        )
    try:
        return read_scene(path)
    except SceneError as error:
        raise DataError(str(error)) from error


def holds_pixels(picture: ImageFile.ImageFile) -> bool:
    """Whether 8-bit gray or RGB is stored as Pillow returns it, without transparency."""
    stored = picture.tile[0].args if picture.tile else None
    rawmode = stored[0] if isinstance(stored, tuple) else stored
    plain = picture.mode in ("L", "RGB") and "transparency" not in picture.info
    return plain and (picture.format == "JPEG" or rawmode == picture.mode)


def read_scene(path: Path) -> Picture:
    """Read an image as a scene; SceneError if that is impossible."""
    from geoseg.geo.raster.scene import Scene

    scene = Scene.open(str(path), collar="off")
    if scene.rescale is not None:
        scene.close()
        scene = replace(Scene.open(str(path)), collars=())
    try:
        pixels = scene.read(scene.geobox.extent)
        with scene.source.dataset() as dataset:
            count = dataset.count
    finally:
        scene.close()
    notes = []
    if scene.rescale is not None:
        notes.append(
            f"{scene.bands.dtype} pixels, stretched to 0-255 between each image's own 2nd and "
            "98th percentile, as predict does"
        )
    alpha = scene.bands.validity.alpha
    shown = sorted({*scene.bands.color, *([alpha] if alpha else [])})
    if len(shown) < count:
        used = ", ".join(map(str, dict.fromkeys(scene.bands.color)))
        notes.append(f"{count} bands, of which {used} are used")
    image = np.ascontiguousarray(pixels.image.transpose(1, 2, 0))
    return Picture(image, pixels.valid, tuple(notes))


def read_mask(path: Path) -> NDArray[np.integer]:
    """Read the ids of a mask (H,W) as stored.

    Raises:
        DataError: unreadable, or of several channels.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in MASK_MODES:
                raise DataError(
                    f"{path} has mode {picture.mode}; a mask is one channel of class ids, not of "
                    "colors: export the ids as an 8-bit PNG"
                )
            ids = np.array(picture)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    return ids.astype(np.uint8) if ids.dtype == bool else ids
