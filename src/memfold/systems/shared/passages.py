"""BM25 search over passages, used by the retrieval baseline and to match recalled text in other systems."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from memfold.core.words import terms


class PassageIndex:
    """A BM25 index over the terms of passages (`memfold.core.words`); its results are deterministic."""

    def __init__(self, passages: Sequence[str]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # bm25s sets it to DEBUG on import
        self.count = len(passages)
        words = [terms(passage) for passage in passages]
        self._index = bm25s.BM25() if any(words) else None
        self._vocabulary = {word for passage in words for word in passage}
        if self._index is not None:
            self._index.index(words, show_progress=False)

    def best(self, query: str, count: int) -> list[tuple[int, float]]:
        """Return (index, score) of the `count` best passages for a query, best first; ties are in passage order."""
        words = [word for word in terms(query) if word in self._vocabulary]
        if self._index is None or not words:
            return [(number, 0.0) for number in range(min(count, self.count))]
        scores = np.asarray(self._index.get_scores(words))
        order = np.argsort(-scores, kind="stable")[:count]
        return [(int(number), float(scores[number])) for number in order]
