"""A document and the chunks in which it is processed.

A document is read and tokenised in pieces, so folding 10 MB needs no more memory than folding 1 MB.  The cuts between
pieces depend only on the text, so the tokens do not depend on how the document is streamed.
For formats other than plain text, the document is the text that a reader extracts; hash and offsets refer to that text.
Files are opened and read in `memfold.readers`, because some formats need optional packages.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from pkgutil import resolve_name

from memfold.core.borders import borders
from memfold.core.errors import DataError

PIECE_CHARACTERS = 1 << 14
READ = "memfold.readers.files:read_file"  # takes a path and yields the text of the file in parts

# text -> token ids, and the character offsets (start, end) of each
Tokenize = Callable[[str], tuple[list[int], list[tuple[int, int]]]]
# a text, where it begins in the document, and the offsets of its tokens -> number of tokens before the cut
CutOf = Callable[[str, int, list[tuple[int, int]]], int]


@dataclass(frozen=True)
class Document:
    """Text with a source name: held in memory (`text`), read from a file on demand (`path`), or already tokenised.

    `tokens` are for training tasks that cut a document at token boundaries; they replace the tokens of `text`.
    """

    source: str
    text: str | None = None
    path: Path | None = None
    tokens: tuple[int, ...] | None = None

    def pieces(self) -> Iterator[str]:
        """The text in pieces of at most `PIECE_CHARACTERS`, cut after the last line end, else before the last space."""
        rest = ""
        for part in self._parts():
            rest += part
            start = 0
            while len(rest) - start > PIECE_CHARACTERS:
                end = _cut(rest, start)
                yield rest[start:end]
                start = end
            rest = rest[start:]
        if rest:
            yield rest

    def read(self) -> str:
        """The whole text."""
        return self.text if self.text is not None else "".join(self.pieces())

    def sha256(self) -> str:
        """The SHA-256 hash of the UTF-8 bytes, in hex."""
        return self._measured[0]

    def renamed(self, source: str) -> Document:
        """The same document under another name; its text is not read again."""
        other = replace(self, source=source)
        other.__dict__.update({key: value for key, value in self.__dict__.items() if key == "_measured"})
        return other

    @property
    def characters(self) -> int:
        """The length of the text in characters."""
        return self._measured[1]

    @property
    def is_blank(self) -> bool:
        """Whether the text is empty or all whitespace."""
        return self._measured[2]

    @cached_property
    def _measured(self) -> tuple[str, int, bool]:
        """Hash, length and whether the text is blank, computed in one pass because extracting PDF text is slow."""
        digest, characters, blank = hashlib.sha256(), 0, True
        for piece in self.pieces():
            digest.update(piece.encode())
            characters += len(piece)
            blank = blank and not piece.strip()
        return digest.hexdigest(), characters, blank

    def _parts(self) -> Iterator[str]:
        if self.text is not None:
            return _checked(self.text, self.source)
        if self.path is None:
            raise DataError(f"document {self.source!r} has neither text nor path; give one of them")
        parts: Iterator[str] = resolve_name(READ)(self.path)
        return parts


@dataclass(frozen=True)
class Chunk:
    """Consecutive tokens of a document, the unit of streaming.

    `offsets` are the (start, end) of each token, in characters of the whole document.
    """

    index: int
    tokens: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    token_start: int
    char_start: int
    char_end: int
    text: str

    @property
    def token_end(self) -> int:
        """The token position after the last token, counted from the start of the document."""
        return self.token_start + len(self.tokens)


def chunks(document: Document, tokenize: Tokenize, size: int) -> Iterator[Chunk]:
    """Cut a document into chunks of `size` tokens, the last may be shorter; never inside a character.

    A byte-level tokenizer may split one character into several tokens; they all go into the same chunk.

    Raises:
        DataError: if one character has more tokens than `size`, or `size` is less than 1.
    """
    return _chunks(document, tokenize, size, lambda _, __, offsets: _token_cut(offsets, size))


def text_chunks(document: Document, tokenize: Tokenize, size: int) -> Iterator[Chunk]:
    """Cut a document into chunks of at most `size` tokens that end where `memfold.core.borders` says.

    A document that has tokens but no text is cut as by `chunks`.

    Raises:
        DataError: as `chunks`.
    """
    written = document if document.text is None else replace(document, tokens=None)
    return _chunks(written, tokenize, size, partial(_border_cut, size))


def _chunks(document: Document, tokenize: Tokenize, size: int, cut_of: CutOf) -> Iterator[Chunk]:
    if size < 1:
        raise DataError(f"chunk size {size} is not possible; allowed: 1 token or more")
    if document.tokens is not None:
        yield from _token_chunks(document.tokens, size)
        return
    tokens: list[int] = []
    offsets: list[tuple[int, int]] = []
    text, text_start, char_end, index, token_start = "", 0, 0, 0, 0
    for piece in document.pieces():
        piece_tokens, piece_offsets = tokenize(piece)
        tokens += piece_tokens
        offsets += [(start + char_end, end + char_end) for start, end in piece_offsets]
        text += piece
        char_end += len(piece)
        while len(tokens) > size:
            cut = cut_of(text, text_start, offsets)
            end = offsets[cut][0]
            head, text = text[: end - text_start], text[end - text_start :]
            yield Chunk(index, tuple(tokens[:cut]), tuple(offsets[:cut]), token_start, text_start, end, head)
            index, token_start, text_start = index + 1, token_start + cut, end
            tokens, offsets = tokens[cut:], offsets[cut:]
    if tokens:
        yield Chunk(index, tuple(tokens), tuple(offsets), token_start, text_start, char_end, text)


def fixed_lengths(tokens: int, size: int) -> list[int]:
    """Return the lengths of the parts of `size` tokens that some tokens are cut into; the last may be shorter."""
    return [min(size, tokens - start) for start in range(0, tokens, size)]


def _token_chunks(tokens: tuple[int, ...], size: int) -> Iterator[Chunk]:
    for index, start in enumerate(range(0, len(tokens), size)):
        yield Chunk(index, tokens[start : start + size], (), start, 0, 0, "")


def _token_cut(offsets: list[tuple[int, int]], size: int) -> int:
    """Return the largest number of tokens, at most `size`, that does not end inside a character."""
    cut = size
    while cut > 0 and offsets[cut][0] < offsets[cut - 1][1]:
        cut -= 1
    if cut == 0:
        raise DataError(f"chunk size {size} is smaller than the tokens of one character; use a larger chunk")
    return cut


def _border_cut(size: int, text: str, start: int, offsets: list[tuple[int, int]]) -> int:
    """Return the number of tokens, at most `size`, before the best border of a text that begins at `start`."""
    most = _token_cut(offsets, size)
    for end, following in borders(text, 0, offsets[most][0] - start):
        cut = bisect_left(offsets, end + start, hi=most, key=lambda span: span[0])
        if cut > 0 and offsets[cut - 1][1] <= offsets[cut][0] <= following + start:
            return cut
    return most


def _cut(text: str, start: int) -> int:
    """Return the end of the piece at `start`: after the last line end, else before the last space, else the limit."""
    limit = start + PIECE_CHARACTERS
    line = text.rfind("\n", start + 1, limit)
    if line > start:
        return line + 1
    space = text.rfind(" ", start + 1, limit)
    return space if space > start else limit


def _checked(text: str, source: str) -> Iterator[str]:
    """Yield the text after checking that it can be encoded as UTF-8, as hashes, tokenizers and memory files need."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{source}: character {error.start} is an unpaired surrogate; replace it first") from None
    yield text
