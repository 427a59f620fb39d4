import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.core.errors import ConfigError
from memfold.evaluation.suite import FIRST_SEED, SUITES, Options, document_seed, load_suite


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
