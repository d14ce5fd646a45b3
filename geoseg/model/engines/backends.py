"""Inference engines for a CPU besides torch, compiled from the network's own graph.

OpenVINO compiles a graph with free height and width, which it keeps in a cache folder for the next
run. ONNX Runtime gets a file for each tile shape, with its first tile, so that all sizes in the
program are constants. The default, torch's eager mode, compiles nothing.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg.atomic import Staging
from geoseg.errors import OptionError, OutputError
from geoseg.model.checkpoint import weights_hash
from geoseg.model.engines.export import onnx_program
from geoseg.model.engines.graph import STRIDE, trace, with_fixed_padding
from geoseg.model.engines.quantized import QuantizedNetwork
from geoseg.model.hub import cache_folder
from geoseg.model.pyramid import EfficientNetPyramid
from geoseg.version import VERSION

LOG = logging.getLogger("geoseg")
Backend = Literal["torch", "openvino", "onnxruntime"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
BackendOption = Literal["auto", Backend]
"""``auto`` is for `geoseg.model.engines.choice`."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Tiles (1,3,H,W) to logits (1,C,H/8,W/8)."""

PRECISIONS: dict[Backend, dict[torch.dtype, str]] = {
    "openvino": {torch.float32: "f32", torch.bfloat16: "bf16"},
    "onnxruntime": {torch.float32: "f32"},
}
"""Data types of each backend, with OpenVINO's names for them."""
PACKAGES: dict[Backend, tuple[str, ...]] = {
    "torch": (),
    "openvino": ("openvino",),
    "onnxruntime": ("onnx", "onnxruntime", "onnxscript"),
}
EXTRAS: dict[Backend, str] = {"openvino": "openvino", "onnxruntime": "export"}
"""Extras of geoseg that install these packages."""
PROGRAMS = 4
"""Tile shapes whose programs of quantized weights are kept."""
_COMPILING = threading.Lock()
"""Held while a program is compiled, which threads need at the same time."""


def open_backend(
    backend: Backend,
    model: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    streams: int = 1,
    threads: int = 1,
) -> Callable[[Tensor], Tensor]:
    """Return `model` as a function of float32 tensors on the CPU, computed by another engine.

    Args:
        streams: threads that call the function at once.
        threads: of the cores, for each of these.

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
            f"--backend {backend} needs {', '.join(missing)}; {install_hint(backend)}"
        )
    if backend == "openvino":
        return OpenVINO(model, PRECISIONS[backend][dtype], streams, threads)
    return OnnxRuntime(model, threads)


def supports(backend: Backend, dtype: torch.dtype) -> bool:
    """Return whether a backend computes in a type; torch does in all."""
    return backend == "torch" or dtype in PRECISIONS[backend]


def missing_packages(backend: Backend) -> list[str]:
    """Return the packages that the backend needs and that are not installed."""
    return [name for name in PACKAGES[backend] if find_spec(name) is None]


def install_hint(backend: Backend) -> str:
    """Say how to install a backend's packages."""
    return f"install it: pip install 'geoseg[{EXTRAS[backend]}]'"


def by_tile(run: Callable[[Tensor], NDArray[np.float32]], x: Tensor) -> Tensor:
    """Compute a batch tile by tile: a CPU gains nothing from more at once."""
    return torch.cat([torch.from_numpy(run(tile)) for tile in x.split(1)])


