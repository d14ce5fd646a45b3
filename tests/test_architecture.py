"""Who may import whom, seen from fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
GIS = {"rasterio", "shapely", "geopandas", "pyogrio", "pyproj", "osgeo", "dask", "zarr"}
BARE = GIS | {"click", "pydantic"}
"""What a machine with torch and pytorch-lightning may lack."""


def loaded_by(code: str, *, without: set[str] = frozenset()) -> set[str]:
    """Top-level modules after running `code`, in which the modules `without` do not exist."""
    script = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(without)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
{code}
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def import_all(room: str) -> str:
    """Code that imports every module of a package."""
    names = sorted(
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for path in (REPOSITORY / room).glob("*.py")
        if path.name != "__init__.py"
    )
    assert len(names) > 3
    return f"import {', '.join(names)}"


def test_gis_never_imports_torch():
    loaded = loaded_by(import_all("geoseg/geo"))
    assert "rasterio" in loaded
    assert not loaded & {"torch", "pytorch_lightning"}


@pytest.mark.parametrize("room", ["geoseg/model", "geoseg/train"])
def test_models_and_training_do_without_gis(room):
    loaded = loaded_by(import_all(room), without=BARE)
    assert "torch" in loaded
    assert not loaded & GIS


def test_preparing_isaid_needs_numpy_and_pillow_only():
    loaded = loaded_by("import geoseg.datasets.isaid")
    assert not loaded & (GIS | {"torch", "yaml", "pytorch_lightning"})


def test_help_loads_neither_torch_nor_gdal():
    code = """
from geoseg.cli.main import main
for name in (None, *main.commands):
    main(["--help"] if name is None else [name, "--help"], standalone_mode=False)
"""
    assert not loaded_by(code) & (GIS | {"torch", "numpy", "PIL"})


def test_a_missing_extra_is_named_in_one_line():
    code = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: (
    None if name == "pytorch_lightning" else find(name, *rest)
)
from geoseg.cli.main import main
main(["train", "segnext_t_own"])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert "pip install 'geoseg[train]'" in done.stderr
