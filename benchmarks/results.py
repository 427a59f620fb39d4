"""docs/results.md from the files in benchmarks/results: a section for each target, with its command and its tables.

    python benchmarks/results.py

No figure of that page is typed.  A section without a file says that it is not measured yet.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from parts import BY_NAME, RESULTS, Part, shown

from memfold.evaluation.table import Cell

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
HEAD = """# Results

Made by `python benchmarks/results.py` from the files in [benchmarks/results](../benchmarks/results), which
`python benchmarks/pooled.py` writes, all or part by part. Every file names its commit, machine, model and settings, and
the commands are shown as they were run.
Shares have their 95 % interval and sample size. The suites `qa` and `longbench-v2` have no table: the shipped model has
only ever read almanacs.
"""
PAPER = {32768: 7.7, 122880: 13.3}  # appendix E, table 7: 7B, wrapper slot, on a GPU
MEGABYTE = 1 << 20
Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a file says about a target: the rows of a table, and whether it is reached (None: it cannot be told)."""

    rows: list[list[str]]
    reached: bool | None
    because: str


@dataclass(frozen=True)
class Section:
    """A target of this page; `read` makes its rows of a file, `columns` stand over them behind the machine."""

    title: str
    target: str
    part: str
    columns: tuple[str, ...]
    read: Callable[[Json], Outcome]
    plots: bool = False


