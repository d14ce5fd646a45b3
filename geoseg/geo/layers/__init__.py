"""Features: polygons measured on the ground, written to files and read back."""
