"""Extracts the text of an HTML file as Markdown: headings, lists and tables are kept, links and scripts are removed.

Beautiful Soup parses the whole file and markdownify converts the tree, so memory use grows with the size of the file.
Fixed rules determine the encoding, without guessing, so that equal bytes give an equal hash on every machine.
Scripts are not run, and menus are not separated from the article.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from memfold.core.document import open_bytes
from memfold.core.errors import DataError

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

SECTIONS = ["html", "head", "body", "title", "main", "article", "section", "div"]
BLOCKS = ["p", "pre", "table", "ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6"]
ELEMENTS = [*SECTIONS, *BLOCKS, "span", "a", "br"]  # a file without any of these is not HTML
SKIPPED = ["script", "style", "noscript", "template", "svg", "iframe", "object", "video", "audio"]
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
        DataError: if the file has an unknown or wrong encoding, is not HTML, or has no text.
    """
    try:
        import bs4
        import markdownify
    except ImportError:
        raise DataError(f"{path}: reading HTML needs markdownify; pip install 'memfold[documents]'") from None
    with open_bytes(path) as file:
        markup = _decode(file.read(), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Beautiful Soup warns about markup that looks like XML or a path
            soup = bs4.BeautifulSoup(markup, "html.parser")
        if soup.find(ELEMENTS) is None:
            raise DataError(f"{path} is not HTML: it has no HTML element; if it is plain text, rename it to .txt")
        _prune(soup)
        converter = markdownify.MarkdownConverter(
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
        raise DataError(f"{path} nests its elements too deeply; save it as plain text") from None
    if not text.strip():
        raise DataError(f"{path} has no text outside its scripts; save the page as the browser shows it")
    yield text + "\n"


def _decode(data: bytes, path: Path) -> str:
    """Decode by the byte order mark, else by the declared encoding, else as UTF-8."""
    from bs4.dammit import EncodingDetector

    data, marked = EncodingDetector.strip_byte_order_mark(data)
    if b"\0" in data and not marked:
        raise DataError(f"{path} is not HTML but binary: byte 0x00 at offset {data.index(0)}; pass a text file")
    declared = None if marked else EncodingDetector.find_declared_encoding(data, is_html=True)
    encoding = marked or ENCODINGS.get(declared or "", declared) or "utf-8"
    try:
        return data.decode(encoding)
    except LookupError:
        raise DataError(f"{path} declares the unknown encoding {encoding!r}; convert it to UTF-8") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(
            f"{path} is not {encoding}: byte 0x{byte:02x} at offset {error.start}; declare its encoding in "
            "<meta charset=...> or convert it to UTF-8"
        ) from None


def _prune(soup: BeautifulSoup) -> None:
    """Remove nodes without text; turn the title into a paragraph, so that it is kept."""
    from bs4.element import Declaration, ProcessingInstruction

    for node in soup.find_all(string=lambda string: isinstance(string, Declaration | ProcessingInstruction)):
        node.extract()
    for element in soup.find_all(SKIPPED):
        element.decompose()
    for title in soup.find_all("title"):
        title.name = "p"
