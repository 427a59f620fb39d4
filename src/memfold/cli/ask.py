"""`memfold ask`: one question, a file of them, or question after question, about a memory file or a document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfold.cli.conversation import converse
from memfold.cli.options import Device, Json, Model, Ratio, model_dtype
from memfold.cli.questions import read_questions
from memfold.core.errors import ConfigError, DataError
from memfold.core.prompt import STYLES
from memfold.core.registry import DEFAULT, SYSTEMS

if TYPE_CHECKING:
    from memfold.api import FoldedMemory

NAME = "ask"

Question = Annotated[str | None, typer.Argument(metavar="QUESTION", help="Left out: question after question.")]
Questions = Annotated[Path | None, typer.Option("--questions", help="A .jsonl file, one question a line.")]
System = Annotated[
    str | None, typer.Option("--system", help=f"For a text: {', '.join(SYSTEMS)}; by default {DEFAULT}.")
]
Unfold = Annotated[bool, typer.Option("--unfold", help="Read the cited text again before the final answer.")]
Budget = Annotated[int, typer.Option("--budget", help="Tokens of text that --unfold reads again.")]
Style = Annotated[
    str | None, typer.Option("--style", help="recall: sentences, then the answer; bare: it alone; free: either.")
]


def command(
    source: Annotated[str, typer.Argument(metavar="DOC_OR_MEMORY", help="A memory file, a text, a folder, or -.")],
    question: Question = None,
    questions: Questions = None,
    system: System = None,
    model: Model = "tiny",
    ratio: Ratio = None,
    style: Style = None,
    unfold: Unfold = False,
    budget: Budget = 256,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Answer questions from a memory file or a document.

    A document is folded on the spot.  Answers come with what was recalled and where it stands.
    """
    _check(source, question, questions, style)
    if budget < 1:
        raise ConfigError(f"--budget {budget} is not possible; allowed: from 1 token")
    asked = None if questions is None else read_questions(questions)
    memory = _memory(source, system, model, ratio, device)
    if style is not None:
        memory = memory.answering(style=style)
    if unfold:
        memory = memory.unfolding(budget)
    if asked is not None:
        _ask_all(memory, asked)
    elif question is not None:
        _ask_one(memory, question, as_json)
    else:
        converse(memory, as_json)


def _check(source: str, question: str | None, questions: Path | None, style: str | None) -> None:
    """Refuse what cannot be asked before anything is folded."""
    if style is not None and style not in STYLES:
        raise ConfigError(f"style {style!r} is not possible; allowed: {', '.join(STYLES)}")
    if question is not None and questions is not None:
        raise ConfigError("give either one QUESTION or --questions, not both")
    if question is not None and not question.strip():
        raise DataError("the question is empty; ask something")
    if source == "-" and question is None and questions is None:
        raise ConfigError("standard input holds the text; give the QUESTION as an argument or use --questions")


def _memory(source: str, system: str | None, model: str, ratio: int | None, device: str) -> FoldedMemory:
    """The memory of a file, or of a document folded now."""
    from memfold import api
    from memfold.cli.output import folding
    from memfold.cli.stdin import read_sources
    from memfold.session import open_session
    from memfold.sources import is_memory

    dtype = model_dtype(device)
    if source != "-" and is_memory(Path(source)):
        return api.open(source, model=model, system=system, ratio=ratio, device=device, dtype=dtype)
    documents = read_sources([source])
    session = open_session(system or DEFAULT, model, ratio, device, dtype)
    with folding(documents) as progress:
        return api.fold_documents(documents, session, progress)


def _ask_one(memory: FoldedMemory, question: str, as_json: bool) -> None:
    from memfold.cli.output import print_json, screen, show, show_warning

    response = memory.ask(question)
    if as_json:
        print_json(response.record())
        return
    show_warning(response, screen())
    show(response, screen())


def _ask_all(memory: FoldedMemory, questions: list[str]) -> None:
    """One JSON line for each question, in their order, as soon as all before it are answered."""
    from memfold.cli.output import notes, print_json

    if memory.warning is not None:
        notes().print(f"warning: {memory.warning}", style="yellow", markup=False)
    ready: dict[int, dict[str, Any]] = {}
    shown = failed = 0
    for number, response in memory.answers(questions):
        ready[number] = {"question": questions[number]} | response.record()
        failed += response.error is not None
        while shown in ready:
            print_json(ready.pop(shown))
            shown += 1
    if failed:
        raise typer.Exit(1)
