from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.prompt import user_message
from memfold.core.registry import make_system
from memfold.core.types import Answer, Block, BlockRef, Call, Citation, Memory, Reply, Sample, Text
from memfold.systems.retrieval.system import Retrieval, RetrievalFold, RetrievalRead
from memfold.systems.shared.passages import PassageIndex

TEXTS = [
    "Lor bakes bread in Tarn. ",
    "The vault opens with KX-41. ",
    "Rain fell over the hills. ",
    "Ada keeps the vault key. ",
    "Boats pass the bridge. ",
]


def memory(texts: list[str], name: str = "m") -> Memory:
    blocks, start = [], 0
    for index, text in enumerate(texts):
        blocks.append(Block(index, 0, 5 * index, 5 * index + 5, start, start + len(text), text=text))
        start += len(text)
    return Memory(name, "retrieval", {}, "", ("a.txt",), blocks)


def reading(top: int) -> Retrieval:
    return Retrieval(read=RetrievalRead(top=top))


def ask(system: Retrieval, about: Memory, question: str) -> tuple[list[int], tuple[Citation, ...]]:
    """Which blocks are read, in their order, and the citations of the answer."""
    steps = system.answer(about, question)
    (call,) = next(steps)
    with pytest.raises(StopIteration) as stopped:
        steps.send((Reply("x"),))
    assert isinstance(stopped.value.value, Answer)
    return [part.index for part in call.parts if isinstance(part, BlockRef)], stopped.value.value.citations


def test_the_block_with_the_words_is_read() -> None:
    for question, block in [("Who bakes bread?", 0), ("Where did rain fall over hills?", 2), ("BOATS, bridge?", 4)]:
        read, citations = ask(reading(top=1), memory(TEXTS), question)
        assert read == [block]
        assert [citation.text for citation in citations] == [TEXTS[block]]


def test_blocks_are_read_in_their_order_and_cited_best_first() -> None:
    read, citations = ask(reading(top=3), memory(TEXTS), "Ada's vault key, and who opens it?")
    assert read == sorted(read)
    assert {1, 3} < set(read)
    assert [citation.text for citation in citations[:2]] == [TEXTS[3], TEXTS[1]]
    assert [citation.score for citation in citations] == sorted((c.score for c in citations), reverse=True)
    start = len("".join(TEXTS[:3]))
    assert citations[0] == Citation("a.txt", start, start + len(TEXTS[3]), TEXTS[3], citations[0].score)


def test_asking_twice_gives_the_same(backbone: Backbone) -> None:
    text = " ".join(TEXTS) * 3
    system = Retrieval(RetrievalFold(chunk=16))
    blocks = list(system.compress([Document("a.txt", text)], backbone))
    about = Memory("m", "retrieval", {}, "", ("a.txt",), blocks)
    first = ask(system, about, "vault key")
    assert ask(system, about, "vault key") == first
    assert ask(Retrieval(RetrievalFold(chunk=16)), about, "vault key") == first
    assert len(first[0]) == 4 < len(blocks)


def test_a_question_without_any_known_word_reads_the_beginning_and_cites_nothing() -> None:
    assert ask(reading(top=2), memory(TEXTS), "zzz?") == ([0, 1], ())


def test_only_passages_that_share_a_word_with_the_question_are_cited() -> None:
    read, citations = ask(reading(top=4), memory(TEXTS), "bread?")
    assert len(read) == 4
    assert [citation.text for citation in citations] == [TEXTS[0]]


@pytest.mark.parametrize(
    ("passages", "question", "best"),
    [
        (
            ["\u6771\u4eac\u306f\u9996\u90fd\u3067\u3059\u3002", "\u5927\u962a\u306f\u5e02\u3067\u3059\u3002"],
            "\u5927\u962a\u3068\u306f?",
            1,
        ),  # Japanese
        (
            ["\u5317\u4eac\u662f\u9996\u90fd\u3002", "\u4e0a\u6d77\u5f88\u5927\u3002"],
            "\u4e0a\u6d77\u5927\u5417\uff1f",
            1,
        ),  # Chinese
        (
            [
                "\u0e09\u0e31\u0e19\u0e01\u0e34\u0e19\u0e02\u0e49\u0e32\u0e27",
                "\u0e40\u0e02\u0e32\u0e14\u0e37\u0e48\u0e21\u0e19\u0e49\u0e33",
            ],
            "\u0e14\u0e37\u0e48\u0e21\u0e2d\u0e30\u0e44\u0e23",
            1,
        ),  # Thai
        (
            ["\ubd80\uc0b0\uc740 \ud56d\uad6c", "\uc11c\uc6b8\uc740 \uc218\ub3c4"],
            "\uc11c\uc6b8\uc758 \uac83",
            1,
        ),  # Korean, with another particle
        (["The o\ufb03ce of Velm", "The cafe\u0301 of Tor"], "caf\u00e9", 1),
        (["The mill", "The o\ufb03ce of Vel\u00admor"], "office, Velmor", 1),
        (["\uff2b\uff38\uff0d\uff14\uff11", "ABC"], "kx-41", 0),
    ],
)
def test_words_are_found_in_any_script_and_form(passages: list[str], question: str, best: int) -> None:
    found = PassageIndex(passages).best(question, 2)
    assert found[0][0] == best
    assert found[0][1] > 0 == found[1][1]


