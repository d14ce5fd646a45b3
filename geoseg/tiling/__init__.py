"""Windows, tiles, blending and decoding: NumPy only."""
