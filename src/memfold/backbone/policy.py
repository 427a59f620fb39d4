"""The local policy: replies and log-probabilities from a backbone in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from memfold.backbone.attention import reads
from memfold.backbone.generation import generate
from memfold.backbone.model import Backbone
from memfold.backbone.scoring import Scored, Scores, logprobs
from memfold.core.system import Inputs, MemorySystem
from memfold.core.types import Call, Memory, Reply

BATCH_POSITIONS = 1 << 16


class LocalPolicy:
    """Renders calls with their system and decodes them in batches, those of one adapter together.

    `batch_positions` bounds the places of one prefill (rows times the longest), so that a few long prompts do not
    take the memory that many short ones may.
    """

    def __init__(self, backbone: Backbone, batch_positions: int = BATCH_POSITIONS) -> None:
        self.backbone = backbone
        self.batch_positions = batch_positions

    def generate(
        self,
        requests: Sequence[tuple[MemorySystem, Memory, Call]],
        on_token: Callable[[int, str], None] | None = None,
        cancel: Callable[[int], bool] | None = None,
    ) -> list[Reply | Exception]:
        """One reply for each request, or the exception that rendering it raised."""
        rendered, replies = render_all(requests, self.backbone)
        for batch in self._batches(rendered):
            numbers = [index for index, _, _ in batch]
            made = generate(
                self.backbone,
                [inputs for _, inputs, _ in batch],
                [call.limits for _, _, call in batch],
                None if on_token is None else _renumber(on_token, numbers),
                None if cancel is None else _renumber_cancel(cancel, numbers),
            )
            for (index, inputs, call), reply in zip(batch, made, strict=True):
                if call.limits.reads:
                    reply = replace(reply, reads=reads(self.backbone, requests[index][1], call, inputs, reply))
                replies[index] = reply
        return replies

    def logprobs(self, system: MemorySystem, scored: Sequence[Scored]) -> Scores:
        """Log-probabilities with gradient; see `memfold.backbone.scoring`."""
        return logprobs(self.backbone, system, scored)

    def _batches(self, rendered: list[tuple[int, Inputs, Call]]) -> list[list[tuple[int, Inputs, Call]]]:
        """Rows of similar length together, grouped by adapter, within the bound on places."""
        ordered = sorted(rendered, key=lambda row: (row[1].adapter or "", len(row[1].tokens)))
        batches: list[list[tuple[int, Inputs, Call]]] = []
        for row in ordered:
            last = batches[-1] if batches else None
            fits = last is not None and (len(last) + 1) * len(row[1].tokens) <= self.batch_positions
            if last is not None and fits and last[0][1].adapter == row[1].adapter:
                last.append(row)
            else:
                batches.append([row])
        return batches


def render_all(
    requests: Sequence[tuple[MemorySystem, Memory, Call]], backbone: Backbone
) -> tuple[list[tuple[int, Inputs, Call]], list[Reply | Exception]]:
    """The calls that could be rendered, with their numbers; and a reply for each request, or what rendering raised."""
    replies: list[Reply | Exception] = [Reply()] * len(requests)
    rendered: list[tuple[int, Inputs, Call]] = []
    for index, (system, memory, call) in enumerate(requests):
        try:
            rendered.append((index, system.render(memory, call, backbone), call))
        except Exception as error:  # one request that cannot be rendered leaves the others alone
            replies[index] = error
    return rendered, replies


def _renumber(on_token: Callable[[int, str], None], numbers: list[int]) -> Callable[[int, str], None]:
    return lambda row, text: on_token(numbers[row], text)


def _renumber_cancel(cancel: Callable[[int], bool], numbers: list[int]) -> Callable[[int], bool]:
    return lambda row: cancel(numbers[row])
