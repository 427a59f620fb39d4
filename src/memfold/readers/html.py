"""Extracts the text of an HTML file as Markdown: headings, lists, tables and code are kept, links are removed.

Beautiful Soup parses the whole file, `boilerplate` removes what is hidden or not content, and markdownify converts the
rest, so memory use grows with the size of the file.  Fixed rules determine the encoding, without guessing, so that
equal bytes give an equal hash on every machine.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from memfold.core.errors import DocumentError
from memfold.readers.boilerplate import remove_boilerplate, remove_unseen
from memfold.readers.text import open_bytes

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

LARGEST = 1 << 24  # bytes; parsing takes more than a hundred times as much RAM
# a file without any of these is not HTML
ELEMENT = re.compile(
    r"<(html|head|body|title|main|article|section|div|p|pre|table|ul|ol|li|h[1-6]|span|a|br)[\s/>]", re.IGNORECASE
)
# inline markup is dropped, as its characters would separate words that a question quotes together
INLINE = ["a", "img", "b", "strong", "i", "em", "code", "kbd", "samp", "del", "s", "sub", "sup"]
TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)  # also removes the line breaks of Markdown (two spaces)
BLANK_LINES = re.compile(r"\n{3,}")
# as in browsers, Latin-1 labels mean Windows-1252, and a declaration that is readable as ASCII is not in UTF-16
LATIN_1 = ("iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii")
UTF_16 = ("utf-16", "utf-16le", "utf-16be")
ENCODINGS = dict.fromkeys(LATIN_1, "cp1252") | dict.fromkeys(UTF_16, "utf-8")


def read_html(path: Path) -> Iterator[str]:
    """Yield the whole text of an HTML file as Markdown, in one piece.

    Raises:
        DocumentError: if the file has an unknown or wrong encoding, is not HTML, is too large, or has no text.
    """
    try:
        import bs4
        import trafilatura  # noqa: F401
        from markdownify import MarkdownConverter
    except ImportError as error:
        missing = error.name or "a package that is missing"
        raise DocumentError(path, f"is HTML, which needs {missing}; pip install 'memfold[documents]'") from None
    with open_bytes(path) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise DocumentError(path, f"has more than {LARGEST:,} bytes of HTML; save it as plain text")
    markup = _decode(data, path)
    if not ELEMENT.search(markup):
        raise DocumentError(path, "is not HTML: it has no HTML element; if it is plain text, rename it to .txt")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Beautiful Soup warns about markup that looks like XML or a path
            soup = bs4.BeautifulSoup(markup, "lxml")  # which knows the end tags that may be left out
        _prune(soup)
        converter = MarkdownConverter(
            heading_style="ATX",
            bullets="-",
            strip=INLINE,
            table_infer_header=True,
            escape_asterisks=False,
            escape_underscores=False,
            escape_misc=False,
        )
        text = converter.convert_soup(soup).replace("\u00a0", " ")
        text = BLANK_LINES.sub("\n\n", TRAILING.sub("", text))
    except RecursionError:
        raise DocumentError(path, "nests its elements too deeply; save it as plain text") from None
    if not text.strip():
        raise DocumentError(path, "has no text outside its scripts; save the page as the browser shows it")
    yield text.strip("\n") + "\n"


def _decode(data: bytes, path: Path) -> str:
    """Decode by the byte order mark, else by the declared encoding, else as UTF-8."""
    from bs4.dammit import EncodingDetector

    data, marked = EncodingDetector.strip_byte_order_mark(data)
    if b"\0" in data and not marked:
        raise DocumentError(path, f"is not HTML but binary: byte 0x00 at offset {data.index(0)}; give a text file")
    declared = None if marked else EncodingDetector.find_declared_encoding(data, is_html=True)
    encoding = marked or ENCODINGS.get(declared or "", declared) or "utf-8"
    try:
        return data.decode(encoding).replace("\0", "\ufffd")
    except LookupError:
        raise DocumentError(path, f"declares the unknown encoding {encoding!r}; convert it to UTF-8") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DocumentError(
            path,
            f"is not {encoding}: byte 0x{byte:02x} at offset {error.start}; declare its encoding in "
            "<meta charset=...> or convert it to UTF-8",
        ) from None


def _prune(soup: BeautifulSoup) -> None:
    """Remove what is not the text of the page; turn the title into a paragraph, so that it is kept."""
    from bs4.element import Declaration, ProcessingInstruction

    for node in soup.find_all(string=lambda string: isinstance(string, Declaration | ProcessingInstruction)):
        node.extract()
    remove_unseen(soup)
    remove_boilerplate(soup)
    for title in soup.find_all("title"):
        title.name = "p"
