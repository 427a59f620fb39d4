"""Hand-written traces of wrong answers, and the class that the rules give each of them.

The second hop ("Tor is led by ...") stands first, in block 0; the first hop, which names Tor, in block 2.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise

import pytest

from memfold.core.document import Document
from memfold.core.errors import Failure
from memfold.core.prompt import ABSENT
from memfold.core.types import Answer, Block, BlockRef, Call, HeadScore, Memory, Reply, Sample, Span, Step, Text, Trace
from memfold.evaluation.wrong_answers import ANCHORED, MISSED, MIX_UP, ONE_WAY, OTHER, wrong_class

LED, WOOL, BORN, WEN = (
    "Tor is led by mayor Bel Hano.",
    "Gub Sela sells wool.",
    "Ada Lorn was born in Tor.",
    "Wen Sela was born in Fyn.",
)
TEXTS = [LED, WOOL, BORN, WEN]
QUESTION = "Who leads the town in which Ada Lorn was born?"
Made = tuple[Sample, Memory]


def made(texts: list[str], question: str, *support: str) -> Made:
    """A document with one block for each text, and a question whose evidence are some of its sentences."""
    document = " ".join(texts)
    starts = [0, *accumulate(len(text) + 1 for text in texts)]
    starts[-1] = len(document)
    blocks = [
        Block(number, 0, 0, 0, start, end, text=document[start:end])
        for number, (start, end) in enumerate(pairwise(starts))
    ]
    evidence = tuple(Span(document.index(text), document.index(text) + len(text)) for text in support)
    sample = Sample("spread", Document("a", text=document), question, ("x",), support=support, evidence=evidence)
    return sample, Memory("m", "s", {}, "", ("a",), blocks)


TWO_HOP = made(TEXTS, QUESTION, BORN, LED)
ONE_HOP = made(TEXTS, "Where was Ada Lorn born?", BORN)


def gate(block: int) -> Step:
    return Step(Call("gate", (BlockRef("m", block), Text("?")), HeadScore("gate")), Reply(score=-1.0))


def update(block: int, note: str) -> Step:
    return Step(Call("update", (BlockRef("m", block), Text("?"))), Reply(note))


def addition(block: int) -> Call:
    return Call("addition", (BlockRef("m", block), Text("?")))


def class_of(of: Made, *steps: Step, answer: str = "Wen") -> str | None:
    sample, memory = of
    last = Step(Call("answer", (Text("?"),)), Reply(answer))
    return wrong_class(Trace("?", "s", steps=(*steps, last), answer=Answer(answer, answer)), memory, sample)


FIRST_HOP = (gate(0), gate(1), gate(2), update(2, BORN), gate(3))


def test_evidence_that_was_closed_before_its_bridge_was_noted_is_one_way_reading() -> None:
    assert class_of(TWO_HOP, *FIRST_HOP) == ONE_WAY
    assert class_of(TWO_HOP, gate(0), gate(2), update(2, "Tor is where Ada Lorn was born, they say.")) == ONE_WAY


def test_a_bridge_that_was_never_noted_is_one_way_reading_too() -> None:
    assert class_of(TWO_HOP, gate(0), gate(2), update(2, " ")) == ONE_WAY


def test_evidence_that_was_closed_with_its_bridge_in_view_was_missed() -> None:
    assert class_of(TWO_HOP, *FIRST_HOP, gate(0)) == MISSED
    assert class_of(TWO_HOP, gate(2), update(2, BORN), gate(0)) == MISSED


def test_the_first_cause_counts() -> None:
    """What only unread evidence leads to says nothing: here the gate closed what the question itself names."""
    assert class_of(TWO_HOP, gate(0), gate(1), gate(2), gate(3)) == MISSED
    assert class_of(TWO_HOP, gate(0), gate(1), update(1, WOOL), gate(2), gate(3)) == ANCHORED


def test_a_statement_that_is_no_evidence_before_evidence_that_is_closed_is_early_anchoring() -> None:
    assert class_of(ONE_HOP, gate(1), update(1, WOOL), gate(2)) == ANCHORED
    # whatever the other gate scores: those before the note do not count
    assert class_of(ONE_HOP, gate(2), gate(3), update(3, WEN), gate(2)) == ANCHORED
    # reading ended before the evidence was looked at
    assert class_of(ONE_HOP, gate(1), update(1, WOOL)) == ANCHORED
    two = class_of(TWO_HOP, gate(1), gate(2), update(2, BORN), gate(3), update(3, f"{BORN} {WEN}"), gate(0))
    assert two == ANCHORED


@pytest.mark.parametrize(
    "steps",
    [
        (gate(1), gate(2), gate(3)),
        (gate(2), gate(3), update(3, WEN)),  # the statement came later
        (gate(1), update(1, ""), gate(2)),  # nothing was noted
        (gate(1), update(1, "Nothing about Ada Lorn."), gate(2)),  # no statement about anything else
        (gate(1), gate(3)),  # not among the blocks that the gate saw
    ],
)
def test_other_evidence_that_is_closed_was_missed(steps: tuple[Step, ...]) -> None:
    assert class_of(ONE_HOP, *steps) == MISSED


def test_a_block_with_evidence_misleads_nobody() -> None:
    """A wrong note from the block of the first hop is no anchoring: that block had to be read."""
    assert class_of(TWO_HOP, gate(2), update(2, "Ada Lorn was born in Tor, says Wen."), gate(0)) == MISSED


ALL_READ = (gate(2), update(2, BORN), gate(0), update(0, f"{BORN} {LED}"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Bel Hana", MIX_UP),  # nowhere in the text
        ("fyn", MIX_UP),  # said of Wen Sela
        ("wool", MIX_UP),  # said of Gub Sela
        ("Ada Lorn", OTHER),  # said where the question's own subject is
        ("mayor Bel", OTHER),
        (ABSENT, OTHER),
        ("", OTHER),
    ],
)
def test_a_value_of_nothing_or_of_another_subject_is_mixed_up(answer: str, expected: str) -> None:
    assert class_of(TWO_HOP, *ALL_READ, answer=answer) == expected


def test_a_pronoun_speaks_of_the_sentence_before() -> None:
    texts = ["Ada Lorn is a baker.", "She sells bread. Wen Sela is a tailor. He sells coats.", "Nothing else."]
    of = made(texts, "What does Ada Lorn sell?", "Ada Lorn is a baker.", "She sells bread.")
    read = (update(0, "Ada Lorn is a baker."), update(1, "Ada Lorn is a baker. She sells bread."))
    assert class_of(of, *read, answer="coats") == MIX_UP
    assert class_of(of, *read, answer="bread") == OTHER
    # both sentences are one piece, which lies in two blocks
    assert class_of(of, gate(0), update(0, texts[0]), gate(1)) == MISSED
    assert class_of(of, gate(0), update(0, texts[0]), gate(2), update(2, "Wen Sela."), gate(1)) == ANCHORED


def test_a_system_without_a_gate_reads_one_way_if_the_bridge_came_too_late() -> None:
    """All blocks are read in order, with a note that is rewritten at each."""
    late = (update(0, "(nothing yet)"), update(1, "(nothing yet)"), update(2, BORN), update(3, BORN))
    assert class_of(TWO_HOP, *late) == ONE_WAY
    # a second pass saw the second hop with its bridge in view, and dropped it all the same
    assert class_of(TWO_HOP, *late, update(0, BORN), answer="Hano Bel") == MIX_UP
    # the note never had the bridge, so the order is not the cause
    assert class_of(TWO_HOP, *(update(block, "(nothing yet)") for block in range(4)), answer="") == OTHER
    # the second hop was noted in other words, and lost later
    lost = (update(0, "Mayor Bel Hano leads Tor."), update(1, "-"), update(2, BORN), update(3, BORN))
    assert class_of(TWO_HOP, *lost, answer="") == OTHER


def test_blocks_of_one_round_do_not_see_each_others_notes() -> None:
    """The first hop stands first, and only the second round reads the second hop with it in view."""
    of = made([BORN, WOOL, LED, WEN], QUESTION, BORN, LED)
    notes = dict.fromkeys(range(4), "(nothing yet)") | {0: BORN}
    first = [replace(update(block, note), call=addition(block)) for block, note in notes.items()]
    second = [replace(update(block, BORN), call=addition(block)) for block in notes]
    assert class_of(of, *first) == ONE_WAY
    assert class_of(of, *first, *second, answer="Hano Bel") == MIX_UP
    assert class_of(of, *(update(block, BORN) for block in notes), answer="Hano Bel") == MIX_UP, "in sequence"


def test_a_block_that_is_read_for_the_answer_itself_counts_as_read() -> None:
    direct = Step(Call("answer", (BlockRef("m", 2), Text("?"))), Reply("Fyn"))
    sample, memory = ONE_HOP
    trace = Trace("?", "s", steps=(gate(0), gate(2), direct), answer=Answer("Fyn", "Fyn"))
    assert wrong_class(trace, memory, sample) == MIX_UP


def test_what_has_no_class() -> None:
    sample, memory = TWO_HOP
    at_once = Step(Call("answer", (BlockRef("m", 0), BlockRef("m", 1), Text("?"))), Reply("Wen"))
    answered = Trace("?", "s", steps=(at_once,), answer=Answer("Wen", "Wen"))
    assert wrong_class(answered, memory, sample) is None
    assert class_of((replace(sample, evidence=(), support=()), memory), *FIRST_HOP) is None
    failed = Trace("?", "s", steps=FIRST_HOP, failure=Failure("policy", "DataError", "down"))
    assert wrong_class(failed, memory, sample) is None
