"""Where the slots of a memory stand: how far each is from where its block begins.

`consecutive`: one after another.  `strided`: each where the first token of its group would be.  `randomised`: in use
one after another; in training as many positions, drawn from a stretch up to `STRETCH` times as long and sorted (the
randomised positions of Ruoss et al., 2023, for slots).  How long the stretch is, is drawn too, from none to the most,
every order of magnitude as often: so consecutive slots are among what training has shown, and so are positions as far
out as those of a memory several times longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from memfold.core.types import Block
from memfold.systems.pooled.settings import PooledFold

STRETCH = 8


def offsets(blocks: Sequence[Block], settings: PooledFold, draw: int, name: str) -> Iterator[list[int]]:
    """For each block, the distance of each of its slots (or of the token around it) from the block's beginning.

    Blocks follow each other: one begins where the one before it ends.  `draw` chooses a random layout (0: none), `name`
    is the memory's: two memories of one batch are laid out differently.
    """
    width = 3 if settings.wrapper == "slot" else 1
    if settings.positions == "randomised" and draw:
        yield from _randomised([block.slot_count for block in blocks], width, Random(f"{draw} {name}"))
        return
    stride = max(settings.ratio, width) if settings.positions == "strided" else width
    for block in blocks:
        yield [number * stride for number in range(block.slot_count)]


def _randomised(counts: Sequence[int], width: int, rng: Random) -> Iterator[list[int]]:
    """Distinct places of a stretch, sorted, and dealt out to the blocks; none overlap."""
    total = sum(counts)
    chosen = sorted(rng.sample(range(round(total * STRETCH ** rng.random())), total))
    places = [place + number * (width - 1) for number, place in enumerate(chosen)]
    base = done = 0
    for count in counts:
        own = places[done : done + count]
        yield [place - base for place in own]
        done += count
        base = own[-1] + width if own else base
