"""Generates the entities and facts of one almanac document, sentence by sentence, until its token budget is used up.

Facts come in clusters.  A cluster has several entities of one type with the same relations, so that every fact has
distractors.  From level 2 on it also has entities of a second type that the first ones link to, so that questions can
have two hops.  The layout of the sentences is in `page`, the questions are in `questions`.
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
FIRST_KEYS = ("birthplace", "born", "sells", "seal", "founder", "founded", "population", "flag")
FIRST_HELD_OUT = ("married", "bell")
FIRST_TEMPLATES = 2

PRONOUN_PROBABILITY = 0.5  # that a fact follows an earlier sentence about its entity, where it can
SHARED_TARGET_PROBABILITY = 0.3  # that all entities of a cluster link to the same entity
KNOWN_TARGET_PROBABILITY = 0.3  # that a link goes to an entity that was mentioned before
HELD_OUT_NAME_PROBABILITY = 0.4
HELD_OUT_TEMPLATE_PROBABILITY = 0.5
HELD_OUT_RELATION_PROBABILITY = 0.5
BREAK_COST = 0.3  # tokens for paragraph breaks, per sentence
_PRONOUNS = {
    "he": {"He": "He", "he": "he", "him": "him", "his": "his", "His": "His"},
    "she": {"He": "She", "he": "she", "him": "her", "his": "her", "His": "Her"},
    "it": {},
}
_MAX_CACHED_WORDS = 200_000


@dataclass(eq=False, slots=True)
class Entity:
    """Something with a name: `name` as sentences write it, `bare` without a type word such as 'river'."""

    type: str
    name: str
    bare: str
    pronoun: str
    held_out: bool
    facts: dict[str, Fact] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Fact:
    """The value of a relation for an entity, and the sentence that states it.

    If the sentence has only a pronoun for the subject, `after` is the fact whose sentence names it.
    """

    subject: Entity
    relation: Relation
    value: str
    target: Entity | None
    text: str = ""
    held_out: bool = False
    after: Fact | None = None
    start: int = -1


# sentences that stay together: those of some facts, or one filler sentence
Unit = list[Fact] | str


class TokenCounter:
    """Counts tokens word by word with a cache, because an almanac consists mostly of the same few hundred words."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._words: dict[str, int] = {}
        self.typical = self.count("Belo Tarsk was born in the town of Velmor.")

    def count(self, sentence: str) -> int:
        """The number of tokens of a sentence that follows a space, if no token contains an inner space."""
        words, total = self._words, 0
        for word in sentence.split(" "):
            count = words.get(word)
            if count is None:
                if len(words) > _MAX_CACHED_WORDS:
                    words.clear()
                count = words[word] = len(self._encode(" " + word))
            total += count
        return total


@lru_cache(maxsize=2)  # small, because a bound method keeps its model alive
def token_counter(encode: Encode) -> TokenCounter:
    """The counter of a tokenizer, cached between documents."""
    return TokenCounter(encode)


@lru_cache(maxsize=64)
def relations_of(kind: str, level: int, held_out: bool) -> tuple[Relation, ...]:
    """The relations of a type at a level: the ordinary ones, or the ones held out for split 'out'."""
    keys = FIRST_HELD_OUT if held_out else FIRST_KEYS
    return tuple(
        relation
        for relation in RELATIONS
        if relation.subject == kind and relation.held_out == held_out and (level > 0 or relation.key in keys)
    )


