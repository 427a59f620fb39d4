"""The state of one reply during decoding, except its keys and values (`memfold.backbone.decode`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from memfold.backbone.model import Backbone
from memfold.core.system import Rendered
from memfold.core.types import Finish, Reply, SamplingParams


@dataclass(eq=False)
class DecodingRow:
    """The state of one reply during decoding; `on_text` receives the text that each token adds.

    `finish` is None while the reply is being decoded.  `shown` is the text that was passed to `on_text` so far.
    """

    rendered: Rendered
    sampling: SamplingParams
    on_text: Callable[[str], None] | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None
    cancelled: bool = False
    shown: str = ""

    def __post_init__(self) -> None:
        self.position = self.rendered.positions[-1] + 1
        self.generator = torch.Generator().manual_seed(self.sampling.seed)

    def reply(self, backbone: Backbone) -> Reply:
        """Return the reply with the tokens decoded so far."""
        return Reply(
            text=backbone.decode(self.tokens),
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            finish=self.finish or "length",
            positions=self.rendered.memory_positions,
        )

    def show(self, backbone: Backbone) -> None:
        """Pass new text to `on_text`; an incomplete character is held back until it is complete or the reply ends."""
        if self.on_text is None:
            return
        text = backbone.decode(self.tokens)
        incomplete = self.finish is None and text.endswith("\N{REPLACEMENT CHARACTER}")
        if not incomplete and len(text) > len(self.shown):
            self.on_text(text[len(self.shown) :])
            self.shown = text
