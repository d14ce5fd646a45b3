"""MSCAN, the encoder of SegNeXt; `geoseg.model.segnext` names the source."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.model.variants import Variant


def depthwise(dim: int, kernel: tuple[int, int]) -> nn.Conv2d:
    """Return a depthwise convolution that keeps height and width."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Conv2d(dim, dim, kernel, padding=padding, groups=dim)


class DropPath(nn.Module):
    """Stochastic depth: training drops residual branches, per sample (Huang et al. 2016)."""

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
    """Multi-scale convolutional attention (paper, eq. 1 and 2)."""

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
    """1×1 - GELU - MSCA - 1×1, plus the module's input, which is already normed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.spatial_gating_unit = MSCA(dim)
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x)))) + x


class DepthwiseConv(nn.Module):
    """A 3×3 depthwise convolution; a module only to keep the official parameter name."""

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
    """Attention and MLP, each normed before and scaled after, added to the input."""

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
    """Encoder of pixels (N,3,H,W) to the maps of four stages, at 1/4, 1/8, 1/16 and 1/32."""

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
            # The next stage reads the normed map, too.
            x = self.get_submodule(f"norm{i}")(x)
            stages.append(x)
        return stages
