"""The full context: the model reads the document's own tokens.  The baseline that every memory is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from memfold.backbone.model import Backbone
from memfold.core.config import require
from memfold.core.document import Document
from memfold.core.prompt import STYLES, ChatTemplate, Style, after_memory, before_memory, final_answer, target
from memfold.core.system import AnswerSteps, Inputs
from memfold.core.types import Answer, Block, BlockRef, Call, Limits, Memory, Reply, Sample, Step, Text, Trace
from memfold.systems.shared.blocks import text_blocks, text_inputs
from memfold.systems.shared.citations import Citing


class Full:
    """One call over everything; an error past the backbone's window.

    `read_loss` makes supervised traces score the document's own tokens too: plain language modelling for the same
    forward pass.
    """

    name = "full"

    def __init__(
        self, chat_template: ChatTemplate = "flat", style: Style = "recall", chunk: int = 4096, read_loss: bool = True
    ) -> None:
        require(style in STYLES, "style", style, ", ".join(STYLES))
        self.chat_template, self.style, self.chunk, self.read_loss = chat_template, style, chunk, read_loss
        self._citing = Citing()

    @property
    def settings(self) -> dict[str, Any]:
        """What a trace must record."""
        return {"style": self.style, "chunk": self.chunk, "chat_template": self.chat_template}

    def effective_ratio(self, tokens: int) -> float:
        """Every token takes its place."""
        return 1.0

    def compress(self, documents: Sequence[Document], backbone: Backbone, done: int = 0) -> Iterator[Block]:
        """Blocks that hold text; nothing is compressed."""
        return islice(text_blocks(documents, backbone, self.chunk), done, None)

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """One call over all blocks."""
        blocks: Iterator[Text | BlockRef] = (BlockRef(memory.name, block.index) for block in memory.blocks)
        chat_template = after_memory(self.chat_template, question, self.style)
        parts = (Text(before_memory(self.chat_template)), *blocks, Text(chat_template))
        reply = yield Call("answer", parts, Limits(max_tokens=160))
        assert isinstance(reply, Reply)
        answer = final_answer(reply.text, self.style)
        return Answer(answer, reply.text, self._citing.cite(memory, question, reply, answer))

    def script(self, sample: Sample, backbone: Backbone, style: Style) -> Trace:
        """The document as token ids, the question, the reply; a sample without question is plain language modelling."""
        opening = Text(tokens=(backbone.end_token, *backbone.encode(before_memory(self.chat_template))))
        if not sample.question:
            whole = sample.target if isinstance(sample.target, tuple) else tuple(backbone.encode(sample.target))
            return self._trace(sample, [Step(Call("language", (opening,)), Reply(tokens=whole, finish="length"))])
        document = sample.document
        tokens = document.tokens if document.tokens is not None else tuple(backbone.encode(document.read()))
        asked = style if sample.answers else None
        chat_template = Text(after_memory(self.chat_template, sample.question, asked))
        given = target(sample.expected, sample.recalled, style) if sample.answers else sample.target
        reply = tuple(backbone.encode(given)) if isinstance(given, str) else given
        bridge = (Text(tokens=sample.bridge),) if sample.bridge else ()
        steps = [
            Step(Call("language", (opening,), trained=self.read_loss), Reply(tokens=tokens, finish="length")),
            Step(
                Call("answer", (opening, Text(tokens=tokens), chat_template, *bridge)),
                Reply(tokens=(*reply, backbone.end_token)),
            ),
        ]
        return self._trace(sample, steps)

    def render(self, memory: Memory, call: Call, backbone: Backbone) -> Inputs:
        """Tokens only.

        Raises:
            DataError: when the call is longer than the backbone's window.
        """
        return text_inputs(memory, call, backbone)

    def _trace(self, sample: Sample, steps: list[Step]) -> Trace:
        return Trace(sample.question, self.name, self.settings, tuple(steps))
