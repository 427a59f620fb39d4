"""`memfold fold -o FOLDER/`: folds each file into a memory of its own, and tells what became of every one of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memfold.cli.documents import records, show_lines
from memfold.cli.output import Interrupted, notes, print_json, screen
from memfold.core.errors import DataError, MemfoldError
from memfold.core.outputs import check_folder
from memfold.corpus.engine import LOCAL, Engine, open_engine
from memfold.corpus.work import FAILED, FOLDED, KEPT, Job, Order, Outcome, find_jobs
from memfold.sources import STDIN


class NotAllFolded(MemfoldError):
    """Some files could not be folded; all others were."""

    exit_code = 1


def fold_each(
    sources: Sequence[str], folder: Path, order: Order, engine: str | None, workers: int | None, as_json: bool
) -> None:
    """Fold each file of the sources into a folder.

    Raises:
        ConfigError, CheckpointError, DataError: if nothing can be folded at all.
        NotAllFolded: at the end, if a file could not be folded.
    """
    if STDIN in sources:
        raise DataError("standard input has no name for a memory of its own; name a file, or fold into a memory file")
    chosen = open_engine(engine or LOCAL, workers)
    check_folder(folder)
    jobs, skipped = find_jobs(sources, folder)
    show_lines([f"skipped: {each}" for each in skipped], "skipped:")
    started = time.perf_counter()
    try:
        outcomes = _run(chosen, order, jobs)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what is folded is kept, run the same command again to continue") from None
    seconds = time.perf_counter() - started
    of = {state: [each for each in outcomes if each.state == state] for state in (FOLDED, KEPT, FAILED)}
    tokens = sum(each.tokens for each in outcomes)
    if as_json:
        told = {state: [each.source for each in of[state]] for state in (FOLDED, KEPT)}
        failed = [{"source": each.source, "reason": each.problem} for each in of[FAILED]]
        sums = {"tokens": tokens, "seconds": {"fold": round(seconds, 4)}}
        print_json({"folder": str(folder)} | told | {FAILED: failed, "skipped": records(skipped)} | sums)
    else:
        already = f", {len(of[KEPT]):,} already there" if of[KEPT] else ""
        line = f"{folder}: {len(of[FOLDED]):,} files folded{already}; {tokens:,} tokens in {seconds:.1f} s"
        screen().print(line, markup=False)
    show_lines([f"failed: {each.problem}" for each in of[FAILED]], "failed:")
    if of[FAILED]:
        count = f"{len(of[FAILED]):,} of {len(jobs):,} files"
        raise NotAllFolded(f"{count} could not be folded, for the reasons above; all others are")


def _run(engine: Engine, order: Order, jobs: Sequence[Job]) -> list[Outcome]:
    """Return the outcomes in the order of the jobs, and show a progress bar at a terminal."""
    places = {job.source: place for place, job in enumerate(jobs)}
    console = notes()
    columns = [TextColumn("folding"), BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeRemainingColumn()]
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with redirect_stdout(sys.stderr), progress:  # Ray prints there that a worker ended, whatever it is told
        outcomes = list(progress.track(engine.run(order, jobs), total=len(jobs)))
    return sorted(outcomes, key=lambda outcome: places[outcome.source])
