"""Train as much as one GPU can in a few minutes: all images lie on it, crops are cut there.

    python tests/benchmarks/gpu_training.py pack RECIPE PACK     where the data is
    python tests/benchmarks/gpu_training.py train PACK FOLDER    where the GPU is

`pack` writes one file of recompressed images and masks, small enough to travel: of each group
as many as training would draw. `train` needs
torch, NumPy, Pillow, safetensors and PyYAML besides this checkout, trains for `--minutes`,
whatever number of steps that is, and writes a checkpoint every minute.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from geoseg.classes import IGNORE, ISAID
from geoseg.model.checkpoint import save_checkpoint
from geoseg.model.load import load_model
from geoseg.model.metadata import Metadata
from geoseg.train.box_scores import read_box_table
from geoseg.train.crops import MAX_BOXES, MIN_BOX_SIDE, hidden_classes
from geoseg.train.loss import distillation, pairwise, partial_cross_entropy, projection
from geoseg.train.recipe import GroupOptions, load_recipe

QUALITY = 55
"""Of the WebP that images travel as."""
FINE = 0.7
"""Images of groups that are shown smaller than this are packed at half of their size."""
PROJECTION, PAIRWISE = 0.5, 0.3
"""Weights of the losses for boxes, as in `lite2_aerial`."""
LOG_EVERY = 50
LARGEST = 1600
"""Images are cut into parts of at most this side, px."""


@dataclass(frozen=True)
class Part:
    """One image, or a part of one, as it travels."""

    group: str
    image: bytes
    mask: bytes
    labeled: int
    """Pixels of objects."""
    boxes: list[tuple[int, list[list[float]]]]
    """Class, and (4,2) corners, px."""

    @property
    def size(self) -> int:
        return len(self.image) + len(self.mask)


def pack(arguments: argparse.Namespace) -> None:
    from geoseg.train.dataset import LabeledFolder

    recipe = load_recipe(arguments.recipe)
    folder = LabeledFolder.open(recipe.data.root)
    outlines = read_box_table(folder.root, folder.classes)
    parts: dict[str, list[Part]] = {}
    for item in folder.split("train"):
        options = recipe.group(item.group)
        if options.weight == 0:
            continue
        image, mask, _ = item.load()
        known = outlines.get((item.group, item.name))
        corners, classes = (known.corners, known.classes) if known else (np.zeros((0, 4, 2)), [])
        if options.scale < FINE:
            image, mask = np.array(Image.fromarray(image).reduce(2)), mask[::2, ::2]
            image, corners = image[: len(mask), : mask.shape[1]], corners / 2
        for top in range(0, len(mask), LARGEST):
            for left in range(0, mask.shape[1], LARGEST):
                window = np.s_[top : top + LARGEST, left : left + LARGEST]
                moved = corners - [left, top]
                centers = moved.mean(axis=1)
                inside = ((centers >= 0) & (centers < mask[window].shape[::-1])).all(axis=1)
                parts.setdefault(item.group, []).append(
                    Part(
                        item.group,
                        encoded(image[window], format="WEBP", quality=QUALITY, method=4),
                        encoded(mask[window], format="PNG"),
                        int(np.count_nonzero((mask[window] > 0) & (mask[window] != IGNORE))),
                        [
                            (int(classes[i]), moved[i].round(1).tolist())
                            for i in np.flatnonzero(inside)
                            if classes[i] != IGNORE
                        ],
                    )
                )
    weights = {name: recipe.group(name).weight for name in parts}
    chosen = within(parts, weights, int(arguments.max_mib * 2**20))
    groups = {name: asdict(recipe.group(name)) for name in parts}
    for options in groups.values():
        options["scale"] *= 2 if options["scale"] < FINE else 1
    with zipfile.ZipFile(arguments.pack, "w") as archive:
        for number, part in enumerate(chosen):
            archive.writestr(f"{number}.webp", part.image)
            archive.writestr(f"{number}.png", part.mask)
        listed = [part.group for part in chosen]
        names = [each.name for each in ISAID]
        index = {
            "groups": groups,
            "images": listed,
            "boxes": [part.boxes for part in chosen],
            "class_weights": [recipe.data.class_weights.get(name, 1.0) for name in names],
        }
        archive.writestr("index.json", json.dumps(index))
    size = Path(arguments.pack).stat().st_size
    total = sum(map(len, parts.values()))
    print(f"{len(chosen)} of {total} images, {size / 2**20:.1f} MiB: {arguments.pack}")
    for name, group in parts.items():
        print(f"  {name}: {listed.count(name)} of {len(group)}")


def encoded(pixels: np.ndarray, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, **options)
    return content.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)))


def within(parts: dict[str, list[Part]], weights: dict[str, float], budget: int) -> list[Part]:
    """The parts that fit into `budget` bytes: of each group as much as training draws from it.

    What a group doesn't need goes to the others. Within a group the parts with most objects
    a byte go first.
    """
    needs = {name: sum(part.size for part in group) for name, group in parts.items()}
    demand = {name: weights[name] * len(group) for name, group in parts.items()}
    chosen: list[Part] = []
    # Those that need least of what is theirs first, so that what they leave is known.
    order = sorted(parts, key=lambda name: needs[name] / demand[name])
    for position, name in enumerate(order):
        share = demand[name] / sum(demand[other] for other in order[position:])
        left = int(budget * share)
        for part in sorted(parts[name], key=lambda part: -part.labeled / part.size):
            if part.size <= left:
                chosen.append(part)
                left -= part.size
                budget -= part.size
    return chosen


class Crop(NamedTuple):
    """A crop on the device."""

    pixels: Tensor
    """(1,3,S,S), float."""
    ids: Tensor
    """(1,S,S), long."""
    number: int
    """Of its image."""
    boxes: Tensor
    """(1,MAX_BOXES,4,2) corners, px of the crop."""
    classes: Tensor
    """(1,MAX_BOXES), long; -1 = none."""


def boxes_in(corners: Tensor, classes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return boxes that lie in a crop and are large enough, as many as `Crop` holds."""
    middle = corners.mean(dim=1)
    sides = torch.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]], dim=1)
    wanted = ((middle > 0) & (middle < side)).all(dim=1)
    wanted &= (sides.norm(dim=2) >= MIN_BOX_SIDE).all(dim=1)
    # The order is random, the first ones are taken, and the others never leave the device.
    rank = torch.rand(len(corners), device=corners.device) + ~wanted
    chosen = rank.argsort()[:MAX_BOXES]
    missing = MAX_BOXES - len(chosen)
    kept = torch.where(wanted[chosen], classes[chosen], -1)
    return F.pad(corners[chosen], (0, 0, 0, 0, 0, missing))[None], F.pad(
        kept, (0, missing), value=-1
    )[None]


