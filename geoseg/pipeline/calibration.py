"""Tiles on which quantization measures activations, from scenes or from a training set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoseg.datasets.collection import check_complete
from geoseg.datasets.images import read_image
from geoseg.datasets.layout import SPLIT_COLUMNS, Patching, read_table
from geoseg.errors import DataError
from geoseg.geo.raster.resampled import ResampledScene, suitable_gsd
from geoseg.geo.raster.scene import Scene
from geoseg.model.metadata import Metadata
from geoseg.tiling.grid import ALIGN

SIDE = 512
"""Side of a tile, px; smaller images give what they have."""
LEAST_SIDE = 64
"""Smaller ones are left out."""
LEAST_VALID = 0.5
"""Share of a tile's pixels that hold data."""

Pixels = tuple[NDArray[np.uint8], NDArray[np.bool_]]


def calibration_tiles(
    sources: Sequence[str | Path], metadata: Metadata, count: int
) -> list[NDArray[np.uint8]]:
    """Return tiles (3,H,W), about as many of each source, drawn at random but always the same.

    Pixels without data have the mean of the weights, as in a prediction.

    Args:
        sources: scenes, and folders of training sets, of which the split train is taken.
        count: of tiles, at most.

    Raises:
        SceneError, DataError: a source cannot be read, or there is no tile with data.
    """
    rng, found = np.random.default_rng(0), list[NDArray[np.uint8]]()
    for done, source in enumerate(sources):
        share = -(-(count - len(found)) // (len(sources) - done))
        folder = Path(source)
        pixels = of_folder(folder, rng) if folder.is_dir() else of_scene(source, metadata, rng)
        found += islice(usable(pixels, metadata), share)
    if not found:
        names = ", ".join(map(str, sources))
        raise DataError(
            f"{names}: no tile of at least {LEAST_SIDE} px a side is at least half full of data"
        )
    return found


def usable(tiles: Iterator[Pixels], metadata: Metadata) -> Iterator[NDArray[np.uint8]]:
    """Yield those that are large and full enough, cut to multiples of ALIGN."""
    fill = np.array(metadata.mean).round().clip(0, 255).astype(np.uint8)
    for image, valid in tiles:
        height, width = (side // ALIGN * ALIGN for side in valid.shape)
        part, known = image[:, :height, :width].copy(), valid[:height, :width]
        if min(height, width) >= LEAST_SIDE and known.mean() >= LEAST_VALID:
            part[:, ~known] = fill[:, None]
            yield part


def of_scene(path: str | Path, metadata: Metadata, rng: np.random.Generator) -> Iterator[Pixels]:
    """Yield tiles of a scene at the pixel size of a prediction, in random order."""
    with closing(Scene.open(str(path))) as scene:
        gsd = suitable_gsd(scene.geobox.gsd, metadata.gsd_range)
        view = ResampledScene.of(scene, gsd=gsd, scale=metadata.scale)
        windows = Patching(SIDE, 0).windows(view.geobox.width, view.geobox.height)
        for i in rng.permutation(len(windows)):
            pixels = view.read(windows[i])
            yield pixels.image, pixels.valid


def of_folder(folder: Path, rng: np.random.Generator) -> Iterator[Pixels]:
    """Yield the middles of a training set's images, in random order."""
    check_complete(folder)
    rows = read_table(folder / "split.csv", SPLIT_COLUMNS)
    names = [row["image"] for row in rows if row["split"] == "train"]
    for i in rng.permutation(len(names)):
        picture = read_image(folder / names[i])
        middle = tuple(
            slice(max(0, (side - SIDE) // 2), (side + SIDE) // 2) for side in picture.valid.shape
        )
        yield picture.image[middle].transpose(2, 0, 1), picture.valid[middle]
