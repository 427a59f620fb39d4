"""The local policy: computes replies, log-probabilities and head scores with a backbone in this process.

Each step renders the submitted calls and answers those that need a single forward pass.  The others join the decoding
batches as soon as there is room, and each batch advances by one token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from memfold.backbone.attention import most_attended
from memfold.backbone.decode import DecodingBatch, advance
from memfold.backbone.decoding_row import DecodingRow
from memfold.backbone.model import Backbone
from memfold.backbone.one_pass import RenderedCall, answer_at_once, batches
from memfold.backbone.role_files import ready
from memfold.core.errors import Failure
from memfold.core.policy import Done, Execution, Request
from memfold.core.types import Generate, Reply

BATCH_POSITIONS = 1 << 16
UNEVEN = 2  # batches are joined if the wider one is at most this many times as wide as the other


class LocalPolicy:
    """Computes calls in batches with one adapter and at most `batch_positions` token positions (rows times width)."""

    def __init__(self, backbone: Backbone, batch_positions: int = BATCH_POSITIONS) -> None:
        self.backbone, self.batch_positions = backbone, batch_positions

    def start(self) -> Execution:
        """Start an execution on the same weights."""
        return LocalExecution(self.backbone, self.batch_positions)


@dataclass(frozen=True, eq=False)
class _Generation:
    """A rendered call that is waiting for decoding or being decoded."""

    request: Request
    wants: Generate
    row: DecodingRow

    @property
    def length(self) -> int:
        return self.row.rendered.length


class LocalExecution:
    """Calls that are processed together; see the module docstring."""

    def __init__(self, backbone: Backbone, batch_positions: int) -> None:
        self._backbone, self._batch_positions = backbone, batch_positions
        self._submitted: list[Request] = []
        self._waiting: list[_Generation] = []
        self._running: list[_Generation] = []
        self._batches: list[DecodingBatch] = []
        self._cancelled: set[Request] = set()

    def submit(self, request: Request) -> None:
        """Add a call; it is processed from the next step on."""
        self._submitted.append(request)

    def cancel(self, request: Request) -> None:
        """End a call at the next step; a finished call is left unchanged."""
        for running in self._running:
            if running.request is request:
                running.row.cancelled = True
                return
        if request in self._submitted or any(waiting.request is request for waiting in self._waiting):
            self._cancelled.add(request)

    @torch.no_grad()
    def step(self) -> list[Done]:
        """Answer the calls that need one forward pass, admit waiting calls, and decode one token."""
        done = self._render_submitted()
        self._batches = advance(self._batches)
        self._admit()
        finished = [running for running in self._running if running.row.finish is not None]
        self._running = [running for running in self._running if running.row.finish is None]
        done += [(running.request, self._reply(running)) for running in finished]
        self._cancelled.difference_update(request for request, _ in done)
        return done

    def close(self) -> None:
        """Abandon all calls and free the key/value caches."""
        self._submitted, self._waiting, self._running, self._batches = [], [], [], []

    def _render_submitted(self) -> list[Done]:
        """Render submitted calls, and return those that are answered in one pass or cannot be rendered."""
        done: list[Done] = []
        single_pass: list[RenderedCall] = []
        submitted, self._submitted = self._submitted, []
        for request in submitted:
            if request in self._cancelled:
                done.append((request, Reply(finish="cancelled")))
                continue
            try:
                rendered = request.system.render(request.memory, request.call, self._backbone)
                ready(self._backbone, rendered.adapter)
                self._backbone.check_positions(rendered.positions[-1] + 1 if rendered.positions else 0)
            except Exception as error:  # the other calls are unaffected
                done.append((request, Failure.of("policy", error)))
                continue
            if isinstance(request.call.wants, Generate):
                row = DecodingRow(rendered, request.call.wants.sampling, request.on_text)
                self._waiting.append(_Generation(request, request.call.wants, row))
            else:
                single_pass.append((request, rendered))
        return [*done, *answer_at_once(self._backbone, single_pass, self._batch_positions)]

    def _admit(self) -> None:
        """Start decoding waiting calls of one adapter, shortest first, if they fit; at least one if none runs."""
        for waiting in [waiting for waiting in self._waiting if waiting.request in self._cancelled]:
            waiting.row.finish = "cancelled"
            self._waiting.remove(waiting)
            self._running.append(waiting)
        if not self._waiting:
            return
        room = self._batch_positions - sum(len(batch.rows) * batch.width for batch in self._batches)
        most = 0 if self._backbone.fit.rows == "alone" else max(room, 1)
        chunk = batches(self._waiting, lambda waiting: (waiting.row.group(self._backbone), waiting.length), most)[0]
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
        """Join a new batch to one of the same group and a similar width, or decode it separately."""
        if batch.finished:
            return
        for other in self._batches if batch.can_join else ():
            wide, narrow = max(batch.width, other.width), min(batch.width, other.width)
            fits = (len(other.rows) + len(batch.rows)) * wide <= self._batch_positions
            if other.group == batch.group and wide <= UNEVEN * narrow and fits and not other.finished:
                other.join(batch)
                return
        self._batches.append(batch)

    def _reply(self, running: _Generation) -> Reply:
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
