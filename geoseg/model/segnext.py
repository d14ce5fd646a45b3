"""SegNeXt, readable top to bottom: MSCAN encoder and light Hamburger decoder.

Source: Guo et al., "SegNeXt: Rethinking Convolutional Attention Design for Semantic
Segmentation", NeurIPS 2022 (arXiv 2209.08575). Parameter names are those of the official
PyTorch code (``mmseg/models/backbones/mscan.py`` and ``decode_heads/ham_head.py``), so that
its state dicts load as they are. Shapes are (N, C, H, W); comments give them per line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.model.metadata import Metadata
from geoseg.model.variants import VARIANTS, Variant

NmfGradient = Literal["full", "last"]


def depthwise(dim: int, kernel: tuple[int, int]) -> nn.Conv2d:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Conv2d(dim, dim, kernel, padding=padding, groups=dim)


class DropPath(nn.Module):
    """Drops a whole residual branch, per sample, while training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep)
        return x * mask / keep


class MSCA(nn.Module):
    """Multi-scale convolutional attention (paper, eq. 1 and 2): weights times the input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv0 = depthwise(dim, (5, 5))
        self.conv0_1, self.conv0_2 = depthwise(dim, (1, 7)), depthwise(dim, (7, 1))
        self.conv1_1, self.conv1_2 = depthwise(dim, (1, 11)), depthwise(dim, (11, 1))
        self.conv2_1, self.conv2_2 = depthwise(dim, (1, 21)), depthwise(dim, (21, 1))
        self.conv3 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:  # (N,C,H,W), as all below
        local = self.conv0(x)
        scales = local + self.conv0_2(self.conv0_1(local))
        scales = scales + self.conv1_2(self.conv1_1(local))
        scales = scales + self.conv2_2(self.conv2_1(local))
        return self.conv3(scales) * x


class Attention(nn.Module):
    """1×1 - GELU - MSCA - 1×1. The shortcut is this module's (already normed) input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.spatial_gating_unit = MSCA(dim)
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x)))) + x


