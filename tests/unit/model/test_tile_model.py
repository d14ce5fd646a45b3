"""A model changes nothing of the process that it runs in."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import logging, sys, threading, warnings
import numpy as np, torch

def state():
    inherited = []
    thread = threading.Thread(target=lambda: inherited.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return {
        "threads": torch.get_num_threads(),
        "threads of a new thread": inherited,
        "filters": list(warnings.filters),
        "handlers": {
            name: list(getattr(logger, "handlers", ()))
            for name, logger in [("", logging.root), *logging.root.manager.loggerDict.items()]
            if not name.startswith("torch")
        },
        "levels": {
            name: getattr(logging.getLogger(name), "level", 0) for name in ("", "torch", "geoseg")
        },
        "switch interval": sys.getswitchinterval(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
    }

torch.set_num_threads(3)
before = state()
import geoseg.native.malloc
tuned = []
class Heap:
    def __init__(self, libc):
        self.libc = libc
    def __getattr__(self, name):
        if name == "mallopt":
            tuned.append(name)
        return getattr(self.libc, name)
glibc = geoseg.native.malloc.glibc
geoseg.native.malloc.glibc = lambda: (libc := glibc()) and Heap(libc)
from geoseg.model.load import load_model
from geoseg.model.tile_model import TileModel
from geoseg.timing import StageTimer

def changes():
    after = state()
    after["handlers"] = {name: after["handlers"].get(name, []) for name in before["handlers"]}
    return {name: (old, after[name]) for name, old in before.items() if old != after[name]}

model = TileModel(load_model(), device="cpu")
assert not changes(), changes()
tiles = np.zeros((2, 3, 64, 64), np.uint8)
(first, second) = model(list(tiles), [np.ones((64, 64), bool)] * 2, StageTimer())
assert first.shape == (16, 8, 8)
assert not changes(), changes()
assert not tuned
geoseg.native.malloc.keep_free_memory()
print("ran", *tuned)
"""


def test_import_construction_and_a_call_change_nothing_in_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ran")
