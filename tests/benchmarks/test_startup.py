"""What the benchmark of whole processes measures, on processes that do almost nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import startup

SPIN = "import sys, time\nwhile time.process_time() < 0.3: pass\nsys.exit(3)"


def test_a_process_is_measured_with_its_exit_code(tmp_path: Path) -> None:
    code, cpu, seconds = startup.process([sys.executable, "-c", SPIN], tmp_path, dict(os.environ))
    assert code == 3
    assert cpu >= 0.3
    assert cpu <= seconds + 0.1, "one thread"


def test_imports_are_counted_by_package(tmp_path: Path) -> None:
    found = startup.imports(startup.Case("--help", 0, 1.0), tmp_path, dict(os.environ))
    assert {"memfold", "other packages", "everything else"} <= found.keys()
    assert not {"torch", "transformers"} & found.keys()
    assert all(seconds >= 0 for seconds in found.values())


def test_a_table_has_a_line_for_each_case() -> None:
    case = startup.Case("ask m.fold Q", 0, 3.0, spins=True)
    assert case.arguments == ["ask", "m.fold", startup.QUESTION]
    measured = {
        "line": case.shown,
        "cpu_seconds": {"median": 2.5},
        "seconds": {"median": 3.25},
        "imports": {"torch": 1.25, "rich": 0.25, "other packages": 0.5, "everything else": 0.5},
    }
    assert startup.table([measured]).splitlines()[2:] == [
        "| `OMP_WAIT_POLICY=active memfold ask m.fold QUESTION` | 2.50 | 3.25 | 2.00: torch 1.25, rich 0.25, other "
        "packages 0.50 |"
    ]
