"""The text of an HTML file, as Markdown: headings, lists and tables keep their shape, links and scripts go.

markdownify does it on a tree of Beautiful Soup's.  The file is taken apart as a whole, so that folding one needs memory
in proportion to it.  Which encoding it has is decided here and not guessed: equal bytes must give an equal hash
wherever they are read.
Left out: what scripts would write into the page, and telling the article from the menus around it.
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

# a file without any of these is something else under the name of HTML
ELEMENTS = ["html", "head", "body", "title", "div", "p", "span", "a", "br", "pre", "table", "ul", "ol", "li", "article",
            "section", "main", "h1", "h2", "h3", "h4", "h5", "h6"]  # fmt: skip
UNREAD = ["script", "style", "noscript", "template", "svg", "iframe", "object", "video", "audio"]
# marks inside a sentence, which would come between a question's words and the text's
INLINE = ["a", "img", "b", "strong", "i", "em", "code", "kbd", "samp", "del", "s", "sub", "sup"]
TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)  # Markdown's mark of a line break among it
SURPLUS = re.compile(r"\n{3,}")
# what pages mean that declare one of these, and what a declaration inside the text can only mean
MEANT = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "latin1": "cp1252", "ascii": "cp1252", "us-ascii": "cp1252",
         "utf-16": "utf-8", "utf-16le": "utf-8", "utf-16be": "utf-8"}  # fmt: skip


def read_html(path: Path) -> Iterator[str]:
    """The whole text at once.

    Raises:
        DataError: for a file in an unknown encoding, without HTML in it, or without text.
    """
    try:
        import bs4
        import markdownify
    except ImportError:
        raise DataError(f"{path}: to read HTML install markdownify: pip install 'memfold[documents]'") from None
    with open_bytes(path) as file:
        markup = _decode(file.read(), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of markup that looks like XML or a path
            soup = bs4.BeautifulSoup(markup, "html.parser")
        if soup.find(ELEMENTS) is None:
            raise DataError(f"{path} is not HTML: no element of HTML is in it; if it is plain text, name it .txt")
        _prune(soup)
        converter = markdownify.MarkdownConverter(
            heading_style="ATX", bullets="-", strip=INLINE, table_infer_header=True,
            escape_asterisks=False, escape_underscores=False, escape_misc=False,
        )  # fmt: skip
        text = SURPLUS.sub("\n\n", TRAILING.sub("", converter.convert_soup(soup).replace("\u00a0", " ")))
    except RecursionError:
        raise DataError(f"{path} nests its elements too deep to be read; save it as plain text") from None
    if not text.strip():
        raise DataError(f"{path} has no text outside its scripts; save the page as the browser shows it")
    yield text + "\n"


def _decode(data: bytes, path: Path) -> str:
    """By the byte order mark, else as the page declares, else as UTF-8."""
    from bs4.dammit import EncodingDetector

    data, marked = EncodingDetector.strip_byte_order_mark(data)
    if b"\0" in data and not marked:
        raise DataError(f"{path} is not HTML but binary: byte 0x00 at offset {data.index(0)}; name a page of text")
    declared = None if marked else EncodingDetector.find_declared_encoding(data, is_html=True)
    encoding = marked or MEANT.get(declared or "", declared) or "utf-8"
    try:
        return data.decode(encoding)
    except LookupError:
        raise DataError(f"{path} declares the unknown encoding {encoding!r}; convert it to UTF-8") from None
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise DataError(
            f"{path} is not {encoding}: byte 0x{wrong:02x} at offset {error.start}; name its encoding in "
            "<meta charset=...> or convert it to UTF-8"
        ) from None


def _prune(soup: BeautifulSoup) -> None:
    """Take out what is not text of the page; of its head, all but the title."""
    from bs4.element import Declaration, ProcessingInstruction

    for node in soup.find_all(string=lambda string: isinstance(string, Declaration | ProcessingInstruction)):
        node.extract()
    for element in soup.find_all(UNREAD):
        element.decompose()
    for title in soup.find_all("title"):
        title.name = "p"
