"""Blocks of text and their rendering, for systems whose memory is the text itself."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING

from memfold.backbone.sequence import SequenceBuilder
from memfold.core.document import Chunk, Document, Tokenize, chunks, text_chunks
from memfold.core.errors import DataError
from memfold.core.model import Model
from memfold.core.prompt import TRAINED_LAYOUTS, ChatTemplate
from memfold.core.system import ANSWER, Rendered
from memfold.core.types import Block, BlockRef, Call, Memory, Part, Text
from memfold.core.window import shorten

Cut = Callable[[Document, Tokenize, int], Iterator[Chunk]]
SHORTEST_REPLY = 160  # tokens that must fit into the window after the prompt of an answer, or its limit if it is lower

if TYPE_CHECKING:
    from torch import Tensor


def chunk_batches(
    documents: Sequence[Document], model: Model, size: int, most: int, cut: Cut = chunks
) -> Iterator[list[tuple[int, Chunk]]]:
    """Yield batches of (document index, chunk of at most `size` tokens), of at most `most` tokens or one chunk."""
    batch: list[tuple[int, Chunk]] = []
    for source, document in enumerate(documents):
        for chunk in cut(document, model.tokenize, size):
            if batch and sum(len(c.tokens) for _, c in batch) + len(chunk.tokens) > most:
                yield batch
                batch = []
            batch.append((source, chunk))
    if batch:
        yield batch


def text_blocks(documents: Sequence[Document], model: Model, size: int, cut: Cut = text_chunks) -> Iterator[Block]:
    """Yield blocks of at most `size` tokens that hold their text; they end between sentences, if there is such an end,
    or where `cut` says."""
    for source, document in enumerate(documents):
        for chunk in cut(document, model.tokenize, size):
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


def render_text(memory: Memory, call: Call, model: Model, chat_template: ChatTemplate) -> Rendered:
    """Render a call whose blocks are text; the result has tokens and no slots.

    An answer may be as long as the context window allows, so the limit of its reply is not always reached.

    Raises:
        DataError: if call and reply exceed the context window of the model, or the memory holds no text.
    """
    builder = SequenceBuilder()
    parts = _written(memory, call.parts, model, chat_template)
    for part, tokens in zip(call.parts, model.prompt(parts, chat_template), strict=True):
        builder.memory_positions += len(tokens) if isinstance(part, BlockRef) else 0
        builder.text(tokens)
        builder.end_part()
    limit, room = call.sampling.max_tokens, model.window - len(builder.tokens)
    least = min(limit, SHORTEST_REPLY) if call.purpose == ANSWER else limit
    if room < least:
        advice = shorten(memory.system, model, memory.token_count, room - SHORTEST_REPLY + builder.memory_positions)
        raise DataError(
            f"the text takes {len(builder.tokens)} tokens and the reply up to {least}, the model's window is "
            f"{model.window}; {advice}"
        )
    return replace(builder.rendered(adapter=call.adapter), room=room)


def _written(memory: Memory, parts: Sequence[Part], model: Model, chat_template: ChatTemplate) -> list[Part]:
    """Return the parts of a call, with the texts of blocks in their places."""
    written: list[Part] = []
    for of_blocks, group in groupby(parts, lambda part: isinstance(part, BlockRef)):
        if not of_blocks:
            written += group
            continue
        texts = _texts([memory.blocks[part.index] for part in group if isinstance(part, BlockRef)])
        written += _encoded_as_one(texts, model) if chat_template in TRAINED_LAYOUTS else map(Text, texts)
    return written


def _texts(blocks: Sequence[Block]) -> Iterator[str]:
    """Yield the texts of blocks; a line end separates those that do not follow each other in one document."""
    before: Block | None = None
    for block in blocks:
        text = block.read()
        if text is None:
            raise DataError("this memory holds no text to read; fold the documents again")
        follows = before is None or (before.source, before.char_end) == (block.source, block.char_start)
        yield text if follows else f"\n{text}"
        before = block


def _encoded_as_one(texts: Iterable[str], model: Model) -> list[Part]:
    """Return the tokens of texts that are one text: a tokenizer may add a space where a text begins."""
    parts = list(texts)
    tokens, offsets = model.tokenize("".join(parts))
    starts = list(accumulate(map(len, parts), initial=0))
    cuts = [bisect_left(offsets, start, key=lambda span: span[0]) for start in starts[1:-1]]
    return [Text(tokens=tuple(tokens[start:end])) for start, end in pairwise([0, *cuts, len(tokens)])]
