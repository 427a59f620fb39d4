"""The benchmark of folding with Ray: its texts, and the table of docs/scale.md against the result file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psutil")

import ray_fold

from memfold.backbone.folder import save_backbone

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
ROWS = {
    "`--engine local`": "plain",
    "`--engine ray --workers 1`": "one worker",
    "`--engine ray --workers 2`": "2 workers",
    "the last command again: everything is there": "again",
}


def test_the_table_is_that_of_the_result_file() -> None:
    result = json.loads((ray_fold.RESULTS / "ray-fold.json").read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    for label, way in ROWS.items():
        assert f"| {label} | {result[way]['seconds']:.0f} | {result[way]['processor']:.0f} |" in page
    assert f"folds {result['files']} texts of about" in page
    assert f"{result['tokens']:,} in all" in page
    assert result["equal"]


def test_a_way_is_measured_whole(tmp_path: Path, new_backbone: Any) -> None:
    backbone = new_backbone()
    backbone.trained = {"pooled": {"ratios": [16]}}
    save_backbone(backbone, tmp_path / "model")
    ray_fold.write_texts(tmp_path / "texts", 3, 20)
    texts = {path.read_text() for path in (tmp_path / "texts").iterdir()}
    assert len(texts) == 3
    assert min(map(len, texts)) >= 80
    told = ray_fold.fold(tmp_path, "plain", ["--model", str(tmp_path / "model")])
    assert (told["folded"], told["kept"]) == (3, 0)
    assert told["processor"] > 0
    assert len(list((tmp_path / "plain").iterdir())) == 3
