"""The local policy: replies, log-probabilities and head scores from a backbone in this process.

At every step the calls that wait are rendered; those that need one forward pass are answered at once; the others join
the batch that is being decoded, as far as it has room, and all of it advances by one token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from memfold.backbone.attention import most_attended
from memfold.backbone.decode import DecodingBatch, DecodingRow, last_states
from memfold.backbone.model import Backbone
from memfold.backbone.rows import Row
from memfold.backbone.score import score_rows
from memfold.core.errors import Failure
from memfold.core.scheduler import Done, Execution, Request
from memfold.core.system import Rendered
from memfold.core.types import Generate, HeadScore, Likelihood, Reply

BATCH_POSITIONS = 1 << 16
T = TypeVar("T")
UNEVEN = 2  # batches are decoded together unless one is so many times as wide as the other


class LocalPolicy:
    """Renders calls with their system and computes them in batches, those of one adapter together.

    `batch_positions` bounds the token positions that are decoded at a time (rows times the longest), so that a few long
    prompts do not take the memory that many short ones may.
    """

    def __init__(self, backbone: Backbone, batch_positions: int = BATCH_POSITIONS) -> None:
        self.backbone, self.batch_positions = backbone, batch_positions

    def start(self) -> Execution:
        """New work on the same weights."""
        return LocalExecution(self.backbone, self.batch_positions)


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A rendered call that is to be decoded."""

    request: Request
    wants: Generate
    row: DecodingRow

    @property
    def adapter(self) -> str:
        return self.row.rendered.adapter or ""

    @property
    def length(self) -> int:
        prefix = self.row.rendered.prefix
        return len(self.row.rendered.tokens) + (0 if prefix is None else prefix.length)


