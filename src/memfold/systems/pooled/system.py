"""Pooled memory: every `ratio` tokens become one embedding that the same LLM reads in place of the text.

Bridging the Memorization-Utilization Gap (papers' section 3.1).  One call per question; with `unfold` a second one over
the text that the first one cites, and a third where that reply goes beyond it.  How windows become slots is in
`encoder` and `head`, where slots stand in `positions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from memfold.backbone.model import END, START, Backbone
from memfold.backbone.sequence import SequenceBuilder
from memfold.core.config import build, require
from memfold.core.document import Chunk, Document, chunks
from memfold.core.prompt import STYLES, ChatTemplate, Style, after_memory, before_memory, final_answer, target
from memfold.core.system import SLOT, AnswerSteps, Inputs
from memfold.core.types import Answer, Block, BlockRef, Call, Limits, Memory, Part, Reply, Sample, Step, Text, Trace
from memfold.systems.pooled.encoder import BATCH_TOKENS, encode_windows, group_starts, windows_of
from memfold.systems.pooled.head import check_head
from memfold.systems.pooled.positions import offsets
from memfold.systems.pooled.settings import CITES, Cite, PooledSettings
from memfold.systems.shared.citations import Citing, cite_reads
from memfold.systems.shared.unfolding import unfolded

UNFOLDINGS = ("locate", "answer")  # the purposes of the calls over text; the first may be the last


class Pooled:
    """See the module docstring."""

    name = "pooled"

    def __init__(self, chat_template: ChatTemplate = "flat", style: Style = "recall", cite: Cite = "recall", unfold: int = 0,
                 **settings: Any) -> None:  # fmt: skip
        self.options = build(PooledSettings, settings)
        require(style in STYLES, "style", style, ", ".join(STYLES))
        require(cite in CITES, "cite", cite, ", ".join(CITES))
        require(unfold >= 0, "unfold", unfold, "0 (off) or more tokens")
        self.chat_template, self.style, self.cite, self.unfold = chat_template, style, cite, unfold
        self._citing = Citing()

    @property
    def settings(self) -> dict[str, Any]:
        """What a trace or memory file must record."""
        how = {"chat_template": self.chat_template, "style": self.style, "cite": self.cite, "unfold": self.unfold}
        return asdict(self.options) | how

    def effective_ratio(self, tokens: int) -> float:
        """Wrappers included."""
        return self.options.effective_ratio(tokens)

    def compress(self, documents: Sequence[Document], backbone: Backbone, done: int = 0) -> Iterator[Block]:
        """Blocks with slots [n, d]; chunks of several documents share forward passes, whatever is done."""
        check_head(backbone, self.options)
        backbone = backbone.compressor
        for batch in self._batches(documents, backbone):
            if done < len(batch):
                yield from islice(self._encode(batch, backbone), done, None)
            done = max(0, done - len(batch))

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """One call over all blocks; with `unfold` others over the text that it cites, and where that text leads."""
        by_attention = self.cite == "attention" or not self._citing.possible(memory)
        limits = Limits(max_tokens=160, reads=by_attention)
        blocks = (BlockRef(memory.name, block.index) for block in memory.blocks)
        opening, closing = (
            Text(before_memory(self.chat_template)),
            Text(after_memory(self.chat_template, question, self.style)),
        )
        reply = yield Call("locate" if self.unfold else "answer", (opening, *blocks, closing), limits)
        assert isinstance(reply, Reply)
        found = self._answer(memory, question, reply, by_attention)
        limits, cited = replace(limits, reads=False), found.citations
        for purpose in UNFOLDINGS if self.unfold else ():
            passages = unfolded(memory, cited, self.unfold)
            reply = yield Call(purpose, (opening, Text(passages), closing), limits)
            assert isinstance(reply, Reply)
            again = self._answer(memory, question, reply, by_attention=False)
            found = again if again.citations else replace(again, citations=found.citations)
            cited = self._citing.follow(memory, question, reply, passages)
            if not cited:
                break
        return found

    def script(self, sample: Sample, backbone: Backbone, style: Style) -> Trace:
        """Memory, instruction, bridge, target.  A sample with answers is a question; another's target is its reply."""
        count = sum(1 for _ in chunks(sample.document, backbone.tokenize, self.options.chunk))
        asked = style if sample.answers else None
        chat_template = after_memory(self.chat_template, sample.question, asked)
        blocks = (BlockRef(sample.document.source, index) for index in range(count))
        parts: list[Part] = [Text(before_memory(self.chat_template)), *blocks, Text(chat_template)]
        if sample.bridge:
            parts.append(Text(tokens=sample.bridge))
        if sample.answers:
            reply = (*backbone.encode(target(sample.expected, sample.recalled, style)), backbone.end_token)
        else:
            given = sample.target
            reply = tuple(backbone.encode(given)) if isinstance(given, str) else given
            reply = (*reply, backbone.end_token) if sample.task != "cued" else reply
        step = Step(Call("answer", tuple(parts)), Reply(tokens=reply))
        return Trace(sample.question, self.name, self.settings, (step,))

    def render(self, memory: Memory, call: Call, backbone: Backbone) -> Inputs:
        """Slots between texts; wrappers and positions as the settings say."""
        builder = SequenceBuilder()
        references = [part for part in call.parts if isinstance(part, BlockRef)]
        places = offsets([memory.blocks[part.index] for part in references], self.options, memory.name)
        base = 0
        for part in call.parts:
            if isinstance(part, Text):
                builder.text(backbone.encode(part.text) if part.tokens is None else part.tokens)
                if not builder.tokens:  # a sequence never begins with nothing
                    builder.text([backbone.end_token])
            else:
                if part is references[0]:
                    base = self._open(builder, backbone)
                base = self._block(builder, backbone, memory.blocks[part.index], base, next(places))
                if part is references[-1] and self.options.wrapper == "span":
                    builder.place(backbone.token_id(END), builder.next)
                if part is references[-1]:
                    builder.next += self.options.gap
            builder.end_part()
        return builder.inputs()

    def _answer(self, memory: Memory, question: str, reply: Reply, by_attention: bool) -> Answer:
        answer = final_answer(reply.text, self.style)
        if by_attention:
            return Answer(answer, reply.text, cite_reads(memory, reply.reads))
        return Answer(answer, reply.text, self._citing.cite(memory, question, reply, answer))

    def _open(self, builder: SequenceBuilder, backbone: Backbone) -> int:
        if self.options.wrapper == "span":
            builder.place(backbone.token_id(START), builder.next)
        return builder.next

    def _block(self, builder: SequenceBuilder, backbone: Backbone, block: Block, base: int, places: Sequence[int]
               ) -> int:  # fmt: skip
        """Lay down one block's slots, at these distances from `base`; returns the position of what follows."""
        assert block.slots is not None, "pooled blocks have slots"
        wrapped = self.options.wrapper == "slot"
        for place in places:
            position = base + place
            if wrapped:
                builder.place(backbone.token_id(START), position)
                position += 1
            builder.place(SLOT, position)
            if wrapped:
                builder.place(backbone.token_id(END), position + 1)
        builder.slots.append(block.slots)
        strided = self.options.positions == "strided"
        following = max(base + block.token_count, builder.next) if strided else builder.next
        builder.next = following
        return following

    def _batches(self, documents: Sequence[Document], backbone: Backbone) -> Iterator[list[tuple[int, Chunk]]]:
        """Chunks with the numbers of their documents, as many as one forward pass takes."""
        batch: list[tuple[int, Chunk]] = []
        for source, document in enumerate(documents):
            for chunk in chunks(document, backbone.tokenize, self.options.chunk):
                if batch and sum(len(c.tokens) for _, c in batch) + len(chunk.tokens) > BATCH_TOKENS:
                    yield batch
                    batch = []
                batch.append((source, chunk))
        if batch:
            yield batch

    def _encode(self, batch: Sequence[tuple[int, Chunk]], backbone: Backbone) -> Iterator[Block]:
        starts = [group_starts(len(chunk.tokens), self.options.ratio) for _, chunk in batch]
        windows = [window for _, chunk in batch for window in windows_of(chunk.tokens, self.options)]
        slots = encode_windows(backbone, windows, self.options).split([len(own) for own in starts])
        for (source, chunk), own, part in zip(batch, starts, slots, strict=True):
            yield Block(
                index=chunk.index, source=source, token_start=chunk.token_start, token_end=chunk.token_end,
                char_start=chunk.char_start, char_end=chunk.char_end, slots=part,
                starts=tuple(chunk.token_start + start for start in own), text=chunk.text,
            )  # fmt: skip
