"""What can go wrong, case by case: each ends in one clear line, the right exit code, and no harm.

The cases and what came out make the table `docs/faults.md`, which
`PYTHONPATH=tests/fixtures python tests/integration/test_faults.py` writes.
"""

from __future__ import annotations

import pickle
import pkgutil
import re
import resource
import shutil
import sqlite3
import struct
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from click.testing import CliRunner
from fakes import Colors, write_discs
from PIL import Image
from pyogrio.errors import DataSourceError
from rasterio.errors import RasterioIOError
from rasterio.rpc import RPC
from rasterio.transform import Affine
from torch import nn

from geoseg.classes import ISAID
from geoseg.cli.main import main
from geoseg.model.checkpoint import save_checkpoint
from geoseg.model.load import load_model
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.pipeline.execution.block_store import BlockStore

TABLE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
HEAD = """\
# What goes wrong, and what geoseg does

Written by `PYTHONPATH=tests/fixtures python tests/integration/test_faults.py`. In every case: no
traceback, and unless the work is done the folder of the results is what it was, byte by byte, but
for `*.unfinished`; with `--overwrite`, too. Exit codes: 0 done, 1 failed, 2 impossible options,
3 done but for parts that cannot be read, 130, 143 and 129 stopped by Ctrl-C, SIGTERM and SIGHUP.
"""
RASTER = {"town.classes.tif", "town.classes.tif.aux.xml", "town.classes.qml"}
TOWN = {"town.gpkg", *RASTER}
UNFINISHED = {"town.unfinished"}
TILED = {"tiled": True, "blockxsize": 128, "blockysize": 128}
Usage = namedtuple("Usage", "total used free")


