"""Puts a judge's verdicts on records: they become `correct`, and the verdict of the suite's rule becomes a figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from memfold.core.errors import CallError
from memfold.evaluation.records import Record
from memfold.scoring.judge import Claim, Judge

JUDGED, BY_RULE = "judged", "by_rule"


def judged(records: Iterable[Record], judge: Judge) -> list[Record]:
    """Return these records with verdicts, asked for together; where there is none, the record has the judge's error."""
    all_records = list(records)
    answered = [number for number, record in enumerate(all_records) if record.error is None]
    claims = [_claim(all_records[number]) for number in answered]
    for number, verdict in zip(answered, judge.verdicts(claims), strict=True):
        all_records[number] = _with(all_records[number], verdict)
    return all_records


def _claim(record: Record) -> Claim:
    return Claim(record.question, record.accepted, record.answer, every=record.kind == "listing")


def _with(record: Record, verdict: bool | CallError) -> Record:
    if isinstance(verdict, CallError):
        return replace(record, correct=False, error=str(verdict))
    figures = record.figures | {BY_RULE: float(record.correct), JUDGED: float(verdict)}
    return replace(record, correct=verdict, figures=figures)
