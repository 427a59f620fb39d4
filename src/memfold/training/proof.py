"""Shrinks a recipe for a published size: two layers of its architecture, random weights, synthetic data.

Everything else stays: stage, tasks and their data layouts, chat template, wrapper, kinds and precision of layers,
groups and their learning rates, schedule, activation checkpointing, packing, sharding, precision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from memfold.backbone.shapes import SHAPES
from memfold.tasks.datasets.corpus import is_held_out
from memfold.tasks.filler import sentence
from memfold.tasks.table import DATASET_TASKS
from memfold.training.batches import AnyEntry
from memfold.training.fqlora import FQLoRA
from memfold.training.recipe import Entry, Recipe, StageRecipe

VOCABULARY = 512
ROWS, HELD_OUT = 60, 2  # the minimum in every file
TEXT, DOCUMENT = 96, 256  # tokens of a text window, and of a document with a question
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def small(recipe: Recipe, folder: Path, processes: int) -> Recipe:
    """The recipe for two steps on a small model, with its files in `folder`; one process does the work of two."""
    assert recipe.architecture is not None, "the recipe names an architecture"
    parent = small_model(folder / recipe.architecture, recipe.architecture)
    return replace(
        recipe,
        parent=str(parent),
        architecture=None,
        steps=2,
        tokens=DOCUMENT,
        micro_batches=2 // processes,
        mixture=small_mixture(recipe.mixture, folder),
        fqlora=small_fqlora(recipe),
        hardware=replace(recipe.hardware, devices=2),
        validate_every=2,
        validation_batches=1,
        checkpoint_every=2,
    )


def small_model(folder: Path, architecture: str) -> Path:
    """Create a folder like that of a published base model: two layers, random weights, no wrapper tokens."""
    if not (folder / "config.json").exists():
        config = SHAPES[architecture].reduced(vocabulary=VOCABULARY).config()
        config.initializer_range = 0.1
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        _tokenizer().save_pretrained(folder)
    return folder


def small_fqlora(recipe: StageRecipe) -> FQLoRA | None:
    """Return settings that train one of the two layers in full, and low-rank adapters on the other."""
    return None if recipe.fqlora is None else replace(recipe.fqlora, full_layers=1, rank=4)


def small_mixture(entries: Sequence[AnyEntry], folder: Path) -> tuple[AnyEntry, ...]:
    """Return the entries of a mixture on short documents, with synthetic data in `folder` for those that read files."""
    for entry in entries:
        for file in entry.files:
            write_data(folder / file, entry)
    return tuple(_small_entry(entry, folder) for entry in entries)


def write_data(path: Path, entry: Entry) -> None:
    """Write a file in the layout that a mixture entry reads; a path without suffix becomes a folder with one file."""
    file = path if path.suffix else path / "part.jsonl"
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = list(_rows(LAYOUTS[entry.dataset or entry.task]))
    if file.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _small_entry(entry: AnyEntry, folder: Path) -> AnyEntry:
    size = DOCUMENT if entry.task in (*DATASET_TASKS, "summaries") else TEXT
    return replace(entry, sizes=(size,), files=tuple(str(folder / file) for file in entry.files))


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((sentence(Random(seed)) for seed in range(500)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[0])


def _rows(layout: Any) -> Iterator[dict[str, Any]]:
    """Yield enough rows, some of them held out (by their text, or by their question if they have one)."""
    number = held_out = 0
    while number < ROWS or held_out < HELD_OUT:
        rng = Random(number)
        text, question = " ".join(sentence(rng) for _ in range(4)), f"What is the mark of stone {number}?"
        answer = f"mark {rng.randrange(100)}"
        row = layout(number, text, question, answer)
        held_out += is_held_out(row.get("text", question))
        number += 1
        yield row


def _hotpotqa(number: int, text: str, question: str, answer: str) -> dict[str, Any]:
    return {
        "_id": str(number),
        "question": question,
        "answer": answer,
        "type": "bridge",
        "context": [[f"Stone {number}", [f"{text} {answer}."]]],
        "supporting_facts": [[f"Stone {number}", 0]],
    }


def _squad(number: int, text: str, question: str, answer: str) -> dict[str, Any]:
    found = {"text": answer, "answer_start": len(text) + 1}
    return {"id": str(number), "question": question, "context": f"{text} {answer}.", "answers": [found]}


def _triviaqa(number: int, text: str, question: str, answer: str) -> dict[str, Any]:
    return {
        "question": question,
        "question_id": str(number),
        "answer": {"value": answer, "aliases": [answer]},
        "entity_pages": {"title": ["Stones"], "wiki_context": [text]},
    }


def _natural_questions(number: int, text: str, question: str, answer: str) -> dict[str, Any]:
    words = [*text.split(), *answer.split()]
    long = {"start_token": 0, "end_token": len(words)}
    short = {"start_token": len(words) - 2, "end_token": len(words)}
    annotation = {"long_answer": long, "short_answers": [short], "yes_no_answer": "NONE"}
    return {
        "example_id": number,
        "question_text": question,
        "document_text": " ".join(words),
        "annotations": [annotation],
    }


def _ragbench(number: int, text: str, question: str, answer: str) -> dict[str, Any]:
    return {
        "id": str(number),
        "question": question,
        "response": answer,
        "dataset_name": "stones",
        "documents_sentences": [[["0a", text]]],
        "all_relevant_sentence_keys": ["0a"],
        "overall_supported": True,
    }


def _text(number: int, text: str, question: str, answer: str) -> dict[str, Any]:
    return {"text": text, "summary": answer}


LAYOUTS = {
    "hotpotqa": _hotpotqa,
    "squad": _squad,
    "triviaqa": _triviaqa,
    "natural-questions": _natural_questions,
    "ragbench": _ragbench,
    "text": _text,
    "text-reconstruction": _text,
    "text-continuation": _text,
    "summaries": _text,
}
