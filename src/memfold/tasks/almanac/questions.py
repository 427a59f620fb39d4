"""Asks about the facts of a page: one hop, two hops, comparison, listing and counting.

Every question has exactly one right answer on its page, names nothing that gives the answer away, and no two questions
of one document rest on the same answer fact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from memfold.core.types import Span
from memfold.tasks.almanac.page import Page
from memfold.tasks.almanac.world import Entity, Fact

KINDS = ("one-hop", "two-hop", "comparison", "listing", "counting")
SHARES = {"one-hop": 0.5, "two-hop": 0.35, "comparison": 0.06, "listing": 0.06, "counting": 0.03}
HOPS = {"one-hop": 1, "two-hop": 2}
FEWEST, MOST = 2, 6


@dataclass(frozen=True)
class Draft:
    """A question, its answers, the facts that it needs, and those of them that hold the answer."""

    kind: str
    question: str
    answers: tuple[str, ...]
    target: str
    facts: tuple[Fact, ...]
    keys: tuple[object, ...]


class Asker:
    """Questions about one page.  `held_out` keeps those that touch something of split 'out'."""

    def __init__(self, rng: Random, page: Page, level: int, held_out: bool) -> None:
        self._rng = rng
        self._facts = page.facts
        self._level = level
        self._held_out = held_out
        self._used: set[object] = set()
        self._of: dict[Entity, list[Fact]] = defaultdict(list)
        self._naming: dict[Entity, list[Fact]] = defaultdict(list)
        self._same: dict[str, list[Fact]] = defaultdict(list)
        self._groups: dict[tuple[str, Entity], list[Fact]] = defaultdict(list)
        for fact in page.facts:
            self._of[fact.subject].append(fact)
            self._same[fact.relation.key].append(fact)
            if fact.target:
                self._naming[fact.target].append(fact)
                self._groups[fact.relation.key, fact.target].append(fact)

    def ask(self, count: int, kinds: Sequence[str]) -> list[Draft]:
        """Up to `count` questions of these kinds; fewer when the page has no more to ask.

        Where a page has none left of a kind, questions of one or two hops stand in for it.
        """
        order = list(self._facts)
        self._rng.shuffle(order)
        sources = {kind: self._drafts(kind, order) for kind in kinds}
        common = [kind for kind in HOPS if kind in sources] or list(sources)
        drafts: list[Draft] = []
        for wanted in self._rng.choices(list(sources), [SHARES[kind] for kind in sources], k=count):
            draft = next((draft for kind in (wanted, *common) for draft in sources[kind]), None)
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
        }[kind]
        for fact in order:
            draft = make(fact)
            if draft and self._fits(draft):
                yield draft

    def _fits(self, draft: Draft) -> bool:
        if not self._used.isdisjoint(draft.keys) or any(answer in draft.question for answer in draft.answers):
            return False
        return not self._held_out or any(fact.held_out for fact in draft.facts)

    def _wording(self, fact: Fact, subject: str) -> str:
        asks = fact.relation.asks[:1] if self._level == 0 else fact.relation.asks
        text = self._rng.choice(asks).format(s=subject)
        return text[0].upper() + text[1:]

    def _answered(self, kind: str, fact: Fact, subject: str, facts: tuple[Fact, ...]) -> Draft:
        answers: tuple[str, ...] = (fact.value,)
        if fact.target and fact.target.bare != fact.value:
            answers = (fact.value, fact.target.bare)
        return Draft(kind, self._wording(fact, subject), answers, fact.value, facts, (fact,))

    def _one_hop(self, fact: Fact) -> Draft | None:
        if fact in self._used or (len(self._same[fact.relation.key]) < 2 < len(self._facts)):
            return None
        return self._answered("one-hop", fact, fact.subject.name, (fact,))

    def _two_hop(self, first: Fact) -> Draft | None:
        if first.target is None or not first.relation.phrase:
            return None
        choices = [fact for fact in self._of.get(first.target, ()) if fact not in self._used]
        if not choices:
            return None
        last = self._rng.choice(choices)
        if last.target is first.subject or first.target.bare in first.subject.name:
            return None
        nearby = self._of[first.subject] + self._naming.get(first.subject, [])
        short = last.target.bare if last.target else last.value
        if any(short in fact.text for fact in nearby) or first.subject.bare in last.text:
            return None
        return self._answered("two-hop", last, first.relation.phrase.format(s=first.subject.name), (first, last))

    def _comparison(self, fact: Fact) -> Draft | None:
        relation = fact.relation
        others = self._same[relation.key]
        if relation.compare is None or len(others) < 2:
            return None
        other = self._rng.choice(others)
        smaller, larger = sorted((fact, other), key=lambda one: int(one.value))
        if smaller.value == larger.value:
            return None
        which = self._rng.randrange(2)
        winner, loser = ((smaller, larger), (larger, smaller))[which]
        choices = [one for one in self._of[winner.subject] if one.relation is not relation and one not in self._used]
        if not choices:
            return None
        last = self._rng.choice(choices)
        rival = loser.subject.facts.get(last.relation.key)
        if rival and rival.value == last.value:
            return None
        pair = f"{fact.subject.name} and {other.subject.name}"
        subject = f"the {relation.compare[which]} of {pair}"
        return self._answered("comparison", last, subject, (fact, other, last))

    def _group(self, fact: Fact) -> list[Fact] | None:
        if fact.target is None or not fact.relation.many:
            return None
        group = self._groups[fact.relation.key, fact.target]
        return group if FEWEST <= len(group) <= MOST else None

    def _listing(self, fact: Fact) -> Draft | None:
        group = self._group(fact)
        if group is None:
            return None
        items = tuple(one.subject.name for one in group)
        question = f"Which {fact.relation.many.format(v=fact.value)}?"
        keys = (*group, (fact.relation.key, fact.target))
        return Draft("listing", question, items, f"{', '.join(items[:-1])} and {items[-1]}", tuple(group), keys)

    def _counting(self, fact: Fact) -> Draft | None:
        group = self._group(fact)
        if group is None:
            return None
        count = str(len(group))
        question = f"How many {fact.relation.many.format(v=fact.value)}?"
        keys = ((fact.relation.key, fact.target),)
        return Draft("counting", question, (count,), count, tuple(group), keys)


def evidence(facts: Sequence[Fact]) -> tuple[tuple[Span, ...], tuple[str, ...]]:
    """Spans and sentences behind these facts in their order, the naming sentence before one with a pronoun.

    The order is that of the reasoning, not of the document: a reply that has recalled the first hop can read from it
    what the second is about.
    """
    ordered = list(dict.fromkeys(one for fact in facts for one in (fact.after, fact) if one is not None))
    return (
        tuple(Span(fact.start, fact.start + len(fact.text)) for fact in ordered),
        tuple(fact.text for fact in ordered),
    )
