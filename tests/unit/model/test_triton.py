"""The kernels of CUDA devices, in Triton's interpreter on the CPU."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from geoseg.model.fused import FusedBlock
from geoseg.model.inference import prepare
from geoseg.model.mscan import Block

REPOSITORY = Path(__file__).resolve().parents[3]


def test_kernels_compute_what_torch_does() -> None:
    """Apart, since the interpreter is chosen when Triton is imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/gpu/test_triton.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "6 passed" in done.stdout


def test_networks_stay_as_they_are_without_triton(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = nn.Sequential(FusedBlock(Block(4, 2, 0.0).eval()))
    monkeypatch.setattr(prepare, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, "geoseg"):
        prepare.add_kernels(network)
    assert isinstance(network[0], FusedBlock)
    assert "Triton is not installed" in caplog.text
