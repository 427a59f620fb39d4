"""What the almanac can say about an entity: relations between types, with the sentences and questions for each.

The sentences themselves are data, in `phrases_people`, `phrases_places` and `phrases_works`.  Every question names an
entity (or a noun phrase that stands for one) and a relation, so that exactly one fact answers it.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPES = ("person", "town", "river", "book", "guild", "ship")


@dataclass(frozen=True, eq=False)
class Relation:
    """One relation: `{s}` is the subject, `{v}` the value, `{He}` and `{his}` a pronoun for the subject.

    `value` is an entity type or a key of `names.LITERALS`.  `says` are the statements, `unseen` the one kept for split
    'out', `pronoun` those that follow a sentence naming the subject.  `phrase` stands for an entity value inside
    another question, `many` completes 'Which ...?' and 'How many ...?', `compare` names the smaller and the larger of
    two.
    """

    key: str
    subject: str
    value: str
    says: tuple[str, ...]
    unseen: str
    pronoun: tuple[str, ...]
    asks: tuple[str, ...]
    phrase: str = ""
    many: str = ""
    compare: tuple[str, str] | None = None
    held_out: bool = False

    @property
    def links(self) -> bool:
        """Whether the value is an entity."""
        return self.value in TYPES
