"""Convolutions with the activation, or the addition, that follows each in one pass over the map.

They are oneDNN's, but for those of `geoseg.model.cpu.depthwise`.

Torch's own path clamps a map in a second pass, copies it to pad more at the end than at the start,
and multiplies matrices without oneDNN in a thread that computes alone. Together that is half of the
time of an EfficientNet.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.model.cpu.depthwise import native_depthwise
from geoseg.model.pyramid import EfficientNetPyramid, InvertedResidual, SameConv2d

ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0, 6]),
}
"""What oneDNN calls an activation, with its arguments."""
DTYPES = (torch.float32, torch.bfloat16)
"""That a CPU convolves in."""
PRODUCT = 48
"""Channels, in and out, from which on a matrix product takes three quarters of the time of a 1×1
convolution in bfloat16. In float32 it takes longer."""
BAND = 256
"""Rows of pixels; the largest maps of a tile of 1472² then take 35 MB instead of 208."""


class OneDNNConv2d(nn.Module):
    """A convolution and an activation, of maps (N,C,H,W) with even H and W where its stride is 2.

    Its output has the type of its weights, to which it also converts its input.

    Args:
        activation: one of `ACTIVATIONS`; None = none.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None, dtype: torch.dtype) -> None:
        super().__init__()
        weight, self.padding = conv.weight, conv.padding
        if isinstance(conv, SameConv2d):
            weight, self.padding = symmetric(conv)
        weight = weight.to(dtype, memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if conv.bias is None else conv.bias.to(dtype))
        self.stride, self.groups = conv.stride, conv.groups
        self.activation = ACTIVATIONS[type(activation)] if activation else ("none", [])
        self.is_product = (
            dtype == torch.bfloat16
            and (conv.kernel_size, self.stride, self.groups) == ((1, 1), (1, 1), 1)
            and min(conv.in_channels, conv.out_channels) >= PRODUCT
        )

    def forward(self, x: Tensor) -> Tensor:
        name, arguments = self.activation
        if self.is_product:
            found = torch.ops.mkldnn._linear_pointwise(
                *(rows_of(x.to(self.weight.dtype)), self.weight.flatten(1), self.bias),
                *(name, arguments, ""),
            )
            return maps_of(found, x)
        return torch.ops.mkldnn._convolution_pointwise(
            *(x.to(self.weight.dtype), self.weight, self.bias, self.padding, self.stride, (1, 1)),
            *(self.groups, name, arguments, ""),
        )

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """Return `total`, which may be overwritten, plus the convolution without the activation."""
        if self.is_product:
            found = torch.ops.mkldnn._linear_pointwise.binary(
                *(rows_of(x.to(self.weight.dtype)), rows_of(total), self.weight.flatten(1)),
                *(self.bias, "add"),
            )
            return maps_of(found, x)
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            *(total, x.to(self.weight.dtype), self.weight, self.bias, self.padding, self.stride),
            *((1, 1), self.groups, "add", 1, None, [], None),
        )


def rows_of(x: Tensor) -> Tensor:
    """Return the pixels (P,C) of maps (N,C,H,W)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def maps_of(rows: Tensor, like: Tensor) -> Tensor:
    """Return pixels (P,C) as maps of as many samples, rows and columns as those of `like`."""
    samples, _, height, width = like.shape
    return rows.view(samples, height, width, -1).permute(0, 3, 1, 2)


class FusedResidual(nn.Module):
    """An `InvertedResidual` that is added to its input, which may be overwritten.

    Args:
        block: of `OneDNNConv2d`, with `residual` set.
    """

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self.widen = nn.Sequential(block.expand, block.filter)
        project = block.project[0]
        assert isinstance(project, OneDNNConv2d)
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        return self.project.add_to(x, self.widen(x))


def symmetric(conv: SameConv2d) -> tuple[Tensor, tuple[int, int]]:
    """Return the kernel and the padding, as much at the start as at the end, of a convolution.

    Where the end has one row and column more, the kernel gets a row and a column of zeros first.
    """
    (kernel, _), (stride, _) = conv.kernel_size, conv.stride
    total = kernel - stride
    end = total - total // 2
    extra = end - total // 2
    return F.pad(conv.weight, (extra, 0, extra, 0)), (end, end)


def can_fuse(dtype: torch.dtype) -> bool:
    """Return whether this torch has oneDNN's operations for a type."""
    return (
        dtype in DTYPES
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise_")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@torch.no_grad()
def fuse_activations(network: EfficientNetPyramid, dtype: torch.dtype) -> EfficientNetPyramid:
    """Return a copy, of such convolutions, of a network without batch norms; computes in `dtype`.

    Its inputs have sides that are multiples of 32.
    """
    fused = copy.deepcopy(network)
    fused.backbone.band = BAND
    for parent in list(fused.modules()):
        children = dict(parent.named_children())
        for name, child in children.items():
            if isinstance(child, nn.Conv2d):
                chained = isinstance(parent, nn.Sequential)
                following = activation_after(name, children) if chained else None
                activation = children[following] if following else None
                native = native_depthwise(child, activation, dtype)
                setattr(parent, name, native or OneDNNConv2d(child, activation, dtype))
                if following:
                    setattr(parent, following, nn.Identity())
    for stage in fused.backbone.stages.children():
        for name, block in stage.named_children():
            if isinstance(block, InvertedResidual) and block.residual:
                setattr(stage, name, FusedResidual(block))
    return fused


def activation_after(name: str, children: dict[str, nn.Module]) -> str | None:
    """Return the name of the activation that follows a child, if nothing changes maps before it."""
    names = list(children)
    for each in names[names.index(name) + 1 :]:
        if type(children[each]) in ACTIVATIONS:
            return each
        if not isinstance(children[each], nn.Identity):
            return None
    return None