class OpenVINO:
    """A model that OpenVINO compiles with its first tile. Pickling drops the compiled programs.

    A quantized one is compiled for each tile shape: with free sides, OpenVINO 2026.4 crashes on
    some of them, as 608 px.

    Args:
        precision: OpenVINO's name of the data type.
        streams: tiles that are computed side by side, each for a calling thread.
        threads: of the cores, for each of these.
    """

    def __init__(self, model: nn.Module, precision: str, streams: int, threads: int) -> None:
        self.model, self.precision = model, precision
        self.streams, self.threads = streams, threads
        self.compiled: dict[tuple[int, int] | None, Any] = {}
        """By height and width; None = all."""

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "compiled": {}}

    def __call__(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3]) if isinstance(self.model, QuantizedNetwork) else None
        with _COMPILING:
            if size not in self.compiled:
                if len(self.compiled) == PROGRAMS:
                    self.compiled.pop(next(iter(self.compiled)))  # the oldest
                self.compiled[size] = self.compile(size)
            program = self.compiled[size]
        request = program.create_infer_request()
        return by_tile(lambda tile: request.infer([tile.contiguous().numpy()])[0].copy(), x)

    def compile(self, size: tuple[int, int] | None) -> Any:
        import openvino

        path, core = cached_graph(self.model), openvino.Core()
        graph = core.read_model(path)
        if size is not None:
            graph.reshape([1, 3, *size])
        options = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": self.streams * self.threads,
            "NUM_STREAMS": self.streams,
            "ENABLE_CPU_PINNING": False,  # the pipeline's threads share the cores
            "CACHE_DIR": str(path.parent),
        }
        return core.compile_model(graph, "CPU", options)


def graph_path(model: nn.Module) -> Path:
    """Return where `cached_graph` keeps OpenVINO's file of `model`."""
    parts = (VERSION, torch.__version__, version("openvino"), type(model).__name__)
    key = hashlib.sha256("\n".join((*parts, weights_hash(model))).encode()).hexdigest()[:16]
    return cache_folder().with_name("openvino") / key / "model.xml"


def cached_graph(model: nn.Module) -> Path:
    """Return OpenVINO's file of `model`, in the user's cache folder; made at the first use.

    Raises:
        OutputError: the folder cannot be written.
    """
    import openvino

    path = graph_path(model)
    folder = path.parent
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made: {error.strerror}; set GEOSEG_CACHE to a folder that can be "
            "written"
        ) from None
    with FileLock(folder / "lock"):
        if not path.is_file():
            LOG.info("converting the network for OpenVINO, once for these weights: %s", folder)
            with Staging(folder, "model", given_as="GEOSEG_CACHE") as staging:
                openvino.save_model(
                    converted(model), staging.new / path.name, compress_to_fp16=False
                )
    return path


def converted(model: nn.Module) -> Any:
    """Return OpenVINO's graph of `model`, for free sides that are multiples of 32."""
    import openvino

    if isinstance(model, QuantizedNetwork):
        graph, weights = model.files
        return openvino.Core().read_model(graph, weights)
    if not isinstance(model, EfficientNetPyramid):
        return openvino.convert_model(trace(model))
    # By TorchScript, in a tenth of the time; SegNeXt's fused form has branches that it cannot see.
    plain = with_fixed_padding(copy.deepcopy(model))
    return openvino.convert_model(plain, example_input=torch.zeros(1, 3, 2 * STRIDE, 3 * STRIDE))


class OnnxRuntime:
    """A model that is compiled for each new input shape. Pickling drops the compiled programs."""

    def __init__(self, model: nn.Module, threads: int) -> None:
        self.model, self.threads = model, threads
        self.compiled: dict[torch.Size, Run] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "compiled": {}}

    def __call__(self, x: Tensor) -> Tensor:
        return by_tile(self.run, x)

    def run(self, tile: Tensor) -> NDArray[np.float32]:
        with _COMPILING:
            if tile.shape not in self.compiled:
                self.compiled[tile.shape] = self.compile(export_onnx(self.model, tile.shape))
        return self.compiled[tile.shape](tile.contiguous().numpy())

    def compile(self, model: bytes) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # Spinning threads would take cores from the pipeline's threads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda tile: session.run(None, {"pixels": tile})[0]


def export_onnx(model: nn.Module, shape: torch.Size) -> bytes:
    """Return the ONNX file of `model` for inputs (1,3,H,W) of one shape."""
    program = onnx_program(trace(model, (shape[2], shape[3])), "logits")
    proto: bytes = program.model_proto.SerializeToString()
    return proto
