from __future__ import annotations

import hashlib
import itertools
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from memfold.core import document
from memfold.core.document import Chunk, Document, chunks, open_document
from memfold.core.errors import DataError

MAX_TOKENS = 4  # of one character
TEXT = st.text(st.sampled_from("ab \n\r.é世😀\u0301"), max_size=80) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80
)


def byte_tokens(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokenise like a byte-level tokenizer: ASCII in pairs, other characters as one token per byte."""
    tokens, offsets, start = [], [], 0
    while start < len(text):
        pair = text[start : start + 2]
        if len(pair) == 2 and pair.isascii():
            tokens.append(1000 + 128 * ord(pair[0]) + ord(pair[1]))
            offsets.append((start, start + 2))
            start += 2
            continue
        data = text[start].encode()
        tokens += data
        offsets += [(start, start + 1)] * len(data)
        start += 1
    return tokens, offsets


def small_pieces(size: int = 8, read: int = 5) -> AbstractContextManager[object]:
    """Use small pieces and reads, so that short texts cover all boundary cases."""
    return patch.multiple(document, PIECE_CHARACTERS=size, READ_BYTES=read)


def cut(whole: Document, size: int) -> list[Chunk]:
    return list(chunks(whole, byte_tokens, size))


@settings(max_examples=200, deadline=None)
@given(TEXT, st.integers(MAX_TOKENS, 20), st.integers(1, 30))
def test_chunks_hold_all_of_the_text_and_never_cut_a_character(text: str, size: int, piece: int) -> None:
    with small_pieces(piece):
        parts = cut(Document("a", text), size)
    assert "".join(chunk.text for chunk in parts) == text
    assert [chunk.index for chunk in parts] == list(range(len(parts)))
    token = character = 0
    for chunk in parts:
        assert (chunk.token_start, chunk.char_start) == (token, character)
        assert 1 <= len(chunk.tokens) == len(chunk.offsets) <= size
        assert chunk.text == text[chunk.char_start : chunk.char_end]
        assert all(chunk.char_start <= start < end <= chunk.char_end for start, end in chunk.offsets)
        assert list(chunk.offsets) == sorted(chunk.offsets)
        token, character = chunk.token_end, chunk.char_end
    for before, after in itertools.pairwise(parts):
        assert before.offsets[-1][1] <= after.offsets[0][0]
        assert len(before.tokens) > size - MAX_TOKENS


@settings(max_examples=100, deadline=None)
@given(TEXT, st.integers(MAX_TOKENS, 20), st.integers(1, 30))
def test_tokens_and_offsets_do_not_depend_on_the_chunk_size(text: str, size: int, piece: int) -> None:
    with small_pieces(piece):
        some, whole = cut(Document("a", text), size), cut(Document("a", text), 10_000)
    assert [token for chunk in some for token in chunk.tokens] == [token for chunk in whole for token in chunk.tokens]
    assert [span for chunk in some for span in chunk.offsets] == [span for chunk in whole for span in chunk.offsets]


@settings(max_examples=100, deadline=None)
@given(TEXT, st.booleans(), st.integers(1, 9), st.integers(1, 30))
@example("\ufeffa", False, 1, 1)
def test_a_file_is_read_as_the_string_in_it(text: str, mark: bool, read: int, piece: int) -> None:
    assume(text.strip())
    data = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    expected = text if mark else text.removeprefix("\ufeff")
    assume(expected.strip())
    with tempfile.TemporaryDirectory() as folder, small_pieces(piece, read):
        path = Path(folder) / "a.txt"
        path.write_bytes(data)
        opened = open_document(path)
        assert list(opened.pieces()) == list(Document("a", expected).pieces())
        assert cut(opened, 7) == cut(Document("a", expected), 7)
        assert opened.read() == expected
        assert opened.sha256() == hashlib.sha256(expected.encode()).hexdigest()


BYTES = st.sampled_from([b"a", b"\xc3", b"\xa9", b"\xe4\xb8", b"\x96", b"\xf0\x9f", b"\x98\x80", b"\xff"])


@settings(max_examples=300, deadline=None)
@given(st.lists(BYTES), st.integers(1, 9))
@example([b"a" * 7, b"\xe4\xb8"], 4)  # the file ends inside a character
@example([b"aaa", b"\xe4\xb8", b"a"], 4)  # a character is incomplete at the end of a read
def test_an_invalid_byte_is_reported_with_its_offset(parts: list[bytes], read: int) -> None:
    data = b"".join(parts)
    try:
        data.decode()
        return
    except UnicodeDecodeError as error:
        expected = f"byte 0x{data[error.start]:02x} at offset {error.start};"
    with tempfile.TemporaryDirectory() as folder, small_pieces(read=read):
        path = Path(folder) / "a.txt"
        path.write_bytes(data)
        with pytest.raises(DataError, match=expected):
            open_document(path)


@pytest.mark.parametrize("offset", [0, 1, document.READ_BYTES - 1, document.READ_BYTES, 3 * document.READ_BYTES + 17])
@pytest.mark.parametrize(("byte", "message"), [(b"\0", "is binary: byte 0x00"), (b"\x80", "is not UTF-8: byte 0x80")])
def test_an_invalid_byte_is_detected_at_any_offset(tmp_path: Path, offset: int, byte: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * offset + byte + b"x" * 9)
    with pytest.raises(DataError, match=f"{message} at offset {offset};"):
        open_document(path)


@pytest.mark.parametrize("data", [b"", b" \n\t ", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n", b" " * 40_000])
def test_an_empty_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match="is empty"):
        open_document(path)


def test_folders_missing_files_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        open_document(tmp_path)
    with pytest.raises(DataError, match="no document at"):
        open_document(tmp_path / "missing.txt")
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(DataError, match=r"cannot read '\.docx' files"):
        open_document(tmp_path / "a.docx")
    with pytest.raises(DataError, match="neither text nor path"):
        Document("a").read()


def test_a_file_that_cannot_be_opened_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"cannot read .*a\.txt: Permission denied"):
        open_document(path)


def test_an_unpaired_surrogate_in_a_string_is_refused() -> None:
    with pytest.raises(DataError, match="character 3 is an unpaired surrogate"):
        Document("a", "abc\ud83d").sha256()


def test_an_empty_string_has_no_chunks() -> None:
    assert cut(Document("a", ""), 4) == []


def test_pieces_end_after_a_line_else_before_a_space_else_at_the_limit() -> None:
    with small_pieces(8):
        pieces = list(Document("a", "one\ntwo three four\n0123456789").pieces())
    assert pieces == ["one\n", "two", " three", " four\n", "01234567", "89"]


def test_a_character_goes_whole_into_the_next_chunk() -> None:
    first, second = cut(Document("a", "ab世"), 3)
    assert (first.text, first.tokens, first.char_end) == ("ab", (1000 + 128 * 97 + 98,), 2)
    assert (second.text, second.tokens, second.token_start) == ("世", tuple("世".encode()), 1)


def test_tokens_that_end_inside_a_character_keep_both_characters_together() -> None:
    def merged(_: str) -> tuple[list[int], list[tuple[int, int]]]:
        return [1, 2, 3, 4], [(0, 1), (1, 2), (1, 3), (2, 3)]

    first, second = chunks(Document("a", "aéé"), merged, 3)
    assert (first.text, first.tokens) == ("a", (1,))
    assert (second.text, second.tokens) == ("éé", (2, 3, 4))


def test_a_chunk_smaller_than_one_character_is_refused() -> None:
    with pytest.raises(DataError, match="chunk size 2 is smaller than the tokens of one character"):
        cut(Document("a", "世"), 2)
    for size in (0, -1):
        with pytest.raises(DataError, match=f"chunk size {size} is not possible"):
            cut(Document("a", "abc"), size)


def test_a_tokenised_document_is_cut_between_its_tokens() -> None:
    parts = cut(Document("a", tokens=(5, 6, 7, 8, 9)), 2)
    positions = [(chunk.tokens, chunk.token_start, chunk.token_end) for chunk in parts]
    assert positions == [((5, 6), 0, 2), ((7, 8), 2, 4), ((9,), 4, 5)]
