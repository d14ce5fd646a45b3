"""Queues of work on a device: CUDA's streams, and devices that finish each step at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Event(Protocol):
    """The end of a step."""

    def synchronize(self) -> None:
        """Wait for it."""


class Stream(Protocol):
    """Runs steps one after the other, and beside those of other streams."""

    def run(self, step: Callable[[], None], *after: Event) -> Event:
        """Queue a step, which begins after these events, and return its end."""


class InlineStream:
    """Runs each step in the calling thread."""

    def run(self, step: Callable[[], None], *after: Event) -> Event:
        for event in after:
            event.synchronize()
        step()
        return Done()


class Done:
    """The end of a step that has ended."""

    def synchronize(self) -> None: ...


class CudaStream:
    """A stream of CUDA. Steps queue kernels and copies, and return before those have run."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def run(self, step: Callable[[], None], *after: Event) -> Event:
        with torch.cuda.stream(self.stream):
            for event in after:
                assert isinstance(event, torch.cuda.Event)
                self.stream.wait_event(event)
            step()
            end = torch.cuda.Event(blocking=True)  # a thread that waits for it sleeps
            end.record(self.stream)
        return end


def open_stream(device: torch.device) -> Stream:
    """Return a stream of the device."""
    return CudaStream(device) if device.type == "cuda" else InlineStream()
