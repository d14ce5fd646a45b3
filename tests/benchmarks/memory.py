"""Peak memory of predict on a scene and on the same scene repeated N × N, as a ratio.

    python tests/benchmarks/memory.py SCENE [--repeat 4]

The model is a near-free stand-in of stride 8, so that reading, blending, decoding, polygons and
writing dominate; memory is the maximum resident set of a process of its own for each scene.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import rasterio

from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory
from geoseg.pipeline.bench import StandIn
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict


def repeat(path: Path, times: int, target: Path) -> None:
    """A VRT that shows the raster `times` × `times`."""
    with rasterio.open(path) as file:
        width, height, count, crs = file.width, file.height, file.count, file.crs.to_wkt()
        transform = ", ".join(str(value) for value in file.transform.to_gdal())
    root = ET.Element("VRTDataset", rasterXSize=str(width * times), rasterYSize=str(height * times))
    ET.SubElement(root, "SRS").text = crs
    ET.SubElement(root, "GeoTransform").text = transform
    for band in range(1, count + 1):
        element = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(band))
        ET.SubElement(element, "ColorInterp").text = ("Red", "Green", "Blue", "Alpha")[band - 1]
        for row in range(times):
            for column in range(times):
                source = ET.SubElement(element, "SimpleSource")
                ET.SubElement(source, "SourceFilename", relativeToVRT="0").text = str(path)
                ET.SubElement(source, "SourceBand").text = str(band)
                size = {"xSize": str(width), "ySize": str(height)}
                ET.SubElement(source, "SrcRect", xOff="0", yOff="0", **size)
                offset = {"xOff": str(column * width), "yOff": str(row * height)}
                ET.SubElement(source, "DstRect", **offset, **size)
    ET.ElementTree(root).write(target)


def measure(path: str, results: multiprocessing.Queue[dict[str, float]]) -> None:
    start = time.perf_counter()
    keep_free_memory()
    with tempfile.TemporaryDirectory() as folder:
        summary = predict(
            path, TileModel(StandIn(), device="cpu"), OutputOptions(Path(folder)), TilingOptions()
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.perf_counter() - start
    results.put(
        {
            "mpx": summary.pixels / 1e6,
            "peak_mb": round(peak),
            "mpx_per_second": round(summary.pixels / 1e6 / seconds, 2),
            "objects": summary.objects,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--repeat", type=int, default=4)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.vrt"
        repeat(arguments.scene.resolve(), arguments.repeat, large)
        for path in (arguments.scene, large):
            results = context.Queue()
            process = context.Process(target=measure, args=(str(path), results))
            process.start()
            found = results.get()
            process.join()
            peaks.append(found["peak_mb"])
            print(json.dumps({"scene": path.name, **found}))
    print(f"ratio of peak memory: {peaks[1] / peaks[0]:.2f}")


if __name__ == "__main__":
    main()
