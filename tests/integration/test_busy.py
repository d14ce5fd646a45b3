"""Every core, and every thread of a cluster, has a block to compute."""

from __future__ import annotations

import threading

import pytest
from fakes import Colors, write_discs
from results import assert_same_outputs

from geoseg.model.tile_model import TileModel
from geoseg.pipeline import options
from geoseg.pipeline.options import ComputeOptions, OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict

TILING = TilingOptions(tile_size=128, overlap=32)
INSIDE, COUNTS = threading.Condition(), [0]
"""How many threads are in the model, from the beginning."""


class Crowded(TileModel):
    """Returns nothing before `crowd` threads are in it at once."""

    crowd = 32

    def __call__(self, images, valid, timer):
        with INSIDE:
            COUNTS.append(COUNTS[-1] + 1)
            INSIDE.notify_all()
            assert INSIDE.wait_for(lambda: max(COUNTS) >= Crowded.crowd, timeout=60), max(COUNTS)
        found = super().__call__(images, valid, timer)
        with INSIDE:
            COUNTS.append(COUNTS[-1] - 1)
        return found


@pytest.mark.parametrize("cores", [16, 64])
def test_all_cores_of_this_machine_have_work(tmp_path, monkeypatch, cores):
    COUNTS[:] = [0]
    monkeypatch.setattr(Crowded, "crowd", cores)
    monkeypatch.setattr(options, "cores", lambda: cores)
    big = write_discs(tmp_path / "city.tif", 1000, 1000)
    predict(big, Crowded(Colors(), device="cpu"), OutputOptions(tmp_path / "out"), TILING)
    assert cores <= max(COUNTS) <= cores + 1  # one more thread reads


def test_all_threads_of_a_cluster_have_work_and_those_that_join(tmp_path):
    """Blocks in flight follow the cluster, not the cores of the client."""
    distributed = pytest.importorskip("distributed")
    COUNTS[:] = [0]
    workers = {"threads_per_worker": 8, "dashboard_address": None, "processes": False}
    big = write_discs(tmp_path / "city.tif", 700, 700)
    with distributed.LocalCluster(n_workers=1, protocol="tcp", **workers) as cluster:

        def grow() -> None:
            with INSIDE:
                INSIDE.wait_for(lambda: max(COUNTS) >= 8, timeout=60)
            cluster.scale(4)

        growing = threading.Thread(target=grow)
        growing.start()
        summary = predict(
            big,
            Crowded(Colors(), device="cpu"),
            OutputOptions(tmp_path / "out"),
            TILING,
            compute=ComputeOptions(scheduler=cluster.scheduler_address),
        )
        growing.join()
    assert max(COUNTS) == Crowded.crowd
    assert summary.objects
    one = predict(big, TileModel(Colors(), device="cpu"), OutputOptions(tmp_path / "one"), TILING)
    assert_same_outputs(one, summary)
