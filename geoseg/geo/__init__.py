"""Rasters, grids and polygons. Never imports torch."""