class LocalExecution:
    """See the module docstring."""

    def __init__(self, backbone: Backbone, batch_positions: int) -> None:
        self._backbone, self._batch_positions = backbone, batch_positions
        self._submitted: list[Request] = []
        self._waiting: list[_Waiting] = []
        self._running: list[_Waiting] = []
        self._batches: list[DecodingBatch] = []
        self._cancelled: set[Request] = set()

    def submit(self, request: Request) -> None:
        """It joins at the next step."""
        self._submitted.append(request)

    def cancel(self, request: Request) -> None:
        """It ends at the next step."""
        self._cancelled.add(request)
        for running in self._running:
            if running.request is request:
                running.row.cancelled = True

    def step(self) -> list[Done]:
        """Answer what needs one forward pass, let in what waits, decode one token."""
        done = self._take_in()
        for batch in self._batches:
            batch.step()
        self._admit()
        self._batches = [batch for batch in self._batches if not batch.finished]
        finished = [running for running in self._running if running.row.finish is not None]
        self._running = [running for running in self._running if running.row.finish is None]
        return [*done, *((running.request, self._reply(running)) for running in finished)]

    def close(self) -> None:
        """Free the caches."""
        self._submitted, self._waiting, self._running, self._batches = [], [], [], []

    def _take_in(self) -> list[Done]:
        """Render what was submitted; what is answered at once, or cannot be rendered, is done."""
        done: list[Done] = []
        quick: list[tuple[Request, Rendered]] = []
        submitted, self._submitted = self._submitted, []
        for request in submitted:
            if request in self._cancelled:
                done.append((request, Reply(finish="cancelled")))
                continue
            try:
                rendered = request.system.render(request.memory, request.call, self._backbone)
            except Exception as error:  # one call that cannot be rendered leaves the others alone
                done.append((request, Failure.of("policy", error)))
                continue
            if isinstance(request.call.wants, Generate):
                row = DecodingRow(rendered, request.call.wants.sampling, request.on_text)
                self._waiting.append(_Waiting(request, request.call.wants, row))
            else:
                quick.append((request, rendered))
        return [*done, *self._at_once(quick)]

    def _at_once(self, calls: Sequence[tuple[Request, Rendered]]) -> Iterable[Done]:
        """Head scores and likelihoods, batched by adapter."""
        for chunk in _batches(calls, lambda call: (call[1].adapter or "", len(call[1].tokens)), self._batch_positions):
            scored = [call for call in chunk if isinstance(call[0].call.wants, HeadScore)]
            given = [call for call in chunk if isinstance(call[0].call.wants, Likelihood)]
            for part, answer in ((scored, self._head_scores), (given, self._likelihoods)):
                try:
                    replies = answer(part) if part else []
                except Exception as error:  # such as a head that is not there: the calls have failed, not the run
                    yield from ((request, Failure.of("policy", error)) for request, _ in part)
                else:
                    yield from zip((request for request, _ in part), replies, strict=True)

    @torch.no_grad()
    def _head_scores(self, calls: Sequence[tuple[Request, Rendered]]) -> list[Reply]:
        with self._backbone.adapter(calls[0][1].adapter):
            states = last_states(self._backbone, [rendered for _, rendered in calls])
        replies = []
        for (request, rendered), state in zip(calls, states, strict=True):
            assert isinstance(request.call.wants, HeadScore)
            score = float(self._backbone.head_score(request.call.wants.head, state))
            replies.append(Reply(score=score, positions=rendered.memory_positions))
        return replies

    @torch.no_grad()
    def _likelihoods(self, calls: Sequence[tuple[Request, Rendered]]) -> list[Reply]:
        rows = [
            Row(rendered, request.call.parts, request.call.wants.tokens)
            for request, rendered in calls
            if isinstance(request.call.wants, Likelihood)
        ]
        scores, _ = score_rows(self._backbone, rows, range(len(rows)))
        return [
            Reply(
                text=self._backbone.decode(row.targets),
                tokens=row.targets,
                logprobs=tuple(result.logprobs.tolist()),
                positions=row.rendered.memory_positions,
            )
            for row, result in zip(rows, scores, strict=True)
        ]

    def _admit(self) -> None:
        """Let waiting calls into the work, short ones first, as far as there is room; one always finds some."""
        for waiting in [waiting for waiting in self._waiting if waiting.request in self._cancelled]:
            waiting.row.finish = "cancelled"
            self._waiting.remove(waiting)
            self._running.append(waiting)
        if not self._waiting:
            return
        used = sum(len(batch.rows) * batch.width for batch in self._batches)
        room = self._batch_positions - used
        chunk = _batches(self._waiting, lambda waiting: (waiting.adapter, waiting.length), max(room, 1))[0]
        if self._batches and len(chunk) * max(waiting.length for waiting in chunk) > room:
            return
        admitted = set(chunk)
        self._waiting = [waiting for waiting in self._waiting if waiting not in admitted]
        self._running += chunk
        try:
            self._add(DecodingBatch(self._backbone, [waiting.row for waiting in chunk]))
        except Exception:
            self._running = [running for running in self._running if running not in admitted]
            raise

    def _add(self, batch: DecodingBatch) -> None:
        """Decode a new batch together with one of its adapter and about its width, else beside the others."""
        if batch.finished:
            return
        for other in self._batches:
            wide, narrow = max(batch.width, other.width), min(batch.width, other.width)
            fits = (len(other.rows) + len(batch.rows)) * wide <= self._batch_positions
            if other.adapter == batch.adapter and wide <= UNEVEN * narrow and fits and not other.finished:
                other.join(batch)
                return
        self._batches.append(batch)

    def _reply(self, running: _Waiting) -> Reply:
        row = running.row
        reply = row.reply(self._backbone)
        if not running.wants.attention or row.rendered.slots is None or not reply.tokens:
            return reply
        with self._backbone.adapter(row.rendered.adapter):
            slots = most_attended(self._backbone, row.rendered, reply)
        request, passages = running.request, []
        for slot, weight in slots:
            passage = request.system.passage(request.memory, request.call, slot, self._backbone)
            passages.append(replace(passage, weight=weight))
        return replace(reply, attention=tuple(passages))


def _batches(items: Iterable[T], key: Callable[[T], tuple[str, int]], positions: int) -> list[list[T]]:
    """Items of one adapter and similar length together, as many as have room when padded to the longest, at least one;
    `key` gives the adapter and the length of an item."""
    batches: list[list[T]] = []
    for item in sorted(items, key=key):
        adapter, length = key(item)
        last = batches[-1] if batches else None
        if last is not None and key(last[0])[0] == adapter and (len(last) + 1) * length <= positions:
            last.append(item)
        else:
            batches.append([item])
    return batches
