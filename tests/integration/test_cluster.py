"""Prediction on a cluster: who may take part, what is said when it fails, what travels."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from fakes import Colors, write_discs
from results import assert_same_outputs

from geoseg.errors import ClusterError, MachineError, OptionError, SceneError, SchedulerError
from geoseg.geo.raster.files import FileSignature
from geoseg.geo.raster.scene import Scene
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.execution import cluster as client_side
from geoseg.pipeline.execution import local
from geoseg.pipeline.execution import worker as worker_side
from geoseg.pipeline.execution.cluster import Cluster
from geoseg.pipeline.execution.worker import Demand, inspect
from geoseg.pipeline.options import (
    ComputeOptions,
    OutputOptions,
    PredictOptions,
    SceneOptions,
    TilingOptions,
)
from geoseg.pipeline.predict import make_plan, predict
from geoseg.version import VERSION, build, sources_hash

distributed = pytest.importorskip("distributed")

BARE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"geoseg", "torch", "rasterio", "shapely", "geopandas"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
"""A Python without them."""
DASK = "from dask.__main__ import main; main()"
TILING = {"tile_size": 128, "overlap": 32}
MODELS = os.pathsep.join(str(Path(file).parent) for file in (fakes.__file__, __file__))
"""Where workers find the classes of the models."""


class Processes:
    """Of a cluster, each without a word and in another folder than this one; a context."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, list[subprocess.Popen[bytes]]()

    def start(self, code: str, *arguments: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": MODELS},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.running.append(process)
        return process

    def scheduler(self) -> tuple[str, subprocess.Popen[bytes]]:
        """The address of one that can do nothing but schedule."""
        file = self.folder / "scheduler.json"
        where = ["--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", file]
        process, deadline = self.start(BARE + DASK, "scheduler", *where), time.monotonic() + 60
        while not (file.exists() and file.stat().st_size):
            assert time.monotonic() < deadline, "the scheduler does not start"
            time.sleep(0.05)
        return json.loads(file.read_text())["address"], process

    def worker(self, address: str, before: str = "") -> None:
        """Runs the code `before` first."""
        self.start(before + DASK, "worker", address, "--nthreads", 1, "--no-nanny")

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def scene(folder) -> Path:
    return write_discs(folder / "town.tif", 300, 400)


@pytest.fixture(scope="module")
def reference(scene, folder):
    return predict(scene, colors(), OutputOptions(folder / "reference"), TilingOptions(**TILING))


@pytest.fixture
def address() -> Iterator[str]:
    """Of a cluster in this process, which talks as one of several does."""
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with distributed.LocalCluster(processes=False, protocol="tcp", **options) as cluster:
        yield cluster.scheduler_address


def colors(network: torch.nn.Module | None = None) -> TileModel:
    return TileModel(network or Colors(), device="cpu")


def run(scene, folder, address, network=None, **options):
    options = {
        "tiling": TilingOptions(**TILING),
        "compute": ComputeOptions(scheduler=address),
        **options,
    }
    return predict(scene, colors(network), OutputOptions(Path(folder)), **options)


def demand(scene: Path, **changes: object) -> bytes:
    opened = Scene.open(str(scene))
    plan = make_plan(
        opened,
        Colors.metadata,
        PredictOptions(
            OutputOptions(Path()),
            SceneOptions(),
            TilingOptions(**TILING),
            ComputeOptions(tiles_per_block=1),
        ),
    )
    marks = {str(scene): FileSignature.of(scene)}
    found = {"plan": plan, "shape": (300, 400), "marks": marks, "workers": 1}
    return pickle.dumps(Demand(**(found | changes)))


def test_a_scheduler_needs_nothing_and_a_relative_scene_is_found(
    scene, reference, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(folder)
    write_discs(folder / "village.tif", 300, 400, seed=6)
    with Processes(tmp_path) as processes:
        address, scheduler = processes.scheduler()
        processes.worker(address)
        with warnings.catch_warnings(), Cluster(address) as cluster:
            warnings.filterwarnings("error", "Sending large graph")
            found = run("town.tif", tmp_path / "out", address, Large(), cluster=cluster)
            run("village.tif", tmp_path / "out", address, Large(), cluster=cluster)
            assert_same_outputs(reference, found)
            with pytest.raises(SchedulerError, match="does not answer any more"):
                run(
                    "town.tif",
                    tmp_path / "lost",
                    address,
                    cluster=cluster,
                    progress=lambda done, total: scheduler.kill(),
                )
    assert [path.name for path in (tmp_path / "lost").iterdir()] == ["town.unfinished"]


class Large(Colors):
    """Weights of more than 10 MB, from which on dask warns."""

    def __init__(self) -> None:
        super().__init__()
        self.ballast = torch.nn.Parameter(torch.zeros(3_000_000))


def test_a_worker_without_geoseg_is_refused(scene, tmp_path):
    with Processes(tmp_path) as processes:
        address, _ = processes.scheduler()
        processes.worker(address, before=BARE)
        with pytest.raises(
            ClusterError, match=r"has no geoseg like this machine's.*named 'geoseg'"
        ):
            run(scene, tmp_path / "out", address)
    assert not (tmp_path / "out").exists()


def test_a_worker_with_another_geoseg_is_refused(scene, tmp_path, address, monkeypatch):
    monkeypatch.setattr(worker_side, "build", lambda: "0.0.9+12345678")
    message = rf"worker tcp://\S+ has geoseg 0\.0\.9\+12345678, but this machine has {build()[:5]}"
    with pytest.raises(ClusterError, match=message):
        run(scene, tmp_path / "out", address)
    assert not (tmp_path / "out").exists()


def test_a_worker_that_joins_with_another_geoseg_is_refused(scene, tmp_path, address, monkeypatch):
    """It was not there when the others were looked at, but every task looks again."""

    def change(done: int, total: int) -> None:
        monkeypatch.setattr(worker_side, "build", lambda: "0.0.9+12345678")

    with pytest.raises(ClusterError, match=r"has geoseg 0\.0\.9"):
        run(scene, tmp_path / "out", address, progress=change)
    assert not list(tmp_path.glob("out/*.tif"))


def test_builds_of_one_version_differ(tmp_path):
    """Checkouts of which one was edited, where it matters and where not."""
    for name in ("decode.py", "geo/view.py", "cli/main.py"):
        for checkout in ("one", "two"):
            path = tmp_path / checkout / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x = 1\n" if checkout == "one" else b"x = 1\r\n")
    first, second = tmp_path / "one", tmp_path / "two"
    assert sources_hash(first) == sources_hash(second)
    (second / "cli/main.py").write_text("x = 2\n")
    assert sources_hash(first) == sources_hash(second)
    (second / "geo/view.py").write_text("x = 2\n")
    assert sources_hash(first) != sources_hash(second)
    assert build().partition("+")[0] == VERSION


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*town.tif.*No such file"),
        (lambda old: old[:-1], "has another .*town.tif"),
        (lambda old: old[:5000] + b"\1" + old[5001:], "has another .*town.tif"),
    ],
)
def test_a_worker_must_see_the_scene(tmp_path, content, message):
    scene = write_discs(tmp_path / "town.tif", 300, 400)
    asked, old = demand(scene), scene.read_bytes()
    here = ("cpu", colors().options["precision"], 1)
    assert inspect("tcp://w", build(), "1", asked, colors().requested) == here
    scene.unlink()
    if content is not None:
        scene.write_bytes(content(old))
    with pytest.raises(ClusterError, match=f"worker tcp://w {message}") as caught:
        inspect("tcp://w", build(), "2", asked, colors().requested)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_copy_of_the_scene_is_the_scene(tmp_path):
    scene = write_discs(tmp_path / "town.tif", 300, 400)
    asked, here = demand(scene), ("cpu", colors().options["precision"], 1)
    os.utime(scene, (1, 1))
    assert inspect("tcp://w", build(), "3", asked, colors().requested) == here


