"""Public and own labels, to folders that `geoseg train` reads."""
