"""Training data from iSAID as it is published, and from polygons drawn over a scene."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from click.testing import CliRunner
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import from_origin

from geoseg.classes import IGNORE, ISAID, ISAID_MASK_COLORS
from geoseg.cli.main import main
from geoseg.datasets.from_labels import prepare_labels
from geoseg.datasets.isaid import ids_of_colors, pack_rgb, prepare_isaid
from geoseg.datasets.layout import Patching, Prepared, read_table
from geoseg.errors import DataError, OptionError
from geoseg.train.dataset import LabeledFolder, inspect_items

PALETTE = np.array(list(ISAID_MASK_COLORS.values()), dtype=np.uint8)
SMALL = Patching(64, 16)


def write_isaid(root: Path, split: str, name: str, ids: np.ndarray, *, apart: bool = True) -> Path:
    """One image in the original layout: masks apart from the images, or beside them."""
    images = root / split / "images"
    masks = root / split / "Semantic_masks" / "images" if apart else images
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(name)).integers(0, 256, (*ids.shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images / f"{name}.png")
    Image.fromarray(PALETTE[ids]).save(masks / f"{name}_instance_color_RGB.png")
    return images / f"{name}.png"


def some_ids(height: int, width: int) -> np.ndarray:
    """Every class in 3 × 5 fields."""
    row, column = np.indices((height, width))
    return ((row // 3 + column // 5 * 7) % 16).astype(np.uint8)


@pytest.fixture
def isaid(tmp_path) -> Path:
    root = tmp_path / "iSAID"
    write_isaid(root, "train", "P0003", some_ids(150, 100))
    write_isaid(root, "train", "P0011", some_ids(40, 90), apart=False)
    write_isaid(root, "val", "P0007", some_ids(64, 64))
    return root


def test_windows_cover_everything_and_stay_inside():
    for size in ((150, 100), (64, 64), (10, 200), (65, 63)):
        seen = np.zeros(size[::-1], dtype=int)
        for window in SMALL.windows(*size):
            assert window.col_end <= size[0]
            assert window.row_end <= size[1]
            seen[window.slices] += 1
        assert seen.min() == 1
    # The published patches: stride 512, the last one shifted inward.
    assert Patching(896, 384).starts(2000) == [0, 512, 1024, 1104]
    with pytest.raises(OptionError, match="--overlap is 64"):
        Patching(64, 64)


def test_isaid_patches_hold_the_ids_of_the_colors(isaid, tmp_path):
    prepared = prepare_isaid(isaid, tmp_path / "out", SMALL)
    folder = LabeledFolder.open(tmp_path / "out")
    assert folder.classes == ISAID
    assert prepared.patches == {"train": 6 + 2, "val": 1}
    assert not prepared.absent
    sources = {"P0003": (150, 100), "P0011": (40, 90), "P0007": (64, 64)}
    total = np.zeros(16, dtype=int)
    for item in folder.split("train") + folder.split("val"):
        with Image.open(item.mask) as mask:
            assert mask.mode == "L"
        image, ids, _ = item.load()
        name, top, bottom, left, right = item.name.split("_")
        place = slice(int(top), int(bottom)), slice(int(left), int(right))
        assert (ids == some_ids(*sources[name])[place]).all()
        with Image.open(next(isaid.rglob(f"{name}.png"))) as source:
            assert (image == np.asarray(source)[place]).all()
        total += np.bincount(ids.ravel(), minlength=16)
    assert list(prepared.pixels.values()) == total.tolist()


def test_every_other_color_is_refused():
    rng = np.random.default_rng(0)
    known = {int(code) for code in pack_rgb(PALETTE)}
    for color in rng.integers(0, 256, (200, 3), dtype=np.uint8):
        if int(pack_rgb(color)) not in known:
            picture = np.zeros((4, 4, 3), np.uint8)
            picture[2, 1] = color
            with pytest.raises(DataError, match="column 1, row 2"):
                ids_of_colors(picture, Path("mask.png"))
    assert (ids_of_colors(PALETTE[None], Path("mask.png"))[0] == np.arange(16)).all()


def test_an_interrupted_preparation_goes_on(isaid, tmp_path):
    out = tmp_path / "out"
    prepare_isaid(isaid, out, SMALL)
    first = {path: path.stat().st_mtime_ns for path in out.rglob("P*.png")}
    (out / "split.csv").unlink()
    lost = sorted(out.glob("masks/train/P0003*"))[0]
    lost.unlink()
    newer = next(isaid.rglob("P0007.png"))
    os.utime(newer)
    again = prepare_isaid(isaid, out, SMALL)
    assert again.patches == {"train": 8, "val": 1}
    redone = {p.name.partition("_")[0] for p, t in first.items() if p.stat().st_mtime_ns != t}
    assert redone == {"P0003", "P0007"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: Image.new("RGB", (9, 9), (1, 2, 3)).save(p), "100×150 px, its mask 9×9"),
        (lambda p: Image.new("RGB", (100, 150), (1, 2, 3)).save(p), r"the color \(1, 2, 3\)"),
        (lambda p: Image.new("L", (100, 150)).save(p), "has mode L"),
        (lambda p: p.write_bytes(b"no picture"), "cannot be read as an image"),
        (lambda p: p.write_bytes(p.read_bytes()[:200]), "damaged"),
        (Path.unlink, "has no P0003_instance_color_RGB.png"),
    ],
)
def test_bad_isaid_images_are_refused_or_skipped(isaid, tmp_path, damage, words):
    damage(next(isaid.rglob("P0003_instance_color_RGB.png")))
    with pytest.raises(DataError, match=f"^1 of 3 images cannot be used: .*{words}.*--skip-bad"):
        prepare_isaid(isaid, tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / "split.csv").exists()
    prepared = prepare_isaid(isaid, tmp_path / "out", SMALL, skip_bad=True)
    assert len(prepared.skipped) == 1
    names = {item.name[:5] for item in LabeledFolder.open(tmp_path / "out").split("train")}
    assert names == {"P0011"}


def test_a_folder_without_isaid_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no pair of NAME"):
        prepare_isaid(tmp_path, tmp_path / "out", SMALL)


def test_damaged_training_images_are_refused_or_skipped(isaid, tmp_path):
    prepare_isaid(isaid, tmp_path / "out", SMALL)
    items = LabeledFolder.open(tmp_path / "out").split("train")
    content = items[2].image.read_bytes()
    items[2].image.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="1 of 8 images cannot be used"):
        inspect_items(items)
    good, counts, problems = inspect_items(items, skip_bad=True)
    assert (len(good), counts.shape, len(problems)) == (7, (7, 16), 1)


# -- polygons over a scene ---------------------------------------------------------------------

PLACE = from_origin(500_000, 5_400_000, 0.5, 0.5)
SHAPES = {  # pixel coordinates in a scene of 300 × 200; the court lies on the field
    "field": shapely.box(20, 20, 140, 150),
    "court": shapely.Point(80, 90).buffer(30),
    "roof": shapely.Polygon([(200, 30), (280, 60), (240, 170), (190, 120)]),
}


@pytest.fixture
def town(tmp_path) -> Path:
    """A scene with a collar, polygons in another CRS, and the area in which they are complete."""
    pixels = np.random.default_rng(0).integers(1, 256, (3, 200, 300), dtype=np.uint8)
    pixels[:, :, :10] = 0
    profile = {"driver": "GTiff", "width": 300, "height": 200, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "town.tif", "w", crs="EPSG:32633", transform=PLACE, nodata=0, **profile
    ) as file:
        file.write(pixels)
    on_ground = [
        shapely.transform(shape, lambda xy: np.column_stack(PLACE @ (xy[:, 0], xy[:, 1])))
        for shape in (*SHAPES.values(), shapely.box(0, 10, 290, 180))
    ]
    frame = gpd.GeoDataFrame({"kind": list(SHAPES)}, geometry=on_ground[:3], crs="EPSG:32633")
    frame.to_crs("EPSG:4326").to_file(tmp_path / "labels.gpkg")
    gpd.GeoDataFrame(geometry=on_ground[3:], crs="EPSG:32633").to_file(tmp_path / "area.gpkg")
    return tmp_path


def mosaic(out: Path, split: str) -> np.ndarray:
    """The masks of one split, put back together."""
    whole = np.full((200, 300), IGNORE, np.uint8)
    for item in LabeledFolder.open(out).split(split):
        image, mask, _ = item.load()
        top, bottom, left, right = (int(n) for n in item.name.split("_")[1:])
        part = whole[top:bottom, left:right]
        both = (part != IGNORE) & (mask != IGNORE)
        assert (part[both] == mask[both]).all()
        part[mask != IGNORE] = mask[mask != IGNORE]
        assert image.shape == (*mask.shape, 3)
    return whole


@pytest.mark.parametrize("overlap", [0, 24])
def test_masks_are_the_rasterized_polygons_and_splits_share_no_pixel(town, overlap):
    out = town / "out"
    prepared = prepare_labels(
        str(town / "town.tif"),
        town / "labels.gpkg",
        out,
        field="kind",
        area_path=town / "area.gpkg",
        patching=Patching(64, overlap),
    )
    names = [c.name for c in LabeledFolder.open(out).classes]
    assert names == ["background", "court", "field", "roof"]
    ids = {name: i for i, name in enumerate(names)}
    drawn = [(shapely.box(0, 10, 290, 180), 0)]
    drawn += [(SHAPES[name], ids[name]) for name in ("field", "roof", "court")]
    expected = rasterize(drawn, (200, 300), fill=IGNORE, dtype="uint8")
    expected[:, :10] = IGNORE
    train, val = mosaic(out, "train"), mosaic(out, "val")
    assert not ((train != IGNORE) & (val != IGNORE)).any()
    together = np.minimum(train, val)
    # Degrees round the outlines by less than a thousandth of a pixel.
    assert (together != expected).mean() < 1e-3
    assert set(np.unique(val)) > {0, IGNORE}
    assert prepared.patches["val"] > 0
    assert not prepared.absent


def test_without_an_area_only_polygons_count(town):
    out = town / "out"
    prepare_labels(str(town / "town.tif"), town / "labels.gpkg", out, field="kind", val_share=0)
    whole = mosaic(out, "train")
    assert set(np.unique(whole)) == {1, 2, 3, IGNORE}
    assert (whole[:, :10] == IGNORE).all()


def test_scenes_are_added_to_a_folder_and_ids_stay(town):
    out = town / "out"
    prepare_labels(str(town / "town.tif"), town / "labels.gpkg", out, field="kind", val_share=0)
    shutil.copy(town / "town.tif", town / "city.tif")
    frame = gpd.read_file(town / "labels.gpkg")
    frame["kind"] = ["arena", "field", "roof"]
    frame.to_file(town / "more.gpkg")
    for _ in range(2):
        prepare_labels(str(town / "city.tif"), town / "more.gpkg", out, field="kind", val_share=0)
    folder = LabeledFolder.open(out)
    assert [c.name for c in folder.classes] == ["background", "court", "field", "roof", "arena"]
    rows = read_table(out / "split.csv", ["name"])
    assert {row["group"] for row in rows} == {"town", "city"}
    assert len({row["name"] for row in rows}) == len(rows)


def content(folder: Path) -> dict[str, bytes]:
    """Every file by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_scenes_of_one_name_are_kept_apart_and_replaced_whole(town):
    out, labels = town / "out", town / "labels.gpkg"
    for year in ("2023", "2024", "a/2024"):
        (town / year).mkdir(parents=True)
        shutil.copy(town / "town.tif", town / year / "town.tif")
    shutil.copy(town / "town.tif", town / "town_2.tif")

    def prepare(scene: str, size: int = 64) -> Prepared:
        return prepare_labels(
            str(town / scene),
            labels,
            out,
            field="kind",
            area_path=town / "area.gpkg",
            patching=Patching(size, 0),
        )

    scenes = ["2023/town.tif", "2024/town.tif", "a/2024/town.tif", "town_2.tif"]
    notes = [prepare(scene).notes for scene in scenes]
    groups = [row["group"] for row in read_table(out / "scenes.csv", ["group"])]
    assert len(groups) == 4
    assert {"town", "2024_town", "town_2"} < set(groups)
    assert [any("kept apart" in note for note in found) for found in notes] == [
        False,
        True,
        True,
        False,
    ]
    before = content(out)
    per_scene = sum(name.startswith("images/") for name in before) // 4
    for scene in scenes:
        prepare(scene)
    assert content(out) == before
    prepare("2023/town.tif", 128)
    after = content(out)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    own = {name for name in changed if name.endswith(".png")}
    assert changed - own == {"split.csv"}
    assert {name.rpartition("/")[2].rsplit("_", 4)[0] for name in own} == {"town"}
    assert sum(name in before for name in own if name.startswith("images/")) == per_scene
    listed = read_table(out / "split.csv", ["image", "mask"])
    paths = {row[kind] for row in listed for kind in ("image", "mask")}
    assert paths == {name for name in after if name.endswith(".png")}


