"""EfficientNet-Lite with a feature pyramid: a teacher pretrained on ImageNet.

The encoder is that of Tan & Le, "EfficientNet" (ICML 2019), in its Lite form (no squeeze and
excitation, ReLU6), with TensorFlow's padding, so that the published weights fit. The decoder
adds the levels of a feature pyramid (Lin et al., CVPR 2017; Kirillov et al., "Panoptic Feature
Pyramid Networks", CVPR 2019).
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geoseg.model.metadata import Metadata
from geoseg.model.variants import PYRAMIDS

STAGES = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Stages of EfficientNet-B0 (paper, table 1)."""
STEM = 32
"""Channels of the stem."""
CONTEXT = 32
"""Rows of pixels, a multiple of 4, beyond which nothing contributes to a row of the map at 1/4."""
WIDTH = 96
"""Channels of the pyramid."""
DROP_PATH = 0.1
"""Probability that training skips the last block of the encoder; it rises from 0 at the first."""
EPSILON, MOMENTUM = 1e-3, 0.01
"""Parameters of the encoder's batch norms, as the published weights were trained."""


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's `same` padding: an odd amount has more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        around = []
        """Rows above and below, then columns left and right."""
        for side, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True):
            total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            around.append((total // 2, total - total // 2))
        (top, bottom), (left, right) = around
        padding = (top, left)
        if top != bottom or left != right:  # a copy, which the convolution's own padding saves
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)


def fold_norms(model: EfficientNetPyramid, *, consume: bool = False) -> EfficientNetPyramid:
    """Return the inference form of `model`: the same function without batch norms.

    Each is affine per channel and follows a convolution, which takes it in. Kernels are in
    channels-last order, in which CPUs are twice as fast.

    Args:
        consume: take `model` apart instead of a copy; the caller no longer uses it.
    """
    folded = (model if consume else copy.deepcopy(model)).eval().requires_grad_(False)
    for chain in folded.modules():
        if isinstance(chain, nn.Sequential):
            for i, (layer, following) in enumerate(itertools.pairwise(list(chain))):
                if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                    chain[i], chain[i + 1] = fuse_conv_bn_eval(layer, following), nn.Identity()
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM)


class InvertedResidual(nn.Module):
    """Expand, filter in depth, project; Sandler et al., "MobileNetV2" (CVPR 2018)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, drop: float
    ) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = nn.Sequential()
        if expansion != 1:
            self.expand = nn.Sequential(
                nn.Conv2d(inputs, wide, 1, bias=False), norm(wide), nn.ReLU6(inplace=True)
            )
        self.filter = nn.Sequential(
            SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False),
            norm(wide),
            nn.ReLU6(inplace=True),
        )
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), norm(outputs))
        self.residual = stride == 1 and inputs == outputs
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.filter(self.expand(x)))
        if not self.residual:
            return y
        if self.training and self.drop:
            keep = torch.rand(len(x), 1, 1, 1, device=x.device, dtype=y.dtype) >= self.drop
            y = y * keep / (1 - self.drop)
        return y.add_(x)


class Encoder(nn.Module):
    """Pixels (N,3,H,W) to maps at 1/4, 1/8, 1/16 and 1/32."""

    band: int | None = None
    """Rows of pixels, a multiple of 4, that are taken to 1/4 at once, where maps are largest; None
    = all. The values are the same."""

    def __init__(self, name: str) -> None:
        super().__init__()
        width, depth = PYRAMIDS[name]
        self.stem = nn.Sequential(
            SameConv2d(3, STEM, 3, 2, bias=False), norm(STEM), nn.ReLU6(inplace=True)
        )
        repeats = [
            # The Lite form does not scale the first and the last stage.
            r if i in (0, len(STAGES) - 1) else math.ceil(r * depth)
            for i, (r, *_) in enumerate(STAGES)
        ]
        total, count, inputs = sum(repeats), 0, STEM
        self.stages = nn.ModuleList()
        self.channels: list[int] = []
        """Channels of the maps that `forward` returns."""
        for i, (_, kernel, stride, expansion, channels) in enumerate(STAGES):
            outputs = divisible(channels * width)
            blocks = []
            for j in range(repeats[i]):
                drop = DROP_PATH * count / total
                blocks.append(
                    InvertedResidual(
                        inputs, outputs, kernel, stride if j == 0 else 1, expansion, drop
                    )
                )
                inputs, count = outputs, count + 1
            self.stages.append(nn.Sequential(*blocks))
            if i + 1 == len(STAGES) or (STAGES[i + 1][2] == 2 and i > 0):
                self.channels.append(outputs)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.quarter_by_bands(x, self.band) if self.band else self.quarter(x)
        maps = [x]
        for i in range(2, len(self.stages)):
            x = self.stages[i](x)
            if i + 1 == len(self.stages) or STAGES[i + 1][2] == 2:
                maps.append(x)
        return maps

    def quarter(self, x: Tensor) -> Tensor:
        """Return the map at 1/4 of pixels."""
        x = self.stages[1](self.stages[0](self.stem(x)))
        return x

    def quarter_by_bands(self, x: Tensor, band: int) -> Tensor:
        """Do the same for `band` rows of pixels at a time, with rows around them for context."""
        height = x.shape[2]
        parts = []
        for top in range(0, height, band):
            bottom = min(top + band, height)
            start, end = max(top - CONTEXT, 0), min(bottom + CONTEXT, height)
            part = self.quarter(x[:, :, start:end])
            parts.append(part[:, :, (top - start) // 4 : (bottom - start) // 4])
        return torch.cat(parts, 2)


def divisible(channels: float, by: int = 8) -> int:
    """Return the nearest multiple of `by` that is at least nine tenths of `channels`."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


