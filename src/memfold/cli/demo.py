"""`memfold demo`: fold a long generated text, ask ten new questions, show what was recalled and from where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfold.cli.options import Json, Model

if TYPE_CHECKING:
    from rich.console import Console

    from memfold.api import FoldedMemory, Response
    from memfold.core.types import Sample

NAME = "demo"
TOKENS, QUESTIONS, LEVEL = 24_000, 10, 3
KINDS = ("one-hop", "two-hop")
NEXT = """\
next: memfold sample almanac --tokens 100000 --seed 7 -o try     another text, with questions
      memfold fold try/document.txt -o try.fold                  a memory file of it
      memfold ask try.fold                                       question after question
      memfold ask your.txt --model Qwen/Qwen3-4B --system full   your own text, with a larger model"""


def command(
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another text and other questions.")] = 1,
    model: Model = "tiny",
    as_json: Json = False,
) -> None:
    """Fold a long text and ask it ten new questions.

    The text has 24,000 tokens and is folded 16x; each answer comes with what was recalled and where it stands.
    """
    import time

    from memfold import api
    from memfold.choice import choose
    from memfold.cli.output import folding, print_json, screen
    from memfold.scoring.metrics import answered
    from memfold.tasks.table import load_task
    from memfold.tasks.task import TaskOptions

    started = time.perf_counter()
    choice = choose("pooled", model)
    options = TaskOptions(level=LEVEL, samples=QUESTIONS, kinds=KINDS)
    samples = load_task("almanac")(seed, TOKENS, options, choice.backbone.encode)
    document = samples[0].document
    with folding([document]) as progress:
        memory = api.fold_documents([document], choice, progress)
    console = screen()
    if not as_json:
        _show_sizes(console, memory)
    responses = memory.ask_many([sample.question for sample in samples])
    right = [answered(sample, response.text) for sample, response in zip(samples, responses, strict=True)]
    seconds = time.perf_counter() - started
    if as_json:
        found = [_record(*each) for each in zip(samples, responses, right, strict=True)]
        print_json({"right": sum(right), "asked": len(right), "seconds": round(seconds, 2), "questions": found})
        return
    characters = len(document.read())
    for number, (sample, response, good) in enumerate(zip(samples, responses, right, strict=True), 1):
        _show(console, f"{number:2}", (sample, response, good), characters)
    console.print(f"\n[bold]{sum(right)} of {len(right)} right[/], {seconds:.0f} s in all\n\n{NEXT}")


def _show_sizes(console: Console, memory: FoldedMemory) -> None:
    backbone, folded = memory.choice.backbone, memory.memory
    tokens, slots = folded.token_count, folded.slot_count
    size, cache = 2 * slots * backbone.hidden_size, tokens * backbone.kv_bytes_per_token
    console.print(
        f"folded {tokens:,} tokens into {slots:,} slots in {memory.fold_seconds:.1f} s "
        f"({tokens / memory.fold_seconds:,.0f} tokens/s): {size / 1e6:.1f} MB, where a full KV cache takes "
        f"{cache / 1e6:.0f} MB"
    )
    console.print("the model now answers from the slots alone:\n", style="dim")


def _show(console: Console, number: str, asked: tuple[Sample, Response, bool], characters: int) -> None:
    """One question with what was recalled, the answer and its place in the text."""
    from memfold.cli.output import place

    sample, response, good = asked
    console.print(f"{number}  {sample.question}", style="bold", markup=False)
    if response.recalled:
        console.print(f"    recalled  {response.recalled}", style="italic", markup=False)
    verdict = "[green]right[/]" if good else f"[red]wrong[/], it is {sample.expected}"
    console.print(f"    answer    {response.text or response.error}  ", end="", markup=False)
    console.print(f"({verdict}; {sample.kind})")
    for citation in response.citations[:1]:
        at = f" (at {citation.start / characters:.0%} of the text)"
        console.print(f"    from      {place(citation)}{at}", style="dim", markup=False)


def _record(sample: Sample, response: Response, good: bool) -> dict[str, Any]:
    asked = {"question": sample.question, "answers": list(sample.answers), "kind": sample.kind, "right": good}
    return asked | response.record()
