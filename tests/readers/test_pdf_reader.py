from __future__ import annotations

import gc
import hashlib
import io
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pypdf
import pytest
from pypdf.errors import DependencyError

from memfold.core.document import Document, open_document
from memfold.core.errors import DataError
from memfold.readers.pdf import read_pdf

MakePdf = Callable[..., bytes]


def encrypted(data: bytes, password: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def test_pages_follow_each_other(tmp_path: Path, make_pdf: MakePdf) -> None:
    path = tmp_path / "Report.PDF"
    path.write_bytes(make_pdf("Ada Lorn wrote\n20 books (and (a) play).", "", "Velm is a town."))
    document = open_document(path)
    assert document.source == "Report.PDF"
    assert document.read() == "Ada Lorn wrote\n20 books (and (a) play).\n\nVelm is a town.\n"
    assert document.sha256() == hashlib.sha256(document.read().encode()).hexdigest()
    assert document.characters == len(document.read())


def test_pages_are_read_one_at_a_time(tmp_path: Path, make_pdf: MakePdf) -> None:
    def peak(pages: int) -> int:
        """The most bytes in use after any page."""
        path = tmp_path / "a.pdf"
        path.write_bytes(make_pdf(*["word " * 4000] * pages))
        tracemalloc.start()
        used = []
        for _ in read_pdf(path):
            gc.collect()
            used.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        return max(used)

    peak(1)  # allocates what the library caches
    text = (10 - 3) * len("word " * 4000)
    assert peak(10) - peak(3) < text / 4


def test_a_pdf_without_text_asks_for_ocr(tmp_path: Path, make_pdf: MakePdf) -> None:
    (tmp_path / "scan.pdf").write_bytes(make_pdf("", " "))
    with pytest.raises(DataError, match=r"scan\.pdf has no text on any of its 2 pages; run OCR first"):
        open_document(tmp_path / "scan.pdf")


def test_a_password_is_refused_unless_it_is_empty(tmp_path: Path, make_pdf: MakePdf) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(encrypted(make_pdf("Secret."), "word"))
    with pytest.raises(DataError, match=r"a\.pdf is encrypted; save a copy without a password"):
        open_document(path)
    path.write_bytes(encrypted(make_pdf("Not so secret."), ""))
    assert open_document(path).read() == "Not so secret.\n"


def test_a_package_that_a_cipher_needs_is_named(
    tmp_path: Path, make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DependencyError("cryptography>=3.1 is required for AES algorithm")

    (tmp_path / "a.pdf").write_bytes(make_pdf("Velm."))
    monkeypatch.setattr(pypdf, "PdfReader", refuse)
    with pytest.raises(DataError, match=r"a\.pdf cannot be read: cryptography>=3\.1 is required .*; install that, or"):
        open_document(tmp_path / "a.pdf")


@pytest.mark.parametrize("keep", [0, 4, 40, 300])
def test_a_truncated_file_is_a_one_line_error(
    tmp_path: Path, make_pdf: MakePdf, keep: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(make_pdf("Velm is a town.")[:keep])
    with pytest.raises(DataError) as caught:
        open_document(path)
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_wrong_table_of_offsets_is_repaired(
    tmp_path: Path, make_pdf: MakePdf, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(make_pdf("Velm is a town.").replace(b"startxref\n", b"startxref\n9"))
    assert open_document(path).read() == "Velm is a town.\n"
    assert capfd.readouterr() == ("", "")


def test_another_format_under_the_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("Velm is a town.\n" * 100)
    with pytest.raises(DataError, match=r"a\.pdf is damaged or not a PDF: .*; open it in a viewer"):
        open_document(tmp_path / "a.pdf")


def test_without_the_package_the_error_names_the_command(
    tmp_path: Path, make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf("Velm."))
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(DataError, match=r"a\.pdf: reading PDF needs pypdf; pip install 'memfold\[documents\]'"):
        open_document(tmp_path / "a.pdf")


def test_unpaired_surrogates_and_nuls_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memfold.readers.pdf.read_pdf", lambda path: iter(["a\ud83d\ude00b\ud83d", "\0c"]))
    assert Document("a", path=tmp_path / "a.pdf").read() == "a\U0001f600b\ufffdc"
