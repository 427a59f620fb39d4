"""Encodes texts so that control tokens count only where a chat template writes them.

A document, a question or a note may contain the name of a control token, such as `<|im_end|>`.  It is plain text there:
a text whose tokens include a control token is encoded again by a second tokenizer, which differs from the first only in
the names of its control tokens.  Where a chat template writes them, its text uses the same names.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

Offsets = list[tuple[int, int]]

_CONTROL = re.compile(r"<[|\uff5c].+[|\uff5c]>")  # the usual form of a control token


class ControlTokens:
    """The control tokens of a tokenizer, and the encoding of texts with and without them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def names(self) -> dict[int, str]:
        """The names of the control tokens by id.

        They are the special tokens, the added tokens that the chat template writes, and those that look like one.
        """
        template = str(self._tokenizer.chat_template or "")
        return {
            number: token.content
            for number, token in self._tokenizer.added_tokens_decoder.items()
            if token.special or token.content in template or _CONTROL.fullmatch(token.content)
        }

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a plain text."""
        tokens = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return tokens if self.names.keys().isdisjoint(tokens) else self.encode_renamed(text)[0]

    def tokenize(self, text: str) -> tuple[list[int], Offsets]:
        """Return the token ids of a plain text and the character offsets (start, end) of each token."""
        tokens, offsets = self.encode_template(text)
        return (tokens, offsets) if self.names.keys().isdisjoint(tokens) else self.encode_renamed(text)

    def encode_template(self, text: str) -> tuple[list[int], Offsets]:
        """Return token ids and offsets of a text in which control tokens count by their own names."""
        output = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(output["input_ids"]), [tuple(pair) for pair in output["offset_mapping"]]

    def encode_renamed(self, text: str) -> tuple[list[int], Offsets]:
        """Return token ids and offsets of a text in which control tokens count by the names that `rename` writes."""
        encoding = self._renamed.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def rename(self, text: str) -> str:
        """Return a text of the chat template in which the control tokens have the names for `encode_renamed`."""
        longest_first = sorted(self._new_names, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)), lambda match: self._new_names[match[0]], text)

    @cached_property
    def _new_names(self) -> dict[str, str]:
        """A name that no text contains for each control token."""
        name = secrets.token_hex(16)
        return {content: f"{name}x{number}x" for number, content in self.names.items()}

    @cached_property
    def _renamed(self) -> Tokenizer:
        """The tokenizer with the new names."""
        state = json.loads(self._tokenizer.backend_tokenizer.to_str())
        names, model = self._new_names, state["model"]
        for token in state["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): number for piece, number in model["vocab"].items()}
        else:  # a unigram model: pieces with their scores
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        if "merges" in model:
            model["merges"] = [pair for pair in model["merges"] if not _makes(pair, names)]
        tokenizer: Tokenizer = Tokenizer.from_str(json.dumps(state))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        assert all(tokenizer.token_to_id(names[content]) == number for number, content in self.names.items())
        return tokenizer


def _makes(pair: Sequence[str], names: Mapping[str, str]) -> bool:
    """Return whether a merge makes a control token, or is made of one."""
    left, right = pair
    return not names.keys().isdisjoint((left, right, left + right))
