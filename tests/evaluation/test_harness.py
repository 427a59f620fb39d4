"""The adapter for lm-evaluation-harness, on its own classes where it is installed and on a stand-in where it is not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.errors import ConfigError, DataError
from memfold.core.policy import Request, complete
from memfold.core.types import SamplingParams, Text

MODULE = "memfold.evaluation.harness"
LINES = "".join(f"Line {number} of the text is here.\n" for number in range(40))
installed = find_spec("lm_eval") is not None


class StandIn:
    """As much of the harness's `LM` as a model relies on."""

    def __init__(self) -> None:
        self._rank = 0


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if not installed:
        for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model", "lm_eval.api.registry"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules["lm_eval.api.model"].LM = StandIn  # type: ignore[attr-defined]
        sys.modules["lm_eval.api.registry"].register_model = lambda name: lambda cls: cls  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    if installed:
        from lm_eval.api.registry import model_registry

        monkeypatch.setattr(model_registry, "_objs", {k: v for k, v in model_registry._objs.items() if k != "memfold"})
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module")
def folder(new_backbone: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory) -> str:
    backbone = new_backbone()
    backbone.trained = {"pooled": {"wrapper": "span", "positions": "strided", "ratios": [4, 16]}}
    where = tmp_path_factory.mktemp("harness") / "model"
    save_backbone(backbone, where)
    return str(where)


def asked(*arguments: Any) -> SimpleNamespace:
    """A request in the form of the harness's `Instance`."""
    return SimpleNamespace(args=arguments)


