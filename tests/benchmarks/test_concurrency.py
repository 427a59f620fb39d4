"""Folds, appends and asks on one path at the same time, some of them killed: nothing is lost, nothing is unreadable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import concurrency
import pytest

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone

TRIALS = 4


def test_nothing_is_lost(
    new_backbone: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = new_backbone()
    backbone.trained = {"pooled": {"ratios": [4, 16]}}
    save_backbone(backbone, tmp_path / "model")
    monkeypatch.setattr(concurrency, "LATEST_KILL", 0.3)
    monkeypatch.setattr(concurrency, "MOST_PROCESSES", 4)
    monkeypatch.setattr(concurrency, "SENTENCES", 8)
    found = concurrency.run(TRIALS, 1, str(tmp_path / "model"))
    assert found.problems == []
    assert sum(found.processes.values()) >= 2 * TRIALS
    assert found.record()["trials_with_a_lost_document"] == 0


def test_what_is_lost_is_found(tmp_path: Path) -> None:
    found = concurrency.Found()
    assert list(concurrency._check_file(tmp_path / "m.fold", set(), found)) == []
    assert list(concurrency._check_file(tmp_path / "m.fold", {2}, found)) == ["lost documents [2] of [2]"]
    (tmp_path / "m.fold").write_text("no memory")
    (problem,) = concurrency._check_file(tmp_path / "m.fold", {2}, found)
    assert problem.startswith("unreadable: ")
    assert (found.lost, found.unreadable) == (1, 1)
    job = concurrency.Job(concurrency.ASK, 0)
    assert list(concurrency._explain([(job, 2, "memfold: no memory file at m.fold; ...")], False, found)) == []
    assert len(list(concurrency._explain([(job, 2, "memfold: no memory file at m.fold; ...")], True, found))) == 1
    assert len(list(concurrency._explain([(job, 1, "memfold: KeyError: 1")], True, found))) == 2
