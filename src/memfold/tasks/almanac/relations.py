"""What the almanac can say about an entity: relations between types, with the sentences and questions for each.

The relations themselves are data, in `people`, `places` and `works`.  Every question names a relation and an entity, or
a noun phrase that stands for one, so that exactly one fact answers it.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPES = ("person", "town", "river", "book", "guild", "ship")


@dataclass(frozen=True, eq=False)
class Relation:
    """One relation; in its templates `{s}` is the subject, `{v}` the value, and `{He}` and `{his}` stand for a pronoun.

    `value` is an entity type or a key of `names.LITERALS`.  `held_out_statement` appears in split 'out' only;
    `pronoun_statements` follow a sentence that names the subject.  `noun_phrase` stands for an entity value inside
    another question, `plural_clause` completes 'Which ...?' and 'How many ...?', and `comparatives` name the smaller
    and the larger of two values.
    """

    key: str
    subject: str
    value: str
    statements: tuple[str, ...]
    held_out_statement: str
    pronoun_statements: tuple[str, ...]
    questions: tuple[str, ...]
    noun_phrase: str = ""
    plural_clause: str = ""
    comparatives: tuple[str, str] | None = None
    held_out: bool = False

    @property
    def is_link(self) -> bool:
        """Whether the value is an entity."""
        return self.value in TYPES
