"""The rules of the house: who imports whom, how large things may be, what an import may change."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
GIS = {"rasterio", "shapely", "geopandas", "pyogrio", "pyproj", "osgeo", "dask", "zarr"}
BARE = GIS | {"click", "pydantic"}
"""What a machine with torch and pytorch-lightning may lack."""
SOURCES = sorted(path for room in ("geoseg", "cli") for path in (REPOSITORY / room).rglob("*.py"))
TREES = {path.relative_to(REPOSITORY).as_posix(): ast.parse(path.read_text()) for path in SOURCES}

MAX_MODULES = 15
"""Modules in a folder: as many as a reader takes in at a glance."""
MAX_LINES = 380
"""Lines of a module."""
MAX_FUNCTION = 70
"""Lines of a function, with its docstring."""
MAX_READING = 10
"""Modules of `pipeline` that explain a prediction on one machine."""

# Exceptions. They shall become fewer: a test fails when one is no longer needed.
FOREIGN_PRIVATES = {
    "geoseg/geo/gdal_errors.py: rasterio._err",
    "geoseg/model/cpu/convolutions.py: torch.ops.mkldnn._convolution_pointwise",
    "geoseg/model/cpu/convolutions.py: torch.ops.mkldnn._convolution_pointwise_",
    "geoseg/model/cpu/convolutions.py: torch.ops.mkldnn._linear_pointwise",
    "geoseg/model/devices.py: torch.cpu._is_avx512_bf16_supported",
    "geoseg/train/trainer.py: torch._foreach_copy_",
    "geoseg/train/trainer.py: torch._foreach_lerp_",
}


# -- Layers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Python sources laid out as pip installs them."""
    root = tmp_path_factory.mktemp("installed")
    only_python = shutil.ignore_patterns("__pycache__", "*.so", "*.c", "*.h", "*.safetensors")
    for source, target in (
        ("geoseg", "geoseg"),
        ("cli", "geoseg/cli"),
        ("configs", "geoseg/configs"),
    ):
        shutil.copytree(REPOSITORY / source, root / target, ignore=only_python)
    return root


