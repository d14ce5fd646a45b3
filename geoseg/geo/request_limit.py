"""A limit of requests per second to tile and map services, which GDAL itself lacks."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache

import rasterio

from geoseg.errors import OptionError
from geoseg.geo.gdal_errors import GDAL_ERRORS, without_georeference

REPORTING = {"CPL_DEBUG": "HTTP"}
"""GDAL's setting to report every request before it sends it."""
_REPORT = re.compile(r"HTTP: (?:Requesting \[|Fetch\()")
"""Reports of requests for a tile, and for a description. GDAL waits while they are logged."""
_LOGGERS = ("rasterio._env", "rasterio._err")
"""Where rasterio logs them."""
_TURN = threading.RLock()
"""Held by the thread that listens to these loggers, as their level is the process's."""
_PROBE = """<GDAL_WMS><Service name="TMS"><ServerUrl>file:///geoseg</ServerUrl></Service>
<DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX>
<LowerRightY>0</LowerRightY><TileLevel>0</TileLevel></DataWindow><BlockSizeX>1</BlockSizeX>
<BlockSizeY>1</BlockSizeY><ZeroBlockHttpCodes>404</ZeroBlockHttpCodes></GDAL_WMS>"""
"""A service whose one tile is requested without a network."""


class RequestLimit:
    """Spaces GDAL's requests evenly, over all threads and scenes of the process."""

    def __init__(self, per_second: float) -> None:
        """Raise OptionError if this installation does not report its requests."""
        self.per_second = per_second
        self._next = 0.0
        self._thread: int | None = None
        _check_reports()

    @classmethod
    @cache
    def of(cls, per_second: float) -> RequestLimit:
        """Return the one limit of this rate."""
        return cls(per_second)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Delay this thread's requests, while other threads wait for their turn. May be nested.

        GDAL must have the setting `REPORTING`.
        """
        if self._thread == threading.get_ident():
            yield
            return
        with _TURN:
            self._thread = threading.get_ident()
            try:
                with _listening(self._wait):
                    yield
            finally:
                self._thread = None

    def _wait(self) -> None:
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + 1 / self.per_second
        time.sleep(start - now)


@contextmanager
def _listening(on_request: Callable[[], None]) -> Iterator[None]:
    """Call `on_request` before each request of this thread."""
    interrupts: list[KeyboardInterrupt] = []
    thread = threading.get_ident()

    def listen(record: logging.LogRecord) -> None:
        if record.thread == thread and _REPORT.search(record.getMessage()):
            try:
                on_request()
            except KeyboardInterrupt as error:  # GDAL cannot raise it
                interrupts.append(error)

    with _TURN, ExitStack() as stack:
        for name in _LOGGERS:
            stack.enter_context(_tapped(logging.getLogger(name), listen))
        yield
    if interrupts:
        raise interrupts[0]


@contextmanager
def _tapped(logger: logging.Logger, listen: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Pass all records to `listen`, and on only those that would be shown anyway."""
    level, disabled = logger.level, logger.disabled
    shown = logging.CRITICAL + 1 if disabled else logger.getEffectiveLevel()

    def tap(record: logging.LogRecord) -> bool:
        listen(record)
        return record.levelno >= shown

    logger.addFilter(tap)
    logger.setLevel(logging.DEBUG)
    logger.disabled = False
    try:
        yield
    finally:
        logger.removeFilter(tap)
        logger.setLevel(level)
        logger.disabled = disabled


def _check_reports() -> None:
    heard: list[None] = []
    listening, reporting = _listening(lambda: heard.append(None)), rasterio.Env(**REPORTING)
    with listening, reporting, without_georeference(), suppress(*GDAL_ERRORS):
        rasterio.open(_PROBE).read(1)
    if not heard:
        raise OptionError(
            f"--requests-per-second cannot be kept: rasterio {rasterio.__version__} with GDAL "
            f"{rasterio.__gdal_version__} does not log its requests; end logging.disable() if it "
            "is in force, else leave the option out"
        )
