"""Compare two folders of results of the same scenes, pixel by pixel and object by object.

    python tests/benchmarks/same_results.py BEFORE AFTER

A row a scene: pixels whose class differs, pixels whose confidence differs and by how many percent
at most, objects before and after, objects with a twin of equal outline and class, twins whose
fields differ, and files with other bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import rasterio
import shapely

ORDER = ["class_id", "shape"]
EMPTY = geopandas.GeoDataFrame({"object_id": [], "class_id": []}, geometry=[])


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read(1).astype(int)


def objects(path: Path) -> pd.DataFrame:
    """All layers as one table, the outlines as normalized WKB."""
    layers = [pyogrio.read_dataframe(path, layer=name) for name, _ in pyogrio.list_layers(path)]
    table = pd.concat([layer for layer in layers if "class_id" in layer] or [EMPTY])
    shapes = shapely.to_wkb(shapely.normalize(table.geometry.to_numpy()))
    table = pd.DataFrame(table.drop(columns=["geometry", "object_id"])).assign(shape=shapes)
    return table.sort_values(ORDER, ignore_index=True)


def compare(before: Path, after: Path, stem: str) -> dict[str, object]:
    row: dict[str, object] = {"scene": stem}
    one, two = (pixels(each / f"{stem}.classes.tif") for each in (before, after))
    row |= {"pixels": one.size, "differ": np.count_nonzero(one != two)}
    if (before / f"{stem}.confidence.tif").exists():
        one, two = (pixels(each / f"{stem}.confidence.tif") for each in (before, after))
        row |= {"confidence": np.count_nonzero(one != two), "by": np.abs(one - two).max()}
    one, two = (objects(each / f"{stem}.gpkg") for each in (before, after))
    both = one.merge(two, on=ORDER, suffixes=("", "_after"))
    row |= {"before": len(one), "after": len(two), "twins": len(both)}
    changed = pd.Series(False, both.index)
    for name in set(one) & set(two) - set(ORDER):
        old, new = both[name], both[f"{name}_after"]
        changed |= (old != new) & ~(old.isna() & new.isna())
    row["fields"] = int(changed.sum())
    files = [(path, after / path.name) for path in sorted(before.glob(f"{stem}.*"))]
    row["files"] = " ".join(
        old.name.removeprefix(f"{stem}.")
        for old, new in files
        if old.is_file() and not (new.is_file() and old.read_bytes() == new.read_bytes())
    )
    return row


if __name__ == "__main__":
    before, after = map(Path, sys.argv[1:])
    stems = sorted(path.name.removesuffix(".classes.tif") for path in before.glob("*.classes.tif"))
    print(pd.DataFrame(compare(before, after, stem) for stem in stems).to_string(index=False))
