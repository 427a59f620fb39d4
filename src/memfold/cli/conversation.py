"""Answers questions from standard input one after another, about one memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memfold.core.errors import DataError, MemfoldError
from memfold.core.prompt import BOX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from memfold.api import FoldedMemory


def converse(memory: FoldedMemory, as_json: bool) -> int:
    """Answer questions, show replies as they are written, and return how many piped questions failed.

    At a terminal a prompt is shown, and an empty line or Ctrl-D ends the conversation.  Otherwise blank lines are
    skipped, and the end of the input ends it.
    """
    from memfold.cli.output import notes, print_json, screen

    console, failed = screen(), 0
    for question in _questions(memory):
        try:
            _reply(memory, question, console, as_json)
        except MemfoldError as error:
            notes().print(f"memfold: {' '.join(str(error).split())}", markup=False)
            if as_json:  # a line for each question, as with --questions
                print_json({"answer": "", "error": str(error)})
            failed += 1
    return 0 if _at_terminal() else failed


def _questions(memory: FoldedMemory) -> Iterator[str]:
    """Yield the questions of standard input; the prompt is on standard error."""
    from memfold.cli.output import notes

    asked, at_terminal = notes(), _at_terminal()
    if at_terminal:
        asked.print(
            f"The memory holds {memory.memory.token_count:,} tokens; an empty line or Ctrl-D ends the conversation",
            style="dim",
        )
    while True:
        if at_terminal:
            asked.print("[bold]question[/]  ", end="")
        question = _line()
        if question is None or (at_terminal and not question):
            return
        if question:
            yield question


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _line() -> str | None:
    """Return the next line of standard input without spaces around it or a byte order mark; None at the end."""
    if sys.stdin is None:  # closed, as in a service
        return None
    try:
        return input().strip().removeprefix("\ufeff").strip()
    except EOFError:
        return None
    except UnicodeDecodeError:
        raise DataError("standard input is not UTF-8 text; convert it to UTF-8 first") from None


def _reply(memory: FoldedMemory, question: str, console: Console, as_json: bool) -> None:
    from memfold.cli.output import print_json, show, show_warning
    from memfold.cli.reading import reading

    if as_json:
        print_json(memory.ask(question).record())
        return
    streamed = Unboxed()
    with reading(memory.memory) as on_call:

        def write(text: str) -> None:
            on_call.stop()
            console.print(streamed(text), end="", style="italic", markup=False)

        response = memory.ask(question, write, on_call=on_call)
    console.print(streamed.rest(), style="italic", markup=False)
    show_warning(response, console)
    show(response, console, streamed=True)


class Unboxed:
    r"""The text of a reply in parts, without the `\boxed{}` around its answer, which is shown when it is complete.

    >>> unboxed = Unboxed()
    >>> unboxed(" It is in Velm. \\bo") + unboxed("xed{Velm") + unboxed("}") + unboxed.rest()
    ' It is in Velm. '
    """

    def __init__(self) -> None:
        self._held = ""

    def __call__(self, part: str) -> str:
        """Return what can be shown after another part of the reply; the rest is held back."""
        text = self._held + part
        shown, box, inside = text.partition(BOX)
        if box:
            depth, _, after = _closed(inside)
            self._held = box + inside if depth else ""
            return shown if depth else shown + self(after)
        kept = next((size for size in range(len(BOX) - 1, 0, -1) if text.endswith(BOX[:size])), 0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """Return what was held back although no box begins there."""
        held, self._held = self._held, ""
        return "" if held.startswith(BOX) else held


def _closed(inside: str) -> tuple[int, str, str]:
    """Return how many braces are still open after the content of a box, the content, and the text after the box."""
    depth = 1
    for end, character in enumerate(inside):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return 0, inside[:end], inside[end + 1 :]
    return depth, inside, ""
