"""The blocks of a memory during one question: their scores, which are opened, and which are damaged.

Blocks of a memory file whose slots are damaged are left out of a question, and the answer says which.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field, replace
from itertools import islice

from memfold.core.errors import DataError
from memfold.core.types import Answer, Memory
from memfold.systems.kvbank.prefetch import prefetch

SHOWN = 5  # damaged blocks that a warning names


@dataclass
class Bank:
    """What is known of the blocks of a memory for one question: the last score of each, and the note it was made with;
    which blocks were opened, and which are damaged; the blocks that wait in a pass, and the passes that have begun."""

    blocks: range
    scores: dict[int, float] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    opened: set[int] = field(default_factory=set)
    damaged: set[int] = field(default_factory=set)
    waiting: deque[int] = field(default_factory=deque)
    passes: int = 0

    def unseen(self, note: str) -> list[int]:
        """Return the closed blocks that were not scored with this note, in order."""
        done = self.opened | self.damaged
        return [index for index in self.blocks if index not in done and self.notes.get(index) != note]

    def ranked(self, note: str, threshold: float) -> list[int]:
        """Return the closed blocks whose score with this note is above the threshold, best first."""
        done = self.opened | self.damaged
        seen = [index for index, known in self.notes.items() if known == note and index not in done]
        above = [index for index in seen if self.scores[index] > threshold]
        return sorted(above, key=lambda index: -self.scores[index])

    def scored(self, index: int, note: str, score: float, threshold: float) -> bool:
        """Keep the score of a block, and return whether it opens the block."""
        self.scores[index], self.notes[index] = score, note
        if score > threshold:
            self.opened.add(index)
        return score > threshold


def is_sound(memory: Memory, index: int, damaged: set[int]) -> bool:
    """Return whether the slots of a block can be read; a block is checked once, and added to `damaged` if they cannot.

    Raises:
        DataError: if none of the blocks can be read.
    """
    try:
        memory.blocks[index].check()
    except DataError as error:
        damaged.add(index)
        if len(damaged) == len(memory.blocks):
            raise DataError(f"none of the blocks can be read: {error}") from None
        return False
    return True


def next_sound(memory: Memory, waiting: deque[int], count: int, damaged: set[int]) -> list[int]:
    """Return the first `count` of the blocks that wait, without those that are damaged, which wait no longer.

    Twice as many after them, at most the next batch, are read from the disk in the meantime.
    """
    first = [waiting.popleft() for _ in range(min(count, len(waiting)))]
    prefetch(memory, islice(waiting, 2 * count))
    sound = [index for index in first if is_sound(memory, index, damaged)]
    waiting.extendleft(reversed(sound))
    return sound


def with_damage(answer: Answer, memory: Memory, damaged: Set[int]) -> Answer:
    """Return an answer with a warning that names the damaged blocks, if there are any."""
    if not damaged:
        return answer
    blocks = [memory.blocks[index] for index in islice(sorted(damaged), SHOWN)]
    named = ", ".join(block.where(memory.sources[block.source]) for block in blocks)
    more = f" and {len(damaged) - SHOWN} more" if len(damaged) > SHOWN else ""
    verb = "is damaged and was" if len(damaged) == 1 else "are damaged and were"
    return replace(answer, warning=f"{named}{more} {verb} not read; fold the document again")
