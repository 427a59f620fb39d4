"""Full context: the model reads the tokens of the document itself, as a baseline for every memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from memfold.core.config import require
from memfold.core.document import Document
from memfold.core.model import Model
from memfold.core.prompt import Style, after_memory, final_answer, user_message
from memfold.core.settings import ReadSettings, TrainSettings
from memfold.core.system import AnswerSteps, Capabilities, MemorySystem, Rendered, ask
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
from memfold.systems.shared.blocks import render_text, text_blocks
from memfold.systems.shared.citations import cite_reply
from memfold.systems.shared.replies import written_reply


@dataclass(frozen=True)
class FullFold:
    """`chunk` is the number of tokens in a block of text."""

    chunk: int = 4096

    def __post_init__(self) -> None:
        require(self.chunk > 0, "chunk", self.chunk, "1 token or more")


@dataclass(frozen=True)
class FullTrain(TrainSettings):
    """With `read_loss`, training includes the language modelling loss on the document, in the same forward pass."""

    read_loss: bool = True


class Full(MemorySystem[FullFold, ReadSettings, FullTrain]):
    """One call over the whole text, which must fit into the context window of the model."""

    name = "full"
    groups = (FullFold, ReadSettings, FullTrain)

    @property
    def capabilities(self) -> Capabilities:
        """Activation checkpointing: calls are sequences of tokens without a prefix."""
        return Capabilities(activation_checkpointing=True)

    def effective_ratio(self, tokens: int, slots: int | None = None) -> float:
        """Return 1: every token takes one position."""
        return 1.0

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Yield blocks of text; nothing is compressed."""
        return islice(text_blocks(documents, model, self.fold.chunk), done, None)

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """Answer with one call over all blocks."""
        template, style = self.read.chat_template, self.read.style
        blocks = tuple(BlockRef(memory.name, block.index) for block in memory.blocks)
        parts = user_message(*blocks, Text(after_memory(template, question, style)))
        reply = yield from ask(Call("answer", parts, Generate(self.read.sampling())))
        answer = final_answer(reply.text, style)
        return Answer(answer, reply.text, cite_reply(memory, question, reply, answer))

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """Return a trace with the document as token ids, the question and the expected reply.

        A sample without a question is plain language modelling.
        """
        opening = TemplatePart("before")
        if not sample.question:
            whole = sample.target if isinstance(sample.target, tuple) else tuple(model.encode(sample.target))
            return self._trace(sample, Step(Call("language", (opening,)), Reply(tokens=whole, finish="length")))
        document = sample.document
        tokens = document.tokens if document.tokens is not None else tuple(model.encode(document.read()))
        closing = Text(after_memory(self.read.chat_template, sample.question, style if sample.answers else None))
        bridge = (Text(tokens=sample.bridge),) if sample.bridge else ()
        plain = Call("language", (opening,), trained=self.train.read_loss)
        call = Call("answer", (*user_message(Text(tokens=tokens), closing), *bridge))
        return self._trace(
            sample,
            Step(plain, Reply(tokens=tokens, finish="length")),
            Step(call, Reply(tokens=(*written_reply(sample, model, style), model.end_token))),
        )

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """Render a call as tokens.

        Raises:
            DataError: if call and reply exceed the context window of the model.
        """
        return render_text(memory, call, model, self.read.chat_template)

    def _trace(self, sample: Sample, *steps: Step) -> Trace:
        return Trace(sample.question, self.name, self.settings, steps)
