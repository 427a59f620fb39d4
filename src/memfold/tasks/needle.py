"""Needle in a haystack, after RULER: sentences planted in filler or almanac text, and questions about them.

The kind of a needle is that of its value: a number, an invented word or a long code.  A UUID, a date and the name of a
person are for evaluation and have to be requested.  The tasks of RULER with its own sizes, for evaluation, are in
`ruler`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from uuid import UUID

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.almanac.page import lay_out
from memfold.tasks.almanac.questions import evidence
from memfold.tasks.almanac.relations import Relation
from memfold.tasks.almanac.world import BREAK_COST, Entity, Fact, TokenCounter, Unit, World, token_counter
from memfold.tasks.filler import sentence
from memfold.tasks.names import Namer, date, word
from memfold.tasks.task import Encode, TaskOptions

HELD_OUT_NAME_PROBABILITY = 0.5


def _needle(kind: str, noun: str) -> Relation:
    return Relation(
        key=kind,
        subject="key",
        value=kind,
        statements=(f"The secret {noun} of {{s}} is {{v}}.",),
        held_out_statement=f"Nobody but you knows that {{v}} is the secret {noun} of {{s}}.",
        pronoun_statements=(),
        questions=(f"What is the secret {noun} of {{s}}?", f"Which secret {noun} does {{s}} have?"),
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
    "number": _number,
    "word": _word,
    "code": _code,
    "uuid": _uuid,
    "date": date,
    "name": _name,
}


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
    """Questions about `options.samples` of at least `keys` needles, planted at `depth` (0-1, random if None).

    `haystack` is 'filler' or 'almanac'.
    """
    rng = Random(seed)
    counter = token_counter(encode)
    kinds = options.kinds or TRAINED
    needles = _needles(rng, max(keys, options.samples), kinds, options)
    room = size - sum(counter.count(fact.text) + BREAK_COST for fact in needles)
    units = _haystack(rng, room, haystack, options, counter)
    for fact in needles:
        fact_depth = rng.random() if depth is None else depth
        units.insert(round(fact_depth * len(units)), [fact])
    page = lay_out(rng, units, size, encode)
    document = Document(source=f"needle-{seed}", text=page.text)
    kept = set(page.facts)
    selected = [fact for fact in needles if fact in kept][: options.samples]
    return [_sample(rng, document, fact, options) for fact in selected]


def plant(rng: Random, sentences: Sequence[str], options: TaskOptions) -> list[str]:
    """Return the sentences of a text with one needle of `options.kinds` for every three of them, at random places."""
    planted = list(sentences)
    for fact in _needles(rng, -(-len(sentences) // 3), options.kinds, options):
        planted.insert(rng.randint(0, len(planted)), fact.text)
    return planted


def _needles(rng: Random, count: int, kinds: tuple[str, ...], options: TaskOptions) -> list[Fact]:
    namer = Namer(rng, options.level)
    facts = []
    for _ in range(count):
        kind = rng.choice(kinds)
        relation = NEEDLES[kind]
        out = options.split == "out"
        held_out = out and rng.random() < HELD_OUT_NAME_PROBABILITY
        name, bare = namer.name("key", held_out)
        template = relation.held_out_statement if out and not held_out else relation.statements[0]
        value = VALUES[kind](rng)
        subject = Entity("key", name, bare, "it", held_out)
        facts.append(Fact(subject, relation, value, None, template.format(s=name, v=value), out))
    return facts


def _haystack(rng: Random, room: float, kind: str, options: TaskOptions, counter: TokenCounter) -> list[Unit]:
    if kind == "almanac":
        world = World(rng, options.level, "in", counter)
        world.fill(room)
        if options.level >= 2:
            rng.shuffle(world.units)
        return world.units
    units: list[Unit] = []
    while True:
        text = sentence(rng)
        room -= counter.count(text) + BREAK_COST
        if room < 0:
            return units
        units.append(text)


def _sample(rng: Random, document: Document, fact: Fact, options: TaskOptions) -> Sample:
    spans, support = evidence([fact])
    return Sample(
        task="needle",
        document=document,
        question=rng.choice(fact.relation.questions).format(s=fact.subject.name),
        answers=(fact.value,),
        target=fact.value,
        evidence=spans,
        support=support,
        kind=fact.relation.key,
        hops=1,
        split=options.split,
        level=options.level,
    )
