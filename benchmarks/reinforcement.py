"""Models trained by reinforcement learning against the one that they began with, on the same questions.

    python benchmarks/reinforcement.py frozen-16x runs/pooled-tiny-sft-free runs/pooled-tiny-rl [OTHER SEEDS ...]
    python benchmarks/reinforcement.py frozen-64x runs/pooled-tiny-sft-64x runs/pooled-tiny-rl-64x --ratio 64
    python benchmarks/reinforcement.py                          # the page alone

A comparison asks the first model `full`, `retrieval` and the slots, the others the slots alone, whose replies are
`free`; the slots of the first also for replies that have to recall, and for bare ones.  What it finds is
benchmarks/results/reinforcement/NAME.json, and docs/reinforcement.md is made of those files.  An evaluation that
stopped goes on with the samples in --out.  Left out: training (`memfold train`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memfold.backbone.model import Backbone
from memfold.backbone.origin import commit, hardware
from memfold.core.config import build
from memfold.core.errors import ConfigError, DataError, MemfoldError
from memfold.core.prompt import STYLES, recalled
from memfold.evaluation.candidate import make_candidate
from memfold.evaluation.expansion import expansion_table
from memfold.evaluation.records import Record
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.suite import Options, load_suite
from memfold.evaluation.table import Cell, Row, Table, mean, paired_ratio, proportion
from memfold.session import open_session
from memfold.training.curves import read_metrics

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reinforcement"
PAGE = ROOT / "docs" / "reinforcement.md"
PARENT, TRAINED = "sft", "rl"
READERS = ("full", "retrieval")
FREE = "free"
TOLD = {f"{PARENT} {style}": style for style in STYLES if style != FREE}  # how to reply
HEAD = """# What reinforcement learning changes

