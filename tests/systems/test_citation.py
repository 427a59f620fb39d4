from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from memfold.core.types import Block, Citation, Memory, Passage, Reply, Span
from memfold.systems.shared.citations import (
    LONGEST,
    SentenceIndex,
    cite_passages,
    cite_reply,
    read_span,
    sentence_index,
)

TEXT = "Ada was born in Velm. The code is KX-41! Lor bakes bread.\nRain fell on Velm."
SENTENCES = ["Ada was born in Velm.", "The code is KX-41!", "Lor bakes bread.", "Rain fell on Velm."]


def memory(*cuts: int, text: str = TEXT, name: str = "m") -> Memory:
    """One document, its text cut into blocks at the given characters."""
    borders = [0, *cuts, len(text)]
    blocks = [
        Block(index, 0, 0, 4, start, end, text=text[start:end]) for index, (start, end) in enumerate(pairwise(borders))
    ]
    return Memory(name, "pooled", {}, "", ("a.txt",), blocks)


def places(citations: tuple[Citation, ...]) -> list[str]:
    """The cited sentences, each checked to be the text at its place."""
    assert all(citation.text == TEXT[citation.start : citation.end] for citation in citations)
    return [citation.text for citation in citations]


def test_each_recalled_sentence_is_found_before_any_second_best() -> None:
    for cuts in ((), (10, 30, 41)):
        found = SentenceIndex(memory(*cuts)).cite("Rain fell on Velm. The code is KX-41!", "?", "")
        assert places(found)[:2] == ["Rain fell on Velm.", "The code is KX-41!"]
        assert len(found) <= 3


def test_an_imperfect_recall_still_finds_its_sentence() -> None:
    assert places(SentenceIndex(memory()).cite("Ada was born at Tarn.", "?", ""))[0] == SENTENCES[0]


def test_the_names_of_the_question_are_found_beside_a_recall_that_has_others() -> None:
    found = SentenceIndex(memory()).cite("Ada was born in Tarn.", "Who is it that bakes the bread?", "Tarn")
    assert places(found)[:2] == [SENTENCES[0], SENTENCES[2]]


def test_without_recall_the_question_and_the_answer_are_matched() -> None:
    assert places(SentenceIndex(memory()).cite("", "Who bakes?", "Lor"))[0] == SENTENCES[2]
    assert SentenceIndex(memory()).cite("", "zzz?", "yyy") == ()


@pytest.mark.parametrize(
    ("sentences", "question", "answer", "cited"),
    [
        (
            ["\u6771\u4eac\u306f\u9996\u90fd\u3067\u3059\u3002", "\u5927\u962a\u306f\u5e02\u3067\u3042\u308b\u3002"],
            "\u5927\u962a\u3068\u306f?",
            "\u5e02",
            1,
        ),  # Japanese
        (["\u5317\u4eac\u662f\u9996\u90fd\u3002", "\u4e0a\u6d77\u5f88\u5927\uff01"], "\u5317\u4eac?", "", 0),  # Chinese
        (
            [
                "\u092f\u0939 \u0935\u0947\u0932\u094d\u092e \u0939\u0948\u0964",
                " \u0928\u0926\u0940 \u0932\u0902\u092c\u0940\u0964",
            ],
            "\u0928\u0926\u0940?",
            "",
            1,
        ),  # Hindi
        (
            ["\u0623\u064a\u0646 \u0647\u064a\u061f", " \u0627\u0644\u0646\u0647\u0631 \u0637\u0648\u064a\u0644\u06d4"],
            "\u0627\u0644\u0646\u0647\u0631",
            "",
            1,
        ),  # Arabic, Urdu
        (["The \ufb01sh swims.", " Mr.\u00a0Vel\u00admor left."], "Where is Velmor?", "", 1),
        (["A cafe\u0301 opened.", " It \uff23\uff2f\uff33\uff34 much."], "what cost?", "", 1),
    ],
)
def test_sentences_of_any_script_and_form_are_cited_as_they_stand(
    sentences: list[str], question: str, answer: str, cited: int
) -> None:
    text = "".join(sentences)
    (citation,) = SentenceIndex(memory(text=text)).cite("", question, answer)
    assert citation.text == text[citation.start : citation.end] == sentences[cited].strip()


