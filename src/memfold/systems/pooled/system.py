"""Pooled memory: every `ratio` tokens become one embedding that the same LLM reads in place of the text.

Bridging the Memorization-Utilization Gap (papers' section 3.1).  One call per question; with `unfold` a second one over
the text that the first one cites, and a third where that reply goes beyond it.  How windows become slots is in
`encoder` and `head`, where slots stand in `positions`, how it is trained in `learning`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from random import Random
from typing import Any

from torch import Tensor, nn

from memfold.backbone.model import Backbone, add_special_tokens
from memfold.backbone.sequence import SequenceBuilder
from memfold.core.document import Chunk, Document, chunks
from memfold.core.errors import DataError
from memfold.core.model import Model
from memfold.core.prompt import Style, after_memory, before_memory, final_answer
from memfold.core.system import SLOT, AnswerSteps, Capabilities, Footprint, MemorySystem, Rendered, ask
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Generate,
    Memory,
    Part,
    Passage,
    Reply,
    Sample,
    Step,
    Text,
    Trace,
)
from memfold.systems.pooled import learning
from memfold.systems.pooled.encoder import BATCH_TOKENS, encode_windows, group_starts, windows_of
from memfold.systems.pooled.head import add_head, check_head, read_head
from memfold.systems.pooled.learning import END, START
from memfold.systems.pooled.positions import offsets
from memfold.systems.pooled.reading import slot_passage
from memfold.systems.pooled.settings import PAPER, PooledFold, PooledRead, PooledTrain
from memfold.systems.shared.citations import cite_passages, cite_reply, follow_reply
from memfold.systems.shared.replies import ANSWER_SAMPLING, written_reply
from memfold.systems.shared.unfolding import unfolded

UNFOLDINGS = ("locate", "answer")  # the purposes of the calls over text; the first may be the last


class Pooled(MemorySystem[PooledFold, PooledRead, PooledTrain]):
    """See the module docstring."""

    name = "pooled"
    groups = (PooledFold, PooledRead, PooledTrain)
    tokens = (START, END)

    # --- what it is

    @classmethod
    def published(cls) -> Pooled:
        """As the paper has it."""
        return cls(PAPER)

    @property
    def fixed(self) -> dict[str, Any]:
        """All but how a text was cut into chunks, which its blocks tell."""
        return {name: value for name, value in asdict(self.fold).items() if name != "chunk"}

    @property
    def capabilities(self) -> Capabilities:
        """Slots; unfolding, where the memory holds its text."""
        return Capabilities(
            slots=True,
            unfolds=True,
            rereads_text=self.read.unfold > 0,
            activation_checkpointing=True,
            pass_tokens=BATCH_TOKENS,
        )

    @property
    def ratio(self) -> int:
        """Tokens per slot."""
        return self.fold.ratio

    def at_ratio(self, ratio: int) -> Pooled:
        """At another ratio, with the same window."""
        return self.changed(ratio=ratio, ratios=(ratio,))

    def unfolding(self, tokens: int) -> Pooled:
        """Reading cited text again before the answer."""
        return self.changed(unfold=tokens)

    def effective_ratio(self, tokens: int) -> float:
        """Wrappers included."""
        return tokens / self.fold.decoder_positions(tokens)

    # --- folding and asking

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Blocks with slots [n, d]; chunks of several documents share forward passes, whatever is done."""
        backbone = model.weights()
        check_head(backbone, self.fold)
        encoder = backbone.compressor
        for batch in self._batches(documents, encoder):
            if done < len(batch):
                yield from islice(self._encode(batch, encoder), done, None)
            done = max(0, done - len(batch))

    def check_memory(self, memory: Memory) -> None:
        """As many slots in each block as its tokens make."""
        for block in memory.blocks:
            if block.slot_count != self.fold.slots(block.token_count):
                raise DataError(
                    f"memory {memory.name!r} has {block.slot_count} slots for the {block.token_count} tokens of block "
                    f"{block.index}, ratio {self.fold.ratio} makes {self.fold.slots(block.token_count)}; fold it again"
                )

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """One call over all blocks; with `unfold` others over the text that it cites, and where that text leads."""
        template, unfold = self.read.chat_template, self.read.unfold
        by_attention = self.read.cite == "attention" or not memory.holds_text
        blocks = tuple(BlockRef(memory.name, block.index) for block in memory.blocks)
        opening, closing = Text(before_memory(template)), Text(after_memory(template, question, self.read.style))
        wants = Generate(ANSWER_SAMPLING, attention=by_attention)
        reply = yield from ask(Call("locate" if unfold else "answer", (opening, *blocks, closing), wants))
        answer = self._answer(memory, question, reply, by_attention)
        cited = answer.citations
        for purpose in UNFOLDINGS if unfold else ():
            passages = unfolded(memory, cited, unfold)
            reply = yield from ask(Call(purpose, (opening, Text(passages), closing), Generate(ANSWER_SAMPLING)))
            answer = self._again(memory, question, reply, answer)
            cited = follow_reply(memory, question, reply, passages)
            if not cited:
                break
        return answer

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """Slots between texts; wrappers and positions as the settings say."""
        backbone, builder = model.weights(), SequenceBuilder()
        references = [part for part in call.parts if isinstance(part, BlockRef)]
        blocks = [memory.blocks[part.index] for part in references]
        distances = offsets(blocks, self.fold, self.read.draw, memory.name)
        base = 0
        for part in call.parts:
            if isinstance(part, Text):
                builder.text(backbone.encode(part.text) if part.tokens is None else part.tokens)
                if not builder.tokens:  # a sequence never begins with nothing
                    builder.text([backbone.end_token])
            else:
                if part is references[0]:
                    base = self._open(builder, backbone)
                base = self._block(builder, backbone, memory.blocks[part.index], base, next(distances))
                if part is references[-1] and self.fold.wrapper == "span":
                    builder.place(backbone.token_id(END), builder.next)
                if part is references[-1]:
                    builder.next += self.read.gap
            builder.end_part()
        return builder.rendered(adapter=call.adapter)

    def passage(self, memory: Memory, call: Call, slot: int, model: Model) -> Passage:
        """See `reading.slot_passage`."""
        return slot_passage(memory, call, slot, self.fold.ratio, model)

    # --- learning

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """Memory, instruction, bridge, target.  A sample with answers is a question; another's target is its reply."""
        template = self.read.chat_template
        count = sum(1 for _ in chunks(sample.document, model.tokenize, self.fold.chunk))
        blocks = (BlockRef(sample.document.source, index) for index in range(count))
        closing = after_memory(template, sample.question, style if sample.answers else None)
        parts: list[Part] = [Text(before_memory(template)), *blocks, Text(closing)]
        if sample.bridge:
            parts.append(Text(tokens=sample.bridge))
        reply = written_reply(sample, model, style)
        if sample.answers or sample.task != "cued":  # a cue is answered by a stretch, which has no end of its own
            reply = (*reply, model.end_token)
        step = Step(Call("answer", tuple(parts)), Reply(tokens=reply))
        return Trace(sample.question, self.name, self.settings, (step,))

    def prepare(self, backbone: Backbone) -> None:
        """The tokens around slots, and the head that the settings ask for."""
        for ratio in self.train.ratios:  # an impossible one is refused before anything is trained
            self.changed(ratio=ratio)
        if START not in backbone.tokenizer.get_vocab():
            add_special_tokens(backbone, self.tokens)
        add_head(backbone, self.fold)

    @classmethod
    def read_head(cls, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The projection, with the pooling before it."""
        return read_head(tensors)

    def record(self, previous: Mapping[str, Any]) -> dict[str, Any]:
        """See `learning.record`."""
        return learning.record(self.fold, self.train, previous)

    @classmethod
    def trained_settings(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """See `learning.trained_settings`."""
        return learning.trained_settings(record)

    def trained_at(self, record: Mapping[str, Any]) -> bool:
        """Whether its ratio is among those that were trained."""
        ratios = self.trained_ratios(record)
        return not ratios or self.fold.ratio in ratios

    @classmethod
    def trained_ratios(cls, record: Mapping[str, Any]) -> tuple[int, ...]:
        """All that a mixture drew from."""
        return tuple(record.get("ratios", ()))

    def draw(self, rng: Random, seed: int | None) -> Pooled:
        """With the ratio, the gap and the layout of one batch."""
        return self.changed(**learning.drawn(self.fold, self.train, rng, seed))

    def costliest(self) -> Pooled:
        """At the lowest of its ratios."""
        return self.changed(ratio=min(self.train.ratios))

    def footprint(self, tokens: float) -> Footprint:
        """See `learning.footprint`."""
        return learning.footprint(self.fold, tokens)

    def parameters(self, hidden_size: int) -> dict[str, int]:
        """See `learning.parameters`."""
        return learning.parameters(hidden_size)

    def encode_only(self, tokens: Sequence[int], backbone: Backbone) -> None:
        """See `learning.encode_only`."""
        learning.encode_only(self.fold, tokens, backbone)

    def layouts(self) -> dict[str, Pooled]:
        """The wrappers that a memory may have: the cheap one and the paper's."""
        return {"span": self.changed(wrapper="span"), "slot": self.changed(wrapper="slot")}

    # --- parts of the above

    def _answer(self, memory: Memory, question: str, reply: Reply, by_attention: bool) -> Answer:
        answer = final_answer(reply.text, self.read.style)
        if by_attention:
            return Answer(answer, reply.text, cite_passages(memory, reply.attention))
        return Answer(answer, reply.text, cite_reply(memory, question, reply, answer))

    def _again(self, memory: Memory, question: str, reply: Reply, before: Answer) -> Answer:
        """The answer of a reply that has read cited text; it cites at least what led there."""
        answer = self._answer(memory, question, reply, by_attention=False)
        return answer if answer.citations else Answer(answer.text, answer.reply, before.citations)

    def _open(self, builder: SequenceBuilder, backbone: Backbone) -> int:
        if self.fold.wrapper == "span":
            builder.place(backbone.token_id(START), builder.next)
        return builder.next

    def _block(
        self, builder: SequenceBuilder, backbone: Backbone, block: Block, base: int, distances: Sequence[int]
    ) -> int:
        """Lay down one block's slots, at these distances from `base`; returns the position of what follows."""
        assert block.slots is not None, "pooled blocks have slots"
        wrapped = self.fold.wrapper == "slot"
        for distance in distances:
            position = base + distance
            if wrapped:
                builder.place(backbone.token_id(START), position)
                position += 1
            builder.place(SLOT, position)
            if wrapped:
                builder.place(backbone.token_id(END), position + 1)
        builder.slots.append(block.slots)
        strided = self.fold.positions == "strided"
        builder.next = max(base + block.token_count, builder.next) if strided else builder.next
        return builder.next

    def _batches(self, documents: Sequence[Document], encoder: Backbone) -> Iterator[list[tuple[int, Chunk]]]:
        """Chunks with the numbers of their documents, as many as one forward pass takes."""
        batch: list[tuple[int, Chunk]] = []
        for source, document in enumerate(documents):
            for chunk in chunks(document, encoder.tokenize, self.fold.chunk):
                if batch and sum(len(c.tokens) for _, c in batch) + len(chunk.tokens) > BATCH_TOKENS:
                    yield batch
                    batch = []
                batch.append((source, chunk))
        if batch:
            yield batch

    def _encode(self, batch: Sequence[tuple[int, Chunk]], encoder: Backbone) -> Iterator[Block]:
        counts = [len(group_starts(len(chunk.tokens), self.fold.ratio)) for _, chunk in batch]
        windows = [window for _, chunk in batch for window in windows_of(chunk.tokens, self.fold)]
        slots = encode_windows(encoder, windows, self.fold).split(counts)
        for (source, chunk), part in zip(batch, slots, strict=True):
            yield Block(
                index=chunk.index,
                source=source,
                token_start=chunk.token_start,
                token_end=chunk.token_end,
                char_start=chunk.char_start,
                char_end=chunk.char_end,
                slots=part,
                text=chunk.text,
            )