def write(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Make the page of the files in a folder."""
    page.write_text(render(results), encoding="utf-8")


def render(results: Path) -> str:
    """The page."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    parts = [one for one in files if isinstance(one, dict) and "part" in one]
    sections = (_section(section, [one for one in parts if one["part"] == section.part]) for section in SECTIONS)
    return "\n".join([HEAD, *sections])


def _section(section: Section, files: Sequence[Json]) -> str:
    commands = [line for one in files or [{}] for line in _commands(BY_NAME[section.part], one)]
    lines = [f"## {section.title}", "", f"Target: {section.target}.", "", "```", *dict.fromkeys(commands), "```", ""]
    if not files:
        return "\n".join([*lines, "Not measured yet.", ""])
    outcomes = [(one, section.read(one)) for one in files]
    rows = [[_machine(one), *row] for one, outcome in outcomes for row in outcome.rows]
    lines += [_line(("machine, model", *section.columns)), _line(["---"] * (1 + len(section.columns)))]
    lines += [*map(_line, rows), ""]
    for one, outcome in outcomes:
        lines += [f"{_machine(one)} (commit {_commit(one)}): {_verdict(outcome)}", ""]
        if section.plots:
            lines += [f"![{plot}](../benchmarks/results/{plot})" for plot in one["plots"]] + [""]
    return "\n".join(lines)


def _commands(part: Part, file: Json) -> Iterator[str]:
    """What was typed for a file; what there is to type where the file does not say it."""
    slot = " --slot-model SLOT_MODEL" if part.needs == "slot-model" else ""
    options = f" -- {shlex.join(file['options'])}" if file.get("options") else ""
    yield f"python benchmarks/pooled.py {part.name}{slot}{options}"
    yield from file.get("commands", {name: shown(part, name) for name in part.commands}).values()


def _verdict(outcome: Outcome) -> str:
    if outcome.reached is None:
        return f"{outcome.because}."
    return f"{'reached' if outcome.reached else 'not reached'}, {outcome.because}."


def _machine(file: Json) -> str:
    """Where, and which model."""
    result = next(iter(file["results"].values()))
    hardware, model = result["hardware"], result["model"]
    name = model["name"] if isinstance(model, dict) else model
    return f"{hardware.get('gpu', hardware['cpu'])}, {name}"


def _commit(file: Json) -> str:
    """Of the code that measured it; the shipped weights are those of that commit."""
    return str(next(iter(file["results"].values())).get("commit") or "unknown")[:10]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _only(file: Json) -> Json:
    """What the one command of a part found."""
    result: Json
    (result,) = file["results"].values()
    return result


def _entries(file: Json) -> list[Json]:
    """The lengths of a benchmark."""
    return list(_only(file)["lengths"])


def _fold(file: Json) -> Outcome:
    rows = [
        [f"{one['tokens']:,}", f"{one['tokens_per_second']:,}", f"{one['share_of_forward']:.2f}",
         f"{median(one['seconds']['fold']):.2f}", _megabytes(one["peak_bytes_above_weights"])]
        for one in _entries(file)
    ]  # fmt: skip
    least = min(one["share_of_forward"] for one in _entries(file))
    return Outcome(rows, least >= 0.8, f"the least share is {least:.2f}")


def _first_token(file: Json) -> Outcome:
    rows = []
    for one in _entries(file):
        for wrapper, found in one["wrappers"].items():
            pays = found["questions_until_it_pays"]
            paper = PAPER.get(one["tokens"]) if wrapper == "slot" else None
            rows.append([
                f"{one['tokens']:,}", wrapper, f"{median(one['seconds']['full']):.3f}",
                f"{median(one['seconds'][wrapper]):.3f}", f"{found['measured']:.1f}x", f"{found['predicted']:.1f}x",
                f"{found['share_of_predicted']:.2f}", f"{paper}x" if paper else "-", 
                "never" if pays is None else str(pays),
            ])  # fmt: skip
    least = min(found["share_of_predicted"] for one in _entries(file) for found in one["wrappers"].values())
    return Outcome(rows, least >= 0.8, f"the least share is {least:.2f}")


def _with_folding(file: Json) -> Outcome:
    rows = [
        [f"{one['tokens']:,}", f"{median(one['seconds']['full']):.3f}", f"{median(one['seconds']['folded']):.3f}",
         f"{one['with_folding']['measured']:.2f}x", f"{one['with_folding']['predicted']:.2f}x"]
        for one in _entries(file)
    ]  # fmt: skip
    gain = next((one["with_folding"]["measured"] for one in _entries(file) if one["tokens"] == 32768), None)
    if gain is None:
        return Outcome(rows, None, "32,768 tokens are not among the lengths")
    return Outcome(rows, gain > 1, f"{gain:.2f} times faster at 32,768 tokens")


def _memory(file: Json) -> Outcome:
    rows, longest = [], max(_entries(file), key=lambda one: one["tokens"])
    for one in _entries(file):
        taken = one["peak_bytes_above_weights"]
        shares = [_share(found["memory_share"]) for found in one["wrappers"].values()]
        rows.append(
            [f"{one['tokens']:,}", *(_megabytes(taken[name]) for name in ("full", "slot", "span", "folded")), *shares]
        )
    worst = [found["memory_share"] for found in longest["wrappers"].values()]
    if longest["tokens"] < 120_000 or None in worst:
        return Outcome(rows, None, "120K tokens were not measured")
    return Outcome(rows, max(worst) <= 0.4, f"at most {max(worst):.2f} at {longest['tokens']:,} tokens")


def _growth(file: Json) -> Outcome:
    rows = [
        [f"{one['tokens']:,}", f"{median(one['seconds']['fold']):.2f}", f"{one['tokens_per_second']:,}",
         _megabytes(one["peak_bytes_above_weights"])]
        for one in _entries(file)
    ]  # fmt: skip
    slope = _only(file)["slope"]
    return Outcome(rows, slope <= 1.05, f"the slope is {slope:.3f}")


def _together(file: Json) -> Outcome:
    rows, measured = [], _only(file)["together"]
    for one in measured:
        apart, together = (f"{median(one['seconds'][name]):.3f}" for name in ("apart", "together"))
        rows.append([str(one["documents"]), str(one["tokens_each"]), apart, together, f"{one['ratio']:.2f}x"])
    each = ", ".join(f"{one['ratio']:.2f} times as fast with about {one['tokens_each']} tokens" for one in measured)
    return Outcome(rows, measured[0]["ratio"] >= 2, f"for the shortest: {each} each")


def _wrapper(file: Json) -> Outcome:
    shares = {name: _table(result, "Accuracy")["rows"][0]["cells"][0] for name, result in file["results"].items()}
    rows = [[name, _cell(cell)] for name, cell in shares.items()]
    points = 100 * (shares["slot"]["value"] - shares["span"]["value"])
    return Outcome(rows, points <= 1, f"span is {abs(points):.1f} points {'behind' if points > 0 else 'ahead of'} slot")


def _facts(file: Json) -> Outcome:
    """One hop: the text itself, and what slots keep of it."""
    shares = {row["names"][0]: row["cells"][0]["value"] for row in _table(_only(file), "Share of full")["rows"]}
    full = next(row for row in _table(_only(file), "Accuracy")["rows"] if row["names"] == ["all", "full"])
    right, by_16, by_4 = full["cells"][0]["value"], shares["pooled:16"], shares["pooled:4"]
    because = f"full {100 * right:.0f} %; 16x {100 * by_16:.0f} % of it, 4x {100 * by_4:.0f} %"
    rows = [row[:3] for row in _table_rows(file, "Accuracy")]
    return Outcome(rows, right >= 0.95 and by_16 >= 0.9 and by_4 >= 0.97, because)


def _kinds(file: Json) -> Outcome:
    """All kinds of question, lengths together."""
    rows = [row[1:] for row in _table_rows(file, "Accuracy") if row[0] == "all"]
    full = next(row for row in _table(_only(file), "Accuracy")["rows"] if row["names"] == ["all", "full"])
    one, two = (full["cells"][column]["value"] for column in (1, 2))
    return Outcome(rows, one >= 0.95 and two >= 0.8, f"full {100 * one:.0f} % of one hop, {100 * two:.0f} % of two")


def _citations(file: Json) -> Outcome:
    own = next(row for row in _table(_only(file), "Citations")["rows"] if _reads_slots(row["names"][0]))
    found = own["cells"][0]["value"]
    if found is None:
        return Outcome(list(_table_rows(file, "Citations")), None, "no answer is right")
    because = f"{100 * found:.0f} % of the right answers from slots"
    return Outcome(list(_table_rows(file, "Citations")), found >= 0.8, because)


def _expansion(file: Json) -> Outcome:
    rows = [row[:8] for row in _table_rows(file, "Expansion")]  # the system, and what this page shows
    own = next(row for row in _table(_only(file), "Expansion")["rows"] if _reads_slots(row["names"][0]))
    return Outcome(rows, None, f"{100 * own['cells'][0]['value']:.0f} % of the replies from slots expand")


def _longer(file: Json) -> Outcome:
    cells = {tuple(row["names"]): row["cells"][0]["value"] for row in _table(_only(file), "Accuracy")["rows"]}
    own = {int(tokens): value for (tokens, system), value in cells.items() if system == "pooled:16" and tokens != "all"}
    rows = [row[:3] for row in _table_rows(file, "Accuracy") if row[0] != "all"]
    if len(own) < 2:
        return Outcome(rows, None, "one length alone tells no fall")
    lost = own[min(own)] - min(own.values())
    return Outcome(rows, lost <= 0.05, f"{100 * lost:.0f} points are lost from {min(own):,} tokens on")


def _reconstruction(file: Json) -> Outcome:
    table = _table(_only(file), "Reconstruction")
    found = {tuple(row["names"]): row["cells"][1]["value"] for row in table["rows"]}
    wanted = {"512": 0.97, "2048": 0.95}
    known = {tokens: found[tokens, "pooled:16"] for tokens in wanted if (tokens, "pooled:16") in found}
    because = ", ".join(f"{value:.2f} at {int(tokens):,} tokens" for tokens, value in known.items())
    reached = all(known.get(tokens, 0.0) >= least for tokens, least in wanted.items())
    rows = [row[:4] for row in _table_rows(file, "Reconstruction")]
    return Outcome(rows, reached, f"at 16x {because or 'neither length was measured'}")


def _needle(file: Json) -> Outcome:
    rows = list(_table_rows(file, "Needle"))
    own = [row for row in _table(_only(file), "Needle")["rows"] if _reads_slots(row["names"][-1])]
    lengths = [row for row in own if row["names"][0] != "all"]
    mean = sum(row["cells"][0]["value"] for row in lengths) / len(lengths)
    lowest = min(row["cells"][1]["value"] for row in lengths)
    because = f"the mean over lengths is {mean:.2f}, the lowest cell {lowest:.2f}"
    return Outcome(rows, mean >= 9 and lowest >= 6, because)


def _multihop(file: Json) -> Outcome:
    rows = list(_table_rows(file, "From the shortest to the longest"))
    table = _table(_only(file), "From the shortest to the longest")
    lost = max(row["cells"][2]["value"] for row in table["rows"] if _reads_slots(row["names"][0]))
    return Outcome(rows, lost <= 0.05, f"{100 * lost:.1f} points are lost")


def _strings(file: Json) -> Outcome:
    rows = list(_table_rows(file, "Exact strings"))
    table = _table(_only(file), "Exact strings")
    first = next(row for row in table["rows"] if "unfold" in row["names"][-1])
    exact = first["cells"][2]["value"]
    if exact is None:
        return Outcome(rows, None, "no answer cites the right block")
    return Outcome(rows, exact >= 0.98, f"{100 * exact:.1f} % are exact with unfold")


def _rollout(file: Json) -> Outcome:
    rows = [
        [f"{one['tokens']:,}", str(one["replies"]), f"{one['tokens_per_second']:,}", f"{one['share_of_decoding']:.2f}"]
        for one in _entries(file)
    ]
    least = min(one["share_of_decoding"] for one in _entries(file))
    return Outcome(rows, least >= 0.7, f"the least share is {least:.2f}")


def _systems(file: Json) -> Outcome:
    rows = []
    for one in _entries(file):
        for label, found in one["systems"].items():
            if "error" in found:
                rows.append([f"{one['tokens']:,}", label, *["cannot read it"] + ["-"] * 4])
                continue
            peaks = found["peak_bytes_above_weights"]
            rows.append([
                f"{one['tokens']:,}", label,
                *(f"{median(found[f'{key}_seconds']):.3f}" for key in ("fold", "first_token")),
                *(_megabytes(peaks[key]) for key in ("fold", "first_token")), f"{found['file_bytes']:,}",
            ])  # fmt: skip
    best = _only(file)["ratio"]
    sooner = f"at every length one answers {best:.1f} times sooner than full, or more" if best else "full reads none"
    return Outcome(rows, None, sooner)


def _reads_slots(label: str) -> bool:
    return label.startswith("pooled")


def _table(result: Json, title: str) -> Json:
    """The first table of an evaluation whose title begins so."""
    return next(table for table in result["tables"] if table["title"].startswith(title))


def _table_rows(file: Json, title: str) -> Iterator[list[str]]:
    for row in _table(_only(file), title)["rows"]:
        yield [*row["names"], *map(_cell, row["cells"])]


def _cell(cell: Json) -> str:
    return Cell(**cell).markdown()


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / MEGABYTE:,.0f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"


FIRST_TOKEN = (
    "tokens",
    "wrapper",
    "full, s",
    "memory, s",
    "faster",
    "counted",
    "share of it",
    "paper, 7B",
    "questions until it pays",
)
KINDS = ("system", "all", "one hop", "two hops", "comparison", "listing", "counting")
SECTIONS = (
    Section("Speed of folding", "at least 0.8 of the speed of the model's own forward pass without its head, with "
            "tokenising and writing", "fold", ("tokens", "tokens/s", "share of the forward pass", "seconds", "peak MB"),
            _fold, plots=True),
    Section("First token from a stored memory", "at least 0.8 of the ratio to the full text that counting operations "
            "predicts, wrappers slot and span", "first-token", FIRST_TOKEN, _first_token, plots=True),
    Section("First token at the size of a 7B model", "at least 0.8 of the predicted ratio; random weights, beside the "
            "paper's trained model on its own GPU", "first-token-7b", FIRST_TOKEN, _first_token),
    Section("First token with folding included", "faster than the full text on the first question at 32,768 tokens",
            "first-token", ("tokens", "full, s", "folded, s", "faster", "counted"), _with_folding),
    Section("Peak memory", "above the weights at 120K tokens, at most 0.4 of that of the full text", "first-token",
            ("tokens", "full MB", "slot MB", "span MB", "folding included MB", "slot share", "span share"), _memory),
    Section("Growth of folding time", "log-log slope from 8K to 1M tokens at most 1.05", "growth",
            ("tokens", "seconds", "tokens/s", "peak MB"), _growth),
    Section("Wrapper span against slot", "span at most 1 point behind slot, each after training with it (on the small "
            "budget of the ablations: [ablations.md](ablations.md), row wrapper-slot)", "wrapper",
            ("wrapper", "right"), _wrapper),
    Section("Questions of one hop", "level 1, 128 to 1,024 tokens: `full` 95 %, 16x 90 % of that, 4x 97 %", "facts",
            ("tokens", "system", "right"), _facts),
    Section("All kinds of question", "level 3, 128 to 1,024 tokens: `full` 95 % of one hop, 80 % of two", "almanac-in",
            KINDS, _kinds),
    Section("All kinds of question, out of distribution", "the same on templates, relations and names that training "
            "never shows", "almanac-out", KINDS, _kinds),
    Section("Citations", "of the right answers from slots, 80 % have a sentence of the evidence among their first "
            "three citations", "almanac-in",
            ("system", "one sentence", "all sentences", "characters cited"), _citations),
    Section("Implicit expansion", "none; how much of the document a reply writes out before it answers, and how truly",
            "almanac-in", ("system", "replies that expand", "of their tokens", "fidelity", "verbatim",
                           "expansion has the answer", "invented names", "tokens"), _expansion),
    Section("Longer texts", "16x loses at most 5 points from 1,024 tokens to 4,096 and 8,192", "longer",
            ("tokens", "system", "right"), _longer),
    Section("Reconstruction", "ROUGE-L at 16x of 0.97 at 512 tokens, 0.95 at 2,048", "reconstruction",
            ("tokens", "system", "ROUGE-1", "ROUGE-L"), _reconstruction),
    Section("Needle", "score of at least 9 of 10 on average from 1K to 120K, no cell under 6 (asked of a model trained "
            "on at most 4K: the shipped one has also read finished memories of up to 64K)", "needle",
            ("tokens", "system", "score, 1 to 10", "its lowest cell", "exact", "its lowest cell"), _needle, plots=True),
    Section("Multihop", "at most 5 points less at 120K than at 4K", "multihop",
            ("system", "shortest", "longest", "lost"), _multihop, plots=True),
    Section("Exact strings", "at least 98 % with unfold where the right block is cited", "strings",
            ("tokens", "system", "exact", "block cited", "exact of these", "sentence read again", "exact of these"),
            _strings),
    Section("Documents folded at once", "eight short ones at least twice as fast as one by one", "fold",
            ("documents", "tokens each", "one by one, s", "at once, s", "faster"), _together),
    Section("Sampling for reinforcement learning", "at least 0.7 of the rate at which the backbone decodes the same "
            "replies in the same batch", "rollout", ("tokens", "replies", "reply tokens/s", "share of decoding"),
            _rollout),
    Section("Systems side by side", "none; what each costs", "systems",
            ("tokens", "system", "fold, s", "first token, s", "peak MB of folding", "of the first token",
             "bytes on disk"), _systems, plots=True),
)  # fmt: skip


if __name__ == "__main__":
    write()