Made by `python benchmarks/reinforcement.py` from the files in `benchmarks/results/reinforcement/`; nothing here is
typed. How it is trained is in [rl.md](rl.md). Every system and model is asked the same questions. `sft` and `rl` may
recall sentences before they answer or not, as the model chooses; `sft recall` and `sft bare` are the supervised model
told to do so, or not to. `full` and `retrieval` are the supervised model told to recall. `rl` is the mean over the
trained models, whose seeds differ; differences are on the same questions, intervals by the paired bootstrap over
questions; what seeds differ by is not in them. Where four questions share a document (`needle`, strings) intervals are
too narrow. `full` is not asked about texts far beyond those of its training."""
GAPS = {f"rl - {other}": other for other in (PARENT, *TOLD)}
SHARES = ("sft of full", "rl of full")

Outcomes = dict[str, float]  # case -> 1 or 0, or a share


@dataclass(frozen=True)
class Asking:
    """Which records make a row (of so many hops, 0 for any, and of these lengths, all where none), and which figure.

    Without a `figure` it is whether the answer is right; `of` is the most that the figure can be.
    """

    hops: int = 0
    sizes: tuple[int, ...] = ()
    figure: str = ""
    of: float = 1.0

    def values(self, records: Sequence[Record]) -> Outcomes:
        """By case; a record without the figure failed and has none of it."""
        wanted = [one for one in records if self.hops in (0, one.hops) and (not self.sizes or one.size in self.sizes)]
        if not self.figure:
            return {one.case: float(one.correct) for one in wanted}
        return {one.case: one.figures.get(self.figure, 0.0) / self.of for one in wanted}


@dataclass(frozen=True)
class Asked:
    """A suite with what is asked of it, and the rows that its records make.

    The supervised model is asked as `readers` too, and how it is `told`; slots are read with these `settings` of the
    system.  `expansion` says that the table of implicit expansion is made of these replies.
    """

    suite: str
    options: Options
    rows: dict[str, Asking]
    readers: tuple[str, ...] = READERS
    told: bool = True
    settings: str = ""
    expansion: bool = False


@dataclass(frozen=True)
class Comparison:
    """What one file holds: outcomes by row, model and case, and the table of implicit expansion as it was found.

    `models` are the folders by label; `trained` says how many steps made each, their seconds, and the mean reward at
    both ends; `recalls` is 1 for the replies that recall, by kind of question, model and case; `failed` counts replies
    that ended in an error and count as wrong.
    """

    name: str
    system: str
    models: dict[str, str]
    trained: dict[str, dict[str, float]]
    outcomes: dict[str, dict[str, Outcomes]]
    recalls: dict[str, dict[str, Outcomes]]
    failed: dict[str, int]
    expansion: dict[str, Any]
    commit: str | None
    hardware: dict[str, Any]


def asked(questions: int, fewer: int = 0) -> tuple[Asked, ...]:
    """Every suite of a comparison: as many `questions` for each split of the almanac, `fewer` of what takes longer.

    Without `fewer` a fifth of them; of needles, of several hops and of whole texts it is a share.
    """
    lengths, found = (128, 256, 512, 1024), ("retrieval",)
    fewer = fewer or max(1, questions // 5)
    kinds = {"all kinds": 0, "one hop": 1, "two hops": 2}
    level_3 = (
        Asked("almanac", Options(lengths, questions, (split,)),
              {f"level 3, {split}, {kind}": Asking(hops=hops) for kind, hops in kinds.items()}, expansion=split == "in")
        for split in ("in", "out")
    )  # fmt: skip
    near = Options((1024,), max(fewer // 4, 11), ("in",), per_document=4)
    far = Options((8192, 32768, 122880), max(fewer * 3 // 4, 33), ("in",), per_document=4)
    hops, far_hops = (Options((length,), max(1, fewer // 4), ("in",), kinds=("two-hop",)) for length in (4096, 32768))
    strings = Options((1024, 4096), fewer, ("in",), per_document=4)
    texts = Options((256, 512), max(1, fewer // 4), ("in",))
    return (
        Asked("almanac", Options(lengths, questions, ("in",), level=1), {"level 1, in, one hop": Asking()}),
        *level_3,
        Asked("needle", near, _needles(near)),
        Asked("needle", far, _needles(far), found),
        Asked("multihop", hops, {"multihop, 4,096 tokens": Asking()}),
        Asked("multihop", far_hops, {"multihop, 32,768 tokens": Asking()}, found),
        Asked("strings", strings, {"exact strings": Asking()}),
        Asked("strings", strings, {"exact strings, unfold": Asking()}, (), settings="/unfold=256"),
        Asked("reconstruction", texts, {"reconstruction, ROUGE-L": Asking(figure="rougeL")}, (), told=False),
    )


def _needles(options: Options) -> dict[str, Asking]:
    """Of each length the exact answers and the mean score."""
    rows = {}
    for length in options.lengths:
        rows[f"needle, {length:,} tokens, exact"] = Asking(sizes=(length,))
        rows[f"needle, {length:,} tokens, tenths of the score"] = Asking(sizes=(length,), figure="score", of=10)
    return rows


def compare(name: str, models: dict[str, Path], ratio: int, parts: Sequence[Asked], out: Path) -> Comparison:
    """Ask every model every part; models and suites that were asked before are read from `out`.

    Raises:
        ConfigError: before anything is asked, for suites that cannot be asked so few questions, or a model that is no
            run of reinforcement learning.
    """
    for part in parts:
        load_suite(part.suite).check(part.options)
    trained = {label: spent(folder) for label, folder in models.items() if label != PARENT}
    backbones = {label: open_session("pooled", str(folder), ratio).backbone for label, folder in models.items()}
    outcomes: dict[str, dict[str, Outcomes]] = {}
    failed: dict[str, int] = {}
    expansion: Table | None = None
    recalls: dict[str, dict[str, Outcomes]] = {}
    for part in parts:
        found = {}
        for label, folder in models.items():
            for own, records in _records(part, label, backbones[label], ratio, out / folder.name).items():
                found[own] = records
                failed[own] = failed.get(own, 0) + sum(record.error is not None for record in records)
        print(f"{name}: {part.suite}{part.settings} done", file=sys.stderr)
        for row, asking in part.rows.items():
            outcomes[row] = {label: asking.values(records) for label, records in found.items()}
        if part.expansion:
            renamed = [replace(one, system=label) for label, records in found.items() for one in records]
            expansion = expansion_table(renamed, list(found), "Implicit expansion")
            recalls = _recalls(found)
    return Comparison(
        name=name,
        system=f"pooled:{ratio}",
        models={label: str(folder) for label, folder in models.items()},
        trained=trained,
        outcomes=outcomes,
        recalls=recalls,
        failed=failed,
        expansion=asdict(expansion) if expansion else {},
        commit=commit(),
        hardware=hardware(backbones[PARENT].device),
    )


def page(found: Sequence[Comparison]) -> str:
    """The page as Markdown."""
    if not found:
        return f"{HEAD}\n\nNothing has been compared yet.\n"
    beside = [_beside(found).markdown()] if len(found) > 1 else []
    return "\n\n".join([HEAD, *beside, *(_section(one) for one in found)]) + "\n"


def figures(found: Comparison) -> Table:
    """What every model reached: a row for each row of the suites."""
    runs = _runs(found)
    each = tuple(f"{label} alone" for label in runs) if len(runs) > 1 else ()
    others = (*READERS, *TOLD, PARENT)
    rows = []
    for name, own in found.outcomes.items():
        values = [*(own.get(label, {}) for label in others), _trained(found, name)]
        values += [own[label] for label in runs] if each else []
        rows.append(Row((name,), tuple(map(_mean, values))))
    return Table(f"{found.name}: {found.system}", ("asked",), (*others, TRAINED, *each), tuple(rows))


def gains(found: Comparison) -> Table:
    """What the trained models add, case by case; cases that a model was not asked are left out of what compares it."""
    rows = []
    for name, own in found.outcomes.items():
        trained, full = _trained(found, name), own.get("full", {})
        others = [own.get(other, {}) for other in GAPS.values()]
        gaps = [[value - other[case] for case, value in trained.items() if case in other] for other in others]
        shares = (_share(own[PARENT], full), _share(trained, full))
        rows.append(Row((name,), (*(mean(gap, share=True) for gap in gaps), *shares)))
    return Table(f"{found.name}: what it adds", ("asked",), (*GAPS, *SHARES), tuple(rows))


def read(folder: Path) -> list[Comparison]:
    """All comparisons of a folder.

    Raises:
        DataError: for a file that is none.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(build(Comparison, json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, ConfigError) as error:
            raise DataError(f"{path} is no comparison: {error}; make it again") from None
    return found


def main() -> int:
    """Make the comparison that was asked for, if any, then the page."""
    arguments = _arguments()
    try:
        if arguments.name:
            out = arguments.out / arguments.name
            models = {
                PARENT if not number else f"{TRAINED} {number}": path for number, path in enumerate(arguments.models)
            }
            parts = [
                part
                for part in asked(arguments.questions, arguments.fewer)
                if not arguments.suite or part.suite in arguments.suite
            ]
            found = compare(arguments.name, models, arguments.ratio, parts, out)
            arguments.results.mkdir(parents=True, exist_ok=True)
            for label in found.trained:
                curves = models[label] / "curves.png"
                if curves.exists():
                    shutil.copyfile(curves, arguments.results / Path(_picture(arguments.name, label)).name)
            path = arguments.results / f"{arguments.name}.json"
            path.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")
        arguments.page.write_text(page(read(arguments.results)), encoding="utf-8")
    except MemfoldError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _records(part: Asked, model: str, backbone: Backbone, ratio: int, out: Path) -> dict[str, list[Record]]:
    """The records of a suite by the column that they belong to."""
    systems = {model: f"pooled:{ratio}/{FREE}{part.settings}"}
    if model == PARENT:
        systems |= {reader: reader for reader in part.readers}
        systems |= {told: f"pooled:{ratio}/{style}{part.settings}" for told, style in TOLD.items() if part.told}
    candidates = tuple(make_candidate(system, backbone) for system in systems.values())
    evaluation = Evaluation(load_suite(part.suite), part.options, candidates, backbone)
    options = part.options
    folder = "-".join((part.suite, str(options.level), *options.splits, str(options.lengths[0]), part.settings[1:]))
    records = run(evaluation, out / folder.rstrip("-"))
    return {own: [one for one in records if one.system == system] for own, system in systems.items()}


def _recalls(found: dict[str, list[Record]]) -> dict[str, dict[str, Outcomes]]:
    """Which replies recall, where a model was not told whether to."""
    free = {label: records for label, records in found.items() if label not in (*READERS, *TOLD)}
    kinds = list(dict.fromkeys(one.kind for records in free.values() for one in records))
    return {
        kind: {
            label: {one.case: float(bool(recalled(one.reply))) for one in records if one.kind == kind}
            for label, records in free.items()
        }
        for kind in kinds
    }


def _mean(values: Outcomes) -> Cell:
    """With Wilson's interval where every value is right or wrong."""
    every = list(values.values())
    if all(value in (0, 1) for value in every):
        return proportion([bool(value) for value in every])
    return mean(every, share=True)


def _share(values: Outcomes, full: Outcomes) -> Cell:
    both = [case for case in values if case in full]
    return paired_ratio([values[case] for case in both], [full[case] for case in both])


def _beside(found: Sequence[Comparison]) -> Table:
    """The trained models of every comparison, and their difference from those with the most seeds, case by case; rows
    that only these were asked are left out."""
    first = max(found, key=lambda one: len(one.trained))
    others = [one for one in found if one is not first]
    columns = [first.name, *(one.name for one in others), *(f"{one.name} - {first.name}" for one in others)]
    rows = []
    for name in (name for name in first.outcomes if any(name in one.outcomes for one in others)):
        values = [_trained(one, name) if name in one.outcomes else {} for one in (first, *others)]
        gaps = [[own[case] - values[0][case] for case in own if case in values[0]] for own in values[1:]]
        rows.append(Row((name,), (*map(_mean, values), *(mean(gap, share=True) for gap in gaps))))
    return Table("After reinforcement learning, side by side", ("asked",), tuple(columns), tuple(rows))


def recalling(found: Comparison) -> Table:
    """The share of replies that recall, by kind of question."""
    labels = (PARENT, *_runs(found))
    rows = [Row((kind,), tuple(_mean(own[label]) for label in labels)) for kind, own in found.recalls.items()]
    return Table(f"{found.name}: replies that recall, level 3, in", ("asked",), labels, tuple(rows))


def _runs(found: Comparison) -> list[str]:
    """The labels of the trained models."""
    return [label for label in found.models if label != PARENT]


def _trained(found: Comparison, row: str) -> Outcomes:
    """The mean over the trained models, by case."""
    own = [found.outcomes[row][label] for label in _runs(found)]
    return {case: sum(values[case] for values in own) / len(own) for case in own[0]}


def _section(found: Comparison) -> str:
    steps = "; ".join(
        f"`{label}` is {found.models[label]}, {own['steps']:,.0f} steps of {own['seconds']:.1f} s, mean reward "
        f"{own['first']:.3f} in the first 20 and {own['last']:.3f} in the last 20"
        for label, own in found.trained.items()
    )
    cpu = found.hardware.get("gpu", found.hardware.get("cpu", "unknown"))
    lines = [
        figures(found).markdown(),
        "",
        gains(found).markdown(),
        "",
        f"`sft` is {found.models[PARENT]}; {steps}. {cpu}, commit {found.commit or 'unknown'}.",
    ]  # fmt: skip
    if any(found.failed.values()):
        lines += [
            "",
            f"Replies that failed and count as wrong: {', '.join(f'{a} {b}' for a, b in found.failed.items())}.",
        ]
    lines += [f"\n![{label}]({_picture(found.name, label)})" for label in found.trained]
    if found.expansion:
        rows = tuple(
            Row(tuple(row["names"]), tuple(Cell(**cell) for cell in row["cells"])) for row in found.expansion["rows"]
        )
        columns, note = tuple(found.expansion["columns"]), found.expansion["note"]
        title = f"{found.name}: {found.expansion['title'].lower()}"
        lines += ["", recalling(found).markdown(), "", Table(title, ("system",), columns, rows, note).markdown()]
    return "\n".join(lines)


def spent(folder: Path) -> dict[str, float]:
    """Steps, seconds of one, and the mean reward of sampled replies at both ends.

    Raises:
        ConfigError: for a folder that is no run of reinforcement learning.
    """
    metrics = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
    sampled = [line for line in metrics if line.get("figures")]  # the line before the first step has none
    if not sampled:
        raise ConfigError(f"{folder} is no run of reinforcement learning; name the folder that holds its metrics.jsonl")
    rewards = [line["figures"]["reward"] for line in sampled]
    seconds = [sum(line["seconds"].values()) for line in sampled]
    return {
        "steps": metrics[-1]["step"], "seconds": sum(seconds) / len(seconds),
        "first": sum(rewards[:20]) / len(rewards[:20]), "last": sum(rewards[-20:]) / len(rewards[-20:]),
    }  # fmt: skip


def _picture(name: str, label: str) -> str:
    """Of a run's curves, as the page names it."""
    return f"../benchmarks/results/reinforcement/{name}-{label.replace(' ', '-')}.png"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="of the comparison; the page alone without one")
    parser.add_argument("models", nargs="*", type=Path, help="the supervised run, then those that were trained from it")
    parser.add_argument("--ratio", type=int, default=16)
    parser.add_argument("--questions", type=int, default=1000, help="for each split of the almanac")
    parser.add_argument("--fewer", type=int, default=0, help="for the other suites, or a share of it; a fifth if none")
    suites = list(dict.fromkeys(part.suite for part in asked(1000)))
    parser.add_argument("--suite", action="append", sessions=suites, help="only these; repeatable")
    parser.add_argument("--out", type=Path, default=Path("runs/reinforcement"), help="samples")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.name and len(arguments.models) < 2:
        parser.error("a comparison needs the supervised run and one that was trained from it")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
