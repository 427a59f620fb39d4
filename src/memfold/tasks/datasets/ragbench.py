"""RAGBench: questions with retrieved documents and the reply of a language model, labelled sentence by sentence.

The answer is that reply.  A row whose reply is marked as not supported by its documents (`overall_supported` false) has
no answer that could be learned or measured, and is skipped.  The evidence is the sentences marked as relevant to the
question; keys that name no sentence are ignored, as the labels come from a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.datasets.layout import excerpts, in_order, lay_out
from memfold.tasks.datasets.rows import Row


def ragbench(row: Row) -> Iterator[Sample | None]:
    """One question; its kind is the dataset that RAGBench took it from."""
    if row.has("overall_supported") and not row.flag("overall_supported"):
        yield None
        return
    documents = _sentences(row)
    text, places = lay_out(("", [sentence for _, sentence in sentences]) for sentences in documents)
    if not text:
        raise row.wrong("documents_sentences", "at least one document with text")
    keys = [key for sentences in documents for key, _ in sentences]
    spans = dict(zip(keys, chain.from_iterable(places), strict=True))
    relevant = row.texts("all_relevant_sentence_keys") if row.has("all_relevant_sentence_keys") else ()
    evidence = in_order(spans[key] for key in relevant if key in spans)
    answer = row.text("response").strip()
    yield Sample(
        task="ragbench",
        document=Document(f"ragbench-{row.name('id')}", text=text),
        question=row.text("question").strip(),
        answers=(answer,),
        target=answer,
        evidence=evidence,
        support=excerpts(text, evidence),
        kind=row.string("dataset_name") if row.has("dataset_name") else "",
        hops=1,
    )


def _sentences(row: Row) -> list[list[tuple[str, str]]]:
    """Of each document, its sentences with their keys."""
    found = row.values.get("documents_sentences")
    wanted = "a list of documents, each a list of [key, sentence]"
    if not isinstance(found, list) or not all(isinstance(document, list) for document in found):
        raise row.wrong("documents_sentences", wanted)
    for pair in (pair for document in found for pair in document):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise row.wrong("documents_sentences", wanted)
    return [[(key, sentence) for key, sentence in document] for document in found]
