"""Tables of benchmarks/trust.py about answers: recalled sentences, refusals, marks, and reading the text again.

They are made from the samples of two evaluations, of questions that their text answers and of questions that it does
not.  What a text says is decided without the checks under test: by its own sentences, which are cut and compared here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from memfold.checks import is_withheld
from memfold.core.prompt import ABSENT
from memfold.core.types import Block, Memory, Recall
from memfold.evaluation.suite import Case
from memfold.evaluation.table import Cell, Row, Table, mean, proportion
from memfold.systems.shared.citations import check_reply, support
from memfold.systems.shared.mentions import mentions_none, unmentioned
from memfold.tasks.almanac.questions import ABSENT_KIND

SLOTS, DOUBT, UNFOLD = "pooled:16", "pooled:16/doubt=256", "pooled:16/unfold=256"
SYSTEMS = ("full", "retrieval", SLOTS, DOUBT, UNFOLD)
MODES = {SLOTS: "never", DOUBT: "in doubt", UNFOLD: "always"}
_END = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One answer of one system, with what the checks say about it.

    `sentences` are the recalled sentences: the text, whether the document has it, and whether the check says so.
    `names` are names of the question that the text does not mention; `none` says that it mentions none of them.
    `doubtful` says whether the text would be read again.
    """

    case: str
    system: str
    answerable: bool
    question: str
    answer: str
    right: bool
    sentences: tuple[tuple[str, bool, bool], ...]
    supported: bool | None
    names: tuple[str, ...]
    invented: tuple[str, ...]
    none: bool
    withheld: bool
    doubtful: bool
    calls: int
    tokens: int

    @property
    def refused(self) -> bool:
        """Whether the model itself says that the text does not answer the question."""
        return self.answer == ABSENT

    @property
    def marked(self) -> bool:
        """Whether the answer is shown with a mark of something that is not in the text."""
        return self.supported is False or self.withheld or bool(self.names or self.invented)


# how an answer can be refused: the rule, and what it refuses beyond the model
RULES: dict[str, Callable[[Outcome], bool]] = {
    "the model itself": lambda outcome: False,
    "no name of the question in the text": lambda outcome: outcome.none,
    "as `ask`: or the answer not where it was recalled from": lambda outcome: outcome.withheld,
    "any recalled sentence or the answer not in the text": lambda outcome: outcome.none or outcome.supported is False,
}


def outcome(sample: Json, case: Case) -> Outcome:
    """Return a line of `samples.jsonl` with what the checks say about it; `case` is the question it belongs to."""
    text = case.sample.document.read()
    memory = text_memory(text)
    question, answer, reply = sample["question"], sample["answer"], sample["reply"]
    recalls, stated = check_reply(memory, reply), sentences_of(text)
    absent = case.sample.kind == ABSENT_KIND
    supported, names = support(memory, recalls, answer), unmentioned(memory, question)
    return Outcome(
        case=f"{'absent' if absent else 'answerable'}/{sample['case']}",
        system=sample["system"],
        answerable=not absent,
        question=question,
        answer=answer,
        right=sample["correct"],
        sentences=tuple(_compared(recall, stated) for recall in recalls),
        supported=supported,
        names=names,
        invented=tuple(name for name in unmentioned(memory, question, answer) if name not in names),
        none=mentions_none(memory, question),
        withheld=is_withheld(memory, question, recalls, answer),
        doubtful=not supported,
        calls=sample["cost"]["calls"],
        tokens=sample["cost"]["generated_tokens"],
    )


@lru_cache(maxsize=4096)
def text_memory(text: str) -> Memory:
    """Return a memory that holds a text and nothing else; the checks need no more."""
    return Memory("text", "", {}, "", ("text",), [Block(0, 0, 0, 1, 0, len(text), text=text)])


def sentences_of(text: str) -> set[str]:
    """Return the sentences of a text, normalised: in one Unicode form, with single spaces."""
    return {normalised(sentence) for sentence in _END.split(text) if sentence.strip()}


