"""A network on one device: pixels in, logits out."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from geoseg.model.fused import FusedSegNeXt
from geoseg.model.metadata import Metadata

DIHEDRAL_GROUP = tuple(itertools.product((False, True), range(4)))
"""The symmetries of the square: whether to mirror, then how many right angles to rotate."""


BAND = 64
"""Rows of pixels; at the width of a tile they take 1.1 MB."""


class Forward:
    """Normalization, the network, and test-time augmentation around it.

    Args:
        network: normalized pixels (N,3,H,W) to logits (N,C,H/8,W/8), on `device`.
        dtype: the type that it computes in, by autocast; float32 leaves it to the network.
        pixels: the type in which a network on a CPU takes normalized pixels.
        tta: average the probabilities over the `DIHEDRAL_GROUP`.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        metadata: Metadata,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        pixels: torch.dtype = torch.float32,
        tta: bool = False,
    ) -> None:
        self.network, self.device, self.dtype, self.tta = network, device, dtype, tta
        self.pixels = pixels
        # Made once: a copy of a new tensor would wait for all that the device has to do.
        self.mean, self.std = (
            torch.tensor(values, device=device) for values in (metadata.mean, metadata.std)
        )

    def __call__(self, pixels: Tensor, valid: Tensor) -> Tensor:
        """Return the logits of tiles; log-probabilities if `tta` is set.

        Args:
            pixels: (N,3,H,W) uint8.
            valid: (N,H,W), 0 where there is no data.
        """
        if self.tta:
            return self.augmented(self.normalize(pixels, valid))
        if self.device.type == "cpu" and isinstance(self.network, FusedSegNeXt):

            def rows(top: int, bottom: int) -> Tensor:
                return self.normalize(pixels[:, :, top:bottom], valid[:, top:bottom])

            with self.autocast():
                return self.network.by_rows(rows, pixels.shape[2])
        return self.run(self.normalize(pixels, valid))

    def normalize(self, pixels: Tensor, valid: Tensor) -> Tensor:
        """Return (N,3,H,W) with zero mean and unit deviation, 0 where not valid."""
        if self.device.type == "cpu":
            return self.normalize_by_bands(pixels, valid)
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        # Plane by plane first: with three values a pixel, channels-last order is slow to scale.
        x = pixels.to(self.device).contiguous().to(torch.float32).sub_(mean).div_(std)
        x = x.mul_(valid.to(self.device)[:, None])
        return x.contiguous(memory_format=torch.channels_last)

    def normalize_by_bands(self, pixels: Tensor, valid: Tensor) -> Tensor:
        """Do the same on a CPU, for as many rows at a time as its cache holds."""
        count, channels, height, width = pixels.shape
        x = torch.empty((count, height, width, channels), dtype=self.pixels)
        mean, std = self.mean.repeat(width), self.std.repeat(width)
        for top in range(0, height, BAND):
            part, inside = x[:, top : top + BAND], valid[:, top : top + BAND]
            band = part if part.dtype == torch.float32 else torch.empty(part.shape)
            for channel in range(channels):
                band[..., channel].copy_(pixels[:, channel, top : top + BAND])
            # One long row of all channels: three values a pixel are slow to scale.
            band.view(count, -1, width * channels).sub_(mean).div_(std)
            if not inside.all():
                band.mul_(inside[..., None])
            if band is not part:
                part.copy_(band)
        return x.permute(0, 3, 1, 2)

    def run(self, x: Tensor) -> Tensor:
        """Return the logits of normalized tiles."""
        with self.autocast():
            return self.network(x)

    def autocast(self) -> torch.autocast:
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if half else None, enabled=half)

    def augmented(self, x: Tensor) -> Tensor:
        """Return the log of the mean probabilities over the `DIHEDRAL_GROUP`."""
        probs = sum(
            invert(self.run(transform(x, *symmetry)).float().softmax(dim=1), *symmetry)
            for symmetry in DIHEDRAL_GROUP
        )
        assert isinstance(probs, Tensor)
        return (probs / len(DIHEDRAL_GROUP)).log()


def transform(x: Tensor, mirror: bool, quarters: int) -> Tensor:
    """Apply a symmetry of the square to maps (N,C,H,W)."""
    return torch.rot90(x.flip(3) if mirror else x, quarters, (2, 3))


def invert(x: Tensor, mirror: bool, quarters: int) -> Tensor:
    """Undo `transform`."""
    x = torch.rot90(x, -quarters, (2, 3))
    return x.flip(3) if mirror else x
