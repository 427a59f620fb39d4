"""Notes: what the systems that read a text part by part share of prompts, of full notes and of supervised samples."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Literal

from memfold.core.borders import sentences
from memfold.core.document import Chunk
from memfold.core.errors import ConfigError
from memfold.core.model import Model
from memfold.core.system import ask
from memfold.core.types import Call, Reply, Sample

Overflow = Literal["sentence", "shorter", "keep"]
OVERFLOWS: tuple[Overflow, ...] = ("sentence", "shorter", "keep")

EMPTY = "(nothing yet)"  # text of an empty note
WORDS_PER_TOKEN = 0.75
NOTE, SHARE = 1024, 8  # tokens of a note (the published systems), at most one part in `SHARE` of the window
SHORTEST_CHUNK = 64  # tokens, even where the window has no room for more
PROMPT = 512  # tokens that a prompt may take beside note, text and reply


def fitting_note(window: int) -> int:
    """Return the number of tokens of a note for a model with a context window of `window` tokens."""
    return max(1, min(NOTE, window // SHARE))


def fitting_chunk(window: int, most: int) -> int:
    """Return the number of tokens that are read at a time beside a note and a new one: `most`, or what fits."""
    return max(SHORTEST_CHUNK, min(most, window - 2 * fitting_note(window) - PROMPT))


def write_note(
    update: Callable[[int], Call], limit: int, overflow: Overflow
) -> Generator[tuple[Call, ...], tuple[Reply, ...], str]:
    """Make the call `update` for a note of at most `limit` tokens, and return the note; it may be empty.

    `overflow` says what becomes of a note that does not end within its limit: "sentence" leaves out the sentence that
    was cut off, and those that repeat others; "shorter" first asks again, for half as many tokens; "keep" (the
    published systems) takes it as it is.
    """
    reply = yield from ask(update(limit))
    if reply.is_cut and overflow == "shorter" and limit > 1:
        reply = yield from ask(update(limit // 2))
    return _whole_sentences(reply.text) if reply.is_cut and overflow != "keep" else reply.text.strip()


def _whole_sentences(text: str) -> str:
    """Return the different sentences of a text without its last one, unless that is the only one."""
    found = list(dict.fromkeys(text[start:end] for start, end in sentences(text)))
    return " ".join(found[:-1] or found)


def word_limit(tokens: int) -> int:
    """Return the number of words that a prompt names as the limit of a note of at most `tokens` tokens."""
    return max(1, int(tokens * WORDS_PER_TOKEN))


def written_notes(sample: Sample, parts: Sequence[Chunk], model: Model, reader: str) -> list[str]:
    """Return the expected note after each part of the document: the supporting sentences that were read so far.

    Raises:
        ConfigError: for a sample that is not a question with supporting sentences; `reader` is what reads them.
    """
    if not sample.answers or not sample.support or len(sample.support) != len(sample.evidence):
        raise ConfigError(
            f"task {sample.task!r} cannot train {reader}: its notes consist of the supporting sentences of an answer; "
            "use a task that has them, such as almanac"
        )
    notes, end = list[str](), 0
    for chunk in parts:
        # a document given as token ids has no character offsets
        end = chunk.char_end or end + len(model.decode(chunk.tokens))
        pairs = zip(sample.support, sample.evidence, strict=True)
        notes.append(" ".join(sentence for sentence, span in pairs if span.end <= end) or EMPTY)
    return notes
