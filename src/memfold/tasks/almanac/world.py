"""Invents the entities and facts of one almanac document, sentence by sentence, until its token budget is spent.

Facts come in clusters: some entities of one type that share relations, so that every fact has distractors, and from
level 2 a second type that the first one links to, so that questions can take two steps.  Left out: the order and layout
of the sentences (`page`) and the questions (`questions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from memfold.tasks.almanac.people import PEOPLE
from memfold.tasks.almanac.places import RIVERS, TOWNS
from memfold.tasks.almanac.relations import TYPES, Relation
from memfold.tasks.almanac.works import BOOKS, GUILDS, SHIPS
from memfold.tasks.names import LITERALS, Namer
from memfold.tasks.task import Encode

RELATIONS: tuple[Relation, ...] = PEOPLE + TOWNS + RIVERS + BOOKS + GUILDS + SHIPS
BY_KEY = {relation.key: relation for relation in RELATIONS}
FIRST_KEYS = ("birthplace", "born", "sells", "seal", "founder", "founded", "population", "flag")
FIRST_HELD_OUT = ("married", "bell")
FIRST_TEMPLATES = 2

PRONOUN_SHARE = 0.5  # of the facts that could follow a sentence about the same entity
FAVOURITE_SHARE = 0.3  # how often all entities of a cluster link to the same one
OLD_ENTITY_SHARE = 0.3
HELD_OUT_NAME_SHARE = 0.4
HELD_OUT_TEMPLATE_SHARE = 0.5
HELD_OUT_RELATION_SHARE = 0.5
BREAK_COST = 0.3  # of a paragraph border, in tokens for each sentence
_PRONOUNS = {
    "he": {"He": "He", "he": "he", "him": "him", "his": "his", "His": "His"},
    "she": {"He": "She", "he": "she", "him": "her", "his": "her", "His": "Her"},
    "it": {},
}
_MOST_CACHED_WORDS = 200_000


@dataclass(eq=False, slots=True)
class Entity:
    """Something with a name; `name` is how sentences write it, `bare` without a type word."""

    type: str
    name: str
    bare: str
    pronoun: str
    held_out: bool
    facts: dict[str, Fact] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Fact:
    """One value of one relation of one entity, and the sentence that states it.

    `after` is the fact whose sentence names the subject when this one only has a pronoun.
    """

    subject: Entity
    relation: Relation
    value: str
    target: Entity | None
    text: str = ""
    held_out: bool = False
    after: Fact | None = None
    start: int = -1


# sentences that stay together: facts, or one filler sentence
Unit = list[Fact] | str


class Meter:
    """Counts tokens word by word and remembers words, since most of an almanac is the same few hundred of them."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._words: dict[str, int] = {}
        self.typical = self.count("Belo Tarsk was born in the town of Velmor.")

    def count(self, sentence: str) -> int:
        """Tokens of a sentence that follows a space, if no token reaches over a space."""
        words, total = self._words, 0
        for word in sentence.split(" "):
            count = words.get(word)
            if count is None:
                if len(words) > _MOST_CACHED_WORDS:
                    words.clear()
                count = words[word] = len(self._encode(" " + word))
            total += count
        return total


@lru_cache(maxsize=2)  # a bound method keeps its model alive
def meter(encode: Encode) -> Meter:
    """The meter of a tokenizer, kept from one document to the next."""
    return Meter(encode)


@lru_cache(maxsize=64)
def relations_of(kind: str, level: int, held_out: bool) -> tuple[Relation, ...]:
    """The relations of a type at a level: those for all, or those kept for split 'out'."""
    keys = FIRST_HELD_OUT if held_out else FIRST_KEYS
    return tuple(
        relation
        for relation in RELATIONS
        if relation.subject == kind and relation.held_out == held_out and (level > 0 or relation.key in keys)
    )


