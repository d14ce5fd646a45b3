"""Results of earlier runs: done already, to be replaced, or in the way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.atomic import companions
from geoseg.classes import LabelClass
from geoseg.errors import OutputError
from geoseg.geo.layers.formats import FORMATS, earlier_files, planned_files
from geoseg.geo.layers.geopackage import NO_OBJECTS
from geoseg.geo.layers.names import distinct
from geoseg.pipeline.options import Request
from geoseg.pipeline.outputs import planned_names
from geoseg.pipeline.record import Record
from geoseg.pipeline.summary import Summary


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is in the folder of the results before a run."""

    possible: tuple[Path, ...]
    """All that may be written or go."""
    obsolete: tuple[Path, ...]
    """Results of the last run on the same scene: they go when the new ones come."""
    record: Record | None
    """What the last run on the same scene says of itself."""
    mosaic: bool
    """The scene is a mosaic, which is a result, too."""

    @classmethod
    def find(
        cls, request: Request, stem: str, classes: Iterable[LabelClass], *, mosaic: bool = False
    ) -> Earlier:
        """By the names that this run's results have, and by the record of the last one; where
        there is none, by what is in files that are called like results."""
        folder, names = request.folder, planned_names(request, stem, mosaic=mosaic)
        record = Record.read(folder / names["classes"])
        possible = [folder / name for name in names.values()]
        obsolete = [] if record is None else [folder / name for name in record.outputs.values()]
        layers = [*distinct(item.name for item in classes), NO_OBJECTS]
        for kind in request.formats:
            if kind in FORMATS and FORMATS[kind].per_class:
                possible += planned_files(folder, stem, kind, layers)
                if record is None:
                    obsolete += earlier_files(folder, stem, kind, ())
        every = dict.fromkeys([*possible, *obsolete])
        return cls(tuple(every), tuple(obsolete), record, mosaic)

    @property
    def paths(self) -> tuple[Path, ...]:
        """What is there of all that may be written, and of what belongs to it."""
        every = (each for path in self.possible for each in (path, *companions(path)))
        return tuple(path for path in every if os.path.lexists(path))

    def summary(self, scene: str, request: Request, now: Mapping[str, Any]) -> Summary | None:
        """Of the earlier run, where it did what is asked for; None where there was none, or where
        it is to be replaced.

        Args:
            scene: its path as given.
            now: what the results depend on, see `results_identity`.

        Raises OutputError where results exist that are others, or not all of them.
        """
        paths, record = self.paths, self.record
        if request.overwrite or not paths:
            return None
        first = paths[0]
        if record is not None:
            told = Summary.of_earlier(record, request.folder, scene)
            if (changes := record.changes(now)) is not None:
                raise OutputError(
                    f"{first} exists, but {changes}; give --overwrite or another folder (-o)"
                )
            if missing := record.missing(request.folder):
                raise OutputError(
                    f"{first} exists, but {missing[0]} of the same run is gone; give "
                    "--overwrite to make all of it anew"
                )
            if told is not None and (request.keep_going or not told.damaged):
                return told
        raise OutputError(f"{first} exists; give --overwrite or another folder (-o)")
