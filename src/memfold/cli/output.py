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

from memfold.cli.printable import escaped, on_one_line, printable
from memfold.core.document import Document
from memfold.core.errors import MemfoldError
from memfold.core.prompt import BOX
from memfold.core.types import Block, Citation

if TYPE_CHECKING:
    from memfold.response import Response

NO_REPLY = "(no reply)"
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
    """Print what was recalled and a reply that is the answer (unless `streamed` before), the answer, its sources."""
    if response.recalled and not streamed:
        _line(console, "recalled", response.recalled, "italic")
    if not (streamed and response.text and response.text == response.reply.strip() and BOX not in response.reply):
        _line(console, "answer", response.text or NO_REPLY, "bold")
    if response.withheld is not None:
        _line(console, "withheld", f'"{response.withheld}", which the text does not state', "yellow")
    for line in _unknown(response):
        _line(console, "unknown", line, "yellow")
    if response.text and not response.checked:
        _line(console, "unchecked", "the memory holds no text to compare the answer with", "yellow")
    show_citations(response.citations, console)
    usage, seconds = response.usage, response.seconds
    console.print(
        f"{'':10}{usage['document_tokens']:,} tokens of text, {usage['decoder_positions']:,} positions read "
        f"(effective ratio {usage['effective_ratio']:.2f}), {usage['generated_tokens']} tokens written, "
        f"{seconds['total'] - seconds['fold']:.1f} s",
        style="dim",
    )


def _unknown(response: Response) -> Iterator[str]:
    """Yield what the reply or the question says that is not in the text."""
    for recall in response.recalls:
        if not recall.supported:
            says = "" if recall.nearest is None else f'; the text says: "{" ".join(recall.nearest.text.split())}"'
            yield f'"{recall.text}" is not in the text{says}'
    if response.supported is False and all(recall.supported for recall in response.recalls):
        yield f'"{response.text}" is not in the text'
    if response.unmentioned:
        quoted = ", ".join(f'"{name}"' for name in response.unmentioned)
        yield f"the text does not mention {quoted}"


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
    where = f"{on_one_line(citation.source)}, characters {citation.start:,}-{citation.end:,}"
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
