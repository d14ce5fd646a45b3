"""Time and peak memory of predict as the area grows.

    python tests/benchmarks/area.py [SCENE] [--gpx 0.5 1 4] [--tall]

The scene, by default a rendered one of 67 Mpx, is repeated in a VRT until it covers the area:
side by side and one below the other, or with `--tall` in one column. The model is a near-free
stand-in, so that reading, blending, decoding, polygons and writing are all of the work. Each area
has a process of its own; memory is its maximum resident set, CPU seconds are those of all its
threads, imports included.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import rasterio

from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory
from geoseg.pipeline.bench import StandIn, write_scene
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict

SIDE = 8192
"""Side of the rendered scene, px."""


def repeat(path: Path, columns: int, rows: int, target: Path) -> None:
    """Write a VRT that shows the raster `columns` × `rows` times."""
    with rasterio.open(path) as file:
        width, height, count, crs = file.width, file.height, file.count, file.crs.to_wkt()
        transform = ", ".join(str(value) for value in file.transform.to_gdal())
    size = {"xSize": str(width), "ySize": str(height)}
    shape = {"rasterXSize": str(width * columns), "rasterYSize": str(height * rows)}
    root = ET.Element("VRTDataset", shape)
    ET.SubElement(root, "SRS").text = crs
    ET.SubElement(root, "GeoTransform").text = transform
    for band in range(1, count + 1):
        element = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(band))
        ET.SubElement(element, "ColorInterp").text = ("Red", "Green", "Blue", "Alpha")[band - 1]
        for row in range(rows):
            for column in range(columns):
                source = ET.SubElement(element, "SimpleSource")
                ET.SubElement(source, "SourceFilename", relativeToVRT="0").text = str(path)
                ET.SubElement(source, "SourceBand").text = str(band)
                ET.SubElement(source, "SrcRect", xOff="0", yOff="0", **size)
                offset = {"xOff": str(column * width), "yOff": str(row * height)}
                ET.SubElement(source, "DstRect", **offset, **size)
    ET.ElementTree(root).write(target)


def measure(
    path: str, results: multiprocessing.Queue[tuple[float, float, float, float, int]]
) -> None:
    start = time.perf_counter()
    keep_free_memory()
    with tempfile.TemporaryDirectory() as folder:
        summary = predict(
            path, TileModel(StandIn(), device="cpu"), OutputOptions(Path(folder)), TilingOptions()
        )
    seconds, busy = time.perf_counter() - start, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put((summary.pixels / 1e9, seconds, busy, peak, summary.objects))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scene", type=Path, nargs="?")
    parser.add_argument("--gpx", type=float, nargs="+", default=[0.5, 1, 4])
    parser.add_argument("--tall", action="store_true")
    options = parser.parse_args()
    context, first = multiprocessing.get_context("spawn"), 0.0
    print(f"{'Gpx':>6} {'s':>7} {'CPU s':>7} {'Mpx/s':>6} {'MB':>6} {'ratio':>6} {'objects':>9}")
    with tempfile.TemporaryDirectory() as folder:
        scene = options.scene or Path(write_scene(Path(folder) / "scene.tif", SIDE))
        with rasterio.open(scene) as file:
            area = file.width * file.height / 1e9
        for gpx in options.gpx:
            large = Path(folder) / f"{gpx:g}.vrt"
            columns = 1 if options.tall else max(1, round(math.sqrt(gpx / area)))
            repeat(scene.resolve(), columns, max(1, round(gpx / area / columns)), large)
            results: multiprocessing.Queue[tuple[float, float, float, float, int]] = context.Queue()
            process = context.Process(target=measure, args=(str(large), results))
            process.start()
            found, seconds, busy, peak, objects = results.get()
            process.join()
            first = first or peak
            speed = 1000 * found / seconds
            print(
                f"{found:6.2f} {seconds:7.1f} {busy:7.1f} {speed:6.1f} {peak:6.0f} "
                f"{peak / first:6.2f} {objects:9}",
                flush=True,
            )


if __name__ == "__main__":
    main()