def test_the_end_of_a_long_prompt_stays_text(harness: Any, folder: str) -> None:
    model = harness.MemfoldLM(folder, tail=20)
    (long, end), (short, whole) = model._memories([LINES + "Question: who?\nAnswer:", "Who?\n"])
    text = "".join(block.read() or "" for block in long.blocks)
    assert text + end == LINES + "Question: who?\nAnswer:"
    assert text.endswith("\n"), "cut where a line ends"
    assert 20 <= len(model.model.encode(end)) <= 41
    assert long.slot_count == -(-long.token_count // 16)
    assert (short.blocks, whole) == ([], "Who?\n")
    unbroken, rest = model._memories(["word " * 300])[0]
    assert len(model.model.encode(rest)) == pytest.approx(20, abs=2)
    assert unbroken.blocks


def test_a_continuation_is_scored_as_the_model_itself_scores_it(harness: Any, folder: str) -> None:
    model = harness.MemfoldLM(folder, system="full")
    prompt, endings = "Ada was born in ", ["Velm.", "Lor and Velm."]
    found = model.loglikelihood([asked(prompt, ending) for ending in endings])
    for ending, (value, greedy) in zip(endings, found, strict=True):
        backbone = model.model
        tokens = [backbone.end_token, *backbone.encode(prompt + ending)]
        begun = 1 + len(backbone.encode(prompt.rstrip(" ")))
        with torch.no_grad():
            table = backbone.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        expected = sum(float(table[place - 1, tokens[place]]) for place in range(begun, len(tokens)))
        assert value == pytest.approx(expected, abs=1e-3)
        assert greedy == all(int(table[p - 1].argmax()) == tokens[p] for p in range(begun, len(tokens)))


@pytest.mark.parametrize("system", ["pooled", "full"])
def test_what_greedy_decoding_writes_is_scored_as_greedy(harness: Any, folder: str, system: str) -> None:
    model = harness.MemfoldLM(folder, system=system, tail=20, batch_size=3)
    encode, policy = model.model.encode, LocalPolicy(model.model)
    alike = 0
    for prompt in [LINES[:cut] for cut in range(700, 1100, 50)]:
        memory, end = model._memories([prompt])[0]
        call = harness._call(memory, Text(end)).sampled(SamplingParams(max_tokens=1))
        (reply,) = complete(policy, [Request(model.system, memory, call)])
        if encode(end + reply.text) != encode(end) + list(reply.tokens):
            continue  # text that is tokenised otherwise than it was written
        alike += 1
        (other, scored) = model.loglikelihood([asked(prompt, "x"), asked(prompt, reply.text)])
        assert scored == (pytest.approx(reply.logprobs[0], abs=1e-3), True)
        assert other[0] < scored[0]
    assert alike


def test_a_memory_stands_for_the_beginning(harness: Any, folder: str) -> None:
    model = harness.MemfoldLM(folder, tail=20)
    other = LINES.replace("Line", "Page")
    here, there = model.loglikelihood([asked(text + "It is", " so.") for text in (LINES, other)])
    assert here[0] != there[0]


def test_replies_end_before_the_first_stop(harness: Any, folder: str) -> None:
    model = harness.MemfoldLM(folder, system="full")
    (whole,) = model.generate_until([asked("Ada", {"until": "\0", "max_gen_toks": 12})])
    stop = whole[4:6]
    (cut,) = model.generate_until([asked("Ada", {"until": ["\0", stop], "max_gen_toks": 12})])
    assert cut == whole[: whole.find(stop)]
    drawn = model._sampling({"temperature": 0.7, "top_p": 0.8, "max_gen_toks": 5})
    assert (drawn.temperature, drawn.top_p, drawn.max_tokens) == (0.7, 0.8, 5)
    assert model._sampling({"temperature": 0.7, "do_sample": False}).temperature == 0


def test_a_text_without_question_is_scored_in_stretches(
    harness: Any, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = harness.MemfoldLM(folder, system="full")
    text = "Ada was born in Velm. Lor was born in Sanu."
    (whole,) = model.loglikelihood([asked("", text)])
    assert model.loglikelihood_rolling([asked(text)]) == [pytest.approx(whole[0])]
    monkeypatch.setattr(harness, "ROLLING_TOKENS", 5)
    pairs = harness._stretches(text, model.model.tokenize(text)[1])
    assert "".join(scored for _, scored in pairs) == text
    assert len(pairs) > 2
    assert all(before == text[: len(before)] for before, _ in pairs)


def test_what_cannot_be_run_is_told(harness: Any, folder: str) -> None:
    with pytest.raises(ConfigError, match="'retrieval' reads only a part of a text; use a system that reads all"):
        harness.MemfoldLM(folder, system="retrieval")
    with pytest.raises(ConfigError, match="tail = 0"):
        harness.MemfoldLM(folder, tail=0)
    model = harness.MemfoldLM(folder, system="full", max_gen_toks=4000, device="cuda:0")
    with pytest.raises(DataError, match="the model's window is 2048"):
        model.generate_until([asked("Ada was born. " * 900, {})])
    remote = harness.MemfoldLM("http://localhost:1/v1#some-model", system="full")
    with pytest.raises(ConfigError, match="'some-model' is an endpoint, which cannot score a given text"):
        remote.loglikelihood([asked("a", "b")])


@pytest.mark.skipif(installed, reason="lm-eval is installed")
def test_without_the_harness_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'memfold\[harness\]'"):
        importlib.import_module(MODULE)


@pytest.mark.skipif(not installed, reason="lm-eval is not installed")
def test_the_harness_runs_a_task_of_its_own(
    harness: Any, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = '{"text": "Ada was born in Velm.", "answer": "Velm", "other": "Sanu"}\n' * 3
    (tmp_path / "rows.jsonl").write_text(rows)
    common = (
        f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.jsonl'}\ntest_split: test\n"
    )
    (tmp_path / "born.yaml").write_text(
        "task: born\n" + common + 'output_type: multiple_choice\ndoc_to_text: "{{text}} Where was Ada born?"\n'
        'doc_to_target: 0\ndoc_to_choice: "{{[answer, other]}}"\nmetric_list:\n  - metric: acc\n'
    )
    (tmp_path / "told.yaml").write_text(
        "task: told\n" + common + 'output_type: generate_until\ndoc_to_text: "{{text}} Where was Ada born?"\n'
        'doc_to_target: "{{answer}}"\ngeneration_kwargs:\n  until: ["."]\n  max_gen_toks: 4\n'
        "metric_list:\n  - metric: exact_match\n"
    )
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    arguments = f"pretrained={folder},system=pooled,tail=4"
    found = simple_evaluate("memfold", arguments, ["born", "told"], task_manager=tasks, bootstrap_iters=0)
    assert set(found["results"]) == {"born", "told"}
    assert 0 <= found["results"]["born"]["acc,none"] <= 1
