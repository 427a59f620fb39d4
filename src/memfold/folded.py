"""A memory that questions are asked of: the object that the Python API and the command line work with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from memfold.checks import memory_warning, respond
from memfold.core.arguments import check_callable, check_path, check_positive, check_type, strings
from memfold.core.config import require
from memfold.core.errors import ConfigError
from memfold.core.job import Job, reading_together
from memfold.core.registry import AnySystem, check_keeps_text, check_slot_dtype
from memfold.core.scheduler import MAX_CONCURRENCY, Scheduler, answer
from memfold.core.stored_trace import Asked
from memfold.core.trace_file import OnCall, Recording, TraceFile
from memfold.core.types import Memory, Step, Trace
from memfold.folding import Progress, fold_memory, memory_name
from memfold.memory import check_target, claimed, same_encoder, save_memory
from memfold.memory.reader import read_manifest
from memfold.response import Response
from memfold.session import Session, check_extends
from memfold.sources import Skipped, Source, Texts, given_inputs
from memfold.systems.shared.unfolding import check_unfoldable

OnToken = Callable[[str], None]


class FoldedMemory:
    """A memory together with the session (system and model) that answers from it.

    It can be copied and pickled, for example for `multiprocessing`: copies share the model, and another process loads
    it again by its name.  `skipped` lists what was given or found and is not in it, each with its reason.
    """

    def __init__(
        self, memory: Memory, session: Session, fold_seconds: float = 0.0, skipped: tuple[Skipped, ...] = ()
    ) -> None:
        self.memory, self.session, self.fold_seconds, self.skipped = memory, session, fold_seconds, skipped
        self._policy = session.policy()

    def __repr__(self) -> str:
        memory = self.memory
        return f"<FoldedMemory: {memory.counts}, system {memory.system!r}, model {self.session.model.name!r}>"

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("memory", "session", "fold_seconds", "skipped")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @cached_property
    def warning(self) -> str | None:
        """A warning that the text is unlike the training text of the model, so answers are unreliable; else None."""
        return memory_warning(self.memory, self.session.model)

    def ask(
        self,
        question: str,
        on_token: OnToken | None = None,
        *,
        trace: str | Path | None = None,
        resume: bool = False,
        on_call: OnCall | None = None,
    ) -> Response:
        """Answer one question; `on_token` receives the text of the reply as it is generated.

        `on_call` receives each call with its reply as soon as it has one, and the file `trace` keeps them.  With
        `resume`, the file exists already: the replies in it are used, and the calls that are missing are made.

        Raises:
            DataError: for an empty question, a text that exceeds the context window of the model, or a `trace` that
                exists or, with `resume`, has calls of something else.
            CallError: if the model or the endpoint fails.
            TypeError: for an argument of another type.
        """
        check_type("question", question, str, "a string")
        check_callable("on_token", on_token)
        with self._recording(trace, resume, [question], on_call) as recording:
            ended = answer(self._job(question, recording.recorded(0)), self._policy, on_token, recording.add)
            recording.end(0, ended)
        if ended.failure is not None:
            raise ended.failure.exception()
        return self._response(ended)

    def ask_many(self, questions: Sequence[str]) -> list[Response]:
        """Answer questions in batches and return the responses in order; a failed question has its `error` set.

        Raises:
            TypeError: for anything but strings in a list.
        """
        responses = dict(self.answers(questions))
        return [responses[number] for number in range(len(responses))]

    def answers(
        self,
        questions: Sequence[str],
        max_concurrency: int = MAX_CONCURRENCY,
        *,
        trace: str | Path | None = None,
        resume: bool = False,
        on_call: OnCall | None = None,
    ) -> Iterator[tuple[int, Response]]:
        """Answer questions in batches; yield (index of the question, response) in the order in which they finish.

        `trace`, `resume` and `on_call` are those of `ask`; one file has the calls of all questions.

        Raises:
            ConfigError, TypeError: for a `max_concurrency` below 1, or anything but strings in a list.
            DataError: for a `trace` that cannot be used.
        """
        check_positive("max_concurrency", max_concurrency)
        asked = strings("questions", questions)
        return self._answers(asked, max_concurrency, self._recording(trace, resume, asked, on_call))

    def _answers(
        self, questions: Sequence[str], max_concurrency: int, recording: Recording
    ) -> Iterator[tuple[int, Response]]:
        with recording:
            jobs = (self._job(question, recording.recorded(number)) for number, question in enumerate(questions))
            reading = reading_together(jobs)
            for number, ended in Scheduler(self._policy, max_concurrency, on_step=recording.add).run(reading):
                recording.end(number, ended)
                yield number, self._response(ended)

    def _recording(
        self, trace: str | Path | None, resume: bool, questions: Sequence[str], on_call: OnCall | None
    ) -> Recording:
        """Return where the calls of these questions are stored."""
        check_callable("on_call", on_call)
        check_type("resume", resume, bool, "true or false")
        if trace is None:
            require(not resume, "resume", resume, "false without a trace to continue")
            return Recording(on_call)
        check_path("trace", trace)
        session = self.session
        asked = [Asked.of(question, session.system, self.memory, session.model) for question in questions]
        return TraceFile(Path(trace), asked, resume, on_call)

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
            DataError: for a memory that holds no text.
        """
        system = self.session.system.doubting(0).unfolding(tokens)
        if tokens:
            check_unfoldable(self.memory)
        return self._with(system)

    def doubting(self, tokens: int) -> FoldedMemory:
        """Return the same memory; cited text is read again only if the text does not support a reply, and 0 is never.

        This is the default, with `DOUBT` tokens.  A system that reads the text itself is unchanged.
        """
        return self._with(self.session.system.doubting(tokens))

    def save(self, path: str | Path, keep_text: bool = True, dtype: str | None = None, *, force: bool = False) -> None:
        """Write a memory file; `dtype` is that of the stored slots: bfloat16 (default), float32 (lossless) or int8.

        Raises:
            ConfigError: if the memory is the text itself, and `keep_text` is false or a `dtype` is given.
            DataError: if the path holds anything but a memory of the same documents, or of the first of them, and
                `force` is not given, or if another process is writing it.
            TypeError: for an argument of another type.
        """
        check_path("path", path)
        check_type("keep_text", keep_text, bool, "true or false")
        check_type("dtype", dtype, (str, type(None)), "a string")
        check_type("force", force, bool, "true or false")
        check_keeps_text(self.session.system, keep_text)
        check_slot_dtype(self.memory.system, dtype)
        with claimed(path) as lock:
            check_target(path, self.memory.sha256, grown=self._continues(Path(path)), force=force)
            save_memory(self.memory, path, dtype=dtype or "bfloat16", keep_text=keep_text, lock=lock)

    def append(
        self, source: Source | None = None, *, texts: Texts | None = None, progress: Progress | None = None
    ) -> None:
        """Fold more documents into this memory, in RAM; `save` then replaces the file that it was opened from.

        `source` and `texts` are those of `fold`.  Documents whose text the memory holds already are left out.  Of the
        existing slots, none changes.

        Raises:
            DataError: for a document that cannot be used, or a model that reads the memory but did not fold it.
            TypeError: for an argument of another type.
        """
        check_callable("progress", progress)
        old, session = self.memory, self.session
        inputs = given_inputs(source, texts, old)
        check_extends(old, session)
        self.skipped += inputs.skipped
        if not inputs.documents:
            return
        started = time.perf_counter()
        self.memory = _joined(old, fold_memory(inputs.documents, session, progress))
        self.fold_seconds += time.perf_counter() - started
        self.__dict__.pop("warning", None)  # it depends on the text

    def _continues(self, path: Path) -> bool:
        """Whether a file holds the first documents of this memory, made by the same system and encoder."""
        stored, memory = read_manifest(path) if path.is_file() else None, self.memory
        return (
            stored is not None
            and stored.system == memory.system
            and same_encoder(stored, memory)
            and stored.sha256 == memory.sha256[: len(stored.sha256)]
        )

    def _with(self, system: AnySystem) -> FoldedMemory:
        return FoldedMemory(self.memory, replace(self.session, system=system), self.fold_seconds, self.skipped)

    def _job(self, question: str, recorded: tuple[Step | None, ...]) -> Job:
        return Job(self.session.system, self.memory, question, recorded=recorded)

    def _response(self, trace: Trace) -> Response:
        return respond(self.memory, self.session, trace, self.warning, self.fold_seconds)


def _joined(old: Memory, added: Memory) -> Memory:
    """Return a memory with more documents: the blocks of the first memory, then those of the second."""
    device = next((block.slots.device for block in old.blocks if block.slots is not None), None)
    blocks = list(old.blocks)
    for block in added.blocks:
        slots = block.slots if block.slots is None or device is None else block.slots.to(device)
        blocks.append(replace(block, index=len(blocks), source=block.source + len(old.sources), slots=slots))
    hashes = old.sha256 + added.sha256
    name = memory_name(hashes, old.settings, old.fingerprint)
    return replace(old, name=name, sources=old.sources + added.sources, blocks=blocks, sha256=hashes)
