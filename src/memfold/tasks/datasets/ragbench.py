"""RAGBench: questions with retrieved documents and the reply of a language model, labelled sentence by sentence.

The answer is this reply.  Rows whose reply is not supported by the documents (`overall_supported` is false) are
skipped, as they have no reliable answer.  The evidence consists of the sentences marked as relevant to the question.
The labels come from a model; keys that refer to no sentence are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.datasets.layout import excerpts, in_order, lay_out
from memfold.tasks.datasets.rows import Row


def ragbench(row: Row) -> Iterator[Sample | None]:
    """One question; its kind is the dataset that it comes from."""
    if row.has("overall_supported") and not row.flag("overall_supported"):
        yield None
        return
    documents = _sentences(row)
    text, sentence_spans = lay_out(("", [sentence for _, sentence in sentences]) for sentences in documents)
    if not text:
        raise row.wrong("documents_sentences", "at least one document with text")
    keys = [key for sentences in documents for key, _ in sentences]
    spans = dict(zip(keys, chain.from_iterable(sentence_spans), strict=True))
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
    """The sentences of each document with their keys."""
    documents = row.values.get("documents_sentences")
    expected = "a list of documents, each a list of [key, sentence]"
    if not isinstance(documents, list) or not all(isinstance(document, list) for document in documents):
        raise row.wrong("documents_sentences", expected)
    for pair in chain.from_iterable(documents):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise row.wrong("documents_sentences", expected)
    return [[(key, sentence) for key, sentence in document] for document in documents]
