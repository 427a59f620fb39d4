"""The state of one reply during decoding, except its keys and values (`memfold.backbone.decode`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from memfold.backbone.model import Backbone
from memfold.core.system import Rendered
from memfold.core.thinking import ReplyStream
from memfold.core.types import Finish, Reply, SamplingParams

CIRCLE, LAP = 192, 64  # tokens


@dataclass(eq=False)
class DecodingRow:
    """The state of one reply during decoding; `on_text` receives the text that each token adds.

    `finish` is None while the reply is being decoded.  `limit` is the most tokens that it may have.
    """

    rendered: Rendered
    sampling: SamplingParams
    on_text: Callable[[str], None] | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None
    cancelled: bool = False
    stream: ReplyStream | None = None

    def __post_init__(self) -> None:
        self.position = self.rendered.positions[-1] + 1
        self.generator = torch.Generator().manual_seed(self.sampling.seed)
        room = self.rendered.room
        self.limit = self.sampling.max_tokens if room is None else min(self.sampling.max_tokens, room)

    @property
    def repeats(self) -> bool:
        """Whether a greedy reply goes round in a circle, which it would not leave: its last `CIRCLE` tokens repeat the
        same `LAP` tokens or fewer."""
        if self.sampling.temperature > 0 or len(self.tokens) < CIRCLE or len(self.tokens) % LAP:
            return False
        last = self.tokens[-CIRCLE:]
        return any(last[lap:] == last[:-lap] for lap in range(1, LAP + 1))

    @property
    def so_far(self) -> Rendered:
        """The call, followed by the tokens of the reply."""
        call, count = self.rendered, len(self.tokens)
        positions = [*call.positions, *range(self.position, self.position + count)]
        return replace(call, tokens=[*call.tokens, *self.tokens], positions=positions, lengths=(*call.lengths, count))

    def group(self, backbone: Backbone) -> tuple[str, bool]:
        """The adapter of the call, and whether the rotary table is that of long sequences; equal in a batch."""
        return self.rendered.adapter or "", backbone.is_long(self.position + len(self.tokens))

    @property
    def _written(self) -> list[int]:
        """The tokens of the reply without the one that ended it, which need not be a special token."""
        return self.tokens[:-1] if self.finish == "stop" else self.tokens

    def reply(self, backbone: Backbone) -> Reply:
        """Return the reply with the tokens decoded so far."""
        thinking, text = backbone.replies.split(self.rendered.tokens, self._written)
        return Reply(
            text=text,
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            finish=self.finish or "length",
            positions=self.rendered.memory_positions,
            thinking=thinking,
        )

    def show(self, backbone: Backbone) -> None:
        """Pass new text to `on_text`; an incomplete character is held back until it is complete or the reply ends."""
        if self.on_text is None:
            return
        self.stream = self.stream or backbone.replies.stream(self.rendered.tokens, self.on_text)
        text = backbone.replies.written(self._written)
        if self.finish or not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self.stream.update(text, ended=self.finish is not None)
