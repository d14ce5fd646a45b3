"""Rasters, grids and polygons. Never imports torch."""

from __future__ import annotations

import warnings

from rasterio.errors import NotGeoreferencedWarning

# `Scene.notes` says so once, in a sentence; rasterio would at every opening, in every thread.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
