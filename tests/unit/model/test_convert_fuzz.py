"""Mutated and invented files: the importers answer with weights or with a CheckpointError.

Deterministic, so that a red build is a change; remove `derandomize` to search further.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from checkpoint_formats import SPELLINGS, arrays, sealed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from geoseg import ISAID
from geoseg.errors import CheckpointError
from geoseg.model.checkpoint import Metadata, read_checkpoint
from geoseg.model.convert import read_foreign
from geoseg.model.pickles import read_jittor

STATE = {
    "backbone.norm1.weight": torch.linspace(0, 1, 32),
    "backbone.block1.0.mlp.dwconv.dwconv.bias": torch.zeros(3, 2),
    "backbone.patch_embed1.proj.1.num_batches_tracked": torch.tensor(3),
}

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """One to four of: flip a bit, overwrite, cut out, insert, repeat, truncate."""
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "set", "cut", "insert", "repeat", "truncate"]),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=9),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def mutate(content: bytes) -> bytes:
        for kind, where, material in edits:
            at = int(where * len(content))
            before, after = content[:at], content[at:]
            if kind == "flip" and after:
                content = before + bytes([after[0] ^ 1 << material[0] % 8]) + after[1:]
            elif kind == "set":
                content = before + material + after[len(material) :]
            elif kind == "cut":
                content = before + after[len(material) :]
            elif kind == "insert":
                content = before + material + after
            elif kind == "repeat":
                content = before + after[:64] + after
            elif kind == "truncate":
                content = before
        return content

    return mutate


outcomes: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def not_vacuous() -> Iterator[None]:
    """Both answers must occur, many times."""
    yield
    assert not outcomes["two lines"]
    assert outcomes["refused"] > 120
    assert outcomes["read"] > 6


def attempt(read: Callable[[], object]) -> None:
    try:
        read()
    except CheckpointError as error:
        outcomes["two lines" if "\n" in str(error) else "refused"] += 1
    else:
        outcomes["read"] += 1


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    for name, write in SPELLINGS.items():
        write(folder / name, STATE)
        read_foreign(folder / name)
    return {name: (folder / name).read_bytes() for name in SPELLINGS}


@settings(FUZZ, max_examples=120)
@given(name=st.sampled_from(list(SPELLINGS)), mutate=mutations())
def test_mutated_files(
    samples: dict[str, bytes], tmp_path: Path, name: str, mutate: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(mutate(samples[name]))
    attempt(lambda: read_foreign(path))


@settings(FUZZ, max_examples=80)
@given(mutate=mutations())
def test_mutated_pickles_behind_a_right_checksum(mutate: Callable[[bytes], bytes]) -> None:
    body = sealed({"meta": {"iter": 1}, "model": arrays(STATE)})[:-28]
    attempt(lambda: read_jittor(mutate(body)))


FRAGMENTS = [
    *(bytes([code]) for code in range(256)),
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n"),
    *(b"cjittor_core\nVar\n", b"cbuiltins\neval\n", b"\x8c\x02os\x8c\x06system\x93"),
    *(b"Vf4\n", b"V<\n", b"I3\n", b"C\x04abcd", b"\x8c\x01a", b"K\x01", b"(", b"t", b"R", b"b"),
    *(b"\x94", b"h\x00", b"q\x00", b"}", b"]", b"s", b"u", b"a", b"e", b"."),
]


@settings(FUZZ, max_examples=120)
@given(program=st.lists(st.sampled_from(FRAGMENTS), max_size=40))
def test_random_pickles(program: list[bytes]) -> None:
    attempt(lambda: read_jittor(b"".join(program) + b"."))


@settings(FUZZ, max_examples=60)
@given(mutate=mutations(), data=st.data())
def test_mutated_checkpoints(
    tmp_path: Path, mutate: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    path = tmp_path / "geoseg.safetensors"
    header = Metadata("T", ISAID[:2], provenance="fuzz").to_header()
    in_header = data.draw(st.booleans())
    if in_header:
        header = {"geoseg": mutate(header["geoseg"].encode()).decode("utf-8", "replace")}
    save_file(STATE, path, header)
    if not in_header:
        path.write_bytes(mutate(path.read_bytes()))
    attempt(lambda: read_checkpoint(path))
