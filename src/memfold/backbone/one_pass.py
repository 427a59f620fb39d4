"""Answers the calls that need a single forward pass: head scores, and log-probabilities of given replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from memfold.backbone.model import Backbone
from memfold.backbone.prefill import last_states
from memfold.backbone.rows import Row
from memfold.backbone.score import score_rows
from memfold.core.errors import Failure
from memfold.core.policy import Done, Request
from memfold.core.system import Rendered
from memfold.core.types import HeadScore, Likelihood, Reply

T = TypeVar("T")
RenderedCall = tuple[Request, Rendered]


def answer_at_once(backbone: Backbone, calls: Sequence[RenderedCall], batch_positions: int) -> Iterator[Done]:
    """Compute the replies of calls in batches of one adapter; the calls of a failed batch get a `Failure`."""

    def group_and_length(call: RenderedCall) -> tuple[tuple[str, bool], int]:
        request, rendered = call
        wants = request.call.wants
        reply = _most_tokens(wants) if isinstance(wants, Likelihood) else 0
        return (rendered.adapter or "", backbone.is_long(rendered.positions[-1] + 1)), rendered.length + reply

    for chunk in batches(calls, group_and_length, batch_positions):
        with_score = [call for call in chunk if isinstance(call[0].call.wants, HeadScore)]
        with_reply = [call for call in chunk if isinstance(call[0].call.wants, Likelihood)]
        for part, answer in ((with_score, _head_scores), (with_reply, _likelihoods)):
            try:
                outcomes = answer(backbone, part) if part else []
            except Exception as error:  # the other batches are unaffected
                yield from ((request, Failure.of("policy", error)) for request, _ in part)
            else:
                yield from zip((request for request, _ in part), outcomes, strict=True)


def _most_tokens(wants: Likelihood) -> int:
    """Return the most tokens that a given reply can have: a token of text has at least one byte."""
    return len(wants.tokens) or len(wants.text.encode())


@torch.no_grad()
def _head_scores(backbone: Backbone, calls: Sequence[RenderedCall]) -> list[Reply | Failure]:
    with backbone.adapter(calls[0][1].adapter):
        states = last_states(backbone, [rendered for _, rendered in calls])
    outcomes: list[Reply | Failure] = []
    for (request, rendered), state in zip(calls, states, strict=True):
        assert isinstance(request.call.wants, HeadScore)
        try:
            score = float(backbone.head_score(request.call.wants.head, state))
        except Exception as error:  # such as an unknown head; the other calls are unaffected
            outcomes.append(Failure.of("policy", error))
        else:
            outcomes.append(Reply(score=score, positions=rendered.memory_positions))
    return outcomes


@torch.no_grad()
def _likelihoods(backbone: Backbone, calls: Sequence[RenderedCall]) -> list[Reply | Failure]:
    rows = [
        Row(rendered, request.call.parts, wants.tokens or tuple(backbone.encode(wants.text)))
        for request, rendered in calls
        if isinstance(wants := request.call.wants, Likelihood)
    ]
    scores, _ = score_rows(backbone, rows, range(len(rows)))
    return [
        Reply(
            text=backbone.decode(row.targets),
            tokens=row.targets,
            logprobs=tuple(result.logprobs.tolist()),
            positions=row.rendered.memory_positions,
        )
        for row, result in zip(rows, scores, strict=True)
    ]


def batches(items: Iterable[T], key: Callable[[T], tuple[Any, int]], positions: int) -> list[list[T]]:
    """Group items by similar length; `key` returns what must be equal in a group, and the length of an item.

    A group has at least one item, and otherwise as many as fit into `positions` when padded to the longest.
    """
    groups: list[list[T]] = []
    for item in sorted(items, key=key):
        group, length = key(item)
        last = groups[-1] if groups else None
        if last is not None and key(last[0])[0] == group and (len(last) + 1) * length <= positions:
            last.append(item)
        else:
            groups.append([item])
    return groups
