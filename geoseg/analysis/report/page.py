"""The page of a report: map, totals, histograms, pictures of objects, settings and license."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import from_origin

from geoseg.analysis.report.figures import confidence_histogram, size_histogram
from geoseg.analysis.report.outlines import STEPS, choose_outlines
from geoseg.analysis.report.pictures import SIDE, jpeg, object_picture, overview, painted
from geoseg.classes import Color, class_color
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.bands import reduced_shape
from geoseg.geo.raster.scene import Scene
from geoseg.tiling.grid import Window

PICTURES = 12
"""Objects in each row of pictures."""
_STATIC = files("geoseg.analysis.report") / "static"
_SETTINGS = {
    "scene": "Scene",
    "date": "Date",
    "geoseg": "Version of geoseg",
    "weights_variant": "Model",
    "weights": "Weights (SHA-256)",
    "weights_provenance": "Origin of the weights",
    "weights_license": "License of the weights",
}
"""Records of a file that come first, and what people call them."""


@dataclass(frozen=True, slots=True)
class Results:
    """What a report tells of."""

    title: str
    features: GeoDataFrame
    """With the fields of every layer; see `geoseg.geo.layers.edited.FIELDS`."""
    colors: Mapping[str, Color]
    """By class."""
    metadata: Mapping[str, str]
    """How the features were made."""
    notes: Sequence[str] = ()


def report_page(results: Results, scene: Scene | None, window: Window | None = None) -> str:
    """Return a report as HTML of at most 10 MB, whatever the size of the scene.

    Args:
        scene: the scene, in the CRS of the features; None = the map has no picture.
        window: the part of the scene that the map shows; None = all of it.

    Raises SceneError if the scene cannot be read.
    """
    frame, notes = results.features, list(results.notes)
    areas = frame.groupby("class")["area_m2"].sum().sort_values(ascending=False, kind="stable")
    names = [str(name) for name in areas.index]
    kinds = np.array([names.index(name) for name in frame["class"]], np.intp)
    colors = [results.colors.get(name) or class_color(i + 1) for i, name in enumerate(names)]
    codes = ["#" + bytes(color).hex() for color in colors]
    unit = "px" if frame.crs is None else "m"
    view = _view(frame, scene, window)
    shapes = frame.geometry.to_numpy()
    to_view = _to_pixels(view)
    placed = shapely.transform(shapes, to_view)
    least, most = _extremes(frame)
    outlines = choose_outlines(placed, [*least, *most])
    rest = np.setdiff1d(np.arange(len(frame)), outlines.chosen)
    if len(rest):
        notes.append(
            f"{len(outlines.chosen):,} of {len(frame):,} objects have an outline on the map, the "
            "largest; the others are painted, and tell nothing when clicked"
        )
    size = (view.width, view.height)
    data: dict[str, Any] = {
        "width": view.width,
        "height": view.height,
        "pixel": view.pixel_size or (1.0, 1.0),
        "unit": unit,
        "digits": 6 if frame.crs is not None and frame.crs.is_geographic else 1,
        "transform": tuple(view.transform)[:6],
        "steps": STEPS,
        "scene": jpeg(overview(scene, window or scene.geobox.extent)) if scene else None,
        "painted": painted(size, placed[rest], kinds[rest].tolist(), colors) if len(rest) else None,
        "classes": [
            {"name": name, "color": code, "count": int((kinds == i).sum())}
            for i, (name, code) in enumerate(zip(names, codes, strict=True))
        ],
    }
    data["objects"] = _columns(frame.iloc[outlines.chosen], kinds[outlines.chosen])
    body = [
        f"<h1>{html.escape(results.title)}</h1>",
        _summary(frame, names, unit),
        *(f"<p>Note: {html.escape(note)}</p>" for note in notes),
        '<div id="map"></div>',
        _totals(frame, names, codes, unit),
    ]
    if len(frame):
        body.append(_histograms(frame, kinds, codes, unit))
    if scene is not None:
        position = {index: place for place, index in enumerate(outlines.chosen.tolist())}
        pick = _Pictures(frame, scene, position, [colors[k] for k in kinds])
        body += [pick.row("Most certain objects", most), pick.row("Least certain objects", least)]
    body.append(_settings(results.metadata))
    return _page(results.title, "\n".join(body), data, outlines.rings)


def _view(frame: GeoDataFrame, scene: Scene | None, window: Window | None) -> GeoBox:
    """Return the grid of the map: pixels of the overview, or of a picture that there is not."""
    if scene is not None:
        box = scene.geobox if window is None else scene.geobox.crop(window)
        return box.resized(*reduced_shape(box.shape, SIDE))
    left, bottom, right, top = frame.total_bounds if len(frame) else (0, 0, 1, 1)
    step = max(right - left, top - bottom) / (SIDE / 2) or 1.0
    margin = 20 * step
    shape = (int((top - bottom) / step) + 41, int((right - left) / step) + 41)
    crs = None if frame.crs is None else CRS.from_wkt(frame.crs.to_wkt())
    return GeoBox(*shape, from_origin(left - margin, top + margin, step, step), crs)


def _to_pixels(box: GeoBox) -> Any:
    inverse = ~box.transform
    return lambda xy: np.column_stack(inverse @ (xy[:, 0], xy[:, 1]))


def _extremes(frame: GeoDataFrame) -> tuple[list[int], list[int]]:
    """Return indices of the least and of the most certain objects, the extreme ones first."""
    confidence = frame["confidence"].to_numpy(float, na_value=np.nan)
    order = np.argsort(confidence, kind="stable")  # NaN comes last
    order = order[: np.count_nonzero(~np.isnan(confidence))]
    count = min(PICTURES, len(order) // 2)
    return order[:count].tolist(), order[::-1][:count].tolist()


def _columns(frame: GeoDataFrame, kinds: NDArray[np.intp]) -> dict[str, Any]:
    """Return the attributes of the outlined objects, except their rings."""

    def rounded(field: str, digits: int) -> list[float | None]:
        values = frame[field].to_numpy(float, na_value=np.nan)
        return [None if np.isnan(v) else round(float(v), digits) for v in values]

    return {
        "id": frame["object_id"].tolist(),
        "kind": kinds.tolist(),
        "area": rounded("area_m2", 1),
        "confidence": rounded("confidence", 2),
        "length": rounded("length_m", 1),
        "width": rounded("width_m", 1),
        "angle": rounded("angle_deg", 0),
    }


def _summary(frame: GeoDataFrame, names: list[str], unit: str) -> str:
    area = frame["area_m2"].sum()
    return f"<p>{len(frame):,} objects of {len(names)} classes, {area:,.0f} {unit}² in all.</p>"


def _totals(frame: GeoDataFrame, names: list[str], codes: list[str], unit: str) -> str:
    heads = ("objects", f"area ({unit}²)", f"median ({unit}²)", "median confidence")
    rows = ["<tr><th>class</th>" + "".join(f'<th class="number">{h}</th>' for h in heads) + "</tr>"]
    for name, code in zip(names, codes, strict=True):
        part = frame[frame["class"] == name]
        certainty = part["confidence"].median()
        cells = (
            f"{len(part):,}",
            f"{part['area_m2'].sum():,.1f}",
            f"{part['area_m2'].median():,.1f}",
            "" if np.isnan(certainty) else f"{certainty:.2f}",
        )
        rows.append(
            f'<tr><td><span class="swatch" style="background:{code}"></span>{html.escape(name)}'
            "</td>" + "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>"
        )
    return f"<h2>Classes</h2><table>{''.join(rows)}</table>"


def _histograms(frame: GeoDataFrame, kinds: NDArray[np.intp], codes: list[str], unit: str) -> str:
    figures = [size_histogram(frame["area_m2"].to_numpy(float), kinds, codes, unit)]
    confidence = frame["confidence"].to_numpy(float, na_value=np.nan)
    if (known := ~np.isnan(confidence)).any():
        figures.append(confidence_histogram(confidence[known], kinds[known], codes))
    return f'<h2>Sizes and confidence</h2><div class="figures">{"".join(figures)}</div>'


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Rows of pictures of objects."""

    frame: GeoDataFrame
    scene: Scene
    position: Mapping[int, int]
    """Place among the outlined objects, by index."""
    colors: Sequence[Color]
    """Of each object."""

    def row(self, title: str, indices: Sequence[int]) -> str:
        if not indices:
            return ""
        to_pixels = _to_pixels(self.scene.geobox)
        figures = []
        for i in indices:
            item, shape = self.frame.iloc[i], self.frame.geometry.iloc[i]
            picture = object_picture(self.scene, shape, to_pixels, self.colors[i])
            name = html.escape(str(item["class"]))
            figures.append(
                f'<figure data-object="{self.position[i]}"><img src="{picture}" alt="{name}">'
                f"<figcaption>{name} {item['object_id']}<br>{item['confidence']:.2f}"
                "</figcaption></figure>"
            )
        return f'<h2>{title}</h2><div class="pictures">{"".join(figures)}</div>'


