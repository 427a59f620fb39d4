"""Deferred packages: what is imported without their code, and that nothing is missing when it is used."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from memfold.backbone import quick_start

FILES = {
    "__init__.py": "import sys\nsys.executed.append(__name__)\nfrom deferred.ordinary import VALUE\nOWN = 1\n",
    "ordinary.py": "VALUE = 2\nimport deferred\n",
    "replaced/__init__.py": "import sys, types\nsys.modules[__name__] = types.SimpleNamespace(OTHER=3)\n",
    "tangled/__init__.py": "import sys\nsys.executed.append(__name__)\nNAME = 4\nfrom deferred.tangled import sub\n",
    "tangled/sub.py": "from deferred.tangled import NAME\n",
    "tangled/lonely.py": "VALUE = 5\n",
}


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The deferred packages whose code was executed, in order."""
    for name, text in FILES.items():
        path = tmp_path / "deferred" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done: list[str] = []
    monkeypatch.setattr(sys, "executed", done, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    names = {"deferred": {"GIVEN": 0}, "deferred.replaced": {}, "deferred.tangled": {}}
    monkeypatch.setattr(quick_start, "DEFERRED", names)
    monkeypatch.setattr(quick_start, "HOMES", {"deferred": {"VALUE": "ordinary", "OWN": "nowhere"}})
    monkeypatch.setattr(quick_start, "ALONE", {"deferred.tangled": ("deferred.tangled.lonely",)})
    monkeypatch.setattr(sys, "meta_path", [quick_start._Finder(), *sys.meta_path])
    yield done
    for name in [name for name in sys.modules if name.split(".")[0] == "deferred"]:
        del sys.modules[name]


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_submodules_and_given_names_execute_nothing(executed: list[str]) -> None:
    package = load("deferred")
    assert load("deferred.ordinary").VALUE == package.ordinary.VALUE == package.VALUE == 2
    assert package.GIVEN == 0
    assert executed == []


def test_other_names_execute_the_code_once(executed: list[str]) -> None:
    package = load("deferred")
    assert package.OWN == 1, "which the module that should have it does not have"
    assert package is sys.modules["deferred"]
    assert not hasattr(package, "missing")
    assert executed == ["deferred"]


def test_a_package_that_replaces_itself_has_its_new_names(executed: list[str]) -> None:
    package = load("deferred.replaced")
    assert package.OTHER == sys.modules["deferred.replaced"].OTHER == 3
    assert not hasattr(package, "missing")


def test_submodules_that_need_the_code_execute_it_first(executed: list[str]) -> None:
    assert load("deferred.tangled.lonely").VALUE == 5
    assert executed == []
    assert load("deferred.tangled.sub").NAME == 4
    assert executed == ["deferred.tangled"]


def test_imported_packages_stay_as_they_are() -> None:
    importlib.import_module("transformers")
    before = list(sys.meta_path)
    quick_start.quick_start()
    assert sys.meta_path == before


PROGRAM = """
import json, sys
from memfold.cli.main import execute
code = execute(["ask", "text.txt", "Where was Ada born?", "--json"])
from memfold.backbone.quick_start import DEFERRED
used = [name for name in DEFERRED if name in sys.modules and type(sys.modules[name]).__name__ != "_Deferred"]
unused = ("sympy", "torch._dynamo.utils", "torch._inductor", "torch.distributed.tensor", "torch.distributed.checkpoint")
print(json.dumps([code, used + [name for name in unused if name in sys.modules]]))
import torch, transformers
plus = torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
print(json.dumps([plus.tolist(), transformers.LlamaConfig().model_type, transformers.__version__]))
"""


def test_a_question_is_answered_without_the_compiler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own; the answer is that of this process, which has imported all of `transformers`."""
    import transformers

    from memfold.cli.main import execute

    (tmp_path / "text.txt").write_text("Ada was born in Velm. The mill of Tor stands by the river.")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=tmp_path, check=True)
    quick, unused, used = map(json.loads, done.stdout.splitlines())
    assert unused == [0, []]
    assert used == [[2.0, 2.0], "llama", transformers.__version__]
    assert execute(["ask", str(tmp_path / "text.txt"), "Where was Ada born?", "--json"]) == 0
    usual = json.loads(capsys.readouterr().out)
    for record in (quick, usual):
        del record["seconds"]
    assert quick == usual