class World:
    """Builds facts into `units` until about `budget` tokens are used."""

    def __init__(self, rng: Random, level: int, split: str, gauge: Meter) -> None:
        self.units: list[Unit] = []
        self._rng = rng
        self._level = level
        self._out = split == "out"
        self._meter = gauge
        self._namer = Namer(rng, level)
        self._known: dict[str, list[Entity]] = {kind: [] for kind in TYPES}
        self._last: dict[Entity, list[Fact]] = {}
        self._types = [kind for kind in TYPES if relations_of(kind, level, False)]
        self.left = 0.0

    def fill(self, budget: float) -> None:
        """Add clusters of facts until no further sentence fits."""
        self.left = budget
        room = True
        while room:
            first = len(self.units)
            room = self._cluster(int(self.left / (self._meter.typical + BREAK_COST)))
            self._last.clear()
            if self._level < 2:
                self._group(first)

    def _cluster(self, room: int) -> bool:
        """One group of entities that share relations; False when the budget is spent."""
        rng = self._rng
        wanted = min(max(room, 1), rng.randint(12, 30))
        kind = rng.choice(self._types)
        links = [relation for relation in relations_of(kind, self._level, False) if relation.links]
        if self._level >= 2 and wanted >= 5 and links:
            return self._chained(kind, rng.choice(links), wanted)
        count = 2 if wanted <= 5 else rng.randint(2, 4)
        entities = [self._entity(kind) for _ in range(count)]
        chosen = self._relations(kind, -(-wanted // count), ())
        return self._state([(entity, relation, ()) for relation in chosen for entity in entities])

    def _chained(self, kind: str, link: Relation, wanted: int) -> bool:
        """Entities that link to entities of another type, both with facts of their own."""
        rng = self._rng
        small = wanted < 10
        ends = [self._entity(link.value) for _ in range(2 if small else rng.randint(2, 4))]
        favourite = rng.choice(ends) if not small and rng.random() < FAVOURITE_SHARE else None
        most = 6 if favourite else len(ends) + 1
        starts = [self._entity(kind) for _ in range(2 if small else rng.randint(2, most))]
        end_relations = self._relations(link.value, max(1, round(wanted * 0.45 / len(ends))), ())
        spare = wanted - len(starts) - len(ends) * len(end_relations)
        start_relations = self._relations(kind, -(-max(spare, 0) // len(starts)), (link,))
        plan: list[tuple[Entity, Relation, Sequence[Entity]]] = []
        for place, entity in enumerate(starts):
            plan.append((entity, link, (favourite or ends[place % len(ends)],)))
        plan += [(entity, relation, ()) for relation in end_relations for entity in ends]
        plan += [(entity, relation, ()) for relation in start_relations for entity in starts]
        return self._state(plan)

    def _relations(self, kind: str, count: int, without: Sequence[Relation]) -> list[Relation]:
        rng = self._rng
        pool = [relation for relation in relations_of(kind, self._level, False) if relation not in without]
        chosen = rng.sample(pool, min(count, len(pool)))
        if self._out and chosen and rng.random() < HELD_OUT_RELATION_SHARE:
            kept = relations_of(kind, self._level, True)
            chosen = [*kept, *chosen][: len(chosen)]
        return chosen

    def _entity(self, kind: str) -> Entity:
        rng = self._rng
        held_out = self._out and rng.random() < HELD_OUT_NAME_SHARE
        name, bare = self._namer.name(kind, held_out)
        pronoun = ("he", "she")[rng.random() < 0.5] if kind == "person" else "it"
        entity = Entity(kind, name, bare, pronoun, held_out)
        self._known[kind].append(entity)
        return entity

    def _state(self, plan: Sequence[tuple[Entity, Relation, Sequence[Entity]]]) -> bool:
        for entity, relation, targets in plan:
            if relation.key in entity.facts:
                continue
            target = self._target(entity, relation, targets) if relation.links else None
            if relation.links and target is None:
                continue
            value = target.name if target else LITERALS[relation.value](self._rng)
            if not self._write(Fact(entity, relation, value, target)):
                return False
        return True

    def _target(self, entity: Entity, relation: Relation, targets: Sequence[Entity]) -> Entity | None:
        choices = [target for target in targets if target is not entity]
        if choices:
            return self._rng.choice(choices)
        known = self._known[relation.value]
        if self._level >= 2 and known and self._rng.random() < OLD_ENTITY_SHARE:
            target = self._rng.choice(known)
            return None if target is entity else target
        return self._entity(relation.value)

    def _write(self, fact: Fact) -> bool:
        """State a fact in a sentence that fits, the longest of its sentences if the first choice does not."""
        before = self._last.get(fact.subject)
        if before and self._level >= 2 and self._rng.random() < PRONOUN_SHARE and _clear(before[0]):
            fact.after = before[0]
            options: Sequence[str] = fact.relation.pronoun
        else:
            options = self._statements(fact.relation)
        self._phrase(fact, self._rng.choice(options))
        cost = self._meter.count(fact.text) + BREAK_COST
        if cost > self.left:
            cost = self._longest_fit(fact, options)
            if cost > self.left:
                return False
        self.left -= cost
        fact.subject.facts[fact.relation.key] = fact
        if fact.after and before:
            before.append(fact)
        else:
            self._last[fact.subject] = unit = [fact]
            self.units.append(unit)
        return True

    def _longest_fit(self, fact: Fact, options: Sequence[str]) -> float:
        costs = []
        for option in options:
            self._phrase(fact, option)
            costs.append((self._meter.count(fact.text) + BREAK_COST, option))
        cost, option = max((pair for pair in costs if pair[0] <= self.left), default=min(costs))
        self._phrase(fact, option)
        return cost

    def _statements(self, relation: Relation) -> Sequence[str]:
        if self._out and self._rng.random() < HELD_OUT_TEMPLATE_SHARE:
            return (relation.unseen,)
        return relation.says[:FIRST_TEMPLATES] if self._level == 0 else relation.says

    def _phrase(self, fact: Fact, template: str) -> None:
        subject, relation = fact.subject, fact.relation
        text = template.format(s=subject.name, v=fact.value, **_PRONOUNS[subject.pronoun])
        fact.text = text[0].upper() + text[1:]
        target_held_out = fact.target is not None and fact.target.held_out
        fact.held_out = relation.held_out or template == relation.unseen or subject.held_out or target_held_out

    def _group(self, first: int) -> None:
        """Put the sentences of each entity of the newest cluster together (levels 0 and 1)."""
        groups: dict[Entity, list[Unit]] = {}
        for unit in self.units[first:]:
            assert not isinstance(unit, str)
            groups.setdefault(unit[0].subject, []).append(unit)
        blocks = list(groups.values())
        self._rng.shuffle(blocks)
        for block in blocks:
            if self._level == 1:
                self._rng.shuffle(block)
        self.units[first:] = [unit for block in blocks for unit in block]


def _clear(naming: Fact) -> bool:
    """Whether a pronoun after this sentence can only mean its subject."""
    if naming.target is None:
        return True
    return (naming.target.type == "person") != (naming.subject.type == "person")
