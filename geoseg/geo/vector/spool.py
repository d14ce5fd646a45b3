"""Polygons of a scene on disk: they come in no order, and are read class by class in theirs."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import OutputError
from geoseg.geo.vector.cleanup import CleanPolygons
from geoseg.geo.vector.polygons import Polygons

_BAND = 4096
"""Rows of pixels whose polygons are sorted together."""


class PolygonSpool:
    """Clean polygons in temporary files, so that memory does not grow with their number. A context.

    The files have no names: they vanish with the process.
    """

    def __init__(self, folder: Path) -> None:
        """Args:
        folder: where the disk space comes from.
        """
        self._folder = folder
        self._bands: dict[int, list[int]] = defaultdict(list)
        """Offsets in the unsorted file by band of rows."""
        self._classes: dict[int, list[int]] = defaultdict(list)
        """Offsets in the sorted file by class."""

    def __enter__(self) -> PolygonSpool:
        try:
            self._unsorted: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)
            self._sorted: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)
        except OSError as error:
            raise self._failed(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (self._unsorted, self._sorted):
            try:
                file.close()
            except OSError as failure:  # bytes that were still to be written, on a full disk
                if kind is None:
                    raise self._failed(failure) from failure

    def append(self, clean: CleanPolygons) -> None:
        """Add polygons. Raises OutputError, for instance on a full disk."""
        bands = clean.first_corners[:, 1] // _BAND
        for band in np.unique(bands).tolist():
            which = bands == band
            part = CleanPolygons(clean.polygons.select(which), clean.first_corners[which])
            self._bands[band].append(self._dump(self._unsorted, part))

    def sort(self) -> None:
        """Sort the polygons by their first pixels, and number them from 0.

        Raises OutputError, for instance on a full disk.
        """
        count = 0
        for band in sorted(self._bands):
            parts = (self._load(self._unsorted, offset) for offset in self._bands.pop(band))
            polygons = CleanPolygons.concatenate(parts).polygons
            self._append_sorted(polygons, count)
            count += len(polygons)

    def load(self) -> Polygons:
        """Return all polygons in their order, after `sort`."""
        parts = [part for class_id in self._classes for part in self.of_class(class_id)]
        indices = np.concatenate([np.zeros(0, np.intp), *(numbers for numbers, _ in parts)])
        return Polygons.concatenate(part for _, part in parts).take(np.argsort(indices))

    def replace(self, polygons: Polygons) -> None:
        """Hold these polygons instead, in the order in which they come. Raises OutputError."""
        self._sorted.truncate(0)
        self._classes.clear()
        self._append_sorted(polygons, 0)

    def _append_sorted(self, polygons: Polygons, first: int) -> None:
        for class_id in np.unique(polygons.class_id).tolist():
            indices = np.flatnonzero(polygons.class_id == class_id)
            part = first + indices, polygons.take(indices)
            self._classes[class_id].append(self._dump(self._sorted, part))

    @property
    def class_ids(self) -> list[int]:
        """The classes that occur, after `sort`, ascending."""
        return sorted(self._classes)

    def of_class(self, class_id: int) -> Iterator[tuple[NDArray[np.intp], Polygons]]:
        """Yield numbers and polygons of a class in their order, those of one band at a time."""
        for offset in self._classes[class_id]:
            yield self._load(self._sorted, offset)

    def _dump(self, file: IO[bytes], content: Any) -> int:
        try:
            offset = file.seek(0, os.SEEK_END)
            pickle.dump(content, file, protocol=5)
        except OSError as error:
            raise self._failed(error) from error
        return offset

    def _load(self, file: IO[bytes], offset: int) -> Any:
        try:
            file.seek(offset)
            return pickle.load(file)
        except OSError as error:  # bytes that were still to be written, on a full disk
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"{self._folder} cannot be written: {error.strerror or error}")
