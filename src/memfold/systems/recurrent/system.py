"""The reading loop: a note is rewritten chunk by chunk with the question in view, and the answer comes from the note.

MemAgent (arXiv 2507.02259, section 3.1), which reads 5,000 tokens at a time with a note of at most 1,024.  Folding
keeps the text: what is forgotten depends on the question.  One call for each chunk, one after the other, then one for
the answer.  Unlike there, a blank reply leaves the note as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from memfold.core.config import require
from memfold.core.document import Document, chunks
from memfold.core.errors import ConfigError
from memfold.core.model import Model
from memfold.core.prompt import Style, after_memory, before_memory, final_answer, target
from memfold.core.system import AnswerSteps, MemorySystem, ReadSettings, Rendered, TrainSettings, ask
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Generate,
    Memory,
    Part,
    Sample,
    SamplingParams,
    Text,
    Trace,
)
from memfold.systems.recurrent.prompts import BEFORE_LAST_NOTE, EMPTY, before_note, between, request
from memfold.systems.shared.blocks import render_text, text_blocks
from memfold.systems.shared.citations import cite_reply
from memfold.systems.shared.replies import ANSWER_SAMPLING, scripted_step

NOTE = 2  # which part of every call is the note


@dataclass(frozen=True)
class RecurrentFold:
    """`chunk` is how many tokens are read at a time."""

    chunk: int = 4096

    def __post_init__(self) -> None:
        require(self.chunk > 0, "chunk", self.chunk, "1 token or more")


@dataclass(frozen=True)
class RecurrentRead(ReadSettings):
    """`note` is how many tokens the note may have."""

    note: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.note > 0, "note", self.note, "1 token or more")


class Recurrent(MemorySystem[RecurrentFold, RecurrentRead, TrainSettings]):
    """See the module docstring."""

    name = "recurrent"
    groups = (RecurrentFold, RecurrentRead, TrainSettings)

    def effective_ratio(self, tokens: int) -> None:
        """None: a chunk and the note are read at a time, and how long the note gets depends on the question."""

    def record(self, previous: Mapping[str, Any]) -> dict[str, Any]:
        """How much it reads at a time, and how long a note it was trained to write."""
        return {"chunk": self.fold.chunk, "note": self.read.note}

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Blocks of text; they are read when a question is asked."""
        return islice(text_blocks(documents, model, self.fold.chunk), done, None)

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """One call for each block, each with the note that the one before it left, and one for the answer."""
        note = EMPTY
        for number, block in enumerate(memory.blocks, 1):
            part = BlockRef(memory.name, block.index)
            reply = yield from ask(self._update(question, note, part, number, len(memory.blocks)))
            note = reply.text.strip() or note
        reply = yield from ask(self._last(question, note, self.read.style))
        answer = final_answer(reply.text, self.read.style)
        return Answer(answer, reply.text, cite_reply(memory, question, reply, answer))

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """Notes of the supporting sentences read so far, then the answer; chunks are token ids.

        Raises:
            ConfigError: for a sample that is no question with supporting sentences.
        """
        if not sample.answers or not sample.support or len(sample.support) != len(sample.evidence):
            raise ConfigError(
                f"task {sample.task!r} cannot train system {self.name!r}: its notes are made of the sentences behind "
                "an answer; give a task whose questions have them, like almanac"
            )
        parts = list(chunks(sample.document, model.tokenize, self.fold.chunk))
        note, end, steps = EMPTY, 0, []
        for number, chunk in enumerate(parts, 1):
            call = self._update(sample.question, note, Text(tokens=chunk.tokens), number, len(parts))
            # a document that is given in tokens has no offsets
            end = chunk.char_end or end + len(model.decode(chunk.tokens))
            pairs = zip(sample.support, sample.evidence, strict=True)
            note = " ".join(sentence for sentence, span in pairs if span.end <= end) or EMPTY
            steps.append(scripted_step(call, note, model))
        last = self._last(sample.question, note, style)
        steps.append(scripted_step(last, target(sample.expected, sample.recalled, style), model))
        return Trace(sample.question, self.name, self.settings, tuple(steps))

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """Tokens only; those of the note stand for the memory as those of a block do.

        Raises:
            DataError: when note, chunk and reply together are longer than the model's window.
        """
        rendered = render_text(memory, call, model)
        return replace(rendered, memory_positions=rendered.memory_positions + rendered.lengths[NOTE])

    def _update(self, question: str, note: str, part: Part, number: int, count: int) -> Call:
        template = self.read.chat_template
        opening = (Text(before_memory(template)), Text(before_note(question)), Text(note))
        closing = Text(after_memory(template, request(self.read.note), None))
        sampling = SamplingParams(max_tokens=self.read.note)
        return Call("update", (*opening, Text(between(number, count)), part, closing), Generate(sampling))

    def _last(self, question: str, note: str, style: Style) -> Call:
        template = self.read.chat_template
        closing = Text(after_memory(template, question, style))
        parts = (Text(before_memory(template)), Text(BEFORE_LAST_NOTE), Text(note), closing)
        return Call("answer", parts, Generate(ANSWER_SAMPLING))
