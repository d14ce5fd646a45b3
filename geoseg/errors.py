"""What can go wrong, as one small tree. A message says what, what was found, what to do.

The command line prints the message as one line and exits with `exit_code`.
"""

from __future__ import annotations


class GeosegError(Exception):
    """Base of every error that geoseg raises on purpose."""

    exit_code = 1


class SceneError(GeosegError):
    """An input raster cannot be opened, read or used."""


class DamageError(GeosegError):
    """All is done, but parts of a scene could not be read and were left as nodata."""

    exit_code = 3


class CheckpointError(GeosegError):
    """Weights cannot be read, are not trusted, or do not fit."""


class DownloadError(CheckpointError):
    """Weights cannot be fetched."""


class RecipeError(GeosegError):
    """A training recipe has an unknown key, a wrong value or a contradiction."""


class DataError(GeosegError):
    """Training or evaluation data is missing, unreadable or inconsistent."""


class OptionError(GeosegError):
    """An option is impossible, or contradicts another; the message names the flag."""

    exit_code = 2


class ClusterError(GeosegError):
    """The workers of a cluster are not there, or cannot do the work."""


class SchedulerError(ClusterError):
    """The scheduler of a cluster does not answer or has no worker, whatever the scene."""


class MachineError(GeosegError):
    """The machine lacks what the work takes, such as memory."""


class OutputError(GeosegError):
    """An output exists already or cannot be written."""


class InUseError(OutputError):
    """Another run is writing these results."""
