"""A document and the chunks in which it is processed.

A document is read and tokenised in pieces, so folding 10 MB needs no more memory than folding 1 MB.  The cuts between
pieces depend only on the text, so the tokens do not depend on how the document is streamed.
For formats other than plain text, the document is the text that a reader extracts; hash and offsets refer to that text.
The readers are in `memfold.readers`, because they need optional packages.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import BinaryIO

from memfold.core.errors import DataError

PIECE_CHARACTERS = 1 << 14
READ_BYTES = 1 << 16
PLAIN = (".txt", ".md", ".markdown", ".text", "")
# suffix -> function that takes a path and yields the text of the file in parts
READERS = {
    ".html": "memfold.readers.html:read_html",
    ".htm": "memfold.readers.html:read_html",
    ".pdf": "memfold.readers.pdf:read_pdf",
}
SUFFIXES = (*PLAIN, *READERS)
READABLE = ".txt, .md, .html, .pdf"  # for error messages

# text -> token ids, and the character offsets (start, end) of each
Tokenize = Callable[[str], tuple[list[int], list[tuple[int, int]]]]


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
        if self.path is not None and self.path.suffix.lower() in READERS:
            return _extract(self.path)
        return _decode(self.path, self.source)


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


def open_document(path: str | Path, source: str | None = None) -> Document:
    """Open a file as a document after checking that it exists, has a readable format and contains text.

    `source` is the name of the document; it defaults to the file name.

    Raises:
        DataError: if the file cannot be used; the message has the path and the offset of an invalid byte.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file ({READABLE})")
    if not path.exists():
        raise DataError(f"no document at {path}; name an existing file ({READABLE})")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: cannot read {path.suffix!r} files; readable: {READABLE}")
    document = Document(source=source or path.name, path=path)
    if document.is_blank:
        raise DataError(f"{path} is empty; a document needs at least one character that is not a space")
    return document


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        DataError: if the file cannot be opened; the message gives the reason.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; pass a readable file") from None


def chunks(document: Document, tokenize: Tokenize, size: int) -> Iterator[Chunk]:
    """Cut a document into chunks of at most `size` tokens, never inside a character.

    A byte-level tokenizer may split one character into several tokens; they all go into the same chunk.

    Raises:
        DataError: if one character has more tokens than `size`, or `size` is less than 1.
    """
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
            cut = _token_cut(offsets, size)
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


def _extract(path: Path) -> Iterator[str]:
    """Yield the text from a reader as valid UTF-8; faulty font tables in PDFs yield NULs and unpaired surrogates."""
    read = resolve_name(READERS[path.suffix.lower()])
    for text in read(path):
        yield text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _decode(path: Path | None, source: str) -> Iterator[str]:
    """Yield the text of a UTF-8 file in parts, with its line ends unchanged."""
    if path is None:
        raise DataError(f"document {source!r} has neither text nor path; give one of them")
    decoder, offset, started = codecs.getincrementaldecoder("utf-8")(), 0, False
    with open_bytes(path) as file:
        while True:
            data = file.read(READ_BYTES)
            pending = len(decoder.getstate()[0])
            null = data.find(b"\0")
            if null >= 0:
                raise DataError(f"{path} is binary: byte 0x00 at offset {offset + null}; only UTF-8 text can be folded")
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                invalid, byte = offset - pending + error.start, error.object[error.start]
                raise DataError(
                    f"{path} is not UTF-8: byte 0x{byte:02x} at offset {invalid}; convert it to UTF-8 first"
                ) from None
            if text:
                yield text if started else text.removeprefix("\ufeff")
                started = True
            if not data:
                return
            offset += len(data)
