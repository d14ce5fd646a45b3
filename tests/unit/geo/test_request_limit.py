"""A limit of requests: GDAL's requests are heard and spaced, and logging stays as it was."""

from __future__ import annotations

import itertools
import logging
import pickle
import threading
import time

import pytest
import rasterio

from geoseg.errors import OptionError
from geoseg.geo import request_limit
from geoseg.geo.raster.source import Source
from geoseg.geo.request_limit import REPORTING, RequestLimit

PROBE = request_limit._PROBE
"""A service on no network, of which every read is a request."""


@pytest.fixture(autouse=True)
def rasterio_logs():
    """Leave the loggers as they were."""
    loggers = [logging.getLogger(f"rasterio.{name}") for name in ("_env", "_err")]
    before = [(logger.level, logger.disabled) for logger in loggers]
    yield loggers
    assert [logger.filters for logger in loggers] == [[], []]
    for logger, (level, disabled) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.disabled = disabled


def request(source: Source) -> float:
    """Send one request, and return the time after it."""
    source.read("ask", lambda dataset: dataset.read(1))
    source.close()  # and with it the tile
    return time.monotonic()


def test_sources_and_threads_share_a_limit():
    times: list[float] = []
    sources = [Source(PROBE, 50.0), pickle.loads(pickle.dumps(Source(PROBE, 50.0)))]

    def ask(source: Source) -> None:
        times.extend(request(source) for _ in range(8))

    threads = [threading.Thread(target=ask, args=(source,)) for source in sources]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == 16
    assert 15 / 50 <= max(times) - begun < 3


def test_time_without_requests_is_not_saved_up():
    source = Source(PROBE, 20.0)
    request(source)
    time.sleep(0.2)
    times = [request(source) for _ in range(4)]
    assert times[-1] - times[0] >= 3 / 20 - 0.02
    assert min(b - a for a, b in itertools.pairwise(times)) > 0.02


def test_processes_divide_a_limit():
    source = Source(PROBE, 30.0)
    source.share_limit(3)
    assert source.limit is RequestLimit.of(10.0)
    without = Source(PROBE)
    without.share_limit(3)
    assert without.limit is None


@pytest.mark.parametrize("disabled", [False, True])
def test_logging_stays_as_it_was(rasterio_logs, caplog, disabled):
    """Python's `dictConfig` disables all loggers that it does not name."""
    for logger in rasterio_logs:
        logger.setLevel(logging.WARNING)
        logger.disabled = disabled
    begun = time.monotonic()
    limit = RequestLimit(10.0)
    with limit.applied(), limit.applied(), rasterio.Env(**REPORTING):
        for _ in range(3):
            with rasterio.open(PROBE) as dataset:
                dataset.read(1)
        rasterio_logs[0].warning("seen unless disabled")
    assert time.monotonic() - begun >= 2 / 10
    assert caplog.messages == [] if disabled else ["seen unless disabled"]
    assert {(logger.level, logger.disabled) for logger in rasterio_logs} == {
        (logging.WARNING, disabled)
    }


def test_a_limit_that_cannot_be_kept_is_refused():
    logging.disable()
    try:
        with pytest.raises(OptionError, match=r"--requests-per-second cannot be kept: .*disable"):
            RequestLimit(10.0)
    finally:
        logging.disable(logging.NOTSET)


def test_ctrl_c_while_a_request_waits_is_raised():
    def interrupt() -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        request_limit._listening(interrupt),
        rasterio.Env(**REPORTING),
        rasterio.open(PROBE) as dataset,
    ):
        dataset.read(1)
