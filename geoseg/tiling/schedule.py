"""The order of the blocks, and which logits each needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, repeat
from operator import attrgetter

from geoseg.tiling.decoding import cells_around
from geoseg.tiling.grid import CELL, Block, Grid, Window

_REACH = 2
"""Rows and columns between blocks whose tiles may overlap: a last tile that was shifted inward may
extend beyond the neighboring block."""


@dataclass(frozen=True, slots=True)
class Job:
    """A block to be written."""

    number: int
    """Index in `Grid.blocks`."""
    block: Block
    sources: dict[int, Block]
    """The blocks whose logits it needs, itself included, by number; none if it is in the store."""
    last: tuple[int, ...]
    """Those that no later job needs."""


def jobs(
    grid: Grid,
    output_window: Callable[[Block], Window | None],
    is_kept: Callable[[int], bool] = lambda number: False,
    cells: Callable[[Block], Window] | None = None,
    part: Window | None = None,
) -> Iterator[Job]:
    """Yield all blocks with output, row by row. It holds a few rows, not the scene.

    Args:
        output_window: the pixels that a block decides, None if none of them is wanted.
        is_kept: whether the store has a finished block.
        cells: those that decoding a block reads; None = `cells_around` its core.
        part: contains all output; None = the whole scene.
    """
    cells = cells or (lambda block: cells_around(block.core, grid.extent))
    near: deque[dict[int, tuple[int, Block, Window]]] = deque(maxlen=2 * _REACH + 1)
    """Rows of blocks by column: number, block, and the cells that its tiles cover."""
    waiting: deque[list[tuple[int, Block, dict[int, Block]]]] = deque()
    """Rows of jobs that later rows may share sources with."""
    users: dict[int, int] = {}
    """The last job that needs the logits of a block."""

    def release() -> Iterator[Job]:
        for number, block, sources in waiting.popleft():
            last = tuple(source for source in sources if users[source] == number)
            for source in last:
                del users[source]
            yield Job(number, block, sources, last)

    rows = groupby(grid.blocks(part, _REACH), attrgetter("row"))
    following = chain((blocks for _, blocks in rows), repeat((), _REACH))
    for read, blocks in enumerate(following):
        near.append({b.col: (grid.number(b), b, b.window.scaled(CELL)) for b in blocks})
        if read < _REACH:
            continue
        waiting.append([])
        for number, block, _ in near[-1 - _REACH].values():
            if output_window(block) is None:
                continue
            sources = {} if is_kept(number) else _sources(block, cells(block), near)
            users.update(dict.fromkeys(sources, number))
            waiting[-1].append((number, block, sources))
        if len(waiting) > 2 * _REACH:
            yield from release()
    while waiting:
        yield from release()


def _sources(
    block: Block, needed: Window, near: deque[dict[int, tuple[int, Block, Window]]]
) -> dict[int, Block]:
    """Return the nearby blocks whose tiles cover cells that a block needs."""
    found = {}
    for row in near:
        for column in range(block.col - _REACH, block.col + _REACH + 1):
            if column in row:
                number, other, covered = row[column]
                if covered.intersection(needed):
                    found[number] = other
    return found
