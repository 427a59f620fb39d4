"""The needle suite: is a planted sentence found, by its depth in a text and the length of that text?

A cell is one length and one depth.  The text is filler, or any that the user names; what is planted are sentences that
give a key a number, a word, a code or a UUID, and the question asks for the value of the key.  With several needles one
key has several values, the first at the depth of the cell, the others spread from there to the end, and all are wanted.
Questions that share a document plant all their keys in it: it is folded once, and each is a distractor for the others.
The documents of one turn through the depths share their filler.  Long ones are given in pieces: a system that makes
slots folds the filler once, and only the surroundings of a needle anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from memfold.core.config import require
from memfold.core.document import Document
from memfold.core.errors import unknown
from memfold.core.job import Job
from memfold.core.model import Model
from memfold.core.registry import COMPARED
from memfold.core.types import Memory, Sample, Trace
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.grouping import Group, failures, grid, of_system, splits
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Case, Options, Score, document_seed, haystack_text
from memfold.evaluation.table import Cell, HeatMap, Row, Table, mean, proportion
from memfold.scoring.needles import HIGHEST, LOWEST, contains_all, needle_score
from memfold.tasks.haystack import borders_of, filler_sentences, gather, pieces, plant, text_sentences
from memfold.tasks.names import Namer
from memfold.tasks.needle import NEEDLES, NOUNS, VALUES

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
KINDS = ("number", "word", "uuid")
PIECES_FROM = 16384  # shorter texts are cheap to fold, and each piece ends with a group that is not full
LISTING = "listing"  # the kind of a question that wants several values


@dataclass(frozen=True)
class _Query:
    """One question: where its first needle lies in per cent, what kind it is, which key has which values."""

    depth: float
    kind: str
    key: str
    values: tuple[str, ...]
    number: int

    def needles(self, split: str) -> list[tuple[float, str]]:
        """Return the sentences of the query with their depths from 0 to 1."""
        relation, first = NEEDLES[self.kind], self.depth / 100
        template = relation.held_out_statement if split == "out" else relation.statements[0]
        return [
            (first + (1 - first) * number / len(self.values), template.format(s=self.key, v=value))
            for number, value in enumerate(self.values)
        ]

    def question(self) -> str:
        """Return a question that asks for the value, or for all values."""
        if len(self.values) == 1:
            return NEEDLES[self.kind].questions[0].format(s=self.key)
        return f"What are the {len(self.values)} secret {NOUNS[self.kind]}s of {self.key}?"


class NeedleSuite:
    """See the module docstring."""

    name = "needle"
    reads: tuple[str, ...] = ("per_cell", "depths", "needles", "kinds", "text")
    defaults = Options(lengths=LENGTHS, questions=660, splits=("in",))
    quick = Options(lengths=(256, 512), questions=18, splits=("in",), depths=3, per_document=3)
    temperature = 0.0
    candidates: tuple[str, ...] = COMPARED

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return nothing: every option counts."""
        return ()

    def check(self, options: Options) -> None:
        """Raise a `MemfoldError` for an unknown kind, fewer questions than cells, or a text that cannot be read."""
        for kind in options.kinds:
            if kind not in NEEDLES:
                raise unknown("kind of needle", kind, NEEDLES)
        cells = options.cells()
        enough = min(questions for _, _, questions in cells) >= options.depths
        require(
            enough,
            "questions",
            options.questions,
            f"{len(cells) * options.depths} or more, one for each of the cells; or fewer --lengths or --depths",
        )
        haystack_text(options)

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """Yield the depths of a length in turn, each with the next kind of value.

        Raises:
            ConfigError: for lengths that the needles fill.
        """
        text, turn = haystack_text(options), max(options.depths, options.per_document)
        for split, length, questions in options.cells():
            for first in range(0, questions, turn):
                seed = document_seed(self.name, options.seed, options.level, split, length, first, options.text)
                made = _Turn(seed, split, length, first, text, options, model).cases()
                yield from islice(made, questions - first)

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """Return the question, as any user would ask it."""
        return Job(candidate.system, memory, case.sample.question)

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """Score a trace: an answer is right if it has all values; the score from 1 to 10 also counts parts of them."""
        assert trace.answer is not None, "only traces without error are scored"
        answer = trace.answer.text
        figures = {"score": float(needle_score(answer, case.accepted))}
        return Score(answer, contains_all(answer, case.accepted), figures)

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """Return for each split: scores and exact answers with the lowest cells, exact answers by depth and by kind."""
        tables = []
        for split, own in splits(records):
            columns = ("score, 1 to 10", "its lowest cell", "exact", "its lowest cell")
            note = "Exact: all values stand in the answer.  The lowest cell is the worst pair of length and depth."
            tables.append(
                Table(f"Needle, split {split}", ("tokens", "system"), columns, grid(own, labels, _cells), note)
            )
            tables.append(_by("depth, per cent", _depth, own, labels, split))
            tables.append(_by("kind", lambda record: record.kind, own, labels, split))
        return tables

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> list[HeatMap]:
        """Return the score of each system over length and depth."""
        return [_heat_map(of_system(own, label), label, split) for split, own in splits(records) for label in labels]


