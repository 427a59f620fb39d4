"""The replies of reasoning models, from tokens: thoughts have a field of their own and are not shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import pytest
from chat_models import base_tokenizer, tokenizer_of
from rendered_calls import plain

from memfold.backbone.decode import generate
from memfold.backbone.decoding_row import DecodingRow
from memfold.backbone.model import Backbone
from memfold.backbone.replies import ReplyDecoder
from memfold.core.prompt import user_message
from memfold.core.types import SamplingParams, Text

SAID = "It says: \\boxed{Tor}.\n</think>\n\nIn Velm."


def thinker(new_backbone: Callable[..., Backbone], family: str = "r1-distil") -> Backbone:
    return replace(new_backbone(), tokenizer=tokenizer_of("byte-level", family), chat_template="message")


def prompt(backbone: Backbone) -> list[int]:
    return list(chain.from_iterable(backbone.prompt(user_message(Text("Where was Ada born?")), "message")))


def written(backbone: Backbone, text: str) -> list[int]:
    return backbone.prompts.control.encode_template(text)[0]


def test_thoughts_that_the_prompt_opens_end_before_the_reply(new_backbone: Callable[..., Backbone]) -> None:
    backbone, shown = thinker(new_backbone), list[str]()
    row = DecodingRow(plain(prompt(backbone)), SamplingParams(), shown.append)
    for token in [*written(backbone, SAID), backbone.end_token]:
        row.tokens.append(token)
        row.logprobs.append(0.0)
        row.show(backbone)
    row.finish = "stop"
    row.show(backbone)
    reply = row.reply(backbone)
    assert (reply.thinking, reply.text, "".join(shown)) == ("It says: \\boxed{Tor}.", "In Velm.", "In Velm.")
    assert reply.tokens == tuple(row.tokens)


def test_thoughts_that_are_cut_off_leave_no_reply(new_backbone: Callable[..., Backbone]) -> None:
    backbone, shown = thinker(new_backbone), list[str]()
    row = DecodingRow(plain(prompt(backbone)), SamplingParams(), shown.append)
    row.tokens += written(backbone, "It says <answer>Velm</answer>")
    row.finish = "length"
    row.show(backbone)
    reply = row.reply(backbone)
    assert (reply.thinking, reply.text, shown) == ("It says <answer>Velm</answer>", "", [])


def test_a_model_whose_thinking_is_switched_off_replies_at_once(new_backbone: Callable[..., Backbone]) -> None:
    backbone = thinker(new_backbone, "qwen-3")
    row = DecodingRow(plain(prompt(backbone)), SamplingParams())
    row.tokens += written(backbone, " In Velm.")
    assert (row.reply(backbone).thinking, row.reply(backbone).text) == ("", " In Velm.")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["[THINK]", "[/THINK]"], "[THINK]It says.[/THINK]In Velm."),
        (
            ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"],
            "<|channel|>analysis<|message|>It says.<|end|><|start|>assistant<|channel|>final<|message|>In Velm.",
        ),
        (["<|START_THINKING|>", "<|END_THINKING|>"], "<|START_THINKING|>It says.<|END_THINKING|>In Velm."),
    ],
)
def test_marks_that_are_special_tokens_are_seen(tokens: list[str], said: str) -> None:
    tokenizer = base_tokenizer("byte-level", None)
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    thinking, text = ReplyDecoder(tokenizer).split([], tokenizer(said, add_special_tokens=False)["input_ids"])
    assert (thinking.removesuffix("assistant"), text) == ("It says.", "In Velm.")


def test_a_reply_ends_at_the_window(backbone: Backbone) -> None:
    rendered = replace(plain(backbone.encode("Where was Ada born?")), room=3)
    (reply,) = generate(backbone, [rendered], [SamplingParams(max_tokens=9)])
    assert (len(reply.tokens), reply.finish) == (3, "length")
    (shorter,) = generate(backbone, [rendered], [SamplingParams(max_tokens=2)])
    assert (len(shorter.tokens), shorter.finish) == (2, "length")
