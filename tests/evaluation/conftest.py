"""Evaluations small enough for a test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memfold.backbone.model import Backbone
from memfold.evaluation.candidate import make_candidate
from memfold.evaluation.runner import Evaluation
from memfold.evaluation.suite import Options, load_suite


@pytest.fixture(scope="session")
def trained(new_backbone: Callable[..., Backbone]) -> Backbone:
    """As a backbone is after training; not to be changed."""
    backbone = new_backbone()
    backbone.trained = {
        "pooled": {
            "window": 0,
            "mask": "causal",
            "wrapper": "none",
            "positions": "consecutive",
            "ratios": [4, 16],
        }
    }
    return backbone


@pytest.fixture
def evaluate(trained: Backbone) -> Callable[..., Evaluation]:
    """An evaluation of these systems; by default of eight questions about short almanac documents."""

    def make(*labels: str, suite: str = "almanac", **options: object) -> Evaluation:
        settings = {"lengths": (96, 160), "questions": 8} | options
        candidates = tuple(make_candidate(label, trained) for label in labels)
        return Evaluation(load_suite(suite), Options(**settings), candidates, trained)  # type: ignore[arg-type]

    return make
