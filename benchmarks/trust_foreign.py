"""Tables of benchmarks/trust.py about texts: which are called unlike the training text, and which names are mentioned.

The foreign texts are those of foreign.toml.  Each is folded and asked about as a user would, with its text and from
slots alone.  Almanac texts of every level, split and length say what the warnings cost in false alarms.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from trust_answers import text_memory

import memfold
from memfold.checks import memory_warning
from memfold.evaluation.table import Cell, Row, Table, proportion
from memfold.folded import FoldedMemory
from memfold.response import Response
from memfold.session import Session, open_session
from memfold.systems.shared.mentions import unmentioned
from memfold.tasks.almanac.questions import evidence
from memfold.tasks.almanac.task import write
from memfold.tasks.datasets.table import load_dataset
from memfold.tasks.task import SPLITS, TaskOptions

TEXTS = Path(__file__).with_name("foreign.toml")
UNLIKE = "unlike the training text"
ASKED = ("pooled", "full", "retrieval")
SENTENCE, SIZES = "one sentence", (48, 96, 200, 600, 2000)  # lengths of almanac texts, in tokens
LONG = 150  # characters from which on a text counts as long
SEED = (1 << 41) + (1 << 40)  # no training has such a seed
REPLY = 16  # tokens
PARTS = 12  # almanac texts that get a foreign page

Json = dict[str, Any]


def foreign_texts() -> list[dict[str, str]]:
    """Return the foreign texts, each with `name`, `text` and `question`."""
    texts: list[dict[str, str]] = tomllib.loads(TEXTS.read_text(encoding="utf-8"))["text"]
    return texts


def measure(model: str, device: str, almanac_texts: int) -> list[Json]:
    """Return a record for each text: its group, and whether its memories and the answers about it were warned about."""
    session = open_session(ASKED[0], model, device=device)
    records = [_asked(each, model, device) for each in foreign_texts()]
    records += [_mixed(number, each, session) for number, each in enumerate(_pages())]
    for group, text in almanac(almanac_texts, session):
        records.append({"group": group, "text": text} | _warned(_memory(text, session)))
    return records


def _pages() -> list[dict[str, str]]:
    pages = [each for each in foreign_texts() if len(each["text"]) > LONG]
    return (pages * (PARTS // len(pages) + 1))[:PARTS]


def _asked(each: dict[str, str], model: str, device: str) -> Json:
    """Fold a text with each system and ask about it."""
    found: Json = {"group": f"foreign, {_length(each['text'])}", "name": each["name"]}
    answers = []
    for system in ASKED:
        folded = memfold.fold(texts={each["name"]: each["text"]}, system=system, model=model, device=device)
        response = _answer(folded, each["question"])
        answers.append({"system": system, "answer": response.text, "warned": UNLIKE in (response.warning or "")})
        if system == ASKED[0]:
            found |= _warned(folded)
    return found | {"answers": answers, "answer": all(answer["warned"] for answer in answers)}


def _mixed(number: int, each: dict[str, str], session: Session) -> Json:
    """Put a foreign page into the middle of an almanac, and ask about it."""
    page = write(Random(SEED + number), 3000, TaskOptions(level=number % 4), session.model.encode).text
    half = page.index("\n", len(page) // 2)
    folded = _memory(f"{page[:half]}\n{each['text']}\n{page[half:]}", session)
    response = _answer(folded, each["question"])
    warned = {"answer": UNLIKE in (response.warning or "")}
    return {"group": "almanac with a foreign page", "name": each["name"]} | _warned(folded) | warned


def _answer(folded: FoldedMemory, question: str) -> Response:
    """Ask as a user would, with a short reply: the warning does not depend on it."""
    return folded.doubting(0).answering(max_tokens=REPLY).ask(question)


def almanac(count: int, session: Session) -> Iterator[tuple[str, str]]:
    """Yield almanac texts of every level, split and length, each with its group."""
    lengths = (SENTENCE, *SIZES)
    for number in range(count):
        level, split = number % 4, SPLITS[number // 4 % 2]
        length = lengths[number // 8 % len(lengths)]
        rng, options = Random(SEED + number), TaskOptions(level=level, split=split)
        page = write(rng, SIZES[1] if length == SENTENCE else int(length), options, session.model.encode)
        text = " ".join(evidence([rng.choice(page.facts)])[1]) if length == SENTENCE else page.text
        yield f"almanac, split {split}", text


def _memory(text: str, session: Session) -> FoldedMemory:
    from memfold import api
    from memfold.core.document import Document

    return api.fold_documents([Document("text", text=text)], session)


def _warned(folded: FoldedMemory) -> Json:
    """Return whether a memory is warned about with its text, and from its slots alone."""
    memory, model = folded.memory, folded.session.model
    bare = replace(memory, blocks=[replace(block, text=None) for block in memory.blocks])
    return {"memory": folded.warning is not None, "slots": memory_warning(bare, model) is not None}


def _length(text: str) -> str:
    return "a page" if len(text) > LONG else "short"


def familiarity_table(records: Sequence[Json]) -> Table:
    """Return how many texts of each group were warned about."""
    rows = []
    for group in dict.fromkeys(each["group"] for each in records):
        own = [each for each in records if each["group"] == group]
        cells = [_share(own, key) for key in ("answer", "memory", "slots")]
        rows.append(Row((group,), tuple(cells)))
    note = (
        f"Share of texts called {UNLIKE}: beside every answer ({', '.join(ASKED)}), by the memory as a whole, and by a "
        "memory without text."
    )
    return Table("Texts", ("text",), ("every answer", "memory", "slots alone"), tuple(rows), note)


def _share(records: Sequence[Json], key: str) -> Cell:
    return proportion([each[key] for each in records if key in each])


def names(data: Sequence[str], most: int) -> list[Json]:
    """Return names of public questions that their own text does not mention, and that another text does not mention.

    `data` are files as NAME=PATH; the first `most` questions of each are taken.
    """
    records = []
    for entry in data:
        dataset, _, path = entry.partition("=")
        samples = [sample for sample, _ in zip(load_dataset(dataset, Path(path)), range(most), strict=False)]
        texts = [sample.document.read() for sample in samples]
        for number, sample in enumerate(samples):
            other = texts[(number + len(texts) // 2) % len(texts)]
            missing = [unmentioned(text_memory(text), sample.question) for text in (texts[number], other)]
            records.append({"dataset": dataset, "question": sample.question, "own": missing[0], "other": missing[1]})
    return records


def names_table(records: Sequence[Json]) -> Table:
    """Return how many questions have a name that a text does not mention."""
    rows = []
    for dataset in dict.fromkeys(each["dataset"] for each in records):
        own = [each for each in records if each["dataset"] == dataset]
        rows.append(Row((dataset,), tuple(proportion([bool(each[key]) for each in own]) for key in ("other", "own"))))
    note = "Questions of public datasets: asked about the text of another question, and about their own."
    return Table("Names", ("dataset",), ("another text: marked", "own text: marked"), tuple(rows), note)
