"""Batches across threads, devices side by side, transfers that overlap: what runs on GPUs.

Fake devices compute on the CPU. `LateStream` stands for a stream of CUDA: it runs steps later, in a
thread of its own, so that a buffer that is used too early gives other logits.
"""

from __future__ import annotations

import copy
import pickle
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch
from fakes import Colors
from numpy.typing import NDArray

from geoseg.classes import ISAID
from geoseg.errors import OptionError, TileMemoryError
from geoseg.model import tile_model
from geoseg.model.devices import choose_devices, is_out_of_memory
from geoseg.model.fused import fuse
from geoseg.model.inference import batches
from geoseg.model.inference.batches import BatchQueue, Tile
from geoseg.model.inference.prepare import prepare
from geoseg.model.inference.streams import Event
from geoseg.model.metadata import Metadata
from geoseg.model.pyramid import EfficientNetPyramid
from geoseg.model.segnext import SegNeXt
from geoseg.model.tile_model import TileModel
from geoseg.timing import StageTimer

PATIENCE = 30
"""Seconds that a test waits for another thread."""
Logits = list[NDArray[np.float32]]


class Counting(Colors):
    """Notes the sizes of its batches. `allowed` tiles fit into memory."""

    def __init__(self, allowed: int = 1000, error: Exception | None = None) -> None:
        super().__init__()
        self.allowed, self.error, self.sizes = allowed, error, list[int]()

    def __deepcopy__(self, memo: dict[int, object]) -> Counting:
        return self  # a test reads it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.allowed:
            raise self.error or torch.OutOfMemoryError("no")
        self.sizes.append(len(x))
        return super().forward(x)


def tiles(count: int, side: int = 64, seed: int = 0) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (3, side, side), dtype=np.uint8) for _ in range(count)]


def logits_of(model: TileModel, images: Sequence[NDArray[np.uint8]]) -> Logits:
    return model(images, [np.ones(image.shape[1:], bool) for image in images], StageTimer())


def from_threads(model: TileModel, images: list[NDArray[np.uint8]], threads: int) -> Logits:
    """Give the tiles to the model from several threads at once."""
    share = len(images) // threads
    parts = [images[i * share : (i + 1) * share] for i in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda part: logits_of(model, part), parts)
        return [logits for part in found for logits in part]


def assert_same_bytes(found: Logits, expected: Logits) -> None:
    assert [a.tobytes() for a in found] == [b.tobytes() for b in expected]
    assert {a.dtype for a in found} == {np.dtype(np.float32)}


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is taken for a device to which tiles travel."""
    monkeypatch.setattr(tile_model, "is_accelerator", lambda device: True)


class LateStream:
    """Runs steps in a thread of its own, some time after they were queued."""

    def __init__(self, device: torch.device) -> None:
        self.steps = queue.SimpleQueue[tuple[Callable[[], None], tuple[Event, ...], LateEvent]]()
        self.random = random.Random(0)
        threading.Thread(target=self.work, daemon=True).start()

    def run(self, step: Callable[[], None], *after: Event) -> Event:
        end = LateEvent()
        self.steps.put((step, after, end))
        return end

    def work(self) -> None:
        with torch.inference_mode():
            while True:
                step, after, end = self.steps.get()
                for event in after:
                    event.synchronize()
                time.sleep(self.random.random() / 200)
                step()
                end.ended.set()


class LateEvent:
    def __init__(self) -> None:
        self.ended = threading.Event()

    def synchronize(self) -> None:
        assert self.ended.wait(PATIENCE)


# --- batches --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_a_batch_of_n_computes_n_across_threads(
    size: int, accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_DELAY", PATIENCE)
    network, images = Counting(), tiles(24)
    expected = logits_of(TileModel(Colors(), device="cpu", batch_size=24), images)
    model = TileModel(network, device="cpu", batch_size=size)
    found = from_threads(model, images, 8)  # three tiles each
    assert network.sizes == [size] * (24 // size)
    assert_same_bytes(found, expected)


def test_the_last_tiles_wait_for_no_others(accelerator: None) -> None:
    network = Counting()
    model = TileModel(network, device="cpu", batch_size=8)
    assert len(logits_of(model, tiles(11))) == 11
    assert sorted(network.sizes) == [3, 8]


def test_tiles_of_other_shapes_have_other_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_DELAY", 0.2)
    waiting, small, large = BatchQueue(), tiles(3, 32), tiles(2, 64)
    mixed = [small[0], large[0], small[1], small[2], large[1]]
    for image in mixed:
        waiting.put(Tile(image, np.ones(image.shape[1:], bool)))
    assert [tile.pixels.shape[1] for tile in waiting.take(2)] == [32, 32]
    assert [tile.pixels.shape[1] for tile in waiting.take(2)] == [64, 64]
    (last,) = waiting.take(2)
    assert last.pixels is small[2]
    assert waiting.take(2) == []


def test_a_cpu_computes_tiles_one_by_one() -> None:
    """In batches of 1 and 4, MKL's convolutions differ in their last bits."""
    network = Counting()
    model = TileModel(network, device="cpu", batch_size=4)
    from_threads(model, tiles(12), 4)
    assert network.sizes == [1] * 12
    assert model.options["batch_size"] == 1


