"""The prompts of the shipped model are those that it was trained with, token for token."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

import memfold
from memfold.backbone.prompts import PromptEncoder
from memfold.core.prompt import ChatTemplate, after_memory, user_message
from memfold.core.types import BlockRef, Text

TINY = Path(memfold.__file__).parent / "assets" / "tiny"
READ = [37, 626, 274, 365, 288, 332, 298, 81, 18]
ASKED = [203, 834, 274, 357, 626, 365, 35, 203]
REQUEST = [1406, 264, 89, 88, 263, 271, 637, 285, 71, 293, 266, 263, 989, 276, 308, 386, 434, 667, 361, 73, 275, 16]
REQUEST += [1318, 292, 77, 386, 263, 276, 325, 336, 288, 338, 339, 95, 97, 18]
PROMPTS: dict[ChatTemplate, list[list[int]]] = {
    "flat": [[0], READ, [*ASKED, 341, 30], []],
    "chatml": [[3, 415, 267, 203], READ, [*ASKED, *REQUEST], [4, 203, 3, 268, 87, 287, 560, 88, 203]],
}


@pytest.mark.parametrize("chat_template", PROMPTS)
def test_the_tokens_of_the_shipped_model(chat_template: ChatTemplate) -> None:
    prompts = PromptEncoder(PreTrainedTokenizerFast.from_pretrained(str(TINY)))
    closing = Text(after_memory(chat_template, "Where was Ada born?", "recall"))
    made = prompts.prompt(user_message(Text("Ada was born in Velm."), closing), chat_template)
    assert made == PROMPTS[chat_template]
    read = prompts.prompt(user_message(BlockRef("m", 0), closing), chat_template)
    assert read == [made[0], [], *made[2:]]
