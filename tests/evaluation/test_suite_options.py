import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.evaluation.suite import FIRST_SEED, SUITES, Case, Options, document_seed, load_suite, with_options


def test_cells_spread_the_questions_evenly() -> None:
    options = Options(lengths=(128, 256), questions=10, splits=("in", "out"))
    assert options.cells() == [("in", 128, 3), ("in", 256, 3), ("out", 128, 2), ("out", 256, 2)]
    assert Options((128, 128), 4, ("in", "in")).cells() == [("in", 128, 4)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lengths": ()}, "lengths"),
        ({"lengths": (0,)}, "lengths"),
        ({"questions": 0}, "questions"),
        ({"splits": ("inside",)}, "unknown split 'inside'; known: in, out"),
        ({"splits": ("ot",)}, "unknown split 'ot'; nearest: 'out'"),
        ({"haystack": "fillr"}, "unknown haystack 'fillr'; nearest: 'filler'"),
        ({"per_cell": "gradd"}, "unknown cells 'gradd'; nearest: 'graded'"),
        ({"splits": ()}, "splits"),
        ({"level": 4}, "level"),
        ({"per_document": 0}, "per_document"),
    ],
)
def test_impossible_options_name_the_field(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Options(**{"lengths": (128,), "questions": 1} | wrong)  # type: ignore[arg-type]


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4))
def test_seeds_of_documents_are_never_those_of_training(place: list[object]) -> None:
    assert FIRST_SEED <= document_seed(*place) < 1 << 42


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="nearest: 'almanac'"):
        load_suite("almanach")


@pytest.mark.parametrize("name", sorted(SUITES))
def test_every_suite_has_its_own_name(name: str) -> None:
    assert load_suite(name).name == name


CHANGED = {"lengths": (480, 500), "questions": 24, "splits": ("out",), "level": 2, "per_document": 2, "seed": 1}
NOT_GENERATED = ("qa", "longbench-v2")  # suites of local files
PARAGRAPH = "Ada was born in Velm. " * 8


def local_files(suite: str, folder: Path) -> tuple[str, ...]:
    """Four questions in the layout of a dataset of the suite."""
    rows: list[dict[str, object]] = []
    for number in range(4):
        letters = {f"choice_{letter}": f"town {letter}" for letter in "ABCD"}
        answers = {"text": ["Velm"], "answer_start": [PARAGRAPH.index("Velm")]}
        rows.append(
            {"id": str(number), "context": PARAGRAPH * (4 - number), "question": "Where?", "answers": answers}
            if suite == "qa"
            else letters
            | {"_id": str(number), "question": "Where?", "answer": "A", "domain": "Law"}
            | {"context": PARAGRAPH * (4 - number)}
        )
    path = folder / ("rows.jsonl" if suite == "qa" else "rows.json")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if suite == "qa" else json.dumps(rows))
    return (f"{'squad' if suite == 'qa' else suite}={path}",)


def made(suite: str, options: Options, model: Backbone) -> list[Case]:
    return list(load_suite(suite).cases(options, model))


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("suite", SUITES)
def test_options_change_what_is_asked_or_are_refused(trained: Backbone, tmp_path: Path, suite: str, name: str) -> None:
    data = local_files(suite, tmp_path) if suite in NOT_GENERATED else ()
    options = Options(lengths=(600,), questions=2 if data else 22, splits=("in",), level=3, data=data)
    changed = {name: (200,) if data and name == "lengths" else CHANGED[name]}
    if name in load_suite(suite).ignored(options):
        with pytest.raises(ConfigError, match="has no effect in suite"):
            with_options(load_suite(suite), options, changed)
        assert made(suite, options, trained) == made(suite, replace(options, **changed), trained)
    else:
        other = with_options(load_suite(suite), options, changed)
        assert made(suite, options, trained) != made(suite, other, trained)


def test_what_generates_documents_is_refused_beside_local_files() -> None:
    for name, flag, value in [("level", "level", 1), ("splits", "split", ("out",))]:
        with pytest.raises(ConfigError, match=f"--{flag} has no effect in suite 'multihop' with these options"):
            with_options(
                load_suite("multihop"), load_suite("multihop").quick, {"data": ("hotpotqa=a.json",), name: value}
            )


def test_the_seed_of_local_files_counts_where_replies_are_sampled() -> None:
    suite, given = load_suite("qa"), {"data": ("squad=a.json",), "seed": 1}
    assert with_options(suite, suite.quick, given | {"sampling": "paper"}).seed == 1
    with pytest.raises(ConfigError, match="--seed has no effect"):
        with_options(suite, suite.quick, given)
