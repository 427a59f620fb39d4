"""BM25 over passages: what the retrieval baseline reads, and what other systems match recalled text against."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import bm25s
import numpy as np

logging.getLogger("bm25s").setLevel(logging.WARNING)  # which it sets to DEBUG on import
_WORD = re.compile(r"\w+")


class PassageIndex:
    """An index over passages of text; the same text always gives the same order."""

    def __init__(self, passages: Sequence[str]) -> None:
        self.count = len(passages)
        words = [_WORD.findall(passage.lower()) for passage in passages]
        self._index = bm25s.BM25() if any(words) else None
        self._known = {word for passage in words for word in passage}
        if self._index is not None:
            self._index.index(words, show_progress=False)

    def best(self, query: str, count: int) -> list[tuple[int, float]]:
        """The passages that share most with a query, best first, as (number, score); ties by their order."""
        words = [word for word in _WORD.findall(query.lower()) if word in self._known]
        if self._index is None or not words:
            return [(number, 0.0) for number in range(min(count, self.count))]
        scores = np.asarray(self._index.get_scores(words))
        order = np.argsort(-scores, kind="stable")[:count]
        return [(int(number), float(scores[number])) for number in order]
