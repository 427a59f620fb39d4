"""The almanac: a document about invented people, places and works, with questions that only the document can answer.

Level 0 has eight relations and one-word names.  Level 1 has all relations.  Level 2 adds pronouns, shuffled sentences,
and questions that need two hops, comparing, listing or counting.  Level 3 adds filler.  Split 'out' uses templates,
relations and name patterns that never occur in split 'in'.
"""

from __future__ import annotations

from random import Random

from memfold.core.document import Document
from memfold.core.errors import ConfigError, unknown
from memfold.core.types import Sample
from memfold.tasks.almanac.page import Page, lay_out
from memfold.tasks.almanac.questions import ALL_KINDS, HOPS, KINDS, Draft, QuestionGenerator, evidence
from memfold.tasks.almanac.world import BREAK_COST, Unit, World, token_counter
from memfold.tasks.filler import sentence
from memfold.tasks.task import Encode, TaskOptions

FILLER_FRACTION = 0.1  # the default at level 3
MAX_PAGES = 12  # how many are tried until one supports a question


def almanac(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """Questions about one document of at most `size` tokens: `options.samples`, or as many as the document supports.

    The target is the bare answer.  `answers` are the items of a listing, and the accepted answers of all other kinds.

    Raises:
        ConfigError: for an unknown kind, or for kinds that documents of this size and level do not support.
    """
    kinds = options.kinds or (KINDS if options.level >= 2 else KINDS[:1])
    for kind in kinds:
        if kind not in ALL_KINDS:
            raise unknown("kind of question", kind, ALL_KINDS)
    rng = Random(seed)
    drafts: list[Draft] = []
    for _ in range(MAX_PAGES):
        page = write(rng, size, options, encode)
        generator = QuestionGenerator(rng, page, options.level, options.split == "out")
        drafts = generator.draft(options.samples, kinds)
        if drafts:
            break
    else:
        raise ConfigError(
            f"documents of {size} tokens at level {options.level} have no question of kind {', '.join(kinds)}; use a "
            "larger size or level"
        )
    document = Document(source=f"almanac-{seed}", text=page.text)
    return [sample_of(draft, document, options) for draft in drafts]


def sample_of(draft: Draft, document: Document, options: TaskOptions, task: str = "almanac") -> Sample:
    """Return a question about a document with its evidence there."""
    spans, support = evidence(draft.facts)
    return Sample(
        task=task,
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


def write(rng: Random, size: int, options: TaskOptions, encode: Encode) -> Page:
    """Generate the page that the questions of `almanac` are about."""
    counter = token_counter(encode)
    budget = size * (options.filler or (FILLER_FRACTION if options.level >= 3 else 0.0))
    fillers: list[Unit] = []
    spent = 0.0
    while spent < budget:
        text = sentence(rng)
        spent += counter.count(text) + BREAK_COST
        fillers.append(text)
    if fillers and spent - budget > rng.random() * counter.typical:
        spent -= counter.count(str(fillers.pop())) + BREAK_COST
    world = World(rng, options.level, options.split, counter)
    world.fill(size - spent)
    if options.level >= 2:
        units = world.units + fillers
        rng.shuffle(units)
    else:
        units = _mixed(rng, world.units, fillers)
    return lay_out(rng, units, size, encode)


def _mixed(rng: Random, units: list[Unit], fillers: list[Unit]) -> list[Unit]:
    """The units in their order, with the fillers at random positions between them."""
    positions = sorted(rng.randrange(len(units) + 1) for _ in fillers)
    mixed: list[Unit] = []
    start = 0
    for position, filler in zip(positions, fillers, strict=True):
        mixed += units[start:position]
        mixed.append(filler)
        start = position
    return mixed + units[start:]
