"""The settings that every memory system has when it reads and when it is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memfold.core.config import require, require_known
from memfold.core.errors import ConfigError
from memfold.core.prompt import CHAT_TEMPLATES, STYLES, ChatTemplate, Style
from memfold.core.types import SamplingParams


@dataclass(frozen=True)
class ReadSettings:
    """The reading settings of every system.

    `style` and `chat_template` are those of `memfold.core.prompt`.  `max_tokens` limits the tokens of a reply, and
    `thinking` those of the thoughts before it.  `repetition_penalty` divides the positive logits of the tokens that a
    reply already has, and multiplies the negative ones; 1 is none.  An endpoint applies it to the prompt, too.
    """

    style: Style = "recall"
    chat_template: ChatTemplate = "flat"
    max_tokens: int = 160
    thinking: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        require_known("style", self.style, STYLES)
        require_known("chat_template", self.chat_template, CHAT_TEMPLATES)
        require(self.max_tokens > 0, "max_tokens", self.max_tokens, "1 token or more")
        require(self.thinking >= 0, "thinking", self.thinking, "0 or more tokens")
        require(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "above 0; 1 is none")

    def sampling(self, limit: int | None = None) -> SamplingParams:
        """Return greedy sampling of a reply of at most `limit` tokens (None: of an answer), thoughts aside."""
        most = (self.max_tokens if limit is None else limit) + self.thinking
        if self.repetition_penalty == 1:
            return SamplingParams(most)
        return SamplingParams(most, repetition_penalty=self.repetition_penalty, penalised="reply")


@dataclass(frozen=True)
class TrainSettings:
    """The settings that training varies between batches; none by default."""


_INTEGER = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?[0-9]*\.[0-9]+(e-?[0-9]+)?")
_TRUTH = {"true": True, "false": False}


def setting_value(text: str) -> Any:
    """Return the value of a setting on a command line: a number, true or false if it reads as one, else the text.

    >>> setting_value("256"), setting_value("0.5"), setting_value("false"), setting_value("bm25")
    (256, 0.5, False, 'bm25')
    """
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else _TRUTH.get(text, text)


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings in words of the form SETTING=VALUE.

    Raises:
        ConfigError: for a word of another form, or a setting that has two values.
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals or not value:
            raise ConfigError(f"--set {word!r} cannot be read; write SETTING=VALUE, such as note=256")
        if name in settings:
            raise ConfigError(f"--set gives {name} twice; give one value")
        settings[name] = setting_value(value)
    return settings
