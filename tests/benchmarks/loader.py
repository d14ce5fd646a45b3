"""Does the input pipeline keep up with the model?

Prints crops a second of the loader alone, by number of processes, and of the training step alone,
for one stage of a recipe:

    python tests/benchmarks/loader.py RECIPE --data DATA [--stage 0] [--seconds 20] [--device cpu]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from geoseg.model.devices import choose_device
from geoseg.native.malloc import keep_free_memory
from geoseg.train.crops import Crops, StagedBatches, hidden_by_group
from geoseg.train.dataset import LabeledFolder, inspect_items
from geoseg.train.initialization import initial_model
from geoseg.train.loss import partial_cross_entropy
from geoseg.train.module import SegmentationModule
from geoseg.train.recipe import Stage, load_recipe
from geoseg.train.trainer import resolve_precision


def timed(batches: Iterator[object], batch: int, seconds: float) -> float:
    """Crops a second, after the first batch."""
    next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += batch
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("--data", required=True)
    parser.add_argument("--stage", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    device = choose_device(options.device)
    if device.type == "cpu":
        keep_free_memory()
    recipe = resolve_precision(load_recipe(options.recipe, **{"data.root": options.data}), device)
    stage = recipe.stages[options.stage]
    data = LabeledFolder.open(recipe.data.root)
    items, counts, _ = inspect_items(data.split("train"))
    model, _ = initial_model(recipe, data.classes, None)
    crops = Crops(recipe, items, counts, model.metadata)
    endless = Stage(10**6, stage.batch, stage.crop, stage.scale)
    print(f"stage {options.stage}: batch {stage.batch}, crop {stage.crop}, {len(items)} images")

    for workers in sorted({0, 1, recipe.data.workers}):
        loader = DataLoader(crops, batch_sampler=StagedBatches([endless]), num_workers=workers)
        speed = timed(iter(loader), stage.batch, options.seconds)
        print(f"loader, {workers} processes: {speed:8.1f} crops/s")

    module = SegmentationModule(recipe, model, hidden_by_group(recipe, items, len(data.classes)))
    module.to(device).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6)
    dtype = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[
        recipe.precision
    ]
    content = next(iter(DataLoader(crops, batch_sampler=StagedBatches([endless]))))
    content = {name: tensor.to(device) for name, tensor in content.items()}
    stride = recipe.loss.stride

    def steps() -> Iterator[None]:
        while True:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = module(content["image"], stride)
                target = content["mask"][:, stride // 2 :: stride, stride // 2 :: stride]
                loss = partial_cross_entropy(
                    logits, target, content["hidden"], recipe.loss.hard_share
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            yield

    speed = timed(steps(), stage.batch, options.seconds)
    print(f"step on {device}, {recipe.precision}: {speed:8.1f} crops/s")


if __name__ == "__main__":
    main()
