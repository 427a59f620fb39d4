"""The rule that says whether an answer is right, by what was asked of the model.

A model that is trained here is trained to give the answer alone, so its answer must equal an accepted one.  Any other
model answers in sentences, so an accepted answer must stand in its reply.
"""

from __future__ import annotations

from collections.abc import Iterable

from memfold.core.latex import plain
from memfold.core.model import Model
from memfold.core.types import Answer, Sample
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Score
from memfold.scoring.extraction import short_answer
from memfold.scoring.metrics import answered, holds_answer

EXACT, CONTAINED, IN_SENTENCES = "exact", "contained", "in_sentences"


def scored(sample: Sample, answer: Answer, model: Model, published: bool = False) -> Score:
    """Return the score of an answer: whether it is right, with the verdict of both rules as figures.

    With `published`, the answer of a model that is trained here is taken from its reply by published rules.
    """
    text = short_answer(answer.reply) if published and model.trained_here else plain(answer.text)
    exact, contained = answered(sample, text), holds_answer(sample, text)
    figures = {EXACT: float(exact), CONTAINED: float(contained)} | ({} if model.trained_here else {IN_SENTENCES: 1.0})
    return Score(text, exact if model.trained_here else contained, figures)


def in_sentences(records: Iterable[Record]) -> str:
    """Return a note that the model of these records answers in sentences; empty for a model that is trained here."""
    told = any(IN_SENTENCES in record.figures for record in records)
    return "Right: an accepted answer stands in the reply, since the model answers in sentences." if told else ""
