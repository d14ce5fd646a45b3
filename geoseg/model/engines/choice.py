"""The engine of ``auto``: by what was measured (docs/performance.md), and whether it pays."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from geoseg.errors import OptionError
from geoseg.model.engines.backends import (
    Backend,
    graph_path,
    install_hint,
    missing_packages,
)
from geoseg.model.pyramid import EfficientNetPyramid

PAYS_FROM = 100e6
"""Pixels for each thread from which OpenVINO saves more time than its conversion takes: 4.5 s of
one thread, at 0.05 s saved for each megapixel of float32."""


class Choice(NamedTuple):
    """An engine, and why."""

    backend: Backend
    reason: str


def choose_backend(
    model: nn.Module, device: torch.device, dtype: torch.dtype, *, pixels: float, threads: int
) -> Choice:
    """Return the engine that computes this many pixels in the least time.

    Args:
        model: in its inference form.
        threads: that compute.
    """
    if device.type != "cpu":
        return Choice("torch", f"the device is {device}")
    if not isinstance(model, EfficientNetPyramid):
        return Choice("torch", "OpenVINO is faster for EfficientNet pyramids only")
    if dtype != torch.float32:
        return Choice("torch", f"OpenVINO is hardly faster in {str(dtype).removeprefix('torch.')}")
    if missing_packages("openvino"):
        return Choice("torch", "OpenVINO, which is faster, is not installed")
    if graph_path(model).is_file():
        return Choice("openvino", "it is faster, and has converted these weights before")
    if pixels < PAYS_FROM * threads:
        return Choice("torch", "OpenVINO would have to convert the weights first: too few pixels")
    return Choice("openvino", "it is faster")


def same_again(backend: Backend) -> Choice:
    """Return the engine of earlier results or blocks of a scene.

    Raises:
        OptionError: it is not installed any more.
    """
    if missing := missing_packages(backend):
        raise OptionError(
            f"earlier work on this scene was computed with --backend {backend}, which needs "
            f"{', '.join(missing)}; {install_hint(backend)}, or give --backend torch to start anew"
        )
    return Choice(backend, "as before for this scene")
