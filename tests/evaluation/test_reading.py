from memfold.core.types import Block, BlockRef, Call, HeadScore, Memory, Reply, Span, Step, Text, Trace
from memfold.evaluation.reading import reading_figures

MEMORY = Memory("m", "s", {}, "", ("a",), [Block(n, 0, 0, 0, 10 * n, 10 * n + 10) for n in range(5)])


def trace(*calls: tuple[str, int | None]) -> Trace:
    steps = []
    for purpose, block in calls:
        parts = (Text("?"),) if block is None else (BlockRef("m", block), Text("?"))
        wants = {"wants": HeadScore("gate")} if purpose == "gate" else {}
        steps.append(Step(Call(purpose, parts, **wants), Reply()))  # type: ignore[arg-type]
    return Trace("?", "s", steps=tuple(steps))


def test_evidence_counts_where_all_of_it_lies_in_blocks_that_were_read() -> None:
    asked = trace(*(("gate", n) for n in range(5)), ("update", 1), ("update", 2), ("update", 1), ("answer", None))
    evidence = (Span(12, 18), Span(17, 25), Span(28, 31), Span(40, 42))
    assert reading_figures(asked, MEMORY, evidence) == {"blocks_read": 2.0, "evidence_read": 0.5}
    assert reading_figures(asked, MEMORY, (Span(29, 30), Span(10, 11))) == {"blocks_read": 2.0, "evidence_read": 1.0}
    assert reading_figures(asked, MEMORY, ()) == {"blocks_read": 2.0}


def test_a_gate_that_opens_nothing_or_the_answer_itself_reads_the_block() -> None:
    closed = trace(("gate", 0), ("gate", 1))
    assert reading_figures(closed, MEMORY, (Span(0, 3),)) == {"blocks_read": 0.0, "evidence_read": 0.0}
    best = trace(("gate", 0), ("gate", 1), ("answer", 1))
    assert reading_figures(best, MEMORY, (Span(0, 3), Span(12, 13))) == {"blocks_read": 1.0, "evidence_read": 0.5}


def test_notes_that_are_merged_are_readings() -> None:
    asked = trace(("addition", 0), ("addition", 1), ("answer", None))
    assert reading_figures(asked, MEMORY, (Span(0, 3), Span(22, 23))) == {"blocks_read": 2.0, "evidence_read": 0.5}


def test_what_reads_all_at_once_has_no_such_figures() -> None:
    assert reading_figures(trace(("answer", 0), ("answer", None)), MEMORY, (Span(0, 3),)) == {}
