"""Compares a rewritten text with its source: token accuracy, exact strings (codes, dates, numbers) and ROUGE.

ROUGE is computed with the `rouge-score` library, so that results are comparable with published ones.  It is imported on
first use, because only evaluation needs it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from memfold.core.errors import ConfigError

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_STRINGS = re.compile(
    rf"\b[A-Z]{{1,4}}-\d{{2,}}\b"  # codes: KX-4071
    rf"|\b\d{{1,2}} {_MONTH} \d{{3,4}}\b|\b{_MONTH} \d{{1,2}}, \d{{3,4}}\b|\b\d{{4}}-\d{{2}}-\d{{2}}\b"  # dates
    r"|\b\d[\d,.]*\d\b"  # numbers of two or more digits
)
ROUGE_KINDS = ("rouge1", "rougeL")


def strings_of(text: str) -> list[str]:
    """Return the strings that have to be reproduced exactly, in order: codes, dates and numbers of two or more digits.

    >>> strings_of("On 14 March 1733 the 27 guests of KX-4071 paid 1,250 coins for 3 nights.")
    ['14 March 1733', '27', 'KX-4071', '1,250']
    """
    return _STRINGS.findall(text)


def token_kind(text: str) -> Literal["number", "name", "word"]:
    """Return the kind of a token by its text alone: part of a number or code, of a name, or of an ordinary word.

    A name is a capitalised word or a piece without a space before it; the first word of a sentence counts as a name.

    >>> [token_kind(text) for text in (" 61", "-", " Pap", "an", " home", ".")]
    ['number', 'number', 'name', 'name', 'word', 'word']
    """
    bare = text.strip()
    if any(character.isdigit() for character in bare) or bare in ("-", "/"):
        return "number"
    is_piece = bare.isalpha() and not text[:1].isspace()
    return "name" if bare[:1].isupper() or is_piece else "word"


def exact_strings(source: str, rewritten: str) -> float | None:
    """Return the fraction of the source's exact strings that the rewritten text contains in the same order.

    None if the source has no such strings.
    """
    expected = strings_of(source)
    return _common(expected, strings_of(rewritten)) / len(expected) if expected else None


def token_accuracy(source: Sequence[int], rewritten: Sequence[int]) -> float:
    """Return the fraction of positions at which both sequences have the same token; surplus tokens are wrong."""
    longest = max(len(source), len(rewritten))
    same = sum(token == copy for token, copy in zip(source, rewritten, strict=False))
    return same / longest if longest else 1.0


def rouge(source: str, rewritten: str) -> dict[str, float]:
    """Return F-measures of ROUGE-1 and ROUGE-L (`rouge1`, `rougeL`), without stemming.

    Raises:
        ConfigError: if the rouge-score library is not installed.
    """
    scores = _scorer().score(source, rewritten)
    return {kind: float(scores[kind].fmeasure) for kind in ROUGE_KINDS}


def _common(source: Sequence[str], rewritten: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, with one row of the dynamic programming table in memory."""
    row = [0] * (len(rewritten) + 1)
    for expected in source:
        diagonal = 0
        for column, string in enumerate(rewritten, 1):
            above = row[column]
            row[column] = diagonal + 1 if string == expected else max(above, row[column - 1])
            diagonal = above
    return row[-1]


@lru_cache(maxsize=1)
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ConfigError("ROUGE needs the rouge-score library; pip install 'memfold[train]'") from None
    return RougeScorer(list(ROUGE_KINDS), use_stemmer=False)