def normalised(sentence: str) -> str:
    """Return a sentence in one Unicode form, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", sentence).split())


def _compared(recall: Recall, stated: set[str]) -> tuple[str, bool, bool]:
    return recall.text, normalised(recall.text) in stated, recall.supported


def tables(outcomes: Sequence[Outcome]) -> list[Table]:
    """Return the tables about answers."""
    return [_sentences(outcomes), _refusals(outcomes), _marks(outcomes), _again(outcomes)]


def record(outcomes: Sequence[Outcome]) -> list[Json]:
    """Return the outcomes for the result file; of recalled sentences, how many are marked and how many are not."""
    records = []
    for each in outcomes:
        marked = [not checked for *_, checked in each.sentences]
        kept = {name: getattr(each, name) for name in ("case", "system", "answer", "right", "withheld", "supported")}
        records.append(kept | {"marked": sum(marked), "unmarked": len(marked) - sum(marked)})
    return records


def _sentences(outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for system in SYSTEMS:
        found = [each for own in _of(outcomes, system) for each in own.sentences]
        invented = [not checked for _, true, checked in found if not true]
        stated = [not checked for _, true, checked in found if true]
        share = proportion([not true for _, true, _ in found])
        rows.append(Row((system,), (share, _not(invented), proportion(stated))))
    note = (
        "A recalled sentence is in the text if it equals one of its sentences, apart from white space and Unicode "
        "forms; the sentences are cut by the benchmark, not by the check."
    )
    columns = ("recalled sentences that are not in the text", "of these not marked", "of the others marked")
    return Table("Recalled sentences", ("system",), columns, tuple(rows), note)


def _not(marked: Sequence[bool]) -> Cell:
    return proportion([not each for each in marked])


def _refusals(outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for system in SYSTEMS:
        own = _of(outcomes, system)
        for name, rule in RULES.items():
            refused = [each.refused or rule(each) for each in own]
            pairs = list(zip(own, refused, strict=True))
            cells = (
                proportion([no for each, no in pairs if not each.answerable]),
                proportion([no for each, no in pairs if each.answerable]),
                proportion([no for each, no in pairs if each.answerable and each.right]),
            )
            rows.append(Row((system, name), cells))
    note = "Each rule adds to the refusals of the model.  The last column has the answers that would have been right."
    columns = ("unanswerable, refused", "answerable, refused", "right answers, refused")
    return Table("Refusals", ("system", "refused by"), columns, tuple(rows), note)


def _marks(outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for system in SYSTEMS:
        own = [each for each in _of(outcomes, system) if not each.refused]
        absent = [each for each in own if not each.answerable]
        right, wrong = ([each for each in own if each.answerable and each.right == value] for value in (True, False))
        named = [proportion([bool(each.names) for each in some]) for some in (absent, [*right, *wrong])]
        marked = [proportion([each.marked for each in some]) for some in (absent, wrong, right)]
        rows.append(Row((system,), (*named, *marked)))
    note = (
        "Of the answers that are no refusals.  A name of the question that the text does not mention; and any mark: "
        "such a name, or a name, a sentence or an answer that is not in the text."
    )
    columns = ("unanswerable: name", "answerable: name", "unanswerable: any mark", "wrong: any mark", "right: any mark")
    return Table("Marks", ("system",), columns, tuple(rows), note)


def _again(outcomes: Sequence[Outcome]) -> Table:
    first = {each.case: each for each in _of(outcomes, SLOTS)}
    rows = []
    for system, mode in MODES.items():
        own = _of(outcomes, system)
        again = [(each.calls > 1, first[each.case]) for each in own if each.case in first]
        answerable = [(read, slots) for read, slots in again if slots.answerable]
        cells = (
            proportion([each.right for each in own if each.answerable]),
            proportion([read for read, _ in answerable]),
            proportion([read for read, slots in answerable if slots.right]),
            proportion([not read for read, slots in answerable if not slots.right]),
            mean([float(each.tokens) for each in own if each.answerable]),
        )
        rows.append(Row((mode,), cells))
    note = (
        f"Answerable questions, `{SLOTS}`.  A false alarm is a right answer of slots after which the text was read "
        "again, a miss a wrong one after which it was not."
    )
    columns = ("right", "text read again", "false alarms", "misses", "written tokens")
    return Table("Reading again", ("text is read again",), columns, tuple(rows), note)


def _of(outcomes: Sequence[Outcome], system: str) -> list[Outcome]:
    return [each for each in outcomes if each.system == system]
