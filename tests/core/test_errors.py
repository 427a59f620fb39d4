"""Failures: errors as records on a trace, and back."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.core.config import build
from memfold.core.errors import CallError, CheckpointError, ConfigError, DataError, Failure, MemfoldError, unknown

INPUT_ERRORS = (ConfigError, DataError, CheckpointError)
BOUNDARIES = st.sampled_from(["system", "policy", "judge", "reward", "scheduler", "training"])
MESSAGES = st.text()


@given(BOUNDARIES, st.sampled_from(INPUT_ERRORS), MESSAGES)
def test_bad_input_comes_back_under_its_own_class(boundary: str, kind: type[MemfoldError], message: str) -> None:
    error = kind(message)
    failure = Failure.of(boundary, error)
    assert failure == Failure(boundary, kind.__name__, message)
    assert str(failure) == f"{boundary}: {kind.__name__}: {message}"
    again = failure.exception()
    assert type(again) is kind
    assert again.args == error.args
    assert again.exit_code == 2
    assert Failure.of(boundary, again) == failure


@given(BOUNDARIES, BOUNDARIES, MESSAGES)
def test_a_call_error_keeps_the_side_that_it_names(caught: str, boundary: str, message: str) -> None:
    error = CallError(boundary, message)
    failure = Failure.of(caught, error)
    assert failure == Failure(boundary, "CallError", message)
    assert str(failure) == str(error) == f"{boundary}: {message}"
    again = failure.exception()
    assert isinstance(again, CallError)
    assert (again.boundary, again.message, again.exit_code) == (boundary, message, 1)
    assert Failure.of(caught, again) == failure


@pytest.mark.parametrize("error", [ValueError("no number"), KeyError("lost"), ZeroDivisionError(), OSError(2, "gone")])
@pytest.mark.parametrize("boundary", ["system", "policy"])
def test_any_other_error_comes_back_as_a_failed_call(boundary: str, error: Exception) -> None:
    failure = Failure.of(boundary, error)
    assert failure == Failure(boundary, type(error).__name__, str(error))
    again = failure.exception()
    assert isinstance(again, CallError)
    assert (again.boundary, again.message) == (boundary, f"{type(error).__name__}: {error}")
    assert str(again) == str(failure) == f"{boundary}: {type(error).__name__}: {error}"


def test_a_subclass_of_an_input_error_is_named_as_what_it_is() -> None:
    class Odd(DataError):
        pass

    failure = Failure.of("system", Odd("torn"))
    assert failure == Failure("system", "Odd", "torn")
    assert str(failure.exception()) == "system: Odd: torn"


@given(st.builds(Failure, BOUNDARIES, st.sampled_from(["DataError", "KeyError", "CallError"]), MESSAGES))
def test_a_failure_is_the_same_after_it_was_stored(failure: Failure) -> None:
    stored = build(Failure, json.loads(json.dumps(asdict(failure))), "failure")
    assert stored == failure
    assert type(stored.exception()) is type(failure.exception())
    assert str(stored.exception()) == str(failure.exception())


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    assert str(unknown("colour", "gren", ["blue", "green"])) == (
        "unknown colour 'gren'; nearest: 'green'; known: blue, green"
    )
    assert str(unknown("colour", "red", [])) == "unknown colour 'red'; known: none"


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        ("unfold", ["chunk", "style"], None),
        ("odd", ["window", "mask"], None),
        ("windw", ["window", "mask"], "window"),
        ("WINDOW", ["window", "mask"], "window"),
        ("qwem2.5-7b", ["qwen2.5-7b", "qwen2.5-32b"], "qwen2.5-7b"),
    ],
)
@pytest.mark.parametrize("where", ["", "settings", "mixture[0].settings"])
def test_only_a_close_name_is_suggested(name: str, known: list[str], nearest: str | None, where: str) -> None:
    """The table of the names does not count: its name is the same for all of them."""
    message, prefix = str(unknown("setting", name, known, where)), f"{where}." if where else ""
    hint = f"nearest: {prefix + nearest!r}; " if nearest else ""
    listed = ", ".join(f"{prefix}{each}" for each in sorted(known))
    assert message == f"unknown setting {prefix + name!r}; {hint}known: {listed}"


def test_a_name_of_another_type_is_shown_as_it_is() -> None:
    assert str(unknown("colour", 7, ["blue"])) == "unknown colour 7; known: blue"