def check_imports(package: Path) -> subprocess.CompletedProcess[str]:
    """Run the import contracts of pyproject.toml on the package below this folder."""
    pytest.importorskip("importlinter")
    script = "from importlinter.cli import lint_imports_command as run; run()"
    config = str(REPOSITORY / "pyproject.toml")
    return subprocess.run(
        [sys.executable, "-c", script, "--no-cache", "--config", config],
        cwd=package,  # the package here goes before the one that is installed
        env={**os.environ, "PYTHONPATH": str(package), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_contracts(installed):
    done = check_imports(installed)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


FORBIDDEN = {
    ("geo/crs.py", "import geoseg.model.segnext"): "Imports point downward",
    ("geo/crs.py", "from geoseg.geo.raster import scene"): "Inside geo, too",
    ("synthetic/canvas.py", "from geoseg.datasets import layout"): "Imports point downward",
    ("pipeline/plan.py", "import dask"): "Only pipeline.execution imports dask",
    ("geo/crs.py", "import torch"): "GIS never imports torch",
    ("model/variants.py", "import rasterio"): "Models never import GIS",
    (
        "geo/geobox.py",
        "if TYPE_CHECKING:\n    from geoseg.geo import overlay",
    ): "No circles, neither of modules nor of folders",
}
"""Contracts by the module and the line that break them."""


def test_forbidden_imports_break_the_contracts(installed, tmp_path):
    """All at once: the report names each below the contract that it breaks."""
    shutil.copytree(installed / "geoseg", tmp_path / "geoseg")
    for name, line in FORBIDDEN:
        path = tmp_path / "geoseg" / name
        path.write_text(f"{path.read_text()}\n{line}\n")
    done = check_imports(tmp_path)
    assert done.returncode == 1
    details = done.stdout.partition("Broken contracts")[2]
    for (name, line), contract in FORBIDDEN.items():
        assert f"{contract} BROKEN" in done.stdout
        reasons = re.split(r"^(.+)\n-+\n", details, flags=re.MULTILINE)
        reason = reasons[reasons.index(contract) + 1]
        for module in (Path(name).stem, re.split(r"[ .]", line)[-1]):
            assert re.search(rf"\b{module}\b", reason), (name, line, reason)


def test_only_commands_use_the_public_api():
    """`geoseg/__init__.py` lies above the rooms, which import from each other's modules."""
    rooms = {path.stem for path in (REPOSITORY / "geoseg").iterdir() if path.suffix in {"", ".py"}}
    users = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "geoseg"
        and not rooms.issuperset(alias.name for alias in node.names)
    }
    assert {name for name in users if not name.startswith("cli/")} == set()


# -- Sizes ------------------------------------------------------------------------------------


def test_folders_are_small():
    modules = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert len(modules) > 10
    assert {folder: count for folder, count in modules.items() if count > MAX_MODULES} == {}


def test_modules_are_short():
    lines = {path: path.read_text().count("\n") for path in SOURCES}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_functions_are_short():
    long = {
        f"{name}: {node.name}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    }
    assert not long


def imported_by(name: str) -> set[str]:
    """Modules of `pipeline` that a module imports when it is loaded."""
    modules = {node.module for node in TREES[name].body if isinstance(node, ast.ImportFrom)}
    paths = {f"{module.replace('.', '/')}.py" for module in modules if module}
    return {path for path in paths & TREES.keys() if path.startswith("geoseg/pipeline/")}


def test_a_prediction_is_understood_from_a_few_modules():
    """Clusters come on top: `cluster.py` and `worker.py` are imported only for --scheduler."""
    reading, new = set(), {"geoseg/pipeline/predict.py"}
    while new:
        reading |= new
        new = set().union(*map(imported_by, new)) - reading
    assert 5 < len(reading) <= MAX_READING
    page = (REPOSITORY / "docs/architecture.md").read_text("utf-8")
    listed = re.findall(r"^\| `((?:execution/)?\w+\.py)` \|", page, re.MULTILINE)
    assert {f"geoseg/pipeline/{name}" for name in listed} == reading


# -- Private names of other distributions -------------------------------------------------------


def is_private(name: str) -> bool:
    return any(re.match(r"_(?!_)", part) for part in name.split("."))


def foreign_imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """What is imported from packages other than geoseg: the name here, and what it stands for."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                if top != "geoseg":
                    yield (alias.asname or top), (alias.name if alias.asname else top)
                    yield alias.name, alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            if module.partition(".")[0] not in {"geoseg", "__future__"}:
                yield module, module
                for alias in node.names:
                    yield (alias.asname or alias.name), f"{module}.{alias.name}"


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` of an attribute of a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return None


def foreign_privates(tree: ast.Module) -> Iterator[str]:
    """Private names that a module takes from packages other than geoseg."""
    foreign = dict(foreign_imports(ast.walk(tree)))
    for name in foreign.values():
        module = name.rpartition(".")[0]
        if is_private(name):
            yield module if is_private(module) else name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and (name := dotted(node)):
            first, _, rest = name.partition(".")
            if first in foreign:
                yield f"{foreign[first]}.{rest}"


def test_no_private_names_of_other_distributions():
    standard = sys.stdlib_module_names
    found = {
        f"{module}: {name}"
        for module, tree in TREES.items()
        for name in foreign_privates(tree)
        if name.partition(".")[0] not in standard
    }
    assert found == FOREIGN_PRIVATES


# -- What an import changes ---------------------------------------------------------------------

IMPORT_EVERYTHING = """
import contextlib, gc, importlib, json, logging, os, pkgutil, signal, sys, threading, warnings

def state():
    loggers = [logging.root, *logging.Logger.manager.loggerDict.values()]
    return {
        "warning filters": [str(each) for each in warnings.filters],
        "switch interval": sys.getswitchinterval(),
        "gc thresholds": gc.get_threshold(),
        "environment": dict(os.environ),
        "signal handlers": [str(signal.getsignal(each)) for each in signal.valid_signals()],
        "threads": threading.active_count(),
        "excepthook": str(sys.excepthook),
        "torch threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 0,
    } | {
        f"handlers of {each.name}": [str(handler) for handler in each.handlers]
        for each in loggers if isinstance(each, logging.Logger) and each.handlers
    }

for name in json.load(sys.stdin):  # other packages may change what they like
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
before = state()
import geoseg
for found in pkgutil.walk_packages(geoseg.__path__, "geoseg."):
    if not found.name.endswith(("__main__", "_compiled")):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            if error.name != "triton":  # torch brings it along for CUDA only
                raise
import geoseg.cli.main
after = state()
changed = [key for key in before | after if before.get(key) != after.get(key)]
print(json.dumps([changed, sum(name.startswith("geoseg.") for name in sys.modules)]))
"""


def test_imports_change_nothing_process_wide():
    others = {name for tree in TREES.values() for _, name in foreign_imports(tree.body)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING],
        input=json.dumps(sorted(others)),
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY.parent,
    )
    assert done.returncode == 0, done.stderr
    changed, modules = json.loads(done.stdout.splitlines()[-1])
    assert modules > 100
    assert not changed


# -- What is loaded -----------------------------------------------------------------------------


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
main(["train", "lite2_own"])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert "pip install 'geoseg[train]'" in done.stderr
