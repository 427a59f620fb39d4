"""Pooled memory: every `ratio` tokens become one embedding, which the same LLM reads in place of the text.

Bridging the Memorization-Utilization Gap (section 3.1).  There is one call per question, over all blocks or over the
`candidates` of a search; with `unfold`, a second call reads the text that the first reply cites, and a third is made if
the second reply goes beyond that text.  See `encoder` and `head` for how slots are made, `positions` for where they are
placed, and `learning` for training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from memfold.backbone.sequence import SequenceBuilder
from memfold.core.config import require
from memfold.core.document import Document, chunks
from memfold.core.errors import DataError
from memfold.core.model import Model
from memfold.core.prompt import Style, after_memory, final_answer, user_message
from memfold.core.system import SLOT, AnswerSteps, Rendered, ask
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Generate,
    Memory,
    Passage,
    Reply,
    Sample,
    Step,
    Text,
    Trace,
)
from memfold.systems.pooled.learning import PooledLearning
from memfold.systems.pooled.positions import offsets
from memfold.systems.pooled.reading import check_length, slot_passage
from memfold.systems.pooled.settings import BATCH_TOKENS
from memfold.systems.shared.blocks import chunk_batches
from memfold.systems.shared.candidates import best_blocks
from memfold.systems.shared.citations import cite_passages, cite_reply, follow_reply, is_doubtful
from memfold.systems.shared.replies import ended_reply
from memfold.systems.shared.unfolding import unfolded

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

UNFOLDINGS = ("locate", "answer")  # purposes of the calls that read text; the second is made if necessary


class Pooled(PooledLearning):
    """Pooled memory; see the module docstring."""

    name = "pooled"

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Yield blocks with slots [n, d]; chunks of several documents share forward passes, whatever `done` is."""
        from memfold.systems.pooled.encoder import encode_chunks
        from memfold.systems.pooled.head import check_head

        backbone = model.weights()
        check_head(backbone, self.fold)
        encoder = backbone.compressor
        for batch in chunk_batches(documents, encoder, self.fold.chunk, BATCH_TOKENS):
            if done < len(batch):
                yield from islice(encode_chunks(batch, encoder, self.fold), done, None)
            done = max(0, done - len(batch))

    def slot_size(self, model: Model) -> int:
        """Return the size of an embedding: the model reads slots in place of them."""
        return model.hidden_size

    def check_memory(self, memory: Memory) -> None:
        """Check that each block has as many slots as its tokens require: at the ratio, or in groups at sentences."""
        for block in memory.blocks:
            if self.fold.groups == "sentence":
                lengths = block.slot_tokens or ()
                if (len(lengths), sum(lengths)) != (block.slot_count, block.token_count) or 0 in lengths:
                    raise DataError(
                        f"memory {memory.name!r} has {len(lengths)} groups of {sum(lengths)} tokens for the "
                        f"{block.slot_count} slots and {block.token_count} tokens of block {block.index}; fold it again"
                    )
            elif block.slot_count != self.fold.slots(block.token_count):
                raise DataError(
                    f"memory {memory.name!r} has {block.slot_count} slots for the {block.token_count} tokens of block "
                    f"{block.index}, ratio {self.fold.ratio} gives {self.fold.slots(block.token_count)}; fold it again"
                )

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """Answer with one call over all blocks or the `candidates`; with `unfold` or `doubt`, further calls read the
        text that is cited, which may be that of any block.

        Raises:
            DataError: if the memory holds no text to find candidates in, or to unfold.
        """
        unfold, sampling = self.read.unfold, self.read.sampling()
        by_attention = self.read.cite == "attention" or not memory.holds_text
        count = self.read.candidates
        read = best_blocks(memory, question, count) if count else memory.blocks
        blocks = tuple(BlockRef(memory.name, block.index) for block in read)
        closing = Text(after_memory(self.read.chat_template, question, self.read.style))
        wants = Generate(sampling, attention=by_attention)
        purpose, parts = "locate" if unfold else "answer", user_message(*blocks, closing)
        reply = yield from ask(Call(purpose, parts, wants, self.fold.adapter))
        answer = self._answer(memory, question, reply, by_attention)
        cited = answer.citations
        if self.read.doubt and cited and not unfold and is_doubtful(memory, reply.text, answer.text):
            unfold = self.read.doubt
        for purpose in UNFOLDINGS if unfold else ():
            passages = unfolded(memory, cited, unfold)
            reply = yield from ask(Call(purpose, user_message(Text(passages), closing), Generate(sampling)))
            answer = self._answer_from_text(memory, question, reply, answer)
            cited = follow_reply(memory, question, reply, passages)
            if not cited:
                break
        return answer

    def may_answer(self, call: Call) -> bool:
        """Return whether the call is the only one, or reads text that an earlier reply cites."""
        return call.purpose == "answer" or not any(isinstance(part, BlockRef) for part in call.parts)

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """Render a call as text tokens and slots, with wrapper tokens and positions according to the settings.

        Raises:
            DataError: if the slots and the prompt have more positions than the model computes right.
        """
        backbone, builder = model.weights(), SequenceBuilder()
        references = [part for part in call.parts if isinstance(part, BlockRef)]
        blocks = [memory.blocks[part.index] for part in references]
        distances = offsets(blocks, self.fold, self.read.draw, memory.name)
        base = 0
        for part, tokens in zip(call.parts, backbone.prompt(call.parts, self.read.chat_template), strict=True):
            builder.text(tokens)
            if isinstance(part, BlockRef):
                if part is references[0]:
                    base = self._open_memory(builder, backbone)
                base = self._append_block(builder, backbone, memory.blocks[part.index], base, next(distances))
                if part is references[-1] and self.fold.wrapper == "span":
                    builder.place(backbone.token_id(self.fold.end_token), builder.next)
                if part is references[-1]:
                    builder.next += self.read.gap
            builder.end_part()
        check_length(builder.next, len(references), backbone)
        return builder.rendered(adapter=call.adapter)

    def passage(self, memory: Memory, call: Call, slot: int, model: Model) -> Passage:
        """Return the passage behind a slot; see `reading.slot_passage`."""
        return slot_passage(memory, call, slot, self.fold.ratio, model)

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """Return a trace with memory, instruction, bridge and reply: the first of the answers, or else the target.

        Raises:
            ConfigError: for `candidates`: a sample is trained with its whole memory.
        """
        require(not self.read.candidates, "candidates", self.read.candidates, "0 where the right reply is given")
        count = sum(1 for _ in chunks(sample.document, model.tokenize, self.fold.chunk))
        blocks = (BlockRef(sample.document.source, index) for index in range(count))
        closing = after_memory(self.read.chat_template, sample.question, style if sample.answers else None)
        parts = user_message(*blocks, Text(closing))
        if sample.bridge:
            parts = (*parts, Text(tokens=sample.bridge))
        step = Step(Call("answer", parts, adapter=self.fold.adapter), Reply(tokens=ended_reply(sample, model, style)))
        return Trace(sample.question, self.name, self.settings, (step,))

    def _answer(self, memory: Memory, question: str, reply: Reply, by_attention: bool) -> Answer:
        answer = final_answer(reply.text, self.read.style)
        if by_attention:
            return Answer(answer, reply.text, cite_passages(memory, reply.attention))
        return Answer(answer, reply.text, cite_reply(memory, question, reply, answer))

    def _answer_from_text(self, memory: Memory, question: str, reply: Reply, previous: Answer) -> Answer:
        """Return the answer of a call that read cited text; if it cites nothing, it keeps the previous citations."""
        answer = self._answer(memory, question, reply, by_attention=False)
        return answer if answer.citations else Answer(answer.text, answer.reply, previous.citations)

    def _open_memory(self, builder: SequenceBuilder, backbone: Backbone) -> int:
        if self.fold.wrapper == "span":
            builder.place(backbone.token_id(self.fold.start_token), builder.next)
        return builder.next

    def _append_block(
        self, builder: SequenceBuilder, backbone: Backbone, block: Block, base: int, distances: Sequence[int]
    ) -> int:
        """Append the slots of a block, at these distances from `base`; return the position of what follows."""
        assert block.slots is not None, "blocks of a pooled memory must have slots"
        wrapped = self.fold.wrapper == "slot"
        for distance in distances:
            position = base + distance
            if wrapped:
                builder.place(backbone.token_id(self.fold.start_token), position)
                position += 1
            builder.place(SLOT, position)
            if wrapped:
                builder.place(backbone.token_id(self.fold.end_token), position + 1)
        builder.slots.append(block.slots)
        strided = self.fold.positions == "strided"
        builder.next = max(base + block.token_count, builder.next) if strided else builder.next
        return builder.next
