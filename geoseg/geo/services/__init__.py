"""Tile and map services: addresses, zoom, and the part of a service around an area of interest."""
