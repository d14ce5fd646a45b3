"""Writes weights as the three public programs write them."""

from __future__ import annotations

import hashlib
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = Mapping[str, Tensor]


def write_original(path: Path, state: State) -> None:
    """The official code's, by mmcv: torch's zip format."""
    torch.save({"meta": {"config": "model = dict()"}, "state_dict": dict(state)}, path)


def write_legacy(path: Path, state: State) -> None:
    """The same in the format of torch before 1.6, as OpenMMLab publishes files."""
    content = {"meta": {}, "state_dict": dict(state)}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_parallel(path: Path, state: State) -> None:
    """The bare state dict of a model in DistributedDataParallel."""
    torch.save({f"module.{key}": value for key, value in state.items()}, path)


def mmseg_keys(state: State) -> dict[str, Tensor]:
    return {k.replace(".mlp.dwconv.dwconv.", ".mlp.dwconv."): v for k, v in state.items()}


def write_mmseg(path: Path, state: State) -> None:
    """A published file of mmsegmentation 1.x."""
    torch.save({"meta": {}, "state_dict": mmseg_keys(state)}, path)


def write_mmseg_training(path: Path, state: State) -> None:
    """A full training checkpoint of mmsegmentation 1.x, with Python objects in its log."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.array([0.5, 0.25])
            self._count_history = np.array([1, 1])

    with importable("mmengine.logging.history_buffer", HistoryBuffer):
        hub = {
            "log_scalars": {"train/loss": HistoryBuffer()},
            "runtime_info": {"iter": 160000, "loss": np.float64(0.25)},
        }
        content = {
            "meta": {"cfg": "decode_head = dict(ham_kwargs=dict(MD_R=16))"},
            "state_dict": mmseg_keys(state),
            "message_hub": hub,
            "optimizer": {"state": {}, "param_groups": [{"lr": 6e-5}]},
        }
        torch.save(content, path)


def arrays(state: State) -> dict[str, np.ndarray]:
    """As Jittor's `state_dict`, which does not count batches."""
    return {k: v.numpy() for k, v in state.items() if not k.endswith("num_batches_tracked")}


def sealed(content: object) -> bytes:
    """Jittor's file format: pickle, SHA-1, mark."""
    body = pickle.dumps(content, 4)
    return body + hashlib.sha1(body).digest() + b"HCAJSLHD"


def write_jittor(path: Path, state: State) -> None:
    """What JSeg's `Runner.save` writes."""
    config = {"model": {"decode_head": {"ham_kwargs": {}}}, "crop_size": (896, 896)}
    meta = {"iter": 160000, "max_epoch": None, "config": config}
    optimizer = {"lr": 6e-11, "betas": (0.9, 0.999), "_grad_map": {}}
    content = {"meta": meta, "model": arrays(state), "scheduler": {}, "optimizer": optimizer}
    path.write_bytes(sealed(content))


def write_jittor_flat(path: Path, state: State) -> None:
    """A bare dictionary in a plain pickle without checksum."""
    path.write_bytes(pickle.dumps(arrays(state), 4))


def write_jittor_variables(path: Path, state: State) -> None:
    """As written by Jittor 1.3.9 and later, which pickles its own variables."""

    class Var:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __reduce__(self) -> tuple[type, tuple[np.ndarray]]:
            return type(self), (self.array,)

    with importable("jittor_core", Var):
        content = {"state_dict": {key: Var(value) for key, value in arrays(state).items()}}
        path.write_bytes(sealed(content))


@contextmanager
def importable(module: str, cls: type[Any]) -> Iterator[None]:
    """Let `cls` be pickled as a class of `module`, which is not installed."""
    cls.__module__, cls.__qualname__ = module, cls.__name__
    parts = module.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    sys.modules |= {name: types.ModuleType(name) for name in names}
    setattr(sys.modules[module], cls.__name__, cls)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


SPELLINGS: dict[str, Callable[[Path, State], None]] = {
    "original.pth": write_original,
    "legacy.pth": write_legacy,
    "parallel.pth": write_parallel,
    "mmseg.pth": write_mmseg,
    "mmseg_training.pth": write_mmseg_training,
    "jittor.pkl": write_jittor,
    "jittor_flat.pkl": write_jittor_flat,
    "jittor_variables.pkl": write_jittor_variables,
}
