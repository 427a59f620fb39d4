"""The Python API: fold documents, save and open the memory, ask questions.

    memory = memfold.fold("report.txt")
    memory.save("report.fold")
    print(memfold.open("report.fold").ask("Who signed it?").text)

The command line uses the same functions.  Training and evaluation have their own modules.
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

FAMILIARITY_BLOCKS = 16  # blocks of a memory whose text is checked for being familiar to the model

Progress = Callable[[Block], None]
OnToken = Callable[[str], None]


class FoldedMemory:
    """A memory together with the session (system and model) that answers from it."""

    def __init__(self, memory: Memory, session: Session, fold_seconds: float = 0.0) -> None:
        self.memory, self.session, self.fold_seconds = memory, session, fold_seconds
        self._policy = session.policy()

    @cached_property
    def warning(self) -> str | None:
        """A warning that the text is unlike the training text of the model, so answers are unreliable; else None."""
        blocks = self.memory.blocks
        excerpts = blocks[:: -(-len(blocks) // FAMILIARITY_BLOCKS)]
        return familiarity.warning(self.session.model, "".join(block.read() or "" for block in excerpts))

    def ask(self, question: str, on_token: OnToken | None = None) -> Response:
        """Answer one question; `on_token` receives the text of the reply as it is generated.

        Raises:
            DataError: for an empty question, or a text that exceeds the context window of the model.
            CallError: if the model or the endpoint fails.
        """
        trace = answer(self._job(question), self._policy, on_token)
        if trace.failure is not None:
            raise trace.failure.exception()
        return self._response(trace)

    def ask_many(self, questions: Sequence[str]) -> list[Response]:
        """Answer questions in batches and return the responses in order; a failed question has its `error` set."""
        responses = dict(self.answers(questions))
        return [responses[number] for number in range(len(questions))]

    def answers(
        self, questions: Sequence[str], max_concurrency: int = MAX_CONCURRENCY
    ) -> Iterator[tuple[int, Response]]:
        """Answer questions in batches; yield (index of the question, response) in the order in which they finish."""
        for number, trace in Scheduler(self._policy, max_concurrency).run(map(self._job, questions)):
            yield number, self._response(trace)

    def answering(self, **settings: Any) -> FoldedMemory:
        """Return the same memory with other reading settings: `style` ("bare", "recall", "free") in every system, and
        those of the system (docs/concepts.md), such as `unfold` and `cite` of pooled memory.

        Raises:
            ConfigError: for a setting that the system does not have, or that was fixed when folding.
        """
        system = self.session.system
        for name in settings:
            if name not in system.answering_settings:
                allowed = ", ".join(system.answering_settings)
                raise ConfigError(f"system {system.name!r} has no reading setting {name!r}; allowed: {allowed}")
        return self._with(system.changed(**settings))

    def unfolding(self, tokens: int) -> FoldedMemory:
        """Return the same memory; about `tokens` tokens of cited text are read again before the final answer.

        Raises:
            ConfigError: for a system that cannot unfold.
        """
        return self._with(self.session.system.unfolding(tokens))

    def save(self, path: str | Path, keep_text: bool = True, dtype: str = "bfloat16") -> None:
        """Write a memory file; `dtype` is the data type of the stored slots: float32 (lossless), bfloat16 or int8."""
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
    """Fold a file, a folder, a list of paths, or a text, and keep the memory in RAM.

    `progress` is called with each block.  `memfold fold` instead writes a file block by block, with constant memory use
    for texts of any length.

    Raises:
        ConfigError, DataError, CheckpointError: for an argument or a file that cannot be used.
    """
    inputs = documents(source)
    session = open_session(system, model, ratio, device, dtype)
    return fold_documents(inputs, session, progress)


def open(
    path: str | Path,
    *,
    model: str = TINY,
    system: str | None = None,
    ratio: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> FoldedMemory:
    """Open a memory file; `model` must be the model that folded it, or one trained to read its memories.

    Raises:
        DataError: for a damaged file, or another model, system or ratio; the message gives both values.
    """
    memory = open_memory(path)
    return FoldedMemory(memory, session_for(memory, model, system, ratio, device, dtype))


def fold_documents(inputs: Sequence[Document], session: Session, progress: Progress | None = None) -> FoldedMemory:
    """Fold documents and keep the memory in RAM; `progress` is called with each block."""
    hashes = tuple(document.sha256() for document in inputs)
    started = time.perf_counter()
    blocks: list[Block] = []
    with torch.no_grad():
        for block in session.system.compress(inputs, session.model):
            blocks.append(replace(block, index=len(blocks)))
            if progress is not None:
                progress(block)
    fingerprint = session.model.readable[0]
    name = hashlib.sha256(repr((hashes, session.settings, fingerprint)).encode()).hexdigest()[:16]
    sources = tuple(document.source for document in inputs)
    memory = Memory(name, session.system.name, session.settings, fingerprint, sources, blocks, hashes)
    return FoldedMemory(memory, session, time.perf_counter() - started)
