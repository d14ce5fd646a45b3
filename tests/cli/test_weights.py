"""`geoseg weights`: one line for every failure, and what is needed to go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_formats import write_jittor, write_original
from click.testing import CliRunner, Result

from geoseg import ISAID, load_model
from geoseg.cli.main import main
from geoseg.model.hub import PUBLIC_WEIGHTS
from geoseg.model.segnext import SegNeXt


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["weights", *map(str, args)])


def fails(*args: str | Path, saying: str) -> None:
    result = run(*args)
    assert result.exit_code != 0
    assert saying in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "jseg.pkl"
    write_jittor(path, SegNeXt("T").state_dict())
    return path


def test_import_show_and_load(pickled: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.safetensors"
    result = run("import", pickled, out, "--classes", "isaid", "--gsd", 0.1, 1, "--license", "CC0")
    assert result.exit_code == 0, result.output
    shown = run("show", out).stdout
    for word in ("SegNeXt-T", "storage_tank", "1.12", "0.1 to 1 m", "CC0", "jseg.pkl", "sha256"):
        assert word in shown
    metadata = load_model(out).metadata
    assert metadata.classes == ISAID
    assert metadata.gsd_range == (0.1, 1.0)


def test_import_with_class_file_and_options(tmp_path: Path) -> None:
    write_original(tmp_path / "in.pth", SegNeXt("T", 2).state_dict())
    table = tmp_path / "classes.csv"
    table.write_text("id,name,color\n0,land,#000000\n1,sea,#0000ff\n")
    out = tmp_path / "out.safetensors"
    options = ("--scale", "0.5", "--nmf-rank", "4")
    result = run("import", tmp_path / "in.pth", out, "--classes", table, *options)
    assert result.exit_code == 0, result.output
    metadata = load_model(out).metadata
    assert [item.name for item in metadata.classes] == ["land", "sea"]
    assert (metadata.scale, metadata.nmf_rank) == (0.5, 4)


def test_import_keeps_existing_files(pickled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    fails("import", pickled, out, "--classes", "isaid", saying="--overwrite")
    assert out.read_text() == "mine"
    assert run("import", pickled, out, "--classes", "isaid", "--overwrite").exit_code == 0
    load_model(out)


def test_import_errors(pickled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    bad = tmp_path / "bad.pkl"
    bad.write_bytes(b"cos\nsystem\n(V false\ntR.")
    fails("import", bad, out, "--classes", "isaid", saying="os.system")
    fails("import", pickled, out, "--classes", tmp_path / "none.csv", saying="none.csv")
    fails("import", pickled, out, "--classes", "stored", saying="--classes FILE")
    fails("import", pickled, out, "--classes", "isaid", "--scale", "0", saying="'scale'")
    fails("import", pickled, out, "--classes", "isaid", "--gsd", "2", "1", saying="'gsd_range'")
    fails("import", pickled, tmp_path / "no" / "out", "--classes", "isaid", saying="cannot write")
    assert not out.exists()
    assert "Missing option '--classes'" in run("import", pickled, out).stderr


def test_list_names_all() -> None:
    listing = run("list").stdout
    for entry in PUBLIC_WEIGHTS:
        assert entry.name in listing
        assert str(entry.miou) in listing
    assert listing.count("not fetched yet") == len(PUBLIC_WEIGHTS)


def test_show_does_not_fetch(cache: Path) -> None:
    result = run("show", "segnext_b_isaid")
    assert result.exit_code == 0
    assert "weights fetch segnext_b_isaid" in result.stdout
    assert not cache.exists()


def test_show_of_other_files(pickled: Path) -> None:
    fails("show", "nothing", saying="no name of public weights")
    fails("show", pickled, saying="geoseg weights import")


def test_fetch_without_network_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    fails("fetch", "segnext_t_isaid", saying="geoseg weights import segnext_tiny_896x896_isaid")


def test_fetch_of_unknown_names() -> None:
    result = run("fetch", "segnext_x")
    assert result.exit_code == 2
    assert "segnext_l_isaid" in result.stderr


@pytest.mark.parametrize("args", [["weights", "--help"], ["weights", "list"]])
def test_listing_loads_neither_torch_nor_gdal(args: list[str]) -> None:
    program = (
        "import sys; from geoseg.cli.main import main; main(sys.argv[1:], standalone_mode=False); "
        "print(sorted({'torch', 'rasterio', 'shapely', 'pyogrio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")
