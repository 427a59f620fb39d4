"""Where an answer comes from: passages that match the recalled text, or those that the decoder attended to.

Matching needs the text that a memory holds by default; attention needs only the slots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from memfold.core.prompt import recalled
from memfold.core.types import Citation, Memory, Read, Reply
from memfold.systems.shared.passages import PassageIndex

MOST = 3
_SENTENCE = re.compile(r"[^.!?\n]*[.!?]+[\"')\]]*(?=\s|$)|[^.!?\n]+(?=\n|$)")
_CAPITALISED = re.compile(r"\b[A-Z]\w+")


@dataclass(frozen=True)
class _Place:
    source: int
    start: int
    end: int


class SentenceIndex:
    """The sentences of the text that a memory holds, found again by what they say."""

    def __init__(self, memory: Memory) -> None:
        self._places: list[_Place] = []
        sentences: list[str] = []
        for source in range(len(memory.sources)):
            blocks = [block for block in memory.blocks if block.source == source]
            text = "".join(block.read() or "" for block in blocks)
            for match in _SENTENCE.finditer(text):
                sentence = match[0].strip()
                if sentence:
                    start = match.start() + len(match[0]) - len(match[0].lstrip())
                    self._places.append(_Place(source, start, start + len(sentence)))
                    sentences.append(sentence)
        self._sources, self._sentences = memory.sources, sentences
        self._index = PassageIndex(sentences)

    def cite(self, quoted: str, question: str, answer: str) -> tuple[Citation, ...]:
        """For each recalled sentence and for the question its best match, then the next best ones; at most three.

        The question stands beside what was recalled because its names are exact, and recalled ones may not be.  Without
        recalled text, what matches the question and the answer together.
        """
        queries = _sentences(quoted)
        queries = [*queries, question] if queries else [f"{question} {answer}"]
        ranked = [self._index.best(query, MOST) for query in queries]
        chosen: dict[int, float] = {}
        for rank in range(MOST):
            for found in ranked:
                if rank < len(found) and found[rank][1] > 0 and len(chosen) < MOST:
                    chosen.setdefault(*found[rank])
        return tuple(self._citation(number, score) for number, score in chosen.items())

    def follow(self, quoted: str, question: str, read: str) -> tuple[Citation, ...]:
        """Where to read on after a reply that goes beyond the text `read`; nowhere if all that it recalls stands there.

        A reply of two hops takes the first from the text, and with it a name that the question does not have; the
        second it makes up about that name.  So what was found stays, and what else the memory says of the name comes
        with it.
        """
        said = _sentences(quoted)
        found = [sentence for sentence in said if sentence in read]
        names = [word for sentence in found for word in _CAPITALISED.findall(sentence) if word not in question]
        if len(found) == len(said) or not names:
            return ()
        matches = self._index.best(" ".join(dict.fromkeys(names)), MOST + len(_sentences(read)))
        others = [match for match in matches if match[1] > 0 and self._sentences[match[0]] not in read]
        kept = [self._index.best(sentence, 1)[0] for sentence in found]
        return tuple(self._citation(*match) for match in [*kept[:MOST], *others[:MOST]])

    def _citation(self, number: int, score: float) -> Citation:
        place = self._places[number]
        return Citation(self._sources[place.source], place.start, place.end, self._sentences[number], score)


class Citing:
    """Citations by matching; keeps the sentence index of the memory asked last."""

    def __init__(self) -> None:
        self._memory = Memory("", "", {}, "", (), [])
        self._sentences = SentenceIndex(self._memory)

    @staticmethod
    def possible(memory: Memory) -> bool:
        """Whether the memory holds its text."""
        return bool(memory.blocks) and memory.blocks[0].read() is not None

    def cite(self, memory: Memory, question: str, reply: Reply, answer: str) -> tuple[Citation, ...]:
        """The passages behind a reply; none where the memory holds no text.

        A reply that ran to its limit names no answer: its words without end would match nothing but themselves.
        """
        if not self.possible(memory):
            return ()
        answer = "" if reply.finish == "length" else answer
        return self._index(memory).cite(recalled(reply.text), question, answer)

    def follow(self, memory: Memory, question: str, reply: Reply, read: str) -> tuple[Citation, ...]:
        """See `SentenceIndex.follow`."""
        return self._index(memory).follow(recalled(reply.text), question, read)

    def _index(self, memory: Memory) -> SentenceIndex:
        if memory is not self._memory:
            self._memory, self._sentences = memory, SentenceIndex(memory)
        return self._sentences


def _sentences(text: str) -> list[str]:
    return [sentence for match in _SENTENCE.finditer(text) if (sentence := match[0].strip())]


def cite_reads(memory: Memory, reads: Sequence[Read]) -> tuple[Citation, ...]:
    """The stretches that the decoder attended to most, neighbours joined; at most three."""
    joined: list[Read] = []
    for read in reads:
        near = next((number for number, other in enumerate(joined) if _touch(other, read)), None)
        if near is None:
            joined.append(read)
        else:
            joined[near] = _join(joined[near], read)
    return tuple(
        Citation(
            memory.sources[read.source],
            read.start,
            read.end,
            read_stretch(memory, read.source, read.start, read.end),
            read.weight,
        )
        for read in joined[:MOST]
    )


def _touch(one: Read, other: Read) -> bool:
    return one.source == other.source and other.start <= one.end + 1 and one.start <= other.end + 1


def _join(one: Read, other: Read) -> Read:
    start, end = min(one.start, other.start), max(one.end, other.end)
    return Read(one.source, start, end, one.weight + other.weight)


def read_stretch(memory: Memory, source: int, start: int, end: int) -> str:
    """What stands there, in characters of document `source`; empty where the memory holds no text."""
    pieces = []
    for block in memory.blocks:
        if block.source == source and block.char_start < end and start < block.char_end:
            pieces.append((block.read() or "")[max(0, start - block.char_start) : end - block.char_start])
    return "".join(pieces)
