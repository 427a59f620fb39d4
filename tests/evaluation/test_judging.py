from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from all_knowing import KnowsEverything
from scripted_policy import ScriptedPolicy

from memfold.core.errors import CallError
from memfold.core.types import Reply, SamplingParams
from memfold.evaluation.runner import Evaluation, run
from memfold.scoring.judge import Judge

Evaluate = Callable[..., Evaluation]


def test_right_is_what_the_judge_says(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", questions=8)
    asked: list[str] = []
    first = [Reply("maybe"), CallError("policy", "lost")]

    def ask(messages: Sequence[str], sampling: SamplingParams) -> list[Reply | CallError]:
        asked.extend(messages)
        verdicts = ["no" if "\nnothing\n" in message else "yes" for message in messages]
        return [first.pop(0) if first else Reply(verdict) for verdict in verdicts]

    evaluation = replace(evaluation, judge=Judge("judge", ask, tmp_path / "verdicts.jsonl"))
    records = run(evaluation, tmp_path, KnowsEverything(evaluation, wrong=lambda case: case.key.startswith("out")))
    assert len(asked) == 8
    failed = [record for record in records if record.error]
    assert len(failed) == 2
    assert not any(record.correct for record in failed)
    assert {record.error for record in failed} == {
        "judge: judge replied 'maybe'; expected yes or no; use another judge",
        "policy: lost",
    }
    for record in records:
        if record.error is None:
            assert record.correct is (record.split == "in")
            assert {record.figures["judged"], record.figures["by_rule"]} == {float(record.correct)}


def test_a_judge_that_is_cut_off_has_judged_nothing(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", questions=4)
    judge = Judge(
        "judge",
        lambda messages, sampling: [Reply("no", finish="length") for _ in messages],
        tmp_path / "verdicts.jsonl",
    )
    records = run(replace(evaluation, judge=judge), tmp_path, KnowsEverything(evaluation))
    errors = {record.error for record in records}
    assert errors == {"judge: judge did not end its reply within 8192 tokens; use another judge"}
    assert not any(record.correct or "judged" in record.figures for record in records)


def test_a_sample_that_failed_is_not_judged(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", questions=4)
    judge = Judge("judge", lambda messages, sampling: [Reply("yes") for _ in messages], tmp_path / "verdicts.jsonl")
    policy = ScriptedPolicy(lambda call: ValueError("broken"))
    records = run(replace(evaluation, judge=judge), tmp_path, policy)
    assert len(records) == 4
    assert all(record.error and not record.correct and not record.figures for record in records)
