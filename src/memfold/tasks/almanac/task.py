"""The almanac: a document about invented people, places and works, and questions that only the document answers.

Level 0 has eight relations and one-word names; level 1 all relations; level 2 adds pronouns, shuffled sentences and
questions of two hops, comparison, listing and counting; level 3 adds filler.  Split 'out' asks about templates,
relations and name shapes that split 'in' never shows.
"""

from __future__ import annotations

from random import Random

from memfold.core.document import Document
from memfold.core.errors import ConfigError, unknown
from memfold.core.types import Sample
from memfold.tasks.almanac.page import Page, lay_out
from memfold.tasks.almanac.questions import HOPS, KINDS, Asker, Draft, evidence
from memfold.tasks.almanac.world import BREAK_COST, Unit, World, meter
from memfold.tasks.filler import sentence
from memfold.tasks.task import Encode, TaskOptions

FILLER_SHARE = 0.1
MOST_PAGES = 12  # written until one has something to ask


def almanac(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """Questions about one document of at most `size` tokens; fewer than `options.samples` if it has no more to ask.

    The target is the bare answer.  For a listing `answers` are the items, for all other kinds the accepted strings.

    Raises:
        ConfigError: for an unknown kind, or kinds that documents of this size and level do not have.
    """
    kinds = options.kinds or (KINDS if options.level >= 2 else KINDS[:1])
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind of question", kind, KINDS)
    rng = Random(seed)
    drafts: list[Draft] = []
    for _ in range(MOST_PAGES):
        page = write(rng, size, options, encode)
        asker = Asker(rng, page, options.level, options.split == "out")
        drafts = asker.ask(options.samples, kinds)
        if drafts:
            break
    else:
        wanted = ", ".join(kinds)
        raise ConfigError(f"no question ({wanted}) in documents of {size} tokens at level {options.level}; use more")
    document = Document(source=f"almanac-{seed}", text=page.text)
    samples = []
    for draft in drafts:
        spans, support = evidence(draft.facts)
        samples.append(
            Sample(
                task="almanac",
                document=document,
                question=draft.question,
                answers=draft.answers,
                target=draft.target,
                evidence=spans,
                support=support,
                kind=draft.kind,
                hops=HOPS.get(draft.kind, 0),
                split=options.split,
                level=options.level,
            )
        )
    return samples


def write(rng: Random, size: int, options: TaskOptions, encode: Encode) -> Page:
    """The page that `almanac` asks about."""
    gauge = meter(encode)
    share = options.filler or (FILLER_SHARE if options.level >= 3 else 0.0)
    fillers: list[Unit] = []
    spent = 0.0
    while spent < share * size:
        text = sentence(rng)
        spent += gauge.count(text) + BREAK_COST
        fillers.append(text)
    if fillers and spent - share * size > rng.random() * gauge.typical:
        spent -= gauge.count(str(fillers.pop())) + BREAK_COST
    world = World(rng, options.level, options.split, gauge)
    world.fill(size - spent)
    if options.level >= 2:
        units = world.units + fillers
        rng.shuffle(units)
    else:
        units = _mixed(rng, world.units, fillers)
    return lay_out(rng, units, size, encode)


def _mixed(rng: Random, units: list[Unit], fillers: list[Unit]) -> list[Unit]:
    """The units in their order, with the fillers at random places between them."""
    places = sorted(rng.randrange(len(units) + 1) for _ in fillers)
    mixed: list[Unit] = []
    start = 0
    for place, filler in zip(places, fillers, strict=True):
        mixed += units[start:place]
        mixed.append(filler)
        start = place
    return mixed + units[start:]