class DepthwiseConv(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = depthwise(dim, (3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class MLP(nn.Module):
    """Feed-forward part of a block: 1×1 - 3×3 depthwise - GELU - 1×1."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class Block(nn.Module):
    def __init__(self, dim: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = Attention(dim)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = MLP(dim, dim * mlp_ratio)
        self.drop_path = DropPath(drop_path)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        scale_1, scale_2 = self.layer_scale_1[:, None, None], self.layer_scale_2[:, None, None]
        x = x + self.drop_path(scale_1 * self.attn(self.norm1(x)))
        return x + self.drop_path(scale_2 * self.mlp(self.norm2(x)))


class Stem(nn.Module):
    """Patch embedding of stage 1: two 3×3 convolutions, each of stride 2."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, dim // 2, 3, stride=2, padding=1),  # (N,C/2,H/2,W/2)
            nn.BatchNorm2d(dim // 2),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),  # (N,C,H/4,W/4)
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class PatchEmbed(nn.Module):
    """Overlapping patch embedding of stages 2-4: halves the resolution."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


class MSCAN(nn.Module):
    """Encoder. Returns the maps of its four stages, at 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self, variant: Variant, in_channels: int = 3) -> None:
        super().__init__()
        rates = torch.linspace(0, variant.drop_path, sum(variant.depths)).tolist()
        in_dim = in_channels
        for i, (dim, depth, ratio) in enumerate(
            zip(variant.dims, variant.depths, variant.mlp_ratios, strict=True), start=1
        ):
            embed = Stem(in_dim, dim) if i == 1 else PatchEmbed(in_dim, dim)
            blocks = nn.ModuleList(Block(dim, ratio, rates.pop(0)) for _ in range(depth))
            self.add_module(f"patch_embed{i}", embed)
            self.add_module(f"block{i}", blocks)
            self.add_module(f"norm{i}", ChannelNorm(dim, eps=1e-5))
            in_dim = dim

    def forward(self, x: Tensor) -> list[Tensor]:
        stages = []
        for i in range(1, 5):
            x = self.get_submodule(f"patch_embed{i}")(x)
            for block in self.get_submodule(f"block{i}").children():
                x = block(x)
            # The normed map is not a side output: the next stage reads it too.
            x = self.get_submodule(f"norm{i}")(x)
            stages.append(x)
        return stages


class NMF(nn.Module):
    """Non-negative matrix factorization X ≈ B·Cᵀ by multiplicative updates.

    Geng et al., "Is Attention Better Than Matrix Decomposition?", ICLR 2021. In evaluation
    the initial bases are drawn once, so that a scene gives the same map twice; the official
    code draws them anew at every forward, which training here keeps.

    `gradient`: ``full`` back-propagates through all steps (official PyTorch code), ``last``
    through the final coefficient update only (Jittor code, public iSAID weights).
    """

    bases: Tensor
    train_steps, eval_steps = 6, 7
    eps = 1e-6

    def __init__(self, dim: int, rank: int, gradient: NmfGradient = "full") -> None:
        super().__init__()
        self.gradient = gradient
        self.register_buffer("bases", self.draw(1, dim, rank, seed=0), persistent=False)

    @staticmethod
    def draw(n: int, dim: int, rank: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return F.normalize(torch.rand((n, dim, rank), generator=generator), dim=1)

    def forward(self, x: Tensor) -> Tensor:  # (N,D,H,W), non-negative
        # The updates divide by sums of products: half precision is not enough for them.
        with torch.autocast(x.device.type, enabled=False):
            bases, coef = self.factorize(x.float().flatten(2).transpose(1, 2))
            return (coef @ bases.transpose(1, 2)).transpose(1, 2).reshape(x.shape).to(x.dtype)

    def factorize(self, samples: Tensor) -> tuple[Tensor, Tensor]:  # (N,HW,D)
        """Bases (N,D,R) and coefficients (N,HW,R)."""
        bases = self.bases.float().expand(len(samples), -1, -1)
        if self.training:
            bases = F.normalize(torch.rand_like(bases), dim=1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient == "full"):
            coef = torch.softmax(samples @ bases, dim=-1)
            for _ in range(self.train_steps if self.training else self.eval_steps):
                coef = self.update_coef(samples, bases, coef)
                shrink = coef.transpose(1, 2) @ coef  # (N,R,R)
                bases = bases * (samples.transpose(1, 2) @ coef) / (bases @ shrink + self.eps)
        return bases, self.update_coef(samples, bases, coef)

    def update_coef(self, samples: Tensor, bases: Tensor, coef: Tensor) -> Tensor:
        shrink = bases.transpose(1, 2) @ bases  # (N,R,R)
        return coef * (samples @ bases) / (coef @ shrink + self.eps)


class ConvGN(nn.Module):
    """1×1 convolution and GroupNorm(32)."""

    def __init__(self, in_dim: int, dim: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 1, bias=bias)
        self.gn = nn.GroupNorm(32, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.gn(self.conv(x))


class Lift(nn.Module):
    """1×1 convolution with bias; a module only to keep the official parameter name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Hamburger(nn.Module):
    """Global context: the map's low-rank reconstruction, added to it."""

    def __init__(self, dim: int, rank: int, bias: bool, gradient: NmfGradient) -> None:
        super().__init__()
        self.ham_in = Lift(dim)
        self.ham = NMF(dim, rank, gradient)
        self.ham_out = ConvGN(dim, dim, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.ham_out(self.ham(F.relu(self.ham_in(x)))))


class HamHead(nn.Module):
    """Decoder on stages 2-4: resize to 1/8, squeeze, Hamburger, align, classify.

    `bias` gives the three convolutions before a GroupNorm a bias, as the Jittor code had
    until December 2022.
    """

    def __init__(
        self, variant: Variant, num_classes: int, bias: bool, gradient: NmfGradient
    ) -> None:
        super().__init__()
        dim = variant.head
        self.squeeze = ConvGN(sum(variant.dims[1:]), dim, bias)
        self.hamburger = Hamburger(dim, variant.rank, bias, gradient)
        self.align = ConvGN(dim, dim, bias)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(dim, num_classes, 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        size = stages[0].shape[2:]
        maps = [F.interpolate(s, size, mode="bilinear", align_corners=False) for s in stages[1:]]
        x = F.relu(self.squeeze(torch.cat([stages[0], *maps], dim=1)))  # (N,D,H/8,W/8)
        x = F.relu(self.align(self.hamburger(x)))
        return self.conv_seg(self.dropout(x))


class SegNeXt(nn.Module):
    """The whole network: normalised pixels (N,3,H,W) to logits (N,C,⌈H/8⌉,⌈W/8⌉).

    Sides that are not multiples of 32 are accepted as in the official code, but then the
    stages do not share one grid; prediction pads to 32 and crops.
    """

    metadata: Metadata
    """What the checkpoint says of itself; set where weights are loaded."""

    def __init__(
        self,
        variant: str = "T",
        num_classes: int = 16,
        *,
        head_bias: bool = False,
        nmf_gradient: NmfGradient = "full",
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; choose one of {', '.join(VARIANTS)}")
        self.variant = VARIANTS[variant]
        self.num_classes = num_classes
        self.head_bias = head_bias
        self.backbone = MSCAN(self.variant)
        self.decode_head = HamHead(self.variant, num_classes, head_bias, nmf_gradient)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode_head(self.backbone(x)[1:])


def initialise(module: nn.Module) -> None:
    """The official initialisation: Kaiming with fan-out, per group, for convolutions."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2.0 * module.groups / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, HamHead):
        nn.init.normal_(module.conv_seg.weight, std=0.01)
