"""Separates the thoughts and the reply in the tokens that a model wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from memfold.core.thinking import MARKS, ReplyStream, opens_thinking, split_thinking

LONGEST_MARK = 16  # tokens


class ReplyDecoder:
    """Decodes the replies of a model with its tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def split(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[str, str]:
        """Return the thoughts and the reply in the tokens that a model wrote after a prompt."""
        return split_thinking(self.written(tokens), self._opens_thinking(prompt))

    def stream(self, prompt: Sequence[int], on_text: Callable[[str], None]) -> ReplyStream:
        """Return the stream that passes on a reply to a prompt."""
        return ReplyStream(on_text, self._opens_thinking(prompt))

    def written(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens without special tokens, except the marks around thoughts."""
        pieces, start = list[str](), 0
        for end, token in enumerate(tokens):
            if token in self._marks:
                pieces += [self.decode(tokens[start:end]), self._marks[token]]
                start = end + 1
        return "".join((*pieces, self.decode(tokens[start:])))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens without special tokens, and otherwise as the model wrote it."""
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _opens_thinking(self, prompt: Sequence[int]) -> bool:
        """Return whether a prompt ends with an opening mark; slots are negative ids."""
        end = [token for token in prompt[-LONGEST_MARK:] if token >= 0]
        return opens_thinking(str(self._tokenizer.decode(end)))

    @cached_property
    def _marks(self) -> dict[int, str]:
        """The special tokens in the marks around thoughts, which other decoding leaves out."""
        marks = [mark for pair in MARKS for mark in pair]
        added = self._tokenizer.added_tokens_decoder.items()
        return {
            number: token.content
            for number, token in added
            if token.special and any(token.content in mark for mark in marks)
        }
