"""The functions that `geoseg` exports: the commands with Python's spelling, types and results."""
