"""memfold from Python: fold documents, keep the memory, ask it.

    memory = memfold.fold("report.txt")
    memory.save("report.fold")
    print(memfold.open("report.fold").ask("Who signed it?").text)

The command line stands on the same functions.  Left out: training and measuring, which have their own modules.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from memfold.backbone import familiarity
from memfold.backbone.resolve import TINY
from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.prompt import recalled
from memfold.core.registry import DEFAULT, AnySystem
from memfold.core.scheduler import MAX_CONCURRENCY, Job, Scheduler, answer
from memfold.core.types import Block, Citation, Memory, Trace
from memfold.memory import Manifest, MemoryWriter, StoredMemory, open_memory, save_memory
from memfold.session import Session, open_session, session_for
from memfold.sources import Source, documents
from memfold.systems.shared.citations import sentence_index

LOOK_BLOCKS = 16  # of a memory, to tell whether its text is familiar

Progress = Callable[[Block], None]
OnToken = Callable[[str], None]


@dataclass(frozen=True)
class Response:
    """What came of one question: the answer, where it stands in the text, and everything that happened (`trace`).

    `warning` says when the answer is not to be trusted; `passages` are then what a plain search finds.
    """

    trace: Trace
    model: str
    fold_seconds: float = 0.0
    warning: str | None = None
    passages: tuple[Citation, ...] = ()

    @property
    def text(self) -> str:
        """The bare answer; empty when the question failed."""
        return self.trace.answer.text if self.trace.answer else ""

    @property
    def recalled(self) -> str:
        """The sentences that the model wrote out before it answered."""
        return recalled(self.trace.answer.reply) if self.trace.answer else ""

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The passages that the answer rests on, best first."""
        return self.trace.answer.citations if self.trace.answer else ()

    @property
    def error(self) -> str | None:
        """Why there is no answer."""
        return None if self.trace.failure is None else str(self.trace.failure)

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens, slots, positions and calls."""
        cost = self.trace.cost
        return {
            "document_tokens": cost.document_tokens,
            "memory_slots": cost.slots,
            "decoder_positions": cost.positions,
            "effective_ratio": round(cost.effective_ratio, 3),
            "calls": cost.calls,
            "generated_tokens": cost.generated_tokens,
        }

    @property
    def seconds(self) -> dict[str, float]:
        """Folding (0 for a memory that was opened), up to the first token, and both with the rest of the reply."""
        cost = self.trace.cost
        total = self.fold_seconds + cost.seconds
        parts = {"fold": self.fold_seconds, "first_token": cost.first_token_seconds, "total": total}
        return {name: round(value, 4) for name, value in parts.items()}

    def record(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        record: dict[str, Any] = {
            "answer": self.text,
            "recalled": self.recalled,
            "system": self.trace.system,
            "model": self.model,
            "citations": [asdict(citation) for citation in self.citations],
            "usage": self.usage,
            "seconds": self.seconds,
            "warning": self.warning,
        }
        if self.warning is not None:
            record["passages"] = [asdict(passage) for passage in self.passages]
        return record if self.error is None else record | {"error": self.error}


class FoldedMemory:
    """A memory with the model that answers from it."""

    def __init__(self, memory: Memory, session: Session, fold_seconds: float = 0.0) -> None:
        self.memory, self.session, self.fold_seconds = memory, session, fold_seconds
        self._policy = session.policy()

    @cached_property
    def warning(self) -> str | None:
        """Why answers about this text are not to be trusted; None when nothing speaks against them."""
        blocks = self.memory.blocks
        looks = blocks[:: -(-len(blocks) // LOOK_BLOCKS)]
        return familiarity.warning(self.session.model, "".join(block.read() or "" for block in looks))

    def ask(self, question: str, on_token: OnToken | None = None) -> Response:
        """Answer one question; `on_token` receives the reply's text as it is written.

        Raises:
            DataError: for an empty question, or text past the window of a system that reads all of it.
            CallError: when the model failed.
        """
        trace = answer(self._job(question), self._policy, on_token)
        if trace.failure is not None:
            raise trace.failure.exception()
        return self._response(trace)

    def ask_many(self, questions: Sequence[str]) -> list[Response]:
        """Answer many questions in batches, in their order; one that fails has its `error` set."""
        found = dict(self.answers(questions))
        return [found[number] for number in range(len(questions))]

    def answers(
        self, questions: Sequence[str], max_concurrency: int = MAX_CONCURRENCY
    ) -> Iterator[tuple[int, Response]]:
        """Answer many questions in batches; (number of the question, response) as they finish."""
        for number, trace in Scheduler(self._policy, max_concurrency).run(map(self._job, questions)):
            yield number, self._response(trace)

    def answering(self, **settings: Any) -> FoldedMemory:
        """The same memory, answered with other settings: `style` ("bare", "recall", "free") in every system; others are
        listed with the system (docs/concepts.md), such as `unfold` and `cite` of pooled memory.

        Raises:
            ConfigError: for a setting that the system does not have, or that the fold has fixed.
        """
        system = self.session.system
        for name in settings:
            if name not in system.answering_settings:
                known = ", ".join(system.answering_settings)
                raise ConfigError(f"system {system.name!r} answers with no setting {name!r}; its settings: {known}")
        return self._with(system.changed(**settings))

    def unfolding(self, tokens: int) -> FoldedMemory:
        """The same memory; about `tokens` tokens of cited text are read again before the final answer.

        Raises:
            ConfigError: for a system that reads the text anyway.
        """
        return self._with(self.session.system.unfolding(tokens))

    def save(self, path: str | Path, keep_text: bool = True, dtype: str = "bfloat16") -> None:
        """Write a memory file; `dtype` is that of the stored slots, float32 keeps them bit for bit."""
        save_memory(self.memory, path, dtype=dtype, keep_text=keep_text)

    def _with(self, system: AnySystem) -> FoldedMemory:
        return FoldedMemory(self.memory, replace(self.session, system=system), self.fold_seconds)

    def _job(self, question: str) -> Job:
        return Job(self.session.system, self.memory, question)

    def _response(self, trace: Trace) -> Response:
        warning = self.warning or _endless(trace)
        passages = () if warning is None else sentence_index(self.memory).cite("", trace.question, "")
        return Response(trace, self.session.model.name, self.fold_seconds, warning, passages)


def fold(
    source: Source,
    *,
    system: str = DEFAULT,
    model: str = TINY,
    ratio: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> FoldedMemory:
    """Fold a path, a folder, a list of paths, or text itself, in this process's memory.

    `progress` is called with each block.  `memfold fold` writes a file block by block instead and needs no more memory
    for a longer text.

    Raises:
        ConfigError, DataError, CheckpointError: saying what cannot be used.
    """
    found = documents(source)
    session = open_session(system, model, ratio, device, dtype)
    return fold_documents(found, session, progress)


def open(
    path: str | Path,
    *,
    model: str = TINY,
    system: str | None = None,
    ratio: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> FoldedMemory:
    """Open a memory file for the model that it was folded with.

    Raises:
        DataError: for a damaged file, or one of another model, system or ratio; both values are named.
    """
    memory = open_memory(path)
    return FoldedMemory(memory, session_for(memory, model, system, ratio, device, dtype))


def fold_documents(found: Sequence[Document], session: Session, progress: Progress | None = None) -> FoldedMemory:
    """Fold documents in memory."""
    hashes = tuple(document.sha256() for document in found)
    started = time.perf_counter()
    blocks: list[Block] = []
    with torch.no_grad():
        for block in session.system.compress(found, session.model):
            blocks.append(replace(block, index=len(blocks)))
            if progress is not None:
                progress(block)
    fingerprint = session.model.readable[0]
    name = hashlib.sha256(repr((hashes, session.settings, fingerprint)).encode()).hexdigest()[:16]
    sources = tuple(document.source for document in found)
    memory = Memory(name, session.system.name, session.settings, fingerprint, sources, blocks, hashes)
    return FoldedMemory(memory, session, time.perf_counter() - started)


def fold_file(
    found: Sequence[Document],
    path: str | Path,
    session: Session,
    *,
    keep_text: bool = True,
    dtype: str = "bfloat16",
    progress: Progress | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> None:
    """Fold documents straight into a memory file, block by block, going on where an interrupted fold of them ended.

    `progress` is called with each new block, `on_resume` first with the number of blocks that are there already.
    """
    _write(found, path, session, _manifest(found, session, dtype, keep_text), None, progress, on_resume)


def append_file(
    found: Sequence[Document],
    stored: StoredMemory,
    session: Session,
    *,
    progress: Progress | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> None:
    """Add documents to a memory file: its blocks are copied as they are, the new ones folded behind them.

    `session` is that of `session_for`; slots and text are stored as the file stores its own.  The file is replaced at
    the end, and an interrupted call goes on as one of `fold_file` does.
    """
    old = stored.manifest
    added = _manifest(found, session, old.dtype, old.keep_text)
    manifest = replace(old, sources=old.sources + added.sources, sha256=old.sha256 + added.sha256)
    _write(found, stored.path, session, manifest, stored, progress, on_resume)


def _write(
    found: Sequence[Document],
    path: str | Path,
    session: Session,
    manifest: Manifest,
    stored: StoredMemory | None,
    progress: Progress | None,
    on_resume: Callable[[int], None] | None,
) -> None:
    """Write a memory file: the blocks of a stored one, if any, as they are, then those of documents."""
    blocks, sources = (stored.block_count, len(stored.manifest.sources)) if stored is not None else (0, 0)
    with MemoryWriter(path, manifest, resume=True) as writer, torch.no_grad():
        kept = sum(writer.complete)
        if kept and on_resume is not None:
            on_resume(kept)
        for row, data in islice(stored.blocks() if stored is not None else (), kept, None):
            writer.copy(row, data)
        for block in session.system.compress(found, session.model, done=max(kept - blocks, 0)):
            writer.add(replace(block, source=block.source + sources))
            if progress is not None:
                progress(block)
        writer.finish()


def _manifest(found: Sequence[Document], session: Session, dtype: str, keep_text: bool) -> Manifest:
    """What a memory file of these documents says of itself."""
    sources = tuple(document.source for document in found)
    hashes = tuple(document.sha256() for document in found)
    fingerprint = session.model.readable[0]
    return Manifest(session.system.name, session.settings, fingerprint, sources, hashes, dtype, keep_text)


def _endless(trace: Trace) -> str | None:
    """What to say of a reply that ran to its limit: it has come to no answer."""
    if not trace.steps or trace.steps[-1].reply.finish != "length":
        return None
    count = trace.steps[-1].reply.token_count
    return f"the reply did not end within {count} tokens, so it holds no answer; unfold, or fold at a lower ratio"
