"""Questions about many documents at once give the answers that they have one by one."""

from __future__ import annotations

import together

from memfold.backbone.model import Backbone
from memfold.session import Session
from memfold.systems.recurrent.system import Recurrent


def test_the_answers_and_calls_are_those_of_one_document_after_the_other(backbone: Backbone) -> None:
    system = Recurrent.of({"chunk": 64, "note": 8, "max_tokens": 8})
    measured = together.measure(Session(system, backbone), documents=3, tokens=128, seed=0)
    assert measured["same_answers"] == 3
    assert measured["calls"] >= 3 * 3  # two chunks or more, and the answer
    assert 0 < measured["written"]["together"] == measured["written"]["one by one"]
    assert measured["times_faster"] > 0
