"""The text around citations, by hand, and the two calls of an unfolded answer."""

from __future__ import annotations

import pytest
from scripted_policy import scripted

from memfold.core.errors import DataError, Failure
from memfold.core.job import Job
from memfold.core.prompt import user_message
from memfold.core.scheduler import answer
from memfold.core.types import Block, BlockRef, Call, Citation, Generate, Memory, SamplingParams, Text
from memfold.systems.pooled.settings import PooledRead
from memfold.systems.pooled.system import Pooled
from memfold.systems.shared.citations import SentenceIndex, check_reply
from memfold.systems.shared.unfolding import unfolded

FIRST = "Ada was born in Velm. She is a baker. The code is KX-41. Lor met Ada."
SECOND = "Tarn is a river. It is long."


def memory(first: str | None = FIRST, second: str | None = SECOND) -> Memory:
    """Two documents, the first in two blocks whose border falls inside a word; one token for each four characters."""
    cut = 30
    blocks = [
        Block(0, 0, 0, 8, 0, cut, text=first and first[:cut]),
        Block(1, 0, 8, 18, cut, len(FIRST), text=first and first[cut:]),
        Block(2, 1, 0, 7, 0, len(SECOND), text=second),
    ]
    return Memory("m", "pooled", {}, "", ("a.txt", "b.txt"), blocks)


def cited(sentence: str) -> Citation:
    source, text = ("a.txt", FIRST) if sentence in FIRST else ("b.txt", SECOND)
    start = text.index(sentence)
    return Citation(source, start, start + len(sentence), sentence)


@pytest.mark.parametrize(
    ("sentences", "tokens", "expected"),
    [
        (["The code is KX-41."], 1, "The"),
        (["The code is KX-41."], 4, "The code is"),
        (["The code is KX-41."], 5, "The code is KX-41."),
        (["The code is KX-41."], 10, "The code is KX-41."),
        (["The code is KX-41."], 14, "She is a baker. The code is KX-41. Lor met Ada."),
        (["The code is KX-41."], 99, FIRST),
        (["Lor met Ada.", "Ada was born in Velm."], 9, "Ada was born in Velm.\nLor met Ada."),
        (["Lor met Ada.", "Ada was born in Velm."], 8, "Lor met Ada."),
        (["Lor met Ada.", "Ada was born in Velm.", "She is a baker."], 8, "She is a baker.\nLor met Ada."),
        (["Tarn is a river.", "Lor met Ada."], 99, f"{FIRST}\n{SECOND}"),
        (["The code is KX-41.", "She is a baker."], 26, "She is a baker. The code is KX-41. Lor met Ada."),
        ([], 9, ""),
    ],
)
def test_whole_sentences_around_the_citations(sentences: list[str], tokens: int, expected: str) -> None:
    assert unfolded(memory(), [cited(sentence) for sentence in sentences], tokens) == expected


LINES = "\n".join(f"{number},{number * 7919 % 1000},velm" for number in range(400))
WORDS = "salt and bread and stone and " * 200
RUN = "9f86d081884c7d659a2feaa0c55ad015" * 150
HAN = "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3042\u308a" * 300


