"""SegNeXt for inference: the same function in fewer steps.

Exact up to rounding, in evaluation mode:

- Batch norms and layer scales are affine per channel and disappear into the convolutions beside
  them. A norm *before* a convolution needs one without padding: borders are padded with zeros
  after the norm, not before it.
- A 1×1 convolution commutes with resizing, so the decoder squeezes every stage on its own grid
  and adds, instead of concatenating the resized stages: a quarter of the products, no copy.
- The decoder's `ham_out` is linear and follows a low-rank map: it is applied to the bases, a few
  columns, instead of to the map.
- What is not read again is overwritten.
- On a CPU the MLPs run slab by slab: their maps, up to 8 times wider than the block's, then stay
  in the cache and need no fresh memory, which would take two thirds of their time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.model.metadata import Metadata
from geoseg.model.segnext import MSCA, Block, Hamburger, HamHead, SegNeXt

SLAB_BYTES = 4 * 2**20
"""Of an MLP's wide map at once. Thinner slabs compute more rows twice."""


@torch.no_grad()
def fold(model: SegNeXt) -> FoldedSegNeXt:
    """The inference form of `model`, on the CPU, sharing no tensor with it.

    It takes and returns what `model` does, and cannot be trained. Kernels lie in channels-last
    order; with inputs in the same order it is fastest.
    """
    folded = FoldedSegNeXt(copy.deepcopy(model).cpu()).requires_grad_(False).eval()
    if hasattr(model, "metadata"):
        folded.metadata = model.metadata
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class FoldedSegNeXt(nn.Module):
    """`SegNeXt` in parts. Its constructor uses up the model that it is given; see `fold`."""

    metadata: Metadata

    def __init__(self, model: SegNeXt) -> None:
        super().__init__()
        encoder = model.backbone
        self.stages = nn.ModuleList()
        for i in range(1, 5):
            layers = embedding(encoder.get_submodule(f"patch_embed{i}"))
            for block in encoder.get_submodule(f"block{i}").children():
                assert isinstance(block, Block)
                layers.append(FoldedBlock(block))
            self.stages.append(nn.Sequential(*layers, encoder.get_submodule(f"norm{i}")))
        self.head = FoldedHead(model.decode_head, model.variant.dims[1:])

    def forward(self, x: Tensor) -> Tensor:  # (N,3,H,W)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.head(maps[1:])  # (N,C,⌈H/8⌉,⌈W/8⌉)


def embedding(embed: nn.Module) -> list[nn.Module]:
    """The layers of a patch embedding, each norm folded into the convolution before it."""
    layers: list[nn.Module] = []
    for layer in embed.modules():
        if isinstance(layer, nn.BatchNorm2d):
            conv = layers[-1]
            assert isinstance(conv, nn.Conv2d)
            affine_output(conv, *affine(layer))
        elif isinstance(layer, (nn.Conv2d, nn.GELU)):
            layers.append(layer)
    return layers


