"""The order of the blocks, and which logits each needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from geoseg.pipeline.execution.tasks import Plan
from geoseg.tiling.blocks import REACH, contributing_blocks
from geoseg.tiling.grid import Block


@dataclass(frozen=True, slots=True)
class Schedule:
    """The blocks to compute, and the dependencies between them."""

    blocks: dict[int, Block]
    """Blocks to infer by number, in order."""
    sources: dict[int, list[int]]
    """Numbers of the blocks whose logits each block to decode needs, its own included."""

    @classmethod
    def of(cls, plan: Plan) -> Schedule:
        """Return all blocks with output, and those that they need."""
        blocks = dict(enumerate(plan.grid.blocks()))
        wanted = {block: i for i, block in blocks.items() if plan.output_window(block) is not None}
        # An area of interest needs a few blocks of a huge scene: look at no others.
        rows = {block.row + step for block in wanted for step in REACH}
        columns = {block.col + step for block in wanted for step in REACH}
        near = {b: i for i, b in blocks.items() if b.row in rows and b.col in columns}
        found = contributing_blocks(list(near), plan.grid)
        sources = {i: [near[source] for source in found[block]] for block, i in wanted.items()}
        used = {i for needed in sources.values() for i in needed}
        return cls({i: blocks[i] for i in sorted(used)}, sources)

    def without(self, finished: Collection[int]) -> Schedule:
        """Return the schedule without the `finished` blocks."""
        sources = {i: needed for i, needed in self.sources.items() if i not in finished}
        used = {i for needed in sources.values() for i in needed}
        return Schedule({i: block for i, block in self.blocks.items() if i in used}, sources)
