"""`memfold inspect` on recorded replies, and `memfold train` on a recipe of reinforcement learning."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from command_result import Cli

RECIPE = """
stage = "rl"
parent = "{parent}"
steps = 2
reward = "{reward}"
questions = 2
rollouts = 2
reply_tokens = 12
algorithm = {{ overlong_buffer = 4 }}
validate_every = 2
validation_questions = 1
checkpoint_every = 1

[[mixture]]
task = "almanac"
weight = 1
sizes = [64]
level = 0
"""
REWARD = "def length(sample, trace):\n    return len(trace.steps[-1].reply.text) % 7\n"
REPLY = {
    "case": "in/128/0/0",
    "system": "pooled",
    "kind": "one-hop",
    "question": "Where?",
    "accepted": ["Velm"],
    "reply": "Ada was born in Velm. She [x] met Tibur",
    "answer": "Velm",
    "correct": True,
    "error": None,
    "expansions": [{"start": 0, "end": 21, "source_start": 5, "source_end": 26, "same": 6, "tokens": 6}],
    "invented": ["Tibur"],
}


def write(path: Path, *records: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_replies_are_shown_with_what_they_expand(cli: Cli) -> None:
    write(
        Path("samples.jsonl"), REPLY, REPLY | {"case": "in/128/0/1", "correct": False, "expansions": [], "invented": []}
    )
    shown = cli("inspect", "samples.jsonl")
    assert shown.code == 0
    assert "in/128/0/0 (pooled, one-hop): reward 1" in shown.out
    assert "reply     \u27e6Ada was born in Velm.\u27e7 She [x] met Tibur" in shown.out
    assert "expanded  1, 1 verbatim, fidelity 100%" in shown.out
    assert "invented  Tibur" in shown.out
    assert shown.out.count("\u27e6") == 1
    assert cli("inspect", "samples.jsonl", "--wrong").out.startswith("in/128/0/1 ")
    assert "in/128/0/1" not in cli("inspect", ".", "--first", 1).out
    assert len(cli("inspect", "samples.jsonl", "--case", "in/128/0/1", "--json").record["replies"]) == 1
    none = cli("inspect", "samples.jsonl", "--case", "other", "--wrong")
    assert (none.code, none.message) == (
        2,
        "samples.jsonl holds no reply for --case other --wrong; try other filters",
    )
    write(Path("failed.jsonl"), REPLY | {"reward": None, "error": "policy: broken"}, REPLY | {"reward": 0.5})
    shown = cli("inspect", "failed.jsonl", "--wrong")
    assert "in/128/0/0 (pooled, one-hop): no reward, error: policy: broken" in shown.out
    assert "reward 0.5" not in shown.out


def test_a_trace_of_several_calls_is_shown_step_by_step(cli: Cli) -> None:
    def step(purpose: str, text: str, finish: str) -> dict[str, Any]:
        return {"call": {"purpose": purpose}, "reply": {"text": text, "tokens": [1, 2, 3], "finish": finish}}

    steps = [step("note", f"a note\n{'long ' * 40}", "length"), step("answer", "Velm", "stop")]
    record = {
        "case": "a/0",
        "system": "recurrent",
        "kind": "",
        "question": "Where?",
        "accepted": ["Velm"],
        "reply": "Velm",
        "reward": 1.0,
        "trace": {"steps": steps},
    }
    Path("several.jsonl").write_text(json.dumps(record) + "\n")
    shown = " ".join(cli("inspect", "several.jsonl").out.split())
    assert "step 1, note: 3 tokens (length) a note long long" in shown
    assert "... step 2, answer: 3 tokens (stop) Velm reply" in shown
    record["trace"] = {"steps": steps[1:]}
    Path("several.jsonl").write_text(json.dumps(record) + "\n")
    assert "step" not in cli("inspect", "several.jsonl").out


def test_what_holds_no_replies_is_refused(cli: Cli) -> None:
    assert cli("inspect", "none.jsonl").message.startswith("cannot read none.jsonl: No such file")
    write(Path("half.jsonl"), REPLY, {"case": "x"})
    result = cli("inspect", "half.jsonl")
    assert result.code == 2
    assert result.message == "half.jsonl, line 2 is not a recorded reply; give a file that eval or rl wrote"
    Path("empty").mkdir()
    assert cli("inspect", "empty").message.startswith("empty holds no file of replies; give samples.jsonl")
    assert cli("inspect", "half.jsonl", "--first", 0).message.startswith("--first = 0 is not possible")


def test_a_path_that_cannot_be_looked_at_is_no_folder_of_replies(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.stat

    def refuse(self: Path, **options: bool) -> os.stat_result:
        if self.name == "closed.fold":
            raise PermissionError(13, "Permission denied")
        return plain(self, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    message = cli("inspect", "closed.fold").message
    assert message == "cannot read closed.fold: Permission denied; give a memory file that can be read"


def test_half_a_line_at_the_end_is_left_out(cli: Cli) -> None:
    """As a kill leaves it, or a run that is writing it at this moment."""
    line = json.dumps(REPLY)
    for end in ("\n", "", f"\n{line[: len(line) // 2]}"):
        Path("samples.jsonl").write_text(f"{line}\n{line}{end}")
        shown = cli("inspect", "samples.jsonl")
        assert shown.code == 0, shown.err
        assert shown.out.count("question") == 2
    Path("samples.jsonl").write_text(f"{line[:20]}\n{line}\n")
    assert "line 1 is not a recorded reply" in cli("inspect", "samples.jsonl").err


def test_train_runs_reinforcement_learning(cli: Cli, models: dict[str, str]) -> None:
    Path("mine.py").write_text(REWARD)
    Path("toy.toml").write_text(RECIPE.format(parent=models["first"], reward="mine.py:length"))
    plan = cli("train", "toy.toml", "--dry-run")
    assert "stage     rl: 2 steps of 2 questions x 2 replies of at most 12 tokens; memory frozen" in plan.out
    assert "parameters trained, 0 frozen" in plan.out
    assert cli("train", "toy.toml", "--steps", 1, "--out", "run").code == 0
    done = cli("train", "toy.toml", "--out", "whole")
    assert done.code == 0
    assert "step 2/2" in done.err
    assert "reward" in done.err
    assert {"curves.png", "metrics.jsonl", "model", "encoder", "traces"} <= {
        path.name for path in Path("whole").iterdir()
    }
    again = cli("train", "toy.toml", "--out", "whole")
    assert (again.code, "add --resume to continue" in again.message) == (2, True)
    shown = cli("inspect", "whole")
    assert shown.code == 0
    assert "almanac-" in shown.out


def test_a_decoder_folds_and_reads_with_its_encoder(cli: Cli, models: dict[str, str]) -> None:
    """What the parent folded the decoder reads, and the other way round: the encoder is the same."""
    Path("mine.py").write_text(REWARD)
    Path("toy.toml").write_text(RECIPE.format(parent=models["first"], reward="mine.py:length"))
    assert cli("train", "toy.toml", "--out", "run").code == 0
    Path("page.txt").write_text("Ada was born in Velm. The river Sanu flows through Velm.")
    assert cli("fold", "page.txt", "-o", "before.fold", "--model", models["first"]).code == 0
    assert cli("fold", "page.txt", "-o", "after.fold", "--model", "run").code == 0
    before, after = (cli("inspect", name, "--json").record for name in ("before.fold", "after.fold"))
    assert before["fingerprint"] == after["fingerprint"]
    assert before["bytes"]["slots"] == after["bytes"]["slots"]
    assert cli("ask", "before.fold", "Where was Ada born?", "--model", "run").code == 0
    assert cli("ask", "after.fold", "Where was Ada born?", "--model", models["first"]).code == 0
    assert "was folded by" in cli("ask", "after.fold", "Where?", "--model", models["second"]).message
    for path in Path("run/model/encoder").iterdir():
        path.unlink()
    Path("run/model/encoder").rmdir()
    Path("run/model").rename("alone")  # a model that this process has not loaded
    assert cli("ask", "before.fold", "Where was Ada born?", "--model", "alone").code == 0
    refused = cli("fold", "page.txt", "-o", "none.fold", "--model", "alone")
    assert refused.code == 2
    assert f"reads memories of the encoder {before['fingerprint'][:12]}, which is not in its folder" in refused.message


def test_an_unknown_stage_is_told_with_all_that_there_are(cli: Cli) -> None:
    Path("toy.toml").write_text(RECIPE.format(parent="x", reward="exact").replace('"rl"', '"rll"'))
    message = cli("train", "toy.toml").message
    assert message == "unknown stage 'rll'; nearest: 'rl'; known: base, cpt1, cpt2, rl, sft"


def test_an_unknown_reward_is_told_before_anything_is_made(cli: Cli, models: dict[str, str]) -> None:
    Path("toy.toml").write_text(RECIPE.format(parent=models["first"], reward="exakt"))
    result = cli("train", "toy.toml", "--out", "run")
    assert result.code == 2
    assert result.message == "unknown reward 'exakt'; nearest: 'exact'; known: exact, f1, judge, share, sub-em"
    assert not Path("run").exists()
