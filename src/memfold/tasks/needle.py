"""Needles in a haystack, after RULER: planted sentences in filler or almanac text, and questions about them.

Kinds are those of the value: a number, an invented word, a long code; and for evaluation alone, drawn only where they
are asked for, a UUID, a date, or the name of a person.  Left out: RULER's tracking and aggregation tasks; the almanac's
two-hop and counting questions stand for them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from uuid import UUID

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.almanac.page import lay_out
from memfold.tasks.almanac.questions import evidence
from memfold.tasks.almanac.relations import Relation
from memfold.tasks.almanac.world import BREAK_COST, Entity, Fact, Meter, Unit, World, meter
from memfold.tasks.filler import sentence
from memfold.tasks.names import Namer, date, word
from memfold.tasks.task import Encode, TaskOptions

HELD_OUT_NAME_SHARE = 0.5


def _needle(kind: str, noun: str) -> Relation:
    return Relation(
        kind,
        "key",
        kind,
        says=(f"The secret {noun} of {{s}} is {{v}}.",),
        unseen=f"Nobody but you knows that {{v}} is the secret {noun} of {{s}}.",
        pronoun=(),
        asks=(f"What is the secret {noun} of {{s}}?", f"Which secret {noun} does {{s}} have?"),
    )


NOUNS = {"number": "number", "word": "word", "code": "code", "uuid": "identifier", "date": "date", "name": "name"}
NEEDLES = {kind: _needle(kind, noun) for kind, noun in NOUNS.items()}
TRAINED = ("number", "word", "code")


def _number(rng: Random) -> str:
    return str(rng.randrange(1_000_000, 10_000_000))


def _word(rng: Random) -> str:
    return word(rng, 3).lower()


def _code(rng: Random) -> str:
    return "-".join(f"{rng.randrange(1 << 16):04x}" for _ in range(4))


def _uuid(rng: Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def _name(rng: Random) -> str:
    return f"{word(rng, 2)} {word(rng, 2)}"


VALUES: dict[str, Callable[[Random], str]] = {
    "number": _number, "word": _word, "code": _code, "uuid": _uuid, "date": date, "name": _name,
}  # fmt: skip


def needle(
    seed: int,
    size: int,
    options: TaskOptions,
    encode: Encode,
    *,
    keys: int = 1,
    depth: float | None = None,
    haystack: str = "filler",
) -> list[Sample]:
    """Questions about `options.samples` needles among `keys` or more, planted at `depth` (0-1, random if None).

    `haystack` is 'filler' or 'almanac'.
    """
    rng = Random(seed)
    gauge = meter(encode)
    kinds = options.kinds or TRAINED
    planted = _plant(rng, max(keys, options.samples), kinds, options)
    room = size - sum(gauge.count(fact.text) + BREAK_COST for fact in planted)
    units = _hay(rng, room, haystack, options, gauge)
    for fact in planted:
        place = rng.random() if depth is None else depth
        units.insert(round(place * len(units)), [fact])
    page = lay_out(rng, units, size, encode)
    document = Document(source=f"needle-{seed}", text=page.text)
    standing = set(page.facts)
    asked = [fact for fact in planted if fact in standing][: options.samples]
    return [_sample(rng, document, fact, options) for fact in asked]


def _plant(rng: Random, count: int, kinds: tuple[str, ...], options: TaskOptions) -> list[Fact]:
    namer = Namer(rng, options.level)
    facts = []
    for _ in range(count):
        kind = rng.choice(kinds)
        relation = NEEDLES[kind]
        out = options.split == "out"
        held_out = out and rng.random() < HELD_OUT_NAME_SHARE
        name, bare = namer.name("key", held_out)
        template = relation.unseen if out and not held_out else relation.says[0]
        value = VALUES[kind](rng)
        subject = Entity("key", name, bare, "it", held_out)
        facts.append(Fact(subject, relation, value, None, template.format(s=name, v=value), out))
    return facts


def _hay(rng: Random, room: float, haystack: str, options: TaskOptions, gauge: Meter) -> list[Unit]:
    if haystack == "almanac":
        world = World(rng, options.level, "in", gauge)
        world.fill(room)
        if options.level >= 2:
            rng.shuffle(world.units)
        return world.units
    units: list[Unit] = []
    while True:
        text = sentence(rng)
        room -= gauge.count(text) + BREAK_COST
        if room < 0:
            return units
        units.append(text)


def _sample(rng: Random, document: Document, fact: Fact, options: TaskOptions) -> Sample:
    spans, support = evidence([fact])
    return Sample(
        task="needle",
        document=document,
        question=rng.choice(fact.relation.asks).format(s=fact.subject.name),
        answers=(fact.value,),
        target=fact.value,
        evidence=spans,
        support=support,
        kind=fact.relation.key,
        hops=1,
        split=options.split,
        level=options.level,
    )
