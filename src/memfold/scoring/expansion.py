"""Implicit expansion: finds where a reply reconstructs the document, how faithfully, and which names it invents.

An expansion is a span of a reply of at least `MIN_TOKENS` tokens that reconstructs a span of the document: runs of
equal tokens, joined if at most `MAX_SKIPPED` tokens separate them on both sides.  Tokens are words and punctuation
marks, so the results do not depend on a model's vocabulary; case is ignored.  Paraphrases are not detected.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from memfold.scoring.metrics import sub_span_match

MIN_TOKENS, RUN, MAX_SKIPPED = 6, 3, 2
_TOKEN = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"\b[A-Z]\w*(?:[-'\u2019]\w+)*")
_SENTENCE_END = re.compile(r"[.!?:\"\u201c]\s*$")
_COMMAND = re.compile(r"\\\w+")  # \boxed is not a name


@dataclass(frozen=True)
class Expansion:
    """A span of a reply that reconstructs a span of the document; offsets are in characters.

    `same` counts the equal tokens, `tokens` all tokens of the longer of the two spans.
    """

    start: int
    end: int
    source_start: int
    source_end: int
    same: int
    tokens: int

    @property
    def fidelity(self) -> float:
        """The fraction of tokens that are equal."""
        return self.same / self.tokens

    @property
    def verbatim(self) -> bool:
        """Whether every token is equal."""
        return self.same == self.tokens


class _Token(NamedTuple):
    """A word or punctuation mark in lower case, with its offsets in characters."""

    word: str
    start: int
    end: int


@dataclass(frozen=True)
class _Run:
    """`length` equal tokens, which begin at token `reply` of the reply and token `source` of the document."""

    reply: int
    source: int
    length: int


def expansions(reply: str, document: str) -> list[Expansion]:
    """Return the expansions of a reply in order, without overlaps.

    >>> [expansion] = expansions("He said: Ada was born in the town of Velm.", "Ada was born in the city of Velm.")
    >>> expansion.same, expansion.tokens, expansion.verbatim
    (8, 9, False)
    """
    tokens = _tokens(reply)
    if len(tokens) < MIN_TOKENS:
        return []
    words, source_tokens, positions = _indexed(document)
    results = []
    for runs in _joined(_runs([token.word for token in tokens], words, positions)):
        first, last = runs[0], runs[-1]
        end, source_end = last.reply + last.length, last.source + last.length
        if end - first.reply < MIN_TOKENS:
            continue
        expansion = Expansion(
            start=tokens[first.reply].start,
            end=tokens[end - 1].end,
            source_start=source_tokens[first.source].start,
            source_end=source_tokens[source_end - 1].end,
            same=sum(run.length for run in runs),
            tokens=max(end - first.reply, source_end - first.source),
        )
        results.append(expansion)
    return results


def expanded_share(reply: str, expanded: Iterable[Expansion]) -> float:
    """Return the fraction of a reply's tokens that are part of an expansion."""
    spans = list(expanded)
    tokens = _tokens(reply)
    inside = sum(any(span.start <= token.start < span.end for span in spans) for token in tokens)
    return inside / len(tokens) if tokens else 0.0


def contains_fact(reply: str, expanded: Iterable[Expansion], accepted: Sequence[str], every: bool = False) -> bool:
    """Return whether an expansion contains an accepted answer or, with `every`, whether each is in an expansion."""
    texts = [reply[expansion.start : expansion.end] for expansion in expanded]
    hits = [any(sub_span_match(text, [answer]) for text in texts) for answer in accepted]
    return bool(hits) and (all(hits) if every else any(hits))


def invented_names(reply: str, *known: str) -> list[str]:
    """Return the names in a reply that no known text contains.

    A name is a capitalised word.  The first word of a sentence, which is always capitalised, counts only if another
    capitalised word follows it.

    >>> invented_names("He says that Ada went to Biberon.", "Ada lives in Velm.")
    ['Biberon']
    """
    words = {word for text in known for word in _indexed(text)[0]}
    cleaned = _COMMAND.sub(lambda match: " " * len(match[0]), reply)
    names: list[str] = []
    for match in _NAME.finditer(cleaned):
        first = not cleaned[: match.start()].strip() or _SENTENCE_END.search(cleaned[: match.start()])
        if first and not re.match(r" [A-Z]", cleaned[match.end() :]):
            continue
        if any(token.word not in words for token in _tokens(match[0]) if token.word.isalnum()):
            names.append(match[0])
    return list(dict.fromkeys(names))


def _tokens(text: str) -> list[_Token]:
    return [_Token(match[0].lower(), match.start(), match.end()) for match in _TOKEN.finditer(text)]


@lru_cache(maxsize=4)
def _indexed(document: str) -> tuple[list[str], list[_Token], dict[tuple[str, ...], list[int]]]:
    """Return the words of a document, its tokens, and the positions of every n-gram of `RUN` words; cached."""
    tokens = _tokens(document)
    words = [token.word for token in tokens]
    positions: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for start in range(len(words) - RUN + 1):
        positions[tuple(words[start : start + RUN])].append(start)
    return words, tokens, dict(positions)


def _runs(reply: Sequence[str], source: Sequence[str], positions: Mapping[tuple[str, ...], list[int]]) -> list[_Run]:
    """Return runs of equal tokens, greedily from the start of the reply: the longest one in the document each time.

    Of several equally long runs, one that continues where the last run ended is preferred, else the first one.
    """
    runs: list[_Run] = []
    start = 0
    while start <= len(reply) - RUN:
        last_end = runs[-1].source + runs[-1].length if runs else 0
        best = _Run(start, 0, 0)
        for position in positions.get(tuple(reply[start : start + RUN]), ()):
            length = _common_length(reply, source, start, position)
            continues = length == best.length and 0 <= position - last_end <= MAX_SKIPPED
            if length > best.length or continues:
                best = _Run(start, position, length)
        if best.length:
            runs.append(best)
        start += max(best.length, 1)
    return runs


def _common_length(reply: Sequence[str], source: Sequence[str], start: int, position: int) -> int:
    """Return the number of equal tokens from `start` in the reply and `position` in the document."""
    most = min(len(reply) - start, len(source) - position)
    return next((n for n in range(most) if reply[start + n] != source[position + n]), most)


def _joined(runs: Sequence[_Run]) -> list[list[_Run]]:
    """Return groups of runs that follow each other closely both in the reply and in the document."""
    joined: list[list[_Run]] = []
    for run in runs:
        last = joined[-1][-1] if joined else None
        skipped = (run.reply - last.reply - last.length, run.source - last.source - last.length) if last else (-1, -1)
        if all(0 <= count <= MAX_SKIPPED for count in skipped):
            joined[-1].append(run)
        else:
            joined.append([run])
    return joined
