from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from memfold.backbone.model import Backbone, save_backbone
from memfold.bench.first_token import bench_first_token
from memfold.bench.fold import bench_fold
from memfold.choice import Choice
from memfold.cli.main import execute
from memfold.systems.pooled.head import add_head
from memfold.systems.pooled.system import Pooled


@pytest.fixture
def headed(backbone: Backbone) -> Backbone:
    add_head(backbone)
    return backbone


def test_every_figure_of_the_first_token_comes_from_its_raw_times(headed: Backbone) -> None:
    said: list[str] = []
    found = bench_first_token(headed, [32, 64], warmups=0, runs=3, tell=said.append)
    assert [entry["tokens"] for entry in found["lengths"]] == [32, 64]
    assert len(said) == 2
    shares = []
    for entry in found["lengths"]:
        assert {name: len(values) for name, values in entry["seconds"].items()} == {
            "full": 3, "folded": 3, "slot": 3, "span": 3,
        }  # fmt: skip
        slots = entry["tokens"] // 16
        spent = {name: wrapper["positions"] - slots for name, wrapper in entry["wrappers"].items()}
        assert spent["slot"] - spent["span"] == 2 * slots - 2, "two wrapper tokens a slot, or two in all"
        for name, wrapper in entry["wrappers"].items():
            rounds = zip(entry["seconds"]["full"], entry["seconds"][name], strict=True)
            assert wrapper["measured"] == pytest.approx(median(full / stored for full, stored in rounds), rel=0.02)
            shares.append(wrapper["share_of_predicted"])
        assert entry["wrappers"]["span"]["predicted"] > entry["wrappers"]["slot"]["predicted"] > 0
        assert entry["with_folding"]["predicted"] < entry["wrappers"]["span"]["predicted"]
    assert found["ratio"] == min(shares)


def test_folding_is_timed_beside_the_forward_pass(headed: Backbone) -> None:
    found = bench_fold(Choice(Pooled(ratio=4), headed), [64, 256], warmups=0, runs=2, tell=lambda line: None)
    first, last = found["lengths"]
    assert first["tokens"] >= 64
    assert last["tokens"] >= 256
    assert found["ratio"] == min(first["share_of_forward"], last["share_of_forward"])
    assert found["slope"] is not None
    assert found["together"]["documents"] == 8
    assert all(len(values) == 2 for values in found["together"]["seconds"].values())


def test_the_command_writes_what_it_prints(
    headed: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headed.trained = {"pooled": {"ratios": [4, 16]}}
    save_backbone(headed, tmp_path / "small")
    for what in ("fold", "first-token"):
        small = ["--model", str(tmp_path / "small"), "--lengths", "32,64", "--runs", "1", "--warmups", "0"]
        assert execute(["bench", what, *small, "--out", str(tmp_path / "out"), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed == json.loads((tmp_path / "out" / f"{what}.json").read_text())
        assert printed["ratio"] > 0
        assert printed["hardware"]["cpu"]
        assert (tmp_path / "out" / f"{what}.png").stat().st_size > 1000


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["bench", "folds"]) == 2
    assert "unknown benchmark 'folds'; nearest: 'fold'" in capsys.readouterr().err
    assert execute(["bench", "fold", "--lengths", "8,x"]) == 2
    assert "--lengths '8,x' is not possible; write numbers from 1 with commas" in capsys.readouterr().err
