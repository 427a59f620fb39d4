"""Blocks of text in a prompt: those of one document are one text, whatever the tokenizer does where a text begins."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.prompt import ChatTemplate, user_message
from memfold.core.types import Block, BlockRef, Call, Memory, Text
from memfold.systems.shared.blocks import render_text, text_blocks

TEXT = "Ada was born in Velm. Extraordinarily long words like incomprehensibilities stand here, too. Lor left."


@pytest.fixture(scope="module")
def spaced(backbone: Backbone) -> Backbone:
    """A model whose tokenizer puts a space before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return replace(backbone, tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>"))


def rendered(model: Backbone, memory: Memory, numbers: list[int], chat_template: ChatTemplate) -> list[list[int]]:
    """The tokens of each block that is read."""
    call = Call("answer", user_message(*(BlockRef("m", number) for number in numbers), Text("\nWho?")))
    done = render_text(memory, call, model, chat_template)
    parts, start = [], 0
    for length in done.lengths:
        parts.append(done.tokens[start : start + length])
        start += length
    assert done.memory_positions == sum(map(len, parts[1:-2]))
    return parts[1:-2]


def memory_of(blocks: list[Block], *sources: str) -> Memory:
    return Memory("m", "full", {}, "", sources, blocks)


@pytest.mark.parametrize("chat_template", ["flat", "chatml", "plain"])
@pytest.mark.parametrize("size", [5, 12])
def test_blocks_of_one_document_are_one_text(spaced: Backbone, chat_template: ChatTemplate, size: int) -> None:
    blocks = list(text_blocks([Document("a.txt", TEXT)], spaced, size))
    assert len(blocks) > 3
    parts = rendered(spaced, memory_of(blocks, "a.txt"), list(range(len(blocks))), chat_template)
    assert list(chain(*parts)) == spaced.encode(TEXT)
    assert list(chain(*(spaced.encode(block.text or "") for block in blocks))) != spaced.encode(TEXT)


@pytest.mark.parametrize("chat_template", ["flat", "plain"])
def test_what_does_not_follow_in_a_document_stands_on_a_line_of_its_own(
    backbone: Backbone, chat_template: ChatTemplate
) -> None:
    documents = [Document("a.txt", "Ada was born in Velm. Lor left. Rain fell."), Document("b.txt", "Tarn is cold.")]
    blocks = list(text_blocks(documents, backbone, 10))
    texts = [block.text for block in blocks]
    assert texts[0] == "Ada was born in Velm."
    assert texts[-1] == "Tarn is cold."
    held, last = memory_of(blocks, "a.txt", "b.txt"), len(blocks) - 1
    first, second = rendered(backbone, held, [0, last], chat_template)
    assert backbone.decode([*first, *second]) == "Ada was born in Velm.\nTarn is cold."
    first, second = rendered(backbone, held, [0, 1], chat_template)
    assert backbone.decode([*first, *second]) == f"{texts[0]}{texts[1]}"
