"""Checkpoints of other projects give the logits that the official code computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_formats import SPELLINGS
from torch import Tensor, nn

from geoseg import ISAID
from geoseg.model.convert import import_checkpoint
from geoseg.model.load import load_model

TOLERANCE = 5e-5
"""Threads, layouts and compilers differ by 2e-5; a wrong GELU, eps or step count by 1.5e-4."""
SIZES = ("256x320", "250x333")


def assert_logits(
    model: nn.Module, recorded: dict[str, np.ndarray], sizes: Sequence[str] = SIZES
) -> None:
    for size in sizes:
        x = torch.from_numpy(recorded[f"input_{size}"])
        with torch.inference_mode():
            logits = model(x)
            full = nn.functional.interpolate(logits, x.shape[2:], mode="bilinear")
        np.testing.assert_allclose(logits, recorded[f"logits8_{size}"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(full, recorded[f"logits_{size}"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_logits_through_every_spelling(
    official: dict[str, Tensor], recorded: dict[str, np.ndarray], tmp_path: Path, spelling: str
) -> None:
    SPELLINGS[spelling](tmp_path / spelling, official)
    import_checkpoint(tmp_path / spelling, tmp_path / "t.safetensors", ISAID)
    assert_logits(load_model(tmp_path / "t.safetensors"), recorded, SIZES[:1])


@pytest.mark.parametrize("name", ["segnext_t_official.pth", "jseg_segnext_t_isaid.pkl"])
def test_logits_from_real_files(
    parity: Path, recorded: dict[str, np.ndarray], tmp_path: Path, name: str
) -> None:
    import_checkpoint(parity / name, tmp_path / "t.safetensors", ISAID)
    assert_logits(load_model(tmp_path / "t.safetensors"), recorded)
