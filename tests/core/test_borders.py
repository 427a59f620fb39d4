"""Where texts are divided: sentences of many scripts, and pieces that cut no word, name or number."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.core.borders import border, borders, ends_sentence_unspaced, sentences
from memfold.core.document import Document, chunks, text_chunks

TEXT = st.text(st.sampled_from("aA1 \n.,!?:'\")\u2026\u0301\u4e16\u3002\u0e01\u0964"), max_size=120) | st.text(
    max_size=80
)


def cut(text: str, longest: int | None = None) -> list[str]:
    return [text[start:end] for start, end in sentences(text, longest)]


@pytest.mark.parametrize(
    "parts",
    [
        ["Ada was born in Velm.", "Is it far?", "No!", "She left\u2026", "He stayed..."],
        ['He said: "No."', "(It rained.)", "[It rained!]", "\u00abNon.\u00bb", "\u201cYes.\u201d", "\u201eNein.\u201c"],
        ["Mr. Brisk met Dr. Ada Lorn and Mrs. J. R. Tarsk in St. Velm.", "They spoke."],
        ["The U.S. Senate met at 3 p.m. in room No. 5, see Fig. 2 or e.g. Brisk et al. 2001.", "It cost 3.14 coins."],
        ["Am 3. Mai 1871, d.h. vor Jahren, kam Hr. Tarsk an.", "Er blieb."],
        ["It is 27.", "She has 12."],
        ['"Stop!" he cried.', "Wait... what is it?", "The file a.txt is at www.velm.org/a?b=c now."],
        ["Velm lies by the sea.[12]", "It is old.[a]"],
        ["Contents . . . . . . 12 and more."],
        ["all is in lower case.", "nothing has a capital.", "see no. 5 there?"],
        ["Il \u00e9tait l\u00e0 ?", "Oui !"],
        [
            "\u041e\u043d \u0436\u0438\u043b \u0432 \u0422\u043e\u0440\u0435.",
            "\u0410. \u0421. \u041f\u0443\u0448\u043a\u0438\u043d \u043f\u0440\u0438\u0448\u0451\u043b.",
        ],  # Russian
        [
            "\u092f\u0939 \u092a\u0939\u0932\u093e \u0939\u0948\u0964",
            "\u0926\u0942\u0938\u0930\u093e \u0939\u0948\u0964",
        ],  # Hindi
        [
            "\u0647\u0644 \u0647\u0648 \u0647\u0646\u0627\u061f",
            "\u0646\u0639\u0645.",
            "\u06c1\u0627\u06ba\u06d4",
        ],  # Arabic, Urdu
        ["\u054d\u0561 \u0574\u0565\u056f \u0567\u0589", "\u0535\u0580\u056f\u0578\u0582\u0589"],  # Armenian
        ["\u12ed\u1205 \u1290\u12cd\u1362", "\u1201\u1208\u1275\u1362"],  # Ethiopic
        ["\u179a\u17bf\u1784\u17d4", "\u1796\u17b8\u179a\u17d4"],  # Khmer
        ["\u1019\u103c\u1014\u103a\u104b", "\u1019\u102c\u104b"],  # Burmese
    ],
)
def test_sentences_of_scripts_with_spaces(parts: list[str]) -> None:
    for between in (" ", "  ", "\n\n", "\r\n\r\n"):
        assert cut(between.join(parts)) == parts


def test_sentences_of_scripts_without_spaces() -> None:
    parts = [
        "\u6771\u4eac\u306f\u9996\u90fd\u3002",
        "\u5c0f\u660e\u8bf4\uff1a\u201c\u4f60\u597d\uff01\u201d",
        "\u771f\u7684\u5417\uff1f\uff01",
        "\u300c\u884c\u304f\u3002\u300d",
        "\u5186\u5468\u7387\u306f\uff13\uff0e\uff11\uff14",
    ]
    assert cut("".join(parts)) == parts


def test_a_line_end_ends_a_sentence() -> None:
    lines = [
        "# Title",
        "The first line",
        "- one item that is as long as a line of prose",
        "- another",
        "id,name",
        "1,Ada",
    ]
    assert cut("\n".join(lines)) == lines
    assert cut("\r\n".join(lines)) == cut("\u2028".join(lines)) == lines


def test_wrapped_lines_are_one_sentence() -> None:
    wrapped = (
        "It was the best of times, it was the worst of times,\n"
        "it was the age of wisdom, as Mr.\u00a0Brisk told Elizabeth\n"
        "Lorn in the garden of the old house by the river. Then\n"
        "he left.\n\nCHAPTER I\nIt began as all such stories begin in\nthe town of Velm."
    )
    first, *rest = cut(wrapped)
    assert first.endswith("by the river.")
    assert rest == ["Then\nhe left.", "CHAPTER I", "It began as all such stories begin in\nthe town of Velm."]


@settings(deadline=None)
@given(TEXT, st.none() | st.integers(1, 40))
def test_sentences_are_stretches_of_the_text_and_leave_out_only_white_space(text: str, longest: int | None) -> None:
    end = 0
    for start, stop in sentences(text, longest):
        assert text[end:start].strip() == ""
        assert start < stop
        assert text[start:stop] == text[start:stop].strip()
        assert longest is None or stop - start <= longest
        end = stop
    assert text[end:].strip() == ""


@settings(deadline=None)
@given(TEXT, st.integers(0, 20), st.integers(1, 40))
def test_borders_are_within_a_piece(text: str, start: int, size: int) -> None:
    text = "x" * start + text + "y" * (size + 1)
    assert start < border(text, start, start + size) <= start + size
    for end, following in borders(text, start, start + size):
        assert start < end <= start + size
        assert end <= following
        assert text[end:following].strip() == ""


@pytest.mark.parametrize(
    ("text", "limit", "piece"),
    [
        ("He left. Ada Lorn met Belo", 23, "He left. Ada Lorn met "),  # the sentence ends too early
        ("Ada met him. Lor Tarsk", 18, "Ada met him. "),
        ("Ada met him, Lor Tarsk", 18, "Ada met him, "),
        ("they all met Lor Tarsk there", 17, "they all met "),
        ("they sang The Song of Velm today", 20, "they sang "),
        ("they sang The Song of Velm today", 23, "they sang "),
        ("Ada Lorn Belo Tarsk", 16, "Ada Lorn Belo "),  # names only
        ("it happened on 14 March 1733 in", 24, "it happened on "),
        ("it has 1 234 567 people", 13, "it has "),
        ("it was in May 14, 1733 or so", 18, "it was in "),
        ("ab cdefghijklmnop", 12, "ab "),
        ("abcdefghijklmnop", 12, "abcdefghijkl"),
    ],
)
def test_names_and_numbers_stay_whole(text: str, limit: int, piece: str) -> None:
    assert text[: border(text, 0, limit)] == piece


def test_a_character_keeps_its_marks() -> None:
    text = "e\u0301" * 40
    assert border(text, 0, 21) == 20


@pytest.mark.parametrize(
    ("character", "ends"),
    [("\u3002", True), ("\uff1f", True), ("\u0964", True), (".", False), ("!", False), ("a", False), (" ", False)],
)
def test_marks_that_need_no_white_space(character: str, ends: bool) -> None:
    assert ends_sentence_unspaced(character) is ends


# Chunks of tokens


def word_tokens(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Pieces of three characters at most, a space with what follows it, as subword tokenizers do."""
    offsets: list[tuple[int, int]] = []
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or text[end].isspace() or end - start == 3:
            offsets.append((start, end))
            start = end
    return [ord(text[begin]) for begin, _ in offsets], offsets


