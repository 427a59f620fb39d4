from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memfold.backbone import familiarity
from memfold.backbone.familiarity import CHECKED, REACH, TOKENS, WINDOW, losses_of, passage_warning, slots_warning
from memfold.backbone.model import Backbone
from memfold.core.types import Block

SENTENCE = "Ada Brisk was born in Velm in 1893. "
ODD = "zq %% 77 xx;; "


@torch.no_grad()
def read_plainly(backbone: Backbone, text: str) -> float:
    """The loss of the whole text, summed and divided by its characters."""
    tokens = torch.tensor([[backbone.end_token, *backbone.encode(text)]])
    return float(backbone.model(tokens, labels=tokens).loss) * (tokens.shape[1] - 1) / len(text)


def test_losses_are_per_character_and_texts_do_not_disturb_each_other(any_backbone: Backbone) -> None:
    texts = [SENTENCE, ODD, SENTENCE + ODD]
    plain = [read_plainly(any_backbone, text) for text in texts]
    assert losses_of(any_backbone, texts) == pytest.approx(plain, rel=1e-4)


def test_of_a_long_text_the_first_tokens_count_with_their_characters(backbone: Backbone) -> None:
    text = SENTENCE * 40
    _, offsets = backbone.tokenize(text)
    assert len(offsets) > TOKENS
    read = text[: offsets[TOKENS - 1][1]]
    assert losses_of(backbone, [text]) == pytest.approx([read_plainly(backbone, read)], rel=1e-4)


def test_a_text_in_bytes_has_more_loss_per_character(backbone: Backbone) -> None:
    """Each of its characters takes three tokens."""
    chinese, english = "小王昨天在图书馆", SENTENCE
    assert len(backbone.encode(chinese)) == 3 * len(chinese)
    (one, other) = losses_of(backbone, [chinese, english])
    assert one > 2 * other


@given(st.text(alphabet="ab \n", min_size=1, max_size=5 * WINDOW))
def test_windows_are_the_text_in_parts_of_about_equal_size(text: str) -> None:
    windows = familiarity._windows(text)
    assert "".join(windows) == text
    assert len(windows) == max(1, len(text) // WINDOW)
    if len(windows) > 1:
        assert min(map(len, windows)) >= WINDOW - REACH
        assert max(map(len, windows)) < 2 * WINDOW + REACH


def test_a_text_is_unlike_as_a_whole_or_in_part(wary: Backbone) -> None:
    half = 20 * SENTENCE
    assert familiarity.warning(wary, half) is None
    whole = familiarity.warning(wary, 60 * ODD)
    assert whole is not None
    assert whole.startswith("this text is unlike the training text of qwen3 (5.0 nats per character, where up to 3.0")
    part = familiarity.warning(wary, half + 60 * ODD + half)
    assert part is not None
    assert part.startswith("a part of this text is unlike the training text of qwen3, such as ")
    assert "zq %% 77" in part


def test_a_text_of_many_tokens_is_unlike_whatever_its_loss(wary: Backbone) -> None:
    characters = len(SENTENCE) / len(wary.encode(SENTENCE))
    assert familiarity.characters_of(wary, SENTENCE) == characters
    wary.familiar_characters = characters
    assert familiarity.warning(wary, SENTENCE.strip()) is None
    wary.familiar_characters = characters + 0.5
    warned = str(familiarity.warning(wary, SENTENCE.strip()))
    assert f"{characters:.1f} characters per token, where {characters + 0.5:.1f} or more are familiar" in warned


@pytest.mark.parametrize("place", [0, 1, 100, 317, 399])
def test_one_page_in_a_long_text_is_found_wherever_it_is(wary: Backbone, place: int) -> None:
    """It is a four-hundredth of the text; the windows that are spread evenly miss it, those with odd tokens do not."""
    pages = [8 * SENTENCE] * 400
    pages[place] = 2 * WINDOW // len(ODD) * ODD + ODD
    warned = familiarity.warning(wary, "".join(pages))
    assert warned is not None
    assert "part of this text" in warned


def test_few_windows_of_a_long_text_are_read(wary: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr(familiarity, "losses_of", lambda _, texts: read.append(len(texts)) or [0.0] * len(texts))
    assert familiarity.warning(wary, 4000 * SENTENCE) is None
    assert sum(read) <= 2 * CHECKED


def test_a_model_without_limits_warns_of_nothing(backbone: Backbone) -> None:
    assert not familiarity.has_limits(backbone)
    assert familiarity.warning(backbone, ODD) is None
    assert passage_warning(backbone, ODD) is None
    assert slots_warning(backbone, [Block(0, 0, 0, 100, 0, 1)]) is None


def test_a_text_of_one_word_and_a_blank_one(new_backbone: Any) -> None:
    backbone: Backbone = new_backbone()
    backbone.familiar_loss = 1e9
    assert familiarity.warning(backbone, "Velm") is None
    backbone.familiar_loss = 0.01
    assert "this text is unlike" in str(familiarity.warning(backbone, " Velm\n"))
    assert familiarity.warning(backbone, " ") is None


def test_a_passage_is_unlike_or_not(wary: Backbone) -> None:
    assert passage_warning(wary, SENTENCE) is None
    assert passage_warning(wary, " ") is None
    assert "the passage that matches the question is unlike" in str(passage_warning(wary, ODD))


def test_slots_are_judged_by_characters_per_token(wary: Backbone) -> None:
    wary.familiar_characters = 2.5
    familiar, foreign = Block(0, 0, 0, 100, 0, 250), Block(1, 0, 100, 200, 250, 490)  # 2.5 and 2.4 characters a token
    assert slots_warning(wary, [familiar]) is None
    assert slots_warning(wary, []) is None
    assert slots_warning(wary, [Block(0, 0, 0, 0, 0, 0)]) is None
    warned = str(slots_warning(wary, [familiar, foreign]))
    assert "(2.4 characters per token, where 2.5 or more are familiar)" in warned
    wary.familiar_characters = None
    assert slots_warning(wary, [foreign]) is None
