"""Makes the zip that QGIS installs: the plugin with the source of geoseg inside.

Usage: python qgis/make_plugin.py DIST
"""

from __future__ import annotations

import configparser
import os
import sys
import zipfile
from pathlib import Path

from setuptools import build_meta

PLUGIN = Path(__file__).resolve().parent / "geoseg_qgis"
REPOSITORY = PLUGIN.parents[1]
EPOCH = (2020, 1, 1, 0, 0, 0)
"""Time of all files in the zip, so that the same sources make the same zip."""
SUFFIXES = {".py", ".svg", ".txt", ".lock", ".qm"}


def make_source(folder: Path) -> Path:
    """Build the source distribution of geoseg, which the plugin installs."""
    before = Path.cwd()
    os.chdir(REPOSITORY)
    try:
        return folder / build_meta.build_sdist(str(folder))
    finally:
        os.chdir(before)


def make_zip(folder: Path) -> Path:
    """Write the zip, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = configparser.ConfigParser()
    metadata.read(PLUGIN / "metadata.txt", "utf-8")
    target = folder / f"geoseg_qgis-{metadata['general']['version']}.zip"
    files = {
        path.relative_to(PLUGIN.parent).as_posix(): path
        for path in PLUGIN.rglob("*")
        if path.suffix in SUFFIXES
    }
    source = make_source(folder)
    files[f"{PLUGIN.name}/{source.name}"] = source
    files[f"{PLUGIN.name}/LICENSE"] = REPOSITORY / "LICENSE"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), path.read_bytes(), zipfile.ZIP_DEFLATED)
    source.unlink()
    return target


if __name__ == "__main__":
    print(make_zip(Path(sys.argv[1]).absolute()))
