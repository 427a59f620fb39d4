"""Each loader on made-up rows in the layouts in which its dataset is published, and on invalid rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from memfold.core.errors import ConfigError, DataError
from memfold.core.types import Sample
from memfold.tasks.datasets.table import DATASETS, dataset_of, load_dataset

HOTPOT: dict[str, Any] = {
    "_id": "h1",
    "question": "Where was the author of Sanu born?",
    "answer": "Velm",
    "type": "bridge",
    "supporting_facts": [["Ada Lorn", 1], ["Sanu", 0], ["Sanu", 9], ["Nobody", 0]],
    "context": [
        ["Sanu", ["Sanu is a book by Ada Lorn.", " It has 20 pages."]],
        ["Ada Lorn", ["Ada Lorn is a writer.", " She was born in Velm.", " "]],
    ],
}
HOTPOT_COLUMNS = HOTPOT | {
    "context": {"title": ["Sanu", "Ada Lorn"], "sentences": [paragraph[1] for paragraph in HOTPOT["context"]]},
    "supporting_facts": {"title": ["Ada Lorn", "Sanu"], "sent_id": [1, 0]},
}
MUSIQUE: dict[str, Any] = {
    "id": "3hop1__1_2_3",
    "question": "Where?",
    "answer": "Velm",
    "answer_aliases": ["Old Velm", "Velm"],
    "answerable": True,
    "paragraphs": [
        {"idx": 0, "title": "Sanu", "paragraph_text": "A river.", "is_supporting": False},
        {"idx": 1, "title": "Velm", "paragraph_text": "A town by the Sanu.", "is_supporting": True},
    ],
    "question_decomposition": [{"id": 1}, {"id": 2}, {"id": 3}],
}
CONTEXT = " Velm is a town. Its mayor is Ada Lorn."
SQUAD: dict[str, Any] = {
    "id": "s1",
    "title": "Velm",
    "context": CONTEXT,
    "question": "Who is the mayor? ",
    "answers": {"text": ["Ada Lorn", "Lorn"], "answer_start": [30, 34]},
}
TRIVIA: dict[str, Any] = {
    "question": "Which town?",
    "question_id": "t1",
    "entity_pages": {"title": ["Velm"], "wiki_context": ["Velm is a town."], "filename": ["Velm.txt"]},
    "search_results": {"title": ["News", "None"], "search_context": ["All about Velm.", ""], "rank": [0, 1]},
    "answer": {"value": "Velm", "aliases": ["Velm", "Old Velm"], "normalized_value": "velm"},
}
PAGE = "<H1> Velm </H1> <P> Velm 's mayor is Ada Lorn ( since 1998 ) , or Ben . </P>"
TOKENS = PAGE.split()
NATURAL: dict[str, Any] = {
    "example_id": 77,
    "question_text": "who is the mayor of velm",
    "document_text": PAGE,
    "annotations": [
        {
            "long_answer": {"start_token": 3, "end_token": 18},
            "short_answers": [{"start_token": 8, "end_token": 10}],
            "yes_no_answer": "NONE",
        }
    ],
}
RAG: dict[str, Any] = {
    "id": "r1",
    "question": "Who?",
    "response": "Ada Lorn wrote it.",
    "dataset_name": "hotpotqa",
    "documents": ["A book. By Ada Lorn.", "Other."],
    "documents_sentences": [[["0a", "A book."], ["0b", "By Ada Lorn."]], [["1a", "Other."]]],
    "all_relevant_sentence_keys": ["0b", "9z"],
    "overall_supported": True,
}
MARCO: dict[str, Any] = {
    "query": "what is velm",
    "query_id": 5,
    "query_type": "DESCRIPTION",
    "answers": ["A town", "No Answer Present."],
    "wellFormedAnswers": ["Velm is a town."],
    "passages": [
        {"is_selected": 0, "passage_text": "A river.", "url": "u"},
        {"is_selected": 1, "passage_text": "Velm: a town.", "url": "v"},
    ],
}
BIO: dict[str, Any] = {
    "id": "b1",
    "type": "factoid",
    "body": "Which gene?",
    "snippets": [{"text": "The gene RET."}, {"text": "The gene RET."}, {"text": "RET again."}],
    "exact_answer": [["RET", "ret proto-oncogene"]],
    "ideal_answer": ["It is RET."],
}
BENCH: dict[str, Any] = {
    "_id": "l1",
    "domain": "Single-Document QA",
    "sub_domain": "Law",
    "difficulty": "hard",
    "length": "short",
    "question": "Which?",
    "choice_A": "one",
    "choice_B": "two",
    "choice_C": "three",
    "choice_D": "four",
    "answer": "B",
    "context": "A long text.",
}
GOOD = {
    "hotpotqa": HOTPOT,
    "2wikimultihopqa": HOTPOT,
    "musique": MUSIQUE,
    "squad": SQUAD,
    "triviaqa": TRIVIA,
    "natural-questions": NATURAL,
    "ragbench": RAG,
    "ms-marco": MARCO,
    "bioasq": BIO,
    "longbench-v2": BENCH,
}


def load(name: str, row: dict[str, Any]) -> Sample:
    (sample,) = dataset_of(name, [row])
    return sample


def evidence(sample: Sample) -> list[str]:
    return [sample.document.read()[span.start : span.end] for span in sample.evidence]


def test_every_dataset_has_a_row_here() -> None:
    assert GOOD.keys() == DATASETS.keys()
    with pytest.raises(ConfigError, match="unknown dataset 'hotpot'; nearest: 'hotpotqa'"):
        load_dataset("hotpot", "a.json")


@pytest.mark.parametrize("name", GOOD)
def test_files_of_any_kind_give_the_same_samples(tmp_path: Path, name: str) -> None:
    rows = [GOOD[name], GOOD[name]]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = list(dataset_of(name, rows))
    assert len(expected) == 2
    assert {sample.task for sample in expected} == {name}
    assert all(sample.answers and sample.target == sample.expected for sample in expected)
    for file in ("a.json", "a.jsonl"):
        assert list(load_dataset(name, tmp_path / file)) == expected
    assert list(load_dataset(name, tmp_path / "a.json", tmp_path / "a.jsonl")) == expected * 2


@pytest.mark.parametrize("name", GOOD)
def test_parquet_gives_the_same_samples(tmp_path: Path, name: str) -> None:
    row = HOTPOT_COLUMNS if GOOD[name] is HOTPOT else GOOD[name]  # parquet has no lists of mixed types
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert list(load_dataset(name, tmp_path / "a.parquet")) == [load(name, GOOD[name])]


MISSING = [
    *(("hotpotqa", key) for key in ("question", "answer", "supporting_facts", "context")),
    *(("2wikimultihopqa", key) for key in ("context", "answer")),
    *(("musique", key) for key in ("question", "answer", "paragraphs", "question_decomposition")),
    *(("squad", key) for key in ("question", "answers", "context")),
    *(("triviaqa", key) for key in ("question", "answer")),
    *(("natural-questions", key) for key in ("question_text", "annotations")),
    *(("ragbench", key) for key in ("question", "response", "documents_sentences")),
    *(("ms-marco", key) for key in ("query", "answers", "passages")),
    *(("bioasq", key) for key in ("body", "type", "exact_answer", "snippets")),
    *(("longbench-v2", key) for key in ("question", "answer", "context", "choice_C")),
]


@pytest.mark.parametrize(("name", "key"), MISSING)
@pytest.mark.parametrize("value", ["missing", None, 7, {}])
def test_an_invalid_field_is_reported(tmp_path: Path, name: str, key: str, value: Any) -> None:
    invalid = {k: v for k, v in GOOD[name].items() if k != key} | ({} if value == "missing" else {key: value})
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(GOOD[name])}\n\n{json.dumps(invalid)}\n")
    samples = iter(load_dataset(name, path))
    next(samples)
    with pytest.raises(DataError) as caught:
        next(samples)
    assert str(caught.value).startswith(f"{path}, row 3")
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("hotpotqa", "context", [], "'context' is .*; expected: at least one paragraph"),
        ("hotpotqa", "answer", " ", "'answer' is ' '; expected: a string that is not blank"),
        ("hotpotqa", "context", [["Sanu", "a string"]], r"context\[0\]: 'sentences' is 'a string'; expected: a list"),
        ("hotpotqa", "supporting_facts", [["Sanu", "0"]], r"facts\[0\]: 'sent_id' is '0'; expected: a whole"),
        ("musique", "paragraphs", [], "at least one paragraph"),
        (
            "squad",
            "answers",
            [{"text": "Ben", "answer_start": 3}],
            "is 3; expected: the position of 'Ben' in the paragraph",
        ),
        ("squad", "answers", [{"text": "n.", "answer_start": -2}], "'answer_start' is -2; expected: the position of"),
        ("triviaqa", "search_results", {"title": []}, None),
        ("triviaqa", "entity_pages", {"title": ["a"], "wiki_context": [" "]}, None),
        ("natural-questions", "document_text", " ", "'document_text' is ' '"),
        ("natural-questions", "document_text", "<P> </P>", "'document' is missing; expected: a page with text"),
        ("ragbench", "documents_sentences", [[["0a"]]], r"a list of documents, each a list of \[key, sentence\]"),
        ("ragbench", "documents_sentences", [], "at least one document with text"),
        ("ms-marco", "passages", [], "at least one passage"),
        ("bioasq", "snippets", [{"text": " "}], "at least one snippet with text"),
        ("bioasq", "type", "essay", "'type' is 'essay'; expected: yesno, factoid, list, summary"),
        ("bioasq", "exact_answer", [[" "]], "expected: an answer"),
        ("longbench-v2", "answer", "E", "'answer' is 'E'; expected: A, B, C, D"),
        ("longbench-v2", "context", "", "'context' is ''; expected: a string that is not blank"),
    ],
)
def test_an_impossible_value_is_reported(name: str, key: str, value: Any, message: str | None) -> None:
    changed = GOOD[name] | {key: value}
    if message is None:
        assert load(name, changed).document.read()
        return
    with pytest.raises(DataError, match=message):
        load(name, changed)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("musique", {"answerable": False}),
        ("squad", {"answers": {"text": [], "answer_start": []}}),
        ("squad", {"is_impossible": True}),
        ("natural-questions", {"annotations": []}),
        ("natural-questions", {"annotations": [NATURAL["annotations"][0] | {"short_answers": []}]}),
        ("ragbench", {"overall_supported": False}),
        ("ms-marco", {"answers": ["No Answer Present."], "wellFormedAnswers": "[]"}),
        ("ms-marco", {"answers": []}),
        ("bioasq", {"type": "summary", "exact_answer": None}),
    ],
)
def test_an_unanswerable_question_is_counted_and_skipped(name: str, change: dict[str, Any]) -> None:
    dataset = dataset_of(name, [GOOD[name], GOOD[name] | change, GOOD[name]])
    for _ in range(2):  # each iteration counts again
        assert len(list(dataset)) == 2
        assert dataset.skipped == 1


def test_hotpotqa() -> None:
    sample = load("hotpotqa", HOTPOT)
    text = "Sanu\nSanu is a book by Ada Lorn. It has 20 pages.\n\nAda Lorn\nAda Lorn is a writer. She was born in Velm."
    assert sample.document.read() == text
    assert sample.support == ("Sanu is a book by Ada Lorn.", "She was born in Velm.")
    assert evidence(sample) == list(sample.support)
    assert (sample.answers, sample.target, sample.kind, sample.hops) == (("Velm",), "Velm", "bridge", 2)
    assert load("hotpotqa", HOTPOT_COLUMNS) == sample
    assert load("2wikimultihopqa", HOTPOT | {"type": "bridge_comparison"}).hops == 4
    twice = [["Sanu", ["A name."]], *HOTPOT["context"]]
    facts = [["Sanu", 1]]
    assert load("hotpotqa", HOTPOT | {"context": twice, "supporting_facts": facts}).support == ("It has 20 pages.",)


def test_musique() -> None:
    sample = load("musique", MUSIQUE)
    assert sample.answers == ("Velm", "Old Velm")
    assert evidence(sample) == ["A town by the Sanu."]
    assert (sample.kind, sample.hops, sample.support) == ("3hop1", 3, ())


def test_squad() -> None:
    sample = load("squad", SQUAD)
    assert sample.document.read() == CONTEXT
    assert evidence(sample) == ["Ada Lorn"]
    assert (sample.answers, sample.question, sample.hops) == (("Ada Lorn", "Lorn"), "Who is the mayor?", 1)
    listed = [{"text": "Ada Lorn", "answer_start": 30}]
    questions = [
        {"id": "1", "question": "Who?", "answers": listed, "is_impossible": False},
        {"id": "2", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": listed},
        {"id": "3", "question": "Mayor?", "answers": listed},
    ]
    dataset = dataset_of("squad", [{"title": "Velm", "paragraphs": [{"context": CONTEXT, "qas": questions}]}])
    first, second = dataset
    assert dataset.skipped == 1
    assert first.document is second.document
    questions[2] = {"answers": listed}
    dataset = dataset_of("squad", [{"paragraphs": [{"context": CONTEXT, "qas": questions}]}])
    with pytest.raises(DataError, match=r"squad, row 1, paragraphs\[0\], qas\[2\]: 'question' is missing"):
        list(dataset)


def test_triviaqa(tmp_path: Path) -> None:
    sample = load("triviaqa", TRIVIA)
    assert sample.document.read() == "Velm\nVelm is a town.\n\nNews\nAll about Velm."
    assert (sample.answers, sample.evidence) == (("Velm", "Old Velm"), ())
    with pytest.raises(DataError, match="'entity_pages' is missing; expected: at least one page with its text"):
        load("triviaqa", {key: TRIVIA[key] for key in ("question", "question_id", "answer")})
    published = {
        "Question": "Which town?",
        "QuestionId": "t1",
        "Answer": {"Value": "Velm", "Aliases": ["Velm", "Old Velm"]},
        "EntityPages": [{"Title": "Velm", "Filename": "Velm.txt"}, {"Title": "Gone", "Filename": "Gone.txt"}],
        "SearchResults": [{"Title": "News", "Filename": "1/news.txt"}],
    }
    for name, text in {"wikipedia/Velm.txt": "Velm is a town.", "web/1/news.txt": "All about Velm."}.items():
        file = tmp_path / "evidence" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    path = tmp_path / "qa" / "wikipedia-dev.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"Data": [published], "Domain": "Wikipedia"}))
    assert list(load_dataset("triviaqa", path)) == [sample]
    with pytest.raises(DataError, match="has to be loaded by its path"):
        load("triviaqa", published)


def test_natural_questions() -> None:
    sample = load("natural-questions", NATURAL)
    assert sample.document.read() == "Velm\nVelm's mayor is Ada Lorn (since 1998), or Ben."
    assert evidence(sample) == ["Velm's mayor is Ada Lorn (since 1998), or Ben."]
    assert (sample.answers, sample.kind, sample.question) == (("Ada Lorn",), "extractive", "who is the mayor of velm")
    tokens = [{"token": token, "html_token": token[0] == "<"} for token in TOKENS]
    published = {key: value for key, value in NATURAL.items() if key != "document_text"} | {"document_tokens": tokens}
    assert load("natural-questions", published) == sample
    columns = {
        "id": "77",
        "question": {"text": "who is the mayor of velm"},
        "document": {"title": "Velm", "tokens": {"token": TOKENS, "is_html": [token[0] == "<" for token in TOKENS]}},
        "annotations": {
            "id": ["1"],
            "yes_no_answer": [-1],
            "long_answer": [{"start_token": 3, "end_token": 18}],
            "short_answers": [{"start_token": [8], "end_token": [10], "text": ["Ada Lorn"]}],
        },
    }
    assert load("natural-questions", columns) == sample


def annotation(*short: tuple[int, int], yes_no: str = "NONE", long: tuple[int, int] = (-1, -1)) -> dict[str, Any]:
    spans = [{"start_token": start, "end_token": end} for start, end in short]
    return {
        "long_answer": {"start_token": long[0], "end_token": long[1]},
        "short_answers": spans,
        "yes_no_answer": yes_no,
    }


def test_natural_questions_of_several_annotators() -> None:
    def annotated(*annotations: dict[str, Any]) -> Sample:
        return load("natural-questions", NATURAL | {"annotations": list(annotations)})

    shorts = [annotation((8, 10)), annotation((8, 9)), annotation((8, 10), (16, 17))]
    several = annotated(annotation(long=(3, 18)), *shorts)
    assert (several.answers, several.kind) == (("Ada Lorn", "Ada"), "extractive")
    assert evidence(several) == ["Ada Lorn"]
    listing = annotated(annotation((16, 17), (8, 10)), annotation((8, 9)))
    assert (listing.answers, listing.kind, listing.target) == (("Ada Lorn", "Ben"), "listing", "Ada Lorn and Ben")
    yes = annotated(annotation(yes_no="YES", long=(3, 18)), annotation((8, 10)))
    assert (yes.answers, yes.kind) == (("yes",), "yes-no")
    with pytest.raises(DataError, match=r"short_answers\[0\]: 'end_token' is 99; expected: at most 19"):
        annotated(annotation((8, 99)))


def test_ragbench() -> None:
    sample = load("ragbench", RAG)
    assert sample.document.read() == "A book. By Ada Lorn.\n\nOther."
    assert (sample.support, evidence(sample)) == (("By Ada Lorn.",), ["By Ada Lorn."])
    assert (sample.answers, sample.kind) == (("Ada Lorn wrote it.",), "hotpotqa")


def test_ms_marco(tmp_path: Path) -> None:
    sample = load("ms-marco", MARCO)
    assert sample.answers == ("A town", "Velm is a town.")
    assert (evidence(sample), sample.kind, sample.target) == (["Velm: a town."], "description", "A town")
    columns = {key: {"12": value} for key, value in (MARCO | {"wellFormedAnswers": "[]"}).items()}
    (tmp_path / "dev_v2.1.json").write_text(json.dumps(columns))
    (published,) = load_dataset("ms-marco", tmp_path / "dev_v2.1.json")
    assert (published.answers, published.document) == (("A town",), sample.document)


@pytest.mark.parametrize(
    ("kind", "value", "answers", "target"),
    [
        ("factoid", "RET", ("RET",), "RET"),
        ("factoid", ["RET", "ret"], ("RET", "ret"), "RET"),
        ("list", [["RET", "ret"], ["EDN3"]], ("RET", "EDN3"), "RET and EDN3"),
        ("list", ["RET", "EDN3"], ("RET", "EDN3"), "RET and EDN3"),
        ("yesno", "Yes", ("yes",), "yes"),
        ("yesno", ["no"], ("no",), "no"),
    ],
)
def test_bioasq(kind: str, value: Any, answers: tuple[str, ...], target: str) -> None:
    sample = load("bioasq", BIO | {"type": kind, "exact_answer": value})
    assert sample.document.read() == "The gene RET.\n\nRET again."
    assert (sample.answers, sample.target) == (answers, target)
    assert (sample.kind == "listing") == (kind == "list")


def test_longbench() -> None:
    sample = load("longbench-v2", BENCH)
    assert sample.question == "Which?\n(A) one\n(B) two\n(C) three\n(D) four"
    assert (sample.answers, sample.target, sample.kind) == (("B", "two"), "B", "Single-Document QA")
