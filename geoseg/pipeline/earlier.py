"""Results of earlier runs: done already, to be replaced, or in the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from geoseg.atomic import companions
from geoseg.classes import LabelClass
from geoseg.errors import OutputError
from geoseg.geo.layers.formats import FORMATS, earlier_files, planned_files
from geoseg.geo.layers.geopackage import NO_OBJECTS
from geoseg.geo.layers.names import distinct_names
from geoseg.geo.raster.cog_writer import beside
from geoseg.pipeline.execution.block_store import difference
from geoseg.pipeline.options import OutputOptions
from geoseg.pipeline.outputs import planned_names
from geoseg.pipeline.summary import ClassTotal, Summary

_DOMAIN, _KEY = "GEOSEG", "RUN"


@dataclass(frozen=True, slots=True)
class Record:
    """One finished run."""

    run: dict[str, Any]
    """What its results depend on; see `results_fingerprint`."""
    outputs: dict[str, str]
    """Names of files in the folder, by kind."""
    summary: dict[str, Any]
    """See `Summary.as_dict`."""

    @classmethod
    def read(cls, raster: Path) -> Record | None:
        """The record of the class raster at `raster`; None where there is none."""
        try:
            root = ElementTree.parse(beside(raster)).getroot()
            text = root.findtext(f"Metadata[@domain='{_DOMAIN}']/MDI[@key='{_KEY}']")
            content = json.loads(text or "")
            found = cls(content["run"], content["outputs"], content["summary"])
        except (OSError, ElementTree.ParseError, ValueError, KeyError, TypeError):
            return None
        parts = (found.run, found.outputs, found.summary)
        if not all(isinstance(part, dict) for part in parts):
            return None
        return found if all(map(_is_name, found.outputs.values())) else None

    def write(self, raster: Path) -> None:
        """Add the record to what stands beside `raster`. Raises OSError."""
        root = ElementTree.parse(beside(raster)).getroot()
        domain = ElementTree.SubElement(root, "Metadata", domain=_DOMAIN)
        content = {"run": self.run, "outputs": self.outputs, "summary": self.summary}
        ElementTree.SubElement(domain, "MDI", key=_KEY).text = json.dumps(content)
        beside(raster).write_bytes(ElementTree.tostring(root))

    def summary_in(self, folder: Path, scene: str) -> Summary | None:
        """Return the summary of the run, whose results are in `folder` now.

        None where another version of geoseg recorded other things.

        Args:
            scene: its path as given.
        """
        told: dict[str, Any] = {each.name: self.summary.get(each.name) for each in fields(Summary)}
        told |= {"scene": scene, "state": "skipped"}
        told["outputs"] = {kind: str(folder / name) for kind, name in self.outputs.items()}
        try:
            told["classes"] = {name: ClassTotal(**each) for name, each in told["classes"].items()}
            told["notes"] = tuple(told["notes"])
        except (AttributeError, TypeError):
            return None
        return Summary(**told)

    def missing(self, folder: Path) -> list[str]:
        """Names of outputs that are no longer in `folder`."""
        return [name for name in self.outputs.values() if not (folder / name).exists()]

    def changes(self, now: Mapping[str, Any]) -> str | None:
        """What differs from the run that is asked for, in words; None where nothing does."""
        others = {key: value for key, value in now.items() if key != "files"}
        if any(self.run.get(key) != value for key, value in others.items()):
            return difference(self.run, others)
        if self.run.get("files") != now.get("files"):
            return "the scene, or a file that belongs to it, has changed since"
        return None


def _is_name(text: object) -> bool:
    """Of a file in the folder itself: others are not touched, whatever a record says."""
    return isinstance(text, str) and text not in ("", "..") and Path(text).name == text


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
        cls,
        request: OutputOptions,
        stem: str,
        classes: Iterable[LabelClass],
        *,
        mosaic: bool = False,
    ) -> Earlier:
        """By the names that this run's results have, and by the record of the last one; where
        there is none, by what is in files that are called like results."""
        folder, names = request.folder, planned_names(request, stem, mosaic=mosaic)
        record = Record.read(folder / names["classes"])
        possible = [folder / name for name in names.values()]
        obsolete = [] if record is None else [folder / name for name in record.outputs.values()]
        layers = [*distinct_names(item.name for item in classes), NO_OBJECTS]
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

    def summary(self, scene: str, request: OutputOptions, now: Mapping[str, Any]) -> Summary | None:
        """Of the earlier run, where it did what is asked for; None where there was none, or where
        it is to be replaced.

        Args:
            scene: its path as given.
            now: what the results depend on, see `results_fingerprint`.

        Raises OutputError where results exist that are others, or not all of them.
        """
        paths, record = self.paths, self.record
        if request.overwrite or not paths:
            return None
        first = paths[0]
        if record is not None:
            told = record.summary_in(request.folder, scene)
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
