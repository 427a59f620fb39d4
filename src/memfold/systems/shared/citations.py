"""Where an answer comes from: passages that match the recalled text, or those that the decoder attended to.

Matching needs the text that a memory holds by default; attention needs only the slots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memfold.core.prompt import recalled
from memfold.core.types import Citation, Memory, Passage, Reply, Span
from memfold.systems.shared.passages import PassageIndex

MOST = 3
_SENTENCE = re.compile(r"[^.!?\n]*[.!?]+[\"')\]]*(?=\s|$)|[^.!?\n]+(?=\n|$)")
_CAPITALISED = re.compile(r"\b[A-Z]\w+")


class SentenceIndex:
    """The sentences of the text that a memory holds, found again by what they say."""

    def __init__(self, memory: Memory) -> None:
        self._passages: list[Passage] = []
        sentences: list[str] = []
        for source in range(len(memory.sources)):
            text = "".join(block.read() or "" for block in memory.blocks if block.source == source)
            for match in _SENTENCE.finditer(text):
                sentence = match[0].strip()
                if sentence:
                    start = match.start() + len(match[0]) - len(match[0].lstrip())
                    self._passages.append(Passage(source, Span(start, start + len(sentence))))
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
            for matches in ranked:
                if rank < len(matches) and matches[rank][1] > 0 and len(chosen) < MOST:
                    chosen.setdefault(*matches[rank])
        return tuple(self._citation(number, score) for number, score in chosen.items())

    def follow(self, quoted: str, question: str, read: str) -> tuple[Citation, ...]:
        """Where to read on after a reply that goes beyond the text `read`; nowhere if all that it recalls stands there.

        A reply of two hops takes the first from the text, and with it a name that the question does not have; the
        second it makes up about that name.  So the sentences that were found stay, and what else the memory says of the
        name comes with them.
        """
        quotes = _sentences(quoted)
        supported = [sentence for sentence in quotes if sentence in read]
        names = [word for sentence in supported for word in _CAPITALISED.findall(sentence) if word not in question]
        if len(supported) == len(quotes) or not names:
            return ()
        matches = self._index.best(" ".join(dict.fromkeys(names)), MOST + len(_sentences(read)))
        others = [match for match in matches if match[1] > 0 and self._sentences[match[0]] not in read]
        kept = [self._index.best(sentence, 1)[0] for sentence in supported]
        return tuple(self._citation(*match) for match in [*kept[:MOST], *others[:MOST]])

    def _citation(self, number: int, score: float) -> Citation:
        passage = self._passages[number]
        source, span = self._sources[passage.source], passage.span
        return Citation(source, span.start, span.end, self._sentences[number], score)


def sentence_index(memory: Memory) -> SentenceIndex:
    """The index of a memory's sentences, made when it is first asked for."""
    return memory.cached("sentences", lambda: SentenceIndex(memory))


def cite_reply(memory: Memory, question: str, reply: Reply, answer: str) -> tuple[Citation, ...]:
    """The passages behind a reply; none where the memory holds no text.

    A reply that ran to its limit names no answer: its words without end would match nothing but themselves.
    """
    if not memory.holds_text:
        return ()
    answer = "" if reply.finish == "length" else answer
    return sentence_index(memory).cite(recalled(reply.text), question, answer)


def follow_reply(memory: Memory, question: str, reply: Reply, read: str) -> tuple[Citation, ...]:
    """See `SentenceIndex.follow`."""
    return sentence_index(memory).follow(recalled(reply.text), question, read)


def cite_passages(memory: Memory, passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """Attended passages as citations, neighbours joined; at most three."""
    joined: list[Passage] = []
    for passage in passages:
        near = next((number for number, other in enumerate(joined) if _touch(other, passage)), None)
        if near is None:
            joined.append(passage)
        else:
            joined[near] = _join(joined[near], passage)
    return tuple(
        Citation(
            memory.sources[passage.source],
            passage.span.start,
            passage.span.end,
            read_span(memory, passage.source, passage.span),
            passage.weight,
        )
        for passage in joined[:MOST]
    )


def read_span(memory: Memory, source: int, span: Span) -> str:
    """What stands there in document `source`; empty where the memory holds no text."""
    pieces = []
    for block in memory.blocks:
        if block.source == source and block.char_start < span.end and span.start < block.char_end:
            pieces.append((block.read() or "")[max(0, span.start - block.char_start) : span.end - block.char_start])
    return "".join(pieces)


def _sentences(text: str) -> list[str]:
    return [sentence for match in _SENTENCE.finditer(text) if (sentence := match[0].strip())]


def _touch(passage: Passage, other: Passage) -> bool:
    near = other.span.start <= passage.span.end + 1 and passage.span.start <= other.span.end + 1
    return passage.source == other.source and near


def _join(passage: Passage, other: Passage) -> Passage:
    span = Span(min(passage.span.start, other.span.start), max(passage.span.end, other.span.end))
    return Passage(passage.source, span, passage.weight + other.weight)
