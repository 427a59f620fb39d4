"""A document and the chunks it is streamed in.

A document is read in pieces, so that folding 10 MB needs no more memory than folding 1 MB.  Tokens are those of the
pieces one after another: the cut is a function of the text alone, so any way of streaming gives the same tokens.
Of formats other than plain text the document is what their reader extracts: hash and offsets are of that text.
Left out: the readers themselves (`memfold.readers`), which need packages of their own.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from memfold.core import registry
from memfold.core.errors import DataError

PIECE_CHARACTERS = 1 << 14
READ_BYTES = 1 << 16
PLAIN = (".txt", ".md", ".markdown", ".text", "")
# suffix -> function from a path to the text of the file, a stretch at a time
READERS = {
    ".html": "memfold.readers.html:read_html",
    ".htm": "memfold.readers.html:read_html",
    ".pdf": "memfold.readers.pdf:read_pdf",
}
SUFFIXES = (*PLAIN, *READERS)
READABLE = ".txt, .md, .html, .pdf"  # as messages name them

# text -> token ids and, for each, its (start, end) in characters
Tokenize = Callable[[str], tuple[list[int], list[tuple[int, int]]]]


@dataclass(frozen=True)
class Document:
    """Text with a source name: in memory (`text`), in a file read as it is needed (`path`), or already tokenised.

    `tokens` is for training tasks that cut a document between tokens; it takes the place of tokenising `text`.
    """

    source: str
    text: str | None = None
    path: Path | None = None
    tokens: tuple[int, ...] | None = None

    def pieces(self) -> Iterator[str]:
        """The text in pieces of at most `PIECE_CHARACTERS`, cut after the last line end, else before the last space."""
        rest = ""
        for string in self._strings():
            rest += string
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
        """Of the UTF-8 bytes."""
        return self._measured[0]

    @property
    def characters(self) -> int:
        """How long the text is."""
        return self._measured[1]

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing but space."""
        return self._measured[2]

    @cached_property
    def _measured(self) -> tuple[str, int, bool]:
        """Hash, length and blankness in one pass, which is remembered: to extract the text of a PDF takes long."""
        digest, characters, blank = hashlib.sha256(), 0, True
        for piece in self.pieces():
            digest.update(piece.encode())
            characters += len(piece)
            blank = blank and not piece.strip()
        return digest.hexdigest(), characters, blank

    def _strings(self) -> Iterator[str]:
        if self.text is not None:
            return _given(self.text, self.source)
        if self.path is not None and self.path.suffix.lower() in READERS:
            return _extract(self.path)
        return _decode(self.path, self.source)


@dataclass(frozen=True)
class Chunk:
    """The streaming unit: some tokens with their offsets.  `offsets` are characters of the whole document."""

    index: int
    tokens: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    token_start: int
    char_start: int
    char_end: int
    text: str

    @property
    def token_end(self) -> int:
        """One past the last token, counted as `token_start`."""
        return self.token_start + len(self.tokens)


def open_document(path: str | Path, source: str | None = None) -> Document:
    """A document over a file, checked to exist, to be a format we read, and to hold text; `source` is its name.

    Raises:
        DataError: naming the path and, for a wrong byte, its offset.
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
    """A file to read from.

    Raises:
        DataError: saying why it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give a file that can be read") from None


def chunks(document: Document, tokenize: Tokenize, size: int) -> Iterator[Chunk]:
    """Cut a document into chunks of at most `size` tokens, never inside a UTF-8 character.

    A byte-level tokenizer may spend several tokens on one character; such a character goes whole into the next chunk.

    Raises:
        DataError: when one character alone has more tokens than `size`, or `size` is under 1.
    """
    if size < 1:
        raise DataError(f"chunk size {size} is not possible; allowed: from 1 token")
    if document.tokens is not None:
        yield from _token_chunks(document.tokens, size)
        return
    tokens: list[int] = []
    offsets: list[tuple[int, int]] = []
    text, text_start, char_end, index, token_start = "", 0, 0, 0, 0
    for piece in document.pieces():
        ids, spans = tokenize(piece)
        tokens += ids
        offsets += [(start + char_end, end + char_end) for start, end in spans]
        text += piece
        char_end += len(piece)
        while len(tokens) > size:
            cut = _token_cut(offsets, size)
            end = offsets[cut][0]
            yield Chunk(index, tuple(tokens[:cut]), tuple(offsets[:cut]), token_start, text_start, end,
                        text[: end - text_start])  # fmt: skip
            index, token_start = index + 1, token_start + cut
            tokens, offsets = tokens[cut:], offsets[cut:]
            text, text_start = text[end - text_start :], end
    if tokens:
        yield Chunk(index, tuple(tokens), tuple(offsets), token_start, text_start, char_end, text)


def _token_chunks(tokens: tuple[int, ...], size: int) -> Iterator[Chunk]:
    for index, start in enumerate(range(0, len(tokens), size)):
        yield Chunk(index, tokens[start : start + size], (), start, 0, 0, "")


def _token_cut(offsets: list[tuple[int, int]], size: int) -> int:
    """The largest cut of at most `size` tokens at which no character continues."""
    cut = size
    while cut > 0 and offsets[cut][0] < offsets[cut - 1][1]:
        cut -= 1
    if cut == 0:
        raise DataError(f"chunk size {size} is smaller than the tokens of one character; use a larger chunk")
    return cut


def _cut(text: str, start: int) -> int:
    """Where a piece that begins at `start` ends: after a line end, else before a space, else at the limit."""
    limit = start + PIECE_CHARACTERS
    line = text.rfind("\n", start + 1, limit)
    if line > start:
        return line + 1
    space = text.rfind(" ", start + 1, limit)
    return space if space > start else limit


def _given(text: str, source: str) -> Iterator[str]:
    """A string as it is, once it is known to have UTF-8 (a hash, a tokenizer and a memory file all need it)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{source}: character {error.start} is half a surrogate pair; replace it first") from None
    yield text


def _extract(path: Path) -> Iterator[str]:
    """What a reader finds, as text that has UTF-8: a font with a wrong table gives NULs and half surrogate pairs."""
    for text in registry.load("reader", path.suffix.lower(), READERS)(path):
        yield text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _decode(path: Path | None, source: str) -> Iterator[str]:
    """UTF-8 text of a file, a stretch at a time, with line ends as they are."""
    if path is None:
        raise DataError(f"document {source!r} has neither text nor path")
    decoder, offset, begun = codecs.getincrementaldecoder("utf-8")(), 0, False
    with open_bytes(path) as file:
        while True:
            data = file.read(READ_BYTES)
            pending = len(decoder.getstate()[0])
            zero = data.find(b"\0")
            if zero >= 0:
                raise DataError(f"{path} is binary: byte 0x00 at offset {offset + zero}; only UTF-8 text can be folded")
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = offset - pending + error.start
                byte = error.object[error.start]
                raise DataError(f"{path} is not UTF-8: byte 0x{byte:02x} at offset {at}; convert it first") from None
            if text:
                yield text if begun else text.removeprefix("\ufeff")
                begun = True
            if not data:
                return
            offset += len(data)
