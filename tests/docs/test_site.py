"""The site builds without a warning: every link and every name in it leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import geoseg

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (REPOSITORY / "docs").glob("*.md"):
        name = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
        assert (tmp_path / name).is_file()
    api = (tmp_path / "python-api" / "index.html").read_text("utf-8")
    for name in geoseg.__all__:
        if not name.startswith("__"):
            assert re.search(rf'id="geoseg[\w.]*\.{name}"', api), name
    assert "<!-- include" not in (tmp_path / "contributing" / "index.html").read_text("utf-8")
