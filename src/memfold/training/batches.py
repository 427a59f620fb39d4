"""The batches of a stage: a pure function of the recipe and the micro-batch number.

No state is carried between batches, so a resumed run sees the same batches as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from random import Random
from typing import TypeVar

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.prompt import Style
from memfold.core.registry import AnySystem, make_system
from memfold.core.types import Sample, Step, Text, Trace
from memfold.tasks.table import load_task
from memfold.training.presets import paper_mixture
from memfold.training.recipe import Entry, Recipe, SupervisedEntry

AnyEntry = TypeVar("AnyEntry", bound=Entry)
GOLDEN = 0.6180339887498949
MOST_DOCUMENTS = 512


@dataclass(frozen=True)
class Batch:
    """Documents with their traces, all of one mixture entry, ready for `logprobs`."""

    entry: SupervisedEntry
    system: AnySystem
    scored: list[tuple[Document, list[Trace]]]
    tokens: int


def mixture(recipe: Recipe) -> tuple[SupervisedEntry, ...]:
    """Return the entries of a recipe, its own or its preset's."""
    return paper_mixture(recipe.stage) if recipe.preset else recipe.mixture


def batch(
    recipe: Recipe, backbone: Backbone, number: int, purpose: str = "train", entry: SupervisedEntry | None = None
) -> Batch:
    """Return micro-batch `number`.

    `purpose` keeps the seeds of training and validation apart; `entry` is a mixture entry to use instead of the one
    that the number selects.  All devices of a recipe work on the same entry at a time.
    """
    rng = Random(seed_of(recipe.seed, purpose, number))
    entry = entry or choose(mixture(recipe), number // recipe.hardware.devices)
    size = rng.choice(entry.sizes)
    layout = seed_of(recipe.seed, "positions", number) if purpose == "train" else None
    system = make_system(entry.system, backbone, recipe.system_settings(entry)).draw(rng, layout)
    options = entry.options(system.ratio, held_out=purpose != "train")
    task = load_task(entry.task)
    scored: list[tuple[Document, list[Trace]]] = []
    tokens = 0
    while tokens < recipe.tokens and len(scored) < MOST_DOCUMENTS:
        samples = task(rng.getrandbits(40), size, options, backbone.encode)
        for _, same in groupby(samples, key=lambda sample: id(sample.document)):
            document, traces = _script(list(same), system, backbone, entry, rng)
            scored.append((document, traces))
            tokens += _cost(document, traces, system.ratio or 0)
    return Batch(entry, system, scored, tokens)


def _script(
    samples: Sequence[Sample], system: AnySystem, backbone: Backbone, entry: SupervisedEntry, rng: Random
) -> tuple[Document, list[Trace]]:
    """Tokenise the document once and script the traces of its samples."""
    document = samples[0].document
    if document.tokens is None:
        document = replace(document, tokens=tuple(backbone.encode(document.read())))
    traces: list[Trace] = []
    for sample in samples:
        style = _style(entry, rng)
        recall = style != "free" or rng.random() < 0.5
        traces.append(system.script(replace(sample, document=document, recall=recall), backbone, style))
    return document, _without_repeated_steps(traces)


def _style(entry: SupervisedEntry, rng: Random) -> Style:
    point = rng.random()
    if point < entry.recall:
        return "recall"
    return "free" if point < entry.recall + entry.free else "bare"


def _without_repeated_steps(traces: Sequence[Trace]) -> list[Trace]:
    """Return the traces without steps of earlier ones, so that language modelling of a document is scored once."""
    seen: set[Step] = set()
    kept = []
    for trace in traces:
        kept.append(replace(trace, steps=tuple(step for step in trace.steps if step not in seen)))
        seen.update(trace.steps)
    return kept


def choose(entries: Sequence[AnyEntry], number: int) -> AnyEntry:
    """Return the entry of a number: entries occur in proportion to their weights, spread by a golden-ratio sequence."""
    total = sum(entry.weight for entry in entries)
    point = (number * GOLDEN) % 1.0 * total
    for entry in entries:
        point -= entry.weight
        if point < 0:
            return entry
    return entries[-1]


def _cost(document: Document, traces: Sequence[Trace], ratio: int) -> int:
    """Return about how many positions the model runs over: the document (encoded or read) and what follows it."""
    length = len(document.tokens or ())
    cost = length + (length // ratio + 2 if ratio else 0)
    for trace in traces:
        for step in (step for step in trace.steps if step.call.trained and step.call.purpose != "language"):
            parts = [part for part in step.call.parts if isinstance(part, Text)]
            texts = (len(part.tokens) if part.tokens is not None else len(part.text) // 4 for part in parts[-2:])
            cost += len(step.reply.tokens) + sum(count for count in texts if count < 64)
        if not length:
            cost += sum(len(step.reply.tokens) for step in trace.steps)
    return cost


def seed_of(*values: object) -> int:
    """Return a seed derived from the values that identify its use."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:8], "big")
