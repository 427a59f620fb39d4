"""Measure how often the blocks that hold the evidence are among the 8 that a gate ranks highest.

    python benchmarks/gate_recall.py --model runs/kvbank-tiny [--blocks 28 55] [--questions 128] [--chunk 512]

Documents are those of the suite `ruler-hqa`: questions of one and of two hops, whose evidence is spread over articles
of other worlds.  A document of about 28 or 55 blocks (LycheeMemory, table 3, has these numbers) is folded once for its
questions.  Three rankings are compared: the trained gate of the KV memory bank in view of the question and of the
supporting sentences that were read before the block, the same gate with an empty note, and BM25 over the texts of the
blocks.  Where the gate sees a block in several passes, its highest score counts.

Recall is the share of a question's evidence blocks in the top 8, as a mean over questions with its bootstrap interval;
`all` is the share of questions for which every evidence block is there, with its Wilson interval.  A model without a
trained gate has BM25 only.  The result is one JSON object, printed and written to
benchmarks/results/gate-recall-<cpu>.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from result_file import write_result

from memfold.core.document import Chunk, chunks, text_chunks
from memfold.core.errors import MemfoldError
from memfold.core.model import Model
from memfold.core.policy import Request, complete
from memfold.core.types import Memory, Sample
from memfold.evaluation.suite import document_seed
from memfold.evaluation.table import Cell, mean, proportion
from memfold.session import load, policy_of
from memfold.systems.kvbank.gate import head_call
from memfold.systems.kvbank.system import Kvbank
from memfold.systems.shared.folding import fold
from memfold.systems.shared.notes import EMPTY, noted_parts
from memfold.systems.shared.passages import PassageIndex
from memfold.tasks.almanac.spread import spread
from memfold.tasks.task import TaskOptions

TOP = 8
WITH_NOTE, WITHOUT_NOTE, BM25 = "gate, question and note", "gate, question", "bm25"
PER_DOCUMENT = 8
FILLED = 0.985  # of a block, on average: blocks end with a sentence
ALL = "all"


@dataclass(frozen=True)
class Found:
    """Of one question: its kind, the number of blocks, and the share of its evidence blocks in the top 8."""

    kind: str
    blocks: int
    shares: dict[str, float]


def main() -> int:
    """Measure each number of blocks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--blocks", type=int, nargs="+", default=[28, 55])
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    try:
        model = load(arguments.model, arguments.device)
        rows = [row for blocks in arguments.blocks for row in measure(model, blocks, arguments)]
    except MemfoldError as error:
        print(error, file=sys.stderr)
        return 1
    measured = {
        "chunk": arguments.chunk,
        "top": TOP,
        "seconds": round(time.perf_counter() - started, 1),
        "rows": rows,
    }
    write_result("gate_recall", model, arguments.device, measured, arguments.out)
    return 0


def measure(model: Model, blocks: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of each ranking and kind of question, for documents of about that many blocks."""
    record = model.trained.get(Kvbank.name)
    trained = None if record is None else Kvbank.of(Kvbank.trained_settings(record) | {"chunk": arguments.chunk})
    found = list(questions(model, trained, blocks, arguments))
    rows = []
    for ranking in found[0].shares:
        for kind in (ALL, *dict.fromkeys(each.kind for each in found)):
            own = [each for each in found if kind in (ALL, each.kind)]
            shares = [each.shares[ranking] for each in own]
            rows.append(
                {
                    "blocks": blocks,
                    "blocks_on_average": round(sum(each.blocks for each in own) / len(own), 1),
                    "ranking": ranking,
                    "questions": kind,
                    "recall": _figure(mean(shares, share=True)),
                    "all": _figure(proportion([share == 1 for share in shares])),
                }
            )
    return rows


def questions(model: Model, trained: Kvbank | None, blocks: int, arguments: argparse.Namespace) -> Iterator[Found]:
    """Yield what each ranking finds for each question."""
    system = trained or Kvbank.of({"chunk": arguments.chunk})
    size, asked = round((blocks - 0.5) * FILLED * arguments.chunk), 0
    while asked < arguments.questions:
        count = min(PER_DOCUMENT, arguments.questions - asked)
        seed = document_seed("gate-recall", arguments.seed, blocks, arguments.chunk, asked)
        samples = spread(seed, size, TaskOptions(samples=count), model.encode)
        cut = text_chunks if system.fold.borders == "sentence" else chunks
        parts = list(cut(samples[0].document, model.tokenize, system.fold.chunk))
        index = PassageIndex([part.text for part in parts])
        memory = None if trained is None else fold(trained, [samples[0].document], model)[0]
        for sample in samples:
            ranked = {BM25: [number for number, _ in index.best(sample.question, TOP)]}
            if trained is not None and memory is not None:
                ranked = by_gate(trained, memory, sample, parts, model) | ranked
            gold = gold_blocks(sample, parts)
            shares = {name: len(gold.intersection(best)) / len(gold) for name, best in ranked.items()}
            yield Found(sample.kind, len(parts), shares)
        asked += count


def by_gate(
    system: Kvbank, memory: Memory, sample: Sample, parts: Sequence[Chunk], model: Model
) -> dict[str, list[int]]:
    """Return the blocks that the gate ranks highest, with the notes of a reader that misses nothing and without."""
    readings = noted_parts(sample, parts, model, f"system {system.name!r}", system.read.passes)
    places = {WITH_NOTE: [(reading.chunk.index, reading.before) for reading in readings]}
    places[WITHOUT_NOTE] = [(part.index, EMPTY) for part in parts]
    different = list(dict.fromkeys(place for own in places.values() for place in own))
    calls = [
        head_call(system.fold, system.read, memory.name, index, sample.question, note) for index, note in different
    ]
    replies = complete(policy_of(model), [Request(system, memory, call) for call in calls])
    scores = {place: reply.score or 0.0 for place, reply in zip(different, replies, strict=True)}
    ranked = {}
    for name, own in places.items():
        best: dict[int, float] = defaultdict(lambda: float("-inf"))
        for place in own:
            best[place[0]] = max(best[place[0]], scores[place])
        ranked[name] = sorted(best, key=lambda number: -best[number])[:TOP]
    return ranked


def gold_blocks(sample: Sample, parts: Sequence[Chunk]) -> set[int]:
    """Return the numbers of the blocks in which a supporting sentence ends."""
    return {part.index for part in parts for span in sample.evidence if part.char_start < span.end <= part.char_end}


def _figure(cell: Cell) -> dict[str, Any]:
    return {name: value for name, value in asdict(cell).items() if name in ("value", "low", "high", "count")}


if __name__ == "__main__":
    sys.exit(main())
