"""Draw a preview: the polygons over the scene, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely
from geopandas import GeoDataFrame
from PIL import Image, ImageDraw, ImageFont

from geoseg.atomic import Staging
from geoseg.classes import Color, LabelClass, class_color
from geoseg.errors import OutputError
from geoseg.geo.failures import vector_errors
from geoseg.geo.raster.scene import Scene
from geoseg.guard import check_outputs
from geoseg.tiling.grid import Window

SIDE = 1600
"""Longer side of the view, px."""
LINE = 26
"""Height of a legend entry, px."""


def write_preview(
    path: Path,
    scene: Scene,
    features: GeoDataFrame,
    classes: Sequence[LabelClass],
    window: Window | None = None,
) -> None:
    """Write a PNG with `features` (in the scene's CRS, with `class_id`) over a reduced view.

    Args:
        window: the part of the scene to show; None = all of it.

    Raises OutputError if it cannot be written, OptionError if it would replace the scene.
    """
    check_outputs([path], [scene.path], overwrite=True)
    pixels = scene.overview(SIDE, window)
    height, width = pixels.valid.shape
    view = Image.fromarray(np.ascontiguousarray(pixels.image.transpose(1, 2, 0)))
    shown = scene.geobox if window is None else scene.geobox.crop(window)
    to_view = ~shown.resized(height, width).transform
    shapes = shapely.transform(
        features.geometry.to_numpy(), lambda xy: np.column_stack(to_view @ (xy[:, 0], xy[:, 1]))
    )
    overlay = Image.new("RGBA", view.size)
    canvas = ImageDraw.Draw(overlay)
    class_ids = features["class_id"].to_numpy()
    colors = {item.id: item.color for item in classes}
    parts, owner = shapely.get_parts(shapes, return_index=True)
    for part, class_id in zip(parts, class_ids[owner], strict=True):
        color = colors.get(int(class_id)) or class_color(int(class_id))
        shell = [tuple(point) for point in part.exterior.coords]
        canvas.polygon(shell, fill=(*color, 80))
        canvas.line(shell, fill=(*color, 255), width=2)
    view = Image.alpha_composite(view.convert("RGBA"), overlay).convert("RGB")
    entries = [
        (item.color, f"{item.name.replace('_', ' ')}  {count}")
        for item in classes
        if (count := int((class_ids == item.id).sum()))
    ]
    with (
        Staging(path.parent, path.name) as staging,
        vector_errors(f"{path} cannot be written", OutputError),
    ):
        add_legend(view, entries).save(staging.new / path.name, format="PNG")


def add_legend(view: Image.Image, entries: list[tuple[Color, str]]) -> Image.Image:
    """Return `view` with a column of colors and names to its right."""
    font = ImageFont.load_default(size=16)
    text_width = max((font.getlength(text) for _, text in entries), default=0)
    height = max(view.height, LINE * (len(entries) + 1))
    sheet = Image.new("RGB", (view.width + int(text_width) + 60, height), "white")
    sheet.paste(view)
    canvas = ImageDraw.Draw(sheet)
    for row, (color, text) in enumerate(entries):
        left, top = view.width + 16, LINE // 2 + row * LINE
        canvas.rectangle((left, top, left + 18, top + 16), fill=color, outline="black")
        canvas.text((left + 28, top - 2), text, fill="black", font=font)
    return sheet
