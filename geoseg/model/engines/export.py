"""Write weights as a model file of another framework, checked against torch."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from geoseg.atomic import Staging
from geoseg.errors import CheckpointError, OptionError
from geoseg.guard import check_outputs
from geoseg.model.cpu.parallel import single_threaded
from geoseg.model.engines.graph import SIDES, STRIDE, GraphForm, PixelGraph, trace
from geoseg.model.engines.tool_keys import output_name, tool_keys

Format = Literal["onnx", "openvino", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": (),
}
"""Packages that write a format and run it, to check it."""
EXTRAS: dict[Format, str] = {"onnx": "export", "openvino": "openvino", "torch": ""}
"""Extras of geoseg that install these packages."""
TOLERANCE = 1e-3
"""Largest difference to torch of logits; probabilities then differ by at most half of it."""
CHECKED = ((96, 160), (224, 128))
"""Heights and widths of the pictures on which a file with free sides is checked."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def export_weights(
    network: nn.Module,
    path: Path,
    to: Format,
    *,
    form: GraphForm | None = None,
    gsd: float | None = None,
    overwrite: bool = False,
) -> float:
    """Write `network` to `path`; the file appears when it gives what torch gives.

    OpenVINO's weights lie beside it, in a file of the same name with the suffix .bin.

    Args:
        network: with `metadata`, in evaluation mode.
        form: what the file's graph takes and gives.
        gsd: pixel size that tools shall show the model, m; None = the finest it was trained on.

    Returns:
        The largest difference to torch, of logits or probabilities.

    Raises:
        OptionError: the format or its packages are missing, or the form is impossible.
        OutputError: the file exists or cannot be written.
        CheckpointError: the graph does not compute what the network does.
    """
    form = form or GraphForm()
    check_options(path, to, form)
    files = [path, path.with_suffix(".bin")] if to == "openvino" else [path]
    check_outputs(files, [], overwrite=overwrite)
    with single_threaded(), Staging(path.parent, path.name) as staging:
        whole = PixelGraph(network, form).eval()
        program = trace(whole, form.size)
        target = staging.new / path.name
        write, run = WRITERS[to]
        write(program, target, tool_keys(network, form, gsd), output_name(form))
        difference = largest_difference(whole, run(target), form)
        limit = TOLERANCE / 2 if form.probabilities else TOLERANCE
        if not difference <= limit:  # NaN, too
            raise CheckpointError(
                f"the exported graph differs from torch by {difference:.2g}, more than {limit:g}; "
                "nothing was written: try another format (--to)"
            )
    return difference


def check_options(path: Path, to: Format, form: GraphForm) -> None:
    """Check what can be known before the work. Raises OptionError."""
    if to not in get_args(Format):
        raise OptionError(f"format is {to!r:.40}; choose from {', '.join(get_args(Format))}")
    if path.suffix.lower() != SUFFIXES[to]:
        raise OptionError(f"{path} is no name for --to {to}; end it in {SUFFIXES[to]}")
    least, largest = SIDES
    side = form.tile_size
    if side is not None and (side % STRIDE or not least <= side <= largest):
        raise OptionError(
            f"--tile-size is {side}; give a multiple of {STRIDE} from {least} to {largest}"
        )
    if missing := [name for name in PACKAGES[to] if find_spec(name) is None]:
        raise OptionError(
            f"--to {to} needs {', '.join(missing)}; install it: pip install 'geoseg[{EXTRAS[to]}]'"
        )


def largest_difference(whole: PixelGraph, run: Run, form: GraphForm) -> float:
    """Return the largest difference between a file's outputs and torch's on two pictures."""
    rng, found = np.random.default_rng(0), list[float]()
    shapes = (form.size, form.size) if form.size else CHECKED
    for height, width in shapes:
        coarse = rng.uniform(0, form.highest_pixel, (1, 3, height // STRIDE, width // STRIDE))
        pixels = coarse.repeat(STRIDE, axis=2).repeat(STRIDE, axis=3)
        pixels += rng.uniform(0, form.highest_pixel / 8, pixels.shape)
        tile = pixels.clip(0, form.highest_pixel).astype(np.float32)
        with torch.inference_mode():
            expected = whole(torch.from_numpy(tile)).numpy()
        found.append(float(np.abs(run(tile) - expected).max()))
    return float(np.max(found))


def write_torch(program: ExportedProgram, path: Path, keys: dict[str, str], output: str) -> None:
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(keys)})


def run_torch(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(tile: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = module(torch.from_numpy(tile)).numpy()
            return found

    return run


def write_onnx(program: ExportedProgram, path: Path, keys: dict[str, str], output: str) -> None:
    converted = onnx_program(program, output)
    converted.model.metadata_props.update(keys)
    converted.save(path, external_data=False)


def onnx_program(program: ExportedProgram, output: str) -> torch.onnx.ONNXProgram:
    """Return the ONNX form of a graph, whose input is named pixels."""
    with quiet_exporter():
        converted = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["pixels"],
            output_names=[output],
        )
    assert converted is not None
    return converted


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence warnings of every optional package that the exporter does not find."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def run_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda tile: session.run(None, {"pixels": tile})[0]


def write_openvino(program: ExportedProgram, path: Path, keys: dict[str, str], output: str) -> None:
    import openvino

    model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({"pixels"})
    model.outputs[0].get_tensor().set_names({output})
    for key, value in keys.items():
        model.set_rt_info(value, ["model_info", key])
    openvino.save_model(model, path, compress_to_fp16=False)


def run_openvino(path: Path) -> Run:
    import openvino

    # A processor with bfloat16 would otherwise compute in it.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda tile: compiled(tile)[0]


WRITERS = {
    "onnx": (write_onnx, run_onnx),
    "openvino": (write_openvino, run_openvino),
    "torch": (write_torch, run_torch),
}
