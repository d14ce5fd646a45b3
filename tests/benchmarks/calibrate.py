"""Fit what a confidence means: a temperature and a bias of background, on held-out images.

    python tests/benchmarks/calibrate.py WEIGHTS DATA RECIPE OUT.safetensors [--scale 1.25 …]

Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017). Both become part of the last
convolution, so that inference does not change. Prints the expected calibration error (15 bins) of
the pixels that an object is predicted for, and of all, before and after. Fitted on the first half
of the val images and scored on the second; OUT gets the values of all of them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from geoseg.classes import IGNORE
from geoseg.model.checkpoint import save_checkpoint
from geoseg.model.load import load_model
from geoseg.train.dataset import LabeledFolder
from geoseg.train.recipe import Recipe, load_recipe

SAMPLES = 4000
"""Pixels of an image, at most."""
BINS = 15


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("weights")
    parser.add_argument("data", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", type=float)
    parser.add_argument("--gsd", type=float, nargs=2)
    parser.add_argument("--images", type=int, default=12, help="of a group, at most")
    parser.add_argument("--limits", type=json.loads, help="min_confidence, as JSON")
    parser.add_argument("--split", nargs="*", help="classes whose touching objects are split")
    parser.add_argument("--provenance")
    parser.add_argument("--license")
    parser.add_argument("--as-is", action="store_true", help="leave the last layer as it is")
    args = parser.parse_args()
    model = load_model(args.weights)
    metadata = replace(
        model.metadata,
        scale=args.scale or model.metadata.scale,
        gsd_range=tuple(args.gsd) if args.gsd else model.metadata.gsd_range,
        min_confidence=args.limits or model.metadata.min_confidence,
        split=model.metadata.split if args.split is None else tuple(args.split),
        provenance=args.provenance or model.metadata.provenance,
        license=args.license or model.metadata.license,
    )
    model.metadata = metadata
    if not args.as_is:
        parts = samples(model, LabeledFolder.open(args.data), load_recipe(args.recipe), args.images)
        first, second = map(joined, (parts[::2], parts[1::2]))
        values = fit(*first)
        show("before, second half", *second)
        show("after, second half", apply(second[0], values), second[1])
        values = fit(*joined(parts))
        print(f"temperature {1 / values[0].item():.3f}, bias of background {values[1].item():.3f}")
        last = model.decode_head.conv_seg
        with torch.no_grad():
            last.weight *= values[0]
            last.bias *= values[0]
            last.bias[0] += values[1]
    save_checkpoint(args.out, model, metadata)


Pairs = tuple[Tensor, Tensor]
"""Logits (N,C) and class ids (N,)."""


def joined(parts: list[Pairs]) -> Pairs:
    logits, targets = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(targets)


@torch.inference_mode()
def samples(
    model: torch.nn.Module, data: LabeledFolder, recipe: Recipe, images: int
) -> list[Pairs]:
    """Logits and truth at random labeled pixels of the val images."""
    metadata, torch_seed = model.metadata, torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(v)[:, None, None] for v in (metadata.mean, metadata.std))
    groups: dict[str, list] = {}
    for item in data.split("val"):
        groups.setdefault(item.group, []).append(item)
    found = []
    for name, items in groups.items():
        rules = recipe.data.groups.get(name)
        complete = None if rules is None else rules.complete
        for item in items[:: -(-len(items) // images)]:
            image, mask, _ = item.load()
            height, width = mask.shape
            pixels = (torch.from_numpy(image).permute(2, 0, 1).float() - mean) / std
            side = [round(n * metadata.scale) for n in (height, width)]
            shown = F.interpolate(pixels[None], side, mode="bilinear")
            shown = F.pad(shown, (0, -side[1] % 32, 0, -side[0] % 32))
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(shown).float()
            labeled = torch.from_numpy(
                (mask != IGNORE).nonzero()[0] * width + (mask != IGNORE).nonzero()[1]
            )
            chosen = labeled[torch.randint(len(labeled), (SAMPLES,), generator=torch_seed)]
            rows, columns = chosen // width, chosen % width
            grid = torch.stack(
                [
                    (columns + 0.5) * metadata.scale / shown.shape[3],
                    (rows + 0.5) * metadata.scale / shown.shape[2],
                ],
                dim=1,
            )
            at = F.grid_sample(logits, grid[None, None] * 2 - 1, align_corners=False)[0, :, 0].T
            target = torch.from_numpy(mask)[rows, columns].long()
            if complete is not None:
                known = torch.zeros(at.shape[1], dtype=torch.bool)
                known[[0, *complete]] = True
                kept = (target != 0) | known[at.argmax(dim=1)]
                at, target = at[kept], target[kept]
            found.append((at, target))
    return found


def apply(logits: Tensor, values: Tensor) -> Tensor:
    """Logits times values[0], and values[1] more for background."""
    return torch.cat([logits[:, :1] * values[0] + values[1], logits[:, 1:] * values[0]], dim=1)


def fit(logits: Tensor, target: Tensor) -> Tensor:
    """The values of the lowest cross-entropy."""
    values = torch.tensor([1.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(apply(logits, values), target)
        loss.backward()
        return loss

    optimizer.step(closure)
    return values.detach()


def show(name: str, logits: Tensor, target: Tensor) -> None:
    confidence, found = logits.softmax(dim=1).max(dim=1)
    right = (found == target).float()
    for what, chosen in (("objects", found > 0), ("all", found >= 0)):
        bins = (confidence[chosen] * BINS).long().clamp(max=BINS - 1)
        count = torch.bincount(bins, minlength=BINS).clamp(min=1)
        gap = torch.zeros(BINS).index_add_(0, bins, confidence[chosen] - right[chosen]) / count
        error = (gap.abs() * torch.bincount(bins, minlength=BINS)).sum() / chosen.sum()
        accuracy = right[chosen].mean().item()
        print(
            f"{name}, {what}: confidence {confidence[chosen].mean().item():.3f}, "
            f"right {accuracy:.3f}, ECE {error.item():.3f}"
        )


if __name__ == "__main__":
    main()
