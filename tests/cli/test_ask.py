"""Asking: one question, many, question after question; and what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_result import Cli

from memfold.backbone import familiarity, policy
from memfold.backbone.decoding_row import DecodingRow
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.core.system import SLOT, Rendered

FIELDS = {"answer", "recalled", "system", "model", "citations", "usage", "seconds", "warning"}
ENDLESS = FIELDS | {"passages"}  # of random weights, which find no end
USAGE = {"document_tokens", "memory_slots", "decoder_positions", "effective_ratio", "calls", "generated_tokens"}
SECONDS = {"fold", "first_token", "total"}


@pytest.fixture
def folded(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> str:
    """A memory file of the page."""
    assert cli("fold", page.path, "-o", "page.fold", *model).code == 0
    return "page.fold"


def test_json_has_the_agreed_fields(cli: Cli, page: SimpleNamespace, folded: str, model: tuple[str, str]) -> None:
    record = cli("ask", folded, page.question, *model, "--json").record
    assert record.keys() == ENDLESS
    assert (record["system"], record["model"]) == ("pooled", "first")
    assert record["warning"].startswith("the reply did not end within 12 tokens")
    assert record["usage"].keys() == USAGE
    assert record["usage"]["decoder_positions"] == record["usage"]["memory_slots"] + 2
    assert record["seconds"].keys() == SECONDS
    assert record["seconds"]["fold"] == 0
    for citation in record["citations"]:
        assert citation["source"] == "page.txt"
        assert citation["text"] == page.text[citation["start"] : citation["end"]]


def test_a_document_is_folded_on_the_spot(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    folded = cli("ask", page.path, page.question, *model, "--json").record
    assert folded["seconds"]["fold"] > 0
    found = cli("ask", page.path, page.question, *model, "--system", "retrieval")
    assert found.code == 0
    assert "page.txt, characters" in found.out
    piped = cli("ask", "-", page.question, *model, "--json", stdin=page.text.encode())
    assert piped.record["answer"] == folded["answer"]


def test_styles_ask_differently(
    cli: Cli, page: SimpleNamespace, folded: str, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, asked = policy.DecodingRow, []
    backbone = load_backbone(model[1])

    def spy(rendered: Rendered, *rest: Any) -> DecodingRow:
        asked.append(backbone.decode([token for token in rendered.tokens if token != SLOT]))
        return plain(rendered, *rest)

    monkeypatch.setattr(policy, "DecodingRow", spy)
    for style in ("recall", "bare", "free"):
        assert cli("ask", folded, page.question, *model, "--style", style).code == 0
    assert asked == [f"\n{page.question}\nRecall:", f"\n{page.question}\nAnswer:", f"\n{page.question}\nRecall?"]


def test_a_file_of_questions_gives_a_line_each(
    cli: Cli, page: SimpleNamespace, folded: str, model: tuple[str, str]
) -> None:
    questions = [page.question, "Who?", "Where was it?"]
    Path("q.jsonl").write_text("".join(json.dumps({"question": q, "answers": []}) + "\n" for q in questions))
    result = cli("ask", folded, "--questions", "q.jsonl", *model)
    assert result.code == 0
    records = [json.loads(line) for line in result.out.splitlines()]
    assert [record["question"] for record in records] == questions
    assert records[0].keys() == ENDLESS | {"question"}
    single = cli("ask", folded, questions[2], *model, "--json").record
    assert records[2]["answer"] == single["answer"]


def test_a_failing_question_is_data_and_the_exit_code_says_so(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str]
) -> None:
    Path("short.txt").write_text("A short text.")
    Path("q.jsonl").write_text(
        json.dumps({"question": "Who? " * 2048}) + "\n" + json.dumps({"question": "Who?"}) + "\n"
    )
    result = cli("ask", "short.txt", "--questions", "q.jsonl", "--system", "full", *model)
    assert result.code == 1
    first, second = map(json.loads, result.out.splitlines())
    assert "window is 2048" in first["error"]
    assert "error" not in second


def test_question_after_question(cli: Cli, page: SimpleNamespace, folded: str, model: tuple[str, str]) -> None:
    result = cli("ask", folded, *model, stdin=f"{page.question}\nWho?\n\nnever asked\n".encode())
    assert result.code == 0
    assert result.out.count("answer    ") == 2
    assert "from      page.txt, characters" in result.out
    lines = cli("ask", folded, *model, "--json", stdin=b"Who?\nWhere?").out.splitlines()
    assert [json.loads(line).keys() for line in lines] == [ENDLESS, ENDLESS]


def test_a_strange_text_is_told(
    cli: Cli, page: SimpleNamespace, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(models["first"])
    backbone.familiar_loss = 2.0
    save_backbone(backbone, tmp_path / "wary")
    monkeypatch.setattr(familiarity, "loss_of", lambda backbone, text: 9.0 if "secret" in text else 1.0)
    familiar = cli("ask", page.path, page.question, "--model", tmp_path / "wary", "--json").record
    assert "unlike the training text" not in familiar["warning"]
    Path("odd.txt").write_text("Nothing here. A secret stands in the second sentence. The end.")
    record = cli("ask", "odd.txt", "Where is the secret?", "--model", tmp_path / "wary", "--json").record
    assert "unlike the training text of wary (9.0 nats per token, where up to 2.0 is familiar)" in record["warning"]
    assert "--model" in record["warning"]
    assert record["passages"][0]["text"] == "A secret stands in the second sentence."
    shown = cli("ask", "odd.txt", "Where is the secret?", "--model", tmp_path / "wary").out
    assert "not to be trusted" in shown
    assert 'passage   odd.txt, characters 14-53: "A secret stands' in shown


def test_what_cannot_be_asked(cli: Cli, page: SimpleNamespace, folded: str, model: tuple[str, str]) -> None:
    Path("bad.jsonl").write_text('{"question": "Who?"}\n{"query": "Who?"}\n')
    Path("none.jsonl").write_text("")
    cases = [
        ((folded, ""), "the question is empty; ask something"),
        ((folded, "  "), "the question is empty; ask something"),
        ((folded, "Who?", "--style", "brief"), "style 'brief' is not possible; allowed: bare, recall, free"),
        ((folded, "Who?", "--questions", "bad.jsonl"), "either one QUESTION or --questions, not both"),
        ((folded, "--questions", "bad.jsonl"), "bad.jsonl, line 2"),
        ((folded, "--questions", "none.jsonl"), "none.jsonl holds no questions"),
        ((folded, "--questions", "missing.jsonl"), "cannot read missing.jsonl"),
        (("-",), "standard input holds the text"),
        (("missing.fold", "Who?"), "no memory file at missing.fold"),
        ((page.path, "Who?", "--system", "full"), "the model's window is 2048"),
    ]
    for arguments, message in cases:
        result = cli("ask", *arguments, *model)
        assert result.code == 2, arguments
        assert message in result.message


def test_a_memory_of_another_kind_is_refused(cli: Cli, folded: str, models: dict[str, str]) -> None:
    prints = [load_backbone(folder).fingerprint() for folder in models.values()]
    first, second = ("--model", models["first"]), ("--model", models["second"])
    cases = [
        (second, f"model and tokenizer {prints[0]!r}, the reader knows {prints[1]!r}"),
        ((*first, "--ratio", 4), "the memory has ratio 16, the reader 4"),
        ((*first, "--system", "full"), "the memory is of system 'pooled', the reader of 'full'"),
    ]
    for arguments, message in cases:
        result = cli("ask", folded, "Who?", *arguments)
        assert result.code == 2
        assert message in result.message


def test_a_damaged_memory_is_refused(cli: Cli, folded: str, model: tuple[str, str]) -> None:
    whole = Path(folded).read_bytes()
    altered = bytearray(whole)
    altered[-100] ^= 1
    cases = [
        (whole[:-1], "is truncated"),
        (whole[:100], "is truncated"),
        (bytes(altered), "was altered after it was written"),
        (whole.replace(b'"version":"1"', b'"version":"7"'), "has format version '7', this memfold reads version '1'"),
        (b"Just a text.", "is not a memory file"),
    ]
    for data, message in cases:
        Path("bad.fold").write_bytes(data)
        for command in (("ask", "bad.fold", "Who?", *model), ("inspect", "bad.fold")):
            result = cli(*command)
            assert result.code == 2
            assert message in result.message
