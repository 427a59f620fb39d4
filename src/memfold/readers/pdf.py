"""The text of a PDF file, page by page, with pypdf.

Pages follow each other with a line end between them, as a sentence may go on over the border.
Left out: recognising the letters of scanned pages (run OCR first), passwords, forms and notes, and taking hyphens and
running heads out of the text: which of them belong to it cannot be told from the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from memfold.core.document import open_bytes
from memfold.core.errors import DataError

if TYPE_CHECKING:
    from pypdf import PdfReader


def read_pdf(path: Path) -> Iterator[str]:
    """The text of each page.

    Raises:
        DataError: for a file that is damaged, encrypted, no PDF, or has no text on any page.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError:
        raise DataError(f"{path}: to read PDF install pypdf: pip install 'memfold[documents]'") from None
    # it reports each small fault of a file that it then reads all the same
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    # a damaged file makes pypdf fail in any of these ways
    broken = (PyPdfError, ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RecursionError,
              TypeError, ValueError)  # fmt: skip
    blank = True
    number = 0  # of the page that is being read
    with open_bytes(path) as file:
        try:
            reader = pypdf.PdfReader(file)
            _unlock(reader, path)
            for number in range(1, len(reader.pages) + 1):
                text = reader.pages[number - 1].extract_text()
                reader.resolved_objects.clear()  # else every page read stays in memory
                blank = blank and not text.strip()
                yield text + "\n"
        except DependencyError as error:
            raise DataError(
                f"{path} cannot be read: {_line(error)}; install that, or save a copy without it (qpdf --decrypt)"
            ) from None
        except broken as error:
            where = f", page {number}" if number else ""
            raise DataError(
                f"{path}{where} is damaged or no PDF: {_line(error)}; open it in a viewer and save it again"
            ) from None
    if blank:
        raise DataError(f"{path} has no text on any page (of {number}), only pictures; run OCR first, such as ocrmypdf")


def _unlock(reader: PdfReader, path: Path) -> None:
    """Open a file that only restricts what may be done with it; one with a password is refused."""
    if reader.is_encrypted and not reader.decrypt(""):
        raise DataError(f"{path} is encrypted; save a copy without a password (qpdf --decrypt) and fold that")


def _line(error: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
