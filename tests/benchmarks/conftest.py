"""The scripts of benchmarks/, which are not a package, and a small comparison."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from reinforcement_statistics import Comparison

from memfold.evaluation.expansion import COLUMNS

HALF = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}
NONE, ALL = dict.fromkeys("abcd", 0.0), dict.fromkeys("abcd", 1.0)
CELL = {"value": 0.25, "low": None, "high": None, "count": 4, "failed": 0, "share": True}


@pytest.fixture
def comparison() -> Comparison:
    """Two trained models, one row of four questions."""
    training = {"steps": 10.0, "seconds": 2.0, "first": 0.4, "last": 0.5}
    outcomes = {"full": ALL, "retrieval": HALF, "sft": HALF, "sft recall": NONE, "rl 1": ALL, "rl 2": HALF}
    row = {"names": ["sft"], "cells": [CELL] * len(COLUMNS)}
    expansion = {"title": "Implicit expansion", "names": ["system"], "columns": list(COLUMNS), "rows": [row]}
    return Comparison(
        name="frozen-16x",
        system="pooled:16",
        models={"sft": "runs/sft", "rl 1": "runs/rl", "rl 2": "runs/rl-other"},
        trained={"rl 1": training, "rl 2": training},
        outcomes={"one hop": outcomes},
        recalls={"two-hop": {"sft": HALF, "rl 1": ALL, "rl 2": ALL}},
        failed={"sft": 0, "rl 1": 0},
        expansion=expansion | {"note": "A note."},
        commit="abc",
        hardware={"cpu": "Some CPU"},
    )
