"""Recurrent reading: a note is rewritten chunk by chunk for a given question, and the answer is based on the note.

Based on MemAgent (arXiv 2507.02259, section 3.1), which reads 5,000 tokens at a time and keeps a note of at most 1,024.
Folding keeps the text, because what can be forgotten depends on the question.  There is one call per chunk, in
sequence, and a last call for the answer.  Unlike in the paper, a blank reply leaves the note unchanged, and a note has
no more tokens than the text that was read for it; chunks may also be read in parallel, all with the same note; and a
model may be trained through an adapter (`READER`), so that its other systems stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from memfold.core.config import require, require_known
from memfold.core.document import Document, text_chunks
from memfold.core.footprint import Footprint
from memfold.core.model import Model, ModelRecord
from memfold.core.prompt import Style, final_answer, user_message
from memfold.core.registry import published_for
from memfold.core.settings import ReadSettings, TrainSettings
from memfold.core.system import ADDITION, UPDATE, AnswerSteps, Capabilities, MemorySystem, Rendered, ask
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Generate,
    Memory,
    Part,
    Reply,
    Sample,
    Text,
    Trace,
)
from memfold.systems.recurrent.prompts import around_last_note, around_part
from memfold.systems.shared.blocks import render_text, text_blocks
from memfold.systems.shared.candidates import candidates
from memfold.systems.shared.citations import cite_reply
from memfold.systems.shared.linear import add_adapter, matrices
from memfold.systems.shared.merging import merged_note
from memfold.systems.shared.notes import (
    EMPTY,
    NOTE,
    OVERFLOWS,
    STOPS,
    Overflow,
    Stop,
    Update,
    answer_from,
    early_answer,
    fitting_chunk,
    fitting_note,
    misleading,
    noted_parts,
    write_notes,
)
from memfold.systems.shared.replies import scripted_step
from memfold.systems.shared.tagged import PROMPTS, Prompts

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

CHUNK = 5000  # tokens that are read at a time (section 3.1)
SHORTEST_NOTE = 64  # tokens that a note may always have: a few sentences
TOGETHER = 64  # calls of a parallel reading that are made at the same time
PLACE = 2  # index of the note in the parts of every call
READER = "reader"  # the adapter


@dataclass(frozen=True)
class RecurrentFold:
    """`chunk` is the maximum number of tokens that are read at a time."""

    chunk: int = CHUNK

    def __post_init__(self) -> None:
        require(self.chunk > 0, "chunk", self.chunk, "1 token or more")


@dataclass(frozen=True)
class RecurrentRead(ReadSettings):
    """`note` is the maximum number of tokens in the note, `overflow` what becomes of one that is longer (`notes`).

    With more than one of `passes` (the paper: 1), the text is read again from its beginning with the note so far,
    unless a pass has not changed the note: evidence may stand before what shows that it matters.  With `candidates`,
    each pass reads only that many chunks, found by BM25 in view of the note (`shared.candidates`); 0 is all.  With
    `stop` "answered", the question is asked after each change of the note, and reading ends at the first answer.

    With `parallel` (not in the paper), every chunk of a pass is read with the note that the pass began with, by calls
    that do not depend on each other.  What is new in their notes is then added to that note, while `note` has room
    (`shared.merging`).  Training reads in sequence (`script`).

    With `questions` (not in the paper), a note is written for up to that many questions that are asked together, and
    chunks are read once for all of them.  `about` has these questions; without any, it is the one that is asked.

    `prompts` is "short", or "tagged" for weights that were trained with the published prompts (`tagged`).
    With `adapters` the adapter `READER` of the model writes notes and answers, which has to be trained.
    """

    note: int = NOTE
    overflow: Overflow = "sentence"
    passes: int = 1
    candidates: int = 0
    stop: Stop = "end"
    parallel: bool = False
    questions: int = 1
    about: tuple[str, ...] = ()
    prompts: Prompts = "short"
    adapters: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.note > 0, "note", self.note, "1 token or more")
        require_known("overflow", self.overflow, OVERFLOWS)
        require(self.passes > 0, "passes", self.passes, "1 or more")
        require(self.candidates >= 0, "candidates", self.candidates, "1 chunk or more, or 0 for all")
        require_known("stop", self.stop, STOPS)
        require(self.questions > 0, "questions", self.questions, "1 or more")
        require_known("prompts", self.prompts, PROMPTS)


@dataclass(frozen=True)
class RecurrentTrain(TrainSettings):
    """`rank` is the rank of the adapter, if there is one; without it the weights of the model are trained.

    Most parts of a text add nothing to a note.  Of a supervised sample, at most `unchanged` of them are trained, those
    that look as if they could (`notes.misleading`): otherwise the model mostly learns to repeat notes.
    """

    rank: int = 32
    unchanged: int = 2

    def __post_init__(self) -> None:
        require(self.rank > 0, "rank", self.rank, "1 or more")
        require(self.unchanged >= 0, "unchanged", self.unchanged, "0 or more")


class Recurrent(MemorySystem[RecurrentFold, RecurrentRead, RecurrentTrain]):
    """Recurrent reading; see the module docstring."""

    name = "recurrent"
    groups = (RecurrentFold, RecurrentRead, RecurrentTrain)

    @classmethod
    def fitting(cls, model: ModelRecord) -> dict[str, Any]:
        """Return chunk and note of the paper, or shorter ones that fit into the window, and the prompts of published
        weights."""
        fitting = {"chunk": fitting_chunk(model.window, CHUNK), "note": fitting_note(model.window)}
        return fitting | ({"prompts": "tagged"} if published_for(model.name) == cls.name else {})

    @property
    def capabilities(self) -> Capabilities:
        """The length of a call does not depend on that of the documents: it has a chunk, a note, and a new note."""
        positions, questions = self.fold.chunk + 2 * self.read.note, self.read.questions
        return Capabilities(activation_checkpointing=True, call_positions=positions, questions=questions)

    def effective_ratio(self, tokens: int, slots: int | None = None) -> None:
        """Return None: the decoder reads one chunk and a note of varying length at a time."""

    def prepare(self, backbone: Backbone) -> None:
        """Add the adapter to a model, if the settings ask for it."""
        if self.read.adapters:
            add_adapter(backbone, READER, self.train.rank)

    def record(self, previous: Mapping[str, Any]) -> dict[str, Any]:
        """Return the chunk size, the length of the note and the passes that the model was trained with, and whether by
        adapter."""
        adapters = {"adapters": True} if self.read.adapters else {}
        return {"chunk": self.fold.chunk, "note": self.read.note, "passes": self.read.passes} | adapters

    def footprint(self, tokens: float) -> Footprint:
        """Return the cost: in each pass, every chunk is read with a note, and a note is written for it."""
        notes, passes = math.ceil(tokens / self.fold.chunk) * self.read.note, self.read.passes
        return Footprint(positions=passes * (tokens + notes), written=passes * notes)

    def beside(self, modules: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """Return the sizes of the matrices of the adapter, if the settings ask for it."""
        return matrices(modules, READER, self.train.rank) if self.read.adapters else {}

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Yield blocks of text, which are read when a question is asked."""
        return islice(text_blocks(documents, model, self.fold.chunk), done, None)

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """Update the note with one call per block and pass, and answer from the note with a last call."""
        note, read, wanted = EMPTY, 0, self._wanted(question)
        for _ in range(self.read.passes):
            before = note
            for indices in self._groups(memory, wanted, note):
                last, note = note, (yield from self._noted(memory, wanted, note, indices, read))
                read += _tokens(memory, indices)
                answering = partial(self._from_note, memory, question, note)
                early = yield from early_answer(self.read.stop, last, note, answering)
                if early is not None:
                    return early
            if note == before:
                break
        return (yield from self._from_note(memory, question, note))

    def about(self, questions: Sequence[str]) -> Recurrent:
        """Return the system whose notes are for all these questions."""
        return self.changed(about=tuple(dict.fromkeys(questions)))

    def _wanted(self, question: str) -> str:
        """Return what a note is read for: a question, or the numbered list of those that share it."""
        about = self.read.about
        if len(about) < 2:
            return about[0] if about else question
        return "\n".join(f"{number}. {each}" for number, each in enumerate(about, 1))

    def _groups(self, memory: Memory, question: str, note: str) -> list[Sequence[int]]:
        """Return the numbers of the blocks that a pass reads, those together that are read with the same note."""
        chosen: Sequence[int] = range(len(memory.blocks))
        if self.read.candidates:
            chosen = candidates(memory, question, note, self.read.candidates)
        return [chosen] if self.read.parallel else [[index] for index in chosen]

    def _noted(
        self, memory: Memory, question: str, note: str, indices: Sequence[int], read: int
    ) -> Generator[tuple[Call, ...], tuple[Reply, ...], str]:
        """Return the note after some blocks that are read with the same one, after `read` tokens of text."""
        notes = list[str]()
        for start in range(0, len(indices), TOGETHER):
            together = indices[start : start + TOGETHER]
            updates = [self._update_with(memory, question, note, index, read) for index in together]
            notes += yield from write_notes(updates, self.read.overflow)
        if not self.read.parallel:
            return notes[0] or note
        # no tokens are counted here: a note has as many characters to a token as the text
        ratio = sum(block.char_end - block.char_start for block in memory.blocks) / max(1, memory.token_count)
        return merged_note(note, notes, question, ratio * self._limit(read + _tokens(memory, indices)))

    def _update_with(self, memory: Memory, question: str, note: str, index: int, read: int) -> Update:
        """Return what makes the call for a block, which is read after `read` tokens of text, and its limit."""
        block, purpose = memory.blocks[index], ADDITION if self.read.parallel else UPDATE
        place = (BlockRef(memory.name, block.index), index + 1, len(memory.blocks))
        update = partial(self._update, question, note, *place, purpose=purpose)
        return update, self._limit(read + block.token_count)

    def _from_note(self, memory: Memory, question: str, note: str) -> AnswerSteps:
        reply = yield from ask(self._last(question, note, self.read.style))
        answer = final_answer(reply.text, self.read.style)
        return Answer(answer, reply.text, cite_reply(memory, question, reply, answer))

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """Return a trace whose notes are the supporting sentences read so far; its chunks are token ids.

        Raises:
            ConfigError: for a sample that is not a question with supporting sentences.
        """
        parts = list(text_chunks(sample.document, model.tokenize, self.fold.chunk))
        readings = noted_parts(sample, parts, model, f"system {self.name!r}", self.read.passes)
        repeated = misleading(sample.question, readings, self.train.unchanged, model)
        steps, read = [], 0
        for number, reading in enumerate(readings):
            part = Text(tokens=reading.chunk.tokens)
            read += len(reading.chunk.tokens)
            place = (part, number % len(parts) + 1, len(parts))
            call = self._update(sample.question, reading.before, *place, self._limit(read))
            call = replace(call, trained=reading.adds or number in repeated)
            steps.append(scripted_step(call, reading.after, model))
        last = self._last(sample.question, readings[-1].after, style)
        steps.append(scripted_step(last, answer_from(readings[-1].after, sample, style), model))
        return Trace(sample.question, self.name, self.settings, tuple(steps))

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """Render a call as tokens; those of the note count as positions of the memory, like those of a block.

        Raises:
            DataError: if note, chunk and reply exceed the context window of the model, or the memory holds no text.
        """
        rendered = render_text(memory, call, model, self.read.chat_template)
        return replace(rendered, memory_positions=rendered.memory_positions + rendered.lengths[PLACE])

    def _limit(self, read: int) -> int:
        """Return the most tokens of a note, when `read` tokens of text have been read."""
        return min(self.read.note, max(SHORTEST_NOTE, read))

    def _update(
        self, question: str, note: str, part: Part, number: int, count: int, limit: int, purpose: str = UPDATE
    ) -> Call:
        """Return the call for part `number` of `count`, and a note of at most `limit` tokens."""
        place = (self.read.prompts, self.read.chat_template, question)
        before, between, after = around_part(*place, (number, count), limit)
        parts = user_message(Text(before), Text(note), Text(between), part, Text(after))
        return Call(purpose, parts, Generate(self.read.sampling(limit)), self._reader)

    def _last(self, question: str, note: str, style: Style) -> Call:
        before, after = around_last_note(self.read.prompts, self.read.chat_template, question, style)
        parts = user_message(Text(before), Text(note), Text(after))
        return Call("answer", parts, Generate(self.read.sampling()), self._reader)

    @property
    def _reader(self) -> str | None:
        return READER if self.read.adapters else None


def _tokens(memory: Memory, indices: Sequence[int]) -> int:
    """Return the number of tokens of some blocks."""
    return sum(memory.blocks[index].token_count for index in indices)
