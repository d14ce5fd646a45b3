"""Failed reads of local files are repeated without pauses."""

from __future__ import annotations

import pytest

from geoseg.geo.raster import source


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_PAUSES", (0.0, 0.0, 0.0))
