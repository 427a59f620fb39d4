"""What `memfold inspect` says of the calls of a trace: decisions of the gate, and what each note changed."""

from __future__ import annotations

from typing import Any

from memfold.cli.steps import describe


def gate(block: int, logit: float) -> dict[str, Any]:
    parts = [{"memory": "a", "index": block}, {"text": "?"}]
    return {"call": {"purpose": "gate", "parts": parts}, "reply": {"score": logit, "logprobs": []}}


def asked(block: int, yes: float, no: float) -> list[dict[str, Any]]:
    calls = [gate(block, 0.0), gate(block, 0.0)]
    for call, value in zip(calls, (yes, no), strict=True):
        call["reply"] = {"score": None, "logprobs": [value]}
    return calls


def written(purpose: str, text: str, block: int | None = None) -> dict[str, Any]:
    parts = [] if block is None else [{"memory": "a", "index": block}]
    reply = {"text": text, "tokens": [1, 2], "finish": "stop"}
    return {"call": {"purpose": purpose, "parts": parts}, "reply": reply}


def test_decisions_and_changes_of_the_note() -> None:
    """Scores of blocks after an opened one are superseded by those with the new note."""
    steps = [gate(0, -2.0), gate(1, -1.0), gate(2, 3.0), gate(3, 5.0), written("update", "Ada sells wool.", 2)]
    steps += [gate(3, -4.0), gate(4, 1.0), written("update", "Bel has 2 boats.", 4), written("answer", "2")]
    assert describe(steps) == [
        ("gate", "2 blocks, 0 to 1: closed, score at most 0.27"),
        ("gate", "block 2: opened, score 0.95"),
        ("step", "1, update, block 2: 2 tokens (stop) Ada sells wool."),
        ("", "+ Ada sells wool."),
        ("gate", "block 3: closed, score at most 0.02"),
        ("gate", "block 4: opened, score 0.73"),
        ("step", "2, update, block 4: 2 tokens (stop) Bel has 2 boats."),
        ("", "+ Bel has 2 boats."),
        ("", "- Ada sells wool."),
        ("step", "3, answer: 2 tokens (stop) 2"),
    ]


def test_all_blocks_are_scored_before_the_best_is_opened() -> None:
    steps = [gate(0, -2.0), gate(1, 3.0), gate(2, 1.0), gate(3, 0.0), written("update", "Ada.", 1), gate(0, -3.0)]
    assert describe(steps, best=True) == [
        ("gate", "3 blocks, 0, 2 to 3: closed, score at most 0.73"),
        ("gate", "block 1: opened, score 0.95"),
        ("step", "1, update, block 1: 2 tokens (stop) Ada."),
        ("", "+ Ada."),
        ("gate", "block 0: closed, score at most 0.05"),
    ]


def test_a_model_that_is_asked_has_odds_and_a_blank_note_changes_nothing() -> None:
    steps = [*asked(0, -0.1, -2.1), written("update", "Ada.", 0), written("update", " ", 1)]
    assert describe(steps) == [
        ("gate", "block 0: opened, score 0.88"),
        ("step", "1, update, block 0: 2 tokens (stop) Ada."),
        ("", "+ Ada."),
        ("step", "2, update, block 1: 2 tokens (stop) "),
        ("", "= the note is unchanged"),
    ]


def test_of_notes_that_are_merged_what_is_new_in_each_is_shown() -> None:
    """Nothing is lost, whatever a note leaves out: the shared note keeps its sentences."""
    steps = [written("addition", "Ada sells wool.", 0), written("addition", "(nothing yet)", 1)]
    steps += [written("addition", "Bel has 2 boats.", 0), written("addition", "ada sells wool. Tor.", 1)]
    assert describe([*steps, written("answer", "2")]) == [
        ("step", "1, addition, block 0: 2 tokens (stop) Ada sells wool."),
        ("", "+ Ada sells wool."),
        ("step", "2, addition, block 1: 2 tokens (stop) (nothing yet)"),
        ("", "= it adds nothing"),
        ("step", "3, addition, block 0: 2 tokens (stop) Bel has 2 boats."),
        ("", "+ Bel has 2 boats."),
        ("step", "4, addition, block 1: 2 tokens (stop) ada sells wool. Tor."),
        ("", "+ Tor."),
        ("step", "5, answer: 2 tokens (stop) 2"),
    ]


def test_a_second_pass_begins_again_at_the_first_block() -> None:
    steps = [gate(block, -2.0) for block in (6, 7, 0, 1, 2, 4)]
    assert describe(steps) == [("gate", "6 blocks, 6 to 7, 0 to 2, 4: closed, score at most 0.12")]


def test_a_gate_that_opens_nothing() -> None:
    assert describe([gate(0, -2.0), gate(1, -3.0)]) == [("gate", "2 blocks, 0 to 1: closed, score at most 0.12")]
