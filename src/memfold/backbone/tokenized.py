"""The text side of a backbone: what its tokenizer makes of texts, prompts and replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from memfold.backbone.prompts import PromptEncoder
from memfold.backbone.replies import ReplyDecoder
from memfold.core.errors import CheckpointError
from memfold.core.prompt import TRAINED_LAYOUTS, ChatTemplate
from memfold.core.types import Part

MAX_TOKENS, THINKING_TOKENS = 512, 8192  # of a model that was not trained here


class Tokenized:
    """A model with a tokenizer."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    chat_template: ChatTemplate
    trained: dict[str, Any]
    published: bool

    @property
    def end_token(self) -> int:
        """Id of the token that ends a reply, and that begins every sequence of a model trained here."""
        return int(self.tokenizer.eos_token_id)

    @property
    def message_end(self) -> int | None:
        """Id of the control token with which the model's chat template ends a message, so that a reply ends there."""
        return self.prompts.message_end if self.chat_template == "message" else None

    @property
    def trained_here(self) -> bool:
        """Whether memfold trained the model for a system."""
        return bool(self.trained) and not self.published

    @property
    def answering(self) -> dict[str, Any]:
        """Reading settings that suit the model: those of a model trained here are the defaults of its systems."""
        settings: dict[str, Any] = {"chat_template": self.chat_template}
        if self.trained_here or self.chat_template in TRAINED_LAYOUTS:
            return settings
        thinks = self.chat_template == "message" and self.prompts.thinks
        return settings | {
            "style": "bare",
            "max_tokens": MAX_TOKENS,
            "thinking": THINKING_TOKENS if thinks else 0,
        }

    def check_chat_template(self) -> None:
        """Raise a `CheckpointError` if the model's prompts need a chat template that cannot be applied."""
        if self.chat_template == "message":
            assert self.prompts.frame

    @property
    def prompts(self) -> PromptEncoder:
        """Encodes texts and prompts."""
        return self._text_side()[1]

    @property
    def replies(self) -> ReplyDecoder:
        """Decodes replies."""
        return self._text_side()[2]

    def forget_tokens(self) -> None:
        """Forget what is known of the tokenizer, because tokens were added to it."""
        self.__dict__.pop("_made", None)

    def _text_side(self) -> tuple[PreTrainedTokenizerBase, PromptEncoder, ReplyDecoder]:
        made: tuple[PreTrainedTokenizerBase, PromptEncoder, ReplyDecoder] | None = self.__dict__.get("_made")
        if made is None or made[0] is not self.tokenizer:
            made = self.tokenizer, PromptEncoder(self.tokenizer), ReplyDecoder(self.tokenizer)
            self.__dict__["_made"] = made
        return made

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a plain text; no special tokens are added, and none in the text counts."""
        return self.prompts.control.encode(text)

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the token ids of a plain text and the character offsets (start, end) of each token."""
        return self.prompts.control.tokenize(text)

    def prompt(self, parts: Sequence[Part], chat_template: ChatTemplate) -> list[list[int]]:
        """Return the token ids of each part of a prompt; see `PromptEncoder.prompt`."""
        return self.prompts.prompt(parts, chat_template)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return self.replies.decode(tokens)

    def token_id(self, token: str) -> int:
        """Return the id of a special token.

        Raises:
            CheckpointError: if the tokenizer does not have the token.
        """
        index = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(index, int) or index == self.tokenizer.unk_token_id:
            raise CheckpointError(f"model {self.name!r} has no token {token!r}; train it for this system first")
        return index