class Images:
    """All images and masks on the device, each at full, half and quarter size.

    Of what is shown smaller, a smaller copy is sampled: bilinear sampling alone would alias.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.device = device
        self.pixels: list[list[Tensor]] = []
        """Per image and level: (1,3,H,W) uint8."""
        self.masks: list[Tensor] = []
        """Per image: (1,1,H,W) uint8."""
        with zipfile.ZipFile(path) as archive, ThreadPoolExecutor() as pool:
            index = json.loads(archive.read("index.json"))
            counts = np.zeros((len(index["images"]), len(ISAID)), np.int64)
            pixels, masks = (
                pool.map(
                    decoded, [archive.read(f"{number}.{ending}") for number in range(len(counts))]
                )
                for ending in ("webp", "png")
            )
            for number, (image, mask) in enumerate(zip(pixels, masks, strict=True)):
                counts[number] = np.bincount(mask.ravel(), minlength=256)[: len(ISAID)]
                full = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].contiguous()
                levels = [full]
                for _ in range(2):
                    if min(levels[-1].shape[2:]) >= 64:
                        levels.append(F.avg_pool2d(levels[-1].float(), 2).to(torch.uint8))
                self.pixels.append(levels)
                self.masks.append(torch.from_numpy(mask).to(device)[None, None])
        self.boxes = [
            (
                torch.tensor([corners for _, corners in each]).view(-1, 4, 2).to(device),
                torch.tensor([class_id for class_id, _ in each], dtype=torch.long, device=device),
            )
            for each in index["boxes"]
        ]
        """Per image: (K,4,2) corners, px, and (K,) classes."""
        self.groups = [GroupOptions(**fix(index["groups"][g])) for g in index["images"]]
        self.hidden = torch.stack([hidden_classes(g, len(ISAID)) for g in self.groups]).to(device)
        weights = np.array([group.weight for group in self.groups])
        self.odds = normalized(weights * counts.sum(axis=1) ** 0.5)
        self.odds_of_class = [normalized(weights * column**0.5) for column in counts.T]
        self.class_odds = (counts * (weights > 0)[:, None]).sum(axis=0) ** 0.25
        self.class_odds *= index["class_weights"]
        self.class_odds[0] = 0

    def crop(self, rng: np.random.Generator, recipe: dict[str, float], side: int) -> Crop:
        wanted = None
        if rng.random() < recipe["object_share"]:
            wanted = int(rng.choice(len(ISAID), p=normalized(self.class_odds)))
        number = int(
            rng.choice(
                len(self.odds), p=self.odds if wanted is None else self.odds_of_class[wanted]
            )
        )
        mask = self.masks[number]
        height, width = mask.shape[2:]
        scale = math.exp(rng.uniform(math.log(recipe["low"]), math.log(recipe["high"])))
        scale *= self.groups[number].scale
        half = side / 2 / scale
        center = rng.uniform([0, 0], [width, height])
        if wanted is not None:
            there = (mask[0, 0] == wanted).nonzero()
            row, column = there[int(rng.integers(len(there)))].tolist()
            center = np.array([column, row]) + rng.uniform(-0.8, 0.8, 2) * half
        for axis, length in enumerate((width, height)):
            low, high = min(half, length / 2), max(length - half, length / 2)
            center[axis] = np.clip(center[axis], low, high)
        angle = rng.uniform(0, 2 * math.pi) if rng.random() < 0.5 else rng.integers(4) * math.pi / 2
        cos, sin = math.cos(angle) * half, math.sin(angle) * half
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        # Only what the crop covers is touched, from multiples of 4 px, which all levels share.
        reach = abs(cos) + abs(sin) + 4
        left, top = (max(0, int(v - reach) // 4 * 4) for v in center)
        right = min(width, -(-int(center[0] + reach) // 4) * 4 + 4)
        bottom = min(height, -(-int(center[1] + reach) // 4) * 4 + 4)
        # `affine_grid` counts from -1 to 1 over the whole part.
        across, down = 2 / (right - left), 2 / (bottom - top)
        theta = torch.tensor(
            [
                [mirror * cos * across, -sin * across, (center[0] - left) * across - 1],
                [mirror * sin * down, cos * down, (center[1] - top) * down - 1],
            ],
            dtype=torch.float32,
            device=self.device,
        )[None]
        grid = F.affine_grid(theta, [1, 3, side, side], align_corners=False)
        level = min(len(self.pixels[number]) - 1, max(0, round(math.log2(max(1, 1 / scale)))))
        step = 2**level
        part = self.pixels[number][level][
            :, :, top // step : -(-bottom // step), left // step : -(-right // step)
        ]
        pixels = F.grid_sample(part.float(), grid, align_corners=False)
        part = mask[:, :, top:bottom, left:right].float() - IGNORE
        ids = F.grid_sample(part, grid, mode="nearest", align_corners=False)
        if self.groups[number].shuffle_channels:
            pixels = pixels[:, torch.from_numpy(rng.permutation(3)).to(self.device)]
        # From corners of boxes back to the crop: the inverse of rotation, mirror and scale.
        turn = torch.tensor([[mirror * cos, -sin], [mirror * sin, cos]], device=self.device)
        middle = torch.tensor(center, dtype=torch.float32, device=self.device)
        corners, classes = self.boxes[number]
        corners = ((corners - middle) @ torch.linalg.inv(turn).T + 1) * (side / 2)
        return Crop(
            pixels, (ids[:, 0] + IGNORE).round().long(), number, *boxes_in(corners, classes, side)
        )


def fix(options: dict[str, object]) -> dict[str, object]:
    """JSON has no tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def normalized(odds: np.ndarray) -> np.ndarray:
    return odds / odds.sum() if odds.sum() else np.full(len(odds), 1 / len(odds))


