"""Blocks of text and their rendering, for systems whose memory is the text itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from memfold.backbone.sequence import SequenceBuilder
from memfold.core.document import Chunk, Document, chunks
from memfold.core.errors import DataError
from memfold.core.model import Model
from memfold.core.system import Rendered
from memfold.core.types import Block, BlockRef, Call, Memory


def text_blocks(documents: Sequence[Document], model: Model, size: int) -> Iterator[Block]:
    """Yield blocks of at most `size` tokens that hold their text."""
    for source, document in enumerate(documents):
        for chunk in chunks(document, model.tokenize, size):
            yield chunk_block(source, chunk)


def chunk_block(
    source: int, chunk: Chunk, slots: Tensor | None = None, slot_tokens: tuple[int, ...] | None = None
) -> Block:
    """Return the block of a chunk of document number `source`, with its text and with `slots` [n, d] if given."""
    return Block(
        index=chunk.index,
        source=source,
        token_start=chunk.token_start,
        token_end=chunk.token_end,
        char_start=chunk.char_start,
        char_end=chunk.char_end,
        slots=slots,
        text=chunk.text,
        slot_tokens=slot_tokens,
    )


def render_text(memory: Memory, call: Call, model: Model) -> Rendered:
    """Render a call whose blocks are text; the result has tokens and no slots.

    Raises:
        DataError: if call and reply exceed the context window of the model, or the memory holds no text.
    """
    builder = SequenceBuilder()
    for part in call.parts:
        if isinstance(part, BlockRef):
            text = memory.blocks[part.index].read()
            if text is None:
                raise DataError(f"memory {memory.name!r} holds no text to read; fold it without --no-text")
            tokens = model.encode(text)
            builder.memory_positions += len(tokens)
            builder.text(tokens)
        else:
            builder.text(model.encode(part.text) if part.tokens is None else part.tokens)
        if not builder.tokens:  # a sequence begins with at least one token
            builder.text([model.end_token])
        builder.end_part()
    if len(builder.tokens) + call.sampling.max_tokens > model.window:
        raise DataError(
            f"the text takes {len(builder.tokens)} tokens and the reply up to {call.sampling.max_tokens}, the model's "
            f"window is {model.window}; use --system retrieval or recurrent, or shorten the text"
        )
    return builder.rendered(adapter=call.adapter)
