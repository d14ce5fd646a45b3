"""A cluster of processes on this machine, each with a GPU of its own where there are any."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import torch

from geoseg.errors import ClusterError

if TYPE_CHECKING:
    from distributed import SpecCluster


def start_local(count: int) -> SpecCluster:
    """Start a scheduler and `count` workers, which share the cores. Raises ClusterError."""
    from distributed import Nanny, Scheduler, SpecCluster

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads, gpus = max(1, (cores or 1) // count), visible_gpus()
    worker = {"nthreads": threads, "silence_logs": logging.CRITICAL, "dashboard": False}
    workers = {
        i: {
            "cls": Nanny,
            "options": worker
            | ({"env": {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]}} if gpus else {}),
        }
        for i in range(count)
    }
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False}
    try:
        return SpecCluster(
            workers=workers,
            scheduler={"cls": Scheduler, "options": options},
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError) as error:
        raise ClusterError(
            f"--scheduler local:{count} cannot start its workers: {error}"
        ) from error


def visible_gpus() -> list[str]:
    """Return the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]
