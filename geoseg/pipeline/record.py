"""What a folder of results says of the run that made them, so that it need not be done again.

The record stands beside the class raster, in the file that GDAL and QGIS keep for it (and keep it
in when they write that file): `<stem>.classes.tif.aux.xml`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from geoseg.geo.raster.cog_writer import beside
from geoseg.pipeline.block_store import difference

_DOMAIN, _KEY = "GEOSEG", "RUN"


@dataclass(frozen=True, slots=True)
class Record:
    """One finished run."""

    run: dict[str, Any]
    """What its results depend on; see `results_identity`."""
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
