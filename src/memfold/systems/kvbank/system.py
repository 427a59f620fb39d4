"""KV memory bank: chunks become keys and values, a gate decides which of them a reasoner reads for a question.

LycheeMemory (arXiv 2602.08382).  Folding turns each chunk into a block of keys and values, once and for any question
(`compressor`, or `selection` without training).  For a question, the gate scores the blocks in the order of the text,
in view of the note so far.  At each block that it opens, the reasoner rewrites the note; the answer is based on the
note.  Blocks are read one at a time, so a memory may be longer than any window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from memfold.backbone.sequence import SequenceBuilder
from memfold.core.document import Chunk, Document, chunks, text_chunks
from memfold.core.errors import ConfigError, DataError
from memfold.core.model import Model
from memfold.core.prompt import ABSENT, Style, after_memory, final_answer, user_message
from memfold.core.system import UPDATE, AnswerSteps, Prefix, Rendered, ask
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Generate,
    Memory,
    Reply,
    Sample,
    Step,
    TemplatePart,
    Text,
    Trace,
)
from memfold.core.window import shorten
from memfold.systems.kvbank.bank import Bank, is_sound, next_sound, with_damage
from memfold.systems.kvbank.gate import gate_scores, head_call
from memfold.systems.kvbank.learning import KvbankLearning
from memfold.systems.kvbank.prefixes import Prefixes
from memfold.systems.kvbank.prompts import around_last_note, block_message, update
from memfold.systems.kvbank.settings import BATCH_TOKENS, GIGABYTE, REASONER, WITHOUT_SLOTS
from memfold.systems.shared.blocks import Cut, chunk_batches, chunk_block, render_text, text_blocks
from memfold.systems.shared.candidates import candidates
from memfold.systems.shared.citations import cite_reply
from memfold.systems.shared.folding import without_gradients
from memfold.systems.shared.notes import EMPTY, answer_from, early_answer, misleading, noted_parts, write_note
from memfold.systems.shared.replies import ended_reply, scripted_step

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from memfold.backbone.model import Backbone
    from memfold.systems.kvbank.rotation import Rotation

BEST = 3  # blocks that are named if none is opened
Opened = Generator[tuple[Call, ...], tuple[Reply, ...], int | None]
_ROTATIONS: WeakKeyDictionary[PreTrainedModel, Rotation] = WeakKeyDictionary()


class Kvbank(KvbankLearning):
    """KV memory bank; see the module docstring."""

    name = "kvbank"

    # --- folding

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Yield blocks with slots [n, d], n = tokens / ratio, d = layers x 2 x heads x size, or with text alone."""
        if not self.stores_slots:
            yield from islice(text_blocks(documents, model, self.fold.chunk, self._cut), done, None)
            return
        backbone = model.weights()
        rotation, before = _rotation(backbone), self._before(backbone)
        for batch in chunk_batches(documents, backbone, self.fold.chunk, BATCH_TOKENS, self._cut):
            if done < len(batch):
                together = 0 if self.fold.compressor == "trained" else done  # chunks that need not be computed again
                slots = self._slots(backbone, [chunk.tokens for _, chunk in batch[together:]], before, rotation)
                made = zip(batch[together:], slots, strict=True)
                for (source, chunk), part in islice(made, done - together, None):
                    yield chunk_block(source, chunk, part)
            done = max(0, done - len(batch))

    @property
    def _cut(self) -> Cut:
        """The function that cuts documents into chunks."""
        return text_chunks if self.fold.borders == "sentence" else chunks

    def _slots(
        self, backbone: Backbone, chunks: Sequence[Sequence[int]], before: Sequence[int], rotation: Rotation
    ) -> list[Tensor]:
        from memfold.systems.kvbank.compressor import compress_chunks
        from memfold.systems.kvbank.selection import select

        if self.fold.compressor == "trained":
            return compress_chunks(backbone, chunks, before, self.fold, rotation)
        return [select(backbone, tokens, before, self.fold, rotation) for tokens in chunks]

    def slot_size(self, model: Model) -> int | None:
        """Return the number of values of a slot: keys and values of all layers and heads; None if none is stored."""
        from memfold.systems.kvbank.blocks import shape_of

        return shape_of(model.weights()).values if self.stores_slots else None

    def slot_parts(self, model: Model) -> int:
        """Return a part for the keys, and one for the values, of each head and layer."""
        from memfold.systems.kvbank.blocks import shape_of

        return shape_of(model.weights()).parts

    def check_memory(self, memory: Memory) -> None:
        """Check that each block has as many slots as its tokens require, or that the memory holds its text."""
        if not self.stores_slots and not memory.holds_text:
            raise DataError(f"memory {memory.name!r} has neither slots nor text; fold it again")
        for block in memory.blocks if self.stores_slots else ():
            if block.slot_count != self.fold.slots(block.token_count):
                raise DataError(
                    f"memory {memory.name!r} has {block.slot_count} slots for the {block.token_count} tokens of block "
                    f"{block.index}, ratio {self.fold.ratio} gives {self.fold.slots(block.token_count)}; fold it again"
                )

    # --- answering

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """Read the blocks that the gate opens, one call for each, and answer with one more call."""
        if self.read.reading == "block":
            return (yield from self._answer_from_block(memory, question))
        bank = Bank(range(len(memory.blocks)))
        answer = yield from self._read(memory, question, bank)
        return with_damage(answer, memory, bank.damaged)

    def _read(self, memory: Memory, question: str, bank: Bank) -> AnswerSteps:
        note, next_of = EMPTY, self._best if self.read.order == "best" else self._in_order
        while not 0 < self.read.most <= len(bank.opened):
            index = yield from next_of(memory, question, note, bank)
            if index is None:
                break
            update = partial(self._update, memory.name, index, question, note)
            last, note = note, (yield from write_note(update, self.read.note, self.read.overflow)) or note
            answering = partial(self._from_note, memory, question, note)
            early = yield from early_answer(self.read.stop, last, note, answering)
            if early is not None:
                return early
        if not bank.opened:
            return _nothing_opened(memory, question, bank.scores)
        return (yield from self._from_note(memory, question, note))

    def _waiting(self, memory: Memory, question: str, note: str, bank: Bank) -> deque[int]:
        """Return the closed blocks that the gate should see in view of a note, in order."""
        closed = bank.unseen(note)
        if not self.read.candidates:
            return deque(closed)
        best = candidates(memory, question, note, self.read.candidates)
        return deque(index for index in closed if index in best)

    def _from_note(self, memory: Memory, question: str, note: str) -> AnswerSteps:
        reply = yield from ask(self._last(question, note, self.read.style))
        answer = final_answer(reply.text, self.read.style)
        return Answer(answer, reply.text, cite_reply(memory, question, reply, answer))

    def _best(self, memory: Memory, question: str, note: str, bank: Bank) -> Opened:
        """Score all closed blocks that were not scored with this note, and open the best of all; None if no score is
        above the threshold."""
        waiting = self._waiting(memory, question, note, bank)
        while waiting:
            indices = self._seen_by_gate(memory, waiting, self.read.ahead, bank)
            values = yield from gate_scores(self.fold, self.read, memory, question, note, indices)
            for value in values:
                index = waiting.popleft()
                bank.scores[index], bank.notes[index] = value, note
        for index in bank.ranked(note, self.read.threshold):
            if self._can_read(memory, index, bank):
                bank.opened.add(index)
                return index
        return None

    def _in_order(self, memory: Memory, question: str, note: str, bank: Bank) -> Opened:
        """Open the next block in the order of the text, in this pass or the next; None after the last pass."""
        while True:
            index = yield from self._next_open(memory, question, note, bank)
            if index is not None or bank.passes == self.read.passes:
                return index
            bank.passes += 1
            bank.waiting = self._waiting(memory, question, note, bank)

    def _next_open(self, memory: Memory, question: str, note: str, bank: Bank) -> Opened:
        """Score the blocks that wait in order, and take them from there, until one is opened; None if there is none.

        The number of blocks that are scored together doubles while none is opened: the scores of the blocks after an
        opened one are no longer valid, because the note changes.
        """
        ahead, waiting = 1, bank.waiting
        while waiting:
            indices = self._seen_by_gate(memory, waiting, ahead, bank)
            values = yield from gate_scores(self.fold, self.read, memory, question, note, indices)
            for value in values:
                index = waiting.popleft()
                opens = bank.scored(index, note, value, self.read.threshold)
                if opens and self._can_read(memory, index, bank):
                    return index
            ahead = min(2 * ahead, self.read.ahead)
        return None

    def _answer_from_block(self, memory: Memory, question: str) -> AnswerSteps:
        """Answer with one call over the block with the highest score."""
        count = len(memory.blocks)
        bank = Bank(range(count))
        indices = self._seen_by_gate(memory, deque(range(count)), count, bank) if count > 1 else [0]
        if count > 1:
            values = yield from gate_scores(self.fold, self.read, memory, question, EMPTY, indices)
            order = sorted(range(len(values)), key=values.__getitem__, reverse=True)
            indices = [indices[number] for number in order]
        best = next(index for index in indices if self._can_read(memory, index, bank))
        reply = yield from ask(self._direct(memory.name, best, question, self.read.style))
        answer = final_answer(reply.text, self.read.style)
        found = Answer(answer, reply.text, cite_reply(memory, question, reply, answer))
        return with_damage(found, memory, bank.damaged)

    def _seen_by_gate(self, memory: Memory, waiting: deque[int], count: int, bank: Bank) -> list[int]:
        """Return the first `count` of the blocks that wait, without those that are damaged if the gate reads slots."""
        if self.read.gate in WITHOUT_SLOTS:
            return list(islice(waiting, count))
        return next_sound(memory, waiting, count, bank.damaged)

    def _can_read(self, memory: Memory, index: int, bank: Bank) -> bool:
        """Return whether a block can be read, and take it from those opened if not; text can be read in any case."""
        sound = self.read.reading == "text" or is_sound(memory, index, bank.damaged)
        bank.opened -= bank.damaged
        return sound

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """Render a call: its block as a prefix of keys and values, the rest as tokens after it.

        Raises:
            DataError: if block, prompt and reply exceed the context window of the model.
        """
        blocks = [part.index for part in call.parts if isinstance(part, BlockRef)]
        if not blocks or (call.purpose == UPDATE and self.read.reading == "text"):
            return render_text(memory, call, model, self.read.chat_template)
        backbone, builder = model.weights(), SequenceBuilder()
        block = memory.blocks[blocks[0]]
        before = self._before(backbone)
        prefix = self._prefix(memory, blocks[0], backbone, tuple(before))
        builder.next = start = len(before) + self.fold.length(block.token_count)
        for tokens in backbone.prompt(call.parts, self.read.chat_template):
            builder.text(tokens)
            builder.end_part()
        end = builder.next + call.sampling.max_tokens
        if end > model.window:
            advice = shorten(self.name, model, memory.token_count, model.window - (end - start))
            raise DataError(
                f"a block of {self.fold.slots(block.token_count)} slots, its prompt and a reply of "
                f"{call.sampling.max_tokens} tokens end at position {end}, the model's window is {model.window}; "
                f"{advice}"
            )
        return builder.rendered(prefix, call.adapter)

    def _prefix(self, memory: Memory, index: int, backbone: Backbone, before: tuple[int, ...]) -> Prefix:
        from memfold.systems.kvbank.blocks import opening, prefix_of

        kept = memory.cached("prefixes", lambda: Prefixes(2 * self.read.ahead))
        first = kept.get(before, lambda: opening(backbone, before)) if before else None
        rotation, rule = _rotation(backbone), self.fold.positions
        return kept.get(
            index,
            lambda: prefix_of(self._slots_of(memory, index, backbone, before), first, rotation, rule, backbone),
        )

    def _slots_of(self, memory: Memory, index: int, backbone: Backbone, before: Sequence[int]) -> Tensor:
        """Return the slots of a block, which are made if the memory keeps only its text.

        Where not every block is needed, one is made alone; otherwise with those that folding compresses with it.
        """
        from memfold.systems.kvbank.made import MadeBlocks, as_stored

        stored = memory.blocks[index].slots
        if stored is not None:
            return stored

        def compress(chunks: Sequence[Sequence[int]]) -> list[Tensor]:
            with without_gradients(backbone):
                slots = self._slots(backbone, chunks, before, _rotation(backbone))
            return [as_stored(each, memory.dtype, self.slot_parts(backbone)) for each in slots]

        together = BATCH_TOKENS if self.fold.compressor == "trained" else 0
        made = memory.cached("made blocks", lambda: MadeBlocks(memory, backbone.tokenize, together))
        alone = self.read.gate == "bm25" or self.read.candidates > 0
        return made.slots(index, compress, GIGABYTE * self.read.gigabytes, alone)

    def _before(self, backbone: Backbone) -> list[int]:
        """Return the tokens before every block, which begin the prompt; they are not compressed."""
        if not self.fold.opening:
            return []
        return backbone.prompt((TemplatePart("before"),), self.read.chat_template)[0]

    # --- calls and training

    def _direct(self, memory: str, index: int, question: str, style: Style | None, bridge: Sequence[int] = ()) -> Call:
        closing = after_memory(self.read.chat_template, question, style)
        parts = block_message(self.fold, memory, index, closing)
        parts = (*parts, Text(tokens=tuple(bridge))) if bridge else parts
        return Call("answer", parts, Generate(self.read.sampling()))

    def _update(self, memory: str, index: int, question: str, note: str, limit: int) -> Call:
        closing = update(self.read, question, note, limit)
        if self.read.reading == "text":
            parts = user_message(BlockRef(memory, index), Text(closing))
        else:
            parts = block_message(self.fold, memory, index, closing)
        return Call(UPDATE, parts, Generate(self.read.sampling(limit)), self._reasoner)

    def _last(self, question: str, note: str, style: Style) -> Call:
        before, after = around_last_note(self.read, question, style)
        parts = user_message(Text(before), Text(note), Text(after))
        return Call("answer", parts, Generate(self.read.sampling()), self._reasoner)

    @property
    def _reasoner(self) -> str | None:
        """The adapter that reads blocks and notes; a model without training has none."""
        return REASONER if self.fold.compressor == "trained" and self.fold.adapters else None

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """Return a trace of a sample: one call over its only block, or the gate, the notes and the answer.

        Notes are the supporting sentences read so far, and the gate should open the blocks that hold one.

        Raises:
            ConfigError: for a document of several blocks that is read without notes, or a sample without supporting
                sentences that is read with notes.
        """
        parts = list(self._cut(sample.document, model.tokenize, self.fold.chunk))
        name = sample.document.source
        if self.read.reading != "block":
            return Trace(sample.question, self.name, self.settings, self._noted(sample, parts, model, style))
        if len(parts) > 1:
            raise ConfigError(
                f"a document of {len(parts)} chunks of {self.fold.chunk} tokens cannot be trained with reading = "
                "'block'; use a larger chunk, or reading = 'note'"
            )
        reply = ended_reply(sample, model, style)
        call = self._direct(name, 0, sample.question, style if sample.answers else None, sample.bridge)
        return Trace(sample.question, self.name, self.settings, (Step(call, Reply(tokens=reply)),))

    def _noted(self, sample: Sample, parts: Sequence[Chunk], model: Model, style: Style) -> tuple[Step, ...]:
        """Return the gate calls of all readings of blocks, the updates of those that should be opened and of a few
        others, and the answer."""
        reader = f'system {self.name!r} with reading = "note"'
        readings = noted_parts(sample, parts, model, reader, self.read.passes, skip_noted=True)
        read_all_the_same = misleading(sample.question, readings, self.train.unchanged, model)
        name, steps = sample.document.source, list[Step]()
        for number, reading in enumerate(readings):
            index = reading.chunk.index
            if self.read.gate == "head":
                gate = head_call(self.fold, self.read, name, index, sample.question, reading.before, trained=True)
                steps.append(Step(gate, Reply(score=float(reading.adds))))
            if reading.adds or number in read_all_the_same:
                call = self._update(name, index, sample.question, reading.before, self.read.note)
                steps.append(scripted_step(call, reading.after, model))
        last = self._last(sample.question, readings[-1].after, style)
        steps.append(scripted_step(last, answer_from(readings[-1].after, sample, style), model))
        return tuple(steps)


def _rotation(backbone: Backbone) -> Rotation:
    """Return the rotation of a model, which is checked once."""
    from memfold.systems.kvbank.rotation import rotation_of

    if backbone.model not in _ROTATIONS:
        _ROTATIONS[backbone.model] = rotation_of(backbone)
    return _ROTATIONS[backbone.model]


def _nothing_opened(memory: Memory, question: str, scores: dict[int, float]) -> Answer:
    """Return the answer that the text does not say it, with the scores of the best blocks."""
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:BEST]
    listed = ", ".join(f"block {index}: {scores[index]:.2f}" for index in best)
    reply = f"The gate opened none of {len(scores)} blocks. The highest scores: {listed}."
    return Answer(ABSENT, reply, cite_reply(memory, question, Reply(), ""))
