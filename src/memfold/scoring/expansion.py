"""Implicit expansion: where a reply writes the document out again, how truly, and which names it makes up.

An expansion is a stretch of a reply of at least `LEAST` tokens that reconstructs a stretch of the document: runs of
equal tokens, joined where at most `SKIPPED` tokens lie between them on both sides.  Tokens are words and marks, so that
figures do not depend on a model's vocabulary; case is ignored.  Left out: paraphrase.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from memfold.scoring.metrics import sub_span_match

LEAST, RUN, SKIPPED = 6, 3, 2
_TOKEN = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"\b[A-Z]\w*(?:[-'\u2019]\w+)*")
_SENTENCE_END = re.compile(r"[.!?:\"\u201c]\s*$")
_COMMAND = re.compile(r"\\\w+")  # \boxed is no name


@dataclass(frozen=True)
class Expansion:
    """A stretch of a reply, in characters, that reconstructs one of the document.  `same` of its tokens are equal."""

    start: int
    end: int
    source_start: int
    source_end: int
    same: int
    tokens: int

    @property
    def fidelity(self) -> float:
        """Equal tokens as a share of the longer side's."""
        return self.same / self.tokens

    @property
    def verbatim(self) -> bool:
        """Whether every token is equal."""
        return self.same == self.tokens


@dataclass(frozen=True)
class _Run:
    """Equal tokens: from `reply` on in the reply and from `source` on in the document."""

    reply: int
    source: int
    length: int


def expansions(reply: str, document: str) -> list[Expansion]:
    """The expansions of a reply in its order, none overlapping.

    >>> [found] = expansions("It says: Ada was born in the town of Velm in 1733.", "Ada was born in the city of Velm.")
    >>> found.same, found.tokens, found.verbatim
    (7, 8, False)
    """
    left = _tokens(reply)
    if len(left) < LEAST:
        return []
    words, right, places = _indexed(document)
    runs = _runs([word for word, _, _ in left], words, places)
    found = []
    for joined in _joined(runs):
        first, last = joined[0], joined[-1]
        ends = last.reply + last.length, last.source + last.length
        size = max(ends[0] - first.reply, ends[1] - first.source)
        if ends[0] - first.reply < LEAST:
            continue
        own = left[first.reply][1], left[ends[0] - 1][2]
        theirs = right[first.source][1], right[ends[1] - 1][2]
        found.append(Expansion(*own, *theirs, sum(run.length for run in joined), size))
    return found


def expanded_share(reply: str, found: Iterable[Expansion]) -> float:
    """The share of a reply's tokens that stand in expansions."""
    spans = [(one.start, one.end) for one in found]
    tokens = _tokens(reply)
    inside = sum(any(start <= begin < end for start, end in spans) for _, begin, _ in tokens)
    return inside / len(tokens) if tokens else 0.0


def contains_fact(reply: str, found: Iterable[Expansion], accepted: Sequence[str], every: bool = False) -> bool:
    """Whether an accepted answer (with `every`, each of them) stands in what was expanded."""
    texts = [reply[one.start : one.end] for one in found]
    hits = [any(sub_span_match(text, [answer]) for text in texts) for answer in accepted]
    return bool(hits) and (all(hits) if every else any(hits))


def invented_names(reply: str, *known: str) -> list[str]:
    """Names in a reply that no known text has: capitalised words, and at the beginning of a sentence only those before
    another capitalised word (any word is capitalised there).

    >>> invented_names("Therefore Ada went to Biberon.", "Ada lives in Velm.")
    ['Biberon']
    """
    words = {word for text in known for word in _indexed(text)[0]}
    cleaned = _COMMAND.sub(lambda match: " " * len(match[0]), reply)
    names: list[str] = []
    for match in _NAME.finditer(cleaned):
        begins = not cleaned[: match.start()].strip() or _SENTENCE_END.search(cleaned[: match.start()])
        if begins and not re.match(r" [A-Z]", cleaned[match.end() :]):
            continue
        if any(part not in words for part, _, _ in _tokens(match[0]) if part.isalnum()):
            names.append(match[0])
    return list(dict.fromkeys(names))


def _tokens(text: str) -> list[tuple[str, int, int]]:
    """Words and marks in lower case, with their places."""
    return [(match[0].lower(), match.start(), match.end()) for match in _TOKEN.finditer(text)]


@lru_cache(maxsize=4)
def _indexed(document: str) -> tuple[list[str], list[tuple[str, int, int]], dict[tuple[str, ...], list[int]]]:
    """The words of a document, its tokens, and where each run of `RUN` words begins; kept for the next reply to it."""
    tokens = _tokens(document)
    words = [word for word, _, _ in tokens]
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for start in range(len(words) - RUN + 1):
        places[tuple(words[start : start + RUN])].append(start)
    return words, tokens, dict(places)


def _runs(reply: Sequence[str], source: Sequence[str], places: Mapping[tuple[str, ...], list[int]]) -> list[_Run]:
    """The longest run of equal tokens from each place of the reply on that no earlier run has taken.

    Of equally long ones the one that goes on where the last run ended, else the first in the document.
    """
    runs: list[_Run] = []
    at = 0
    while at <= len(reply) - RUN:
        follows = runs[-1].source + runs[-1].length if runs else 0
        best = _Run(at, 0, 0)
        for start in places.get(tuple(reply[at : at + RUN]), ()):
            length = _common(reply, source, at, start)
            nearer = length == best.length and 0 <= start - follows <= SKIPPED
            if length > best.length or nearer:
                best = _Run(at, start, length)
        if best.length:
            runs.append(best)
        at += max(best.length, 1)
    return runs


def _common(reply: Sequence[str], source: Sequence[str], at: int, start: int) -> int:
    """How many tokens are equal from these two places on."""
    length = 0
    while at + length < len(reply) and start + length < len(source) and reply[at + length] == source[start + length]:
        length += 1
    return length


def _joined(runs: Sequence[_Run]) -> list[list[_Run]]:
    """Runs that follow each other closely on both sides, together."""
    joined: list[list[_Run]] = []
    for run in runs:
        last = joined[-1][-1] if joined else None
        skipped = (run.reply - last.reply - last.length, run.source - last.source - last.length) if last else (-1, -1)
        if all(0 <= count <= SKIPPED for count in skipped):
            joined[-1].append(run)
        else:
            joined.append([run])
    return joined
