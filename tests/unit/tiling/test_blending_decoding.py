"""Laws of stitching and decoding: identity in, identity out; torch agrees; cuts do not show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.native.library import library
from geoseg.tiling.blending import blend, taper
from geoseg.tiling.blocks import image_logits, infer, readable_window
from geoseg.tiling.decoding import cells_around, decode
from geoseg.tiling.grid import CELL, Grid, Window
from geoseg.timing import StageTimer

CLASSES = 3


class ColorMean:
    """A stand-in model: logits are the means of the channels over each 8×8 cell."""

    num_classes = CLASSES

    def __call__(self, images, valid, timer):
        return [
            F.avg_pool2d(torch.from_numpy(i * v).float()[None], CELL)[0].numpy()
            for i, v in zip(images, valid, strict=True)
        ]


def run_blocks(image, valid, grid, model):
    """Stitched logits (h,w,C), assembled block by block as dask would."""
    height, width = valid.shape
    scene = Window(0, 0, width, height)
    blocks = list(grid.blocks())
    partials = {
        b: infer(b, grid, image[:, *inside.slices], valid[inside.slices], model, StageTimer())
        for b in blocks
        if (inside := readable_window(b, grid))
    }
    class_ids = np.full((height, width), 99, np.uint8)
    logits = np.zeros((-(-height // CELL), -(-width // CELL), CLASSES), np.float32)
    for block in blocks:
        cells = cells_around(block.core, scene)
        near = (b for b in blocks if b.window.scaled(CELL).intersection(cells))
        pieces = [partials[b].crop(cells) for b in near]
        stitched = blend(cells, pieces)
        logits[cells.slices] = stitched
        class_ids[block.core.slices] = decode(stitched, cells, block.core).class_ids
    return logits, class_ids


scenes = st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))


@settings(max_examples=40, deadline=None)
@given(scene=scenes, tiling=st.sampled_from([(64, 32), (96, 0), (128, 64)]), side=st.integers(1, 3))
def test_identity_model_and_stitch_give_the_input(scene, tiling, side):
    height, width, seed = scene
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    valid = np.ones((height, width), bool)
    grid = Grid(width, height, *tiling, side)
    logits, class_ids = run_blocks(image, valid, grid, ColorMean())
    rows, columns = height // CELL, width // CELL  # cells made of real pixels only
    means = F.avg_pool2d(torch.from_numpy(image).float()[None], CELL)[0] if rows * columns else None
    if means is not None:
        expected = means.permute(1, 2, 0).numpy()
        np.testing.assert_allclose(logits[:rows, :columns], expected, atol=1e-3)
    whole = image_logits(image, valid, ColorMean(), tile_size=tiling[0], overlap=tiling[1])
    assert (class_ids != whole.class_ids()).mean() <= 1e-3


def test_interior_is_the_tiles_own_logits_bit_by_bit():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 512, 512), dtype=np.uint8)
    grid = Grid(512, 512, 256, 64, 2)
    model = ColorMean()
    logits, _ = run_blocks(image, np.ones((512, 512), bool), grid, model)
    tile = next(grid.blocks()).tiles[0].window
    (own,) = model(
        [image[:, *tile.slices]], [np.ones((tile.height, tile.width), bool)], StageTimer()
    )
    rows, columns = (slice(64 // CELL, (side - 64) // CELL) for side in (tile.height, tile.width))
    assert (logits[rows, columns] == own.transpose(1, 2, 0)[rows, columns]).all()


def test_empty_tiles_are_not_computed_and_do_not_dim_their_neighbors():
    image = np.full((3, 256, 256), 200, np.uint8)
    image[1] = 250
    valid = np.ones((256, 256), bool)
    valid[:, 128:] = False
    seen = []

    class Recorder(ColorMean):
        def __call__(self, images, valid, timer):
            seen.extend(valid)
            return super().__call__(images, valid, timer)

    grid = Grid(256, 256, 96, 32, 2)
    logits, class_ids = run_blocks(image, valid, grid, Recorder())
    assert len(seen) < sum(len(b.tiles) for b in grid.blocks())
    assert all(v.any() for v in seen)
    np.testing.assert_allclose(logits[:, :16, 1], 250, rtol=1e-6)
    assert (class_ids[:, :120] == 1).all()


@given(height=st.integers(1, 40), width=st.integers(1, 40), ramp=st.integers(0, 20))
def test_taper_is_positive_and_one_inside(height, width, ramp):
    weights = taper(height, width, ramp)
    assert weights.min() > 0
    assert weights.max() <= 1
    assert (weights[ramp : height - ramp, ramp : width - ramp] == 1).all()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("confidence", ["none", "objects", "all"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (31, 45)])
@pytest.mark.parametrize("classes", [5, 8, 17])
def test_decode_equals_interpolation_and_argmax(
    height, width, classes, confidence, compiled, monkeypatch
):
    if not compiled:
        monkeypatch.setattr("geoseg.tiling.decoding.library", lambda: None)
    elif not library():
        pytest.skip("no compiler was at hand")
    torch.manual_seed(height)
    logits = 3 * torch.randn(1, classes, height, width, dtype=torch.float32)
    logits[:, 0] += 0.5
    scene = Window(0, 0, width * CELL, height * CELL)
    cells = Window(0, 0, width, height)
    values = np.ascontiguousarray(logits[0].permute(1, 2, 0).numpy())
    found = decode(values, cells, scene, confidence=confidence)
    full = F.interpolate(logits, scale_factor=CELL, mode="bilinear", align_corners=False)[0]
    expected = full.argmax(dim=0).numpy()
    top = full.topk(2, dim=0).values
    clear = (top[0] - top[1]).numpy() > 1e-4  # rounding may turn a tie
    assert (found.class_ids == expected)[clear].all()
    assert clear.mean() > 0.99
    if confidence == "none":
        assert found.confidence is None
        return
    probs = full.softmax(dim=0).amax(dim=0).numpy()
    asked = np.ones_like(clear) if confidence == "all" else found.class_ids > 0
    np.testing.assert_allclose(found.confidence[asked & clear], probs[asked & clear], atol=1e-5)


@pytest.mark.skipif(not library(), reason="no compiler was at hand")
def test_decoding_agrees_with_and_without_c_code(monkeypatch):
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 20, (24, 33, 16)).astype(np.float32)  # confidence down to e⁻⁸⁷ and less
    logits[8:16, 8:20] = np.eye(16, dtype=np.float32)[3]  # a flat region
    core, cells = Window(3, 5, 400, 220), Window(0, 0, 33, 24)
    for confidence in ("objects", "all"):
        found = decode(logits, cells, core, step=(1.7, 1.3), confidence=confidence)
        with monkeypatch.context() as patch:
            patch.setattr("geoseg.tiling.decoding.library", lambda: None)
            plain = decode(logits, cells, core, step=(1.7, 1.3), confidence=confidence)
        assert (found.class_ids == plain.class_ids).mean() > 0.9999  # rounding may turn a tie
        np.testing.assert_allclose(found.confidence, plain.confidence, rtol=1e-4, atol=1e-6)


def test_decoding_in_parts_equals_decoding_at_once():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(20, 30, 4)).astype(np.float32)
    scene = Window(0, 0, 235, 157)
    whole = decode(logits, Window(0, 0, 30, 20), scene).class_ids
    for core in (Window(0, 0, 64, 64), Window(64, 32, 100, 96), Window(160, 120, 75, 37)):
        cells = cells_around(core, scene)
        part = decode(logits[cells.slices], cells, core).class_ids
        assert (part == whole[core.slices]).all()
