"""The shape of the code, read from its syntax: who imports whom, how long and deep things are, what they are called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from memfold.core.registry import SYSTEMS, system_class

TABLE = "memfold.core.registry"
PACKAGE = Path(__file__).parents[2] / "src" / "memfold"
LAYERS = (
    {"core"},
    {"backbone", "endpoint", "memory", "readers", "response"},
    {"sources"},
    {"systems", "tasks", "scoring", "session"},
    {"training", "evaluation", "folding", "checks"},
    {"corpus", "folded"},
    {"api"},
    {"bench", "rl"},
    {"cli"},
    {"__main__"},
)
RANKS = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
GROUPS = {"fold", "read", "train"}  # of a system's settings
HOLDERS = {"settings", "trained", "options", "record", "own", "said"}  # names under which settings by name are kept
SETTERS = {"answering", "changed", "make_system", "system_for", "of", "with_settings"}
MOST_LINES, MOST_FUNCTION_LINES, MOST_NESTING = 400, 80, 3
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "misc", "v2", "new", "old"}
HEAVY = {"torch", "transformers", "accelerate", "peft", "bitsandbytes", "vllm", "lm_eval"}
HEAVY |= {"matplotlib", "bm25s", "pypdfium2", "docx", "bs4", "markdownify", "trafilatura", "lxml", "pyarrow", "ray"}
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith, ast.TryStar)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.AST, types: bool = False) -> Iterator[str]:
    """The modules that a tree imports at run time, inside functions too; with `types` also for type checking."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)
        yield from imported(node, types)


def part_of(module: str) -> str:
    """The part of the package that a module belongs to; empty for the front door itself."""
    return module.split(".")[1] if "." in module else ""


def ours(module: str, types: bool = False) -> set[str]:
    return {name for name in imported(MODULES[module], types) if name.split(".")[0] == "memfold"} - {module}


def nesting(node: ast.AST, depth: int = 0) -> int:
    """How deep blocks stand in each other; an `elif` adds nothing, an inner function counts for itself."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
            continue
        follows = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child, depth + (isinstance(child, BLOCKS) and not follows)))
    return deepest


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))


def docstrings(tree: ast.AST) -> set[ast.expr]:
    """The strings that stand alone as a statement."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def system_names(tree: ast.AST) -> list[str]:
    """Strings that are a system's name, or a label that begins with one (`pooled:16/bare`)."""
    left_out = docstrings(tree)
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out
    ]
    return [string for string in strings if re.split(r"[:/]", string)[0] in SYSTEMS]


def own_settings() -> set[str]:
    """The settings that some system lacks."""
    counts = Counter(name for system in SYSTEMS for name in system_class(system).setting_names())
    return {name for name, count in counts.items() if count < len(SYSTEMS)}


def setting_lookups(tree: ast.AST) -> list[str]:
    """Settings that some system lacks, where they are looked up or set by name."""
    return [found for node in ast.walk(tree) for found in _looked_up(node) if found in own_settings()]


def _looked_up(node: ast.AST) -> Iterator[str]:
    """The names that a node asks settings for, or sets."""
    if isinstance(node, ast.Subscript) and _are_settings(node.value):
        yield from _strings(node.slice)
    elif isinstance(node, ast.Compare) and any(map(_are_settings, node.comparators)):
        yield from _strings(node.left)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr in GROUPS:
        yield node.attr
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _are_settings(node.func.value):
        yield from (name for argument in node.args[:1] for name in _strings(argument))
    elif isinstance(node, ast.Call) and _name(node.func) in SETTERS:
        yield from (keyword.arg for keyword in node.keywords if keyword.arg)
        yield from (
            name for argument in node.args if isinstance(argument, ast.Dict) for name in _strings(*argument.keys)
        )


def _are_settings(node: ast.AST) -> bool:
    return _name(node) in HOLDERS


def _name(node: ast.AST) -> str:
    """The last part of a name: `settings` of `system.settings`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _strings(*nodes: ast.AST | None) -> Iterator[str]:
    return (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_the_package_is_read_whole() -> None:
    assert {part_of(module) for module in MODULES} - {""} == RANKS.keys()
    assert len(MODULES) > 60


def test_imports_point_one_way() -> None:
    imports = [(module, name) for module in MODULES for name in ours(module)]
    between = [(one, other) for one, other in imports if "" != part_of(one) != part_of(other) != ""]
    assert [pair for pair in between if RANKS[part_of(pair[0])] <= RANKS[part_of(pair[1])]] == []


def test_the_front_door_opens_the_python_interface_and_its_errors_only() -> None:
    assert ours("memfold", types=True) == {"memfold.api", "memfold.core.errors"}


def test_the_core_knows_nothing_of_the_rest_and_nothing_heavy() -> None:
    core = [module for module in MODULES if part_of(module) == "core"]
    assert len(core) > 6
    for module in core:
        assert {part_of(name) for name in ours(module)} <= {"core"}, module
        outside = {name.split(".")[0] for name in imported(MODULES[module])} - {"memfold", "regex"}
        assert outside <= sys.stdlib_module_names, module


def system_of(module: str) -> str:
    """The system whose folder a module is in; empty for what systems share."""
    parts = module.split(".")
    inside = parts[1:2] == ["systems"] and len(parts) > 2 and parts[2] in SYSTEMS
    return parts[2] if inside else ""


def test_systems_never_import_each_other() -> None:
    assert {system_of(module) for module in MODULES} == {"", *SYSTEMS}
    for module in (module for module in MODULES if part_of(module) == "systems"):
        others = {system_of(name) for name in ours(module, types=True)} - {"", system_of(module)}
        assert not others, f"{module} -> {others}"


def is_shared(module: str) -> bool:
    """Whether a module is blind to systems: all are, but the table and the systems' own folders."""
    return module != TABLE and not system_of(module)


