"""Models whose answer is known, and scenes for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from rasterio.transform import Affine
from torch import nn

from geoseg.classes import ISAID
from geoseg.model.metadata import Metadata

TRANSFORM = Affine(0.5, 0.0, 448_000.0, 0.0, -0.5, 5_412_000.0)


class Colors(nn.Module):
    """Class 14 where red leads, 9 where green does, 1 where blue does, else background."""

    metadata = Metadata("T", ISAID)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = F.avg_pool2d(x, 8)
        logits = means.new_full((len(x), 16, *means.shape[2:]), -9.0)
        logits[:, 0] = 1.0
        for channel, class_id in enumerate((14, 9, 1)):
            others = means.sum(dim=1) - means[:, channel]
            logits[:, class_id] = 3 * means[:, channel] - others
        return logits


def write_discs(path: Path, height: int, width: int, seed: int = 5, **profile: object) -> Path:
    """Coloured discs on grey, with a triangle of nodata; in UTM."""
    rng = np.random.default_rng(seed)
    image = np.full((3, height, width), 110, np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(60):
        row, column, radius = rng.integers(height), rng.integers(width), rng.integers(5, 40)
        inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        image[:, inside] = 60
        image[rng.integers(3), inside] = 220
    image[:, rows + columns < 130] = 0
    common = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8"}
    common |= {"crs": "EPSG:32633", "transform": TRANSFORM, "nodata": 0}
    with rasterio.open(path, "w", **(common | profile)) as file:
        file.write(image)
    return path
