"""geo-inference: TorchScript, from 8-bit pixels to probabilities; its windows overlap by half."""

import sys
from pathlib import Path

from geo_inference.geo_inference import GeoInference


def main(scene: str, exports: str, folder: str, tile_size: str, _overlap: str) -> None:
    infer = GeoInference(
        model=str(Path(exports) / "softmax.pt"),
        work_dir=folder,
        mask_to_vec=True,
        device="cpu",
        num_classes=len((Path(exports) / "classes.txt").read_text().split()),
    )
    infer(inference_input=scene, patch_size=int(tile_size))


if __name__ == "__main__" and sys.argv[1:]:
    main(*sys.argv[1:])
