"""One reply while it is being written.

Left out: where its keys and values are (`memfold.backbone.decode`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from memfold.backbone.model import Backbone
from memfold.core.system import Rendered
from memfold.core.types import Finish, Reply, SamplingParams


@dataclass(eq=False)
class DecodingRow:
    """One reply while it is being written; `on_text` receives what each token adds to its text."""

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
        """What was written."""
        return Reply(
            text=backbone.decode(self.tokens),
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            finish=self.finish or "length",
            positions=self.rendered.memory_positions,
        )

    def show(self, backbone: Backbone) -> None:
        """Hand on what the new token adds to the text, holding back half a character until the reply ends."""
        if self.on_text is None:
            return
        text = backbone.decode(self.tokens)
        held = self.finish is None and text.endswith("\N{REPLACEMENT CHARACTER}")
        if not held and len(text) > len(self.shown):
            self.on_text(text[len(self.shown) :])
            self.shown = text
