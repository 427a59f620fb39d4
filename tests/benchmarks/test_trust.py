"""benchmarks/trust.py: what counts as an invention, a refusal and a foreign text, and the tables made of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import parts
import pytest
import results
import results_trust
import trust
import trust_answers as answers
import trust_foreign as foreign
from trust_answers import DOUBT, SLOTS, UNFOLD, Outcome

from memfold.backbone import familiarity
from memfold.core.document import Document
from memfold.core.prompt import ABSENT
from memfold.core.types import Sample
from memfold.evaluation.suite import Case
from memfold.evaluation.table import Table
from memfold.session import open_session
from memfold.tasks.almanac.task import write
from memfold.tasks.task import SPLITS, TaskOptions

TEXT = "Ada was born in Velm. Lor was born in\n Tarn. It was cold.\nAda sells wax. Its 12.5 miles are long."
Json = dict[str, Any]


def case(kind: str = "one-hop") -> Case:
    sample = Sample("almanac", Document("a", text=TEXT), "Where was Ada born?", answers=("Velm",), kind=kind)
    return Case("in/128/0/0", sample, sample.answers, 1, 128)


def line(reply: str, answer: str, right: bool = False, question: str = "Where was Ada born?", **more: Any) -> Json:
    """A line of samples.jsonl."""
    known = {"case": "in/128/0/0", "system": SLOTS, "question": question, "answer": answer, "reply": reply}
    return known | {"correct": right, "cost": {"calls": 1, "generated_tokens": 9}} | more


def outcome(number: int, system: str = SLOTS, **known: Any) -> Outcome:
    """An outcome; what is not given is that of a right answer with one recalled sentence of the text."""
    plain: Json = {"question": "Who?", "answer": "Velm", "right": True, "sentences": (("A.", True, True),)}
    plain |= {"supported": True, "names": (), "invented": (), "none": False, "withheld": False, "doubtful": False}
    return Outcome(
        **({"case": str(number), "system": system, "answerable": True, "calls": 1, "tokens": 8} | plain | known)
    )


def cells(table: Table, *names: str) -> list[float | None]:
    """The figures of the row whose names begin with these."""
    (row,) = [row for row in table.rows if row.names[: len(names)] == names]
    return [cell.value for cell in row.cells]


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("split", SPLITS)
def test_the_sentences_of_a_text_are_the_facts_that_it_states(level: int, split: str) -> None:
    page = write(Random(7), 800, TaskOptions(level=level, split=split), str.split)  # type: ignore[arg-type]
    assert {answers.normalised(fact.text) for fact in page.facts} <= answers.sentences_of(page.text)
    assert len(page.facts) > 20


def test_a_recalled_sentence_is_in_the_text_if_it_is_one_of_its_sentences() -> None:
    reply = r" Ada  was born in Velm. It was cold. Ada was born in Tarn. \boxed{Velm}"
    checked = answers.outcome(line(reply, "Velm", True), case())
    assert checked.sentences == (
        ("Ada  was born in Velm.", True, True),
        ("It was cold.", True, True),
        ("Ada was born in Tarn.", False, False),
    )
    assert answers.sentences_of(TEXT) == {
        "Ada was born in Velm.",
        "Lor was born in",
        "Tarn.",
        "It was cold.",
        "Ada sells wax.",
        "Its 12.5 miles are long.",
    }


def test_an_outcome_has_what_the_checks_say() -> None:
    invented = answers.outcome(line(r"Ada was born in Zork. \boxed{Zork}", "Zork"), case("absent"))
    assert not invented.answerable
    assert (invented.supported, invented.withheld, invented.doubtful, invented.marked) == (False, True, True, True)
    assert (invented.names, invented.invented, invented.none) == ((), ("Zork",), False)
    stranger = answers.outcome(line(r"\boxed{Velm}", "Velm", question="Where was Belo born?"), case())
    assert (stranger.names, stranger.none, stranger.withheld, stranger.supported) == (("Belo",), True, True, True)
    refused = answers.outcome(line(rf"\boxed{{{ABSENT}}}", ABSENT), case())
    assert refused.refused
    assert (refused.withheld, refused.marked) == (False, False)


def test_the_table_of_sentences_counts_what_is_not_marked() -> None:
    invented, missed, right, flagged = ("a", False, False), ("b", False, True), ("c", True, True), ("d", True, False)
    some = [outcome(1, sentences=(invented, missed, right)), outcome(2, sentences=(right, right, flagged, invented))]
    table = answers.tables(some)[0]
    assert cells(table, SLOTS) == [pytest.approx(3 / 7), pytest.approx(1 / 3), 0.25]
    assert cells(table, "full") == [None, None, None]


def test_the_table_of_refusals_adds_a_rule_after_the_other() -> None:
    some = [
        outcome(1, answerable=False, answer=ABSENT, supported=None),
        outcome(2, answerable=False, none=True, withheld=True, names=("Belo",)),
        outcome(3, answerable=False, withheld=True, supported=False),
        outcome(4, answerable=False, supported=False),
        outcome(5),
        outcome(6, right=False, withheld=True, supported=False),
        outcome(7, supported=False),
        outcome(8),
    ]
    table = answers.tables(some)[1]
    by_rule = [[cell.value for cell in row.cells] for row in table.rows if row.names[0] == SLOTS]
    assert by_rule == [[0.25, 0.0, 0.0], [0.5, 0.0, 0.0], [0.75, 0.25, 0.0], [1.0, 0.5, pytest.approx(1 / 3)]]


def test_the_table_of_marks_leaves_refusals_out() -> None:
    some = [
        outcome(1, answerable=False, names=("Belo",)),
        outcome(2, answerable=False, invented=("1440",)),
        outcome(3, answerable=False, answer=ABSENT, names=("Belo",)),
        outcome(4),
        outcome(5, supported=False),
        outcome(6, right=False, withheld=True),
        outcome(7, right=False),
    ]
    assert cells(answers.tables(some)[2], SLOTS) == [0.5, 0.0, 1.0, 0.5, 0.5]


def test_the_table_of_reading_again_compares_with_slots_alone() -> None:
    some = [outcome(1), outcome(2), outcome(3, right=False), outcome(4, right=False), outcome(5, answerable=False)]
    again = [(1, 2, True), (2, 1, True), (3, 2, True), (4, 1, False)]
    some += [outcome(number, DOUBT, calls=calls, right=right, tokens=16) for number, calls, right in again]
    some += [outcome(number, UNFOLD, calls=2, right=True) for number in range(1, 5)]
    table = answers.tables(some)[3]
    assert cells(table, "never") == [0.5, 0.0, 0.0, 1.0, 8.0]
    assert cells(table, "in doubt") == [0.75, 0.5, 0.5, 0.5, 16.0]
    assert cells(table, "always") == [1.0, 1.0, 1.0, 0.0, 8.0]


def test_times_are_relative_to_never() -> None:
    timed = [(0, "never", 1.0, 10), (0, "in doubt", 2.0, 10), (1, "in doubt", 4.0, 60), (1, "never", 4.0, 30)]
    records = [dict(zip(("question", "mode", "seconds", "tokens"), each, strict=True)) for each in timed]
    table = trust.times_table(records)
    assert cells(table, "never") == [1.0, 1.0]
    assert cells(table, "in doubt") == [1.5, 1.5]
    assert cells(table, "always") == [None, None]


def test_the_foreign_texts_are_many_and_of_all_kinds() -> None:
    texts = foreign.foreign_texts()
    names = [each["name"] for each in texts]
    assert len(set(names)) == len(names) >= 30
    kinds = ("German", "French", "Chinese", "Python", "C,", "JSON", "CSV", "news", "recipe", "legal")
    for kind in kinds:
        sizes = [len(each["text"]) for each in texts if each["name"].startswith(kind)]
        assert min(sizes) < 100 < foreign.LONG < max(sizes), kind
    assert all(each["question"].strip() for each in texts)


def test_the_shipped_model_knows_foreign_texts_from_almanacs() -> None:
    session = open_session()
    foreigners = foreign.foreign_texts()
    missed = [each["name"] for each in foreigners if familiarity.warning(session.model, each["text"]) is None]
    assert missed == []
    familiar = dict.fromkeys(text for _, text in foreign.almanac(64, session))
    false = [text for text in familiar if familiarity.warning(session.model, text) is not None]
    assert len(false) <= 5, "2 % of such texts are, and 5 of 64 is the most that chance explains"


def test_the_table_of_texts_counts_each_group() -> None:
    records = [
        {"group": "foreign, short", "answer": True, "memory": True, "slots": False},
        {"group": "foreign, short", "answer": True, "memory": True, "slots": True},
        {"group": "almanac, split in", "memory": False, "slots": False},
    ]
    table = foreign.familiarity_table(records)
    assert cells(table, "foreign, short") == [1.0, 1.0, 0.5]
    assert cells(table, "almanac, split in") == [None, 0.0, 0.0]


def test_names_of_public_questions_are_looked_up_in_their_own_and_in_another_text(tmp_path: Path) -> None:
    rows = [("Ada", "Velm"), ("Lor", "Tarn")]
    path = tmp_path / "rows.jsonl"
    lines = [
        {
            "_id": str(number),
            "question": f"Where was {name} born?",
            "answer": town,
            "type": "bridge",
            "level": "easy",
            "supporting_facts": [[name, 0]],
            "context": [[name, [f"{name} was born in {town}."]]],
        }
        for number, (name, town) in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    records = foreign.names([f"hotpotqa={path}"], 10)
    assert [(record["own"], record["other"]) for record in records] == [((), ("Ada",)), ((), ("Lor",))]
    assert cells(foreign.names_table(records), "hotpotqa") == [1.0, 0.0]


def result(outcomes: list[Outcome], texts: list[Json]) -> Json:
    """A result file of these outcomes."""
    from dataclasses import asdict

    times = [{"question": 0, "mode": mode, "seconds": 1.0, "tokens": 1} for mode in ("never", "in doubt", "always")]
    made = [*answers.tables(outcomes), trust.times_table(times), foreign.familiarity_table(texts)]
    whole = {"tables": [asdict(table) for table in made], "hardware": {"cpu": "Some CPU"}, "model": "small"}
    return {"part": "trust", "results": {"trust": whole | {"commit": "abc"}}, "plots": []}


def test_targets_are_reached_or_not(tmp_path: Path) -> None:
    systems = answers.SYSTEMS
    good = [outcome(1, system) for system in systems]
    good += [
        outcome(2, system, answerable=False, right=False, withheld=True, sentences=(("x", False, False),))
        for system in systems
    ]
    texts = [
        {"group": "foreign, short", "answer": True, "memory": True, "slots": True},
        {"group": "almanac, split in", "memory": False, "slots": False},
    ]
    file = result(good, texts)
    readers = (results_trust.sentences, results_trust.refusals, results_trust.texts)
    assert [read(file).reached for read in readers] == [True, True, True]
    bad = [*good, *(outcome(3, system, sentences=(("y", False, True),), withheld=True) for system in systems)]
    file = result(bad, [*texts, {"group": "foreign, short", "answer": False, "memory": True, "slots": True}])
    assert [read(file).reached for read in readers] == [False, False, False]
    assert results_trust.names(file).summary == "no --data was given"
    (tmp_path / "trust-some-cpu.json").write_text(json.dumps(file))
    page = results.render_trust(tmp_path, results.TRUST.read_text())
    assert "Target not reached on Some CPU, small (commit abc): 50 % of the foreign texts, 0.0 % of the almanac" in page
    assert page.count("python benchmarks/trust.py") == sum(section.part == "trust" for section in results.SECTIONS)


def test_the_evaluations_that_it_starts_are_commands_of_memfold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from memfold.cli.main import execute

    (words,) = parts.BY_NAME["trust"].quick.values()
    monkeypatch.setattr(sys, "argv", ["trust.py", *words, "--model", "./no-such-model", "--out", str(tmp_path)])
    for name in trust.SETS:
        assert execute(trust.evaluation(name, trust._arguments())) == 2
        assert "no model at './no-such-model'" in capsys.readouterr().err
