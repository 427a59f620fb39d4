"""The settings that every memory system has when it reads and when it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from memfold.core.config import require, require_known
from memfold.core.prompt import CHAT_TEMPLATES, STYLES, ChatTemplate, Style
from memfold.core.types import SamplingParams


@dataclass(frozen=True)
class ReadSettings:
    """The reading settings of every system.

    `style` and `chat_template` are those of `memfold.core.prompt`.  `max_tokens` limits the tokens of a reply, and
    `thinking` those of the thoughts before it.
    """

    style: Style = "recall"
    chat_template: ChatTemplate = "flat"
    max_tokens: int = 160
    thinking: int = 0

    def __post_init__(self) -> None:
        require_known("style", self.style, STYLES)
        require_known("chat_template", self.chat_template, CHAT_TEMPLATES)
        require(self.max_tokens > 0, "max_tokens", self.max_tokens, "1 token or more")
        require(self.thinking >= 0, "thinking", self.thinking, "0 or more tokens")

    def sampling(self, limit: int | None = None) -> SamplingParams:
        """Return greedy sampling of a reply of at most `limit` tokens (None: of an answer), thoughts aside."""
        return SamplingParams(max_tokens=(self.max_tokens if limit is None else limit) + self.thinking)


@dataclass(frozen=True)
class TrainSettings:
    """The settings that training varies between batches; none by default."""