# --- memory ---------------------------------------------------------------------------------

MPS = RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MPS])
def test_out_of_memory_halves_the_batch_and_changes_no_byte(
    error: Exception, accelerator: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a network whose results do not depend on the batch."""
    images = tiles(16)
    expected = logits_of(TileModel(Colors(), device="cpu", batch_size=8), images)
    network = Counting(allowed=2, error=error)
    model = TileModel(network, device="cpu", batch_size=8)
    assert_same_bytes(from_threads(model, images, 4), expected)
    assert model.batch_size == 2
    assert set(network.sizes) <= {1, 2}
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == [
        "cpu is out of memory: going on with --batch-size 4",
        "cpu is out of memory: going on with --batch-size 2",
    ]


def test_one_tile_that_does_not_fit_is_an_error_with_its_size(accelerator: None) -> None:
    model = TileModel(Counting(allowed=0), device="cpu", batch_size=2)
    with pytest.raises(TileMemoryError, match="one tile of 64 px") as caught:
        logits_of(model, tiles(3))
    assert caught.value.side == 64
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.side) == (str(caught.value), 64)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("MPS backend out of memory"))


# --- devices --------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_staged_device_gives_the_bytes_of_the_cpu(
    late: bool, fixed: bool, accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tiles(10, 32) + tiles(26, 64)
    with monkeypatch.context() as plain:
        plain.setattr(tile_model, "is_accelerator", lambda device: False)
        expected = logits_of(TileModel(Colors(), device="cpu", precision="float32"), images)
    if late:
        monkeypatch.setattr(tile_model, "open_stream", LateStream)
    monkeypatch.setattr(tile_model, "has_fixed_shapes", lambda device: fixed)
    network = Counting()
    model = TileModel(network, device="cpu", precision="float32", batch_size=4)
    assert_same_bytes(from_threads(model, images, 4), expected)
    assert set(network.sizes) == {4} if fixed else max(network.sizes) == 4


class Meeting(Colors):
    """Two copies of it compute only together."""

    together = threading.Barrier(2, timeout=PATIENCE)
    computed_by: ClassVar[set[int]] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.together.wait()
        self.computed_by.add(id(self))
        return super().forward(x)


def test_two_devices_share_one_queue(accelerator: None) -> None:
    images = tiles(16)
    expected = logits_of(TileModel(Colors(), device="cpu"), images)
    model = TileModel(Meeting(), device="cpu:0,cpu:1", batch_size=2)
    assert model.options["device"] == "cpu:0, cpu:1"
    assert_same_bytes(from_threads(model, images, 4), expected)
    assert len(Meeting.computed_by) == 2
    arrived = pickle.loads(pickle.dumps(model))
    assert_same_bytes(from_threads(arrived, images, 4), expected)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cpu,cpu", "lists a device twice"),
        ("cpu:0,meta", "mixes kinds"),
        ("cpu,nonsense", "--device nonsense cannot be used"),
        ("cpu,", "--device  cannot be used"),
    ],
)
def test_impossible_lists_of_devices_are_refused(names: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        choose_devices(names)


class Failing(Colors):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 0:
            raise ValueError("too bright")
        return super().forward(x)


def test_an_error_reaches_its_thread_and_the_next_tiles_are_computed(accelerator: None) -> None:
    model = TileModel(Failing(), device="cpu", batch_size=2)
    for _ in range(10):  # more than there are buffers
        with pytest.raises(ValueError, match="too bright"):
            logits_of(model, [np.full((3, 32, 32), 255, np.uint8)] * 3)
    (logits,) = logits_of(model, [np.zeros((3, 32, 32), np.uint8)])
    assert logits.shape == (16, 4, 4)


def test_an_error_cancels_tiles_of_other_threads(accelerator: None) -> None:
    model = TileModel(Colors(), device="cpu", batch_size=2)
    with pytest.raises(KeyError), model.cancelled_on_error():
        raise KeyError
    with pytest.raises(CancelledError):
        logits_of(model, tiles(3))
    with model.cancelled_on_error():
        assert len(logits_of(model, tiles(3))) == 3


# --- cores ----------------------------------------------------------------------------------


@pytest.fixture
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    before = torch.get_num_threads()
    monkeypatch.setattr(tile_model, "STREAM_BYTES", 1)
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Crowd(Colors):
    """Computes only when as many tiles as there are cores are computed at once."""

    def __init__(self, cores: int) -> None:
        super().__init__()
        self.together = threading.Barrier(cores, timeout=PATIENCE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.together.wait()
        return super().forward(x)


@pytest.mark.parametrize("cores", [16, 64], indirect=True)
def test_every_core_computes_a_tile(cores: int) -> None:
    model = TileModel(Crowd(cores), device="cpu")
    assert model.pool.share == 1
    assert len(logits_of(model, tiles(cores, 32))) == cores


def test_memory_limits_the_tiles_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PHYS_PAGES": 3 * tile_model.STREAM_BYTES // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(tile_model.os, "sysconf", pages.get)
    assert [tile_model.streams_on_cpu(cores) for cores in (1, 3, 64)] == [1, 3, 3]


# --- networks -------------------------------------------------------------------------------


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Give norms statistics that are not trivial."""
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(norm.bias, 0, 0.1)
    return model.eval()


@pytest.mark.parametrize("name", ["pyramid", "segnext"])
def test_a_prepared_network_computes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    if name == "pyramid":
        network = original = lively(EfficientNetPyramid("lite0", 16))
    else:
        original = lively(SegNeXt("T", 16))
        network = fuse(original)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # the path of other devices
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        expected = original(x)
        found = prepare(network, cpu, torch.float32)(x)
        scale = expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * scale)
        half = prepare(network, cpu, torch.bfloat16)
        single = prepare(network, cpu, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(half(x), single(x))
    stored = {p.dtype for n, p in half.named_parameters() if "squeeze" in n or "lateral" in n}
    assert torch.bfloat16 in stored
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_half_precision_travels_back_as_float16(accelerator: None) -> None:
    network = SegNeXt("T", 16).eval()
    network.metadata = Metadata("T", ISAID)
    images = tiles(2)
    model = TileModel(network, device="cpu", precision="bfloat16", batch_size=2)
    staged = logits_of(model, images)
    pixels = torch.from_numpy(np.stack(images))
    with torch.inference_mode():
        direct = model.forward(pixels, torch.ones(2, 64, 64, dtype=torch.bool)).float().numpy()
    np.testing.assert_allclose(np.stack(staged), direct, rtol=0, atol=1e-6)
    assert {logits.dtype for logits in staged} == {np.dtype(np.float32)}
