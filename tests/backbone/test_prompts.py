"""Prompts of real kinds of tokenizers: the tokens of the tokenizer's own chat template, whatever the texts contain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain

import pytest
from chat_models import FAMILIES, KINDS, base_tokenizer, control_tokens, templated, tokenizer_of
from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.backbone.prompts import PromptEncoder
from memfold.core.errors import CheckpointError
from memfold.core.prompt import after_memory, user_message
from memfold.core.types import BlockRef, Part, TemplatePart, Text

TEXTS = ("The mill of Tor stands by the river.", " Ada was born in Velm,", "\nand so was Lor.")
CLOSING = after_memory("message", "Where was Ada born?", "bare")
EVERY = [(kind, family) for kind in KINDS for family in FAMILIES]


def encoder(kind: str, family: str) -> PromptEncoder:
    return PromptEncoder(tokenizer_of(kind, family))


def message(*texts: str) -> tuple[Part, ...]:
    return user_message(*map(Text, texts))


def joined(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


@pytest.mark.parametrize(("kind", "family"), EVERY)
def test_a_prompt_has_the_tokens_of_the_tokenizers_own_chat_template(kind: str, family: str) -> None:
    parts = encoder(kind, family).prompt(message(*TEXTS, CLOSING), "message")
    assert joined(parts) == templated(tokenizer_of(kind, family), "".join((*TEXTS, CLOSING)))
    assert (len(parts), [bool(part) for part in parts[1:5]]) == (6, [True] * 4)


@pytest.mark.parametrize(("kind", "family"), EVERY)
def test_control_tokens_in_texts_are_plain_text(kind: str, family: str) -> None:
    tokenizer, control = tokenizer_of(kind, family), control_tokens(family)
    ids = {tokenizer.convert_tokens_to_ids(name) for name in control}
    spiteful = "".join(f" {name}{name} x" for name in control) + FAMILIES[family].template
    made = encoder(kind, family)
    parts = made.prompt(message(spiteful, f"\nWhere is {control[0]}?"), "message")
    template = Counter(token for token in templated(tokenizer, "a") if token in ids)
    assert Counter(token for token in joined(parts) if token in ids) == template
    assert ids.isdisjoint((*parts[1], *parts[2]))
    assert ids.isdisjoint(made.control.encode(spiteful))
    if kind != "unigram" and (kind == "byte-level" or "▁" not in spiteful):  # otherwise some characters have no token
        assert tokenizer.decode(made.control.encode(spiteful)).strip() == spiteful.strip()
        assert spiteful.strip() in tokenizer.decode([*parts[0], *parts[1], *parts[2]])


@pytest.mark.parametrize(("kind", "family"), EVERY)
def test_offsets_of_texts_with_control_tokens_are_those_of_the_text(kind: str, family: str) -> None:
    made, name = encoder(kind, family), control_tokens(family)[-1]
    text = f"The mill {name} of Tor."
    tokens, offsets = made.control.tokenize(text)
    assert tokens == made.control.encode(text)
    assert max(end for _, end in offsets) == len(text)
    covered = {place for start, end in offsets for place in range(start, end)}
    assert covered >= {place for place, character in enumerate(text) if character != " "}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_slots_stand_where_the_text_would(kind: str, family: str) -> None:
    """Everything before and after the place of the memory has the tokens of a prompt with a word in that place."""
    parts = encoder(kind, family).prompt(user_message(BlockRef("m", 0), BlockRef("m", 1), Text(CLOSING)), "message")
    assert parts[1] == parts[2] == []
    whole = templated(tokenizer_of(kind, family), f"x{CLOSING}")
    after = [*parts[3], *parts[4]]
    assert after
    assert whole[-len(after) :] == after
    if kind == "byte-level":  # others write the space before the memory as a part of its first word
        assert parts[0]
        assert whole[: len(parts[0])] == parts[0]


@pytest.mark.parametrize(("kind", "family"), EVERY)
def test_a_prompt_begins_with_one_start_token(kind: str, family: str) -> None:
    start = FAMILIES[family].start
    tokens = joined(encoder(kind, family).prompt(message(*TEXTS), "message"))
    written = "bos_token" in FAMILIES[family].template
    assert tokens.count(tokenizer_of(kind, family).convert_tokens_to_ids(start)) == written if start else True


@pytest.mark.parametrize("start", ["<s>", None])
@pytest.mark.parametrize("kind", KINDS)
def test_a_base_model_reads_plain_text_as_its_tokenizer_encodes_it(kind: str, start: str | None) -> None:
    tokenizer = base_tokenizer(kind, start)
    parts = PromptEncoder(tokenizer).prompt(message(*TEXTS, "\nWhere?\nAnswer:"), "plain")
    assert joined(parts) == tokenizer("".join((*TEXTS, "\nWhere?\nAnswer:")))["input_ids"]
    alone = PromptEncoder(tokenizer).prompt((TemplatePart("before"),), "plain")
    assert alone == [[tokenizer.convert_tokens_to_ids(start or "</s>")]]
    assert PromptEncoder(tokenizer).prompt(user_message(BlockRef("m", 0)), "plain") == [*alone, [], []]


def test_parts_of_a_trained_layout_are_encoded_alone() -> None:
    tokenizer = tokenizer_of("byte-level", "chatml")
    made = PromptEncoder(tokenizer)
    parts: tuple[Part, ...] = message(*TEXTS, CLOSING)
    alone = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (*TEXTS, CLOSING)]
    end = tokenizer.eos_token_id
    assert made.prompt(parts, "flat") == [[end], *alone, []]
    before = tokenizer("<|im_start|>user\n", add_special_tokens=False)["input_ids"]
    after = tokenizer("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    assert made.prompt(parts, "chatml") == [before, *alone, after]
    assert made.prompt((Text(""), BlockRef("m", 0)), "flat") == [[end], []]
    assert made.prompt((BlockRef("m", 0), Text("x")), "flat") == [[], made.control.encode("x")]


def test_token_ids_are_kept_and_the_text_after_them_continues() -> None:
    tokenizer = tokenizer_of("pieces-first", "mistral")
    document = tuple(tokenizer("The mill stands.", add_special_tokens=False)["input_ids"])
    parts = encoder("pieces-first", "mistral").prompt(user_message(Text(tokens=document), Text(CLOSING)), "message")
    assert parts[1] == list(document)
    assert tokenizer.decode([*parts[1], *parts[2]]).strip() == f"The mill stands.{CLOSING}"


def test_an_added_word_stays_a_token() -> None:
    tokenizer = base_tokenizer("byte-level", None)
    tokenizer.add_tokens(["KX-41", "<|note|>"])
    made = PromptEncoder(tokenizer)
    assert made.control.encode("KX-41") == [tokenizer.convert_tokens_to_ids("KX-41")]
    assert tokenizer.convert_tokens_to_ids("<|note|>") not in made.control.encode("<|note|>")


def test_thinking_is_switched_off_where_the_template_can() -> None:
    assert encoder("byte-level", "qwen-3").frame[1].endswith("<think>\n\n</think>\n\n")
    thinks = {family: encoder("byte-level", family).thinks for family in FAMILIES}
    assert [family for family, value in thinks.items() if value] == ["r1-distil"]


def test_a_reply_ends_where_the_template_ends_a_message() -> None:
    ends = {
        "chatml": "<|im_end|>",
        "llama-3": "<|eot_id|>",
        "gemma": "<end_of_turn>",
        "mistral": None,
        "mistral-tokens": "[/INST]",
        "qwen-3": "<|im_end|>",
        "r1-distil": None,
        "phi-3": "<|end|>",
        "zephyr": "</s>",
    }
    for family, name in ends.items():
        token = None if name is None else tokenizer_of("byte-level", family).convert_tokens_to_ids(name)
        assert encoder("byte-level", family).message_end == token, family


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('only tools are served') }}", "only tools are served"),
        ("{% for message in messages %}{{ message.content", "unexpected end of template"),
        ("hello", "it does not write the message exactly once"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "it does not write the message exactly once"),
    ],
)
def test_a_template_that_cannot_be_applied_is_refused_in_one_line(template: str, message: str) -> None:
    tokenizer = base_tokenizer("byte-level", None)
    tokenizer.chat_template = template
    with pytest.raises(CheckpointError, match=message) as raised:
        PromptEncoder(tokenizer).frame  # noqa: B018
    assert "\n" not in str(raised.value)


def test_a_template_of_parts_of_content_gets_them() -> None:
    tokenizer = base_tokenizer("byte-level", None)
    tokenizer.chat_template = "{% for part in messages[0].content %}<u>{{ part.text }}</u>{% endfor %}"
    assert PromptEncoder(tokenizer).frame == ("<u>", "</u>")


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    family=st.sampled_from(sorted(FAMILIES)),
    pieces=st.lists(st.one_of(st.text(max_size=8), st.integers(0, 9)), max_size=6),
)
def test_no_text_writes_a_control_token(kind: str, family: str, pieces: list[str | int]) -> None:
    control = control_tokens(family)
    text = "".join(piece if isinstance(piece, str) else control[piece % len(control)] for piece in pieces)
    text = text.encode("utf-8", "ignore").decode()
    tokenizer, made = tokenizer_of(kind, family), encoder(kind, family)
    ids = {tokenizer.convert_tokens_to_ids(name) for name in control}
    tokens = joined(made.prompt(message("So", text, "?"), "message"))
    template = sum(token in ids for token in templated(tokenizer, "a"))
    assert sum(token in ids for token in tokens) == template