class World:
    """Generates facts and collects their sentences in `units`."""

    def __init__(self, rng: Random, level: int, split: str, counter: TokenCounter) -> None:
        self.units: list[Unit] = []
        self._rng = rng
        self._level = level
        self._out = split == "out"
        self._counter = counter
        self._namer = Namer(rng, level)
        self._known: dict[str, list[Entity]] = {kind: [] for kind in TYPES}
        self._last: dict[Entity, list[Fact]] = {}
        self._types = [kind for kind in TYPES if relations_of(kind, level, False)]
        self.left = 0.0

    def fill(self, budget: float) -> None:
        """Add clusters of facts until the next sentence does not fit into `budget` tokens."""
        self.left = budget
        room = True
        while room:
            first = len(self.units)
            room = self._cluster(int(self.left / (self._counter.typical + BREAK_COST)))
            self._last.clear()
            if self._level < 2:
                self._group(first)

    def _cluster(self, room: int) -> bool:
        """Add a cluster, of `room` facts at most; False if the budget is used up."""
        rng = self._rng
        count = min(max(room, 1), rng.randint(12, 30))
        kind = rng.choice(self._types)
        links = [relation for relation in relations_of(kind, self._level, False) if relation.is_link]
        if self._level >= 2 and count >= 5 and links:
            return self._linked_cluster(kind, rng.choice(links), count)
        entities = [self._entity(kind) for _ in range(2 if count <= 5 else rng.randint(2, 4))]
        chosen = self._relations(kind, -(-count // len(entities)), ())
        return self._state([(entity, relation, ()) for relation in chosen for entity in entities])

    def _linked_cluster(self, kind: str, link: Relation, count: int) -> bool:
        """Add entities that link to entities of another type, and further facts about both."""
        rng = self._rng
        small = count < 10
        targets = [self._entity(link.value) for _ in range(2 if small else rng.randint(2, 4))]
        shared = rng.choice(targets) if not small and rng.random() < SHARED_TARGET_PROBABILITY else None
        most = 6 if shared else len(targets) + 1
        subjects = [self._entity(kind) for _ in range(2 if small else rng.randint(2, most))]
        target_relations = self._relations(link.value, max(1, round(count * 0.45 / len(targets))), ())
        left = count - len(subjects) - len(targets) * len(target_relations)
        subject_relations = self._relations(kind, -(-max(left, 0) // len(subjects)), (link,))
        plan: list[tuple[Entity, Relation, Sequence[Entity]]] = []
        for index, subject in enumerate(subjects):
            plan.append((subject, link, (shared or targets[index % len(targets)],)))
        plan += [(entity, relation, ()) for relation in target_relations for entity in targets]
        plan += [(entity, relation, ()) for relation in subject_relations for entity in subjects]
        return self._state(plan)

    def _relations(self, kind: str, count: int, without: Sequence[Relation]) -> list[Relation]:
        rng = self._rng
        pool = [relation for relation in relations_of(kind, self._level, False) if relation not in without]
        chosen = rng.sample(pool, min(count, len(pool)))
        if self._out and chosen and rng.random() < HELD_OUT_RELATION_PROBABILITY:
            held_out = relations_of(kind, self._level, True)
            chosen = [*held_out, *chosen][: len(chosen)]
        return chosen

    def _entity(self, kind: str) -> Entity:
        rng = self._rng
        held_out = self._out and rng.random() < HELD_OUT_NAME_PROBABILITY
        name, bare = self._namer.name(kind, held_out)
        pronoun = ("he", "she")[rng.random() < 0.5] if kind == "person" else "it"
        entity = Entity(kind, name, bare, pronoun, held_out)
        self._known[kind].append(entity)
        return entity

    def _state(self, plan: Sequence[tuple[Entity, Relation, Sequence[Entity]]]) -> bool:
        """State a fact for each subject, relation and possible targets; False if the budget is used up."""
        for entity, relation, targets in plan:
            if relation.key in entity.facts:
                continue
            target = self._target(entity, relation, targets) if relation.is_link else None
            if relation.is_link and target is None:
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
        if self._level >= 2 and known and self._rng.random() < KNOWN_TARGET_PROBABILITY:
            target = self._rng.choice(known)
            return None if target is entity else target
        return self._entity(relation.value)

    def _write(self, fact: Fact) -> bool:
        """State a fact in a random sentence or, if that does not fit, in the longest one that does."""
        before = self._last.get(fact.subject)
        if before and self._level >= 2 and self._rng.random() < PRONOUN_PROBABILITY and _unambiguous(before[0]):
            fact.after = before[0]
            templates: Sequence[str] = fact.relation.pronoun_statements
        else:
            templates = self._statements(fact.relation)
        self._word(fact, self._rng.choice(templates))
        cost = self._counter.count(fact.text) + BREAK_COST
        if cost > self.left:
            cost = self._longest_fit(fact, templates)
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

    def _longest_fit(self, fact: Fact, templates: Sequence[str]) -> float:
        """Word a fact by the longest template that fits, or by the shortest if none does; the cost in tokens."""
        costs = []
        for template in templates:
            self._word(fact, template)
            costs.append((self._counter.count(fact.text) + BREAK_COST, template))
        cost, template = max((pair for pair in costs if pair[0] <= self.left), default=min(costs))
        self._word(fact, template)
        return cost

    def _statements(self, relation: Relation) -> Sequence[str]:
        if self._out and self._rng.random() < HELD_OUT_TEMPLATE_PROBABILITY:
            return (relation.held_out_statement,)
        return relation.statements[:FIRST_TEMPLATES] if self._level == 0 else relation.statements

    def _word(self, fact: Fact, template: str) -> None:
        """Set the sentence of a fact."""
        subject, relation = fact.subject, fact.relation
        text = template.format(s=subject.name, v=fact.value, **_PRONOUNS[subject.pronoun])
        fact.text = text[0].upper() + text[1:]
        held_out_entity = subject.held_out or (fact.target is not None and fact.target.held_out)
        fact.held_out = relation.held_out or template == relation.held_out_statement or held_out_entity

    def _group(self, first: int) -> None:
        """Group the sentences of the newest cluster by entity (levels 0 and 1)."""
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


def _unambiguous(fact: Fact) -> bool:
    """Whether a pronoun after the sentence of a fact can only refer to its subject."""
    if fact.target is None:
        return True
    return (fact.target.type == "person") != (fact.subject.type == "person")
