"""Logits and results of blocks as plain arrays and back: NumPy archives without pickles."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.cleanup import CleanPolygons
from geoseg.geo.vector.polygonize import BlockPolygons
from geoseg.geo.vector.polygons import Polygons
from geoseg.pipeline.execution.tasks import BlockLogits, BlockResult
from geoseg.tiling.blending import WeightedLogits
from geoseg.tiling.grid import Block, Window
from geoseg.timing import StageTimer

Arrays = dict[str, NDArray[Any]]


def logits_to_arrays(block: BlockLogits) -> Arrays:
    logits = block.logits
    return {
        "window": windows_to_array([logits.window]),
        "sums": logits.sums,
        "weights": logits.weights,
        "valid": block.valid,
        "damaged": windows_to_array(block.damaged),
    }


def logits_from_arrays(arrays: Arrays) -> BlockLogits:
    (window,) = windows_from_array(arrays["window"])
    return BlockLogits(
        WeightedLogits(window, arrays["sums"], arrays["weights"]),
        arrays["valid"],
        windows_from_array(arrays["damaged"]),
        StageTimer(),
    )


def result_to_arrays(result: BlockResult) -> Arrays:
    arrays: Arrays = {
        "window": windows_to_array([result.window]),
        "class_ids": raster_to_bytes(result.class_ids),
        "damaged": windows_to_array(result.damaged),
        **polygons_to_arrays("closed", result.polygons.closed),
        **polygons_to_arrays("open", result.polygons.open),
        **polygons_to_arrays("clean", result.clean.polygons),
        "clean.first_corners": result.clean.first_corners,
    }
    if result.confidence is not None:
        arrays["confidence"] = raster_to_bytes(result.confidence)
    if result.logits is not None:
        arrays["logits"] = result.logits
    return arrays


def result_from_arrays(arrays: Arrays, number: int, block: Block) -> BlockResult:
    (window,) = windows_from_array(arrays["window"])
    confidence = arrays.get("confidence")
    return BlockResult(
        number=number,
        block=block,
        window=window,
        class_ids=raster_from_bytes(arrays["class_ids"], window),
        confidence=None if confidence is None else raster_from_bytes(confidence, window),
        logits=arrays.get("logits"),
        polygons=BlockPolygons(
            window, polygons_from_arrays("closed", arrays), polygons_from_arrays("open", arrays)
        ),
        clean=CleanPolygons(polygons_from_arrays("clean", arrays), arrays["clean.first_corners"]),
        damaged=windows_from_array(arrays["damaged"]),
        timer=StageTimer(),
    )


def pack_result(result: BlockResult, run: NDArray[np.uint8]) -> bytes:
    """Return the archive of a result, compressed, as `BlockStore` keeps it.

    Args:
        run: `BlockStore.digest`.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, run=run, **result_to_arrays(result))
    return buffer.getvalue()


def unpack_result(content: bytes, number: int, block: Block) -> BlockResult:
    """Return the result that `pack_result` packed."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return result_from_arrays(dict(archive), number, block)


def raster_to_bytes(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compress a raster of long runs, such as a class map, to a few percent."""
    runs = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return np.frombuffer(runs.compress(values.tobytes()) + runs.flush(), np.uint8)


def raster_from_bytes(packed: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    values = np.frombuffer(zlib.decompress(packed.tobytes()), np.uint8)
    return values.reshape(window.height, window.width)


def windows_to_array(windows: Sequence[Window]) -> NDArray[np.int64]:
    rows = [(w.col_off, w.row_off, w.width, w.height) for w in windows]
    return np.array(rows, np.int64).reshape(-1, 4)


def windows_from_array(rows: NDArray[np.int64]) -> tuple[Window, ...]:
    return tuple(Window(*row) for row in rows.tolist())


def polygons_to_arrays(name: str, polygons: Polygons) -> Arrays:
    arrays: Arrays = {
        f"{name}.corners": polygons.corners,
        f"{name}.ring_sizes": polygons.ring_sizes,
        f"{name}.ring_counts": polygons.ring_counts,
        f"{name}.class_id": polygons.class_id,
        f"{name}.pixels": polygons.pixels,
        f"{name}.steps": np.array(polygons.steps),
    }
    if polygons.probability is not None:
        arrays[f"{name}.probability"] = polygons.probability
    return arrays


def polygons_from_arrays(name: str, arrays: Arrays) -> Polygons:
    return Polygons(
        corners=arrays[f"{name}.corners"],
        ring_sizes=arrays[f"{name}.ring_sizes"],
        ring_counts=arrays[f"{name}.ring_counts"],
        class_id=arrays[f"{name}.class_id"],
        pixels=arrays[f"{name}.pixels"],
        probability=arrays.get(f"{name}.probability"),
        steps=int(arrays[f"{name}.steps"]),
    )
