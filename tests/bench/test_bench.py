from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
from scripted_policy import ScriptedPolicy

from memfold.api import fold_documents
from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.shapes import SHAPES
from memfold.bench.first_token import bench_first_token
from memfold.bench.fold import bench_fold
from memfold.bench.rollout import bench_rollout
from memfold.bench.systems import TIMED, bench_systems, first_token
from memfold.bench.text import filler
from memfold.bench.timing import count_of
from memfold.cli.main import execute
from memfold.cli.options import numbers
from memfold.core.document import Document
from memfold.session import Session
from memfold.systems.pooled.head import add_head
from memfold.systems.pooled.system import Pooled
from memfold.systems.recurrent.system import Recurrent


@pytest.fixture
def headed(backbone: Backbone) -> Backbone:
    add_head(backbone)
    return backbone


def test_every_figure_of_the_first_token_comes_from_its_raw_times(headed: Backbone) -> None:
    lines: list[str] = []
    session = Session(Pooled.of({"ratio": 16}), headed)
    found = bench_first_token(session, [32, 64], warmups=0, runs=3, report=lines.append)
    assert [entry["tokens"] for entry in found["lengths"]] == [32, 64]
    assert len(lines) == 2
    shares = []
    for entry in found["lengths"]:
        runs = {name: len(values) for name, values in entry["seconds"].items()}
        assert runs == {"full": 3, "folded": 3, "slot": 3, "span": 3}
        slots = entry["tokens"] // 16
        spent = {name: wrapper["positions"] - slots for name, wrapper in entry["wrappers"].items()}
        assert spent["slot"] - spent["span"] == 2 * slots - 2, "two wrapper tokens a slot, or two in all"
        for name, wrapper in entry["wrappers"].items():
            rounds = zip(entry["seconds"]["full"], entry["seconds"][name], strict=True)
            assert wrapper["measured"] == pytest.approx(median(full / stored for full, stored in rounds), rel=0.02)
            shares.append(wrapper["share_of_predicted"])
        assert entry["wrappers"]["span"]["predicted"] > entry["wrappers"]["slot"]["predicted"] > 0
        assert entry["with_folding"]["predicted"] < entry["wrappers"]["span"]["predicted"]
        assert entry["with_folding"]["memory_share"] is None or entry["with_folding"]["memory_share"] >= 0
    assert found["ratio"] == min(shares)


def test_sampling_is_timed_beside_decoding_the_same_replies(headed: Backbone) -> None:
    lines: list[str] = []
    found = bench_rollout(Session(Pooled.of({"ratio": 16}), headed), [32], warmups=0, runs=3, report=lines.append)
    (entry,) = found["lengths"]
    assert entry["replies"] == 128
    assert 128 < entry["reply_tokens"] <= 128 * 48
    pairs = zip(entry["seconds"]["decoded"], entry["seconds"]["sampled"], strict=True)
    assert entry["share_of_decoding"] == pytest.approx(median(one / other for one, other in pairs), abs=1e-3)
    assert found["ratio"] == entry["share_of_decoding"]
    assert "of the rate at which the backbone decodes the same 128 replies" in lines[0]


def test_folding_is_timed_beside_the_forward_pass(headed: Backbone) -> None:
    found = bench_fold(Session(Pooled.of({"ratio": 4}), headed), [64, 256], warmups=0, runs=2, report=lambda line: None)
    first, last = found["lengths"]
    assert first["tokens"] >= 64
    assert last["tokens"] >= 256
    assert found["ratio"] == min(first["share_of_forward"], last["share_of_forward"])
    (x, y), (u, v) = ((one["tokens"], median(one["seconds"]["fold"])) for one in (first, last))
    assert found["slope"] == pytest.approx(math.log(v / y) / math.log(u / x), abs=0.002)
    assert [(one["documents"], one["tokens_each"]) for one in found["together"]] == [(8, 16), (8, 64), (8, 256)]
    for one in found["together"]:
        rounds = zip(one["seconds"]["apart"], one["seconds"]["together"], strict=True)
        assert one["ratio"] == pytest.approx(median(apart / together for apart, together in rounds), rel=0.01)


