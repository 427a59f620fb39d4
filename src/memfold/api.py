"""memfold from Python: fold documents, keep the memory, ask it.

    memory = memfold.fold("report.txt")
    memory.save("report.fold")
    print(memfold.open("report.fold").ask("Who signed it?").text)

The command line stands on the same functions.  Left out: training and measuring, which have their own modules.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from memfold.backbone import familiarity
from memfold.backbone.model import Backbone, load_backbone
from memfold.backbone.policy import LocalPolicy
from memfold.backbone.resolve import TINY, resolve_model
from memfold.core import driver, registry
from memfold.core.document import Document
from memfold.core.errors import CallError, CheckpointError, ConfigError, DataError
from memfold.core.prompt import Style, recalled
from memfold.core.system import MemorySystem
from memfold.core.types import Block, Citation, Memory, Trace
from memfold.memory import Manifest, MemoryWriter, StoredMemory, check_readable, open_memory, save_memory
from memfold.sources import Source, documents
from memfold.systems.citation import SentenceIndex

PLACES = 32
LOOK_BLOCKS = 16  # of a memory, to tell whether its text is familiar
# what a memory records beside its system's settings, for `inspect`
DESCRIPTIVE = ("model", "hidden_size", "kv_bytes_per_token")
# settings in which a reader may differ from the fold: how a question is answered, and how a text was cut
FREE = ("style", "cite", "chunk")

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
        return self.trace.error

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


@dataclass(frozen=True)
class Choice:
    """A system made for a backbone; what folds and what answers."""

    system: MemorySystem
    backbone: Backbone

    @property
    def settings(self) -> dict[str, Any]:
        """The system's settings and what describes the model, as a memory records them."""
        described = (self.backbone.name, self.backbone.hidden_size, self.backbone.kv_bytes_per_token)
        return self.system.settings | dict(zip(DESCRIPTIVE, described, strict=True))

    def effective_ratio(self, tokens: int) -> float | None:
        """Tokens for each position that the decoder sees; None for systems that do not read all of their memory."""
        return self.system.effective_ratio(tokens)


