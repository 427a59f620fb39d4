"""Question after question at the terminal, about one memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfold.core.errors import MemfoldError

if TYPE_CHECKING:
    from rich.console import Console

    from memfold.api import FoldedMemory


def converse(memory: FoldedMemory, as_json: bool) -> None:
    """Question after question, replies as they are written; an empty line or Ctrl-D ends."""
    from memfold.cli.output import notes, screen

    console = screen()
    if not as_json:
        console.print(f"{memory.memory.token_count:,} tokens are in memory; an empty line or Ctrl-D ends", style="dim")
    while question := _next_question(console, "" if as_json else "[bold]question[/]  "):
        try:
            _reply(memory, question, console, as_json)
        except MemfoldError as error:
            notes().print(f"memfold: {error}", markup=False)


def _next_question(console: Console, prompt: str) -> str:
    try:
        return console.input(prompt).strip()
    except EOFError:
        return ""


def _reply(memory: FoldedMemory, question: str, console: Console, as_json: bool) -> None:
    from memfold.cli.output import print_json, show, show_warning

    if as_json:
        print_json(memory.ask(question).record())
        return
    response = memory.ask(question, lambda text: console.print(text, end="", style="italic", markup=False))
    console.print()
    show_warning(response, console)
    show(response, console, streamed=True)
