"""The fidelity suite: what the slots of a memory hold, apart from how well a long reply keeps its place.

A document is read in calls of 1, 4 or 16 consecutive slots, each with the prompt that reconstruction is trained with.
Each call is made twice: the reply is written freely, and the text itself is scored (the paper's reconstruction loss).
The tables show the share of groups that are whole, by the place of the group in its call, the accuracy of numbers,
names and ordinary words, and ROUGE-L of the replies joined, which is reconstruction in several calls: a slip costs no
more than the rest of its call.  The suite `reconstruction` reads all slots in one call.  Needs the rouge-score library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate

from memfold.core.config import require_known
from memfold.core.document import fixed_lengths
from memfold.core.errors import ConfigError
from memfold.core.job import Job
from memfold.core.model import Model
from memfold.core.registry import DEFAULT
from memfold.core.system import AnswerSteps, ask_all
from memfold.core.types import Answer, Block, BlockRef, Call, Likelihood, Memory, Part, SamplingParams, Trace
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.grouping import Group, curves, failures, grid, splits
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Case, Options, Score, document_seed
from memfold.evaluation.table import Cell, Figure, Table, mean
from memfold.scoring.rewriting import rouge, token_kind
from memfold.tasks.instructions import INSTRUCTIONS
from memfold.tasks.needle import NEEDLES
from memfold.tasks.reconstruction import reconstruction
from memfold.tasks.task import TaskOptions

SLOTS = (1, 4, 16)  # slots per call
INSTRUCTION = min(INSTRUCTIONS["reconstruction"], key=len)  # that of training on single groups
LIKELIER = math.log(0.5)  # a token with a higher log-probability is the likeliest one
SPARE_TOKENS = 8  # so that a reply which goes on too long is noticed
PLACES = ("first", "second", "third", "later")
KINDS = {"number": "numbers and codes", "name": "names", "word": "words"}


class FidelitySuite:
    """See the module docstring."""

    name = "fidelity"
    reads: tuple[str, ...] = ("per_cell", "kinds")
    defaults = Options(lengths=(64, 256, 512), questions=180, splits=("in",))
    quick = Options(lengths=(64,), questions=6, splits=("in",))
    temperature = 0.1
    candidates: tuple[str, ...] = (DEFAULT,)

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return the number of questions about a document, which has one, and the limit of replies, which it sets."""
        return ("per_document", "max_tokens")

    def check(self, options: Options) -> None:
        """Raise a `ConfigError` without the rouge-score library, and for a string that cannot be planted."""
        rouge("", "")
        for kind in options.kinds:
            require_known("kind of string", kind, NEEDLES)

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """One case per document and number of slots in a call."""
        for split, length, questions in options.cells():
            task = TaskOptions(level=options.level, split=split, kinds=options.kinds)
            for number in range(-(-questions // len(SLOTS))):
                seed = document_seed(self.name, options.seed, options.level, split, length, number)
                sample = reconstruction(seed, length, task, model.encode)[0]
                text = model.decode(sample.document.tokens or ())
                for slots in SLOTS[: questions - number * len(SLOTS)]:
                    own = replace(sample, kind=str(slots), question=INSTRUCTION)
                    yield Case(f"{split}/{length}/{slots}/{number}", own, (text,), seed, length, length)

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """The calls of a document: two for each run of slots.

        Raises:
            ConfigError: for a system without slots.
        """
        if not candidate.system.capabilities.slots:
            raise ConfigError(
                f"system {candidate.label!r} has no slots, and suite {self.name!r} measures what slots hold; use a "
                f"--system with slots, such as {DEFAULT}"
            )
        divided = divide(memory, int(case.sample.kind), candidate.system.ratio or 1)
        trace = candidate.system.script(case.sample, model, "bare")
        (script,) = (step.call for step in trace.steps if step.call.purpose == "answer")
        return Job(candidate.system, divided, case.sample.question, ask=partial(_rewrite, script, case, model))

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """The shares of whole groups and of right tokens, and the loss in nats per token."""
        assert trace.answer is not None, "only traces without error are scored"
        calls = [[int(length) for length in lengths.split()] for lengths in trace.answer.text.split(",")]
        groups: dict[str, list[bool]] = {name: [] for name in ("whole", "forced", *PLACES)}
        kinds: dict[str, list[bool]] = {name: [] for name in KINDS}
        logprobs: list[float] = []
        for lengths, written, scored in zip(calls, trace.steps[::2], trace.steps[1::2], strict=True):
            assert isinstance(scored.call.wants, Likelihood), "calls come in pairs"
            tokens = scored.call.wants.tokens[:-1]  # without the end token
            copy = (*written.reply.tokens, *[-1] * len(tokens))
            right = [token == other for token, other in zip(tokens, copy, strict=False)]
            for place, (end, length) in enumerate(zip(accumulate(lengths), lengths, strict=True)):
                whole = all(right[end - length : end])
                groups["whole"].append(whole)
                groups["forced"].append(all(value > LIKELIER for value in scored.reply.logprobs[end - length : end]))
                groups[PLACES[min(place, len(PLACES) - 1)]].append(whole)
            for token, is_right in zip(tokens, right, strict=True):
                kinds[token_kind(model.decode([token]))].append(is_right)
            logprobs += scored.reply.logprobs[:-1]
        figures = {name: sum(values) / len(values) for name, values in (groups | kinds).items() if values}
        figures["loss"] = -sum(logprobs) / len(logprobs)
        figures["rougeL"] = rouge(case.accepted[0], trace.answer.reply)["rougeL"]
        return Score(trace.answer.reply, figures["whole"] == 1, figures)

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """For each split and number of slots in a call: whole groups, right tokens, and the loss."""
        columns = (
            "whole groups",
            "whole, forced",
            *(f"{place} of a call" for place in PLACES),
            *KINDS.values(),
            "ROUGE-L",
            "loss",
        )
        note = (
            "Means over documents.  A whole group has all of its tokens in place; it counts as forced if each of them "
            "has a probability above 1/2 after the right text.  ROUGE-L is that of all replies joined.  The loss is in "
            "nats per token."
        )
        return [
            Table(
                f"Fidelity, {slots} {'slot' if slots == 1 else 'slots'} per call, split {split}",
                ("tokens", "system"),
                columns,
                grid([record for record in own if record.kind == str(slots)], labels, _cells),
                note,
            )
            for split, own in splits(records)
            for slots in SLOTS
        ]

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> list[Figure]:
        """Whole groups over document length, for each number of slots in a call."""
        return [
            Figure(
                f"fidelity-{split}",
                "document tokens",
                tuple(
                    (
                        f"whole groups, {slots} per call",
                        curves(
                            [record for record in own if record.kind == str(slots)], labels, partial(_share, "whole")
                        ),
                    )
                    for slots in SLOTS
                ),
            )
            for split, own in splits(records)
        ]


def divide(memory: Memory, slots: int, ratio: int) -> Memory:
    """Return the memory with blocks of at most `slots` slots; slots without a token count stand for `ratio` tokens."""
    blocks: list[Block] = []
    for block in memory.blocks:
        lengths = block.slot_tokens or fixed_lengths(block.token_count, ratio)
        ends = list(accumulate(lengths, initial=block.token_start))
        for first in range(0, block.slot_count, slots):
            last = min(first + slots, block.slot_count)
            assert block.slots is not None, "a block with a slot count has slots"
            part = replace(block, index=len(blocks), slots=block.slots[first:last], text=None, stored=None)
            start, end = ends[first], ends[last]
            blocks.append(replace(part, token_start=start, token_end=end, slot_tokens=tuple(lengths[first:last])))
    return replace(memory, blocks=blocks)


def _rewrite(script: Call, case: Case, model: Model, memory: Memory, question: str) -> AnswerSteps:
    """Make both calls of each block; the answer lists the tokens of each group, with a comma between calls."""
    tokens = case.sample.document.tokens or ()
    calls: list[Call] = []
    for block in memory.blocks:
        parts = _with_block(script.parts, BlockRef(memory.name, block.index))
        own = (*tokens[block.token_start : block.token_end], model.end_token)
        call = replace(script, parts=parts).sampled(SamplingParams(max_tokens=len(own) + SPARE_TOKENS))
        calls += [call, replace(call, wants=Likelihood(own))]
    replies = yield from ask_all(calls)
    lengths = ",".join(" ".join(map(str, block.slot_tokens or ())) for block in memory.blocks)
    return Answer(lengths, "".join(reply.text for reply in replies[::2]))


def _with_block(parts: Sequence[Part], block: BlockRef) -> tuple[Part, ...]:
    """Return the parts of a call with one block in place of all blocks."""
    first = next(index for index, part in enumerate(parts) if isinstance(part, BlockRef))
    others = [part for part in parts if not isinstance(part, BlockRef)]
    return (*others[:first], block, *others[first:])


def _cells(records: Group) -> list[Cell]:
    return [
        *(_share(name, records) for name in ("whole", "forced", *PLACES, *KINDS, "rougeL")),
        _figure("loss", records, share=False),
    ]


def _share(name: str, records: Group) -> Cell:
    return _figure(name, records, share=True)


def _figure(name: str, records: Group, share: bool) -> Cell:
    """A mean over documents; one without such groups or tokens is left out."""
    return mean([record.figures.get(name, math.nan) for record in records], failures(records), share)
