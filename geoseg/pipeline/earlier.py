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
from geoseg.geo.layers.export import earlier_files, planned_files
from geoseg.geo.layers.formats import FORMATS
from geoseg.geo.layers.geopackage import NO_OBJECTS
from geoseg.geo.layers.names import distinct_names
from geoseg.geo.raster.cog_writer import aux_xml_path
from geoseg.model.engines.backends import BACKENDS, Backend
from geoseg.pipeline.execution.block_store import difference, kept_run
from geoseg.pipeline.options import OutputOptions
from geoseg.pipeline.outputs import planned_names
from geoseg.pipeline.summary import ClassTotal, Summary

_DOMAIN, _KEY = "GEOSEG", "RUN"


@dataclass(frozen=True, slots=True)
class Record:
    """One finished run."""

    run: dict[str, Any]
    """See `results_fingerprint`."""
    outputs: dict[str, str]
    """Names of files in the folder, by kind."""
    summary: dict[str, Any]
    """See `Summary.as_dict`."""

    @classmethod
    def read(cls, raster: Path) -> Record | None:
        """Return the record beside the class raster at `raster`, or None."""
        try:
            root = ElementTree.parse(aux_xml_path(raster)).getroot()
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
        """Add the record to the sidecar of `raster`. Raises OSError."""
        root = ElementTree.parse(aux_xml_path(raster)).getroot()
        domain = ElementTree.SubElement(root, "Metadata", domain=_DOMAIN)
        content = {"run": self.run, "outputs": self.outputs, "summary": self.summary}
        ElementTree.SubElement(domain, "MDI", key=_KEY).text = json.dumps(content)
        aux_xml_path(raster).write_bytes(ElementTree.tostring(root))

    def summary_in(self, folder: Path, scene: str) -> Summary | None:
        """Return the summary of the run, whose results are in `folder` now.

        None if another version of geoseg recorded other fields.

        Args:
            scene: path as given.
        """
        values: dict[str, Any] = {
            each.name: self.summary.get(each.name) for each in fields(Summary)
        }
        values |= {"scene": scene, "state": "skipped"}
        values["outputs"] = {kind: str(folder / name) for kind, name in self.outputs.items()}
        try:
            totals = values["classes"].items()
            values["classes"] = {name: ClassTotal(**each) for name, each in totals}
            values["notes"] = tuple(values["notes"])
        except (AttributeError, TypeError):
            return None
        return Summary(**values)

    def missing(self, folder: Path) -> list[str]:
        """Return the names of outputs that are no longer in `folder`."""
        return [name for name in self.outputs.values() if not (folder / name).exists()]

    def changes(self, now: Mapping[str, Any]) -> str | None:
        """Say how the run differs from the one requested `now`; None if it does not."""
        others = {key: value for key, value in now.items() if key != "files"}
        if any(self.run.get(key) != value for key, value in others.items()):
            return difference(self.run, others)
        if self.run.get("files") != now.get("files"):
            return "the scene, or a file that belongs to it, has changed since"
        return None


def _is_name(text: object) -> bool:
    """Accept names of files in the folder itself only: a forged record removes nothing else."""
    return isinstance(text, str) and text not in ("", "..") and Path(text).name == text


@dataclass(frozen=True, slots=True)
class Earlier:
    """The contents of the output folder before a run."""

    possible: tuple[Path, ...]
    """Files that the run may write or remove."""
    obsolete: tuple[Path, ...]
    """Results of the last run on the same scene, which the new ones replace."""
    record: Record | None
    """Record of the last run on the same scene."""
    mosaic: bool
    """The scene is a mosaic, which is also an output."""

    @classmethod
    def find(
        cls,
        output: OutputOptions,
        stem: str,
        classes: Iterable[LabelClass],
        *,
        mosaic: bool = False,
    ) -> Earlier:
        """Find earlier results by the names of this run's outputs and by the last record.

        Without a record, files of the same names count if their content is geoseg's.
        """
        folder, names = output.folder, planned_names(output, stem, mosaic=mosaic)
        record = Record.read(folder / names["classes"])
        possible = [folder / name for name in names.values()]
        obsolete = [] if record is None else [folder / name for name in record.outputs.values()]
        layers = [*distinct_names(item.name for item in classes), NO_OBJECTS]
        for kind in output.formats:
            if kind in FORMATS and FORMATS[kind].per_class:
                possible += planned_files(folder, stem, kind, layers)
                if record is None:
                    obsolete += earlier_files(folder, stem, kind, ())
        every = dict.fromkeys([*possible, *obsolete])
        return cls(tuple(every), tuple(obsolete), record, mosaic)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Existing files that the run may replace, with their companions."""
        every = (each for path in self.possible for each in (path, *companions(path)))
        return tuple(path for path in every if os.path.lexists(path))

    def backend(self, working: Path, *, overwrite: bool) -> Backend | None:
        """Return the engine of results that stay, else of finished blocks; None if there are none.

        Args:
            working: the folder of the blocks.
        """
        runs = [None if overwrite or self.record is None else self.record.run, kept_run(working)]
        found = (run.get("backend") for run in runs if isinstance(run, dict))
        return next((name for name in found if name in BACKENDS), None)

    def summary(self, scene: str, output: OutputOptions, now: Mapping[str, Any]) -> Summary | None:
        """Return the summary of the earlier run if it did the same; None if there is nothing, or
        it is to be replaced.

        Args:
            scene: path as given.
            now: `results_fingerprint` of this run.

        Raises OutputError if other results exist, or some of them are missing.
        """
        paths, record = self.paths, self.record
        if output.overwrite or not paths:
            return None
        first = paths[0]
        if record is not None:
            summary = record.summary_in(output.folder, scene)
            if (changes := record.changes(now)) is not None:
                raise OutputError(
                    f"{first} exists, but {changes}; give --overwrite or another folder (-o)"
                )
            if missing := record.missing(output.folder):
                raise OutputError(
                    f"{first} exists, but {missing[0]} of the same run is gone; give "
                    "--overwrite to make all of it anew"
                )
            if summary is not None and (output.keep_going or not summary.damaged):
                return summary
        raise OutputError(f"{first} exists; give --overwrite or another folder (-o)")
