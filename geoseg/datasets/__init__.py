"""Conversion of public data sets and own labels to folders that `geoseg train` reads."""