def stripped_tokens(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """As `word_tokens`, but offsets leave out the space, as those of some tokenizers do."""
    tokens, offsets = word_tokens(text)
    pairs = [
        (token, (end - len(text[start:end].lstrip()), end)) for token, (start, end) in zip(tokens, offsets, strict=True)
    ]
    return [token for token, _ in pairs], [span for _, span in pairs]


NAMES = ["Ada Lorn", "Belo van Tarsk", "Zorvel", "Quenbrisk Omarel", "KX-4071", "14 March 1733", "1,234,567.25"]


@pytest.mark.parametrize("tokenize", [word_tokens, stripped_tokens])
@pytest.mark.parametrize("size", [16, 64])
def test_chunks_end_between_sentences_and_names_are_whole(tokenize: object, size: int) -> None:
    rng = Random(size)
    said = [f"{rng.choice(NAMES)} was seen near {rng.choice(NAMES)}{rng.choice('.!?')}" for _ in range(400)]
    document = Document("a", " ".join(said))
    parts = list(text_chunks(document, tokenize, size))  # type: ignore[arg-type]
    assert "".join(part.text for part in parts) == document.text
    assert all(0 < len(part.tokens) <= size for part in parts)
    assert [part.token_start for part in parts[1:]] == [part.token_end for part in parts[:-1]]
    if size == 64:
        assert all(part.text.rstrip()[-1] in ".!?" for part in parts)
    held = sum(any(name in part.text for part in parts) for name in NAMES)
    assert held == len(NAMES)
    borders_in_names = [
        part.char_end
        for part in parts
        for name in NAMES
        for shift in range(1, len(name))
        if document.read()[part.char_end - shift :].startswith(name)
    ]
    assert borders_in_names == []
    fixed = list(chunks(document, tokenize, size))  # type: ignore[arg-type]
    assert {len(part.tokens) for part in fixed[:-1]} == {size}


def test_a_long_word_is_cut_at_the_limit() -> None:
    parts = list(text_chunks(Document("a", "x" * 50), word_tokens, 4))
    assert [len(part.tokens) for part in parts] == [4, 4, 4, 4, 1]


def test_a_document_of_tokens_is_cut_between_them() -> None:
    parts = list(text_chunks(Document("a", tokens=(5, 6, 7)), word_tokens, 2))
    assert [part.tokens for part in parts] == [(5, 6), (7,)]
