"""Histograms as SVG, stacked by class."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 520, 240
_LEFT, _BOTTOM, _TOP, _RIGHT = 48, 44, 12, 36
"""Margins, px."""
_BINS = 20
Floats = NDArray[np.float64]


def confidence_histogram(values: Floats, kinds: NDArray[np.intp], colors: Sequence[str]) -> str:
    """Return a histogram of confidences, 0-1."""
    edges = np.linspace(0, 1, _BINS + 1)
    ticks = [(value / 5, f"{value / 5:.1f}") for value in range(6)]
    return _stacked(values, kinds, colors, edges, ticks, "confidence")


def size_histogram(areas: Floats, kinds: NDArray[np.intp], colors: Sequence[str], unit: str) -> str:
    """Return a histogram of areas on a logarithmic axis."""
    logs = np.log10(np.maximum(areas, 1e-6))
    low, high = np.floor(logs.min()), np.ceil(logs.max())
    high = max(high, low + 1)
    ticks = [(float(p), f"{10.0**p:,.10g}") for p in np.arange(low, high + 1)]
    edges = np.linspace(low, high, _BINS + 1)
    return _stacked(logs, kinds, colors, edges, ticks, f"area ({unit}²)")


def _stacked(
    values: Floats,
    kinds: NDArray[np.intp],
    colors: Sequence[str],
    edges: Floats,
    ticks: Sequence[tuple[float, str]],
    label: str,
) -> str:
    counts = np.array([np.histogram(values[kinds == k], edges)[0] for k in range(len(colors))])
    most = max(1, int(counts.sum(axis=0).max()))
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - _TOP
    floor = _TOP + plot_height

    def across(value: float) -> float:
        return _LEFT + plot_width * (value - float(edges[0])) / float(edges[-1] - edges[0])

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="Histogram: {html.escape(label)}" font-size="12">'
    ]
    below = np.zeros(len(edges) - 1)
    for color, row in zip(colors, counts, strict=True):
        for i in np.flatnonzero(row).tolist():
            height = plot_height * row[i] / most
            y = floor - plot_height * below[i] / most - height
            x = across(float(edges[i])) + 0.5
            width = across(float(edges[i + 1])) - x - 0.5
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                f'fill="{color}"/>'
            )
        below += row
    parts.append(
        f'<path d="M{_LEFT} {_TOP}V{floor}H{_WIDTH - _RIGHT}" fill="none" stroke="#444"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 10}" text-anchor="end">{most:,}</text>'
        f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">0</text>'
    )
    parts += [
        f'<text x="{across(value):.1f}" y="{floor + 16}" text-anchor="middle">{text}</text>'
        for value, text in ticks
    ]
    middle = _LEFT + plot_width / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(label)}</text>'
        "</svg>"
    )
    return "".join(parts)
