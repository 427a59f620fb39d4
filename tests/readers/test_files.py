"""Which reader a file gets, by its content, and what is said of a path that holds no document."""

from __future__ import annotations

import io
import os
import socket
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from memfold.core.errors import DataError, DocumentError
from memfold.readers.files import format_of, open_document, read_stream

MakePdf = Callable[..., bytes]
PAGE = "<!DOCTYPE html><title>Velm</title><p>Velm is a town."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("town.py", "def town():\n    return 'Velm'  # <html>\n"),
        ("towns.csv", "town,mayor\nVelm,Ada Lorn\n"),
        ("towns.json", '{"town": "Velm"}'),
        ("page.rst", "Velm\n====\n\nA town.\n"),
        ("film.srt", "1\n00:00:01,000 --> 00:00:02,000\nVelm.\n"),
        ("server.log", "\x1b[31merror\x1b[0m in Velm\n"),
        ("feed.xml", '<?xml version="1.0"?><rss><item>Velm</item></rss>'),
        ("page.tex", "%PDF is a format; Velm is a town.\n"),
        ("README", "Velm is a town.\n"),
        ("notes.unknown", "Velm is a town.\n"),
    ],
)
def test_plain_text_is_known_by_its_content(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert open_document(path).read() == text


@pytest.mark.parametrize("name", ["a.pdf", "a.txt", "a"])
def test_a_pdf_is_known_by_its_content(tmp_path: Path, make_pdf: MakePdf, name: str) -> None:
    (tmp_path / name).write_bytes(make_pdf("Velm is a town."))
    assert open_document(tmp_path / name).read() == "Velm is a town.\n"


@pytest.mark.parametrize("before", ["", "\ufeff", "\n  ", '<?xml version="1.0"?>\n', "<!-- saved -->\n<!-- twice -->"])
@pytest.mark.parametrize("name", ["a.html", "a.txt", "a"])
def test_html_is_known_by_its_content(tmp_path: Path, before: str, name: str) -> None:
    (tmp_path / name).write_text(before + PAGE, encoding="utf-8")
    assert open_document(tmp_path / name).read() == "Velm\n\nVelm is a town.\n"
    (tmp_path / name).write_bytes(f"\ufeff{before.strip(chr(0xFEFF))}{PAGE}".encode("utf-16-le"))
    assert open_document(tmp_path / name).read() == "Velm\n\nVelm is a town.\n"


def archive(**files: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return target.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.zip", archive(a="Velm"), "is an archive or an office file other than .docx; unpack it"),
        ("a.xlsx", archive(workbook="Velm"), "is an archive or an office file other than .docx"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an office file of an old format or with a password"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an office file of an old format or with a password"),
        ("a.docx", b"Velm", "is damaged or not a .docx file"),
        ("a.docx", b"PK\3\4Velm", "is damaged or not a .docx file"),
        ("a.rtf", rb"{\rtf1 Velm}", "is an RTF file; save it as .docx"),
        ("a.txt.gz", b"\x1f\x8b\x08\x00", "is compressed with gzip; unpack it first"),
        ("a.fold", b"\x20\0\0\0\0\0\0\0{", "is a memory file, not a document"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0", "is binary: byte 0x00 at offset 8; only text, HTML, PDF and .docx files"),
        ("a.pdf", b"", "is damaged or not a PDF"),
        ("a.html", b"", "is not HTML"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DocumentError) as caught:
        open_document(path)
    assert caught.value.reason.startswith(reason)
    assert str(caught.value) == f"{path} {caught.value.reason}"
    assert "\n" not in str(caught.value)


def test_paths_without_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "round").symlink_to("round")
    listening = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    listening.bind("socket")
    for path, reason in [
        (tmp_path, "is a folder; give a file"),
        (tmp_path / "missing.txt", "does not exist; give an existing file"),
        (tmp_path / "a\0b", "does not exist"),
        (tmp_path / "lost", "is a link to a missing file"),
        (tmp_path / "round", "cannot be read: Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        (tmp_path / "socket", "is a socket"),
        (Path("/dev/zero"), "is a device"),
    ]:
        with pytest.raises(DocumentError) as caught:
            open_document(path)
        assert caught.value.reason.startswith(reason)
    listening.close()


@pytest.mark.parametrize("kind", ["text", "pdf"])
def test_a_named_pipe_is_read_once(tmp_path: Path, make_pdf: MakePdf, kind: str) -> None:
    data = b"Velm is a town.\n" * (1 if kind == "text" else 0) or make_pdf("Velm is a town.")
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[data])
    writer.start()
    document = open_document(path)
    writer.join()
    assert (document.source, document.path) == ("pipe", None)
    assert document.read() == document.read() == "Velm is a town.\n"


def test_a_stream_is_named_in_messages() -> None:
    assert read_stream(io.BytesIO(PAGE.encode()), "standard input", "stdin").read() == "Velm\n\nVelm is a town.\n"
    for data, message in [
        (b" ", "standard input is empty"),
        (b"a\0", "standard input is binary: byte 0x00 at offset 1"),
    ]:
        with pytest.raises(DataError, match=message):
            read_stream(io.BytesIO(data), "standard input", "stdin")


def test_bytes_of_a_name_that_are_not_utf_8_are_escaped(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9\n.txt"
    with open(path, "wb") as file:
        file.write(b"Velm")
    assert open_document(os.fsdecode(path)).source == "caf\\xe9\n.txt"


def test_a_huge_text_is_looked_at_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.write(b"Velm\n")
        file.truncate(1 << 40)  # without any blocks on the disk
    assert format_of(path) == "memfold.readers.text:read_text"
    with pytest.raises(DataError, match="is binary: byte 0x00 at offset 5"):
        open_document(path)
