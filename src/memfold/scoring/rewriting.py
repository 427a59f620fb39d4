"""Compares a rewritten text with its source: token accuracy, exact strings (codes, dates, numbers) and ROUGE.

ROUGE comes from the `rouge-score` library, so that figures compare with published ones; it is imported when it is asked
for, because only evaluation needs it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from memfold.core.errors import ConfigError

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_STRINGS = re.compile(
    rf"\b[A-Z]{{1,4}}-\d{{2,}}\b"  # codes: KX-4071
    rf"|\b\d{{1,2}} {_MONTH} \d{{3,4}}\b|\b{_MONTH} \d{{1,2}}, \d{{3,4}}\b|\b\d{{4}}-\d{{2}}-\d{{2}}\b"  # dates
    r"|\b\d[\d,.]*\d\b"  # numbers of two digits and more
)
ROUGE_KINDS = ("rouge1", "rougeL")


def strings_of(text: str) -> list[str]:
    """Codes, dates and numbers of two digits and more, in the order of the text: what must come back exactly.

    >>> strings_of("On 14 March 1733 the 27 guests of KX-4071 paid 1,250 coins for 3 nights.")
    ['14 March 1733', '27', 'KX-4071', '1,250']
    """
    return _STRINGS.findall(text)


def exact_strings(source: str, rewritten: str) -> float | None:
    """The share of the source's exact strings that the rewritten text has, each once, in the same order.

    None for a source without any.
    """
    wanted = strings_of(source)
    return _common(wanted, strings_of(rewritten)) / len(wanted) if wanted else None


def token_accuracy(source: Sequence[int], rewritten: Sequence[int]) -> float:
    """The share of places at which both sequences have the same token; places that only one has are wrong."""
    longest = max(len(source), len(rewritten))
    same = sum(one == other for one, other in zip(source, rewritten, strict=False))
    return same / longest if longest else 1.0


def rouge(source: str, rewritten: str) -> dict[str, float]:
    """F-measures of ROUGE-1 and ROUGE-L (`rouge1`, `rougeL`), no stemming.

    Raises:
        ConfigError: when the rouge-score library is not installed.
    """
    scores = _scorer().score(source, rewritten)
    return {kind: float(scores[kind].fmeasure) for kind in ROUGE_KINDS}


def _common(wanted: Sequence[str], found: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(found) + 1)
    for one in wanted:
        corner = 0
        for place, other in enumerate(found, 1):
            above = row[place]
            row[place] = corner + 1 if one == other else max(above, row[place - 1])
            corner = above
    return row[-1]


@lru_cache(maxsize=1)
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ConfigError("ROUGE needs the rouge-score library; install it: pip install 'memfold[train]'") from None
    return RougeScorer(list(ROUGE_KINDS), use_stemmer=False)
