"""`memfold ask`: answers one question, a file of questions, or a conversation, from a memory file or a document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfold.cli.conversation import converse
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
    Settings,
    Style,
    System,
    Trace,
    Unfold,
    check_budget,
    check_model,
    model_dtype,
    system_or_default,
)
from memfold.cli.questions import read_questions
from memfold.cli.recording import check_recording, record
from memfold.core.config import require
from memfold.core.errors import ConfigError, unknown
from memfold.core.job import check_question
from memfold.core.prompt import STYLES
from memfold.core.registry import DEFAULT, AnySystem, system_class
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
    check_recording(trace, question, questions)
    require(max_tokens is None or max_tokens > 0, "--max-tokens", max_tokens, "1 token or more")
    asked = None if questions is None else read_questions(questions)
    chosen = parse_settings(settings or ())
    memory = _memory(source, system, model, ratio, device or CPU, chosen, partial(_check_rereads, unfold, budget))
    if budget is not None:
        check_unfoldable(memory.memory)
    given = {"style": style, "max_tokens": max_tokens}
    memory = memory.answering(**{name: value for name, value in given.items() if value is not None})
    if unfold:
        memory = memory.unfolding(budget or BUDGET)
    else:
        memory = memory.doubting(0 if unfold is False else budget or BUDGET)
    if asked is not None:
        _ask_all(memory, asked, trace)
    elif question is not None:
        _ask_one(memory, question, as_json, trace)
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


def _check_rereads(unfold: bool | None, budget: int | None, system: AnySystem) -> None:
    """Refuse to read text again with a system that reads nothing but the text."""
    if unfold:
        system.unfolding(budget or BUDGET)  # raises for such a system
    given = "--no-unfold" if unfold is False else None if budget is None else f"--budget {budget}"
    if given is not None and not system.capabilities.unfolds:
        raise ConfigError(f"{given} has no effect on system {system.name!r}, which reads nothing again; leave it out")


def _memory(
    source: str,
    system: str | None,
    model: str,
    ratio: int | None,
    device: str,
    settings: Mapping[str, Any],
    check: Callable[[AnySystem], None],
) -> FoldedMemory:
    """Open a memory file, or fold a document; the system is checked before the model is loaded."""
    from memfold import api
    from memfold.cli.documents import distinct_inputs, open_inputs
    from memfold.cli.output import folding
    from memfold.memory.reader import read_manifest
    from memfold.session import open_session
    from memfold.sources import is_memory

    dtype = model_dtype(device)
    if source != "-" and is_memory(Path(source)):
        manifest = read_manifest(source)  # None if it cannot be read; opening it says why
        check(system_class(manifest.system if manifest else DEFAULT)())
        memory = api.open(source, model=model, system=system, ratio=ratio, device=device, dtype=dtype)
        return memory.answering(**settings)
    system = system_or_default(system, model)
    check(system_class(system)())
    inputs = distinct_inputs(open_inputs([source]))
    session = open_session(system, model, ratio, device, dtype, settings)
    with folding(inputs.documents) as progress:
        return api.fold_documents(inputs.documents, session, progress, inputs.skipped)


def _ask_one(memory: FoldedMemory, question: str, as_json: bool, trace: Path | None) -> None:
    from memfold.cli.documents import records
    from memfold.cli.output import print_json, screen, show, show_warning

    response = memory.ask(question)
    record(trace, [response.trace])
    if as_json:
        print_json(response.record() | ({"skipped": records(memory.skipped)} if memory.skipped else {}))
    else:
        show_warning(response, screen())
        show(response, screen())
    if not response.text:
        raise typer.Exit(1)


def _ask_all(memory: FoldedMemory, questions: list[str], trace: Path | None) -> None:
    """Print one JSON line for each question in order, as soon as all questions before it are answered."""
    from memfold.cli.output import notes, print_json

    if memory.warning is not None:
        notes().print(f"warning: {memory.warning}", style="yellow", markup=False)
    ready: dict[int, dict[str, Any]] = {}
    traces: dict[int, Any] = {}
    shown = failed = 0
    for number, response in memory.answers(questions):
        ready[number] = {"question": questions[number]} | response.record()
        if trace is not None:
            traces[number] = response.trace
        failed += not response.text
        while shown in ready:
            print_json(ready.pop(shown))
            shown += 1
    record(trace, [traces[number] for number in sorted(traces)])
    if failed:
        raise typer.Exit(1)
