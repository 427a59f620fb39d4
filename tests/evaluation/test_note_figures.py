"""What becomes of evidence in hand-written notes, counted by hand."""

from __future__ import annotations

from memfold.core.document import Document
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Generate,
    Memory,
    Reply,
    Sample,
    SamplingParams,
    Span,
    Step,
    Text,
    Trace,
)
from memfold.evaluation.note_figures import note_figures

BORN, WOOL, LED = "Ada Lorn was born in Tor.", "Gub Sela sells wool.", "Tor is led by mayor Bel Hano."
TEXT = f"{BORN} {WOOL} {LED}"
STARTS = [TEXT.index(sentence) for sentence in (BORN, WOOL, LED)]
BLOCKS = [
    Block(number, 0, 0, 0, start, end, text=TEXT[start:end])
    for number, (start, end) in enumerate(zip(STARTS, [*STARTS[1:], len(TEXT)], strict=True))
]
MEMORY = Memory("m", "s", {}, "", ("a",), BLOCKS)
EVIDENCE = tuple(Span(TEXT.index(text), TEXT.index(text) + len(text)) for text in (BORN, LED))
SAMPLE = Sample("spread", Document("a", text=TEXT), "Who leads the town where Ada Lorn was born?", evidence=EVIDENCE)


def note(block: int, text: str, tokens: int, limit: int = 40) -> Step:
    wants = Generate(SamplingParams(max_tokens=limit))
    return Step(Call("update", (BlockRef("m", block), Text("?")), wants), Reply(text, tokens=(0,) * tokens))


def figures(*steps: Step, sample: Sample = SAMPLE) -> dict[str, float]:
    last = Step(Call("answer", (Text("?"),)), Reply("Bel Hano"))
    trace = Trace("?", "s", steps=(*steps, last), answer=Answer("Bel Hano", "Bel Hano"))
    return note_figures(trace, MEMORY, sample)


def test_a_fact_that_was_noted_and_lost_counts_as_noted_and_not_as_kept() -> None:
    lost = figures(note(0, BORN, 8), note(1, WOOL, 6), note(2, f"{WOOL} {LED}", 20))
    assert lost == {
        "evidence_noted": 1.0,
        "evidence_kept": 0.5,
        "note_beside": 0.5,
        "note_copied": 1.0,
        "note_filled": 0.5,
    }


def test_a_sentence_that_is_not_in_the_text_is_neither_evidence_nor_copied() -> None:
    made_up = figures(note(0, f"{BORN} She lives in Fyn.", 30))
    assert made_up["note_beside"] == made_up["note_copied"] == 0.5
    assert made_up["evidence_kept"] == 0.5
    assert made_up["note_filled"] == 0.75


def test_a_blank_note_leaves_the_one_before_it() -> None:
    assert figures(note(0, BORN, 8), note(1, " ", 0))["evidence_kept"] == 0.5
    blank = figures(note(0, "", 0))
    assert blank == {"evidence_noted": 0.0, "evidence_kept": 0.0, "note_filled": 0.0}


def test_without_notes_or_evidence_there_are_no_figures() -> None:
    assert figures() == {}
    assert figures(note(0, BORN, 8), sample=Sample("spread", Document("a", text=TEXT), "?")) == {}