def _settings(metadata: Mapping[str, str]) -> str:
    known = {label: metadata[key] for key, label in _SETTINGS.items() if metadata.get(key)}
    known |= {key: value for key, value in metadata.items() if key not in _SETTINGS}
    if not known:
        return ""
    rows = (
        f'<tr><td>{html.escape(key)}</td><td class="text">{html.escape(value)}</td></tr>'
        for key, value in known.items()
    )
    return f"<h2>Settings</h2><table>{''.join(rows)}</table>"


def _page(title: str, body: str, data: Mapping[str, Any], rings: Sequence[str]) -> str:
    """Return the document, with everything that it needs inside."""
    text = json.dumps(data, separators=(",", ":"))
    # The outlines are JSON already.
    text = f'{text[:-2]},"rings":[{",".join(rings)}]}}}}'.replace("<", "\\u003c")
    css = re.sub(r"url\([^)]*\)", "none", _static("leaflet.css")) + _static("report.css")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<!-- Leaflet:\n{_static('LICENSE-leaflet.txt')}-->\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n{body}\n<footer>Made by geoseg. The map is drawn by Leaflet (BSD 2-Clause "
        "License).</footer>\n"
        f'<script type="application/json" id="data">{text}</script>\n'
        f"<script>{_static('leaflet.js')}</script>\n<script>{_static('map.js')}</script>\n"
        "</body>\n</html>\n"
    )


def _static(name: str) -> str:
    return (_STATIC / name).read_text("utf-8")
