"""Find weights by name or file, and load them as a network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from geoseg.errors import CheckpointError
from geoseg.model.checkpoint import build_model, read_checkpoint
from geoseg.model.cpu.parallel import single_threaded
from geoseg.model.engines.quantized import QuantizedNetwork, read_quantized
from geoseg.model.hub import fetch, find_public
from geoseg.model.pyramid import EfficientNetPyramid
from geoseg.model.segnext import SegNeXt
from geoseg.model.variants import BUILT_IN, DEFAULT_WEIGHTS

Network = SegNeXt | EfficientNetPyramid | QuantizedNetwork
FOREIGN_SUFFIXES = {".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin"}


def load_model(weights: str | Path | None = None) -> Network:
    """Return a trained network on the CPU, in float32 and evaluation mode.

    Its `metadata` tells how to normalize the pixels for its `forward`, which quantized weights
    leave to a `TileModel`.

    Args:
        weights: path of a geoseg checkpoint, or a name of `geoseg weights list`; public weights
            are downloaded on first use. None and ``default`` are `DEFAULT_WEIGHTS`.

    Raises:
        CheckpointError: there are no such weights, or they cannot be read.
    """
    with single_threaded():
        path = locate_weights(weights)
        if (quantized := read_quantized(path)) is not None:
            return quantized
        return build_model(*read_checkpoint(path))


def locate_weights(weights: str | Path | None = None) -> Path:
    """Return the checkpoint file that `load_model` reads for the same argument."""
    if weights is None or weights == "default":
        weights = DEFAULT_WEIGHTS
    if weights in BUILT_IN:
        path = Path(str(files("geoseg.model.weights") / f"{weights}.safetensors"))
        if not path.is_file():
            raise CheckpointError(
                f"this build of geoseg has no {path.name} in its package; "
                "name other weights: --weights NAME or FILE, see `geoseg weights list`"
            )
        return path
    if isinstance(weights, str) and (public := find_public(weights)):
        return fetch(public)
    path = Path(weights)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no file and no name of public weights"
        raise CheckpointError(f"weights {str(weights)!r}: this {what}")
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        raise CheckpointError(
            f"{path} is not a geoseg checkpoint; convert it once: geoseg weights import "
            f"{path} {path.with_suffix('.safetensors').name} --classes isaid"
        )
    return path
