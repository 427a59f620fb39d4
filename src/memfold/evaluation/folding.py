"""Makes the memories for the cases of a suite.

Documents may share most of their text, as in the needle suite.  A suite then gives the pieces of each document.  A
system with slots folds every piece once, and its memories are joined from the pieces.  A system that keeps the text
folds whole documents, because pieces would not save anything.

Slots of very long documents would fill the main memory: those of keys and values take thousands of bytes for each token
of text.  If those of some documents together are larger than `IN_MEMORY`, each is folded into a temporary memory file,
which is mapped, so that a block is read from it when it is needed.  Its slots are stored in bfloat16, as
`memfold fold` stores them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from memfold.core.document import Document
from memfold.core.model import Model
from memfold.core.registry import AnySystem, encoder_of
from memfold.core.types import Memory
from memfold.evaluation.suite import Case
from memfold.memory.combine import splice
from memfold.memory.manifest import Manifest
from memfold.memory.reader import open_memory
from memfold.memory.writer import MemoryWriter
from memfold.systems.shared.folding import fold, without_gradients

IN_MEMORY = 1 << 30  # bytes of slots that are kept in the main memory
FILE_DTYPE = "bfloat16"


class Foldings:
    """The folding of each candidate; those that fold alike and only read differently share one."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._made: list[Folding] = []

    def of(self, system: AnySystem) -> Folding:
        """Return the folding of a system."""
        for folding in self._made:
            if folding.system.name == system.name and folding.system.fold == system.fold:
                return folding
        self._made.append(Folding(system, self.model))
        return self._made[-1]


class Folding:
    """Folds for systems with the same settings of folding; what the last cases needed is kept for the next.

    `seconds` is the time that a document of the last cases took.
    """

    def __init__(self, system: AnySystem, model: Model) -> None:
        self.system, self.model, self.seconds = system, model, 0.0
        self._kept: dict[str, Memory] = {}
        self._last: dict[int, Memory] = {}

    def memories(self, cases: Sequence[Case]) -> dict[int, Memory]:
        """Return the memory of each document of these cases, by its seed."""
        wanted = {case.seed for case in cases}
        self._last = {seed: memory for seed, memory in self._last.items() if seed in wanted}
        fresh = [case for case in cases if case.seed not in self._last]
        if fresh:
            started = time.perf_counter()
            made = self._fold_all(fresh)
            self.seconds = (time.perf_counter() - started) / len(made)
            self._last |= made
        return dict(self._last)

    def _fold_all(self, cases: Sequence[Case]) -> dict[int, Memory]:
        by_seed = {case.seed: case for case in cases}
        slots = self.system.settled([case.sample.document for case in by_seed.values()], self.model).stores_slots
        in_pieces = {seed: case for seed, case in by_seed.items() if case.pieces and slots}
        whole = {seed: case for seed, case in by_seed.items() if seed not in in_pieces}
        folded = dict(zip(whole, self._fold(list(whole.values())), strict=True))
        self._fold_pieces([piece for case in in_pieces.values() for piece in case.pieces])
        for seed, case in in_pieces.items():
            memories = [self._kept[piece.source] for piece in case.pieces]
            folded[seed] = splice(case.sample.document.source, memories)
        return folded

    def _fold(self, cases: Sequence[Case]) -> list[Memory]:
        """Fold the documents of these cases, one for each, together or each into a file."""
        documents = [case.sample.document for case in cases]
        if slot_bytes(self.system, self.model, sum(case.size for case in cases)) <= IN_MEMORY:
            return fold(self.system, documents, self.model)
        return [fold_into_file(self.system, document, self.model) for document in documents]

    def _fold_pieces(self, pieces: Sequence[Document]) -> None:
        """Fold those that are not kept, and keep no others."""
        wanted = {piece.source: piece for piece in pieces}
        self._kept = {source: memory for source, memory in self._kept.items() if source in wanted}
        fresh = [piece for source, piece in wanted.items() if source not in self._kept]
        for memory in fold(self.system, fresh, self.model):
            self._kept[memory.name] = memory


def slot_bytes(system: AnySystem, model: Model, tokens: int) -> int:
    """Return about how many bytes the slots of `tokens` tokens of text take in the main memory; 0 for a text."""
    size = system.slot_size(model) if system.capabilities.slots else None
    if not size or not system.ratio:
        return 0
    return tokens // system.ratio * size * model.weights().dtype.itemsize


def fold_into_file(system: AnySystem, document: Document, model: Model) -> Memory:
    """Return the memory of a document, mapped from a file that no longer has a name: it ends with the memory.

    Raises:
        DataError: if the temporary folder has no room for it.
    """
    system = system.settled([document], model)
    with TemporaryDirectory(prefix="memfold-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "document.mem"
        manifest = Manifest(
            system.name,
            system.settings,
            encoder_of(system, model),
            (document.source,),
            (document.sha256(),),
            FILE_DTYPE,
        )
        with MemoryWriter(path, manifest) as writer, without_gradients(model):
            for block in system.compress([document], model):
                writer.add(block)
            writer.finish()
        return replace(open_memory(path), name=document.source)
