"""`memfold sample`: writes a generated document and questions about it, to try out or to measure a memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfold.cli.options import Folder, Force, Json
from memfold.core.errors import CheckpointError, ConfigError, unknown
from memfold.core.lock import FolderLock
from memfold.core.outputs import check_files, write_text
from memfold.tasks.table import LOCAL, TEXTS

if TYPE_CHECKING:
    from memfold.core.types import Sample
    from memfold.tasks.task import Encode

NAME = "sample"
DOCUMENT, QUESTIONS = "document.txt", "questions.jsonl"
LEVEL, SPLIT, QUESTION_COUNT = 3, "in", 10
# options that do not change what a task makes
WITHOUT = {
    "needle": ("--level",),
    "summarisation": ("--questions",),
    "prose": ("--questions",),
    "filler": ("--questions", "--level", "--split"),
}
ROUGH = 3  # characters to a token, about what the shipped tokenizer has


def command(
    task: Annotated[str, typer.Argument(metavar="TASK", help=f"{', '.join(TEXTS)}.")],
    out: Folder,
    tokens: Annotated[int, typer.Option("--tokens", help="Length of the document in tokens.")] = 24_000,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same document.")] = 0,
    level: Annotated[
        int | None, typer.Option("--level", help=f"Difficulty of the text, 0 to 3; by default {LEVEL}.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help=f"in, or out for forms that training does not use; by default {SPLIT}."),
    ] = None,
    questions: Annotated[
        int | None, typer.Option("--questions", help=f"Number of questions; by default {QUESTION_COUNT}.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a generated document and questions about it.

    The folder gets document.txt and questions.jsonl (question, answers, evidence offsets, support, hops, kind, split).
    """
    from memfold.cli.output import notes
    from memfold.core.config import require
    from memfold.tasks.table import load_task
    from memfold.tasks.task import SPLITS, TaskOptions

    make = load_task(task)
    if task not in TEXTS:
        raise ConfigError(_not_generated(task))
    for option, value in {"--level": level, "--split": split, "--questions": questions}.items():
        if value is not None and option in WITHOUT.get(task, ()):
            raise ConfigError(f"{option} has no effect on task {task!r}; leave it out")
    level, split = LEVEL if level is None else level, SPLIT if split is None else split
    count = questions or QUESTION_COUNT
    require(tokens > 0, "--tokens", tokens, "1 or more")
    require(0 <= level <= 3, "--level", level, "0 to 3")
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    require(questions is None or questions > 0, "--questions", questions, "1 or more")
    with FolderLock(out):
        check_files(out, (DOCUMENT, QUESTIONS), force=force)
        measure, encode = _measure()
        made = make(seed, tokens, TaskOptions(level=level, split=split, samples=count), encode)
        document = made[0].document
        assert document.text is not None, "generated documents have text"
        records = [_record(sample) for sample in made if sample.document is document and sample.question]
        _write(out, document.text, records)
    if len(records) < count and "--questions" not in WITHOUT.get(task, ()):
        notes().print(
            f"note: {len(records)} questions instead of {count:,}; task {task!r} has no more for {tokens:,} tokens"
        )
    size = {"tokens": len(encode(document.text)), "measure": measure, "characters": len(document.text)}
    _report(out, size | {"questions": len(records)}, as_json)


def _not_generated(task: str) -> str:
    """Return why a task cannot be sampled."""
    why = "reads local files that a recipe names" if task in LOCAL else "makes tokens, not a text with questions"
    return f"task {task!r} {why}; use {', '.join(TEXTS)}"


def _measure() -> tuple[str, Encode]:
    """Return how tokens are counted: with the shipped tokenizer if it is installed, else roughly."""
    from tokenizers import Tokenizer

    from memfold.backbone.named.table import TINY
    from memfold.backbone.resolve import resolve_model

    try:
        tokenizer = Tokenizer.from_file(str(Path(resolve_model(TINY)) / "tokenizer.json"))
    except CheckpointError:
        return f"a rough measure, {ROUGH} characters a token", lambda text: [0] * -(-len(text) // ROUGH)
    return "the tokenizer of tiny", lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _record(sample: Sample) -> dict[str, Any]:
    return {
        "question": sample.question,
        "answers": list(sample.answers),
        "evidence": [[span.start, span.end] for span in sample.evidence],
        "support": list(sample.support),
        "hops": sample.hops,
        "kind": sample.kind,
        "split": sample.split,
    }


def _write(folder: Path, text: str, records: list[dict[str, Any]]) -> None:
    import json

    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_text(folder / DOCUMENT, text)
    write_text(folder / QUESTIONS, lines)


def _report(folder: Path, size: dict[str, Any], as_json: bool) -> None:
    from memfold.cli.output import print_json, screen

    if as_json:
        print_json({"document": str(folder / DOCUMENT), "file": str(folder / QUESTIONS)} | size)
        return
    screen().print(
        f"{folder / DOCUMENT}: {size['tokens']:,} tokens ({size['measure']}), {size['characters']:,} characters\n"
        f"{folder / QUESTIONS}: {size['questions']} questions",
        markup=False,
    )
