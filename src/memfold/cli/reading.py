"""Shows how far a reading is while its answer is not there yet: calls, blocks, the length of the note.

It is shown at a terminal only, on standard error, for texts that take a while.  Left out: how long it will take, which
depends on what the calls find.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from memfold.cli.output import BAR, notes
from memfold.core.system import UPDATE
from memfold.core.types import BlockRef, Memory, Step


class Reading:
    """Counts the calls of one question, or of several, as they are handed to it; `stored` are those of a trace file."""

    def __init__(self, progress: Progress, blocks: int, stored: int) -> None:
        self._progress, self._blocks, self._stored = progress, blocks, stored
        self._calls = self._note = 0
        self._read: set[int] = set()
        self._task = progress.add_task(str(self))

    def __call__(self, step: Step) -> None:
        """Count a call; before the first one, tell of those that are stored."""
        if self._stored and not self._calls:
            stored = "1 call is" if self._stored == 1 else f"{self._stored:,} calls are"
            self._progress.console.print(f"continuing an interrupted reading: {stored} already stored", markup=False)
        self._calls += 1
        self._read |= {part.index for part in step.call.parts if isinstance(part, BlockRef)}
        if step.call.purpose == UPDATE and step.reply.text.strip():
            self._note = step.reply.token_count
        self._progress.update(self._task, description=str(self))

    def __str__(self) -> str:
        """What has been read so far."""
        calls = "1 call" if self._calls == 1 else f"{self._calls:,} calls"
        note = f", a note of {self._note:,} tokens" if self._note else ""
        return f"{calls}, {len(self._read):,} of {self._blocks:,} blocks read{note},"

    def stop(self) -> None:
        """Make room for the answer."""
        self._progress.stop()


@contextmanager
def reading(memory: Memory, stored: int = 0, quiet: bool = False) -> Iterator[Reading]:
    """Show how far the reading of a long memory is, unless `quiet`, and yield what takes each call."""
    console, blocks = notes(), memory.blocks
    short = sum(block.char_end - block.char_start for block in blocks) < BAR
    columns = TextColumn("reading"), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    hidden = quiet or short or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        yield Reading(progress, len(blocks), stored)
