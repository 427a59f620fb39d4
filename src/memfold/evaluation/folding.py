"""Makes the memories for the cases of a suite.

Documents may share most of their text, as in the needle suite.  A suite then gives the pieces of each document.  A
system with slots folds every piece once, and its memories are joined from the pieces.  A system that keeps the text
folds whole documents, because pieces would not save anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from memfold.core.document import Document
from memfold.core.model import Model
from memfold.core.registry import AnySystem
from memfold.core.types import Memory
from memfold.evaluation.suite import Case
from memfold.memory.combine import splice
from memfold.systems.shared.folding import fold


class Folding:
    """Folds for one system; the pieces that the last cases needed are kept for the next."""

    def __init__(self, system: AnySystem, model: Model) -> None:
        self.system, self.model = system, model
        self._kept: dict[str, Memory] = {}

    def memories(self, cases: Sequence[Case]) -> dict[int, Memory]:
        """Return the memory of each document of these cases, by its seed."""
        by_seed = {case.seed: case for case in cases}
        slots = self.system.capabilities.slots
        in_pieces = {seed: case for seed, case in by_seed.items() if case.pieces and slots}
        whole = {seed: case.sample.document for seed, case in by_seed.items() if seed not in in_pieces}
        folded = dict(zip(whole, fold(self.system, list(whole.values()), self.model), strict=True))
        self._fold_pieces([piece for case in in_pieces.values() for piece in case.pieces])
        for seed, case in in_pieces.items():
            memories = [self._kept[piece.source] for piece in case.pieces]
            folded[seed] = splice(case.sample.document.source, memories)
        return folded

    def _fold_pieces(self, pieces: Sequence[Document]) -> None:
        """Fold those that are not kept, and keep no others."""
        wanted = {piece.source: piece for piece in pieces}
        self._kept = {source: memory for source, memory in self._kept.items() if source in wanted}
        fresh = [piece for source, piece in wanted.items() if source not in self._kept]
        for memory in fold(self.system, fresh, self.model):
            self._kept[memory.name] = memory
