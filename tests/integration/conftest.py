"""A network that trains in no time."""

from __future__ import annotations

import pytest
from training_sets import SMALL

from geoseg.model.variants import VARIANTS


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """SegNeXt-T has few channels and blocks: what holds for a run holds for every size."""
    monkeypatch.setitem(VARIANTS, "T", SMALL)
