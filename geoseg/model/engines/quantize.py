"""Quantization to 8 bits after training, by OpenVINO's NNCF.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (CVPR 2018): weights get a scale for each output channel, activations one range for each
layer, measured on calibration tiles.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geoseg.errors import OptionError
from geoseg.model.cpu.parallel import single_threaded
from geoseg.model.engines.backends import converted, open_backend
from geoseg.model.engines.quantized import QuantizedNetwork
from geoseg.model.fused import fuse
from geoseg.model.metadata import Metadata
from geoseg.model.pyramid import EfficientNetPyramid, fold_norms
from geoseg.model.segnext import SegNeXt

PACKAGES = ("openvino", "nncf")
COMPARED = 8
"""Tiles on which the classes are compared with those before."""


def check_installed() -> None:
    """Raise OptionError if a package that quantizes is missing."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise OptionError(
            f"weights quantize needs {', '.join(missing)}; install it: pip install "
            "'geoseg[quantize]'"
        )


def quantize(
    network: SegNeXt | EfficientNetPyramid, tiles: Sequence[NDArray[np.uint8]]
) -> QuantizedNetwork:
    """Return `network` with convolutions of 8-bit integers.

    Args:
        network: with `metadata`, in evaluation mode.
        tiles: (3,H,W) each, red, green and blue of 0-255; sides are multiples of 32.

    Raises:
        OptionError: a package is missing.
    """
    check_installed()
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    metadata = network.metadata
    data = nncf.Dataset(tiles, lambda tile: normalized(tile, metadata))
    with single_threaded():
        graph = converted(fuse(network) if isinstance(network, SegNeXt) else fold_norms(network))
    preset = nncf.QuantizationPreset.MIXED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what NNCF imports
        found = nncf.quantize(graph, data, preset=preset, subset_size=len(tiles))
    note = f"Quantized to 8 bits by NNCF {version('nncf')} on {len(tiles)} tiles."
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(found, path, compress_to_fp16=False)
        files = [path.read_bytes(), path.with_suffix(".bin").read_bytes()]
    text, values = (torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in files)
    provenance = "\n".join(filter(None, (metadata.provenance, note)))
    # The metrics are of the weights before.
    return QuantizedNetwork(text, values, replace(metadata, provenance=provenance, metrics={}))


def agreement(
    network: nn.Module, quantized: QuantizedNetwork, tiles: Sequence[NDArray[np.uint8]]
) -> float:
    """Return the share of cells of the first `COMPARED` tiles whose class quantization keeps."""
    engine = open_backend("openvino", quantized, torch.device("cpu"), torch.float32)
    same = []
    with torch.inference_mode():
        for tile in tiles[:COMPARED]:
            x = torch.from_numpy(normalized(tile, quantized.metadata))
            same.append((network(x).argmax(dim=1) == engine(x).argmax(dim=1)).flatten())
    return float(torch.cat(same).float().mean())


def normalized(tile: NDArray[np.uint8], metadata: Metadata) -> NDArray[np.float32]:
    """Return a tile (3,H,W) as the network takes it (1,3,H,W)."""
    mean, std = (np.array(each)[:, None, None] for each in (metadata.mean, metadata.std))
    return ((tile - mean) / std).astype(np.float32)[None]