def test_the_command_writes_what_it_prints(
    headed: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headed.trained = {"pooled": {"ratios": [4, 16]}}
    save_backbone(headed, tmp_path / "small")
    for what in ("fold", "first-token", "systems"):
        two = ["--system", "full", "--system", "pooled"] if what == "systems" else []
        small = ["--model", str(tmp_path / "small"), "--lengths", "32,64", "--runs", "1", "--warmups", "0"]
        assert execute(["bench", what, *small, *two, "--out", str(tmp_path / "out"), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed == json.loads((tmp_path / "out" / f"{what}.json").read_text())
        assert printed["ratio"] > 0
        assert printed["ratio_of_slots"] == 16
        assert printed["hardware"]["cpu"]
        assert (tmp_path / "out" / f"{what}.png").stat().st_size > 1000


def test_the_ratio_is_that_of_the_slots_that_are_timed(headed: Backbone) -> None:
    def positions(ratio: int) -> int:
        session = Session(Pooled.of({"ratio": ratio}), headed)
        (entry,) = bench_first_token(session, [64], 0, 1, report=lambda line: None)["lengths"]
        return int(entry["wrappers"]["span"]["positions"])

    assert positions(4) - positions(16) == 64 // 4 - 64 // 16


def test_systems_are_timed_side_by_side(new_backbone: Callable[..., Backbone]) -> None:
    small = new_backbone(window=700)
    lines: list[str] = []
    labels = ("full", "retrieval", "pooled:4", "recurrent/chunk=64/note=4")
    found = bench_systems(small, labels, [64, 800], warmups=0, runs=2, report=lines.append)
    short, long = found["lengths"]
    assert 60 <= short["tokens"] <= 64
    for label in labels:
        one = short["systems"][label]
        assert [len(one[f"{name}_seconds"]) for name in TIMED] == [2] * len(TIMED)
        assert one["calls"] == one["generating_calls"] >= 1
        assert one["file_bytes"] > 0
        assert set(one["peak_bytes_above_weights"]) == {"fold", "first_token"}
    assert short["systems"]["recurrent/chunk=64/note=4"]["calls"] == 2
    assert short["systems"]["full"]["pays_after"] is None
    assert "the model's window is 700" in long["systems"]["full"]["error"]
    assert "full cannot read it" in lines[1]
    assert set(long["systems"]) == set(labels)
    full, *others = (short["systems"][label]["first_token_seconds"] for label in labels)
    gains = [median(slow / fast for slow, fast in zip(full, other, strict=True)) for other in others]
    assert found["ratio"] == pytest.approx(max(gains), rel=0.01)


def test_the_first_token_ends_the_call_that_answers(headed: Backbone) -> None:
    policy = ScriptedPolicy(lambda call: "a note")
    system = Recurrent.of({"chunk": 16, "note": 3})
    memory = fold_documents([Document("a", text="Ada was born in Velm. " * 8)], Session(system, headed)).memory
    first_token(system, memory, "Who?", policy)
    asked = [(call.purpose, call.sampling.max_tokens) for call in policy.calls]
    assert asked == [("update", 3)] * len(memory.blocks) + [("answer", 1)]


def test_a_long_text_is_run_less_often() -> None:
    assert count_of(65536, 3, 20) == (3, 20)
    assert count_of(122880, 3, 20) == (0, 3)
    assert count_of(122880, 3, 2) == (0, 2)


def test_random_weights_of_a_shape_are_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = {name: shape.reduced(vocabulary=8192) for name, shape in SHAPES.items()}
    monkeypatch.setattr("memfold.bench.architecture.SHAPES", shapes)
    small = ["--lengths", "64", "--runs", "1", "--warmups", "0", "--json"]
    for what in ("fold", "first-token"):
        assert execute(["bench", what, "--architecture", "7b", "--force", *small]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["model"] == "qwen2.5-7b with random weights"
        assert printed["ratio"] > 0
    for arguments, message in [
        (["--architecture", "7b"], "architecture 'qwen2.5-7b' needs a GPU; give --device cuda, or --force"),
        (["--architecture", "8b"], "unknown architecture '8b'; known: qwen2.5-0.5b, "),
        (["--architecture", "7b", "--model", "x"], "--architecture 7b replaces --model x; leave one of them out"),
        (["--architecture", "7b", "--device", "cuda:99"], "device 'cuda:99' is not available"),
        (["--system", "full"], "--system is for bench systems"),
    ]:
        assert execute(["bench", "fold", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["bench", "folds"]) == 2
    assert "unknown benchmark 'folds'; nearest: 'fold'" in capsys.readouterr().err
    assert execute(["bench", "fold", "--lengths", "8,x"]) == 2
    assert "--lengths '8,x' is not possible; write numbers of 1 or more with commas" in capsys.readouterr().err
    for system, message in [
        ("closed-book", "system 'closed-book' reads no document, so there is nothing to time; leave it out"),
        ("closed-book/bare", "reads no document"),
        ("poold", "unknown system 'poold'; nearest: 'pooled'"),
        ("full/unfold=64", "unknown full setting 'unfold'; known: "),
    ]:
        assert execute(["bench", "systems", "--system", "full", "--system", system]) == 2
        assert message in capsys.readouterr().err
    assert execute(["bench", "systems", "--system", "full", "--ratio", "4"]) == 2
    assert "--ratio 4 is not possible with --system; write the ratio as in pooled:4" in capsys.readouterr().err


def test_filler_has_the_length_that_was_asked_for(headed: Backbone) -> None:
    for length in (1, 5, 64, 300):
        assert len(headed.encode(filler(headed, length))) == length
    assert numbers("128,128,64") == (128, 64)


def test_an_answer_that_reads_text_again_is_timed(headed: Backbone) -> None:
    policy = ScriptedPolicy(lambda call: "Ada was born in Velm. \\boxed{Velm}")
    system = Pooled.of({"ratio": 4, "unfold": 16})
    memory = fold_documents([Document("a", text="Ada was born in Velm. " * 8)], Session(system, headed)).memory
    first_token(system, memory, "Where was Ada born?", policy)
    asked = [(call.purpose, call.sampling.max_tokens) for call in policy.calls]
    assert asked == [("locate", 160), ("locate", 1)]
