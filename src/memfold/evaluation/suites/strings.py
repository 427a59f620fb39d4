"""The strings suite: do codes, dates, identifiers and names come back character for character?

Slots carry what a passage says, not every character of it, so systems that read the cited text again
(`pooled/unfold=N`) stand beside those that do not.  What is planted are the sentences of the needle suite, at random
depths of filler, almanac pages or any text.  Exact is an answer in which the string stands as it was planted, case
included.  Beside it stand the answers whose citations lie in the right block, and those for which the sentence itself
was read again: a string can only be copied from text that was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from random import Random

from memfold.core.document import Document, chunks, text_chunks
from memfold.core.errors import ConfigError, unknown
from memfold.core.job import Job
from memfold.core.latex import plain
from memfold.core.model import Model
from memfold.core.registry import BASELINES, DEFAULT, REFERENCE, has_slots
from memfold.core.types import Citation, Memory, Sample, Span, Text, Trace
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.grouping import ALL, Group, curves, failures, grid, of_system, splits
from memfold.evaluation.records import Record
from memfold.evaluation.suite import HAYSTACKS, Case, Options, Score, document_seed, haystack_text
from memfold.evaluation.table import Cell, Figure, Row, Table, proportion
from memfold.scoring.citations import hits
from memfold.scoring.metrics import stands_verbatim
from memfold.tasks.haystack import almanac_sentences, filler_sentences, gather, plant, text_sentences
from memfold.tasks.names import Namer
from memfold.tasks.needle import NEEDLES, VALUES
from memfold.tasks.task import TaskOptions

KINDS = ("code", "date", "uuid", "name")
BLOCK, READ = "block_cited", "read_again"
COLUMNS = ("exact", "block cited", "exact of these", "sentence read again", "exact of these")
NOTE = (
    "Exact: the string stands in the answer, character for character.  Block cited: a citation, or the text that was "
    "read again, lies in the block that holds the string.  A system that cites nothing has no figure there, one that "
    "reads nothing again none in the last two columns."
)


class StringsSuite:
    """See the module docstring."""

    name = "strings"
    reads: tuple[str, ...] = ("per_cell", "kinds", "text", "haystack")
    defaults = Options(lengths=(1024, 4096, 16384), questions=360, splits=("in",), per_document=4)
    quick = Options(lengths=(256, 512), questions=16, splits=("in",), per_document=4)
    temperature = 0.0
    candidates: tuple[str, ...] = (REFERENCE, DEFAULT, f"{DEFAULT}/unfold=256", *BASELINES)

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return nothing: every option counts."""
        return ()

    def check(self, options: Options) -> None:
        """Raise a `MemfoldError` for an unknown kind, a text that cannot be read, or two haystacks."""
        for kind in options.kinds:
            if kind not in NEEDLES:
                raise unknown("kind of string", kind, NEEDLES)
        if options.text and options.haystack != HAYSTACKS[0]:
            raise ConfigError(f"--text {options.text} replaces --haystack {options.haystack}; leave one of them out")
        haystack_text(options)

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """Yield the kinds in turn; those of one document are planted in it together.

        Raises:
            ConfigError: for lengths that the strings fill.
        """
        text = haystack_text(options)
        for split, length, questions in options.cells():
            for first in range(0, questions, options.per_document):
                numbers = range(first, min(questions, first + options.per_document))
                yield from _document(split, length, numbers, text, options, model)

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """Return the question, as any user would ask it."""
        return Job(candidate.system, memory, case.sample.question)

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """Return whether the string came back, and whether the right block was cited or read again."""
        assert trace.answer is not None, "only traces without error are scored"
        figures = {}
        passages = _read_again(trace)
        if passages is not None:
            figures[READ] = float(case.sample.support[0] in passages)
        cited = trace.answer.citations if passages is None else _located(case.sample.document, passages)
        if cited and "chunk" in trace.settings:
            block = _block(case.sample, trace, model)
            figures[BLOCK] = float(hits(cited, [block], len(cited))[0])
        answer = plain(trace.answer.text)
        return Score(answer, stands_verbatim(answer, case.accepted[0]), figures)

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """Return for each split: exact strings by length, by kind, and of those whose block was cited or read."""
        tables = []
        for split, own in splits(records):
            tables.append(
                Table(f"Exact strings, split {split}", ("tokens", "system"), COLUMNS, grid(own, labels, _cells), NOTE)
            )
            kinds = list(dict.fromkeys(record.kind for record in own))
            rows = tuple(Row((label,), tuple(_of_kinds(of_system(own, label), kinds))) for label in labels)
            tables.append(Table(f"Exact by kind, split {split}", ("system",), (ALL, *kinds), rows))
        return tables

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> list[Figure]:
        """Return exact strings over document length."""
        return [
            Figure(f"strings-{split}", "document tokens", ((f"exact, split {split}", curves(own, labels, _exact)),))
            for split, own in splits(records)
        ]


