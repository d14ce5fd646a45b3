"""GeoDeep: static ONNX, tile size and overlap inside. Its median filter of 5 × 5 is always on."""

import sys
from pathlib import Path

import rasterio
from geodeep import segment
from geodeep.segmentation import mask_to_geojson, save_mask_to_raster


def main(scene: str, exports: str, folder: str, _tile_size: str, _overlap: str) -> None:
    mask = segment(scene, str(Path(exports) / "softmax.onnx"), output_type="raw")
    # As its command does for one kind of output; asked for both, it would run the model twice.
    save_mask_to_raster(scene, mask, str(Path(folder) / "mask.tif"))
    names = (Path(exports) / "classes.txt").read_text().split()
    classes = {str(number): name for number, name in enumerate(names)}
    config = {"classes": list(range(1, len(names))), "class_names": classes}
    with rasterio.open(scene) as raster:
        polygons = mask_to_geojson(raster, mask, config)
    (Path(folder) / "mask.geojson").write_text(polygons)


if __name__ == "__main__" and sys.argv[1:]:
    main(*sys.argv[1:])
