"""Extracts the text of a PDF file with PDFium, page by page.

PDFium gives characters with their places.  `lines` makes paragraphs and table rows of them, `running_heads` leaves out
what stands on every page.  Scanned pages (run OCR first), passwords, forms and annotations are not supported.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from memfold.core.errors import DataError, DocumentError
from memfold.readers.lines import CELL_GAP, Line, running_text
from memfold.readers.running_heads import Page, without_running_heads
from memfold.readers.text import open_bytes

GAP = 1.2  # heights of a line: from there on a space is a gap between the cells of a table
ENDS = "\r\n"
HYPHENS = "\2\ufffe"  # what PDFium makes of a hyphen at a line end
# ligatures that fonts have as one character
LIGATURES = str.maketrans({0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB06: "st"})
FIXED_PITCH = 1  # a flag of fonts
NAME_BYTES = 128
_FIXED = re.compile(rb"mono|courier|cmtt|typewriter|consol", re.IGNORECASE)
_PDFIUM = threading.Lock()  # PDFium is not made for threads


def read_pdf(path: Path) -> Iterator[str]:
    """Yield the text of each page.

    Raises:
        DocumentError: if the file is damaged, encrypted or not a PDF, or has no text on any page.
    """
    blank = True
    for text in running_text(without_running_heads(_pages(path))):
        blank = blank and not text.strip()
        yield text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if blank:
        raise DocumentError(path, "has no text on any of its pages; run OCR first, for example with ocrmypdf")


def _pages(path: Path) -> Iterator[Page]:
    try:
        import pypdfium2 as pdfium
    except ImportError:
        raise DocumentError(path, "is a PDF, which needs pypdfium2; pip install 'memfold[documents]'") from None
    number = 0  # of the current page
    try:
        with open_bytes(path) as file, _opened(pdfium.PdfDocument, file) as document:
            for number in range(1, len(document) + 1):
                yield _page(document, number - 1)
    except pdfium.PdfiumError as error:
        raise _refused(path, number, error) from None


@contextmanager
def _opened(open_pdf: Callable[[BinaryIO], Any], file: BinaryIO) -> Iterator[Any]:
    with _PDFIUM:
        document = open_pdf(file)
    try:
        yield document
    finally:
        with _PDFIUM:
            document.close()


def _refused(path: Path, number: int, error: Any) -> DataError:
    if error.err_code is not None and "assword" in str(error):
        return DocumentError(path, "is encrypted; save a copy without a password (qpdf --decrypt) and give that")
    where = f" on page {number}" if number else ""
    what = " ".join(str(error).split()).rstrip(".")
    return DocumentError(path, f"is damaged{where} or not a PDF: {what}; open it in a viewer and save it again")


def _page(document: Any, number: int) -> Page:
    """Return the lines of a page."""
    with _PDFIUM, closing(document[number]) as page, closing(page.get_textpage()) as text:
        return Page(list(_Characters(text).lines()), page.get_height())


class _Characters:
    """The characters of a page with their places."""

    def __init__(self, text: Any) -> None:
        import pypdfium2.raw as raw

        self._raw, self._text = raw, text
        self._box = tuple(ctypes.c_double() for _ in range(4))  # left, right, bottom, top

    def lines(self) -> Iterator[Line]:
        """Yield the lines in the order in which the file draws them, without blank ones."""
        raw, start = self._raw, 0
        codes = [raw.FPDFText_GetUnicode(self._text, index) for index in range(raw.FPDFText_CountChars(self._text))]
        characters = [chr(code) if code < 0x110000 else "\ufffd" for code in codes]
        for index, character in enumerate([*characters, "\n"]):
            if character in HYPHENS:
                characters[index] = "-"
                yield from self._line(characters, start, index + 1)
                start = index + 1
            elif character in ENDS:
                yield from self._line(characters, start, index)
                start = index + 1

    def _line(self, characters: list[str], start: int, end: int) -> Iterator[Line]:
        """Yield the line of these characters, if any can be seen."""
        places = [index for index in range(start, end) if not characters[index].isspace()]
        if not places:
            return
        first, last = places[0], places[-1]
        left = self._places(first)[0]
        height = max(self._height(first), self._height(last), 1.0)  # a bullet or code may stand at one end
        parts, word, cells, before = [characters[first]], 0.0, False, first
        for index in places[1:]:
            if index > before + 1:
                right = self._places(before)[1]
                word = word or right - left
                wide = self._places(index)[0] - right > GAP * height
                parts.append(CELL_GAP if wide else " ")
                cells = cells or wide
            parts.append(characters[index])
            before = index
        right = self._places(last)[1]
        text = "".join(parts).translate(LIGATURES)
        fixed = self._is_fixed(first) and self._is_fixed(last)
        yield Line(text, left, right, self._base(first), height, word or right - left, cells, fixed)

    def _places(self, index: int) -> tuple[float, float]:
        """Return the left and right edge of a character."""
        left, right, bottom, top = self._box
        self._raw.FPDFText_GetCharBox(self._text, index, left, right, bottom, top)
        return left.value, right.value

    def _height(self, index: int) -> float:
        """Return the height of the font of a character."""
        box = self._raw.FS_RECTF()
        self._raw.FPDFText_GetLooseCharBox(self._text, index, box)
        return float(box.top - box.bottom)

    def _base(self, index: int) -> float:
        across, up, *_ = self._box
        self._raw.FPDFText_GetCharOrigin(self._text, index, across, up)
        return float(up.value)

    def _is_fixed(self, index: int) -> bool:
        name, flags = ctypes.create_string_buffer(NAME_BYTES), ctypes.c_int()
        self._raw.FPDFText_GetFontInfo(self._text, index, name, NAME_BYTES, flags)
        return bool(flags.value & FIXED_PITCH) or bool(_FIXED.search(name.value))
