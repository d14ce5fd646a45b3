"""Points and boxes of objects."""

from __future__ import annotations

import numpy as np
import pyogrio
import pytest
import shapely
from commands import command, refused
from layers import CLASSES, made_by_geoseg, write_layers
from results import layers_of
from shapely import affinity


def test_layers_have_the_fields_of_the_objects(tmp_path):
    results, out = made_by_geoseg(tmp_path / "results.gpkg"), tmp_path / "derived.gpkg"
    done = command("derive", results, "-o", out, "--layers", "centroids,boxes,heatmap")
    assert done.exit_code == 0, done.output
    layers = layers_of(out)
    assert list(layers) == ["centroids", "boxes", "heatmap"]
    for frame in layers.values():
        assert frame["object_id"].tolist() == [1, 2, 3]
        assert frame["class"].tolist() == ["ship", "Grassland/Herbaceous", "ship"]
    objects = layers["boxes"]
    assert shapely.contains(objects.geometry, layers["centroids"].geometry).all()
    styles = pyogrio.read_dataframe(out, layer="layer_styles", read_geometry=False)
    assert "heatmapRenderer" in styles.set_index("f_table_name").loc["heatmap", "styleQML"]
    refused("derive", results, "-o", out, says="--overwrite")
    refused("derive", results, "-o", out, "--overwrite", "--layers", "hulls", says="choose from")
    done = command("derive", results, "-o", out, "--overwrite", "--only", "ship", "-q")
    assert done.exit_code == 0
    assert [len(frame) for frame in layers_of(out).values()] == [2, 2]


@pytest.mark.parametrize("crs", [32633, 4326, 3857])
def test_boxes_are_as_long_and_wide_as_measured(tmp_path, crs):
    frame = pyogrio.read_dataframe(made_by_geoseg(tmp_path / "a.gpkg"), layer="ship")
    turned = affinity.rotate(frame.geometry.iloc[0], 33)
    ring = shapely.Point(*turned.centroid.coords).buffer(30) - turned.centroid.buffer(25)
    frame = frame.set_geometry([turned, ring], crs=frame.crs).to_crs(crs)
    write_layers(tmp_path / "b.gpkg", frame, CLASSES)
    out = tmp_path / "c.gpkg"
    assert command("derive", tmp_path / "b.gpkg", "-o", out, "-q").exit_code == 0
    layers = layers_of(out)
    boxes = layers["boxes"].to_crs(32633)
    sides = np.sort(shapely.length(shapely.get_parts(shapely.linestrings(
        shapely.get_coordinates(boxes.geometry).reshape(-1, 5, 2)[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    ))).reshape(-1, 2), axis=1)  # fmt: skip
    measured = layers["boxes"][["width_m", "length_m"]].to_numpy()
    np.testing.assert_allclose(sides, measured, rtol=2e-3)
    # The centroid of a ring is not in it.
    assert shapely.intersects(layers["centroids"].geometry.iloc[1], frame.geometry.iloc[1])
