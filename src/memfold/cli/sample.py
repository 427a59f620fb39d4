"""`memfold sample`: a generated document and questions about it, to try a memory on or to measure one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfold.cli.options import Folder, Json
from memfold.core.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from memfold.core.types import Sample
    from memfold.tasks.task import Encode

NAME = "sample"
ROUGH = 3  # characters to a token, about what the shipped tokenizer has


def command(
    task: Annotated[str, typer.Argument(metavar="TASK", help="almanac, needle, summarisation, ...")],
    out: Folder,
    tokens: Annotated[int, typer.Option("--tokens", help="Length of the document.")] = 24_000,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same document.")] = 0,
    level: Annotated[int, typer.Option("--level", help="Difficulty, 0 to 3.")] = 3,
    split: Annotated[str, typer.Option("--split", help="in, or out for forms held out of training.")] = "in",
    questions: Annotated[int, typer.Option("--questions", help="How many to ask.")] = 10,
    as_json: Json = False,
) -> None:
    """Write a generated document and questions about it.

    DIR/document.txt and DIR/questions.jsonl (question, answers, evidence offsets, support, hops, kind, split).
    """
    from memfold.core.config import require
    from memfold.tasks.table import load_task
    from memfold.tasks.task import SPLITS, TaskOptions

    require(tokens > 0, "--tokens", tokens, "1 or more")
    require(0 <= level <= 3, "--level", level, "0 to 3")
    require(split in SPLITS, "--split", split, ", ".join(SPLITS))
    require(questions > 0, "--questions", questions, "1 or more")
    make = load_task(task)
    measure, encode = _measure()
    made = make(seed, tokens, TaskOptions(level=level, split=split, samples=questions), encode)
    document = made[0].document if made else None
    if document is None or not document.text:
        raise ConfigError(f"task {task!r} works on tokens and has no text to write; use almanac or needle")
    records = [_record(sample) for sample in made if sample.document is document and sample.question]
    _write(out, document.text, records)
    size = {"tokens": len(encode(document.text)), "measure": measure, "characters": len(document.text)}
    _report(out, size | {"questions": len(records)}, as_json)


def _measure() -> tuple[str, Encode]:
    """How tokens are counted: with the shipped tokenizer where it is, else roughly."""
    from tokenizers import Tokenizer

    from memfold.backbone.resolve import TINY, resolve_model

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "document.txt").write_text(text, encoding="utf-8", newline="")
        (folder / "questions.jsonl").write_text(lines, encoding="utf-8", newline="")
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}; choose another folder") from None


def _report(folder: Path, size: dict[str, Any], as_json: bool) -> None:
    from memfold.cli.output import print_json, screen

    if as_json:
        print_json({"document": str(folder / "document.txt"), "file": str(folder / "questions.jsonl")} | size)
        return
    screen().print(
        f"{folder / 'document.txt'}: {size['tokens']:,} tokens ({size['measure']}), {size['characters']:,} characters\n"
        f"{folder / 'questions.jsonl'}: {size['questions']} questions",
        markup=False,
    )
