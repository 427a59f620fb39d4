"""The reading loop: a note is rewritten chunk by chunk with the question in view, and the answer comes from the note.

MemAgent (arXiv 2507.02259, section 3.1), which reads 5,000 tokens at a time with a note of at most 1,024.  Folding
keeps the text: what is forgotten depends on the question.  One call for each chunk, one after the other, then one for
the answer.  Unlike there, a blank reply leaves the note as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from memfold.backbone.model import Backbone
from memfold.core.config import require
from memfold.core.document import Document, chunks
from memfold.core.errors import ConfigError
from memfold.core.prompt import STYLES, ChatTemplate, Style, after_memory, before_memory, final_answer, target
from memfold.core.system import AnswerSteps, Inputs
from memfold.core.types import Answer, Block, BlockRef, Call, Limits, Memory, Part, Reply, Sample, Step, Text, Trace
from memfold.systems.recurrent.prompts import BEFORE_LAST_NOTE, EMPTY, before_note, between, request
from memfold.systems.shared.blocks import text_blocks, text_inputs
from memfold.systems.shared.citations import Citing

NOTE = 2  # which part of every call is the note


class Recurrent:
    """See the module docstring.  `chunk` is how much is read at a time, `note` how long the note may be, in tokens."""

    name = "recurrent"

    def __init__(
        self, chat_template: ChatTemplate = "flat", style: Style = "recall", chunk: int = 4096, note: int = 1024
    ) -> None:
        require(style in STYLES, "style", style, ", ".join(STYLES))
        require(chunk > 0, "chunk", chunk, "1 token or more")
        require(note > 0, "note", note, "1 token or more")
        self.chat_template, self.style, self.chunk, self.note = chat_template, style, chunk, note
        self._citing = Citing()

    @property
    def settings(self) -> dict[str, Any]:
        """What a trace must record."""
        return {"style": self.style, "chunk": self.chunk, "note": self.note, "chat_template": self.chat_template}

    def effective_ratio(self, tokens: int) -> None:
        """None: a chunk and the note are read at a time, and how long the note gets depends on the question."""

    def compress(self, documents: Sequence[Document], backbone: Backbone, done: int = 0) -> Iterator[Block]:
        """Blocks of text; they are read when a question is asked."""
        return islice(text_blocks(documents, backbone, self.chunk), done, None)

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """One call for each block, each with the note that the one before it left, and one for the answer."""
        note = EMPTY
        for number, block in enumerate(memory.blocks, 1):
            part = BlockRef(memory.name, block.index)
            reply = yield self._update(question, note, part, number, len(memory.blocks))
            assert isinstance(reply, Reply)
            note = reply.text.strip() or note
        reply = yield self._last(question, note, self.style)
        assert isinstance(reply, Reply)
        answer = final_answer(reply.text, self.style)
        return Answer(answer, reply.text, self._citing.cite(memory, question, reply, answer))

    def script(self, sample: Sample, backbone: Backbone, style: Style) -> Trace:
        """Notes of the supporting sentences read so far, then the answer; chunks are token ids.

        Raises:
            ConfigError: for a sample that is no question with supporting sentences.
        """
        if not sample.answers or not sample.support or len(sample.support) != len(sample.evidence):
            raise ConfigError(
                f"task {sample.task!r} cannot train system 'recurrent': its notes are made of the sentences behind an "
                "answer; give a task whose questions have them, like almanac"
            )
        parts = list(chunks(sample.document, backbone.tokenize, self.chunk))
        note, end, steps = EMPTY, 0, []
        for number, chunk in enumerate(parts, 1):
            call = self._update(sample.question, note, Text(tokens=chunk.tokens), number, len(parts))
            # a document that is given in tokens has no offsets
            end = chunk.char_end or end + len(backbone.decode(chunk.tokens))
            pairs = zip(sample.support, sample.evidence, strict=True)
            note = " ".join(sentence for sentence, span in pairs if span.end <= end) or EMPTY
            steps.append(_step(call, note, backbone))
        last = self._last(sample.question, note, style)
        steps.append(_step(last, target(sample.expected, sample.recalled, style), backbone))
        return Trace(sample.question, self.name, self.settings, tuple(steps))

    def render(self, memory: Memory, call: Call, backbone: Backbone) -> Inputs:
        """Tokens only; those of the note stand for the memory as those of a block do.

        Raises:
            DataError: when note, chunk and reply together are longer than the backbone's window.
        """
        inputs = text_inputs(memory, call, backbone)
        return replace(inputs, memory_positions=inputs.memory_positions + inputs.lengths[NOTE])

    def _update(self, question: str, note: str, part: Part, number: int, count: int) -> Call:
        opening = (Text(before_memory(self.chat_template)), Text(before_note(question)), Text(note))
        closing = Text(after_memory(self.chat_template, request(self.note), None))
        return Call("update", (*opening, Text(between(number, count)), part, closing), Limits(max_tokens=self.note))

    def _last(self, question: str, note: str, style: Style) -> Call:
        chat_template = after_memory(self.chat_template, question, style)
        parts = (Text(before_memory(self.chat_template)), Text(BEFORE_LAST_NOTE), Text(note), Text(chat_template))
        return Call("answer", parts, Limits(max_tokens=160))


def _step(call: Call, said: str, backbone: Backbone) -> Step:
    """A call with the reply that it should have had."""
    return Step(call, Reply(said, (*backbone.encode(said), backbone.end_token)))
