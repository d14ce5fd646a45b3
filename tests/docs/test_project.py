"""What the project says of itself agrees: rooms, version, Python versions, files of the image."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


ROOMS = {
    ".".join(path.parent.relative_to(REPOSITORY).parts)
    for path in (REPOSITORY / "geoseg").rglob("__init__.py")
}
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))


def test_every_room_is_installed():
    packages = PYPROJECT["tool"]["setuptools"]["packages"]
    assert packages == sorted(ROOMS | {"geoseg.cli", "geoseg.cli.analysis", "geoseg.configs"})


def test_every_room_is_on_the_plan():
    plan = (REPOSITORY / "docs/architecture.md").read_text("utf-8")
    listed = re.findall(r"^\| `([\w.]+)` \|", plan, re.M)
    assert ROOMS <= set(listed) <= ROOMS | {"cli", "geoseg.api"}


def test_one_version_everywhere():
    project = PYPROJECT["project"]
    citation = (REPOSITORY / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation


def test_continuous_integration_covers_what_the_metadata_promises():
    yaml = pytest.importorskip("yaml")
    project = PYPROJECT["project"]
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text("utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert matrix["python"] == promised
    assert project["requires-python"] == f">={promised[0]}"
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_the_image_copies_what_exists():
    text = (REPOSITORY / "Dockerfile").read_text("utf-8")
    sources = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M)
        for word in line.split()
    ]
    admitted = (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines()
    assert len(sources) > 5
    for source in sources:
        assert (REPOSITORY / source).exists()
        assert f"!{source}" in admitted or f"!{source}/" in admitted
