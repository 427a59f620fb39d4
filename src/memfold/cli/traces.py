"""Shows recorded replies at the terminal, traces step by step; passages that reproduce the document are marked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from memfold.cli.output import screen
from memfold.cli.printable import on_one_line, printable
from memfold.cli.steps import Line, describe
from memfold.core.config import build, require
from memfold.core.errors import ConfigError, DataError
from memfold.core.stored_trace import begins_trace, read_traces
from memfold.scoring.expansion import Expansion

SUFFIX, SAMPLES = ".jsonl", "samples.jsonl"
VERBATIM, ALTERED, INVENTED = "green", "yellow", "red"


@dataclass(frozen=True)
class Recorded:
    """One line of a file of replies; `reward` is 1 or 0 if a suite only says right or wrong, and None for a failure."""

    record: dict[str, Any]
    reward: float | None
    expansions: tuple[Expansion, ...]
    invented: tuple[str, ...]

    @property
    def title(self) -> str:
        """Return which reply it is, and its reward."""
        record = self.record
        if self.unfinished:
            return f"{record['case']} ({record['system']}): unfinished, calls so far: {len(record['trace']['steps'])}"
        if not record["accepted"] and self.reward is None and not record.get("error"):
            return f"{record['case']} ({record['system']})"
        reward = "no reward" if self.reward is None else f"reward {self.reward:g}"
        error = f", error: {record['error']}" if record.get("error") else ""
        return f"{record['case']} ({record['system']}, {record['kind'] or 'no kind'}): {reward}{error}"

    @property
    def unfinished(self) -> bool:
        """Whether the question was interrupted, or is being answered."""
        return bool(self.record.get("unfinished"))

    def steps(self) -> list[Line]:
        """Return lines for the calls of a trace; none for a trace of a single call, which is the answer."""
        trace = self.record.get("trace") or {}
        steps, best = trace.get("steps", []), (trace.get("settings") or {}).get("order") == "best"
        return describe(steps, self.unfinished, best) if len(steps) > 1 or self.unfinished else []

    def marked(self) -> Text:
        """Return the reply with its expansions between marks and in colour, and invented names in red."""
        reply, text, at = str(self.record["reply"]), Text(), 0
        for span in self.expansions:
            text.append(printable(reply[at : span.start]))
            expanded = printable(reply[span.start : span.end])
            text.append(f"\u27e6{expanded}\u27e7", VERBATIM if span.verbatim else ALTERED)
            at = span.end
        text.append(printable(reply[at:]))
        text.highlight_words(self.invented, INVENTED)
        return text


def is_trace_file(path: Path) -> bool:
    """Return whether a path names replies rather than a memory."""
    return path.suffix == SUFFIX or os.path.isdir(path)  # false where this cannot be known


def read_replies(path: Path, first: int, case: str, wrong: bool) -> list[Recorded]:
    """Return the first replies of a file, or of the newest file of a folder, that the filters let through.

    Raises:
        DataError: for a file that is missing or holds no such reply, or a line that is not a recorded reply.
    """
    require(first > 0, "--first", first, "1 or more")
    replies: list[Recorded] = []
    for reply in _lines(_file(path)):
        if len(replies) == first:
            break
        if str(reply.record["case"]).startswith(case) and not (wrong and (reply.reward or 0.0) > 0):
            replies.append(reply)
    if not replies:
        filters = [f"--case {case}"] * bool(case) + ["--wrong"] * wrong
        chosen = f" for {' '.join(filters)}; try other filters" if filters else "; give a file that eval or rl wrote"
        raise DataError(f"{path} holds no reply{chosen}")
    return replies


def show_replies(replies: Sequence[Recorded]) -> None:
    """Print the question, the accepted answers, the steps, the reply and its expansions, for each reply."""
    console = screen()
    for number, reply in enumerate(replies):
        record, expansions = reply.record, reply.expansions
        console.print("" if number == 0 else "\n", end="")
        console.print(on_one_line(reply.title), style="bold", markup=False)
        console.print(f"  question  {record['question']}", markup=False)
        if record["accepted"]:
            console.print(f"  accepted  {on_one_line(', '.join(map(str, record['accepted'])))}", markup=False)
        for label, line in reply.steps():
            console.print(f"  {label:<8}  {on_one_line(line)}", markup=False)
        if not reply.unfinished:
            console.print(Text("  reply     ").append_text(reply.marked()))
        if expansions:
            exact = sum(expansion.verbatim for expansion in expansions)
            fidelity = sum(expansion.fidelity for expansion in expansions) / len(expansions)
            console.print(f"  expanded  {len(expansions)}, {exact} verbatim, fidelity {fidelity:.0%}", markup=False)
        if reply.invented:
            console.print(f"  invented  {on_one_line(', '.join(reply.invented))}", markup=False)


def _file(path: Path) -> Path:
    """Return a file itself; for a folder, the samples of an evaluation or the newest traces of a run."""
    if not path.is_dir():
        return path
    candidates = [*sorted([*path.glob(f"*{SUFFIX}"), *path.glob(f"traces/*{SUFFIX}")], key=lambda file: file.name)]
    candidates = [file for file in candidates if file.name != "metrics.jsonl"]
    named = [file for file in candidates if file.name == SAMPLES] or candidates
    if not named:
        raise DataError(
            f"{path} holds no file of replies; give samples.jsonl of an evaluation, or a file in traces/ of a run"
        )
    return named[-1]


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(path: Path) -> Iterator[Recorded]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"cannot read {path}: {reason}; give a .jsonl file that eval or rl wrote") from None
    if begins_trace(lines[0]):
        traces = read_traces(path).items()
        yield from (Recorded(stored.record(case), None, (), ()) for case, stored in traces)
        return
    if not _is_json(lines[-1]):  # half a line at the end, left by a kill or by a run that is writing it
        lines.pop()
    for number, line in ((number, line) for number, line in enumerate(lines, 1) if line.strip()):
        try:
            record = json.loads(line)
            value = record["reward"] if "reward" in record else record["correct"]
            reward = None if value is None else float(value)
            expansions = tuple(build(Expansion, one) for one in record.get("expansions", ()))
            missing = {"case", "system", "kind", "question", "accepted", "reply"} - record.keys()
            if missing:
                raise KeyError(*missing)
        except (ValueError, KeyError, TypeError, ConfigError):
            raise DataError(
                f"{path}, line {number} is not a recorded reply; give a file that eval or rl wrote"
            ) from None
        yield Recorded(record, reward, expansions, tuple(record.get("invented", ())))
