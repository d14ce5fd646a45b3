"""Report and preview of a prediction."""

from __future__ import annotations

from pathlib import Path

from commands import command
from fakes import Colors, write_discs
from PIL import Image

from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions, SceneOptions, TilingOptions
from geoseg.pipeline.predict import predict


def test_predict_draws_what_was_predicted(tmp_path):
    scene = write_discs(tmp_path / "town.tif", 300, 420)

    def run(**output):
        wanted = OutputOptions(tmp_path / "out", **output)
        area = SceneOptions(aoi="448065,5411890,448165,5411950")
        model = TileModel(Colors(), device="cpu")
        return predict(scene, model, wanted, TilingOptions(tile_size=128, overlap=32), area)

    done = run(report=True, preview=True, formats=("geojson",))
    page = Path(done.outputs["report"]).read_text("utf-8")
    assert f"{done.objects} objects of" in page
    assert str(scene) in page
    assert "License of the weights" not in page  # the model has none to tell of
    assert '"width":200,"height":120' in page  # the area, not the scene
    with Image.open(done.outputs["preview"]) as image:
        assert image.height == 120 or image.width > 200
    assert run(report=True, formats=("geojson",)).state == "skipped"
    assert run(formats=("geojson",)).state == "skipped"


def test_a_report_on_layers_finds_the_scene(tmp_path):
    scene = write_discs(tmp_path / "town.tif", 200, 260)
    model = TileModel(Colors(), device="cpu")
    done = predict(scene, model, OutputOptions(tmp_path), TilingOptions(128, 32))
    found = command("report", done.outputs["gpkg"], "-o", tmp_path / "town.html")
    assert found.exit_code == 0, found.output
    page = (tmp_path / "town.html").read_text("utf-8")
    assert '"scene":"data:image/jpeg' in page
    assert page.count("<figure") == 2 * min(12, done.objects // 2)
