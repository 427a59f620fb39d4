"""Which blocks of a memory a question's calls read, and whether the evidence lies in them.

Systems with a gate decide block by block whether to read it.  Their traces have calls of purpose `gate`, which only
score a block, and calls of purpose `update`, `addition` or `answer`, which read one.
"""

from __future__ import annotations

from collections.abc import Sequence

from memfold.core.system import ADDITION, ANSWER, GATE, UPDATE
from memfold.core.types import BlockRef, Memory, Span, Step, Trace

BLOCKS_READ, EVIDENCE_READ = "blocks_read", "evidence_read"
NOTING = (UPDATE, ADDITION)  # purposes of calls that write a note on a block


def reading_figures(trace: Trace, memory: Memory, evidence: Sequence[Span]) -> dict[str, float]:
    """Return the number of blocks read, and the share of the evidence that lies in them; of other traces nothing.

    A span of evidence, in characters of the only document of the memory, counts if every block that it overlaps was
    read.  A trace without calls that score or read blocks one by one has no such figures.
    """
    if not is_by_block(trace.steps):
        return {}
    read = {index for step in trace.steps if step.call.purpose in (*NOTING, ANSWER) for index in blocks_of(step)}
    figures = {BLOCKS_READ: float(len(read))}
    if evidence:
        unread = [block for number, block in enumerate(memory.blocks) if number not in read]
        missed = sum(
            any(block.char_start < span.end and span.start < block.char_end for block in unread) for span in evidence
        )
        figures[EVIDENCE_READ] = 1 - missed / len(evidence)
    return figures


def is_by_block(steps: Sequence[Step]) -> bool:
    """Return whether calls score or read blocks one by one; other traces read all at once."""
    return any(blocks_of(step) for step in steps if step.call.purpose in (GATE, *NOTING))


def blocks_of(step: Step) -> list[int]:
    """Return the numbers of the blocks that a call scores or reads."""
    return [part.index for part in step.call.parts if isinstance(part, BlockRef)]
