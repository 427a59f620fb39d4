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
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from memfold.backbone import familiarity
from memfold.backbone.resolve import TINY
from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.job import Job
from memfold.core.registry import DEFAULT, AnySystem
from memfold.core.scheduler import MAX_CONCURRENCY, Scheduler, answer
from memfold.core.types import Block, Memory, Trace
from memfold.memory import open_memory, save_memory
from memfold.response import Response, unended
from memfold.session import Session, open_session, session_for
from memfold.sources import Source, documents
from memfold.systems.shared.citations import sentence_index

__all__ = ["FoldedMemory", "Response", "fold", "fold_documents", "open"]

LOOK_BLOCKS = 16  # of a memory, to tell whether its text is familiar

Progress = Callable[[Block], None]
OnToken = Callable[[str], None]


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
        warning = self.warning or unended(trace)
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
