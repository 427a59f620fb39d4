"""Citations: the passages that an answer rests on, found by matching the recalled text or by attention.

Matching needs the text of the documents, which a memory holds by default; attention needs only the slots.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

import regex

from memfold.core.borders import sentences
from memfold.core.prompt import ABSENT, recalled
from memfold.core.types import Citation, Memory, Passage, Recall, Reply, Span
from memfold.core.words import visible, words
from memfold.systems.shared.passages import PassageIndex

MOST = 3  # citations per answer
LONGEST = 400  # characters of a cited passage; a longer sentence is divided
_MARK = regex.compile(r"\p{M}+")
_CAPITALISED = regex.compile(r"\b\p{Lu}\w+")


class SentenceIndex:
    """A search index over the sentences of the text that a memory holds; Unicode forms of a text do not matter."""

    def __init__(self, memory: Memory) -> None:
        self._passages: list[Passage] = []
        cited: list[str] = []
        self._texts: list[str] = []
        for source in range(len(memory.sources)):
            text = "".join(block.read() or "" for block in memory.blocks if block.source == source)
            self._texts.append(text)
            for start, end in sentences(text, LONGEST):
                self._passages.append(Passage(source, Span(start, end)))
                cited.append(text[start:end])
        self._sources, self._sentences = memory.sources, cited
        self._index = PassageIndex(cited)

    def check(self, quoted: str) -> tuple[Recall, ...]:
        """Compare each recalled sentence with the text, apart from white space and Unicode forms."""
        recalls = []
        for sentence in _sentences(quoted):
            supported = _spaced(sentence) in self._text
            nearest = [self._citation(*match) for match in self._index.best(sentence, 1) if match[1] > 0]
            recalls.append(Recall(sentence, supported, nearest[0] if nearest else None))
        return tuple(recalls)

    def contains(self, answer: str) -> bool:
        """Return whether the text contains an answer as consecutive words (`memfold.core.words`)."""
        return f" {_words(answer)} " in self._all_words

    def mentions(self, name: str) -> bool:
        """Return whether the text contains a name as consecutive words; unlike in `contains`, accents do not count."""
        return f" {_without_accents(_words(name))} " in self._plain_words

    def cite(self, quoted: str, question: str, answer: str) -> tuple[Citation, ...]:
        """Return at most three sentences that match the recalled text `quoted` or the question.

        Every recalled sentence is a query, and so is the question, because names are exact in the question but may be
        wrong in recalled text.  The best match of each query comes first, followed by the second best, and so on.  If
        nothing is recalled, the only query is the question with the answer.
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

    def before(self, citation: Citation, count: int) -> str:
        """Return the sentences, at most `count`, that precede a cited one in its document."""
        source = self._sources.index(citation.source)
        number = bisect_left(self._passages, (source, citation.start), key=lambda each: (each.source, each.span.start))
        first = max(0, number - count)
        places = zip(self._passages[first:number], self._sentences[first:number], strict=True)
        return " ".join(sentence for passage, sentence in places if passage.source == source)

    def follow(self, quoted: str, question: str, read: str) -> tuple[Citation, ...]:
        """Return sentences to read next if a reply recalls more than the text `read` says; otherwise nothing.

        In the reply to a two-hop question, the first recalled sentence is in the text and introduces a name that the
        question does not contain.  The second sentence is a guess about that name.  This method returns the recalled
        sentences that are in the text, and the sentences of the memory that best match such names.
        """
        quotes = _sentences(quoted)
        supported = [sentence for sentence in quotes if _spaced(sentence) in _spaced(read)]
        names = [word for sentence in supported for word in _CAPITALISED.findall(sentence) if word not in question]
        if len(supported) == len(quotes) or not names:
            return ()
        matches = self._index.best(" ".join(dict.fromkeys(names)), MOST + len(_sentences(read)))
        new = [match for match in matches if match[1] > 0 and self._sentences[match[0]] not in read]
        kept = [match for sentence in supported[:MOST] for match in self._index.best(sentence, 1) if match[1] > 0]
        return tuple(self._citation(*match) for match in [*kept, *new[:MOST]])

    @cached_property
    def _text(self) -> str:
        return "\n".join(map(_spaced, self._texts))

    @cached_property
    def _all_words(self) -> str:
        return f" {_words(self._text)} "

    @cached_property
    def _plain_words(self) -> str:
        return _without_accents(self._all_words)

    def _citation(self, number: int, score: float) -> Citation:
        passage = self._passages[number]
        source, span = self._sources[passage.source], passage.span
        return Citation(source, span.start, span.end, self._sentences[number], score)


def check_reply(memory: Memory, reply: str) -> tuple[Recall, ...]:
    """Compare the sentences that a reply recalls with the text of the memory; empty if the memory holds no text."""
    return sentence_index(memory).check(recalled(reply)) if memory.holds_text else ()


def support(memory: Memory, recalls: Sequence[Recall], answer: str) -> bool | None:
    """Return whether the text of the memory contains every recalled sentence (`check_reply`) and the answer.

    An answer that is a number alone may have been counted, and is not looked up.  None if there is nothing to compare:
    no text, no answer, or the answer that the text does not say it.
    """
    if not memory.holds_text or not answer or answer == ABSENT:
        return None
    stated = answer.isdecimal() or sentence_index(memory).contains(answer)
    return stated and all(recall.supported for recall in recalls)


def is_doubtful(memory: Memory, reply: str, answer: str) -> bool:
    """Return whether the text should be read again: it does not support the reply, or the reply finds no answer."""
    return memory.holds_text and not support(memory, check_reply(memory, reply), answer)


def sentence_index(memory: Memory) -> SentenceIndex:
    """Return the sentence index of a memory, which is built on first use."""
    return memory.cached("sentences", lambda: SentenceIndex(memory))


def cite_reply(memory: Memory, question: str, reply: Reply, answer: str) -> tuple[Citation, ...]:
    """Return the passages that support a reply; none if the memory holds no text.

    If a reply was cut off, its answer is ignored, because endless repetition matches only itself.
    """
    if not memory.holds_text:
        return ()
    answer = "" if reply.is_cut else answer
    return sentence_index(memory).cite(recalled(reply.text), question, answer)


def follow_reply(memory: Memory, question: str, reply: Reply, read: str) -> tuple[Citation, ...]:
    """Return sentences to read next after a reply; see `SentenceIndex.follow`."""
    return sentence_index(memory).follow(recalled(reply.text), question, read)


def cite_passages(memory: Memory, passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """Return at most three attended passages as citations, after joining adjacent passages."""
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
    """Return the text of a span of document number `source`; empty if the memory holds no text."""
    pieces = []
    for block in memory.blocks:
        if block.source == source and block.char_start < span.end and span.start < block.char_end:
            pieces.append((block.read() or "")[max(0, span.start - block.char_start) : span.end - block.char_start])
    return "".join(pieces)


def _sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def _spaced(text: str) -> str:
    return " ".join(visible(text).split())


def _words(text: str) -> str:
    return " ".join(words(text))


def _without_accents(text: str) -> str:
    if text.isascii():
        return text
    return str(_MARK.sub("", unicodedata.normalize("NFKD", text)))


def _touch(passage: Passage, other: Passage) -> bool:
    near = other.span.start <= passage.span.end + 1 and passage.span.start <= other.span.end + 1
    return passage.source == other.source and near


def _join(passage: Passage, other: Passage) -> Passage:
    span = Span(min(passage.span.start, other.span.start), max(passage.span.end, other.span.end))
    return Passage(passage.source, span, passage.weight + other.weight)
