"""The blocks of SegNeXt on a CUDA device; importing this needs Triton."""

from __future__ import annotations

import logging
from subprocess import CalledProcessError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from triton.runtime.errors import TritonError

from geoseg.model.fused import FusedBlock
from geoseg.model.gpu.kernels import convolve, multiscale, taps

LOG = logging.getLogger("geoseg")


def use_triton(network: nn.Module) -> None:
    """Replace the blocks of a network, which is on its device, by `TritonBlock`.

    The first one is tried out, which compiles the kernels. Where Triton cannot do that, for want of
    a C compiler, say, the blocks stay as they are.
    """
    blocks = {
        (parent, name): TritonBlock(child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, FusedBlock)
    }
    for block in list(blocks.values())[:1]:
        weight = block.plain.proj_1.weight
        try:
            block(weight.new_zeros(1, weight.shape[1], 8, 8))
        except (TritonError, CalledProcessError, ImportError, OSError, RuntimeError) as error:
            LOG.warning("Triton fails here, the network is slower: %s", error)
            return
    for (parent, name), block in blocks.items():
        parent.add_module(name, block)


class TritonBlock(nn.Module):
    """`FusedBlock` with the kernels of `geoseg.model.gpu.kernels`.

    1×1 convolutions are matrix products, whose biases and sums cost no passes of their own.

    Args:
        block: on its device, its weights in the type that they are computed in. `torch.compile`
            takes it as it is.
    """

    def __init__(self, block: FusedBlock) -> None:
        super().__init__()
        self.plain = block
        local, *strips = block.gate.depthwise()
        across, down = strips[::2], strips[1::2]
        self.weights = taps(local), taps(*across), taps(*down)
        self.biases = biases(local)[0], biases(*across), biases(*down).sum(dim=0)
        self.mlp_weights, (self.mlp_bias,) = taps(block.dwconv), biases(block.dwconv)
        self.gain = block.gain.flatten().to(block.proj_1.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:  # (N,C,H,W)
        plain = self.plain
        if torch.compiler.is_compiling():
            return plain(x)
        x = x.movedim(1, -1).contiguous()  # (N,H,W,C), as all below
        values = F.gelu(pointwise(x, plain.proj_1))
        scales = multiscale(values, self.weights, self.biases)
        values = pointwise(scales, plain.gate.mix).mul_(values)
        # 1 + gain, in one step, would lose the gain in half precision.
        y = pointwise(values, plain.proj_2).addcmul_(x, self.gain).add_(x)
        hidden = convolve(pointwise(y, plain.fc1), self.mlp_weights, self.mlp_bias, gelu=True)
        y.flatten(0, 2).addmm_(hidden.flatten(0, 2), plain.fc2.weight.flatten(1).T)
        return y.movedim(-1, 1)


def pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply a 1×1 convolution to `x` (N,H,W,C)."""
    flat = F.linear(x.flatten(0, 2), conv.weight.flatten(1), conv.bias)
    return flat.unflatten(0, x.shape[:3])


def biases(*convs: nn.Conv2d) -> Tensor:
    """Return the biases of convolutions as (convolutions,C), in float32."""
    return torch.stack([conv.bias.float() for conv in convs if conv.bias is not None])
