from __future__ import annotations

import pytest
import torch

from memfold.backbone.familiarity import CHARACTERS, WINDOW, loss_of
from memfold.backbone.model import Backbone

SENTENCE = "Ada Brisk was born in Velm in 1893. "


@torch.no_grad()
def read_plainly(backbone: Backbone, text: str) -> float:
    tokens = torch.tensor([[backbone.end_token, *backbone.encode(text)[:WINDOW]]])
    return float(backbone.model(tokens, labels=tokens).loss)


def test_a_short_text_is_read_whole(any_backbone: Backbone) -> None:
    assert loss_of(any_backbone, SENTENCE) == pytest.approx(read_plainly(any_backbone, SENTENCE), rel=1e-4)


def test_a_long_text_is_read_at_its_beginning_and_its_end(backbone: Backbone) -> None:
    odd = "zq %% 77 xx;; "
    text = (SENTENCE * 200)[:CHARACTERS] + (odd * 400)[:CHARACTERS]
    expected = (read_plainly(backbone, text[:CHARACTERS]) + read_plainly(backbone, text[CHARACTERS:])) / 2
    assert loss_of(backbone, text) == pytest.approx(expected, rel=1e-4)
    assert loss_of(backbone, text[:CHARACTERS]) != pytest.approx(expected, rel=1e-2)
