"""Retrieval: BM25 over small chunks, the best of them read as text in one call.  A baseline beside the full context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from memfold.backbone.model import Backbone
from memfold.core.config import require
from memfold.core.document import Document, chunks
from memfold.core.prompt import STYLES, ChatTemplate, Style, after_memory, before_memory, final_answer, target
from memfold.core.system import AnswerSteps, Inputs
from memfold.core.types import Answer, Block, BlockRef, Call, Citation, Limits, Memory, Reply, Sample, Step, Text, Trace
from memfold.systems.shared.blocks import text_blocks, text_inputs
from memfold.systems.shared.passages import PassageIndex


class Retrieval:
    """One call over the `top` chunks of `chunk` tokens that share most with the question, in the document's order."""

    name = "retrieval"

    def __init__(
        self, chat_template: ChatTemplate = "flat", style: Style = "recall", chunk: int = 64, top: int = 4
    ) -> None:
        require(style in STYLES, "style", style, ", ".join(STYLES))
        require(chunk > 0, "chunk", chunk, "1 token or more")
        require(top > 0, "top", top, "1 chunk or more")
        self.chat_template, self.style, self.chunk, self.top = chat_template, style, chunk, top
        self._indexed: tuple[Memory, PassageIndex] | None = None  # of the memory asked last

    @property
    def settings(self) -> dict[str, Any]:
        """What a trace must record."""
        return {"style": self.style, "chunk": self.chunk, "top": self.top, "chat_template": self.chat_template}

    def effective_ratio(self, tokens: int) -> None:
        """None: only the best chunks are read."""

    def compress(self, documents: Sequence[Document], backbone: Backbone, done: int = 0) -> Iterator[Block]:
        """Small blocks of text; the index over them is made when the first question is asked."""
        return islice(text_blocks(documents, backbone, self.chunk), done, None)

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """One call over the best blocks; they are the citations, best first."""
        best = self._index(memory).best(question, self.top)
        blocks = (BlockRef(memory.name, index) for index in sorted(index for index, _ in best))
        chat_template = after_memory(self.chat_template, question, self.style)
        reply = yield Call(
            "answer", (Text(before_memory(self.chat_template)), *blocks, Text(chat_template)), Limits(max_tokens=160)
        )
        assert isinstance(reply, Reply)
        citations = tuple(_cite(memory, index, score) for index, score in best)
        return Answer(final_answer(reply.text, self.style), reply.text, citations)

    def script(self, sample: Sample, backbone: Backbone, style: Style) -> Trace:
        """The question over all blocks in order, with the reply it should have had."""
        count = sum(1 for _ in chunks(sample.document, backbone.tokenize, self.chunk))
        blocks = (BlockRef(sample.document.source, index) for index in range(count))
        chat_template = after_memory(self.chat_template, sample.question, style if sample.answers else None)
        given = target(sample.expected, sample.recalled, style) if sample.answers else sample.target
        reply = tuple(backbone.encode(given)) if isinstance(given, str) else given
        call = Call("answer", (Text(before_memory(self.chat_template)), *blocks, Text(chat_template)))
        step = Step(call, Reply(tokens=(*reply, backbone.end_token)))
        return Trace(sample.question, self.name, self.settings, (step,))

    def render(self, memory: Memory, call: Call, backbone: Backbone) -> Inputs:
        """Tokens only."""
        return text_inputs(memory, call, backbone)

    def _index(self, memory: Memory) -> PassageIndex:
        if self._indexed is None or self._indexed[0] is not memory:
            self._indexed = memory, PassageIndex([block.read() or "" for block in memory.blocks])
        return self._indexed[1]


def _cite(memory: Memory, index: int, score: float) -> Citation:
    block = memory.blocks[index]
    return Citation(memory.sources[block.source], block.char_start, block.char_end, block.read() or "", score)
