"""`memfold ask`: answers one question, a file of questions, or a conversation, from a memory file or a document."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memfold.cli.conversation import converse
from memfold.cli.opening import check_rereads, open_or_fold
from memfold.cli.options import (
    BUDGET,
    CPU,
    Budget,
    Device,
    Json,
    MaxTokens,
    Model,
    Question,
    Questions,
    Ratio,
    Resume,
    Settings,
    Style,
    System,
    Trace,
    Unfold,
    check_budget,
    check_model,
)
from memfold.cli.questions import answer_all, read_questions
from memfold.cli.recording import TraceOptions, check_recording, keeping
from memfold.core.config import require
from memfold.core.errors import ConfigError, unknown
from memfold.core.job import check_question
from memfold.core.prompt import STYLES
from memfold.core.settings import parse_settings

if TYPE_CHECKING:
    from memfold.api import FoldedMemory

NAME = "ask"


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DOC_OR_MEMORY", help="A memory file, a document, a folder or a pipe of documents, or - for stdin."
        ),
    ],
    question: Question = None,
    questions: Questions = None,
    system: System = None,
    model: Model = "tiny",
    ratio: Ratio = None,
    style: Style = None,
    unfold: Unfold = None,
    budget: Budget = None,
    settings: Settings = None,
    max_tokens: MaxTokens = None,
    device: Device = None,
    trace: Trace = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Answer questions from a memory file or a document.

    A document is folded first.  Each answer comes with the sentences that the model recalled and their places in the
    text.  Blank lines between questions are skipped; at a terminal, an empty line ends the conversation.
    """
    from memfold.systems.shared.unfolding import check_unfoldable

    _check(source, question, questions, style)
    check_budget(budget, unfold)
    check_model(model, device)
    require(max_tokens is None or max_tokens > 0, "--max-tokens", max_tokens, "1 token or more")
    asked = None if questions is None else read_questions(questions)
    options = check_recording(trace, resume, asked if question is None else [question])
    chosen = parse_settings(settings or ())
    check = partial(check_rereads, unfold, budget)
    memory = open_or_fold(source, system, model, ratio, device or CPU, chosen, check)
    if budget is not None:
        check_unfoldable(memory.memory)
    given = {"style": style, "max_tokens": max_tokens}
    memory = memory.answering(**{name: value for name, value in given.items() if value is not None})
    if unfold:
        memory = memory.unfolding(budget or BUDGET)
    else:
        memory = memory.doubting(0 if unfold is False else budget or BUDGET)
    if asked is not None:
        if answer_all(memory, asked, options):
            raise typer.Exit(1)
    elif question is not None:
        _ask_one(memory, question, as_json, options)
    elif converse(memory, as_json):
        raise typer.Exit(1)


def _check(source: str, question: str | None, questions: Path | None, style: str | None) -> None:
    """Refuse what cannot be asked before anything is folded."""
    if style is not None and style not in STYLES:
        raise unknown("style", style, STYLES)
    if question is not None and questions is not None:
        raise ConfigError("give either QUESTION or --questions, not both")
    if question is not None:
        check_question(question)
    if source == "-" and question is None and questions is None:
        raise ConfigError("standard input holds the document; give QUESTION or --questions")


def _ask_one(memory: FoldedMemory, question: str, as_json: bool, options: TraceOptions) -> None:
    from memfold.cli.documents import records
    from memfold.cli.output import print_json, screen, show, show_warning
    from memfold.cli.reading import reading

    with keeping(options.path), reading(memory.memory, options.stored, as_json) as on_call:
        response = memory.ask(question, trace=options.path, resume=options.resume, on_call=on_call)
    if as_json:
        print_json(response.record() | ({"skipped": records(memory.skipped)} if memory.skipped else {}))
    else:
        show_warning(response, screen())
        show(response, screen())
    if not response.text:
        raise typer.Exit(1)
