"""SegNeXt for inference: the same function in fewer steps.

Exact up to rounding, in evaluation mode:

- Batch norms and layer scales are affine per channel and are folded into the convolutions beside
  them. A norm *before* a convolution can be folded only into one without padding: borders are
  padded with zeros after the norm, not before it.
- A 1×1 convolution commutes with resizing, so the decoder squeezes every stage on its own grid
  and adds, instead of concatenating the resized stages: a quarter of the products, no copy.
- The decoder's `ham_out` is linear and follows a low-rank map: it is applied to the bases, a few
  columns, instead of to the map, and so is the norm after it.
- Maps that are not read again are overwritten.
- On a CPU a block is added to its input in place. Its MLP is computed in bands of rows, so that the
  hidden map, up to 8 times as wide as the block's, stays in the cache and needs no new memory. The
  stem reads its pixels in bands, too. Large maps lie in an `Arena` and are freed after their last
  use. `geoseg.model.cpu` replaces the operations that torch computes slowly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.model.cpu.kernels import bias_gelu, depthwise_gelu, multiscale_conv
from geoseg.model.cpu.matmul import bias_like, fused_mlp, pointwise_conv, use_fused_mlp
from geoseg.model.cpu.parallel import new_empty
from geoseg.model.fused_head import FusedHead
from geoseg.model.metadata import Metadata
from geoseg.model.mscan import MSCA, Block, ChannelNorm
from geoseg.model.segnext import SegNeXt

BAND_BYTES = 2 * 2**20
"""Band of an MLP's hidden map: about the cache of a core."""
NORM_ROWS = 16
"""Rows of a map that are normed at once, in place."""
STEM_ROWS = 32
"""Rows of the stem's output at once; its inputs, 3.5 times as large, then stay in the cache."""


