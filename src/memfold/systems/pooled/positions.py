"""The positions of slots, as distances from the beginning of their block.

`consecutive`: one after another.  `strided`: each slot at the position of the first token of its group.  `randomised`:
consecutive in inference; in training, sorted random positions from a range that is up to `STRETCH` times as long as the
memory (randomised positions of Ruoss et al., 2023, for slots).  The length of the range is sampled log-uniformly, so
training covers consecutive slots as well as the distant positions of a memory several times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from random import Random

from memfold.core.types import Block
from memfold.systems.pooled.settings import PooledFold

STRETCH = 8


def offsets(blocks: Sequence[Block], settings: PooledFold, draw: int, name: str) -> Iterator[list[int]]:
    """Yield, per block, the distance of each slot (or of its opening wrapper token) from the beginning of the block.

    A block begins where the previous one ends.  `draw` selects a random layout; 0 is none.  `name` is the name of the
    memory, so that the memories of one batch have different layouts.
    """
    width = 3 if settings.wrapper == "slot" else 1
    if settings.positions == "randomised" and draw:
        yield from _randomised([block.slot_count for block in blocks], width, Random(f"{draw} {name}"))
        return
    stride = max(settings.ratio, width) if settings.positions == "strided" else width
    for block in blocks:
        if settings.positions == "strided" and block.slot_tokens is not None:
            yield [end - length for end, length in zip(accumulate(block.slot_tokens), block.slot_tokens, strict=True)]
        else:
            yield [number * stride for number in range(block.slot_count)]


def _randomised(counts: Sequence[int], width: int, rng: Random) -> Iterator[list[int]]:
    """Sample sorted, non-overlapping positions from a range, and distribute them over the blocks."""
    total = sum(counts)
    sampled = sorted(rng.sample(range(round(total * STRETCH ** rng.random())), total))
    positions = [position + number * (width - 1) for number, position in enumerate(sampled)]
    base = start = 0
    for count in counts:
        block_positions = positions[start : start + count]
        yield [position - base for position in block_positions]
        start += count
        base = block_positions[-1] + width if block_positions else base
