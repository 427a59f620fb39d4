"""Retrieval: BM25 selects small chunks of the text, which are read in one call.  A baseline, like full context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from memfold.core.borders import sentences
from memfold.core.config import require
from memfold.core.document import Document, text_chunks
from memfold.core.model import Model, ModelRecord
from memfold.core.prompt import Style, after_memory, final_answer, user_message
from memfold.core.settings import ReadSettings, TrainSettings
from memfold.core.system import AnswerSteps, Capabilities, MemorySystem, Rendered, ask
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Citation,
    Generate,
    Memory,
    Reply,
    Sample,
    Step,
    Text,
    Trace,
)
from memfold.systems.shared.blocks import render_text, text_blocks
from memfold.systems.shared.citations import LONGEST
from memfold.systems.shared.passages import PassageIndex
from memfold.systems.shared.replies import written_reply

LONG = 256  # tokens of a passage: a paragraph or two, for models that were trained on ordinary texts
SHARE = 16  # parts of a window, one of which a passage may take


@dataclass(frozen=True)
class RetrievalFold:
    """`chunk` is the maximum number of tokens in a passage, which ends between sentences or words.

    The default suits the short sentences of generated texts, which the models that are trained here read.
    """

    chunk: int = 64

    def __post_init__(self) -> None:
        require(self.chunk > 0, "chunk", self.chunk, "1 token or more")


@dataclass(frozen=True)
class RetrievalRead(ReadSettings):
    """`top` is the number of passages that are read."""

    top: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.top > 0, "top", self.top, "1 chunk or more")


class Retrieval(MemorySystem[RetrievalFold, RetrievalRead, TrainSettings]):
    """One call over the `top` chunks that match the question best, in document order."""

    name = "retrieval"
    groups = (RetrievalFold, RetrievalRead, TrainSettings)

    @classmethod
    def fitting(cls, model: ModelRecord) -> dict[str, Any]:
        """Return longer passages for a model that memfold did not train, as far as they fit into its window."""
        return {} if model.trained_here else {"chunk": max(1, min(LONG, model.window // SHARE))}

    @property
    def capabilities(self) -> Capabilities:
        """The length of a call does not depend on that of the documents: it reads `top` passages."""
        return Capabilities(call_positions=self.read.top * self.fold.chunk)

    def effective_ratio(self, tokens: int, slots: int | None = None) -> None:
        """Return None: only the best chunks are read."""

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Yield small blocks of text; they are indexed when the first question is asked."""
        return islice(text_blocks(documents, model, self.fold.chunk), done, None)

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """Answer with one call over the best blocks; those that match the question are the citations, best first."""
        template, style = self.read.chat_template, self.read.style
        index = memory.cached("passages", lambda: PassageIndex([block.read() or "" for block in memory.blocks]))
        best = index.best(question, self.read.top)
        blocks = tuple(BlockRef(memory.name, number) for number in sorted(number for number, _ in best))
        parts = user_message(*blocks, Text(after_memory(template, question, style)))
        reply = yield from ask(Call("answer", parts, Generate(self.read.sampling())))
        answer = final_answer(reply.text, style)
        citations = tuple(_cite(memory, number, score, f"{question} {answer}") for number, score in best if score > 0)
        return Answer(answer, reply.text, citations)

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """Return a trace with all blocks in order, the question and the expected reply."""
        template = self.read.chat_template
        count = sum(1 for _ in text_chunks(sample.document, model.tokenize, self.fold.chunk))
        blocks = (BlockRef(sample.document.source, index) for index in range(count))
        closing = Text(after_memory(template, sample.question, style if sample.answers else None))
        call = Call("answer", user_message(*blocks, closing))
        step = Step(call, Reply(tokens=(*written_reply(sample, model, style), model.end_token)))
        return Trace(sample.question, self.name, self.settings, (step,))

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """Render a call as tokens."""
        return render_text(memory, call, model, self.read.chat_template)


def _cite(memory: Memory, index: int, score: float, query: str) -> Citation:
    """Cite a passage; of one that is longer than a citation, the sentence that matches a query best."""
    block = memory.blocks[index]
    text, start, end = block.read() or "", 0, block.char_end - block.char_start
    if len(text) > LONGEST:
        places = list(sentences(text, LONGEST))
        ((best, _),) = PassageIndex([text[first:last] for first, last in places]).best(query, 1)
        start, end = places[best]
    source = memory.sources[block.source]
    return Citation(source, block.char_start + start, block.char_start + end, text[start:end], score)