def test_of_a_long_passage_the_best_sentence_is_cited() -> None:
    """By its words in the question or the answer; its place is that in the document."""
    filler = "Rain fell over the hills and the boats lay by the bridge for a long time. " * 6
    about = memory(["Lor bakes bread. ", f"{filler}The vault key is kept by Ada. {filler}"])
    steps = reading(2).answer(about, "Who keeps the key?")
    next(steps)
    with pytest.raises(StopIteration) as ended:
        steps.send((Reply("Ada"),))
    (citation,) = ended.value.value.citations
    assert citation.text == "The vault key is kept by Ada."
    whole = "".join(block.text or "" for block in about.blocks)
    assert whole[citation.start : citation.end] == citation.text


@pytest.mark.parametrize(("trained", "window", "chunk"), [(True, 8192, 64), (False, 8192, 256), (False, 1024, 64)])
def test_models_of_ordinary_texts_read_longer_passages(trained: bool, window: int, chunk: int) -> None:
    model: Any = SimpleNamespace(
        name="m", trained={}, trained_here=trained, window=window, has_weights=True, answering={}
    )
    assert make_system("retrieval", model).fold == RetrievalFold(chunk=chunk)
    assert make_system("retrieval", model, {"chunk": 99}).fold == RetrievalFold(chunk=99)


def test_a_short_document_is_read_whole() -> None:
    assert ask(reading(top=4), memory(TEXTS[:2]), "vault")[0] == [0, 1]


def test_two_memories_of_one_name_are_told_apart() -> None:
    system = reading(top=1)
    assert ask(system, memory(TEXTS), "Who bakes bread?")[0] == [0]
    assert ask(system, memory(TEXTS[::-1]), "Who bakes bread?")[0] == [4]


def test_all_sources_are_searched_and_named() -> None:
    about = memory(TEXTS)
    about.sources = ("a.txt", "b.txt")
    about.blocks = [replace(block, source=int(block.index > 2)) for block in about.blocks]
    citations = ask(reading(top=2), about, "vault")[1]
    assert {citation.source for citation in citations} == {"a.txt", "b.txt"}


def test_a_script_reads_all_blocks(backbone: Backbone) -> None:
    text = "".join(TEXTS)
    sample = Sample("almanac", Document("a.txt", text), "Code?", ("KX-41",))
    system = Retrieval(RetrievalFold(chunk=16))
    (step,) = system.script(sample, backbone, "bare").steps
    count = len(list(system.compress([sample.document], backbone)))
    assert count > 2
    read = [BlockRef("a.txt", index) for index in range(count)]
    assert step.call == Call("answer", user_message(*read, Text("\nCode?\nAnswer:")))
    assert step.reply.tokens == (*backbone.encode(" KX-41"), backbone.end_token)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 0}, "top = 0 is not possible; allowed: 1 chunk or more"),
        ({"chunk": 0}, "chunk = 0 is not possible; allowed: 1 token or more"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Retrieval.of(settings)


def test_an_index_ranks_by_shared_rare_words_and_breaks_ties_by_order() -> None:
    index = PassageIndex(["red fox", "red hen", "blue fish", "red fox"])
    assert [number for number, _ in index.best("blue red", 4)] == [2, 0, 1, 3]
    scores = dict(index.best("fox", 4))
    assert scores[0] == scores[3] > scores[1] == scores[2] == 0


def test_an_index_over_nothing_finds_nothing() -> None:
    assert PassageIndex([]).best("fox", 3) == []
    assert PassageIndex(["", "..."]).best("fox", 3) == [(0, 0.0), (1, 0.0)]