class Pyramid(nn.Module):
    """Decoder of an encoder's maps to logits (N,C,H/8,W/8).

    The finest map is halved at once: what was computed at 1/4 took a third of the whole network's
    time, and found no more.
    """

    def __init__(self, channels: list[int], num_classes: int) -> None:
        super().__init__()
        finest, *others = channels
        self.fine = self.block(SameConv2d(finest, WIDTH, 4, 2, bias=False))
        self.lateral = nn.ModuleList(nn.Conv2d(each, WIDTH, 1) for each in others)
        self.smooth = nn.ModuleList(self.same() for _ in others)
        self.context = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(others[-1], WIDTH, 1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 1),
        )
        self.fuse = nn.Sequential(self.same(), nn.Dropout2d(0.1))
        self.conv_seg = nn.Conv2d(WIDTH, num_classes, 1)

    @staticmethod
    def block(conv: nn.Conv2d) -> nn.Sequential:
        return nn.Sequential(conv, nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True))

    def same(self) -> nn.Sequential:
        return self.block(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False))

    def forward(self, maps: list[Tensor]) -> Tensor:
        finest, *others = maps
        sides = [lateral(x) for lateral, x in zip(self.lateral, others, strict=True)]
        sides[0].add_(self.fine(finest))
        down = sides[-1] + self.context(others[-1])
        total = self.smooth[-1](down)
        for side, smooth in zip(sides[-2::-1], self.smooth[-2::-1], strict=True):
            # In place: new memory has to be faulted in.
            down = enlarged(down, side).add_(side)
            total = enlarged(total, side).add_(smooth(down))
        logits: Tensor = self.conv_seg(self.fuse(total))
        return logits


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Resize `x` bilinearly to the height and width of `like`."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class EfficientNetPyramid(nn.Module):
    """The whole network.

    Args:
        name: of the encoder, a key of `PYRAMIDS`.
    """

    metadata: Metadata
    """Description of the weights; set where they are loaded or trained."""

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.backbone = Encoder(name)
        self.decode_head = Pyramid(self.backbone.channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N,C,H/8,W/8) of pixels (N,3,H,W)."""
        logits: Tensor = self.decode_head(self.backbone(x))
        return logits
