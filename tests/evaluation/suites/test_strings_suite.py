from collections.abc import Callable
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError, MemfoldError
from memfold.core.types import Answer, Call, Citation, Reply, Step, Text, Trace
from memfold.evaluation.report import write_report
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Case, Options
from memfold.evaluation.suites.strings import StringsSuite

Evaluate = Callable[..., Evaluation]


def made(backbone: Backbone, **changes: object) -> list[Case]:
    settings = {"lengths": (400, 600), "questions": 16, "splits": ("in",), "per_document": 4} | changes
    return list(StringsSuite().cases(Options(**settings), backbone))  # type: ignore[arg-type]


def read_again(case: Case, passages: str, answer: str, *citations: Citation) -> Trace:
    """The trace of a system that looked for the place first and then read `passages`."""
    look = Step(Call("locate", (Text("?"),)), Reply("it is there"))
    parts = (Text(""), Text(passages), Text(f"\n{case.sample.question}\nRecall:"))
    settings = {"chunk": 100}
    said = Answer(answer, answer, citations)
    return Trace(case.sample.question, "pooled", settings, (look, Step(Call("answer", parts), Reply(answer))), said)


@pytest.mark.parametrize("haystack", ["filler", "almanac"])
def test_every_string_stands_once_in_the_document_that_asks_for_it(trained: Backbone, haystack: str) -> None:
    cases = made(trained, haystack=haystack)
    assert [case.sample.kind for case in cases] == ["code", "date", "uuid", "name"] * 4
    assert len({case.seed for case in cases}) == 4
    for case in cases:
        text, (span,) = case.sample.document.read(), case.sample.evidence
        assert text.count(case.accepted[0]) == 1
        assert case.accepted[0] in text[span.start : span.end] == case.sample.support[0]
        assert len(trained.encode(text)) <= case.size
    texts = " ".join(case.sample.document.read() for case in cases)
    assert any(word in texts for word in ("was born", "guild of", "The ship")) == (haystack == "almanac")


def test_the_last_document_has_the_questions_that_are_left(trained: Backbone) -> None:
    assert len(made(trained, questions=7, lengths=(400,))) == 7


def test_exact_is_character_for_character(trained: Backbone) -> None:
    suite, case = StringsSuite(), made(trained)[3]
    value = case.accepted[0]
    for answer, right in [
        (f"It is {value}.", True),
        (value.lower(), False),
        (f"{value}-2", False),
        (value[:-1], False),
    ]:
        trace = Trace("?", "full", {"chunk": 100}, answer=Answer(answer, answer))
        assert suite.score(case, trace, trained).correct is right


def test_the_right_block_is_that_of_the_citations_or_of_what_was_read_again(trained: Backbone) -> None:
    suite, case = StringsSuite(), made(trained, lengths=(600,), questions=4)[0]
    text, (span,) = case.sample.document.read(), case.sample.evidence
    here = Citation("d", span.start, span.end)
    far = Citation("d", *((0, 5) if span.start > len(text) / 2 else (len(text) - 5, len(text))))
    for citations, figures in [((far, here), {"block_cited": 1.0}), ((far,), {"block_cited": 0.0}), ((), {})]:
        trace = Trace("?", "full", {"chunk": 100}, answer=Answer("no", "no", citations))
        assert suite.score(case, trace, trained).figures == figures
    sentence = case.sample.support[0]
    nearby = text[max(0, span.start - 12) : span.start].strip() or text[span.end : span.end + 12].strip()
    for passages, read, block in [(f"Some.\n{sentence}", 1.0, 1.0), (nearby, 0.0, 1.0)]:
        score = suite.score(case, read_again(case, passages, "no", far), trained)
        assert score.figures == {"read_again": read, "block_cited": block}, "the last citations say nothing of it"


def test_with_and_without_unfold_side_by_side(evaluate: Evaluate, tmp_path: Path) -> None:
    labels = ("pooled", "pooled/unfold=32")
    evaluation = evaluate(*labels, suite="strings", lengths=(200,), splits=("in",), questions=8, per_document=2)
    garbled = KnowsEverything(evaluation, wrong=lambda case: case.sample.kind == "uuid")
    records = run(evaluation, tmp_path, garbled)
    result = write_report(evaluation, records, tmp_path, seconds=1.0)
    table, kinds = result["tables"][:2]
    plain, again = ([cell["value"] for cell in row["cells"]] for row in table["rows"])
    assert (plain[0], plain[3:]) == (0.75, [None, None])
    assert again[0] == 0.75
    assert (again[1], again[3]) == (1.0, pytest.approx(0.75, abs=0.26)), "a short text is one block"
    uuid = [row["cells"][kinds["columns"].index("uuid")]["value"] for row in kinds["rows"]]
    assert uuid == [0, 0]
    assert "strings-in.png" in result["plots"]


def test_what_cannot_be_planted_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown kind of string 'cod'; nearest: 'code'"):
        StringsSuite().check(Options((64,), 4, kinds=("cod",)))
    with pytest.raises(ConfigError, match="replaces --haystack almanac"):
        StringsSuite().check(Options((64,), 4, text="essay.txt", haystack="almanac"))
    with pytest.raises(MemfoldError, match="does not exist"):
        StringsSuite().check(Options((64,), 4, text=str(tmp_path / "none.txt")))
    with pytest.raises(ConfigError, match="unknown haystack 'hay'; known: almanac, filler"):
        Options((64,), 4, haystack="hay")
