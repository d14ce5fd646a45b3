"""In which order the blocks of a scene come, and what each needs of others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from geoseg.pipeline.execution.tasks import Plan
from geoseg.tiling.blocks import REACH, contributing_blocks
from geoseg.tiling.grid import Block


@dataclass(frozen=True, slots=True)
class Schedule:
    """The blocks of a plan, and what each of them needs."""

    blocks: dict[int, Block]
    """By number; those that decide on wanted pixels, or that such blocks need."""
    sources: dict[int, list[int]]
    """Per block to be decoded, those whose logits it needs, itself included."""

    @classmethod
    def of(cls, plan: Plan) -> Schedule:
        blocks = dict(enumerate(plan.grid.blocks()))
        wanted = {block: i for i, block in blocks.items() if plan.target(block) is not None}
        # Of a huge scene, an area of interest needs a few blocks: only these are worth a look.
        rows = {block.row + step for block in wanted for step in REACH}
        columns = {block.col + step for block in wanted for step in REACH}
        near = {b: i for i, b in blocks.items() if b.row in rows and b.col in columns}
        found = contributing_blocks(list(near), plan.grid)
        sources = {i: [near[source] for source in found[block]] for block, i in wanted.items()}
        used = {i for needed in sources.values() for i in needed}
        return cls({i: blocks[i] for i in sorted(used)}, sources)

    def without(self, finished: Collection[int]) -> Schedule:
        """What is left to do."""
        sources = {i: needed for i, needed in self.sources.items() if i not in finished}
        used = {i for needed in sources.values() for i in needed}
        return Schedule({i: block for i, block in self.blocks.items() if i in used}, sources)