def test_shared_code_imports_no_system() -> None:
    for module in filter(is_shared, MODULES):
        assert not {name for name in ours(module, types=True) if system_of(name)}, module


def test_shared_code_names_no_system() -> None:
    found = {module: system_names(MODULES[module]) for module in filter(is_shared, MODULES)}
    assert {module: names for module, names in found.items() if names} == {}


def test_shared_code_looks_up_no_setting_of_one_system() -> None:
    found = {module: setting_lookups(MODULES[module]) for module in filter(is_shared, MODULES)}
    assert {module: names for module, names in found.items() if names} == {}


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {module: ours(module) for module in MODULES if module != "memfold"}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert set(graph) <= set(order)


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_keep_their_size(module: str) -> None:
    tree = MODULES[module]
    assert max((node.end_lineno or 0 for node in ast.walk(tree) if isinstance(node, ast.stmt)), default=0) <= MOST_LINES
    for function in functions(tree):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= MOST_FUNCTION_LINES, f"{function.name} has {lines} lines"
        assert nesting(function) <= MOST_NESTING, f"{function.name} nests {nesting(function)} deep"


def test_nobody_asks_which_system_it_has() -> None:
    classes = {entry.split(":")[1] for entry in SYSTEMS.values()}
    assert classes >= {"Pooled", "Full", "Retrieval"}
    for module in filter(is_shared, MODULES):
        tree = MODULES[module]
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & classes, module


def test_names_say_what_is_in_a_file() -> None:
    names = {part for module in MODULES for part in module.split(".")}
    tests = {path.stem for path in Path(__file__).parents[1].rglob("*.py")}
    assert not (names | tests) & FORBIDDEN


def test_nesting_counts_blocks() -> None:
    source = """
def f(x):
    if x:
        pass
    elif x > 1:
        for y in x:
            with y:
                pass
    def g():
        while x:
            while x:
                while x:
                    while x:
                        pass
"""
    outer, inner = functions(ast.parse(source))
    assert (nesting(outer), nesting(inner)) == (3, 4)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('f("pooled")', ["pooled"]),
        ('f("pooled:4/bare", f"retrieval/top={n}")', ["pooled:4/bare", "retrieval/top="]),
        ('"""pooled"""\nf("pooled memory", "recipes/pooled/tiny", "fully")', []),
    ],
)
def test_names_of_systems_are_found(source: str, names: list[str]) -> None:
    assert system_names(ast.parse(source)) == names


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('system.settings["ratio"]', ["ratio"]),
        ('settings.get("wrapper", 1)', ["wrapper"]),
        ('"unfold" in memory.settings', ["unfold"]),
        ("system.fold.window + system.read.top", ["window", "top"]),
        ("memory.answering(unfold=3)", ["unfold"]),
        ('make_system("x", model, {"note": 3})', ["note"]),
        ('settings["style"], record["error"], table["ratio"], rl.ratio, system.ratio', []),
    ],
)
def test_look_ups_of_settings_are_found(source: str, names: list[str]) -> None:
    assert setting_lookups(ast.parse(source)) == names


def test_imports_are_found_wherever_they_are() -> None:
    source = """
from typing import TYPE_CHECKING
import torch.nn
if TYPE_CHECKING:
    from memfold.backbone.model import Backbone
def f():
    from memfold import api
"""
    tree = ast.parse(source)
    assert list(imported(tree)) == ["typing", "torch.nn", "memfold.api"]
    assert "memfold.backbone.model" in list(imported(tree, types=True))


LIGHT = [
    "import memfold",
    "import " + ", ".join(module for module in MODULES if part_of(module) == "core"),
    "import memfold.tasks.table as table; [table.load_task(name) for name in table.TASKS]",
    "import memfold.cli.main",
    "import memfold.api, memfold.evaluation.suite, memfold.rl.recipe",
    "from memfold.core.registry import SYSTEMS, system_class; [system_class(name)() for name in SYSTEMS]",
]


@pytest.mark.parametrize("statement", LIGHT)
def test_light_imports_stay_light(statement: str) -> None:
    code = f"import sys; {statement}; print(sorted(set({HEAVY!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
