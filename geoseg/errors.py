"""Errors. A message says what is wrong, what was found and what to do, in one line.

The command line prints the message and exits with `exit_code`.
"""

from __future__ import annotations


class GeosegError(Exception):
    """Base of every error that geoseg raises on purpose."""

    exit_code = 1


class SceneError(GeosegError):
    """An input raster cannot be opened, read or used."""


class DamageError(GeosegError):
    """A run is complete, but parts of a scene could not be read and became nodata."""

    exit_code = 3


class CheckpointError(GeosegError):
    """Weights cannot be read, would run code, or do not fit."""


class DownloadError(CheckpointError):
    """Weights cannot be downloaded."""


class RecipeError(GeosegError):
    """A training recipe has an unknown key, a wrong value or a contradiction."""


class DataError(GeosegError):
    """Training or evaluation data is missing, unreadable or inconsistent."""


class OptionError(GeosegError):
    """An option is impossible, or contradicts another; the message names the flag."""

    exit_code = 2


class TileMemoryError(OptionError):
    """A device has too little memory for one tile."""

    side = 0
    """Of the tile, px."""


class ClusterError(GeosegError):
    """The workers of a cluster are missing or cannot do the work."""


class SchedulerError(ClusterError):
    """The scheduler of a cluster does not answer or has no worker, for any scene."""


class MachineError(GeosegError):
    """The machine lacks a resource, such as memory."""


class OutputError(GeosegError):
    """An output exists already or cannot be written."""


class InUseError(OutputError):
    """Another run is writing these results."""