class FoldedBlock(nn.Module):
    """`Block` without its norms and scales.

    The attention's shortcut is the normed input, s·x + t. So with proj_2 scaled and scale·t in
    its bias, `x + scale·(proj_2(…) + s·x + t)` becomes `x + gain·x + proj_2(…)`, gain = scale·s.
    """

    gain: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        attn, mlp, scale = block.attn, block.mlp, block.layer_scale_1.double()
        slope, offset = affine(block.norm1)
        self.proj_1 = affine_input(attn.proj_1, slope, offset)
        self.gate = FoldedMSCA(attn.spatial_gating_unit)
        self.proj_2 = affine_output(attn.proj_2, scale, scale * offset)
        self.register_buffer("gain", (scale * slope).float()[:, None, None])
        self.fc1 = affine_input(mlp.fc1, *affine(block.norm2))
        self.dwconv = mlp.dwconv.dwconv
        self.fc2 = affine_output(mlp.fc2, block.layer_scale_2.double())

    def forward(self, x: Tensor) -> Tensor:  # (N,C,H,W), as all below
        attended = self.proj_2(self.gate(F.gelu(self.proj_1(x))))
        # 1 + gain, in one step, would lose the gain in half precision.
        x = attended.addcmul_(x, self.gain.to(x.dtype)).add_(x)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            return self.add_mlp_by_slabs(x)
        return x.add_(self.fc2(F.gelu(self.dwconv(self.fc1(x)))))

    def add_mlp_by_slabs(self, x: Tensor) -> Tensor:
        height, wide_bytes = x.shape[2], x.nbytes // x.shape[1] * self.fc1.out_channels
        rows = max(1, SLAB_BYTES * height // wide_bytes)
        out = torch.empty_like(x)
        for top in range(0, height, rows):
            slab, above = slice(top, top + rows), min(top, 1)
            # The 3×3 convolution needs a row more on either side.
            hidden = self.dwconv(self.fc1(x[:, :, top - above : top + rows + 1]))
            hidden = F.gelu(hidden[:, :, above : above + rows])
            torch.add(x[:, :, slab], self.fc2(hidden), out=out[:, :, slab])
        return out


class FoldedMSCA(nn.Module):
    """`MSCA`, adding in place."""

    def __init__(self, unit: MSCA) -> None:
        super().__init__()
        self.local = unit.conv0
        self.strips = nn.ModuleList(
            nn.Sequential(unit.get_submodule(f"conv{i}_1"), unit.get_submodule(f"conv{i}_2"))
            for i in range(3)
        )
        self.mix = unit.conv3

    def forward(self, x: Tensor) -> Tensor:
        local = self.local(x)
        first, *others = self.strips
        scales = first(local)
        for strip in others:
            scales.add_(strip(local))
        return self.mix(scales.add_(local)).mul_(x)


class FoldedHead(nn.Module):
    """`HamHead`, squeezing each stage on its own grid."""

    def __init__(self, head: HamHead, dims: Sequence[int]) -> None:
        super().__init__()
        kernels = head.squeeze.conv.weight.split(list(dims), dim=1)
        biases = [head.squeeze.conv.bias, None, None]
        self.squeeze = nn.ModuleList(map(pointwise, kernels, biases))
        self.squeeze_norm = head.squeeze.gn
        self.hamburger = FoldedHamburger(head.hamburger)
        self.align, self.align_norm = head.align.conv, head.align.gn
        self.classify = head.conv_seg

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        x, *coarse = (conv(stage) for conv, stage in zip(self.squeeze, stages, strict=True))
        for other in coarse:
            x.add_(F.interpolate(other, x.shape[2:], mode="bilinear", align_corners=False))
        x = self.hamburger(self.squeeze_norm(x).relu_())  # (N,D,H/8,W/8)
        return self.classify(self.align_norm(self.align(x)).relu_())


class FoldedHamburger(nn.Module):
    """`Hamburger` with `ham_out` applied to the bases: W·(B·Cᵀ) = (W·B)·Cᵀ."""

    def __init__(self, ham: Hamburger) -> None:
        super().__init__()
        self.lift, self.nmf = ham.ham_in.conv, ham.ham
        self.out, self.norm = ham.ham_out.conv, ham.ham_out.gn

    def forward(self, x: Tensor) -> Tensor:
        lifted = self.lift(x).relu_()
        with torch.autocast(x.device.type, enabled=False):  # for the reason given in `NMF`
            samples = lifted.float().flatten(2).transpose(1, 2)  # (N,HW,D)
            bases, coef = self.nmf.factorize(samples)  # (N,D,R), (N,HW,R)
            bases = self.out.weight.flatten(1) @ bases
            mixed = coef @ bases.transpose(1, 2)  # (N,HW,D)
            if self.out.bias is not None:
                mixed.add_(self.out.bias)
        mixed = mixed.unflatten(1, x.shape[2:]).movedim(3, 1).to(x.dtype)
        return self.norm(mixed).add_(x).relu_()


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Slope and offset (C,) of a batch norm in evaluation mode, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return slope, norm.bias.double() - norm.running_mean.double() * slope


def affine_input(conv: nn.Conv2d, slope: Tensor, offset: Tensor) -> nn.Conv2d:
    """Make `conv`, which must not pad, compute what it did of slope·x + offset."""
    assert conv.kernel_size == (1, 1)
    assert conv.bias is not None
    weight = conv.weight.double()
    conv.bias = nn.Parameter((conv.bias.double() + weight.flatten(1) @ offset).float())
    conv.weight = nn.Parameter((weight * slope[:, None, None]).float())
    return conv


def affine_output(conv: nn.Conv2d, slope: Tensor, offset: Tensor | float = 0.0) -> nn.Conv2d:
    """Make `conv` return slope·y + offset where it returned y."""
    assert conv.bias is not None
    conv.bias = nn.Parameter((conv.bias.double() * slope + offset).float())
    conv.weight = nn.Parameter((conv.weight.double() * slope[:, None, None, None]).float())
    return conv


def pointwise(kernel: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 1×1 convolution with these weights, (D,C,1,1) and (D,)."""
    dim, channels = kernel.shape[:2]
    conv = nn.Conv2d(channels, dim, 1, device="meta")  # nothing to initialise
    conv.weight = nn.Parameter(kernel.clone())
    conv.bias = None if bias is None else nn.Parameter(bias)
    return conv
