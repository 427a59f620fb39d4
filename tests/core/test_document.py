from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.core import document
from memfold.core.document import Chunk, Document, chunks
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


def small_pieces(size: int = 8) -> AbstractContextManager[object]:
    """Use small pieces, so that short texts cover all boundary cases."""
    return patch.object(document, "PIECE_CHARACTERS", size)


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


def test_an_unpaired_surrogate_in_a_string_is_refused() -> None:
    with pytest.raises(DataError, match="character 3 is an unpaired surrogate"):
        Document("a", "abc\ud83d").sha256()


def test_a_document_without_text_is_refused() -> None:
    with pytest.raises(DataError, match="neither text nor path"):
        Document("a").read()


def test_a_renamed_document_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Document("a", "Velm")
    sha256 = opened.sha256()
    monkeypatch.setattr(Document, "pieces", lambda self: pytest.fail("the text was read again"))
    assert opened.renamed("b").source == "b"
    assert opened.renamed("b").sha256() == sha256


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