@pytest.mark.parametrize("text", [LINES, WORDS, RUN, HAN], ids=["lines", "words", "one word", "no spaces"])
@pytest.mark.parametrize("tokens", [3, 40, 256])
def test_text_without_sentence_ends_keeps_to_the_budget(text: str, tokens: int) -> None:
    held = Memory("m", "pooled", {}, "", ("a.txt",), [Block(0, 0, 0, len(text) // 4, 0, len(text), text=text)])
    found = SentenceIndex(held).cite("", text[40:60], "")
    assert all(citation.text == text[citation.start : citation.end] for citation in found)
    assert len(found) == (0 if text == RUN else 3)
    for citations in (found, [Citation("a.txt", 0, len(text), text)]) if found else ([Citation("a.txt", 9, 2000)],):
        passages = unfolded(held, citations, tokens)
        assert 1 <= len(passages) <= 4 * tokens + 2
        assert all(line in text for line in passages.split("\n"))


def test_a_memory_without_text_cannot_be_unfolded() -> None:
    with pytest.raises(DataError, match="this memory holds no text to unfold; fold the documents without --no-text"):
        unfolded(memory(None, None), [], 9)


def unfolding(tokens: int) -> Pooled:
    return Pooled(read=PooledRead(unfold=tokens))


def test_an_answer_is_read_again_in_the_text_that_it_cites() -> None:
    policy = scripted(r" The code is KX-14. \boxed{KX-14}", r" The code is KX-41. \boxed{KX-41}")
    shown: list[str] = []
    trace = answer(Job(unfolding(9), memory(), "What is the code?"), policy, shown.append)
    closing = Text("\nWhat is the code?\nRecall:")
    wants = Generate(SamplingParams(max_tokens=160))
    blocks = tuple(BlockRef("m", index) for index in range(3))
    passages = policy.calls[1].parts[1]
    assert policy.calls == [
        Call("locate", user_message(*blocks, closing), wants),
        Call("locate", user_message(passages, closing), wants),
    ]
    assert isinstance(passages, Text)
    assert "The code is KX-41." in passages.text
    assert trace.answer is not None
    assert (trace.answer.text, trace.answer.citations[0].text) == ("KX-41", "The code is KX-41.")
    assert shown == [r" The code is KX-41. \boxed{KX-41}"], "only the reply that reads text is shown"


def test_where_a_reply_goes_beyond_what_it_read_is_read_too() -> None:
    document = "Ada founded Velm. Lor sells bread. Bo sells bread. It was cold. Salt lies where Ada works."
    held = Memory("m", "pooled", {}, "", ("a.txt",), [Block(0, 0, 0, 22, 0, len(document), text=document)])
    right = r" Ada founded Velm. Salt lies where Ada works. \boxed{salt}"
    policy = scripted(
        r" Lor founded Velm. Lor sells bread. \boxed{bread}",
        r" Ada founded Velm. Ada sells bread. \boxed{bread}",
        right,
    )
    shown: list[str] = []
    job = Job(unfolding(11), held, "What does the founder of Velm sell?")
    trace = answer(job, policy, shown.append)
    assert [call.purpose for call in policy.calls] == ["locate", "locate", "answer"]
    first, second = (call.parts[1] for call in policy.calls[1:])
    assert isinstance(first, Text)
    assert isinstance(second, Text)
    assert "Ada founded Velm." in first.text
    assert "Salt" not in first.text
    assert second.text == "Ada founded Velm.\nSalt lies where Ada works."
    assert trace.answer is not None
    assert trace.answer.text == "salt"
    assert "".join(shown) == rf" Ada founded Velm. Ada sells bread. \boxed{{bread}}{chr(10)}{right}"


@pytest.mark.parametrize(
    ("quoted", "read", "expected"),
    [
        ("Ada was born in Velm. Lor met Ada.", FIRST, []),  # all of it was read
        ("Lor was born in Tarn.", FIRST, []),  # none of it was
        ("Ada was born in Velm.", "Ada was born in Velm.", []),
        ("Ada was born in Velm. Ada met Bo.", "Ada was born in Velm.", ["Ada was born in Velm.", "Lor met Ada."]),
    ],
)
def test_it_follows_the_names_of_what_was_found(quoted: str, read: str, expected: list[str]) -> None:
    found = SentenceIndex(memory()).follow(quoted, "Where?", read)
    assert [citation.text for citation in found] == expected


def test_a_memory_without_text_fails_when_it_is_to_be_unfolded() -> None:
    trace = answer(Job(unfolding(9), memory(None, None), "What is the code?"), scripted("x"))
    message = "this memory holds no text to unfold; fold the documents without --no-text"
    assert trace.failure == Failure("system", "DataError", message)
    assert str(trace.failure) == f"system: DataError: {message}"


# Doubt: text is read again only where a reply says something that it does not contain.


def doubting(*replies: str) -> list[Call]:
    policy = scripted(*replies)
    answer(Job(Pooled(read=PooledRead(doubt=9)), memory(), "What is the code?"), policy)
    return policy.calls


def test_a_reply_that_the_text_supports_is_not_read_again() -> None:
    (call,) = doubting(r" The  code is KX-41. \boxed{KX-41}")
    assert any(isinstance(part, BlockRef) for part in call.parts)


@pytest.mark.parametrize(
    "reply",
    [
        r" The code is KX-14. \boxed{KX-14}",  # neither the sentence nor the answer
        r" The code is KX-41. \boxed{KX-14}",  # the answer alone
        r" The code of Velm is KX-41. \boxed{KX-41}",  # a sentence alone
        r" \boxed{Zorn}",
    ],
)
def test_a_reply_that_the_text_does_not_support_is_read_again(reply: str) -> None:
    calls = doubting(reply, r" The code is KX-41. \boxed{KX-41}")
    assert len(calls) == 2
    text = calls[1].parts[1]
    assert isinstance(text, Text)
    assert "The code is KX-41." in text.text


def test_a_count_is_not_looked_up_and_slots_without_text_are_not_doubted() -> None:
    assert len(doubting(r" The code is KX-41. \boxed{2}")) == 1
    policy = scripted(r" It is Zorn. \boxed{Zorn}")
    answer(Job(Pooled(read=PooledRead(doubt=9)), memory(None, None), "What is the code?"), policy)
    assert len(policy.calls) == 1


def test_recalled_sentences_are_compared_with_the_text() -> None:
    recalls = check_reply(memory(), r" Ada was born in Velm. Ada was born in Tarn. \boxed{Velm}")
    assert [(recall.text, recall.supported) for recall in recalls] == [
        ("Ada was born in Velm.", True),
        ("Ada was born in Tarn.", False),
    ]
    assert recalls[1].nearest is not None
    assert recalls[1].nearest.text == "Ada was born in Velm."
    assert check_reply(memory(None, None), r" Ada was born in Velm. \boxed{Velm}") == ()
