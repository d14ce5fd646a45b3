"""A preparation changes a folder of patches whole, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from geoseg.atomic import Staging
from geoseg.cli.main import main
from geoseg.datasets.from_boxes import prepare_boxes
from geoseg.datasets.isaid import prepare_isaid
from geoseg.datasets.layout import BOX_COLUMNS, Patching, read_table
from geoseg.errors import DataError, InUseError, OutputError
from geoseg.train.dataset import LabeledFolder

DIE = """
import os, sys
from pathlib import Path
from geoseg import atomic
from geoseg.datasets.from_boxes import prepare_boxes
from geoseg.datasets.layout import Patching

source, target, moves, size = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
rename, commit, left = Path.rename, atomic.commit, moves

def mortal(self, target):
    global left
    if not left:
        os._exit(9)
    left -= 1
    return rename(self, target)

def arm(*arguments, **options):
    Path.rename = mortal
    return commit(*arguments, **options)

atomic.commit = arm
prepare_boxes(source, target, "csv", Patching(size, 0), val_share=0)
print(moves - left)
"""


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write_source(folder: Path, seed: int) -> Path:
    """An image of 64 × 64 px with a box in each quarter."""
    folder.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    lines = ["image,class,x1,y1,x2,y2,x3,y3,x4,y4"]
    for x, y in ((5, 5), (40, 5), (5, 40), (40, 40)):
        corners = (x, y, x + 9, y, x + 9, y + 9, x, y + 9)
        lines.append(f"a.png,ship,{','.join(map(str, corners))}")
    (folder / "boxes.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def harbors(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two sources, and a folder into which both were prepared."""
    sources = [write_source(tmp_path / name, seed) for seed, name in enumerate(("east", "west"))]
    for source in sources:
        prepare_boxes(source, tmp_path / "out", "csv", Patching(32, 0), val_share=0)
    return *sources, tmp_path / "out"


def killed(source: Path, target: Path, moves: int, size: int = 64) -> subprocess.CompletedProcess:
    """A preparation that dies after as many of the moves with which it ends."""
    arguments = [source, target, moves, size]
    return subprocess.run(
        [sys.executable, "-c", DIE, *map(str, arguments)], check=False, text=True, stdout=-1
    )


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """What the folder holds when east was prepared anew with larger patches, then west as it was;
    and the moves that east took."""
    root = tmp_path_factory.mktemp("whole")
    east = write_source(root / "east", 0)
    west = write_source(root / "west", 1)
    for source in (east, west):
        prepare_boxes(source, root / "out", "csv", Patching(32, 0), val_share=0)
    done = killed(east, root / "out", 10**6)
    assert done.returncode == 0
    prepare_boxes(west, root / "out", "csv", Patching(32, 0), val_share=0)
    (root / "out" / "scenes.csv").unlink()  # names the sources' folder
    return contents(root / "out"), int(done.stdout)


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_killed_preparation_is_refused_by_training_and_completed_by_the_next(
    harbors, ending, share
):
    east, west, out = harbors
    expected, moves = ending
    # Four tables and two files of each patch: eight go, and two come.
    assert moves == 4 + 8 + 4 + 2
    died = killed(east, out, min(round(share * moves), moves - 1))
    assert died.returncode == 9
    for look in (LabeledFolder.open, lambda path: prepare_isaid(east, path, Patching(64, 0))):
        with pytest.raises(DataError, match=r"holds patches old and new: .*run it again"):
            look(out)
    arguments = ["evaluate", "default", str(out)]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "run it again, which completes the folder" in refused.stderr
    # Any preparation completes it.
    prepare_boxes(west, out, "csv", Patching(32, 0), val_share=0)
    (out / "scenes.csv").unlink()
    assert contents(out) == expected
    assert len(LabeledFolder.open(out).split("train")) == 1 + 4


def test_tables_and_patches_change_together(harbors, monkeypatch):
    """A full disk at any of the moves takes nothing from the folder, and adds nothing."""
    east, _, out = harbors
    before, rename, left = contents(out), Path.rename, 0

    def fragile(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fragile)
    for failing in (1, 7, 13, 18):
        left = failing
        with pytest.raises(OutputError, match=r"No space left on device; .*\(DST\)"):
            prepare_boxes(east, out, "csv", Patching(64, 0), val_share=0)
        assert contents(out) == before
    left = 0
    prepare_boxes(east, out, "csv", Patching(64, 0), val_share=0)
    rows = read_table(out / "boxes.csv", BOX_COLUMNS)
    assert {row["name"] for row in rows if row["group"] == "east"} == {"east_a_0_64_0_64"}
    assert sum(row["group"] == "west" for row in rows) == 4


def test_files_join_those_of_a_folder_and_made_folders_go_with_a_failure(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "old").write_text("old")

    def add() -> None:
        with Staging(tmp_path, "a", [tmp_path / "images" / "old"], merged=True) as staging:
            for name in ("images/new", "masks/val/new"):
                (staging.new / name).parent.mkdir(parents=True)
                (staging.new / name).write_text("new")

    rename = Path.rename

    def fragile(self: Path, target: Path) -> Path:
        if self.parent.name == "val":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fragile)
        with pytest.raises(OutputError):
            add()
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["images", "old"]
    add()
    assert contents(tmp_path) == {"images/new": b"new", "masks/val/new": b"new"}


def test_a_folder_takes_one_preparation_at_a_time(harbors):
    east, _, out = harbors
    before = contents(out)
    with (
        Staging(out, "patches", merged=True),
        pytest.raises(InUseError, match=r"wait for it, or choose another folder \(DST\)"),
    ):
        prepare_boxes(east, out, "csv", Patching(64, 0), val_share=0)
    assert contents(out) == before
    assert not (out / "patches.unfinished").exists()


def test_a_list_cannot_name_files_elsewhere_for_removal(harbors):
    east, _, out = harbors
    thesis = out.parent / "thesis.png"
    thesis.write_text("mine")
    table = out / "split.csv"
    rows = table.read_text().splitlines()
    listed = f"east,x,train,../{thesis.name},{thesis}"
    table.write_text("\n".join([*rows, listed]) + "\n")
    prepare_boxes(east, out, "csv", Patching(64, 0), val_share=0)
    assert thesis.read_text() == "mine"
    assert os.fspath(thesis) not in table.read_text()
