"""Turns the parts of a prompt into tokens, in one of the chat templates of `memfold.core.prompt`.

The tokenizer's own chat template is applied to a placeholder, and the parts of the user's message take its place.  A
text is encoded as one string up to the next part that is not text, so the tokens are those of the whole prompt,
whatever the tokenizer does at the borders of its parts.  In the layouts `flat` and `chatml`, every part is encoded
alone, as in training.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, takewhile
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from memfold.backbone.control_tokens import ControlTokens
from memfold.core.errors import CheckpointError
from memfold.core.prompt import FRAMES, ChatTemplate
from memfold.core.thinking import MARKS, opens_thinking
from memfold.core.types import BlockRef, Part, TemplatePart, Text

ANCHOR = "a"  # a word before a text that continues, because some tokenizers add a space at the beginning of a text
NO_THINKING: dict[str, Any] = {"enable_thinking": False, "thinking": False}  # the names of the switch in chat templates


@dataclass(frozen=True)
class _Piece:
    """A string of a prompt: its part, and whether the chat template writes it."""

    part: int
    text: str
    is_template: bool = False


class PromptEncoder:
    """Encodes texts and prompts with the tokenizer of a model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.control = ControlTokens(tokenizer)

    def prompt(self, parts: Sequence[Part], chat_template: ChatTemplate) -> list[list[int]]:
        """Return the token ids of each part; those of a block are empty, since it takes positions of its own.

        A token that reaches over a border belongs to the part in which it begins.

        Raises:
            CheckpointError: if the chat template of the tokenizer cannot be applied.
        """
        tokens = [list(part.tokens or ()) if isinstance(part, Text) else [] for part in parts]
        joined = chat_template in ("plain", "message")
        for run in self._runs(parts, chat_template, joined):
            for number, token in self._encode_run(run, continues=joined and run[0].part > 0):
                tokens[number].append(token)
        if isinstance(parts[0], TemplatePart) and parts[0].side == "before":
            tokens[0] = [*self._start(chat_template), *tokens[0]]
        if not tokens[0] and isinstance(parts[0], Text) and joined:
            tokens[0] = list(self._own_start)
        if not tokens[0] and _needs_start(parts, tokens, joined):
            tokens[0] = (self._own_start if joined else []) or [self._tokenizer.eos_token_id]
        return tokens

    @cached_property
    def frame(self) -> tuple[str, str]:
        """What the tokenizer's own chat template writes before a user's message, and after it up to the reply.

        Thinking is switched off if the template has a switch for it.

        Raises:
            CheckpointError: if the template cannot be applied to one message of a user.
        """
        placeholder = f"message-{secrets.token_hex(8)}"
        reasons = list[str]()
        for content in (placeholder, [{"type": "text", "text": placeholder}]):
            try:
                before, found, after = self._applied(content).partition(placeholder)
            except (TemplateError, TypeError, ValueError, KeyError) as error:
                reasons.append(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
                continue
            if found and placeholder not in after:
                return before, after
            reasons.append("it does not write the message exactly once")
        raise CheckpointError(
            f"the chat template of the tokenizer cannot be applied to a user's message: {reasons[0]}; correct the "
            "template, or remove it to use the model without one"
        )

    @cached_property
    def thinks(self) -> bool:
        """Whether the tokenizer's own chat template is that of a model that thinks before it replies."""
        after, template = self.frame[1].rstrip(), str(self._tokenizer.chat_template)
        closings = tuple(closing for _, closing in MARKS)
        named = any(closing in template for closing in closings)
        return opens_thinking(after) or (named and not after.endswith(closings))

    @cached_property
    def message_end(self) -> int | None:
        """The control token that ends a message in the tokenizer's own chat template; None if there is none.

        It is not always the end token of the tokenizer.  A model that thinks may write several messages.
        """
        tokens = self.control.encode_template(self.frame[1].lstrip())[0]
        first = tokens[0] if tokens else None
        return first if first in self.control.names and not self.thinks else None

    def _applied(self, content: Any) -> str:
        """Return the prompt of a conversation with one message."""
        message = [{"role": "user", "content": content}]
        return str(
            self._tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, **NO_THINKING)
        )

    def _runs(self, parts: Sequence[Part], chat_template: ChatTemplate, joined: bool) -> Iterator[list[_Piece]]:
        """Yield the stretches of text that are each encoded as one string."""
        before, after = self.frame if chat_template == "message" else FRAMES[chat_template]
        run: list[_Piece] = []
        for number, part in enumerate(parts):
            closes = isinstance(part, TemplatePart) and part.side == "after"
            is_text = isinstance(part, TemplatePart) or (isinstance(part, Text) and part.tokens is None)
            if run and not (is_text and (joined or closes)):
                yield run
                run = []
            if isinstance(part, TemplatePart):
                run.append(_Piece(number, after if closes else before, is_template=True))
            elif isinstance(part, Text) and is_text:
                run.append(_Piece(number, part.text))
        if run:
            yield run

    def _start(self, chat_template: ChatTemplate) -> list[int]:
        """Return the tokens that begin a prompt; in `chatml` and `message` they are part of the chat template."""
        if chat_template == "flat":
            return [self._tokenizer.eos_token_id]
        return self._own_start if chat_template == "plain" else []

    @cached_property
    def _own_start(self) -> list[int]:
        """The tokens that the tokenizer itself puts before a text; most have one or none."""
        text, whole = self.control.encode(ANCHOR), list(self._tokenizer(ANCHOR)["input_ids"])
        starts = (start for start in range(len(whole)) if whole[start : start + len(text)] == text)
        return whole[: next(starts, 0)]

    def _encode_run(self, run: Sequence[_Piece], continues: bool) -> list[tuple[int, int]]:
        """Return the part and the id of each token in a stretch of text."""
        placed = self._placed([piece.text for piece in run], continues)
        if any(token in self.control.names and not run[index].is_template for index, token in placed):
            texts = [self.control.rename(piece.text) if piece.is_template else piece.text for piece in run]
            placed = self._placed(texts, continues, renamed=True)
        return [(run[index].part, token) for index, token in placed]

    def _placed(self, texts: Sequence[str], continues: bool, renamed: bool = False) -> list[tuple[int, int]]:
        """Encode texts as one string; return the index of the text in which each token begins, and its id."""
        before = len(ANCHOR) if continues else 0
        text = "".join((ANCHOR[:before], *texts))
        tokens, offsets = self.control.encode_renamed(text) if renamed else self.control.encode_template(text)
        if any(start < before < end for start, end in offsets):  # the anchor is not a token of its own
            return self._placed(texts, False, renamed)
        ends, last = list(accumulate(map(len, texts), initial=before))[1:], len(texts) - 1
        return [
            (min(bisect_right(ends, start), last), token)
            for token, (start, end) in zip(tokens, offsets, strict=True)
            if end > before or not before
        ]


def _needs_start(parts: Sequence[Part], tokens: Sequence[Sequence[int]], joined: bool) -> bool:
    """Return whether a prompt whose first part has no tokens needs one: slots or a reply would stand first.

    A prompt of a model that is trained here begins with one, unless its first part is a block.
    """
    if isinstance(parts[0], BlockRef):
        return False
    before_slots = takewhile(lambda pair: not isinstance(pair[0], BlockRef), zip(parts, tokens, strict=True))
    return not joined or not any(own for _, own in before_slots)
