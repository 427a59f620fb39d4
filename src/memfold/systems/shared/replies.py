"""Expected replies of supervised samples, in the form that all systems use."""

from __future__ import annotations

from memfold.core.model import Model
from memfold.core.prompt import Style, target
from memfold.core.types import Call, Reply, Sample, Step


def written_reply(sample: Sample, model: Model, style: Style) -> tuple[int, ...]:
    """Return the tokens of the expected reply, without an end token: a styled answer, or the target of the sample."""
    text = target(sample.expected, sample.recalled, style) if sample.answers else sample.target
    return tuple(model.encode(text)) if isinstance(text, str) else text


def ended_reply(sample: Sample, model: Model, style: Style) -> tuple[int, ...]:
    """Return the tokens of the expected reply of a system that reads slots.

    The end token follows, except after the reply to a cue, which is a part of a text.
    """
    reply = written_reply(sample, model, style)
    return reply if sample.task == "cued" and not sample.answers else (*reply, model.end_token)


def scripted_step(call: Call, text: str, model: Model) -> Step:
    """Return a call with its expected reply."""
    return Step(call, Reply(text, (*model.encode(text), model.end_token)))