def _document(
    split: str, length: int, numbers: Sequence[int], text: str, options: Options, model: Model
) -> Iterator[Case]:
    """Yield the cases of one document."""
    kinds, haystack = options.kinds or KINDS, options.text or options.haystack
    seed = document_seed(StringsSuite.name, options.seed, options.level, split, length, numbers[0], haystack, kinds)
    rng = Random(seed)
    namer = Namer(rng, options.level)
    keys = [(kinds[number % len(kinds)], namer.name("key")[0]) for number in numbers]
    values = [VALUES[kind](rng) for kind, _ in keys]
    planted = [
        (rng.random(), _statement(kind, split).format(s=key, v=value))
        for (kind, key), value in zip(keys, values, strict=True)
    ]
    room = length - sum(len(model.encode(f" {sentence}")) for _, sentence in planted)
    task = TaskOptions(level=options.level, split=split)
    sentences = {
        "filler": partial(filler_sentences, rng),
        "almanac": partial(almanac_sentences, rng, task, model.encode),
        options.text: partial(text_sentences, text),
    }[haystack]
    whole = plant(gather(sentences(), room, model.encode), planted)
    document = Document(f"strings-{seed}", text=whole.text)
    for index, (number, (kind, key)) in enumerate(zip(numbers, keys, strict=True)):
        sample = Sample(
            task="needle",
            document=document,
            question=NEEDLES[kind].questions[0].format(s=key),
            answers=(values[index],),
            target=values[index],
            evidence=(whole.spans[index],),
            support=(planted[index][1],),
            kind=kind,
            hops=1,
            split=split,
            level=options.level,
        )
        yield Case(f"{split}/{length}/{number}", sample, sample.answers, seed, length)


def _statement(kind: str, split: str) -> str:
    relation = NEEDLES[kind]
    return relation.held_out_statement if split == "out" else relation.statements[0]


def _read_again(trace: Trace) -> str | None:
    """Return the text that an earlier call located and the last call read; None without an earlier call."""
    if not any(step.call.purpose == "locate" for step in trace.steps):
        return None
    return "\n".join(part.text for part in trace.steps[-1].call.parts if isinstance(part, Text))


def _located(document: Document, passages: str) -> tuple[Citation, ...]:
    """Return where the lines of a text stand in a document; lines that it does not have are left out."""
    text = document.read()
    lines = [line.strip() for line in passages.split("\n") if line.strip()]
    starts = [(text.find(line), len(line)) for line in lines]
    return tuple(Citation(document.source, start, start + size) for start, size in starts if start >= 0)


def _block(sample: Sample, trace: Trace, model: Model) -> Span:
    """Return the block of the system in which the string stands; both where a border cuts its sentence."""
    (span,) = sample.evidence
    divide = chunks if has_slots(trace.system) else text_chunks
    cut = divide(sample.document, model.tokenize, trace.settings["chunk"])
    around = [chunk for chunk in cut if chunk.char_start < span.end and span.start < chunk.char_end]
    return Span(around[0].char_start, around[-1].char_end)


def _cells(records: Group) -> list[Cell]:
    cells = [_exact(records)]
    for figure in (BLOCK, READ):
        known = [record for record in records if figure in record.figures]
        hit = [record for record in known if record.figures[figure] == 1]
        cells.append(proportion([record.figures[figure] == 1 for record in known]))
        cells.append(proportion([record.correct for record in hit]))
    return cells


def _of_kinds(records: Group, kinds: Sequence[str]) -> list[Cell]:
    return [_exact(records), *(_exact([record for record in records if record.kind == kind]) for kind in kinds)]


def _exact(records: Group) -> Cell:
    return proportion([record.correct for record in records], failures(records))
