"""What blocks leave, as plain arrays and back: for NumPy archives, without pickles."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.polygonize import BlockPolygons
from geoseg.geo.vector.polygons import Polygons
from geoseg.pipeline.execution.tasks import BlockResult, Inferred
from geoseg.tiling.blending import Partial
from geoseg.tiling.grid import Block, Window
from geoseg.timing import Clock

Arrays = dict[str, NDArray[Any]]


def packed_inferred(inferred: Inferred) -> Arrays:
    partial = inferred.partial
    return {
        "window": packed_windows([partial.window]),
        "sums": partial.sums,
        "weights": partial.weights,
        "valid": inferred.valid,
        "damaged": packed_windows(inferred.damaged),
    }


def unpacked_inferred(arrays: Arrays) -> Inferred:
    (window,) = unpacked_windows(arrays["window"])
    return Inferred(
        Partial(window, arrays["sums"], arrays["weights"]),
        arrays["valid"],
        unpacked_windows(arrays["damaged"]),
        Clock(),
    )


def packed_result(result: BlockResult) -> Arrays:
    arrays: Arrays = {
        "window": packed_windows([result.window]),
        "class_ids": packed_raster(result.class_ids),
        "damaged": packed_windows(result.damaged),
        **packed_polygons("closed", result.polygons.closed),
        **packed_polygons("open", result.polygons.open),
    }
    if result.confidence is not None:
        arrays["confidence"] = packed_raster(result.confidence)
    if result.logits is not None:
        arrays["logits"] = result.logits
    return arrays


def unpacked_result(arrays: Arrays, number: int, block: Block) -> BlockResult:
    (window,) = unpacked_windows(arrays["window"])
    confidence = arrays.get("confidence")
    return BlockResult(
        number=number,
        block=block,
        window=window,
        class_ids=unpacked_raster(arrays["class_ids"], window),
        confidence=None if confidence is None else unpacked_raster(confidence, window),
        logits=arrays.get("logits"),
        polygons=BlockPolygons(
            window, unpacked_polygons("closed", arrays), unpacked_polygons("open", arrays)
        ),
        damaged=unpacked_windows(arrays["damaged"]),
        clock=Clock(),
    )


def packed_raster(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class maps shrink to a few per cent: long runs are all that there is to find."""
    runs = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return np.frombuffer(runs.compress(values.tobytes()) + runs.flush(), np.uint8)


def unpacked_raster(packed: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    values = np.frombuffer(zlib.decompress(packed.tobytes()), np.uint8)
    return values.reshape(window.height, window.width)


def packed_windows(windows: Sequence[Window]) -> NDArray[np.int64]:
    rows = [(w.col_off, w.row_off, w.width, w.height) for w in windows]
    return np.array(rows, np.int64).reshape(-1, 4)


def unpacked_windows(rows: NDArray[np.int64]) -> tuple[Window, ...]:
    return tuple(Window(*row) for row in rows.tolist())


def packed_polygons(name: str, polygons: Polygons) -> Arrays:
    arrays: Arrays = {
        f"{name}.corners": polygons.corners,
        f"{name}.ring_sizes": polygons.ring_sizes,
        f"{name}.ring_counts": polygons.ring_counts,
        f"{name}.class_id": polygons.class_id,
        f"{name}.pixels": polygons.pixels,
    }
    if polygons.probability is not None:
        arrays[f"{name}.probability"] = polygons.probability
    return arrays


def unpacked_polygons(name: str, arrays: Arrays) -> Polygons:
    return Polygons(
        corners=arrays[f"{name}.corners"],
        ring_sizes=arrays[f"{name}.ring_sizes"],
        ring_counts=arrays[f"{name}.ring_counts"],
        class_id=arrays[f"{name}.class_id"],
        pixels=arrays[f"{name}.pixels"],
        probability=arrays.get(f"{name}.probability"),
    )
