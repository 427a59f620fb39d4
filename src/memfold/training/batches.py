"""The batches of a stage: a pure function of the recipe and the micro-batch number.

Nothing is remembered from batch to batch, so a resumed run sees exactly what an unbroken one does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from random import Random
from typing import Any, TypeVar

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.prompt import Style
from memfold.core.registry import make_system, setting_names
from memfold.core.system import MemorySystem
from memfold.core.types import Sample, Step, Text, Trace
from memfold.tasks.table import load_task
from memfold.tasks.task import TaskOptions
from memfold.training.presets import paper_mixture
from memfold.training.recipe import Entry, Recipe, Share, StageRecipe

AnyEntry = TypeVar("AnyEntry", bound=Entry)
GOLDEN = 0.6180339887498949
MOST_DOCUMENTS = 512


@dataclass(frozen=True)
class Batch:
    """Documents with their traces, all of one mixture entry, ready for `logprobs`."""

    share: Share
    system: MemorySystem
    scored: list[tuple[Document, list[Trace]]]
    tokens: int


def mixture(recipe: Recipe) -> tuple[Share, ...]:
    """The entries of a recipe, its own or its preset's."""
    return paper_mixture(recipe.stage) if recipe.preset else recipe.mixture


def batch(recipe: Recipe, backbone: Backbone, number: int, purpose: str = "train", share: Share | None = None) -> Batch:
    """Micro-batch `number`; `purpose` separates training from validation seeds, `share` picks the mixture entry.

    All devices of a recipe are at the same entry at a time.
    """
    rng = Random(seed_of(recipe.seed, purpose, number))
    share = share or choose(mixture(recipe), number // recipe.hardware.devices)
    size = rng.choice(share.sizes)
    ratio = rng.choice(share.ratios)
    drawn = {"ratio": ratio, "gap": draw_gap(rng, share.gap), "draw": _draw(recipe, purpose, number)}
    system = system_of(share, recipe, backbone, drawn)
    options = TaskOptions(share.level, "in", share.samples, share.kinds, share.bridges, ratio, share.filler,
                          share.files, share.dataset, purpose != "train")  # fmt: skip
    task = load_task(share.task)
    scored: list[tuple[Document, list[Trace]]] = []
    tokens = 0
    while tokens < recipe.tokens and len(scored) < MOST_DOCUMENTS:
        samples = task(rng.getrandbits(40), size, options, backbone.encode)
        for _, same in groupby(samples, key=lambda sample: id(sample.document)):
            document, traces = _script(list(same), system, backbone, share, rng)
            scored.append((document, traces))
            tokens += _cost(document, traces, system.settings.get("ratio", 0))
    return Batch(share, system, scored, tokens)


def system_of(entry: Entry, recipe: StageRecipe, backbone: Backbone, drawn: dict[str, Any]) -> MemorySystem:
    """The system of an entry, with those of the recipe's settings and of what was drawn that it has."""
    has = setting_names(entry.system)
    settings = recipe.settings | drawn | {"chat_template": recipe.chat_template}
    return make_system(entry.system, backbone, {key: value for key, value in settings.items() if key in has})


def _script(samples: Sequence[Sample], system: MemorySystem, backbone: Backbone, share: Share,
            rng: Random) -> tuple[Document, list[Trace]]:  # fmt: skip
    """Tokenise the document once and write the traces of its samples."""
    document = samples[0].document
    if document.tokens is None:
        document = replace(document, tokens=tuple(backbone.encode(document.read())))
    traces: list[Trace] = []
    for sample in samples:
        style = _style(share, rng)
        recall = style != "free" or rng.random() < 0.5
        traces.append(system.script(replace(sample, document=document, recall=recall), backbone, style))
    return document, _once(traces)


def _style(share: Share, rng: Random) -> Style:
    point = rng.random()
    if point < share.recall:
        return "recall"
    return "free" if point < share.recall + share.free else "bare"


def _once(traces: Sequence[Trace]) -> list[Trace]:
    """The traces without the steps of an earlier one: all read the same document, its plain reading is scored once."""
    seen: set[Step] = set()
    kept = []
    for trace in traces:
        kept.append(replace(trace, steps=tuple(step for step in trace.steps if step not in seen)))
        seen.update(trace.steps)
    return kept


def choose(entries: Sequence[AnyEntry], number: int) -> AnyEntry:
    """Entries in their shares, evenly spread: the golden ratio sequence over the cumulated shares."""
    total = sum(share.share for share in entries)
    point = (number * GOLDEN) % 1.0 * total
    for share in entries:
        point -= share.share
        if point < 0:
            return share
    return entries[-1]


def draw_gap(rng: Random, most: int) -> int:
    """None in half of the batches, else up to `most`, every order of magnitude as often."""
    far = rng.random() < 0.5
    return round(most ** rng.random()) if most and far else 0


def _draw(recipe: Recipe, purpose: str, number: int) -> int:
    """Which random positions slots take, where a recipe wants them; none in validation, which is as use is."""
    wanted = purpose == "train" and recipe.settings.get("positions") == "randomised"
    return 1 + seed_of(recipe.seed, "positions", number) % (1 << 31) if wanted else 0


def _cost(document: Document, traces: Sequence[Trace], ratio: int) -> int:
    """About how many places the model runs over: the document (encoded or read) and what follows it."""
    length = len(document.tokens or ())
    cost = length + (length // ratio + 2 if ratio else 0)
    for trace in traces:
        for step in (step for step in trace.steps if step.call.trained and step.call.purpose != "language"):
            parts = (part for part in step.call.parts[-2:] if isinstance(part, Text))
            texts = (len(part.tokens) if part.tokens is not None else len(part.text) // 4 for part in parts)
            cost += len(step.reply.tokens) + sum(count for count in texts if count < 64)
        if not length:
            cost += sum(len(step.reply.tokens) for step in trace.steps)
    return cost


def seed_of(*values: object) -> int:
    """A seed from what it stands for."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:8], "big")
