from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from memfold.core.types import Block, Citation, Memory, Read, Reply
from memfold.systems.shared.citations import Citing, SentenceIndex, cite_reads

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


def test_every_source_has_its_own_offsets() -> None:
    two = memory()
    two.sources = ("a.txt", "b.txt")
    two.blocks.append(replace(two.blocks[0], index=1, source=1, text="Zed lives far away. " + TEXT))
    (found, *_) = SentenceIndex(two).cite("Zed lives far away.", "?", "")
    assert (found.source, found.start, found.end) == ("b.txt", 0, 19)


def test_a_memory_without_text_is_not_matched() -> None:
    bare = memory()
    bare.blocks = [replace(block, text=None) for block in bare.blocks]
    citing = Citing()
    assert not citing.possible(bare)
    assert citing.cite(bare, "?", Reply(r" Lor bakes bread. \boxed{Lor}"), "Lor") == ()


def test_two_memories_of_one_name_are_told_apart() -> None:
    citing, reply = Citing(), Reply(r" Lor bakes bread. \boxed{Lor}")
    other = "Lor bakes bread. Nobody else does."
    assert citing.cite(memory(name=""), "?", reply, "Lor")[0].start == TEXT.index("Lor bakes")
    assert citing.cite(memory(text=other, name=""), "?", reply, "Lor")[0].start == 0


def test_a_reply_without_end_is_found_by_its_question_alone() -> None:
    said = "Lor Lor Lor Lor"
    (first, *_) = Citing().cite(memory(), "What is the code?", Reply(said, finish="length"), said)
    assert first.text == "The code is KX-41!"
    (first, *_) = Citing().cite(memory(), "What is the code?", Reply(said), said)
    assert first.text == SENTENCES[2]


def test_attended_stretches_are_joined_where_they_touch() -> None:
    reads = [Read(0, 22, 30, 0.4), Read(0, 57, 61, 0.3), Read(0, 30, 40, 0.2), Read(0, 0, 5, 0.1), Read(0, 9, 12, 0.05)]
    found = cite_reads(memory(25, 33), reads)
    assert [(citation.start, citation.end) for citation in found] == [(22, 40), (57, 61), (0, 5)]
    assert places(found)[0] == "The code is KX-41!"
    assert round(found[0].score, 6) == 0.6


def test_attended_stretches_of_different_sources_stay_apart() -> None:
    two = memory()
    two.sources = ("a.txt", "b.txt")
    two.blocks.append(replace(two.blocks[0], index=1, source=1))
    found = cite_reads(two, [Read(0, 0, 5, 0.4), Read(1, 4, 8, 0.3)])
    assert [(citation.source, citation.start, citation.end) for citation in found] == [("a.txt", 0, 5), ("b.txt", 4, 8)]