def test_a_worker_finds_its_own_device(monkeypatch):
    """Whatever the client has: what travels is what was asked for."""
    model = colors()
    model.requested["device"] = "auto"
    content = pickle.dumps(model)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    other = [torch.device("meta")]
    monkeypatch.setattr("geoseg.model.tile_model.choose_devices", lambda asked: other)
    arrived = pickle.loads(content)
    assert (arrived.device.type, arrived.batch_size, arrived.cores) == ("meta", 8, 3)
    with pytest.raises(OptionError, match="--device nonsense"):
        worker_side._answer("tcp://w", lambda: worker_side.choose_devices("nonsense"))


def test_what_fails_on_a_worker_arrives_as_what_it_is(scene, tmp_path, address, monkeypatch):
    def fail(*arguments: object) -> None:
        try:
            raise Unpicklable(1, 2)
        except Unpicklable as error:
            raise SceneError("town.tif: cannot read") from error

    monkeypatch.setattr(worker_side, "infer_block", fail)
    with pytest.raises(SceneError, match=r"^town\.tif: cannot read$"):
        run(scene, tmp_path, address)
    monkeypatch.setattr(worker_side, "infer_block", lambda *arguments: bytearray(1 << 60))
    with pytest.raises(MachineError, match="refuses more memory"):
        run(scene, tmp_path, address)
    assert list(tmp_path.iterdir()) == []


