"""mmsegmentation's RSInferencer: a BaseModel whose test_step answers with class maps; no polygons.

`mmcv.ops` is a stand-in: mmcv-lite lacks the compiled operators, which mmseg imports for losses and
heads that are not used here.
"""

import sys
import types
from pathlib import Path

import torch
from mmengine import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData

sys.modules["mmcv.ops"] = types.ModuleType("mmcv.ops")
sys.modules["mmcv.ops"].__getattr__ = lambda name: None

from mmseg.apis import RSImage, RSInferencer  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402


class Segmentor(BaseModel):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.network = torch.jit.load(path)
        pipeline = [{"type": "LoadImageFromNDArray"}, {"type": "PackSegInputs"}]
        self.cfg = Config({"test_pipeline": pipeline})

    def forward(
        self, inputs: list[torch.Tensor], data_samples: object, mode: str
    ) -> list[SegDataSample]:
        classes = self.network(torch.stack(inputs)).argmax(dim=1, keepdim=True)
        return [SegDataSample(pred_sem_seg=PixelData(data=item)) for item in classes]


def main(scene: str, exports: str, folder: str, tile_size: str, overlap: str) -> None:
    init_default_scope("mmseg")
    infer = RSInferencer.from_model(Segmentor(Path(exports) / "logits.pt").eval())
    window, stride = int(tile_size), int(tile_size) - int(overlap)
    output = str(Path(folder) / "classes.tif")
    infer.run(RSImage(scene), (window, window), (stride, stride), output_path=output)


if __name__ == "__main__" and sys.argv[1:]:
    main(*sys.argv[1:])
