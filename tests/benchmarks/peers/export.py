"""In geoseg's own environment: the scene, the truth, and the files that the peers load.

    python export.py SCENE FOLDER SIZE TILE_SIZE OVERLAP

Every export takes pixels on its tool's scale and answers at full resolution, (N,C,H,W).
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import rasterio
import torch
import torch.nn.functional as F
from rasterio.windows import Window
from torch import Tensor, nn

from geoseg import load_model
from geoseg.geo.raster.scene import Scene
from geoseg.model.engines.backends import export_onnx
from geoseg.model.segnext import SegNeXt


class FullSize(nn.Module):
    """SegNeXt as its authors wrote it, with normalisation and upsampling."""

    def __init__(self, model: SegNeXt, scale: float = 1, softmax: bool = False) -> None:
        super().__init__()
        self.model, self.softmax = model, softmax
        mean, std = torch.tensor(model.metadata.mean), torch.tensor(model.metadata.std)
        self.register_buffer("mean", mean[:, None, None] / scale)
        self.register_buffer("std", std[:, None, None] / scale)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model((x.float() - self.mean) / self.std)
        logits = F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)
        return logits.softmax(dim=1) if self.softmax else logits


def cut(path: str, target: Path, size: int) -> Tensor:
    """The window in the middle of a scene, written without loss; as a tensor (1,3,size,size)."""
    with rasterio.open(path) as file:
        left, top = (file.width - size) // 2, (file.height - size) // 2
        if min(left, top) < 0:
            raise SystemExit(f"{path} has {file.width} × {file.height} px, --size is {size}")
        window = Window(left, top, size, size)
        pixels = file.read((1, 2, 3), window=window)
        # The peers copy this profile to their class rasters: JPEG would spoil those.
        profile = {"driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": "uint8"}
        profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
        profile |= {"crs": file.crs, "transform": file.window_transform(window)}
        profile |= {"photometric": "rgb"}
    with rasterio.open(target, "w", **profile) as file:
        file.write(pixels)
    return torch.from_numpy(pixels)[None]


def main(scene: str, folder: Path, size: int, tile_size: int, overlap: int) -> None:
    model = load_model()
    names = [item.name for item in model.metadata.classes]
    (folder / "classes.txt").write_text("\n".join(names))
    pixels = cut(scene, folder / "scene.tif", size)
    (folder / "gsd.txt").write_text(str(Scene.open(str(folder / "scene.tif")).geobox.gsd or ""))
    np.save(folder / "truth.npy", FullSize(model)(pixels).argmax(dim=1)[0].byte().numpy())

    warnings.simplefilter("ignore")  # tracing: the loops over stages and steps are constant
    tile = torch.zeros(1, 3, tile_size, tile_size)
    for name, softmax in (("logits", False), ("softmax", True)):
        traced = torch.jit.trace(FullSize(model, softmax=softmax), tile)
        traced.save(str(folder / f"{name}.pt"))

    proto = onnx.load_from_string(export_onnx(FullSize(model, 255, softmax=True), tile.shape))
    settings = {
        "model_type": "Segmentor",
        "class_names": {str(number): name for number, name in enumerate(names)},
        "tiles_overlap": 100 * overlap / tile_size,
        "resolution": 0,  # the scene's own
        "seg_thresh": 0,  # the likeliest class, however unsure
        "seg_small_segment": 0,
    }
    for key, value in settings.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(proto, folder / "softmax.onnx")


if __name__ == "__main__":
    with torch.inference_mode():
        main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
