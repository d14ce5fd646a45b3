"""A network as one graph, which other engines compile and other tools run."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from geoseg.model.metadata import Metadata
from geoseg.model.pyramid import SameConv2d

STRIDE = 32
"""Height and width of an input are multiples of this."""
SIDES = (64, 32 * 512)
"""Least and largest side of an input with free height and width, px."""


@dataclass(frozen=True, slots=True)
class GraphForm:
    """What a graph takes and gives."""

    highest_pixel: float = 255
    """Value of the brightest pixel: 255, or 1."""
    probabilities: bool = False
    """Whether the output is the softmax of the logits."""
    tile_size: int | None = None
    """Height and width of an input, px, a multiple of 32; None = free multiples of 32."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, if they are fixed."""
        return (self.tile_size, self.tile_size) if self.tile_size else None


class PixelGraph(nn.Module):
    """A network with the steps around it: pixels (1,3,H,W) to classes at full size (1,C,H,W).

    Args:
        network: normalized pixels to logits (1,C,H/8,W/8), with `metadata`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, form: GraphForm) -> None:
        super().__init__()
        metadata = network.metadata
        assert isinstance(metadata, Metadata)
        self.network, self.probabilities = network, form.probabilities
        for name, values in (("mean", metadata.mean), ("std", metadata.std)):
            scaled = torch.tensor(values) * (form.highest_pixel / 255)
            self.register_buffer(name, scaled[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.network((pixels - self.mean) / self.std)
        logits = F.interpolate(logits, pixels.shape[2:], mode="bilinear", align_corners=False)
        return logits.softmax(dim=1) if self.probabilities else logits


@torch.no_grad()
def trace(module: nn.Module, size: tuple[int, int] | None = None) -> ExportedProgram:
    """Return the graph of a module that takes (1,3,H,W).

    Args:
        size: H and W; None = any multiples of 32 within `SIDES`.
    """
    module = with_fixed_padding(copy.deepcopy(module)).eval()
    if size:
        return torch.export.export(module, (torch.zeros(1, 3, *size),))
    least, largest = (side // STRIDE for side in SIDES)
    height, width = (Dim(name, min=least, max=largest) for name in ("rows", "columns"))
    # Two different sides, or torch would take them for the same.
    example = torch.zeros(1, 3, 8 * STRIDE, 10 * STRIDE)
    sides = {2: STRIDE * height, 3: STRIDE * width}
    return torch.export.export(module, (example,), dynamic_shapes=(sides,))


def with_fixed_padding(module: nn.Module) -> nn.Module:
    """Replace `SameConv2d` by convolutions whose padding does not depend on the input's size.

    It depends only on the remainder of the size by the stride, which is 0 in multiples of 32.
    """
    for name, child in module.named_children():
        if isinstance(child, SameConv2d):
            module.register_module(name, fixed_padding(child))
        else:
            with_fixed_padding(child)
    return module


def fixed_padding(conv: SameConv2d) -> nn.Module:
    """Return `conv` for sides that are multiples of its stride."""
    kernel, stride = conv.kernel_size, conv.stride
    totals = [max(k - s, 0) for k, s in zip(kernel, stride, strict=True)]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",  # saves the initialization
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    if (top, left) == (bottom, right):
        plain.padding = (top, left)
        return plain
    return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), plain)
