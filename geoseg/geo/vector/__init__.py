"""Polygons as arrays: traced, merged, sieved and simplified."""
