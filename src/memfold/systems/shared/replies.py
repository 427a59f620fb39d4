"""Replies that a supervised sample should have had, as every system writes them."""

from __future__ import annotations

from memfold.core.model import Model
from memfold.core.prompt import Style, target
from memfold.core.types import Call, Reply, Sample, SamplingParams, Step

ANSWER_SAMPLING = SamplingParams(max_tokens=160)  # how long an answer may get where nobody says otherwise


def written_reply(sample: Sample, model: Model, style: Style) -> tuple[int, ...]:
    """The tokens of the reply: the answer to a question in its style, else the sample's target; without an end."""
    text = target(sample.expected, sample.recalled, style) if sample.answers else sample.target
    return tuple(model.encode(text)) if isinstance(text, str) else text


def scripted_step(call: Call, text: str, model: Model) -> Step:
    """A call with the text that it should have been answered with."""
    return Step(call, Reply(text, (*model.encode(text), model.end_token)))
