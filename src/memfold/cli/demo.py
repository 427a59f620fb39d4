"""`memfold demo`: folds a long generated text, asks ten new questions, and shows what was recalled and from where.

Every question is answered twice: from the slots alone, and after reading the text that the first answer cites.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfold.cli.options import Json, Model, check_model
from memfold.core.errors import ConfigError
from memfold.core.registry import DEFAULT

if TYPE_CHECKING:
    from rich.console import Console

    from memfold.api import FoldedMemory
    from memfold.core.types import Sample
    from memfold.response import Response

NAME = "demo"
TOKENS, QUESTIONS, LEVEL, UNFOLD = 24_000, 10, 3, 256
KINDS = ("one-hop", "two-hop")
NEXT = """\
next: memfold sample almanac --tokens 100000 --seed 7 -o try     another text, with questions
      memfold fold try/document.txt -o try.fold                  a memory file of it
      memfold ask try.fold                                       ask it questions
      memfold ask your.txt --model Qwen/Qwen3-4B --system full   your own text, with a larger model"""


@dataclass(frozen=True)
class Outcome:
    """A question with its answer from the slots alone, and its answer after reading the cited text (`unfolded`)."""

    sample: Sample
    response: Response
    unfolded: Response
    right: bool
    right_unfolded: bool

    def record(self) -> dict[str, Any]:
        """Return the object that `--json` prints: the question, the response, and the answer after reading the text."""
        question = {"question": self.sample.question, "answers": list(self.sample.answers), "kind": self.sample.kind}
        unfolded = {"answer": self.unfolded.text, "right": self.right_unfolded}
        return question | {"right": self.right} | self.response.record() | {"unfolded": unfolded}


def command(
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives another text.")] = 1,
    model: Model = "tiny",
    as_json: Json = False,
) -> None:
    """Fold a long text and ask it ten new questions.

    The text has 24,000 tokens and is folded at ratio 16.  Every question is answered twice: from the slots alone, and
    after the model has read the cited text again.  The recalled sentences and their places are shown.
    """
    check_model(model)
    import time

    from memfold import api
    from memfold.cli.output import folding, print_json, screen
    from memfold.scoring.metrics import answered
    from memfold.session import open_session
    from memfold.tasks.table import load_task
    from memfold.tasks.task import TaskOptions

    started = time.perf_counter()
    session = open_session(DEFAULT, _with_slots(model))
    options = TaskOptions(level=LEVEL, samples=QUESTIONS, kinds=KINDS)
    samples = load_task("almanac")(seed, TOKENS, options, session.model.encode)
    document = samples[0].document
    with folding([document]) as progress:
        memory = api.fold_documents([document], session, progress)
    console = screen()
    if not as_json:
        _show_sizes(console, memory)
    questions = [sample.question for sample in samples]
    responses = zip(memory.ask_many(questions), memory.unfolding(UNFOLD).ask_many(questions), strict=True)
    outcomes = [
        Outcome(sample, response, unfolded, answered(sample, response.text), answered(sample, unfolded.text))
        for sample, (response, unfolded) in zip(samples, responses, strict=True)
    ]
    seconds = time.perf_counter() - started
    right, right_unfolded = sum(each.right for each in outcomes), sum(each.right_unfolded for each in outcomes)
    if as_json:
        counts = {"right": right, "right_unfolded": right_unfolded, "asked": len(outcomes)}
        print_json(counts | {"seconds": round(seconds, 2), "questions": [each.record() for each in outcomes]})
        return
    characters = len(document.read())
    for number, outcome in enumerate(outcomes, 1):
        _show(console, f"{number:2}", outcome, characters)
    console.print(
        f"\n[bold]{right} of {len(outcomes)} right[/] from the slots alone, [bold]{right_unfolded}[/] after reading "
        f"the cited text; {seconds:.0f} s in total\n\n{NEXT}"
    )


def _with_slots(model: str) -> str:
    """Return the name of a model, after checking that it was trained to read slots.

    Raises:
        ConfigError: for an endpoint, or a model that reads text only.
    """
    from memfold.session import load

    if DEFAULT not in load(model).trained:
        raise ConfigError(f"the demo folds a text into slots, and model {model!r} reads text only; leave --model out")
    return model


def _show_sizes(console: Console, memory: FoldedMemory) -> None:
    model, folded = memory.session.model, memory.memory
    tokens, slots = folded.token_count, folded.slot_count
    size, cache = 2 * slots * model.hidden_size, tokens * model.kv_bytes_per_token
    console.print(
        f"folded {tokens:,} tokens into {slots:,} slots in {memory.fold_seconds:.1f} s "
        f"({tokens / memory.fold_seconds:,.0f} tokens/s): {size / 1e6:.1f} MB, where a full KV cache takes "
        f"{cache / 1e6:.0f} MB"
    )
    console.print("The model now answers from the slots alone:\n", style="dim")


def _show(console: Console, number: str, outcome: Outcome, characters: int) -> None:
    """Print a question with what was recalled, the answer and its place, and the answer after reading the text."""
    from memfold.cli.output import located

    response = outcome.response
    console.print(f"{number}  {outcome.sample.question}", style="bold", markup=False)
    if response.recalled:
        console.print(f"    recalled  {response.recalled}", style="italic", markup=False)
    _verdict(console, "answer", response, outcome.right)
    for citation in response.citations[:1]:
        at = f" (at {citation.start / characters:.0%} of the text)"
        console.print(f"    from      {located(citation)}{at}", style="dim", markup=False)
    _verdict(console, "unfolded", outcome.unfolded, outcome.right_unfolded)
    if not (outcome.right or outcome.right_unfolded):
        console.print(f"    expected  {outcome.sample.expected}  ({outcome.sample.kind})", style="dim", markup=False)


def _verdict(console: Console, label: str, response: Response, right: bool) -> None:
    console.print(f"    {label:8}  {response.text or response.error}  ", end="", markup=False)
    console.print("([green]right[/])" if right else "([red]wrong[/])")
