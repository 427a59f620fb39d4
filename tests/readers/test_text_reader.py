"""Plain text: every Unicode encoding with a byte order mark, UTF-8 without one, and nothing else."""

from __future__ import annotations

import codecs
import hashlib
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from memfold.core import document
from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.readers import text as text_reader
from memfold.readers.files import open_document

TEXT = st.text(st.sampled_from("ab \n\r.é世😀\u0301"), max_size=80) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80
)
MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
BYTES = st.sampled_from([b"a", b"\xc3", b"\xa9", b"\xe4\xb8", b"\x96", b"\xf0\x9f", b"\x98\x80", b"\xff"])


@settings(max_examples=150, deadline=None)
@given(TEXT, st.sampled_from([None, *MARKS]), st.integers(1, 9), st.integers(1, 30))
@example("\ufeffa", None, 1, 1)
def test_a_file_is_read_as_the_string_in_it(text: str, marked: str | None, read: int, piece: int) -> None:
    data = text.encode() if marked is None else MARKS[marked] + text.encode(marked)
    expected = text.removeprefix("\ufeff") if marked is None else text
    assume(expected.strip())
    assume(not (marked is None and text.startswith("\ufeff\ufeff")))
    pieces, reads = patch.object(document, "PIECE_CHARACTERS", piece), patch.object(text_reader, "READ_BYTES", read)
    with tempfile.TemporaryDirectory() as folder, pieces, reads:
        path = Path(folder) / "a.txt"
        path.write_bytes(data)
        opened = open_document(path)
        assert list(opened.pieces()) == list(Document("a", expected).pieces())
        assert opened.read() == expected
        assert opened.sha256() == hashlib.sha256(expected.encode()).hexdigest()


@settings(max_examples=300, deadline=None)
@given(st.lists(BYTES), st.integers(1, 9))
@example([b"a" * 7, b"\xe4\xb8"], 4)  # the file ends inside a character
@example([b"aaa", b"\xe4\xb8", b"a"], 4)  # a character is incomplete at the end of a read
def test_an_invalid_byte_is_reported_with_its_offset(parts: list[bytes], read: int) -> None:
    data = b"".join(parts)
    assume(not data.startswith(codecs.BOM_UTF16_LE))
    try:
        data.decode()
        return
    except UnicodeDecodeError as error:
        expected = f"byte 0x{data[error.start]:02x} at offset {error.start};"
    with tempfile.TemporaryDirectory() as folder, patch.object(text_reader, "READ_BYTES", read):
        path = Path(folder) / "a.txt"
        path.write_bytes(data)
        with pytest.raises(DataError, match=expected):
            open_document(path)


READ = text_reader.READ_BYTES


@pytest.mark.parametrize("offset", [0, 1, READ - 1, READ, 3 * READ + 17])
@pytest.mark.parametrize(("byte", "message"), [(b"\0", "is binary: byte 0x00"), (b"\x80", "is not UTF-8: byte 0x80")])
def test_an_invalid_byte_is_detected_at_any_offset(tmp_path: Path, offset: int, byte: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * offset + byte + b"x" * 9)
    with pytest.raises(DataError, match=f"{message} at offset {offset};"):
        open_document(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (codecs.BOM_UTF16_LE + b"a\0b", "is not UTF-16: byte 0x62 at offset 4;"),
        (codecs.BOM_UTF16_BE + b"\0a\xd8\0\0b", "is not UTF-16: byte 0xd8 at offset 4;"),
        (codecs.BOM_UTF16_LE + b"a\0\0\0", "is binary: byte 0x00"),
        (codecs.BOM_UTF8 + b"a\xff", "is not UTF-8: byte 0xff at offset 4;"),
        ("caf\u00e9".encode("cp1252"), "is not UTF-8: byte 0xe9 at offset 3; convert it to UTF-8 first"),
        ("\u0436\u0443\u043a".encode("koi8-r"), "is not UTF-8: byte 0xd6 at offset 0; convert it to UTF-8 first"),
    ],
)
def test_what_is_not_text_in_its_encoding_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        open_document(path)
    assert str(caught.value).startswith(f"{path} {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b" \n\t ", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n", b"\xff\xfe", b" " * 40_000])
def test_an_empty_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match="is empty"):
        open_document(path)


def test_a_disk_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(DataError, match=r"a\.txt cannot be read: Permission denied; give a file that can be read"):
            open_document(path)
