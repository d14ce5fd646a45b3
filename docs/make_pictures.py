"""Makes the pictures of the site in docs/pictures/ from the scene of `geoseg demo`.

Run it after changes that show, and commit the pictures: the site is built without it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import rasterio
import shapely
from geopandas import GeoDataFrame
from PIL import Image, ImageDraw
from rasterio.windows import Window

PICTURES = Path(__file__).with_name("pictures")
WINDOW = Window(640, 380, 800, 520)
"""Tanks, planes, parked cars, and houses with pools."""
_LABELED = Window(700, 500, 560, 420)
"""The part of `labels.jpg`: tanks, and the frame of an area."""
Color = tuple[int, int, int]


def main() -> None:
    """Render, predict, draw."""
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="geoseg-docs-") as name:
        folder = Path(name)
        geoseg("demo", "-o", str(folder))
        geoseg("predict", str(folder / "scene.tif"), "-o", str(folder / "again"), "--confidence")
        scene, again = folder / "scene.tif", folder / "again"
        colors = class_colors(again / "scene.classes.tif")
        found = read_layers(again / "scene.gpkg")
        truth = read_layers(folder / "truth.gpkg")

        picture(scene, WINDOW).save(PICTURES / "scene.jpg", quality=82)
        drawn(scene, WINDOW, found, colors).save(PICTURES / "polygons.jpg", quality=82)
        class_picture(again / "scene.classes.tif", WINDOW).save(PICTURES / "classes.png")
        gray = read(again / "scene.confidence.tif", WINDOW)[0]
        Image.fromarray(np.where(gray == 255, 0, gray * 2.55).astype(np.uint8)).save(
            PICTURES / "confidence.jpg", quality=82
        )
        area = GeoDataFrame(
            {"class": [""]}, geometry=[shapely.box(*bounds(scene, _LABELED, 30))], crs=truth.crs
        )
        labels = pd.concat([truth, area])
        drawn(scene, _LABELED, labels, colors).save(PICTURES / "labels.jpg", quality=82)
        analyzed(scene, again, folder, colors)


def analyzed(scene: Path, results: Path, folder: Path, colors: dict[str, Color]) -> None:
    """The pictures of outlines.md."""
    forms = "all,small_vehicle=box,large_vehicle=box,plane=none"
    regular, counts = folder / "regular.gpkg", folder / "counts.gpkg"
    geoseg("vectorize", f"{results}/scene.classes.tif", "-o", str(regular), "--regularize", forms)
    found = read_layers(regular)
    drawn(scene, WINDOW, found, colors).save(PICTURES / "outlines.jpg", quality=82)
    geoseg("count", f"{results}/scene.gpkg", "-o", str(counts), "--grid", "20m")
    squares = geopandas.read_file(counts, layer="counts").explode(ignore_index=True)
    high = squares["objects"].max()
    squares["class"] = [f"{count}" for count in squares["objects"]]
    ramp = {
        f"{count}": (255, 245 - int(230 * count / high), 200 - int(190 * count / high))
        for count in range(high + 1)
    }
    drawn(scene, WINDOW, squares, ramp).save(PICTURES / "counts.jpg", quality=82)


def geoseg(*arguments: str) -> None:
    """Run a command as a user does."""
    subprocess.run([sys.executable, "-m", "geoseg", *arguments], check=True)


def read(path: Path, window: Window) -> np.ndarray:
    """Values (C, H, W) of a part of a raster."""
    with rasterio.open(path) as raster:
        return raster.read(window=window)


def picture(path: Path, window: Window) -> Image.Image:
    """A part of the scene."""
    return Image.fromarray(np.ascontiguousarray(read(path, window).transpose(1, 2, 0)))


def bounds(path: Path, window: Window, margin: int) -> tuple[float, ...]:
    """Of a part of the scene less `margin` pixels, in its CRS."""
    inner = Window(
        window.col_off + margin,
        window.row_off + margin,
        window.width - 2 * margin,
        window.height - 2 * margin,
    )
    with rasterio.open(path) as raster:
        return raster.window_bounds(inner)


def class_colors(path: Path) -> dict[str, Color]:
    """The colors of the classes, by name, as the class raster stores them."""
    with rasterio.open(path) as raster:
        table, tags = raster.colormap(1), raster.tags(1)
    return {
        name: table[int(tag.removeprefix("CLASS_"))][:3]
        for tag, name in tags.items()
        if tag.startswith("CLASS_")
    }


def class_picture(path: Path, window: Window) -> Image.Image:
    """A part of the class raster in its colors; background is dark."""
    with rasterio.open(path) as raster:
        table = np.zeros((256, 3), np.uint8)
        for value, color in raster.colormap(1).items():
            table[value] = color[:3]
        table[0] = 40
        return Image.fromarray(table[raster.read(1, window=window)])


def read_layers(path: Path) -> GeoDataFrame:
    """The polygons of all layers of a GeoPackage."""
    names = [name for name, kind in pyogrio.list_layers(path) if kind]
    return pd.concat([geopandas.read_file(path, layer=name) for name in names])


def drawn(
    path: Path, window: Window, polygons: GeoDataFrame, colors: dict[str, Color]
) -> Image.Image:
    """A part of the scene with the polygons over it; those without a known class in white."""
    view = picture(path, window).convert("RGBA")
    with rasterio.open(path) as raster:
        to_view = ~raster.window_transform(window)
    overlay = Image.new("RGBA", view.size)
    canvas = ImageDraw.Draw(overlay)
    for name, shape in zip(polygons["class"], polygons.geometry, strict=True):
        points = [to_view @ point for point in shape.exterior.coords]
        color = colors.get(name)
        if color is not None:
            canvas.polygon(points, fill=(*color, 80))
        canvas.line(points, fill=(*(color or (255, 255, 255)), 255), width=2)
    return Image.alpha_composite(view, overlay).convert("RGB")


if __name__ == "__main__":
    main()