@torch.no_grad()
def fuse(model: SegNeXt, *, consume: bool = False) -> FusedSegNeXt:
    """Return the inference form of `model`, on the CPU, which shares no tensor with it.

    It takes and returns what `model` does, and cannot be trained. Kernels are in channels-last
    order, in which inputs are fastest, too.

    Args:
        consume: take `model` apart instead of a copy; the caller no longer uses it.
    """
    parts = model if consume else copy.deepcopy(model)
    fused = FusedSegNeXt(parts.cpu()).requires_grad_(False).eval()
    if hasattr(model, "metadata"):
        fused.metadata = model.metadata
    return fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class FusedSegNeXt(nn.Module):
    """`SegNeXt` in fused parts. Its constructor takes the given model apart; see `fuse`."""

    metadata: Metadata

    def __init__(self, model: SegNeXt) -> None:
        super().__init__()
        encoder = model.backbone
        self.stem = nn.Sequential(*embedding(encoder.get_submodule("patch_embed1")))
        self.stages = nn.ModuleList()
        for i in range(1, 5):
            layers = [] if i == 1 else embedding(encoder.get_submodule(f"patch_embed{i}"))
            for block in encoder.get_submodule(f"block{i}").children():
                assert isinstance(block, Block)
                layers.append(FusedBlock(block))
            norm = encoder.get_submodule(f"norm{i}")
            assert isinstance(norm, ChannelNorm)
            self.stages.append(nn.Sequential(*layers, InPlaceNorm(norm)))
        self.head = FusedHead(model.decode_head, model.variant.dims[1:])

    def forward(self, x: Tensor) -> Tensor:  # (N,3,H,W)
        return self.after_stem(self.stem(x))

    def by_rows(self, rows: Callable[[int, int], Tensor], height: int) -> Tensor:
        """Return `forward` of pixels that are read in bands of rows.

        Args:
            rows: returns the pixels of rows start to end, (N,3,end-start,W).
            height: H, a multiple of 4.
        """
        return self.after_stem(self.stem_by_rows(rows, height // 4))

    def stem_by_rows(self, rows: Callable[[int, int], Tensor], height: int) -> Tensor:
        for top in range(0, height, STEM_ROWS):
            # Padding changes the first row of a band, unless that is the first of the map.
            before, end = min(top, 1), min(top + STEM_ROWS, height)
            part = self.stem(rows(4 * (top - before), 4 * end))[:, :, before:]
            if top == 0:
                samples, channels, _, width = part.shape
                x = new_empty(part, samples, height, width, channels).movedim(-1, 1)
            x[:, :, top:end] = part
        return x

    def after_stem(self, x: Tensor) -> Tensor:  # (N,D,H/4,W/4)
        maps = []
        for stage in self.stages:
            for layer in stage.children():  # calling `stage` would keep its input alive to the end
                x = layer(x)
            maps.append(x)
        del maps[0]
        return self.head(maps)  # (N,C,⌈H/8⌉,⌈W/8⌉)


def embedding(embed: nn.Module) -> list[nn.Module]:
    """Return the layers of a patch embedding, each norm folded into the convolution before it."""
    layers: list[nn.Module] = []
    for layer in embed.modules():
        if isinstance(layer, nn.BatchNorm2d):
            conv = layers[-1]
            assert isinstance(conv, nn.Conv2d)
            fold_after(conv, *affine(layer))
        elif isinstance(layer, nn.GELU):
            assert isinstance(layers[-1], nn.Conv2d)
            layers.append(BiasGELU(layers[-1]))
        elif isinstance(layer, nn.Conv2d):
            layers.append(layer)
    return layers


class BiasGELU(nn.Module):
    """GELU after a convolution, whose bias it takes over; may overwrite its input."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.bias, conv.bias = conv.bias, None

    def forward(self, x: Tensor) -> Tensor:  # (N,C,H,W)
        bias = self.bias.to(x.dtype)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.gelu(x.add_(bias[:, None, None]))
        rows = x.movedim(1, -1)  # (N,H,W,C)
        return bias_gelu(rows.flatten(0, 2), bias).unflatten(0, rows.shape[:3]).movedim(-1, 1)


class InPlaceNorm(nn.Module):
    """`ChannelNorm` that on a CPU overwrites its input."""

    def __init__(self, norm: ChannelNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:  # (N,C,H,W)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return self.norm(x)
        for rows in x.split(NORM_ROWS, dim=2):
            rows.copy_(self.norm(rows))
        return x


class FusedBlock(nn.Module):
    """`Block` without its norms and scales.

    The attention's shortcut is the normed input, s·x + t. With proj_2 scaled and scale·t in its
    bias, `x + scale·(proj_2(…) + s·x + t)` becomes `x + gain·x + proj_2(…)`, gain = scale·s. The
    bias of fc2 is added there, too, and the bias of fc1 makes up for it.
    """

    gain: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        attn, mlp, scale = block.attn, block.mlp, block.layer_scale_1.double()
        slope, offset = affine(block.norm1)
        self.proj_1 = fold_before(attn.proj_1, slope, offset)
        self.gate = FusedMSCA(attn.spatial_gating_unit)
        self.register_buffer("gain", (scale * slope).float()[:, None, None])
        self.fc2 = fold_after(mlp.fc2, block.layer_scale_2.double())
        assert self.fc2.bias is not None
        fc2_bias = self.fc2.bias.double()
        self.fc2.bias = None
        self.proj_2 = fold_after(attn.proj_2, scale, scale * offset + fc2_bias)
        slope, offset = affine(block.norm2)
        self.fc1 = fold_before(mlp.fc1, slope, offset - slope * fc2_bias)
        self.dwconv = mlp.dwconv.dwconv

    def forward(self, x: Tensor) -> Tensor:  # (N,C,H,W), as all below
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = x.contiguous(memory_format=torch.channels_last)
            done = []
            for rows in x.movedim(1, -1):
                self.add_attention(rows)
                done.append(self.with_mlp(rows))
            return (done[0][None] if len(done) == 1 else torch.stack(done)).movedim(-1, 1)
        attended = self.proj_2(self.gate(F.gelu(self.proj_1(x))))
        # 1 + gain, in one step, would lose the gain in half precision.
        x = attended.addcmul_(x, self.gain.to(x.dtype)).add_(x)
        return x.add_(self.fc2(F.gelu(self.dwconv(self.fc1(x)))))

    def add_attention(self, x: Tensor) -> None:
        """Add the attention to `x` (H,W,C), in place."""
        flat, mix = x.flatten(0, 1), self.gate.mix
        values = pointwise_conv(
            flat, self.proj_1, bias=bias_like(self.proj_1, x), activation="gelu"
        )
        scales = multiscale_conv(values.view(x.shape), self.gate.depthwise()).flatten(0, 1)
        values = pointwise_conv(scales, mix, bias=bias_like(mix, x), factor=values)
        gain = self.gain.flatten().to(x.dtype)
        pointwise_conv(
            values, self.proj_2, bias=bias_like(self.proj_2, x), out=flat, add=True, gain=gain
        )

    def with_mlp(self, x: Tensor) -> Tensor:
        """Return the sum of `x` (H,W,C), which may be overwritten, and its MLP."""
        if use_fused_mlp(x, self.fc1.out_channels):
            return fused_mlp(x, self.fc1, bias_like(self.fc1, x), self.dwconv, self.fc2)
        self.add_mlp(x)
        return x

    def add_mlp(self, x: Tensor) -> None:
        """Add the MLP to `x` (H,W,C), in place, in bands of rows."""
        height, width, _ = x.shape
        bias = bias_like(self.fc1, x)
        row_bytes = x.element_size() * width * len(bias)
        step = min(height, max(2, BAND_BYTES // row_bytes))
        hidden = new_empty(x, step + 2, width, len(bias))
        # Outside of the map, hidden values plus the bias are zero.
        torch.neg(bias.expand_as(hidden[0]), out=hidden[0])
        pointwise_conv(x[0], self.fc1, out=hidden[1])
        for top in range(0, height, step):
            if top:
                hidden[:2] = hidden[step:]  # the rows `top` - 1 and `top`
            rows = min(step, height - top)
            below = x[top + 1 : top + 1 + rows].flatten(0, 1)
            pointwise_conv(below, self.fc1, out=hidden[2:].flatten(0, 1)[: len(below)])
            if top + rows == height:
                torch.neg(bias.expand_as(hidden[0]), out=hidden[rows + 1])
            band = depthwise_gelu(hidden[: rows + 2], bias, self.dwconv).flatten(0, 1)
            pointwise_conv(band, self.fc2, out=x[top : top + rows].flatten(0, 1), add=True)


class FusedMSCA(nn.Module):
    """`MSCA` that adds in place."""

    def __init__(self, unit: MSCA) -> None:
        super().__init__()
        self.local = unit.conv0
        self.pairs = nn.ModuleList(
            nn.Sequential(unit.get_submodule(f"conv{i}_1"), unit.get_submodule(f"conv{i}_2"))
            for i in range(3)
        )
        self.mix = unit.conv3

    def forward(self, x: Tensor) -> Tensor:
        local = self.local(x)
        first, *others = self.pairs
        scales = first(local)
        for pair in others:
            scales.add_(pair(local))
        return self.mix(scales.add_(local)).mul_(x)

    def depthwise(self) -> list[nn.Conv2d]:
        """Return the local convolution, then a horizontal and a vertical one of each pair."""
        convs = [self.local, *(conv for pair in self.pairs for conv in pair.children())]
        return [conv for conv in convs if isinstance(conv, nn.Conv2d)]


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return slope and offset (C,) of a batch norm in evaluation mode, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return slope, norm.bias.double() - norm.running_mean.double() * slope


def fold_before(conv: nn.Conv2d, slope: Tensor, offset: Tensor) -> nn.Conv2d:
    """Fold slope·x + offset before `conv`, which must not pad, into its weights."""
    assert conv.kernel_size == (1, 1)
    assert conv.bias is not None
    weight = conv.weight.double()
    conv.bias = nn.Parameter((conv.bias.double() + weight.flatten(1) @ offset).float())
    conv.weight = nn.Parameter((weight * slope[:, None, None]).float())
    return conv


def fold_after(conv: nn.Conv2d, slope: Tensor, offset: Tensor | float = 0.0) -> nn.Conv2d:
    """Fold slope·y + offset after `conv` into its weights."""
    assert conv.bias is not None
    conv.bias = nn.Parameter((conv.bias.double() * slope + offset).float())
    conv.weight = nn.Parameter((conv.weight.double() * slope[:, None, None, None]).float())
    return conv
