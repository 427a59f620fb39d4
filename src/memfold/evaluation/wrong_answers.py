"""Classes of wrong answers of systems that read block by block, told by rules from the trace and the sample.

LycheeMemory (arXiv 2602.08382, appendix C) sorts wrong answers by hand; these rules tell the same causes apart.  They
need the blocks that calls scored or read, the notes, and the supporting sentences of the sample (`evidence`).  The
first cause counts: evidence that is led to only by evidence that was never read says nothing.  Traces without calls
that score or read blocks one by one have no class, nor have questions that failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from memfold.core.borders import sentences
from memfold.core.prompt import ABSENT
from memfold.core.types import Memory, Sample, Trace
from memfold.core.words import words
from memfold.evaluation.evidence import Evidence, Look, Names, evidence_of, looks_at, names_in
from memfold.systems.shared.citations import sentence_index
from memfold.systems.shared.notes import PRONOUNS

ONE_WAY, ANCHORED, MISSED, MIX_UP, OTHER = "one-way reading", "early anchoring", "missed", "mix-up", "other"
CLASSES = (ONE_WAY, ANCHORED, MISSED, MIX_UP, OTHER)  # in the order in which the rules are tried
AROUND = 400  # characters around an occurrence of the answer in which its sentence is looked for


def wrong_class(trace: Trace, memory: Memory, sample: Sample) -> str | None:
    """Return the class of a wrong answer, one of `CLASSES`.

    The memory is that of the sample's document.  The class is None if the sample has no evidence, the question failed,
    or no block was scored or read alone.
    """
    looks = list(looks_at(trace.steps))
    if trace.answer is None or not sample.evidence or not looks:
        return None
    reading = Reading(looks, evidence_of(sample, memory), names_in(sample.question))
    if any(map(reading.is_one_way, reading.first_lost)):
        return ONE_WAY
    if any(map(reading.is_anchored, reading.first_lost)):
        return ANCHORED
    if reading.unread:
        return MISSED
    return MIX_UP if _is_mixed_up(trace.answer.text, memory, sample, reading.evidence) else OTHER


@dataclass(frozen=True)
class Reading:
    """How the evidence of a question was read; `asked` are the names of the question."""

    looks: Sequence[Look]
    evidence: Sequence[Evidence]
    asked: Names

    @cached_property
    def unread(self) -> set[int]:
        """The pieces of evidence of which a block was never read."""
        read = {look.block for look in self.looks if look.reads}
        return {number for number, piece in enumerate(self.evidence) if not piece.blocks <= read}

    @cached_property
    def first_lost(self) -> list[int]:
        """The pieces that were never read or never noted, without those that only unread ones lead to."""
        noted = [look.after for look in self.looks if look.reads]
        lost = [
            number
            for number, piece in enumerate(self.evidence)
            if number in self.unread or (any(noted) and not any(map(piece.is_in, noted)))
        ]
        first = [
            number for number in lost if not (led := self.evidence[number].bridges) or not led.keys() <= self.unread
        ]
        return first or lost

    def is_one_way(self, number: int) -> bool:
        """Return whether a piece was looked at only while the note did not have what leads to it.

        If its blocks were read, the note must have had it later: otherwise the order of reading is not the cause.
        """
        piece = self.evidence[number]
        seen = [look for look in self.looks if look.block in piece.blocks]
        if not piece.bridges or not seen or any(piece.is_led_to(look.before) for look in seen):
            return False
        return number in self.unread or any(piece.is_led_to(look.after) for look in self.looks)

    def is_anchored(self, number: int) -> bool:
        """Return whether an unread piece came after a block without evidence had been read, when the note had a
        statement that is no evidence."""
        if number not in self.unread:
            return False
        closed = self.evidence[number].blocks - {look.block for look in self.looks if look.reads}
        last = max((place for place, look in enumerate(self.looks) if look.block in closed), default=len(self.looks))
        holding = frozenset[int]().union(*(piece.blocks for piece in self.evidence))
        misled = any(look.reads and look.block not in holding for look in self.looks[:last])
        note = self.looks[last].before if last < len(self.looks) else self.looks[-1].after
        return misled and self._has_other_statement(note)

    def _has_other_statement(self, note: str) -> bool:
        """Return whether a sentence of a note names something that neither the question nor the evidence names."""
        known = self.asked.union(*(piece.names for piece in self.evidence))
        return any(not names_in(note[start:end]) <= known for start, end in sentences(note))


def _is_mixed_up(answer: str, memory: Memory, sample: Sample, evidence: Sequence[Evidence]) -> bool:
    """Return whether the text does not have an answer, or has it only where it speaks of other subjects."""
    if answer == ABSENT or not words(answer):
        return False
    if memory.holds_text and not sentence_index(memory).contains(answer):
        return True
    subjects = [piece.subject for piece in evidence if piece.subject]
    around = [set(words(text)) for text in _occurrences(answer, sample.document.read())]
    return bool(subjects and around) and not any(subject <= known for subject in subjects for known in around)


def _occurrences(answer: str, text: str) -> Iterator[str]:
    """Yield the sentences of a text that have an answer, with the sentence before one that has a pronoun."""
    lowered, wanted = text.lower(), answer.lower().strip()
    place = lowered.find(wanted) if len(lowered) == len(text) else -1
    while place >= 0:
        begin = max(0, place - AROUND)
        near = text[begin : place + len(wanted) + AROUND]
        found = [(start, end) for start, end in sentences(near) if start < place - begin + len(wanted)]
        start, end = found[-1] if found else (0, len(near))
        own = near[start:end]
        yield own if PRONOUNS.isdisjoint(words(own)) or len(found) < 2 else f"{near[slice(*found[-2])]} {own}"
        place = lowered.find(wanted, place + 1)
