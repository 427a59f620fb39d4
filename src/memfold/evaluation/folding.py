"""The memories that the cases of a suite are asked about.

Several documents may have most of their text in common, as the texts of the needle suite do.  A suite then gives the
pieces of each, and a system that makes slots of a text folds every piece once and has the memories spliced of them.  A
system that keeps the text has nothing to gain by it, and cuts it by rules of its own: it folds documents whole.
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
        """The memory of each document of these cases, by its seed."""
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
