"""Model folders and documents for the tests of the command line, and a way to run a command in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_result import Cli, Result

from memfold.backbone import policy
from memfold.backbone.decoding_row import DecodingRow
from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.cli.main import execute
from memfold.core.system import Rendered
from memfold.core.types import SamplingParams
from memfold.systems.pooled.settings import PooledFold
from memfold.systems.pooled.system import Pooled
from memfold.training import tokenizer

MakeBackbone = Callable[..., Backbone]
OnText = Callable[[str], None]
SMALL_CHUNK = 256
TRAINED = {"pooled": {"wrapper": "span", "positions": "strided", "ratios": [4, 16]}}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, new_backbone: MakeBackbone) -> dict[str, str]:
    """Folders of two models that differ in their weights."""
    folders = {}
    for seed, name in enumerate(("first", "second")):
        backbone = new_backbone(seed=seed)
        backbone.trained = TRAINED
        folder = tmp_path_factory.mktemp("models") / name
        save_backbone(backbone, folder)
        folders[name] = str(folder)
    return folders


@pytest.fixture(autouse=True)
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with random weights never ends a reply; a few tokens of it are enough."""

    def short(rendered: Rendered, sampling: SamplingParams, on_text: OnText | None = None) -> DecodingRow:
        return DecodingRow(rendered, replace(sampling, max_tokens=12), on_text)

    monkeypatch.setattr(policy, "DecodingRow", short)


@pytest.fixture(autouse=True)
def short_text_of_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer of a new model learns from eight pages, which takes a fiftieth of the time."""
    monkeypatch.setattr(tokenizer, "PAGES", 8)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 256 tokens, one forward pass for each, so that a short text has several."""
    plain = Pooled.__init__

    def init(self: Pooled, fold: PooledFold | None = None, *rest: Any) -> None:
        plain(self, replace(fold or PooledFold(), chunk=SMALL_CHUNK), *rest)

    monkeypatch.setattr(Pooled, "__init__", init)
    monkeypatch.setattr("memfold.systems.pooled.system.BATCH_TOKENS", SMALL_CHUNK)


@pytest.fixture
def model(models: dict[str, str]) -> tuple[str, str]:
    """The arguments that choose the first model."""
    return "--model", models["first"]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs a command in an empty folder; `stdin` is what it reads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEMFOLD_DEBUG", raising=False)

    def run(*arguments: object, stdin: bytes = b"") -> Result:
        stream = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", stream)
            code = execute([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def page(tmp_path: Path) -> SimpleNamespace:
    """A generated document of a few chunks' length, in a file."""
    from memfold.tasks.almanac.task import almanac
    from memfold.tasks.task import TaskOptions

    sample = almanac(5, 3000, TaskOptions(), lambda text: [0] * -(-len(text) // 3))[0]
    path = tmp_path / "page.txt"
    path.write_text(sample.document.read(), encoding="utf-8")
    return SimpleNamespace(path=path, text=sample.document.read(), question=sample.question)
