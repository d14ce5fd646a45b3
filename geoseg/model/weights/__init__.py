"""The weights that come with geoseg, and the registry of public ones."""
