"""What the systems whose memory is the text itself have in common: blocks of text, and calls rendered as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memfold.backbone.model import Backbone
from memfold.backbone.sequence import SequenceBuilder
from memfold.core.document import Document, chunks
from memfold.core.errors import DataError
from memfold.core.system import Inputs
from memfold.core.types import Block, BlockRef, Call, Memory


def text_blocks(documents: Sequence[Document], backbone: Backbone, size: int) -> Iterator[Block]:
    """Blocks of at most `size` tokens that hold their text."""
    for source, document in enumerate(documents):
        for chunk in chunks(document, backbone.tokenize, size):
            yield Block(chunk.index, source, chunk.token_start, chunk.token_end, chunk.char_start, chunk.char_end,
                        text=chunk.text)  # fmt: skip


def text_inputs(memory: Memory, call: Call, backbone: Backbone) -> Inputs:
    """A call of a system whose blocks are text: tokens only.

    Raises:
        DataError: when the call is longer than the backbone's window, or the memory was stored without its text.
    """
    builder = SequenceBuilder()
    for part in call.parts:
        if isinstance(part, BlockRef):
            text = memory.blocks[part.index].read()
            if text is None:
                raise DataError(f"memory {memory.name!r} holds no text to read; fold it without --no-text")
            tokens = backbone.encode(text)
            builder.memory_positions += len(tokens)
            builder.text(tokens)
        else:
            builder.text(backbone.encode(part.text) if part.tokens is None else part.tokens)
        if not builder.tokens:  # a sequence never begins with nothing
            builder.text([backbone.end_token])
        builder.end_part()
    if len(builder.tokens) + call.limits.max_tokens > backbone.window:
        raise DataError(
            f"the text takes {len(builder.tokens)} tokens and the reply up to {call.limits.max_tokens}, the model's "
            f"window is {backbone.window}; fold it (system pooled) or shorten it"
        )
    return builder.inputs()
