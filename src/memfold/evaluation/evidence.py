"""What the calls of a trace looked at, and what a sample has as evidence: for the figures of notes and wrong answers.

The note at a call is the last reply before it, unless it was blank, of a call of purpose `update`; at calls of purpose
`addition`, it is all that those of earlier rounds replied.  What a sentence names are its words with a capital letter
and its numbers (`systems.shared.mentions`), so the rules are for English.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memfold.core.borders import sentences
from memfold.core.system import ADDITION, ANSWER, GATE, UPDATE
from memfold.core.types import Memory, Sample, Span, Step
from memfold.core.words import words
from memfold.evaluation.reading import NOTING, blocks_of, is_by_block
from memfold.systems.shared.mentions import names_of
from memfold.systems.shared.notes import PRONOUNS

Names = frozenset[str]


@dataclass(frozen=True)
class Look:
    """One call's look at a block: whether it `reads` the block or only scores it, and the note before and after it."""

    block: int
    reads: bool
    before: str
    after: str


@dataclass(frozen=True)
class Evidence:
    """A supporting sentence, with those after it that refer to it by a pronoun: the blocks that it lies in, its names.

    `bridges` are, for each other piece that leads to it, the names that both have, by the number of that piece.  There
    are none if the question itself names something in it.  `subject` is what the question or a bridge names.
    """

    text: str
    blocks: frozenset[int]
    names: Names
    subject: Names
    bridges: dict[int, Names]

    def is_in(self, note: str) -> bool:
        """Return whether a note has the text, or in other words at least two names and all that it names."""
        verbatim = f" {' '.join(words(self.text))} " in f" {' '.join(words(note))} "
        return verbatim or (len(self.names) > 1 and self.names <= set(words(note)))

    def is_led_to(self, note: str) -> bool:
        """Return whether a note has the names that lead to it."""
        known = set(words(note))
        return any(names <= known for names in self.bridges.values())


def looks_at(steps: Sequence[Step]) -> Iterator[Look]:
    """Yield the looks at blocks of the calls of a trace, in order; nothing if it reads all at once."""
    if not is_by_block(steps):
        return
    note, added, last = "", list[str](), -1  # what a round of additions has written, and the last block that it read
    for step in steps:
        purpose, blocks = step.call.purpose, blocks_of(step)
        if added and (purpose != ADDITION or min(blocks, default=-1) <= last):  # a round reads the text in order
            note, added = " ".join([note, *added]), []
        before = after = note
        if purpose == UPDATE:
            note = after = step.reply.text.strip() or note
        elif purpose == ADDITION:
            added.append(step.reply.text)
            last = max(blocks, default=-1)
            after = f"{note} {step.reply.text}"
        if purpose in (GATE, *NOTING, ANSWER):
            yield from (Look(block, purpose != GATE, before, after) for block in blocks)


def evidence_of(sample: Sample, memory: Memory) -> list[Evidence]:
    """Return the pieces of evidence of a sample."""
    document, asked = sample.document.read(), names_in(sample.question)
    texts: list[str] = []
    spans: list[list[Span]] = []
    for span in sample.evidence:
        text = document[span.start : span.end]
        if texts and not PRONOUNS.isdisjoint(words(text)):
            texts[-1] += f" {text}"
            spans[-1].append(span)
        else:
            texts.append(text)
            spans.append([span])
    names = [names_in(text) for text in texts]
    pieces = []
    for number, (text, own) in enumerate(zip(texts, names, strict=True)):
        shared = {other: own & theirs for other, theirs in enumerate(names) if other != number}
        bridges = {} if own & asked else {other: both for other, both in shared.items() if both}
        subject = own & asked.union(*bridges.values())
        pieces.append(Evidence(text, _blocks_with(memory, spans[number]), own, subject, bridges))
    return pieces


def _blocks_with(memory: Memory, spans: Sequence[Span]) -> frozenset[int]:
    """Return the numbers of the blocks that overlap any of some ranges of characters."""
    return frozenset(
        number
        for number, block in enumerate(memory.blocks)
        if any(block.char_start < span.end and span.start < block.char_end for span in spans)
    )


def names_in(text: str) -> Names:
    """Return the words of the names and the numbers in a text; the first word of a sentence counts as any other."""
    parts = [f"and {text[start:end]}" for start, end in sentences(text)]
    return frozenset(word for part in parts for name in names_of(part) for word in words(name) if len(word) > 1)
