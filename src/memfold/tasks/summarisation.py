"""Summaries that can be checked: what an almanac document is about, and one fact about its main subject.

The summary is a function of the document: the first names of its two most common types, the entity with the most facts,
and the first sentence with this entity as its subject.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.almanac.questions import evidence
from memfold.tasks.almanac.task import write
from memfold.tasks.almanac.world import Fact
from memfold.tasks.instructions import instruction
from memfold.tasks.task import Encode, TaskOptions

MAX_NAMES = 3
MAX_TYPES = 2
PLURALS = {"person": "people", "town": "towns", "river": "rivers", "book": "books", "guild": "guilds", "ship": "ships"}


def summarisation(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """One document and its summary."""
    rng = Random(seed)
    page = write(rng, size, options, encode)
    summary, main = summarise(page.facts)
    spans, support = evidence([main])
    return [
        Sample(
            task="summarisation",
            document=Document(source=f"summarisation-{seed}", text=page.text),
            question=instruction(rng, "summarisation"),
            answers=(summary,),
            target=summary,
            evidence=spans,
            support=support,
            kind="summarisation",
            split=options.split,
            level=options.level,
        )
    ]


def summarise(facts: Sequence[Fact]) -> tuple[str, Fact]:
    """The summary of facts in reading order, and the fact that it quotes."""
    subjects = Counter(fact.subject for fact in facts)
    types = Counter(fact.subject.type for fact in facts)
    parts = []
    for kind, _ in types.most_common(MAX_TYPES):
        names = [entity.bare for entity in subjects if entity.type == kind]
        listed = names[:MAX_NAMES] + ["others"] * (len(names) > MAX_NAMES)
        joined = f"{', '.join(listed[:-1])} and {listed[-1]}" if len(listed) > 1 else listed[0]
        parts.append(f"the {PLURALS[kind] if len(names) > 1 else kind} {joined}")
    main = subjects.most_common(1)[0][0]
    quoted = next(fact for fact in facts if fact.subject is main and fact.after is None)
    return f"The text tells of {', and of '.join(parts)}. Most is told of {main.name}. {quoted.text}", quoted
