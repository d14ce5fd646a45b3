"""GEOSEG_NATIVE decides whether the C code is used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import geoseg
from geoseg.errors import GeosegError, MachineError, OptionError
from geoseg.model.cpu.kernels import library_for
from geoseg.native.library import library

module = sys.modules[library.__module__]
is_compiled = find_spec("geoseg.native._compiled") is not None


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.mark.parametrize("value", ["", "1"])
@pytest.mark.skipif(not is_compiled, reason="no compiler was at hand")
def test_unset_and_one_use_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSEG_NATIVE", value)
    assert library() is not None
    assert library_for(torch.zeros(2, 8)) is not None


def test_zero_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSEG_NATIVE", "0")
    assert library() is None
    assert library_for(torch.zeros(2, 8)) is None


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [("1", MachineError, "no compiled code; install a C compiler"), ("on", OptionError, "'on'")],
)
def test_what_cannot_be_had_is_an_error_of_one_line(
    value: str, kind: type[GeosegError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOSEG_NATIVE", value)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(kind, match=says) as caught:
        library()
    assert "\n" not in str(caught.value)


def test_without_a_compiler_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOSEG_NATIVE", raising=False)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert library() is None


def test_no_other_module_loads_it() -> None:
    """So one variable turns it off everywhere."""
    package = Path(geoseg.__file__).parent
    users = [path for path in package.rglob("*.py") if "_compiled" in path.read_text("utf-8")]
    assert users == [Path(module.__file__)]