class FoldedMemory:
    """A memory with the model that answers from it."""

    def __init__(self, memory: Memory, choice: Choice, fold_seconds: float = 0.0) -> None:
        self.memory, self.choice, self.fold_seconds = memory, choice, fold_seconds
        self._policy = LocalPolicy(choice.backbone)

    @cached_property
    def warning(self) -> str | None:
        """Why answers about this text are not to be trusted; None when nothing speaks against them."""
        blocks = self.memory.blocks
        looks = blocks[:: -(-len(blocks) // LOOK_BLOCKS)]
        return warning(self.choice.backbone, "".join(block.read() or "" for block in looks))

    @cached_property
    def _sentences(self) -> SentenceIndex:
        return SentenceIndex(self.memory)

    def ask(self, question: str, on_token: OnToken | None = None) -> Response:
        """Answer one question; `on_token` receives the reply's text as it is written.

        Raises:
            DataError: for an empty question, or text past the window of a system that reads all of it.
            CallError: when the model failed.
        """
        show = None if on_token is None else lambda _, text: on_token(text)
        trace = driver.answer(self._job(question), self._policy, show)
        if trace.error is not None:
            raise _error(trace.error)
        return self._response(trace)

    def ask_many(self, questions: Sequence[str]) -> list[Response]:
        """Answer many questions in batches, in their order; one that fails has its `error` set."""
        found = dict(self.answers(questions))
        return [found[number] for number in range(len(questions))]

    def answers(self, questions: Sequence[str], places: int = PLACES) -> Iterator[tuple[int, Response]]:
        """Answer many questions in batches; (number of the question, response) as they finish."""
        jobs = map(self._job, questions)
        for number, trace in driver.run(jobs, self._policy, places):
            yield number, self._response(trace)

    def with_style(self, style: Style) -> FoldedMemory:
        """The same memory, answered `bare` or by `recall`."""
        system = rebuild(self.choice.system.name, {**self.choice.system.settings, "style": style})
        return FoldedMemory(self.memory, replace(self.choice, system=system), self.fold_seconds)

    def save(self, path: str | Path, keep_text: bool = True, dtype: str = "bfloat16") -> None:
        """Write a memory file; `dtype` is that of the stored slots, float32 keeps them bit for bit."""
        save_memory(self.memory, path, dtype=dtype, keep_text=keep_text)

    def _job(self, question: str) -> driver.Job:
        return driver.Job(self.choice.system, self.memory, question)

    def _response(self, trace: Trace) -> Response:
        passages = () if self.warning is None else self._sentences.cite("", trace.question, "")
        return Response(trace, self.choice.backbone.name, self.fold_seconds, self.warning, passages)


def fold(source: Source, *, system: str = "pooled", model: str = TINY, ratio: int | None = None, device: str = "cpu",
         dtype: str = "float32", progress: Progress | None = None) -> FoldedMemory:  # fmt: skip
    """Fold a path, a folder, a list of paths, or text itself, in this process's memory.

    `progress` is called with each block.  `memfold fold` writes a file block by block instead and needs no more memory
    for a longer text.

    Raises:
        ConfigError, DataError, CheckpointError: saying what cannot be used.
    """
    found = documents(source)
    choice = choose(system, model, ratio, device, dtype)
    return fold_documents(found, choice, progress)


def open(path: str | Path, *, model: str = TINY, system: str | None = None, ratio: int | None = None,
         device: str = "cpu", dtype: str = "float32") -> FoldedMemory:  # fmt: skip
    """Open a memory file for the model that it was folded with.

    Raises:
        DataError: for a damaged file, or one of another model, system or ratio; both values are named.
    """
    memory = open_memory(path)
    return FoldedMemory(memory, choose_for(memory, model, system, ratio, device, dtype))


def fold_documents(found: Sequence[Document], choice: Choice, progress: Progress | None = None) -> FoldedMemory:
    """Fold documents in memory."""
    hashes = tuple(document.sha256() for document in found)
    started = time.perf_counter()
    blocks: list[Block] = []
    with torch.no_grad():
        for block in choice.system.compress(found, choice.backbone):
            blocks.append(replace(block, index=len(blocks)))
            if progress is not None:
                progress(block)
    fingerprint = choice.backbone.fingerprint()
    name = hashlib.sha256(repr((hashes, choice.settings, fingerprint)).encode()).hexdigest()[:16]
    sources = tuple(document.source for document in found)
    memory = Memory(name, choice.system.name, choice.settings, fingerprint, sources, blocks, hashes)
    return FoldedMemory(memory, choice, time.perf_counter() - started)


def fold_file(found: Sequence[Document], path: str | Path, choice: Choice, *, keep_text: bool = True,
              dtype: str = "bfloat16", progress: Progress | None = None,
              on_resume: Callable[[int], None] | None = None) -> None:  # fmt: skip
    """Fold documents straight into a memory file, block by block, going on where an interrupted fold of them ended.

    `progress` is called with each new block, `on_resume` first with the number of blocks that are there already.
    """
    manifest = _manifest(found, choice, dtype, keep_text)
    with MemoryWriter(path, manifest, resume=True) as writer, torch.no_grad():
        kept = sum(writer.complete)
        if kept and on_resume is not None:
            on_resume(kept)
        for block in choice.system.compress(found, choice.backbone, done=kept):
            writer.add(block)
            if progress is not None:
                progress(block)
        writer.finish()


def append_file(found: Sequence[Document], stored: StoredMemory, choice: Choice, *,
                progress: Progress | None = None, on_resume: Callable[[int], None] | None = None) -> None:  # fmt: skip
    """Add documents to a memory file: its blocks are copied as they are, the new ones folded behind them.

    `choice` is that of `choose_for`; slots and text are stored as the file stores its own.  The file is replaced at the
    end, and an interrupted call goes on as one of `fold_file` does.
    """
    old = stored.manifest
    added = _manifest(found, choice, old.dtype, old.keep_text)
    manifest = replace(old, sources=old.sources + added.sources, sha256=old.sha256 + added.sha256)
    with MemoryWriter(stored.path, manifest, resume=True) as writer, torch.no_grad():
        kept = sum(writer.complete)
        if kept and on_resume is not None:
            on_resume(kept)
        for row, data in islice(stored.blocks(), kept, None):
            writer.copy(row, data)
        for block in choice.system.compress(found, choice.backbone, done=max(kept - stored.block_count, 0)):
            writer.add(replace(block, source=block.source + len(old.sources)))
            if progress is not None:
                progress(block)
        writer.finish()


def choose_for(memory: Memory | Manifest, model: str = TINY, system: str | None = None, ratio: int | None = None,
               device: str = "cpu", dtype: str = "float32") -> Choice:  # fmt: skip
    """The system that a memory was made with, for the model that made it; `system` and `ratio` are the memory's own.

    Raises:
        DataError: for another model, system or ratio; both values are named.
    """
    backbone = load(model, device, dtype)
    asked = {} if ratio is None else {"ratio": ratio}
    fingerprints = [backbone.fingerprint()]
    check_readable(memory, system=system or memory.system, fingerprints=fingerprints, settings=asked)
    reader = make_system(memory.system, backbone, memory.settings.get("ratio"))
    fixed = {name: reader.settings[name] for name in _fixed(reader, backbone)}
    check_readable(memory, system=memory.system, fingerprints=fingerprints, settings=fixed)
    return Choice(reader, backbone)


def choose(system: str = "pooled", model: str = TINY, ratio: int | None = None, device: str = "cpu",
           dtype: str = "float32") -> Choice:  # fmt: skip
    """A system by name for a model by name."""
    registry.system_class(system)  # before the model is loaded: a wrong name is told at once
    backbone = load(model, device, dtype)
    return Choice(make_system(system, backbone, ratio), backbone)


def make_system(name: str, backbone: Backbone, ratio: int | None = None) -> MemorySystem:
    """A system with the settings that the backbone was trained with for it.

    Raises:
        ConfigError: for a ratio that the backbone was not trained for, or that the system does not have.
    """
    system = registry.make_system(name, backbone)
    if ratio is None:
        return system
    if "ratio" not in system.settings:
        raise ConfigError(f"ratio {ratio} is not possible: system {name!r} keeps the text as it is")
    ratios = registry.trained_ratios(name, backbone)
    if ratios and ratio not in ratios:
        known = ", ".join(map(str, ratios))
        raise ConfigError(f"ratio {ratio} is not one that model {backbone.name!r} was trained for; its ratios: {known}")
    return registry.make_system(name, backbone, {"ratio": ratio})


def rebuild(name: str, settings: Mapping[str, Any]) -> MemorySystem:
    """A system from the settings that a memory records."""
    own = {key: value for key, value in settings.items() if key not in DESCRIPTIVE}
    return registry.system_class(name)(**own)  # type: ignore[no-any-return]


def load(model: str, device: str = "cpu", dtype: str = "float32") -> Backbone:
    """A model by name, loaded once."""
    where = resolve_model(model)
    backbone = _load(where, device, dtype)
    backbone.name = TINY if model == TINY else _label(where)
    return backbone


def warning(backbone: Backbone, text: str) -> str | None:
    """What to tell about a text that is unlike anything the model has read; None for one that is not."""
    limit = backbone.familiar_loss
    if limit is None or not text.strip():
        return None
    loss = familiarity.loss_of(backbone, text)
    if loss <= limit:
        return None
    return (
        f"this text is unlike anything {backbone.name} has read ({loss:.1f} nats a token; up to {limit:.1f} is "
        "familiar) and the answer is not to be trusted; read the passages that a search finds, or give a larger --model"
    )


@lru_cache(maxsize=2)
def _load(where: str, device: str, dtype: str) -> Backbone:
    transformers_logging.set_verbosity_error()
    return load_backbone(where, device, dtype)


def _label(where: str) -> str:
    """The name of a Hugging Face model, or of a model folder: a run's without its `model`."""
    path = Path(where)
    if not path.is_dir():
        return where
    path = path.resolve()
    path = path.parent if path.name == "model" else path
    return f"{path.parent.name}/{path.name}" if path.name.startswith("step-") else path.name


def _manifest(found: Sequence[Document], choice: Choice, dtype: str, keep_text: bool) -> Manifest:
    """What a memory file of these documents says of itself."""
    sources = tuple(document.source for document in found)
    hashes = tuple(document.sha256() for document in found)
    fingerprint = choice.backbone.fingerprint()
    return Manifest(choice.system.name, choice.settings, fingerprint, sources, hashes, dtype, keep_text)


def _fixed(system: MemorySystem, backbone: Backbone) -> list[str]:
    """The settings that a memory and its reader must share: those that the backbone was trained with."""
    trained = {"ratio", "frame", *backbone.trained.get(system.name, {})}
    return [name for name in system.settings if name in trained and name not in FREE]


def _error(described: str) -> Exception:
    """The exception behind a trace's error, as the driver describes it: `boundary: type: message`."""
    boundary, _, rest = described.partition(": ")
    name, _, message = rest.partition(": ")
    known = {error.__name__: error for error in (ConfigError, DataError, CheckpointError)}
    return known[name](message) if name in known else CallError(boundary, rest)
