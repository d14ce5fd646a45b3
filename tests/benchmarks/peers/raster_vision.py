"""Raster Vision: sliding windows, smooth labels (the mean of the overlaps), a GeoJSON a class.

Two operators of torchvision are only declared: those in the registry's build need CUDA, and without
a declaration it cannot be imported. Nothing here calls them.
"""

import math
import sys
from pathlib import Path

import rasterio
import torch

declared = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from rastervision.core.data import (  # noqa: E402
    ClassConfig,
    PolygonVectorOutputConfig,
    SemanticSegmentationLabels,
)
from rastervision.pytorch_learner import (  # noqa: E402
    SemanticSegmentationGeoDataConfig,
    SemanticSegmentationLearner,
    SemanticSegmentationLearnerConfig,
    SemanticSegmentationSlidingWindowGeoDataset,
)


def main(scene: str, exports: str, folder: str, tile_size: str, overlap: str) -> None:
    names = (Path(exports) / "classes.txt").read_text().split()
    classes = ClassConfig(names=names, null_class=names[0])
    with rasterio.open(scene) as raster:
        rest = raster.width - int(tile_size)
    # As few windows as with the overlap that was asked for, but evenly spaced: else the last ones
    # hang over the edge, and the model sees black there.
    steps = max(1, math.ceil(rest / (int(tile_size) - int(overlap))))
    windows = SemanticSegmentationSlidingWindowGeoDataset.from_uris(
        image_uri=scene,
        class_config=classes,
        image_raster_source_kw={"allow_streaming": True},
        size=int(tile_size),
        stride=max(1, math.ceil(rest / steps)),
        normalize=False,
    )
    learner = SemanticSegmentationLearner(
        SemanticSegmentationLearnerConfig(
            data=SemanticSegmentationGeoDataConfig(class_config=classes, num_workers=0)
        ),
        model=torch.jit.load(Path(exports) / "logits.pt"),
        training=False,
    )
    labels = SemanticSegmentationLabels.from_predictions(
        windows.windows,
        learner.predict_dataset(windows, numpy_out=True, dataloader_kw={"batch_size": 1}),
        extent=windows.scene.extent,
        num_classes=len(classes),
        smooth=True,
    )
    labels.save(
        folder,
        windows.scene.raster_source.crs_transformer,
        classes,
        smooth_output=False,
        # Else outlines are opened by a disc, and drawn where the probability is above 1 / 16.
        vector_outputs=[
            PolygonVectorOutputConfig(class_id=i, threshold=0.5, denoise=0)
            for i in range(1, len(classes))
        ],
    )


if __name__ == "__main__" and sys.argv[1:]:
    main(*sys.argv[1:])