class Unpicklable(Exception):  # noqa: N818
    """As those of rasterio: two arguments in, one in `args`."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


def test_a_cluster_without_workers(scene, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(client_side, "_WAIT", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster,
        pytest.raises(SchedulerError, match=r"has had no worker.*dask worker inproc://"),
    ):
        run(scene, tmp_path / "out", cluster.scheduler_address)
    assert "has no worker; waiting" in caplog.text
    assert not (tmp_path / "out").exists()


def test_no_scheduler(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(client_side, "_CONNECT", 0.5)
    with pytest.raises(SchedulerError, match=r"127\.0\.0\.1:9 does not answer") as caught:
        run(scene, tmp_path / "out", "tcp://127.0.0.1:9")
    assert caught.value.exit_code == 1


class Deadly(Colors):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        os._exit(9)


def test_workers_that_die_of_a_block(scene, tmp_path):
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(ClusterError, match=r"workers died.*--memory-limit"),
    ):
        run(scene, tmp_path, "local:1", Deadly())


def test_a_worker_that_dies_while_it_is_checked_is_no_error(scene, reference, tmp_path, address):
    with Cluster(address) as cluster:
        ask = cluster.client.run

        def ask_and_lose(function, **options):
            ask(function, **options)
            cluster.client.run = ask  # then there is one
            return {"tcp://127.0.0.1:1": OSError("Stream is closed")}

        def ask_the_lost(function, **options):
            cluster.client.run = ask_and_lose
            return {"tcp://127.0.0.1:1": OSError("Stream is closed"), **ask(function, **options)}

        for lost in (ask_and_lose, ask_the_lost):
            cluster.client.run = lost
            folder = OutputOptions(tmp_path / lost.__name__)
            compute = ComputeOptions(scheduler=address)
            again = predict(
                scene, colors(), folder, TilingOptions(**TILING), compute=compute, cluster=cluster
            )
            assert_same_outputs(reference, again)


def test_local_workers_have_a_gpu_each(monkeypatch):
    started: dict[str, Any] = {}
    monkeypatch.setattr(distributed, "SpecCluster", lambda **options: started.update(options))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7f")
    local.start_local(3)
    seen = [worker["options"]["env"] for worker in started["workers"].values()]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in seen] == ["4", "GPU-7f", "4"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    local.start_local(1)
    assert "env" not in started["workers"][0]["options"]
    with pytest.raises(OptionError, match="local:N"):
        ComputeOptions(scheduler="local:0")


def test_the_client_needs_no_device():
    """A model for the workers of a cluster waits on the CPU."""
    model = TileModel(Colors(), device="cuda", precision="bfloat16", remote=True)
    assert model.device.type == "cpu"
    assert model.requested["device"] == "cuda"
