"""Extracts the text of a PDF file with pypdf, page by page.

Pages are separated by a single line end, because a sentence may continue on the next page.  Hyphens and running heads
stay in the text, because a PDF does not mark them.
Scanned pages (run OCR first), passwords, forms and annotations are not supported.
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

# what pypdf raises for damaged files, in addition to its own errors
DAMAGED = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)


def read_pdf(path: Path) -> Iterator[str]:
    """Yield the text of each page.

    Raises:
        DataError: if the file is damaged, encrypted or not a PDF, or has no text on any page.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError:
        raise DataError(f"{path}: reading PDF needs pypdf; pip install 'memfold[documents]'") from None
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # pypdf warns about minor faults in readable files
    blank = True
    number = 0  # number of the current page
    with open_bytes(path) as file:
        try:
            reader = pypdf.PdfReader(file)
            _unlock(reader, path)
            for number in range(1, len(reader.pages) + 1):
                text = reader.pages[number - 1].extract_text()
                reader.resolved_objects.clear()  # otherwise the objects of every page stay in memory
                blank = blank and not text.strip()
                yield text + "\n"
        except DependencyError as error:
            raise DataError(
                f"{path} cannot be read: {_line(error)}; install that, or save a decrypted copy (qpdf --decrypt)"
            ) from None
        except (PyPdfError, *DAMAGED) as error:
            where = f", page {number}" if number else ""
            raise DataError(
                f"{path}{where} is damaged or not a PDF: {_line(error)}; open it in a viewer and save it again"
            ) from None
    if blank:
        raise DataError(f"{path} has no text on any of its {number} pages; run OCR first, for example with ocrmypdf")


def _unlock(reader: PdfReader, path: Path) -> None:
    """Decrypt a file that is encrypted with an empty password; refuse a file with any other password."""
    if reader.is_encrypted and not reader.decrypt(""):
        raise DataError(f"{path} is encrypted; save a copy without a password (qpdf --decrypt) and fold that")


def _line(error: Exception) -> str:
    """The message of an exception on one line."""
    return " ".join(str(error).split()) or type(error).__name__