def test_forms_do_not_matter_to_what_the_text_says() -> None:
    index = SentenceIndex(
        memory(text="The o\ufb03ce of Vel\u00admor opened. \u6771\u4eac\u306f\u9996\u90fd\u3067\u3059\u3002")
    )
    assert [recall.supported for recall in index.check("The office of Velmor opened. The office burned.")] == [
        True,
        False,
    ]
    assert index.contains("office of velmor")
    assert index.contains("\u6771\u4eac")
    assert not index.contains("\u4eac\u6771")


def test_a_long_sentence_is_cited_in_part() -> None:
    text = " ".join(f"{number} salt and stone," for number in range(200)) + " Zorn ends it."
    (citation,) = SentenceIndex(memory(text=text)).cite("", "Zorn?", "")
    assert citation.text.endswith("Zorn ends it.")
    assert len(citation.text) <= LONGEST
    assert citation.text == text[citation.start : citation.end]


def test_every_source_has_its_own_offsets() -> None:
    two = memory()
    two.sources = ("a.txt", "b.txt")
    two.blocks.append(replace(two.blocks[0], index=1, source=1, text="Zed lives far away. " + TEXT))
    (found, *_) = SentenceIndex(two).cite("Zed lives far away.", "?", "")
    assert (found.source, found.start, found.end) == ("b.txt", 0, 19)


def test_a_memory_without_text_is_not_matched() -> None:
    bare = memory()
    bare.blocks = [replace(block, text=None) for block in bare.blocks]
    assert not bare.holds_text
    assert memory().holds_text
    assert cite_reply(bare, "?", Reply(r" Lor bakes bread. \boxed{Lor}"), "Lor") == ()


def test_a_memory_of_no_blocks_holds_no_text() -> None:
    assert not Memory("m", "pooled", {}, "", ("a.txt",), []).holds_text


def test_two_memories_of_one_name_are_told_apart() -> None:
    reply = Reply(r" Lor bakes bread. \boxed{Lor}")
    other = "Lor bakes bread. Nobody else does."
    assert cite_reply(memory(name=""), "?", reply, "Lor")[0].start == TEXT.index("Lor bakes")
    assert cite_reply(memory(text=other, name=""), "?", reply, "Lor")[0].start == 0


def test_the_index_of_a_memory_is_made_once() -> None:
    cited, other = memory(), memory()
    assert sentence_index(cited) is sentence_index(cited)
    assert sentence_index(cited) is not sentence_index(other)


def test_a_reply_without_end_is_found_by_its_question_alone() -> None:
    text = "Lor Lor Lor Lor"
    (first, *_) = cite_reply(memory(), "What is the code?", Reply(text, finish="length"), text)
    assert first.text == "The code is KX-41!"
    (first, *_) = cite_reply(memory(), "What is the code?", Reply(text), text)
    assert first.text == SENTENCES[2]


def test_attended_passages_are_joined_where_they_touch() -> None:
    attended = [
        Passage(0, Span(22, 30), 0.4),
        Passage(0, Span(57, 61), 0.3),
        Passage(0, Span(30, 40), 0.2),
        Passage(0, Span(0, 5), 0.1),
        Passage(0, Span(9, 12), 0.05),
    ]
    citations = cite_passages(memory(25, 33), attended)
    assert [(citation.start, citation.end) for citation in citations] == [(22, 40), (57, 61), (0, 5)]
    assert places(citations)[0] == "The code is KX-41!"
    assert round(citations[0].score, 6) == 0.6


def test_attended_passages_of_different_sources_stay_apart() -> None:
    two = memory()
    two.sources = ("a.txt", "b.txt")
    two.blocks.append(replace(two.blocks[0], index=1, source=1))
    citations = cite_passages(two, [Passage(0, Span(0, 5), 0.4), Passage(1, Span(4, 8), 0.3)])
    assert [(citation.source, citation.start, citation.end) for citation in citations] == [
        ("a.txt", 0, 5),
        ("b.txt", 4, 8),
    ]


def test_a_span_is_read_across_blocks_and_from_its_own_source() -> None:
    two = memory(10, 30)
    two.sources = ("a.txt", "b.txt")
    two.blocks.append(replace(two.blocks[0], index=3, source=1, char_end=5, text="Other"))
    assert read_span(two, 0, Span(8, 32)) == TEXT[8:32]
    assert read_span(two, 1, Span(1, 4)) == "the"
    two.blocks = [replace(block, text=None) for block in two.blocks]
    assert read_span(two, 0, Span(8, 32)) == ""
