"""Shows recorded replies at the terminal, traces step by step, with what is written out of the document marked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from memfold.cli.output import screen
from memfold.core.config import build, require
from memfold.core.errors import ConfigError, DataError
from memfold.scoring.expansion import Expansion

SUFFIX, SAMPLES = ".jsonl", "samples.jsonl"
BEGINNING = 100  # characters of a step that are shown
VERBATIM, ALTERED, INVENTED = "green", "yellow", "red"


@dataclass(frozen=True)
class Recorded:
    """One line of a file of replies; `reward` is 1 or 0 where a suite only says right or wrong, None of a failure."""

    record: dict[str, Any]
    reward: float | None
    expansions: tuple[Expansion, ...]
    invented: tuple[str, ...]

    @property
    def title(self) -> str:
        """Which reply it is, and its reward."""
        record = self.record
        reward = "no reward" if self.reward is None else f"reward {self.reward:g}"
        error = f", error: {record['error']}" if record.get("error") else ""
        return f"{record['case']} ({record['system']}, {record['kind'] or 'no kind'}): {reward}{error}"

    def steps(self) -> list[str]:
        """A line for each call of a trace; none for a trace of a single call."""
        steps = (self.record.get("trace") or {}).get("steps", [])
        return [_step(number, step) for number, step in enumerate(steps, 1)] if len(steps) > 1 else []

    def marked(self) -> Text:
        """The reply with its expansions between marks and in colour, invented names in red."""
        reply, text, at = str(self.record["reply"]), Text(), 0
        for span in self.expansions:
            text.append(reply[at : span.start])
            text.append(f"\u27e6{reply[span.start : span.end]}\u27e7", VERBATIM if span.verbatim else ALTERED)
            at = span.end
        text.append(reply[at:])
        text.highlight_words(self.invented, INVENTED)
        return text


def is_trace_file(path: Path) -> bool:
    """Whether a path names replies rather than a memory."""
    return path.suffix == SUFFIX or path.is_dir()


def read_replies(path: Path, first: int, case: str, wrong: bool) -> list[Recorded]:
    """The first replies of a file, or of the newest file of a folder.

    Raises:
        DataError: for a file that is missing, or a line that is no recorded reply.
    """
    require(first > 0, "--first", first, "1 or more")
    replies: list[Recorded] = []
    for reply in _lines(_file(path)):
        if len(replies) == first:
            break
        if str(reply.record["case"]).startswith(case) and not (wrong and (reply.reward or 0.0) > 0):
            replies.append(reply)
    return replies


def show_replies(replies: Sequence[Recorded]) -> None:
    """Print question, accepted answers, steps, reply and expansions of each."""
    console = screen()
    if not replies:
        console.print("no such reply")
    for number, reply in enumerate(replies):
        record, expansions = reply.record, reply.expansions
        console.print("" if number == 0 else "\n", end="")
        console.print(reply.title, style="bold", markup=False)
        console.print(f"  question  {record['question']}", markup=False)
        console.print(f"  accepted  {', '.join(record['accepted'])}", markup=False)
        for line in reply.steps():
            console.print(f"  step      {line}", markup=False)
        console.print(Text("  reply     ").append_text(reply.marked()))
        if expansions:
            exact = sum(expansion.verbatim for expansion in expansions)
            fidelity = sum(expansion.fidelity for expansion in expansions) / len(expansions)
            console.print(f"  expanded  {len(expansions)}, {exact} verbatim, fidelity {fidelity:.0%}", markup=False)
        if reply.invented:
            console.print(f"  invented  {', '.join(reply.invented)}", markup=False)


def _step(number: int, step: dict[str, Any]) -> str:
    """Its call's purpose, how long its reply is, how it ended, and its beginning."""
    call, reply = step["call"], step["reply"]
    text = " ".join(reply["text"].split())
    text = text if len(text) <= BEGINNING else f"{text[:BEGINNING]} ..."
    return f"{number}, {call['purpose']}: {len(reply['tokens'])} tokens ({reply['finish']}) {text}"


def _file(path: Path) -> Path:
    """The file itself, or of a folder the samples of an evaluation or the newest traces of a run."""
    if not path.is_dir():
        return path
    candidates = [*sorted([*path.glob(f"*{SUFFIX}"), *path.glob(f"traces/*{SUFFIX}")], key=lambda file: file.name)]
    candidates = [file for file in candidates if file.name != "metrics.jsonl"]
    named = [file for file in candidates if file.name == SAMPLES] or candidates
    if not named:
        raise DataError(f"no replies in {path}; give samples.jsonl of an evaluation or a file of a run's traces/")
    return named[-1]


def _lines(path: Path) -> Iterator[Recorded]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise DataError(f"cannot read {path}: {reason}; give a .jsonl file that eval or rl wrote") from None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            value = record["reward"] if "reward" in record else record["correct"]
            reward = None if value is None else float(value)
            expansions = tuple(build(Expansion, one) for one in record.get("expansions", ()))
            missing = {"case", "system", "kind", "question", "accepted", "reply"} - record.keys()
            if missing:
                raise KeyError(*missing)
        except (ValueError, KeyError, TypeError, ConfigError):
            raise DataError(f"{path}, line {number} is no recorded reply; give a file that eval or rl wrote") from None
        yield Recorded(record, reward, expansions, tuple(record.get("invented", ())))