def test_a_preparation_that_fails_changes_nothing(town, monkeypatch):
    out, arguments = town / "out", (str(town / "town.tif"), town / "labels.gpkg")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_labels(*arguments, out, field="kind", patching=Patching(64, 0), progress=stop)
    assert not out.exists()
    prepare_labels(*arguments, out, field="kind", patching=Patching(64, 0))
    before = content(out)
    with pytest.raises(KeyboardInterrupt):
        prepare_labels(*arguments, out, field="kind", patching=Patching(32, 0), progress=stop)
    assert content(out) == before
    with pytest.raises(DataError, match="holds patches of other images"):
        prepare_isaid(town, out, SMALL)
    assert content(out) == before


def test_colors_and_ids_of_a_folder_stay(town):
    out = town / "out"
    out.mkdir()
    (out / "classes.csv").write_text("id;name;color\n1;roof;#112233\n0;background;\n")
    prepare_labels(str(town / "town.tif"), town / "labels.gpkg", out, field="kind", val_share=0)
    known = LabeledFolder.open(out).classes
    assert [item.name for item in known] == ["background", "roof", "court", "field"]
    assert known[1].color == (0x11, 0x22, 0x33)


def test_labels_without_background_are_told(town):
    arguments = [str(town / name) for name in ("town.tif", "labels.gpkg", "out")]
    command = ["prepare", "labels", *arguments, "--field", "kind", "--patch", "64"]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert "Warning: no pixel is background" in result.output
    command += ["--area", str(town / "area.gpkg")]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert "Warning" not in result.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.assign(kind=["a", None, "b"]), "1 of 3 features cannot be used: feature 2"),
        (lambda f: f.assign(geometry=f.centroid), "3 of 3 features cannot be used"),
        (lambda f: f.rename(columns={"kind": "sort"}), "has no field 'kind'; it has sort"),
        (lambda f: f.set_geometry(f.translate(9, 9)), "none of the 3 polygons"),
        (lambda f: f.assign(kind=["a\nb", "c", "d"]), r"name 'a\\nb' has the character"),
        (lambda f: f.assign(kind=["Roof", "roof", "d"]), "differ by case"),
        (lambda f: f.set_crs(None, allow_override=True), "has no coordinate reference system"),
    ],
)
@pytest.mark.filterwarnings("ignore:Geometry is in a geographic CRS", "ignore:'crs' was not")
def test_labels_that_cannot_be_used_are_named(town, change, words):
    change(gpd.read_file(town / "labels.gpkg")).to_file(town / "bad.gpkg")
    with pytest.raises(DataError, match=words):
        prepare_labels(str(town / "town.tif"), town / "bad.gpkg", town / "out", field="kind")
    assert not (town / "out" / "split.csv").exists()