def photometric(images: Tensor, strength: float) -> Tensor:
    """Brightness, contrast, saturation and gray of (N,3,H,W), each crop by itself."""
    count, device = len(images), images.device

    def draw(low: float, high: float) -> Tensor:
        chosen = torch.rand(count, 1, 1, 1, device=device) < 0.5
        values = torch.empty(count, 1, 1, 1, device=device).uniform_(low, high) * strength
        return values * chosen

    luma = torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)
    images = images + draw(-32, 32)
    images = images * (1 + draw(-0.5, 0.5))
    gray = (images * luma).sum(dim=1, keepdim=True)
    images = gray + (images - gray) * (1 + draw(-0.5, 0.5))
    images = torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.1, gray, images)
    return images.clamp(0, 255)


class Student:
    """The network, its optimizer, and the moving average that is saved."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.lr = arguments.lr
        model = load_model(arguments.pretrained)
        self.metadata: Metadata = model.metadata
        self.model = model.to(self.device, memory_format=torch.channels_last).train()
        self.average = deepcopy(self.model).eval()
        self.teacher = None
        if arguments.teacher:
            teacher = load_model(arguments.teacher)
            self.teacher = teacher.to(self.device, memory_format=torch.channels_last)
        self.mean, self.std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1)
            for values in (self.metadata.mean, self.metadata.std)
        )
        norms = (torch.nn.BatchNorm2d, torch.nn.GroupNorm, torch.nn.LayerNorm)
        exempt = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters()}
        decayed = [p for p in self.model.parameters() if id(p) not in exempt]
        kept = [p for p in self.model.parameters() if id(p) in exempt]
        groups = [{"params": decayed}, {"params": kept, "weight_decay": 0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.lr, weight_decay=0.02)
        self.steps = 0

    def learn(self, crops: list[Crop], hidden: Tensor, share: float) -> Tensor:
        """Take one step; `share` of the time is over."""
        pixels = photometric(torch.cat([each.pixels for each in crops]), 0.8)
        target = torch.cat([each.ids for each in crops])[:, 1::2, 1::2]
        boxes = torch.cat([each.boxes for each in crops]) / 2
        classes = torch.cat([each.classes for each in crops])
        rate = self.lr * min(1, (self.steps + 1) / 300) * 0.5 * (1 + math.cos(math.pi * share))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        x = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        logits = self.logits(self.model, x, target)
        loss = partial_cross_entropy(logits, target, hidden, 0.3)
        loss = loss + PROJECTION * projection(logits, boxes, classes)
        loss = loss + PAIRWISE * pairwise(logits, F.avg_pool2d(pixels, 2), target == IGNORE)
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.logits(self.teacher, x, target)
            loss = loss + distillation(logits, taught, 2.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        self.steps += 1
        decay = min(0.9995, (1 + self.steps) / (10 + self.steps))
        states = self.average.state_dict(), self.model.state_dict()
        with torch.no_grad():
            for mine, new in zip(*(state.values() for state in states), strict=True):
                if mine.dtype.is_floating_point:
                    mine.lerp_(new, 1 - decay)
        return loss.detach()

    def logits(self, network: torch.nn.Module, x: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            found = network(x)
        return F.interpolate(found.float(), target.shape[1:], mode="bilinear")

    def save(self, folder: Path) -> None:
        save_checkpoint(folder / "last.safetensors", self.average, self.metadata)


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    student = Student(arguments)
    start = time.perf_counter()
    images = Images(Path(arguments.pack), student.device)
    print(f"{len(images.masks)} images in {time.perf_counter() - start:.0f} s", flush=True)
    rng, draw, losses = np.random.default_rng(0), vars(arguments), list[Tensor]()
    start = saved = time.perf_counter()
    budget = arguments.minutes * 60
    while (elapsed := time.perf_counter() - start) < budget:
        crops = [images.crop(rng, draw, arguments.crop) for _ in range(arguments.batch)]
        hidden = images.hidden[[each.number for each in crops]]
        losses.append(student.learn(crops, hidden, elapsed / budget))
        if len(losses) == LOG_EVERY:
            speed = student.steps * arguments.batch / (time.perf_counter() - start)
            print(
                f"{student.steps} {torch.stack(losses).mean():.4f} {speed:.0f} crops/s", flush=True
            )
            losses.clear()
        if time.perf_counter() - saved > 60:
            saved = time.perf_counter()
            student.save(folder)
    student.save(folder)
    print(f"{student.steps} steps of {arguments.batch} crops: {folder / 'last.safetensors'}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("pack")
    one.add_argument("recipe")
    one.add_argument("pack")
    one.add_argument("--max-mib", type=float, default=48, help="of the packed images")
    one.set_defaults(run=pack)
    two = commands.add_parser("train")
    two.add_argument("pack")
    two.add_argument("folder")
    two.add_argument("--pretrained", help="checkpoint to start from; default: the built-in one")
    two.add_argument("--teacher", help="checkpoint of a teacher")
    two.add_argument("--device", default="cuda")
    two.add_argument("--minutes", type=float, default=8)
    two.add_argument("--batch", type=int, default=64)
    two.add_argument("--crop", type=int, default=320)
    two.add_argument("--lr", type=float, default=1e-3)
    two.add_argument("--object-share", type=float, default=0.7)
    two.add_argument("--low", type=float, default=0.4, help="least scale of a crop")
    two.add_argument("--high", type=float, default=2.0, help="greatest scale of a crop")
    two.set_defaults(run=train)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
