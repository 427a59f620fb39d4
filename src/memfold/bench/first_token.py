"""Time and memory up to the first token of an answer: from a stored memory, with folding, and from the full text.

Appendix E of the pooled paper times stored memories.  Here each length has every layout of the memory that the system
knows, the time with folding, what counting operations predicts, and the number of questions from which on folding pays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from memfold.backbone.decode import generate
from memfold.backbone.model import Backbone
from memfold.bench.operations import encoding, prefill
from memfold.bench.text import QUESTION
from memfold.bench.timing import Action, PeakMemory, Report, count_of, ratio, rounds
from memfold.core.document import Document
from memfold.core.prompt import after_memory, user_message
from memfold.core.registry import REFERENCE, AnySystem
from memfold.core.system import Rendered
from memfold.core.types import BlockRef, Call, Memory, SamplingParams, Text
from memfold.session import Session

FULL_TEXT = REFERENCE  # the model reading the tokens themselves


def bench_first_token(
    session: Session, lengths: Sequence[int], warmups: int, runs: int, report: Report
) -> dict[str, Any]:
    """One entry for each length; `ratio` is the least share of the predicted ratio that any of them reaches."""
    peak = PeakMemory(session.model.weights())
    entries = []
    for length in lengths:
        entries.append(_length(session, length, count_of(length, warmups, runs), peak))
        report(_line(entries[-1]))
    shares = [found["share_of_predicted"] for entry in entries for found in entry["wrappers"].values()]
    return {"ratio": round(min(shares), 3), "lengths": entries}


def _length(session: Session, length: int, times: tuple[int, int], peak: PeakMemory) -> dict[str, Any]:
    backbone = session.model.weights()
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(backbone.model.config.get_text_config().vocab_size, (length,), generator=generator).tolist()
    document = Document("random", tokens=tuple(tokens))
    systems = session.system.layouts()
    default = next(iter(systems))
    memories = {layout: _fold(system, document, backbone) for layout, system in systems.items()}

    def stored(layout: str) -> None:
        _first(backbone, _rendered(systems[layout], memories[layout], backbone))

    def folded() -> None:
        _first(backbone, _rendered(systems[default], _fold(systems[default], document, backbone), backbone))

    def reference() -> None:
        _first(backbone, _plain([*tokens, *backbone.encode(after_memory(backbone.chat_template, QUESTION, "bare"))]))

    actions: dict[str, Action] = {name: partial(stored, name) for name in systems}
    actions |= {"folded": folded, FULL_TEXT: reference}
    memory = {name: peak.of(action) for name, action in actions.items()}
    seconds = rounds(actions, backbone, *times)
    question = len(backbone.encode(after_memory(backbone.chat_template, QUESTION, "bare")))
    whole = prefill(backbone, length + question)
    positions = {layout: len(_rendered(systems[layout], memories[layout], backbone).tokens) for layout in systems}
    found = {}
    for layout in systems:
        measured, predicted = ratio(seconds[FULL_TEXT], seconds[layout]), whole / prefill(backbone, positions[layout])
        found[layout] = {
            "positions": positions[layout],
            "measured": round(measured, 3),
            "predicted": round(predicted, 3),
            "share_of_predicted": round(measured / predicted, 3),
            "memory_share": _share(memory[layout], memory[FULL_TEXT]),
            "questions_until_it_pays": _pays(seconds, layout, default),
        }
    included = whole / (prefill(backbone, positions[default]) + encoding(backbone, systems[default].footprint(length)))
    return {
        "tokens": length,
        "wrappers": found,
        "with_folding": {
            "measured": round(ratio(seconds[FULL_TEXT], seconds["folded"]), 3),
            "predicted": round(included, 3),
            "memory_share": _share(memory["folded"], memory[FULL_TEXT]),
        },
        "seconds": {name: [round(value, 6) for value in values] for name, values in seconds.items()},
        "peak_bytes_above_weights": memory,
    }


@torch.no_grad()
def _fold(system: AnySystem, document: Document, backbone: Backbone) -> Memory:
    blocks = list(system.compress([document], backbone))
    return Memory("bench", system.name, system.settings, "", (document.source,), blocks)


def _rendered(system: AnySystem, memory: Memory, backbone: Backbone) -> Rendered:
    blocks = (BlockRef(memory.name, block.index) for block in memory.blocks)
    call = Call("answer", user_message(*blocks, Text(after_memory(backbone.chat_template, QUESTION, "bare"))))
    return system.render(memory, call, backbone)


def _plain(tokens: list[int]) -> Rendered:
    return Rendered(tokens, list(range(len(tokens))), (len(tokens),))


def _first(backbone: Backbone, rendered: Rendered) -> None:
    generate(backbone, [rendered], [SamplingParams(max_tokens=1)])


def _pays(seconds: dict[str, list[float]], layout: str, default: str) -> int | None:
    """Questions from which on folding once is faster than reading the text each time; None if it never is."""
    saved = median(seconds[FULL_TEXT]) - median(seconds[layout])
    cost = max(0.0, median(seconds["folded"]) - median(seconds[default]))
    return max(1, math.ceil(cost / saved)) if saved > 0 else None


def _share(part: int | None, whole: int | None) -> float | None:
    return round(part / whole, 3) if part is not None and whole else None


def _line(entry: dict[str, Any]) -> str:
    parts = [
        f"{name} {found['measured']:.1f}x (counted {found['predicted']:.1f}x)"
        for name, found in entry["wrappers"].items()
    ]
    return f"{entry['tokens']:,} tokens: {', '.join(parts)}, with folding {entry['with_folding']['measured']:.1f}x"
