"""geoai: `predict_geotiff`, which takes any module, then `raster_to_vector`.

Its `semantic_inference_on_geotiff` takes one as well, but computes the last row and column of
windows twice. `leafmap` is a stand-in: geoai imports it for maps and array files, not used here.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

sys.modules["leafmap"] = types.ModuleType("leafmap")

from geoai.inference import predict_geotiff  # noqa: E402
from geoai.utils import raster_to_vector  # noqa: E402


def main(scene: str, exports: str, folder: str, tile_size: str, overlap: str) -> None:
    raster = predict_geotiff(
        torch.jit.load(Path(exports) / "logits.pt"),
        scene,
        str(Path(folder) / "classes.tif"),
        tile_size=int(tile_size),
        overlap=int(overlap),
        batch_size=1,  # the least memory, and a CPU gains nothing from more
        num_classes=len((Path(exports) / "classes.txt").read_text().split()),
        output_dtype="uint8",
        output_nodata=255,
        preprocess_fn=lambda pixels: pixels,
        postprocess_fn=lambda logits: logits.argmax(axis=0).astype(np.uint8),
        device="cpu",
    )
    raster_to_vector(raster, str(Path(folder) / "classes.gpkg"))


if __name__ == "__main__" and sys.argv[1:]:
    main(*sys.argv[1:])
