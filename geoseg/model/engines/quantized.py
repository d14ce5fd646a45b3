"""Weights of 8 bits: a graph of OpenVINO's in a checkpoint, with the metadata of its network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from geoseg.errors import CheckpointError
from geoseg.model.checkpoint import GRAPH, WEIGHTS, is_quantized, open_checkpoint, write_tensors
from geoseg.model.metadata import Metadata


class QuantizedNetwork(nn.Module):
    """A network as OpenVINO's files: normalized pixels (1,3,H,W) to logits (1,C,H/8,W/8).

    Only OpenVINO runs it; see `geoseg.model.engines.backends`.

    Args:
        graph, weights: uint8, the bytes of the two files.
        metadata: of the network that was quantized.
    """

    graph: Tensor
    weights: Tensor

    def __init__(self, graph: Tensor, weights: Tensor, metadata: Metadata) -> None:
        super().__init__()
        self.metadata = metadata
        self.register_buffer("graph", graph)
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        raise CheckpointError("quantized weights run on OpenVINO only: give them to a TileModel")

    @property
    def files(self) -> tuple[bytes, bytes]:
        """The contents of OpenVINO's .xml and .bin."""
        return self.graph.numpy().tobytes(), self.weights.numpy().tobytes()


def read_quantized(path: Path) -> QuantizedNetwork | None:
    """Return the network of a checkpoint, or None if that one is not quantized.

    Raises:
        CheckpointError: it cannot be read, or its tensors are no bytes.
    """
    with open_checkpoint(path) as (file, metadata):
        if not is_quantized(file):
            return None
        graph, weights = file.get_tensor(GRAPH), file.get_tensor(WEIGHTS)
        if any(each.dtype != torch.uint8 or each.ndim != 1 for each in (graph, weights)):
            raise CheckpointError("its graph is damaged: no plain bytes")
        return QuantizedNetwork(graph, weights, metadata).eval()


def save_quantized(path: Path, network: QuantizedNetwork) -> None:
    """Write a checkpoint; the file appears complete or not at all. Raises OutputError."""
    write_tensors(path, {GRAPH: network.graph, WEIGHTS: network.weights}, network.metadata)
