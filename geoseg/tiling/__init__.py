"""Windows, tiles, blending and decoding, with NumPy and Pillow only."""