class Box:
    """The folder of one case: a scene, weights, and where the results go."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder, self.weights, self.out = folder, weights, folder / "out"

    def town(self, **profile: object) -> Path:
        return write_discs(self.folder / "town.tif", 256, 256, **profile)

    def predict(self, *arguments: object) -> list[str]:
        common = ["--weights", self.weights, "--tile-size", 128, "--overlap", 32, "-o", self.out]
        return ["predict", *map(str, [*common, *arguments])]

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def raster(self, name: str, pixels: np.ndarray, **profile: object) -> Path:
        count, height, width = pixels.shape
        profile = {"driver": "GTiff", "crs": "EPSG:32633"} | profile
        profile |= {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
        profile.setdefault("transform", Affine(0.5, 0, 448_000, 0, -0.5, 5_412_000))
        with rasterio.open(self.folder / name, "w", **profile) as file:
            file.write(pixels)
        return self.folder / name


@dataclass(frozen=True)
class Case:
    section: str
    what: str
    exit_code: int
    says: str
    """Part of what is said on stderr; empty where nothing needs to be."""
    arrange: Callable[[Box], list[str]]
    """Makes the inputs and returns the command line."""
    leaves: set[str] = field(default_factory=set)
    """Names in the folder of the results."""
    during: Callable[[], object] = nullcontext
    takes_earlier: bool = True
    """It is the same with --overwrite over earlier results."""

    @property
    def is_done(self) -> bool:
        """There are results."""
        return bool({"town.classes.tif", "mosaic.classes.tif"} & self.leaves)


CASES: list[Case] = []


def case(
    section: str,
    what: str,
    exit_code: int,
    says: str,
    *,
    leaves: set[str] | None = None,
    during: Callable[[], object] = nullcontext,
    takes_earlier: bool = True,
) -> Callable[[Callable[[Box], list[str]]], Callable[[Box], list[str]]]:
    def add(arrange: Callable[[Box], list[str]]) -> Callable[[Box], list[str]]:
        left = leaves or set()
        CASES.append(Case(section, what, exit_code, says, arrange, left, during, takes_earlier))
        return arrange

    return add


# --- scenes ---------------------------------------------------------------------------------


@case("Scene", "a sound scene, for comparison", 0, "", leaves=TOWN)
def _(box: Box) -> list[str]:
    return box.predict(box.town())


@case("Scene", "does not exist", 1, "cannot open")
def _(box: Box) -> list[str]:
    return box.predict(box.folder / "absent.tif")


@case("Scene", "is a text file", 1, "not recognized")
def _(box: Box) -> list[str]:
    return box.predict(box.write("town.tif", "not a raster"))


@case("Scene", "is empty", 1, "cannot open")
def _(box: Box) -> list[str]:
    return box.predict(box.write("town.tif", b""))


@case("Scene", "is a folder", 1, "cannot open")
def _(box: Box) -> list[str]:
    (box.folder / "town").mkdir()
    return box.predict(box.folder / "town")


@case("Scene", "its server does not answer", 1, "cannot open")
def _(box: Box) -> list[str]:
    return box.predict("http://127.0.0.1:9/town.tif")


@case("Scene", "tiles of a service, without `--aoi`", 1, "--aoi")
def _(box: Box) -> list[str]:
    return box.predict("http://127.0.0.1:9/{z}/{x}/{y}.png")


@case("Scene", "the second half of the file is missing", 1, "--keep-going")
def _(box: Box) -> list[str]:
    content = box.town(**TILED, compress="deflate").read_bytes()
    return box.predict(box.write("town.tif", content[: len(content) // 2]))


@case(
    "Scene",
    "the second half of the file is missing, `--keep-going`",
    3,
    "left as nodata",
    leaves=TOWN,
)
def _(box: Box) -> list[str]:
    content = box.town(**TILED, compress="deflate").read_bytes()
    return box.predict(box.write("town.tif", content[: len(content) // 2]), "--keep-going")


def overwrite_block(path: Path) -> Path:
    """Nonsense in the middle of the file's first block."""
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
        size = int(file.get_tag_item("BLOCK_SIZE_0_0", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset + size // 4 : offset + size] = bytes(size - size // 4)
    path.write_bytes(content)
    return path


@case(
    "Scene",
    "one block is nonsense (DEFLATE)",
    1,
    "cannot be read: 128×128 px at (0, 0) (-v",
    leaves=UNFINISHED,
)
def _(box: Box) -> list[str]:
    town = box.town(**TILED, compress="deflate", interleave="pixel")
    return box.predict(overwrite_block(town))


@case("Scene", "one block is nonsense (JPEG), `--keep-going`", 3, "left as nodata", leaves=TOWN)
def _(box: Box) -> list[str]:
    town = box.town(**TILED, compress="jpeg", photometric="ycbcr", interleave="pixel", nodata=None)
    return box.predict(overwrite_block(town), "--keep-going")


@case("Scene", "a file that a VRT names is missing", 1, "absent.tif (-v")
def _(box: Box) -> list[str]:
    return box.predict(
        box.write(
            "town.vrt",
            '<VRTDataset rasterXSize="300" rasterYSize="300"><VRTRasterBand dataType="Byte" '
            'band="1"><SimpleSource><SourceFilename relativeToVRT="1">absent.tif</SourceFilename>'
            "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>",
        )
    )


@case("Scene", "has no georeferencing", 0, "pixel coordinates", leaves=TOWN)
def _(box: Box) -> list[str]:
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(box.folder / "town.png")
    return box.predict(box.folder / "town.png")


@case("Scene", "is placed by RPCs only", 1, "orthorectify")
def _(box: Box) -> list[str]:
    rpcs = RPC(
        height_off=0, height_scale=1, lat_off=0, lat_scale=1, line_off=0, line_scale=1,
        long_off=0, long_scale=1, samp_off=0, samp_scale=1, line_num_coeff=[1.0] * 20,
        line_den_coeff=[1.0] * 20, samp_num_coeff=[1.0] * 20, samp_den_coeff=[1.0] * 20,
        err_bias=None, err_rand=None,
    )  # fmt: skip
    path = box.raster("town.tif", np.ones((3, 64, 64), np.uint8), crs=None, transform=None)
    with rasterio.open(path, "r+") as file:
        file.rpcs = rpcs
    return box.predict(path)


@case("Scene", "its geotransform has no area", 1, "has no area")
def _(box: Box) -> list[str]:
    flat = Affine(0.5, 0.5, 0, 0.5, 0.5, 0)
    return box.predict(box.raster("town.tif", np.ones((3, 64, 64), np.uint8), transform=flat))


@case("Scene", "its pixels are complex numbers", 1, "complex")
def _(box: Box) -> list[str]:
    return box.predict(box.raster("town.tif", np.ones((1, 64, 64), np.complex64)))


@case("Scene", "has no valid pixel", 1, "declared empty by its nodata value 0")
def _(box: Box) -> list[str]:
    return box.predict(box.raster("town.tif", np.zeros((3, 200, 300), np.uint8), nodata=0))


@case("Scene", "is a single pixel", 0, "", leaves=TOWN)
def _(box: Box) -> list[str]:
    return box.predict(box.raster("town.tif", np.ones((3, 1, 1), np.uint8)))


@case("Scene", "is 16-bit", 0, "uint16 pixels", leaves=TOWN)
def _(box: Box) -> list[str]:
    pixels = np.random.default_rng(0).integers(200, 900, (3, 150, 150)).astype(np.uint16)
    return box.predict(box.raster("town.tif", pixels))


@case("Scene", "floats with not-a-number and infinities", 0, "float32 pixels", leaves=TOWN)
def _(box: Box) -> list[str]:
    pixels = np.random.default_rng(0).normal(0, 1, (3, 150, 150)).astype(np.float32)
    pixels[:, :9], pixels[:, 20:30] = np.nan, np.inf
    return box.predict(box.raster("town.tif", pixels))


def bomb(path: Path, **profile: object) -> Path:
    side = 1_000_000
    common = {"driver": "GTiff", "count": 1, "height": side, "width": side, "dtype": "uint8"}
    common |= {"SPARSE_OK": True, "BIGTIFF": "YES", "compress": "deflate", "crs": "EPSG:32633"}
    common["transform"] = Affine(0.5, 0, 448_000, 0, -0.5, 5_412_000)
    with rasterio.open(path, "w", **(common | profile)):
        pass
    return path


@contextmanager
def small_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: Usage(10**11, 0, 10**11))
        yield


@case("Scene", "a few KB that claim 10⁶ × 10⁶ pixels", 1, "100.0 GB free", during=small_disk)
def _(box: Box) -> list[str]:
    return box.predict(bomb(box.folder / "town.tif", tiled=True, blockxsize=4096, blockysize=4096))


@case("Scene", "one block of 10⁶ × 8000 pixels", 1, "tile it first")
def _(box: Box) -> list[str]:
    return box.predict(bomb(box.folder / "town.tif", blockysize=8000))


@case("Scene", "two scenes of one name", 2, "called town")
def _(box: Box) -> list[str]:
    shutil.copy(box.town(), box.write("other/town.tif", b""))
    return box.predict(box.folder / "town.tif", box.folder / "other/town.tif")


@case("Scene", "one of two is bad: the other is done", 1, "1 of 2 scenes failed", leaves=TOWN)
def _(box: Box) -> list[str]:
    return box.predict(box.write("bad.tif", "no"), box.town())


@case("Scene", "files of a mosaic differ in CRS", 1, "must agree")
def _(box: Box) -> list[str]:
    other = box.raster("other.tif", np.ones((3, 64, 64), np.uint8), crs="EPSG:32634", nodata=0)
    return box.predict("--mosaic", box.town(), other)


@case("Scene", "two files as a mosaic, for comparison", 0, "",
      leaves={"mosaic.vrt", *(name.replace("town", "mosaic") for name in TOWN)})  # fmt: skip
def _(box: Box) -> list[str]:
    aside = Affine(0.5, 0, 448_128, 0, -0.5, 5_412_000)
    other = box.raster("b.tif", np.ones((3, 64, 64), np.uint8), transform=aside, nodata=0)
    return box.predict("--mosaic", box.town(), other)


@case(
    "Results",
    "another file is where the mosaic would be",
    1,
    "--overwrite",
    leaves={"mosaic.vrt"},
    takes_earlier=False,
)
def _(box: Box) -> list[str]:
    box.write("out/mosaic.vrt", "precious")
    return box.predict("--mosaic", box.town())


# --- options --------------------------------------------------------------------------------

for _flag, _value, _code, _says in (
    ("--tile-size", "100", 2, "multiple of 32"),
    ("--tile-size", "-32", 2, "multiple of 32"),
    ("--overlap", "96", 2, "at most half"),
    ("--gsd", "0", 2, "above 0"),
    ("--gsd", "nan", 2, "above 0"),
    ("--gsd", "100", 1, "1/32 to 64"),
    ("--bands", "9", 1, "1 to 3"),
    ("--bands", "a,b,c", 2, "not of the form"),
    ("--rescale", "9,1", 2, "smaller one first"),
    ("--rescale", "nan,1", 2, "not of the form"),
    ("--min-area", "-1", 2, "0 or more"),
    ("--simplify", "nan", 2, "0 or more"),
    ("--format", "dwg", 2, "choose from"),
    ("--device", "quantum", 2, "cannot be used"),
    ("--batch-size", "0", 2, "neither auto"),
    ("--workers", "0", 2, "--workers"),
    ("--aoi", "0,0,1,1", 1, "outside the scene"),
    ("--aoi", "5,5,1", 1, "not four numbers"),
    ("--aoi", "absent.gpkg", 1, "absent.gpkg"),
):
    CASES.append(
        Case(
            "Options",
            f"`{_flag} {_value}`",
            _code,
            _says,
            lambda box, flag=_flag, value=_value: box.predict(box.town(), flag, value),
        )
    )


@case("Options", "`--aoi` names points", 1, "give a file with polygons")
def _(box: Box) -> list[str]:
    points = geopandas.GeoDataFrame(geometry=[shapely.Point(448_010, 5_411_990)], crs=32633)
    points.to_file(box.folder / "points.gpkg")
    return box.predict(box.town(), "--aoi", box.folder / "points.gpkg")


@case("Options", "`--gsd` for a scene without CRS", 1, "leave --gsd out")
def _(box: Box) -> list[str]:
    path = box.raster("town.tif", np.ones((3, 64, 64), np.uint8), crs=None, transform=None)
    return box.predict(path, "--gsd", "0.3")


@case("Options", "`--format geojson` for a scene without CRS", 2, "has no CRS")
def _(box: Box) -> list[str]:
    path = box.raster("town.tif", np.ones((3, 64, 64), np.uint8), crs=None, transform=None)
    return box.predict(path, "--format", "geojson")


# --- weights --------------------------------------------------------------------------------


@case("Weights", "do not exist", 1, "no file and no name")
def _(box: Box) -> list[str]:
    return [*box.predict(box.town()), "--weights", str(box.folder / "absent.safetensors")]


@case("Weights", "are in another project's format", 1, "geoseg weights import")
def _(box: Box) -> list[str]:
    return [*box.predict(box.town()), "--weights", str(box.write("t.pth", b"PK"))]


@case("Weights", "are cut short", 1, "t.safetensors")
def _(box: Box) -> list[str]:
    content = box.weights.read_bytes()
    return [
        *box.predict(box.town()),
        "--weights",
        str(box.write("t.safetensors", content[: len(content) // 2])),
    ]


@case("Weights", "claim a header of 2⁶² bytes", 1, "t.safetensors")
def _(box: Box) -> list[str]:
    path = box.write("t.safetensors", struct.pack("<Q", 2**62) + b"{}")
    return [*box.predict(box.town()), "--weights", str(path)]


class Hostile:
    """Pickled, it would write a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path("pwned").write_text, ("pwned",))


@case("Weights", "a pickle that would run code", 1, "")
def _(box: Box) -> list[str]:
    path = box.write("t.pkl", pickle.dumps({"backbone.x": Hostile()}))
    target = str(box.folder / "t.safetensors")
    return ["weights", "import", str(path), target, "--classes", "isaid"]


@case("Weights", "a torch file that would run code", 1, "")
def _(box: Box) -> list[str]:
    torch.save({"state_dict": {"backbone.x": Hostile()}}, box.folder / "t.pth")
    target = str(box.folder / "t.safetensors")
    return ["weights", "import", str(box.folder / "t.pth"), target, "--classes", "isaid"]


# --- results --------------------------------------------------------------------------------


@case("Results", "exist already", 1, "--overwrite", leaves={"town.gpkg"}, takes_earlier=False)
def _(box: Box) -> list[str]:
    box.write("out/town.gpkg", "precious")
    return box.predict(box.town())


@case("Results", "their folder is a file", 2, "is a file")
def _(box: Box) -> list[str]:
    return [*box.predict(box.town())[:-2], str(box.town()), "-o", str(box.write("file", "x"))]


@case("Results", "their folder cannot be made", 1, "cannot be written")
def _(box: Box) -> list[str]:
    return [*box.predict(box.town()), "-o", str(box.write("file", "x") / "below")]


def disk_with(size: int) -> Callable[[], object]:
    """No file may grow beyond `size` bytes: to a program that is a disk running full."""

    @contextmanager
    def limited() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@case("Results", "the disk runs full while blocks are kept", 1, "town.unfinished cannot be written",
      leaves=UNFINISHED, during=disk_with(15_500))  # fmt: skip
def _(box: Box) -> list[str]:
    # Of the coarser pixels that the model sees, the logits fit; the first block's results do not.
    return box.predict(box.town(), "--confidence", "--gsd", "1")


@case("Results", "the disk runs full while layers are written", 1, "town.gpkg cannot be written",
      leaves=UNFINISHED, during=disk_with(100_000))  # fmt: skip
def _(box: Box) -> list[str]:
    return box.predict(box.town())


def failing(target: str, error: Exception, call: int = 1) -> Callable[[], object]:
    """`target` raises the error when it is called for the `call`-th time."""

    @contextmanager
    def patched() -> Iterator[None]:
        module, name = target.rsplit(".", 1)
        owner = pkgutil.resolve_name(module)
        working, calls = getattr(owner, name), 0

        def fragile(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                raise error
            return working(*arguments, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, fragile)
            yield

    return patched


LAYERS = "geoseg.geo.layers.geopackage"
FULL = OSError(28, "No space left on device")
for _what, _says, _during, _options in (
    ("the first file of a layer", "town.gpkg cannot be written",
     failing("pyogrio.write_dataframe", DataSourceError("disk is full")), ()),
    ("styles", "town.gpkg cannot be written",
     failing(f"{LAYERS}.add_styles", sqlite3.OperationalError("disk is full")), ()),
    ("the confidence raster", "town.confidence.tif cannot be written",
     failing("rasterio.shutil.copy", RasterioIOError("no space")), ("--confidence",)),
    ("the class raster", "town.classes.tif cannot be written",
     failing("rasterio.shutil.copy", RasterioIOError("no space"), 2), ("--confidence",)),
    ("another format", "cannot be written",
     failing("pyogrio.write_dataframe", DataSourceError("disk is full")),
     ("--format", "flatgeobuf")),
    ("the store of logits", "town.logits.zarr cannot be written",
     failing("zarr.Array.__setitem__", FULL, 3), ("--logits",)),
    ("the journal of the end", "No space left", failing("geoseg.atomic.sync", FULL, 3), ()),
    ("names, at the first file", "No space left", failing("pathlib.Path.rename", FULL), ()),
    ("names, at the last file", "No space left", failing("pathlib.Path.rename", FULL, 3), ()),
    ("polygons, for want of memory", "refuses more memory",
     failing("geoseg.geo.vector.cleanup.merge", MemoryError("12 GB")), ()),
):  # fmt: skip
    CASES.append(
        Case(
            "Results",
            f"cannot be completed: {_what}",
            1,
            _says,
            lambda box, options=_options: box.predict(box.town(), *options),
            UNFINISHED,
            _during,
        )
    )


@case("Results", "cannot be begun: the store of logits", 1, "town.logits.zarr cannot be written",
      during=failing("zarr.create_group", FULL))  # fmt: skip
def _(box: Box) -> list[str]:
    return box.predict(box.town(), "--logits")


@case("Results", "the unfinished blocks are of other options", 0, "starting afresh", leaves=TOWN)
def _(box: Box) -> list[str]:
    box.write("out/town.unfinished/0.result.npz", b"PK")
    store = BlockStore(box.out / "town.unfinished", {"overlap": 64})
    store.__enter__()  # and never left, as by a process that is killed
    return box.predict(box.town())


@case("Results", "the unfinished blocks do not say what they are", 0, "", leaves=TOWN)
def _(box: Box) -> list[str]:
    box.write("out/town.unfinished/run.json", "{")
    box.write("out/town.unfinished/0.result.npz", b"PK")
    return box.predict(box.town())


@case("Results", "one of them is the scene", 2, "is the input", leaves={"town.gpkg"},
      takes_earlier=False)  # fmt: skip
def _(box: Box) -> list[str]:
    box.write("out/town.gpkg", b"")
    return box.predict(box.town().rename(box.out / "town.gpkg"))


@case("Results", "one of them is the area of interest", 2, "is the input", leaves={"town.gpkg"},
      takes_earlier=False)  # fmt: skip
def _(box: Box) -> list[str]:
    return box.predict(box.town(), "--aoi", box.write("out/town.gpkg", b""), "--overwrite")


@case("Results", "their folder is an address", 2, "is an address")
def _(box: Box) -> list[str]:
    return [*box.predict(box.town()), "-o", "s3://bucket/out"]


@case("Results", "a folder of the user's where unfinished blocks go", 1, "move it away",
      leaves={"town.unfinished"})  # fmt: skip
def _(box: Box) -> list[str]:
    box.write("out/town.unfinished/thesis.doc", "precious")
    return box.predict(box.town())


# --- other commands -------------------------------------------------------------------------


@case("Training", "a recipe with an unknown key", 1, "learning_rate")
def _(box: Box) -> list[str]:
    recipe = box.write("r.yaml", "learning_rate: 1\ndata: {root: x}\nstages: []\n")
    return ["train", str(recipe), "-o", str(box.out)]


@case("Training", "a recipe that would run code", 1, "cannot be read")
def _(box: Box) -> list[str]:
    recipe = box.write("r.yaml", "model: !!python/object/apply:os.system ['touch pwned']\n")
    return ["train", str(recipe), "-o", str(box.out)]


@case("Training", "no recipe of that name", 1, "segnext_t_isaid")
def _(box: Box) -> list[str]:
    return ["train", "segnext_x", "-o", str(box.out)]


@case("Vectorize", "a raster of fractions", 1, "")
def _(box: Box) -> list[str]:
    path = box.raster("town.tif", np.full((1, 64, 64), 0.5, np.float32))
    return ["vectorize", str(path), "-o", str(box.folder / "town.gpkg")]


@case("Vectorize", "the result exists", 1, "--overwrite")
def _(box: Box) -> list[str]:
    path = box.raster("town.tif", np.ones((1, 64, 64), np.uint8))
    return ["vectorize", str(path), "-o", str(box.write("town.gpkg", "precious"))]


@case("Export", "from a file that is no GeoPackage", 1, "cannot be read")
def _(box: Box) -> list[str]:
    path = box.write("town.gpkg", "not layers")
    return ["export", str(path), "--format", "geojson", "-o", str(box.out)]


# --- the tests ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    exit_code: int
    output: str
    said: str
    """On stderr."""
    crash: BaseException | None


def carry_out(item: Case, arguments: list[str], weights: Path) -> Outcome:
    """Run the command line. For `weights` a stand-in computes: what it finds is not the point."""

    def load(source: str | None) -> nn.Module:
        return Colors() if source == str(weights) else load_model(source)

    with pytest.MonkeyPatch.context() as patch, item.during():
        patch.setattr("geoseg.model.load.load_model", load)
        result = CliRunner().invoke(main, arguments)
    crash = None if isinstance(result.exception, SystemExit) else result.exception
    return Outcome(result.exit_code, result.output, result.stderr.strip(), crash)


def save_weights(folder: Path) -> Path:
    """An untrained SegNeXt-T."""
    torch.manual_seed(0)
    path = folder / "t.safetensors"
    save_checkpoint(path, SegNeXt("T", 16), Metadata("T", ISAID))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights"))


def contents(folder: Path) -> dict[str, bytes | None]:
    """By path; None of folders. Not of those that are unfinished."""
    paths = sorted(folder.rglob("*"))
    kept = {path: path.relative_to(folder) for path in paths if ".unfinished" not in str(path)}
    return {str(name): path.read_bytes() if path.is_file() else None for path, name in kept.items()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def check(item: Case, outcome: Outcome) -> None:
    said = outcome.said
    assert outcome.crash is None, said
    assert outcome.exit_code == item.exit_code, said
    assert "Traceback" not in outcome.output
    assert item.says in said
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert bool(errors) == (item.exit_code != 0)


by_name = pytest.mark.parametrize("item", CASES, ids=lambda item: f"{item.section}: {item.what}")


@by_name
def test_fault(item: Case, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    box = Box(tmp_path, weights)
    arguments = item.arrange(box)
    before = contents(tmp_path)
    outcome = carry_out(item, arguments, weights)
    check(item, outcome)
    after = contents(tmp_path)
    assert names(box.out) == item.leaves
    if item.is_done:  # nothing else is new, and nothing is gone
        new = {"out", *(f"out/{name}" for name in item.leaves)} - {*before}
        after = {name: content for name, content in after.items() if name not in new}
    assert {name: content for name, content in after.items() if name != "out"} == {
        name: content for name, content in before.items() if name != "out"
    }


@pytest.fixture(scope="module")
def earlier(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of another scene that was called town, in two formats."""
    box = Box(tmp_path_factory.mktemp("earlier"), weights)
    write_discs(box.folder / "town.tif", 200, 150, seed=9)
    formats = ["--format", "gpkg", "--format", "shapefile", "--logits"]
    found = carry_out(CASES[0], box.predict(box.folder / "town.tif", *formats), weights)
    assert found.exit_code == 0, found
    return box.out


@by_name
def test_fault_over_earlier_results(
    item: Case, weights: Path, earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --overwrite: all of the earlier results, byte by byte, or none."""
    monkeypatch.chdir(tmp_path)
    box = Box(tmp_path, weights)
    shutil.copytree(earlier, box.out)
    arguments = item.arrange(box)
    if arguments[0] != "predict" or not item.takes_earlier:
        pytest.skip("not about earlier results")
    before = contents(tmp_path)
    outcome = carry_out(item, [*arguments, "--overwrite"], weights)
    check(item, outcome)
    after = contents(tmp_path)
    if not item.is_done:
        assert after == before
        assert names(box.out) == names(earlier) | {name for name in item.leaves if "." in name}
    elif "mosaic.vrt" in item.leaves:  # another scene's
        assert names(box.out) == names(earlier) | item.leaves
    else:
        assert names(box.out) == item.leaves


def rows(table: str) -> list[list[str]]:
    """The cells of each case."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[1:]]


def test_the_table_is_up_to_date() -> None:
    """In its cases and exit codes; what GDAL and torch say changes with their versions."""
    found = rows(TABLE.read_text("utf-8"))
    assert len(CASES) >= 40
    told = [(item.section, item.what, f"{item.exit_code}") for item in CASES]
    assert [tuple(row[:3]) for row in found] == told, (
        f"run python {TABLE.with_name('test_faults.py')}"
    )


def last_line(outcome: Outcome, folder: Path) -> str:
    quiet = ("Usage", "Try", "[", "Note")
    lines = [line for line in outcome.said.splitlines() if not line.startswith(quiet)]
    shown = (lines[-1] if lines else "").replace(f"{folder}/", "").replace(f"{folder}", ".")
    return shown.replace("|", "\\|")


def write_table() -> None:
    """Run every case and write what came out."""
    content = f"{HEAD}\n| | What is wrong | Exit | What geoseg says |\n|---|---|---|---|\n"
    with TemporaryDirectory() as common:
        weights = save_weights(Path(common))
        for item in CASES:
            with TemporaryDirectory() as folder, chdir(folder):
                outcome = carry_out(item, item.arrange(Box(Path(folder), weights)), weights)
                check(item, outcome)
                said = last_line(outcome, Path(folder))
            content += f"| {item.section} | {item.what} | {item.exit_code} | {said} |\n"
    TABLE.write_text(content, "utf-8")


if __name__ == "__main__":
    write_table()
