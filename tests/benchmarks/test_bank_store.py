"""The two kinds of memory that the benchmark compares, on a small model."""

from __future__ import annotations

from pathlib import Path

import bank_store

from memfold.backbone.model import Backbone
from memfold.session import Session
from memfold.systems.kvbank.system import Kvbank


def test_each_way_of_reading_gives_the_answers_of_stored_blocks(backbone: Backbone, tmp_path: Path) -> None:
    settings = {"chunk": 128, "compressor": "recent", "gate": "ask", "note": 4, "max_tokens": 4}
    backbone.trained, trained = {"kvbank": settings | {"ratios": [4]}}, backbone.trained
    try:
        session = Session(bank_store.make_system("kvbank", backbone), backbone)
        measured = bank_store.measure(session, 700, 2, 0, tmp_path)
    finally:
        backbone.trained = trained
    stored, text = measured["files"]["blocks"], measured["files"]["text"]
    assert stored["blocks"] == text["blocks"] > 4
    assert stored["bytes"] > text["bytes"]
    assert 0 < stored["checksum_seconds"] < stored["seconds"]
    assert text["checksum_seconds"] == 0
    assert isinstance(session.system, Kvbank)
    rows = measured["reading"]
    assert [(row["store"], row["settings"]) for row in rows] == [
        ("blocks", {}),
        ("text", {}),
        ("text", {"gigabytes": 0}),
        ("blocks", {"candidates": 2}),
        ("text", {"candidates": 2}),
    ]
    assert all(row["same_answers"] for row in rows)
    assert all(row[f"question_{number}_seconds"] > 0 for row in rows for number in (1, 2))
