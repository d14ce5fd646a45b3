"""Polygons as arrays: traced, merged, sieved, simplified."""
