"""Training and evaluation. Needs the `train` extra; no GDAL."""
