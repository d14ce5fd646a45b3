"""Inference engines for a CPU besides torch, through one ONNX export.

Each tile shape is exported and compiled once, with its first tile, so that all sizes in the program
are constants. The default, torch's eager mode, compiles nothing.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg.errors import OptionError

Backend = Literal["torch", "openvino", "onnxruntime"]

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Tiles (1,3,H,W) to logits (1,C,H/8,W/8), for one H and W."""

PRECISIONS: dict[Backend, dict[torch.dtype, str]] = {
    "openvino": {torch.float32: "f32", torch.bfloat16: "bf16"},
    "onnxruntime": {torch.float32: "f32"},
}
"""Data types of each backend, with OpenVINO's names for them."""


def open_backend(
    backend: Backend, model: nn.Module, device: torch.device, dtype: torch.dtype, threads: int
) -> Callable[[Tensor], Tensor]:
    """Return `model` as a function of float32 tensors on the CPU, computed by another engine.

    Raises:
        OptionError: the backend cannot do it or is not installed; the message names the flag.
    """
    if device.type != "cpu":
        raise OptionError(
            f"--backend {backend} computes on the CPU, not on --device {device}; leave one out"
        )
    if dtype not in PRECISIONS[backend]:
        known = " or ".join(str(known).removeprefix("torch.") for known in PRECISIONS[backend])
        name = str(dtype).removeprefix("torch.")
        raise OptionError(f"--backend {backend} computes in {known}, not in --precision {name}")
    if missing := missing_packages(backend):
        raise OptionError(
            f"--backend {backend} needs {', '.join(missing)}; "
            f"install it: pip install 'geoseg[{backend}]'"
        )
    if backend == "openvino":
        hint = PRECISIONS[backend][dtype]
        return Compiled(model, partial(compile_openvino, precision=hint, threads=threads))
    return Compiled(model, partial(compile_onnxruntime, threads=threads))


def missing_packages(backend: Backend) -> list[str]:
    """Return the packages that the backend needs and that are not installed."""
    needed = () if backend == "torch" else (backend, "onnx", "onnxscript")
    return [name for name in needed if find_spec(name) is None]


class Compiled:
    """A model that is compiled for each new input shape. Pickling drops the compiled programs."""

    def __init__(self, model: nn.Module, compile_onnx: Callable[[bytes], Run]) -> None:
        self.model, self.compile_onnx = model, compile_onnx
        self.compiled: dict[torch.Size, Run] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "compiled": {}}

    def __call__(self, x: Tensor) -> Tensor:
        # Tile by tile: a CPU gains nothing from a batch, and the last batch may be smaller.
        return torch.cat([self.run(tile) for tile in x.split(1)])

    def run(self, tile: Tensor) -> Tensor:
        if tile.shape not in self.compiled:
            self.compiled[tile.shape] = self.compile_onnx(export_onnx(self.model, tile.shape))
        return torch.from_numpy(self.compiled[tile.shape](tile.contiguous().numpy()))


def export_onnx(model: nn.Module, shape: torch.Size) -> bytes:
    """Return the ONNX file of `model` for inputs of one shape."""
    # The exporter warns of every optional package that is not installed.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(model, (torch.zeros(shape),), dynamo=True, verbose=False)
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto.SerializeToString()


def compile_onnxruntime(model: bytes, *, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning threads would take cores from the pipeline's threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    return lambda tile: session.run(None, {pixels.name: tile})[0]


def compile_openvino(model: bytes, *, precision: str, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the pipeline's threads share the cores
    }
    compiled = core.compile_model(core.read_model(model), "CPU", options)
    return lambda tile: compiled(tile)[0]