class _Turn:
    """Some questions in a row, from number `first` on, whose documents have one filler."""

    def __init__(
        self, seed: int, split: str, length: int, first: int, text: str, options: Options, model: Model
    ) -> None:
        self.seed, self.split, self.length, self.options = seed, split, length, options
        rng = Random(seed)
        namer = Namer(rng, options.level)
        numbers = range(first, first + max(options.depths, options.per_document))
        queries = [_query(rng, namer, number, options) for number in numbers]
        step = options.per_document
        self.documents = [queries[start : start + step] for start in range(0, len(queries), step)]
        sentences = text_sentences(text) if text else filler_sentences(rng)
        room = length - max(self._tokens(document, model) for document in self.documents)
        self.sentences = gather(sentences, room, model.encode)
        depths = [depth for document in self.documents for depth, _ in self._needles(document)]
        self.cuts = borders_of(self.sentences, depths)

    def cases(self) -> Iterator[Case]:
        """Yield the questions, those of one document next to each other."""
        for queries in self.documents:
            planted = self._needles(queries)
            whole = plant(self.sentences, planted)
            seed = document_seed(self.seed, queries[0].number)
            document = Document(f"needle-{seed}", text=whole.text)
            parts = tuple(map(_piece, pieces(whole, self.cuts))) if self.length >= PIECES_FROM else ()
            for index, query in enumerate(queries):
                own = slice(index * self.options.needles, (index + 1) * self.options.needles)
                sample = Sample(
                    task="needle",
                    document=document,
                    question=query.question(),
                    answers=query.values,
                    target=", ".join(query.values),
                    evidence=whole.spans[own],
                    support=tuple(needle for _, needle in planted[own]),
                    kind=query.kind if len(query.values) == 1 else LISTING,
                    hops=1,
                    split=self.split,
                    level=self.options.level,
                )
                key = f"{self.split}/{self.length}/{query.depth:.4g}/{query.number}"
                yield Case(key, sample, sample.answers, seed, self.length, pieces=parts)

    def _needles(self, queries: Sequence[_Query]) -> list[tuple[float, str]]:
        return [needle for query in queries for needle in query.needles(self.split)]

    def _tokens(self, queries: Sequence[_Query], model: Model) -> int:
        return sum(len(model.encode(f" {needle}")) for _, needle in self._needles(queries))


def _piece(text: str) -> Document:
    """Return a document that is named after its text, so that the same text is folded once."""
    return Document(f"piece-{hashlib.sha256(text.encode()).hexdigest()[:16]}", text=text)


def _query(rng: Random, namer: Namer, number: int, options: Options) -> _Query:
    kinds = options.kinds or KINDS
    again, step = divmod(number, options.depths)
    kind = kinds[(step + again) % len(kinds)]
    values = tuple(VALUES[kind](rng) for _ in range(options.needles))
    return _Query(100 * step / (options.depths - 1), kind, namer.name("key")[0], values, number)


def _depth(record: Record) -> str:
    """Return the depth from the key of a record, because a failed record has no figures."""
    return record.case.split("/")[2]


def _score(records: Group) -> Cell:
    """Return a mean; a question that failed has the lowest score."""
    return mean([record.figures.get("score", float(LOWEST)) for record in records], failures(records))


def _exact(records: Group) -> Cell:
    return proportion([record.correct for record in records], failures(records))


def _cells(records: Group) -> list[Cell]:
    pairs = dict.fromkeys((record.size, _depth(record)) for record in records)
    groups = [[record for record in records if (record.size, _depth(record)) == pair] for pair in pairs]
    cells: list[Cell] = []
    for figure in (_score, _exact):
        each = [cell for cell in map(figure, groups) if cell.value is not None]
        cells += [figure(records), min(each, key=lambda cell: cell.value or 0.0, default=Cell(None))]
    return cells


def _by(what: str, name: Callable[[Record], str], records: Group, labels: Sequence[str], split: str) -> Table:
    """Return exact answers of each system over the values of one property."""
    names = list(dict.fromkeys(name(record) for record in records))

    def cell(label: str, value: str) -> Cell:
        return _exact([record for record in of_system(records, label) if name(record) == value])

    rows = tuple(Row((label,), tuple(cell(label, value) for value in names)) for label in labels)
    return Table(f"Exact by {what}, split {split}", ("system",), tuple(names), rows)


def _heat_map(records: Group, label: str, split: str) -> HeatMap:
    sizes = sorted({record.size for record in records})
    depths = sorted({_depth(record) for record in records}, key=float)

    def cell(depth: str, size: int) -> Cell:
        return _score([record for record in of_system(records, label, size) if _depth(record) == depth])

    cells = tuple(tuple(cell(depth, size) for size in sizes) for depth in depths)
    name = f"needle-{split}-{re.sub(r'[^A-Za-z0-9.=]+', '-', label)}"
    return HeatMap(
        name,
        f"{label}, split {split}: score 1 to 10",
        "tokens",
        tuple(map(str, sizes)),
        "depth, per cent",
        tuple(depths),
        cells,
        LOWEST,
        HIGHEST,
    )
