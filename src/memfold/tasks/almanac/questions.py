"""Generates questions about the facts of a page: one hop, two hops, comparison, listing and counting.

Every question has exactly one correct answer on its page and does not contain it.  No two questions about a document
have the same answer fact.  Questions of kind `absent`, which have to be requested, are about something that the page
does not state: another relation of a thing on the page, or a thing that is not on it.  Their answer is `ABSENT`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from memfold.core.prompt import ABSENT
from memfold.core.types import Span
from memfold.tasks.almanac.page import Page
from memfold.tasks.almanac.relations import Relation
from memfold.tasks.almanac.world import Entity, Fact, relations_of
from memfold.tasks.names import Namer

KINDS = ("one-hop", "two-hop", "comparison", "listing", "counting")
ABSENT_KIND = "absent"
ALL_KINDS = (*KINDS, ABSENT_KIND)
WEIGHTS = {"one-hop": 0.5, "two-hop": 0.35, "comparison": 0.06, "listing": 0.06, "counting": 0.03, ABSENT_KIND: 0.1}
STRANGER_PROBABILITY = 0.4  # that an absent question is about something that is not on the page
HOPS = {"one-hop": 1, "two-hop": 2}
MIN_ITEMS, MAX_ITEMS = 2, 6  # of listings and counts


@dataclass(frozen=True)
class Draft:
    """A question, its answers, the facts that it needs, and keys for what no other question may use as its answer."""

    kind: str
    question: str
    answers: tuple[str, ...]
    target: str
    facts: tuple[Fact, ...]
    keys: tuple[object, ...]


class QuestionGenerator:
    """Generates questions about one page; with `held_out`, only those about something held out for split 'out'."""

    def __init__(self, rng: Random, page: Page, level: int, held_out: bool) -> None:
        self._rng = rng
        self._facts = page.facts
        self._text = page.text
        self._level = level
        self._held_out = held_out
        self._used: set[object] = set()
        self._by_subject: dict[Entity, list[Fact]] = defaultdict(list)
        self._by_target: dict[Entity, list[Fact]] = defaultdict(list)
        self._by_relation: dict[str, list[Fact]] = defaultdict(list)
        self._groups: dict[tuple[str, Entity], list[Fact]] = defaultdict(list)
        for fact in page.facts:
            self._by_subject[fact.subject].append(fact)
            self._by_relation[fact.relation.key].append(fact)
            if fact.target:
                self._by_target[fact.target].append(fact)
                self._groups[fact.relation.key, fact.target].append(fact)

    def draft(self, count: int, kinds: Sequence[str]) -> list[Draft]:
        """Up to `count` questions of these kinds; fewer if the page does not support more.

        Questions of one or two hops replace those of a kind that the page does not support.
        """
        order = list(self._facts)
        self._rng.shuffle(order)
        sources = {kind: self._drafts(kind, order) for kind in kinds}
        common = [kind for kind in HOPS if kind in sources] or list(sources)
        drafts: list[Draft] = []
        for first in self._rng.choices(list(sources), [WEIGHTS[kind] for kind in sources], k=count):
            draft = next((draft for kind in (first, *common) for draft in sources[kind]), None)
            if draft is None:
                break
            self._used.update(draft.keys)
            drafts.append(draft)
        return drafts

    def _drafts(self, kind: str, order: Sequence[Fact]) -> Iterator[Draft]:
        make = {
            "one-hop": self._one_hop,
            "two-hop": self._two_hop,
            "comparison": self._comparison,
            "listing": self._listing,
            "counting": self._counting,
            ABSENT_KIND: self._absent,
        }[kind]
        for fact in order:
            draft = make(fact)
            if draft and self._fits(draft):
                yield draft

    def _fits(self, draft: Draft) -> bool:
        if not self._used.isdisjoint(draft.keys) or any(answer in draft.question for answer in draft.answers):
            return False
        return not self._held_out or not draft.facts or any(fact.held_out for fact in draft.facts)

    def _wording(self, relation: Relation, subject: str) -> str:
        templates = relation.questions[:1] if self._level == 0 else relation.questions
        text = self._rng.choice(templates).format(s=subject)
        return text[0].upper() + text[1:]

    def _about_value(self, kind: str, fact: Fact, subject: str, facts: tuple[Fact, ...]) -> Draft:
        """A question for the value of a fact whose entity is described by `subject`."""
        answers: tuple[str, ...] = (fact.value,)
        if fact.target and fact.target.bare != fact.value:
            answers = (fact.value, fact.target.bare)
        return Draft(kind, self._wording(fact.relation, subject), answers, fact.value, facts, (fact,))

    def _one_hop(self, fact: Fact) -> Draft | None:
        if fact in self._used or (len(self._by_relation[fact.relation.key]) < 2 < len(self._facts)):
            return None
        return self._about_value("one-hop", fact, fact.subject.name, (fact,))

    def _two_hop(self, first: Fact) -> Draft | None:
        if first.target is None or not first.relation.noun_phrase:
            return None
        choices = [fact for fact in self._by_subject.get(first.target, ()) if fact not in self._used]
        if not choices:
            return None
        last = self._rng.choice(choices)
        if last.target is first.subject or first.target.bare in first.subject.name:
            return None
        direct = self._by_subject[first.subject] + self._by_target.get(first.subject, [])
        answer = last.target.bare if last.target else last.value
        if any(answer in fact.text for fact in direct) or first.subject.bare in last.text:
            return None  # one sentence would be enough
        subject = first.relation.noun_phrase.format(s=first.subject.name)
        return self._about_value("two-hop", last, subject, (first, last))

    def _absent(self, fact: Fact) -> Draft | None:
        """A question about the subject of a fact, or about a stranger of its type, that the page does not answer."""
        subject, stated = fact.subject.name, {known.relation.key for known in self._by_subject[fact.subject]}
        if self._rng.random() < STRANGER_PROBABILITY:
            subject, bare = Namer(self._rng, self._level).name(fact.subject.type, False)
            stated = set()
            if bare in self._text:
                return None
        choices = [each for each in relations_of(fact.subject.type, self._level, False) if each.key not in stated]
        if not choices:
            return None
        relation = self._rng.choice(choices)
        keys = ((ABSENT_KIND, subject, relation.key),)
        return Draft(ABSENT_KIND, self._wording(relation, subject), (ABSENT,), ABSENT, (), keys)

    def _comparison(self, fact: Fact) -> Draft | None:
        relation = fact.relation
        candidates = self._by_relation[relation.key]
        if relation.comparatives is None or len(candidates) < 2:
            return None
        other = self._rng.choice(candidates)
        pair = sorted((fact, other), key=lambda compared: int(compared.value))
        if pair[0].value == pair[1].value:
            return None
        which = self._rng.randrange(2)
        winner, loser = pair[which].subject, pair[1 - which].subject
        facts = self._by_subject[winner]
        choices = [choice for choice in facts if choice.relation is not relation and choice not in self._used]
        if not choices:
            return None
        last = self._rng.choice(choices)
        rival = loser.facts.get(last.relation.key)
        if rival and rival.value == last.value:
            return None  # the answer would be the same for both
        subject = f"the {relation.comparatives[which]} of {fact.subject.name} and {other.subject.name}"
        return self._about_value("comparison", last, subject, (fact, other, last))

    def _group(self, fact: Fact) -> list[Fact] | None:
        """The facts with the same relation and target, if there are neither too few nor too many."""
        if fact.target is None or not fact.relation.plural_clause:
            return None
        group = self._groups[fact.relation.key, fact.target]
        return group if MIN_ITEMS <= len(group) <= MAX_ITEMS else None

    def _listing(self, fact: Fact) -> Draft | None:
        group = self._group(fact)
        if group is None:
            return None
        items = tuple(member.subject.name for member in group)
        question = f"Which {fact.relation.plural_clause.format(v=fact.value)}?"
        keys = (*group, (fact.relation.key, fact.target))
        return Draft("listing", question, items, f"{', '.join(items[:-1])} and {items[-1]}", tuple(group), keys)

    def _counting(self, fact: Fact) -> Draft | None:
        group = self._group(fact)
        if group is None:
            return None
        count = str(len(group))
        question = f"How many {fact.relation.plural_clause.format(v=fact.value)}?"
        keys = ((fact.relation.key, fact.target),)
        return Draft("counting", question, (count,), count, tuple(group), keys)


def evidence(facts: Sequence[Fact]) -> tuple[tuple[Span, ...], tuple[str, ...]]:
    """The spans and sentences of these facts; a sentence with a pronoun follows the one that names its subject.

    They are in the order of the reasoning, not of the document: a reply that has recalled the first hop can read from
    it which entity the second hop is about.
    """
    needed = [source for fact in facts for source in (fact.after, fact) if source is not None]
    ordered = list(dict.fromkeys(needed))
    spans = tuple(Span(fact.start, fact.start + len(fact.text)) for fact in ordered)
    return spans, tuple(fact.text for fact in ordered)
