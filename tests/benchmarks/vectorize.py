"""`geoseg vectorize` against the usual ways from a class raster to a GeoPackage.

    python tests/benchmarks/vectorize.py [--size 16384] [--folder DIR] [--only MAP] [--repeat N]

Every run is a process of its own on two cores; printed are the best wall time, its Mpx/s, the
processor time, and peak memory. Ways: geoseg (its defaults), geoseg exact (no simplification, no
sieve), rasterio (features.shapes of the whole raster, geopandas, GeoPackage) and, where it is
installed, GDAL's gdal_polygonize. Maps: large blobs, many vehicles, and blobs with 1 % salt.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

ClassMap = NDArray[np.uint8]


def blobs(size: int) -> ClassMap:
    """Smooth shapes some hundred pixels across, of five classes, on a quarter of the area."""
    rng = np.random.default_rng(0)
    field = rng.normal(size=(size // 160 + 2,) * 2).astype(np.float32)
    inside = np.asarray(Image.fromarray(field).resize((size, size), Image.Resampling.BICUBIC)) > 0.6
    classes = rng.integers(1, 6, (size // 640 + 2,) * 2, dtype=np.uint8)
    where = np.asarray(Image.fromarray(classes).resize((size, size), Image.Resampling.NEAREST))
    return np.where(inside, where, 0).astype(np.uint8)


def vehicles(size: int) -> ClassMap:
    """Turned rectangles of 18 × 8 and 32 × 14 pixels, one for every 4000 pixels."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-20:21, -20:21]
    stamps = []
    for angle in np.linspace(0, np.pi, 24, endpoint=False):
        along = x * np.cos(angle) + y * np.sin(angle)
        across = -x * np.sin(angle) + y * np.cos(angle)
        stamps += [(8, (abs(along) <= 16) & (abs(across) <= 7))]
        stamps += [(9, (abs(along) <= 9) & (abs(across) <= 4))]
    result = np.zeros((size, size), np.uint8)
    for _ in range(size * size // 4000):
        top, left = rng.integers(0, size - 41, 2)
        value, stamp = stamps[rng.integers(len(stamps))]
        result[top : top + 41, left : left + 41][stamp] = value
    return result


def salt(size: int) -> ClassMap:
    """The blobs, with a random class at one pixel in a hundred."""
    rng = np.random.default_rng(2)
    result = blobs(size)
    count = size * size // 100
    places = rng.integers(0, size * size, count)
    result.ravel()[places] = rng.integers(0, 6, count, dtype=np.uint8)
    return result


MAPS = {"blobs": blobs, "vehicles": vehicles, "salt": salt}

BY_RASTERIO = """
import sys, geopandas, rasterio, rasterio.features
from shapely.geometry import shape
with rasterio.open(sys.argv[1]) as raster:
    values = raster.read(1)
    pairs = [(shape(item), int(value)) for item, value in
             rasterio.features.shapes(values, mask=values > 0, transform=raster.transform)]
    geometry, classes = zip(*pairs)
    frame = geopandas.GeoDataFrame({"class_id": classes}, geometry=list(geometry), crs=raster.crs)
frame.to_file(sys.argv[2], driver="GPKG")
"""


def ways() -> dict[str, list[str]]:
    """Commands, with {raster} and {output} for the files."""
    geoseg = [sys.executable, "-m", "geoseg", "vectorize", "{raster}", "-o", "{output}", "-q"]
    geoseg += ["--workers", "2"]
    found = {
        "geoseg": geoseg,
        "geoseg exact": [*geoseg, "--simplify", "0", "--min-area", "0"],
        "rasterio": [sys.executable, "-c", BY_RASTERIO, "{raster}", "{output}"],
    }
    if program := shutil.which("gdal_polygonize.py") or shutil.which("gdal_polygonize"):
        found["gdal_polygonize"] = [program, "-q", "{raster}", "-f", "GPKG", "{output}"]
    return found


def run(command: list[str], raster: Path, output: Path) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak MB of one process."""
    output.unlink(missing_ok=True)
    names = {"raster": str(raster), "output": str(output)}
    filled = [
        part.format(**names) if part in ("{raster}", "{output}") else part for part in command
    ]
    start = time.perf_counter()
    process = subprocess.Popen(filled)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"failed: {' '.join(filled)}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=16384)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--only", choices=MAPS)
    parser.add_argument("--way", action="append", help="only this one; may be given again")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    profile = {"height": options.size, "width": options.size, "count": 1, "dtype": "uint8"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    profile |= {"nodata": 255, "crs": 32637, "transform": Affine(0.1, 0, 3e5, 0, -0.1, 9.8e6)}
    print(f"{'map':<10} {'way':<16} {'wall s':>7} {'Mpx/s':>7} {'CPU s':>7} {'MB':>6}")
    for name, draw in MAPS.items():
        if options.only not in (None, name):
            continue
        raster = options.folder / f"{name}{options.size}.tif"
        if not raster.exists():
            with rasterio.open(raster, "w", driver="GTiff", **profile) as file:
                file.write(draw(options.size), 1)
        for way, command in ways().items():
            if options.way and way not in options.way:
                continue
            output = options.folder / f"{name}-{way.replace(' ', '-')}.gpkg"
            wall, cpu, memory = min(run(command, raster, output) for _ in range(options.repeat))
            speed = options.size**2 / 1e6 / wall
            print(f"{name:<10} {way:<16} {wall:7.1f} {speed:7.1f} {cpu:7.1f} {memory:6.0f}")


if __name__ == "__main__":
    main()
