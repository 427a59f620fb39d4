"""Labels for the gate in rollouts: which blocks it should have opened in view of the notes that were written.

LycheeMemory, section 3.3: the gate is a classifier, trained on the updates of rollouts with the supporting facts of the
question as labels.  Here every note of a rollout is a case, also one that the reasoner got wrong: a block that holds
what the note lacks stays one to open.  A block whose facts nothing in question and note leads to is not (as in
supervised samples, `shared.notes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memfold.core.system import UPDATE
from memfold.core.types import BlockRef, HeadScore, Memory, Sample, Step, Trace
from memfold.systems.shared.notes import EMPTY, Overflow, adds_to, check_supported, held_support, kept_note


def labelled(sample: Sample, memory: Memory, trace: Trace, overflow: Overflow, unchanged: int) -> Trace:
    """Return the trace with labels as the scores of gate calls, and nothing else to train.

    With each note, all blocks that add to it are trained, and of those that do not, the `unchanged` with the highest
    scores: the others teach nothing, because the gate is sure of them.

    Raises:
        ConfigError: for a sample that is not a question with supporting sentences.
    """
    check_supported(sample, "the gate of system 'kvbank'")
    note, steps, first = EMPTY, list(trace.steps), 0
    held = [held_support(sample, block.char_start, block.char_end) for block in memory.blocks]
    for number, step in enumerate([*trace.steps, None]):
        if step is None or step.call.purpose == UPDATE:
            steps[first:number] = _with_labels(steps[first:number], note, sample, held, unchanged)
            first = number
            note = (kept_note(step.reply, overflow) if step else "") or note
    return replace(trace, steps=tuple(steps))


def _with_labels(
    steps: Sequence[Step], note: str, sample: Sample, held: Sequence[set[int]], unchanged: int
) -> list[Step]:
    """Return steps that were made with one note; of the gate calls among them, some are trained."""
    labels = {
        number: adds_to(note, sample, held[_block_of(step)])
        for number, step in enumerate(steps)
        if isinstance(step.call.wants, HeadScore)
    }
    idle = [number for number, adds in labels.items() if not adds]
    closest = sorted(idle, key=lambda number: steps[number].reply.score or 0.0, reverse=True)[:unchanged]
    trained = {number for number, adds in labels.items() if adds} | set(closest)
    return [
        Step(
            replace(step.call, trained=number in trained),
            replace(step.reply, score=float(labels[number])) if number in labels else step.reply,
        )
        for number, step in enumerate(steps)
    ]


def _block_of(step: Step) -> int:
    """Return the number of the block that a gate call scores."""
    return next(part.index for part in step.call.parts if isinstance(part, BlockRef))
