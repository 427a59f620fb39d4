"""Asking: one question, many, question after question; and what cannot be asked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_result import Cli

from memfold import api
from memfold.backbone import policy
from memfold.backbone.decoding_row import DecodingRow
from memfold.backbone.folder import load_backbone
from memfold.cli.conversation import Unboxed
from memfold.core.system import SLOT, Rendered

FIELDS = {"answer", "recalled", "supported", "recalls", "system", "model", "citations", "usage", "seconds", "warning"}
FIELDS |= {"unmentioned", "withheld", "checked", "reply", "thinking", "finish"}
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
        cli("ask", folded, page.question, *model, "--style", style, "--no-unfold")  # random weights may write nothing
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
    result = cli("ask", folded, *model, stdin=f"\n{page.question}\nWho?\n \nWhere?\n".encode())
    assert result.code == 0
    assert result.err == ""
    assert result.out.count("tokens written") == 3
    assert "from      page.txt, characters" in result.out
    lines = cli("ask", folded, *model, "--json", stdin=b"Who?\nWhere?").out.splitlines()
    assert [json.loads(line).keys() for line in lines] == [ENDLESS, ENDLESS]
    assert cli("ask", folded, *model, stdin=b"Who \xff?\n").message.startswith("standard input is not UTF-8 text")


def test_a_failing_question_of_a_pipe_keeps_its_line_and_the_exit_code_says_so(
    cli: Cli, model: tuple[str, str]
) -> None:
    Path("short.txt").write_text("A short text.")
    questions = ("Who? " * 2048 + "\nWho?\n").encode()
    asked = ("ask", "short.txt", "--system", "full", *model)
    result = cli(*asked, "--json", stdin=questions)
    assert result.code == 1
    first, second = map(json.loads, result.out.splitlines())
    assert "window is 2048" in first["error"]
    assert first["answer"] == ""
    assert "error" not in second
    assert cli(*asked, stdin=questions).code == 1


def test_the_prompt_of_a_terminal_is_on_standard_error(
    cli: Cli, folded: str, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memfold.cli.conversation._at_terminal", lambda: True)
    result = cli("ask", folded, *model, stdin=b"Who?\n\nnever asked\n")
    assert result.code == 0
    assert result.out.count("tokens written") == 1
    assert "question" not in result.out
    assert re.search(r"The memory holds [\d,]+ tokens; an empty line or Ctrl-D ends the conversation", result.err)
    assert result.err.count("question") == 2


def test_the_box_of_an_answer_is_not_streamed() -> None:
    for reply, shown in [
        (r" It is in Velm. \boxed{Velm}", " It is in Velm. "),
        (r"a\boxed{{x} y}b\boxed{c", "ab"),
        (r"no \box here \bo", r"no \box here \bo"),
    ]:
        for size in (1, 3, 100):
            unboxed = Unboxed()
            parts = [reply[start : start + size] for start in range(0, len(reply), size)]
            assert "".join([*map(unboxed, parts), unboxed.rest()]) == shown


def test_a_file_of_questions_is_read_line_by_line(cli: Cli, folded: str, model: tuple[str, str]) -> None:
    Path("q.jsonl").write_text('\n{"question": "Who?\u2028Where?"}\n  \n{"question": "When?"}\n\n')
    records = [json.loads(line) for line in cli("ask", folded, "--questions", "q.jsonl", *model).out.splitlines()]
    assert [record["question"] for record in records] == ["Who?\u2028Where?", "When?"]
    form = '; write {"question": "..."}'
    for line, message in [
        ('{"question": 7}', f"q.jsonl, line 2: question = 7 is not a string{form}"),
        ('{"question": null}', f"q.jsonl, line 2: question = null is not a string{form}"),
        ('{"question": " "}', "q.jsonl, line 2: the question is empty; ask something"),
        ('{"question": "\\ud800"}', "q.jsonl, line 2: the question is not UTF-8 text: see character 1; correct it"),
        ('"Who?"', f"q.jsonl, line 2 has no question{form}"),
        ("Who?", "q.jsonl, line 2 is not JSON: "),
    ]:
        Path("q.jsonl").write_text(f"\n{line}\n")
        result = cli("ask", folded, "--questions", "q.jsonl", *model)
        assert result.code == 2
        assert result.message.startswith(message)


def test_an_answer_that_reads_text_again_is_streamed(
    cli: Cli, page: SimpleNamespace, folded: str, model: tuple[str, str]
) -> None:
    memory = api.open(folded, model=model[1]).unfolding(64)
    parts: list[str] = []
    response = memory.ask(page.question, parts.append)
    replies = [step.reply.text for step in response.trace.steps]
    assert len(replies) > 1
    assert len(parts) > 2
    assert "".join(parts) == "\n".join(replies[1:])


def test_what_cannot_be_asked(cli: Cli, page: SimpleNamespace, folded: str, model: tuple[str, str]) -> None:
    Path("bad.jsonl").write_text('{"question": "Who?"}\n{"query": "Who?"}\n')
    Path("none.jsonl").write_text("")
    cases = [
        ((folded, ""), "the question is empty; ask something"),
        ((folded, "  "), "the question is empty; ask something"),
        ((folded, "Who?", "--style", "brief"), "unknown style 'brief'; nearest: 'bare'; known: bare, free, recall"),
        ((folded, "Who?", "--style", "long"), "unknown style 'long'; known: bare, free, recall"),
        ((folded, "Who \udcff?"), "the question is not UTF-8 text: see character 5"),
        ((folded, "Who?", "--no-unfold", "--budget", 64), "--budget 64 has no effect with --no-unfold"),
        ((folded, "Who?", "--unfold", "--budget", 0), "--budget = 0 is not possible; allowed: 1 token or more"),
        ((folded, "Who?", "--questions", "bad.jsonl"), "give either QUESTION or --questions, not both"),
        ((folded, "--questions", "bad.jsonl"), "bad.jsonl, line 2"),
        ((folded, "--questions", "none.jsonl"), "none.jsonl holds no questions"),
        ((folded, "--questions", "missing.jsonl"), "missing.jsonl cannot be read: No such file or directory"),
        (("-",), "standard input holds the document; give QUESTION or --questions"),
        (("missing.fold", "Who?"), "no memory file at missing.fold"),
        ((page.path, "Who?", "--system", "full"), "the model's window is 2048"),
    ]
    for arguments, message in cases:
        result = cli("ask", *arguments, *model)
        assert result.code == 2, arguments
        assert message in result.message


def test_a_memory_of_another_kind_is_refused(cli: Cli, folded: str, models: dict[str, str]) -> None:
    first, second = ("--model", models["first"]), ("--model", models["second"])
    cases = [
        (second, "folded by model 'first', and model 'second' cannot read its slots; use the model that folded it"),
        ((*first, "--ratio", 4), "this memory was folded at ratio 16, not 4; leave the ratio out"),
        ((*first, "--system", "full"), "this memory was made by system 'pooled', not 'full'; leave the system out"),
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
        (
            whole.replace(b'"version":"2"', b'"version":"7"'),
            "has format version '7', but this version of memfold reads '1' and '2'",
        ),
        (b"Just a text.", "is not a memory file"),
    ]
    for data, message in cases:
        Path("bad.fold").write_bytes(data)
        for command in (("ask", "bad.fold", "Who?", *model), ("inspect", "bad.fold")):
            result = cli(*command)
            assert result.code == 2
            assert message in result.message


def test_the_calls_of_answers_are_written_for_inspect(cli: Cli) -> None:
    Path("notes.txt").write_text("Ada was born in Velm. Bel was born in Tor.\n" * 30)
    result = cli(
        "ask", "notes.txt", "Where was Ada born?", "--system", "recurrent", "--set", "chunk=64", "--trace", "a.jsonl"
    )
    assert result.code == 0
    shown = cli("inspect", "a.jsonl").out
    assert shown.startswith("question 1 (recurrent)\n  question  Where was Ada born?\n  step      1, update, block 0: ")
    exists = cli("ask", "notes.txt", "Who?", "--trace", "a.jsonl").message
    assert exists == "a.jsonl exists already; continue it with --resume (resume=True), or give another name"
    assert cli("ask", "notes.txt", "Who?", "--trace", "a.txt").message.startswith(
        "--trace a.txt is not possible; use a"
    )
    assert cli("ask", "notes.txt", "--trace", "b.jsonl").message.endswith("give one of them")


def test_a_gate_that_opens_nothing_is_no_empty_reply(cli: Cli) -> None:
    Path("notes.txt").write_text("The river Kido flows through the town of Duzonvi. " * 3)
    result = cli("ask", "notes.txt", "Which river flows through Mihagis?", "--system", "kvbank", "--json")
    assert result.code == 0
    record = json.loads(result.out)
    assert record["answer"] == "not in the text"
    assert record["reply"].startswith("The gate opened none of 1 blocks. The highest scores: block 0: 0.")
    assert "empty" not in (record["warning"] or "")
