"""Prints JSON and answers on standard output, and progress and warnings on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from memfold.cli.printable import escaped, printable
from memfold.core.document import Document
from memfold.core.errors import MemfoldError
from memfold.core.types import Block, Citation

if TYPE_CHECKING:
    from memfold.response import Response

EXCERPT = 160
BAR = 20_000  # characters from which on folding shows a progress bar


class Interrupted(MemfoldError):
    """The user pressed Ctrl-C; the message says what is kept."""

    exit_code = 130


class _Terminal(Console):
    """A console that prints strings without their control characters."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)


def screen() -> Console:
    """Return the console of standard output, for people."""
    return _Terminal(highlight=False, soft_wrap=True)


def notes() -> Console:
    """Return the console of standard error."""
    return _Terminal(stderr=True, highlight=False, soft_wrap=True)


def print_json(record: dict[str, Any]) -> None:
    """Print one object on one line of standard output, with characters that cannot be shown as JSON escapes."""
    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "")
    text = json.dumps(record, ensure_ascii=not encoding.startswith("utf"))
    sys.stdout.write(escaped(text) + "\n")
    sys.stdout.flush()


def show(response: Response, console: Console, streamed: bool = False) -> None:
    """Print what was recalled (unless it was `streamed` before), the answer, and its sources."""
    if response.recalled and not streamed:
        _line(console, "recalled", response.recalled, "italic")
    _line(console, "answer", response.text, "bold")
    for recall in response.recalls:
        if not recall.supported:
            says = "" if recall.nearest is None else f'; the text says: "{" ".join(recall.nearest.text.split())}"'
            _line(console, "unknown", f'"{recall.text}" is not in the text{says}', "yellow")
    if response.supported is False and all(recall.supported for recall in response.recalls):
        _line(console, "unknown", f'"{response.text}" is not in the text', "yellow")
    show_citations(response.citations, console)
    usage, seconds = response.usage, response.seconds
    console.print(
        f"{'':10}{usage['document_tokens']:,} tokens read in {usage['decoder_positions']:,} positions "
        f"(effective ratio {usage['effective_ratio']:.2f}), {usage['generated_tokens']} tokens written, "
        f"{seconds['total'] - seconds['fold']:.1f} s",
        style="dim",
    )


def show_warning(response: Response, console: Console) -> None:
    """Warn that an answer is unreliable, and print the results of a text search."""
    if response.warning is not None:
        console.print(f"warning: {response.warning}", style="yellow", markup=False)
        show_citations(response.passages, console, "passage")


def show_citations(citations: Sequence[Citation], console: Console, label: str = "from") -> None:
    """Print the place of each citation and the beginning of its text."""
    for citation in citations:
        _line(console, label, located(citation))


def located(citation: Citation) -> str:
    """Return source, offsets and an excerpt, on one line."""
    text = " ".join(citation.text.split())
    text = text if len(text) <= EXCERPT else f"{text[:EXCERPT]} ..."
    where = f"{citation.source}, characters {citation.start:,}-{citation.end:,}"
    return f'{where}: "{text}"' if text else where


@contextmanager
def folding(documents: Sequence[Document]) -> Iterator[Callable[[Block], None]]:
    """Show a progress bar for long documents, and yield the function to call with each block."""
    lengths = [document.characters for document in documents]
    columns = [TextColumn("folding"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), _Tokens()]
    console = notes()
    quiet = not console.is_terminal or sum(lengths) < BAR
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=quiet) as progress:
        bar = progress.add_task("", total=sum(lengths), tokens=0, started=time.perf_counter())

        def advance(block: Block) -> None:
            tokens = progress.tasks[bar].fields["tokens"] + block.token_count
            progress.update(bar, completed=sum(lengths[: block.source]) + block.char_end, tokens=tokens)

        yield advance


class _Tokens(ProgressColumn):
    """Shows the number of tokens so far and per second."""

    def render(self, task: Task) -> Text:
        tokens, passed = task.fields["tokens"], time.perf_counter() - task.fields["started"]
        return Text(f"{tokens:,} tokens, {tokens / max(passed, 1e-9):,.0f} tokens/s,")


def _line(console: Console, label: str, text: str, style: str = "") -> None:
    console.print(f"{label:10}", style="cyan", end="")
    console.print(text, style=style, markup=False)
