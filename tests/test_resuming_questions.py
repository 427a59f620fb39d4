"""A question whose reading was interrupted goes on from its trace file: no call is repeated, and none is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from file_size_limit import file_size_limit
from scripted_policy import Answer, ScriptedPolicy

from memfold.api import fold_documents
from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import CallError, ConfigError, DataError, MemfoldError
from memfold.core.stored_trace import Asked, read_traces
from memfold.core.trace_file import TraceFile
from memfold.core.types import BlockRef, Call, Generate, Reply, SamplingParams, Step, Text
from memfold.folded import FoldedMemory
from memfold.response import Response
from memfold.session import Session
from memfold.systems.full.system import Full
from memfold.systems.recurrent.system import Recurrent

TEXT = "Ada was born in Velm. Lor met Ada there. Velm lies by the sea. " * 4
QUESTION = "Where was Ada born?"
SETTINGS = {"chunk": 32, "note": 16, "passes": 1}

Read = Callable[..., FoldedMemory]
Says = Callable[[Call], Answer]


def says(call: Call) -> Answer:
    """A note that depends on all before it, and is not ASCII; an answer from the last one."""
    texts = [part.text for part in call.parts if isinstance(part, Text)]
    note = texts[1].removeprefix("(nothing yet)")
    if call.purpose == "addition":
        return f"{note} Part {len(note)} and {next(part.index for part in call.parts if isinstance(part, BlockRef))}."
    return Reply(f"{note}\u2192", (7, 8), (-0.1, -1 / 3)) if call.purpose == "update" else Reply(f"Velm {len(note)}")


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> ScriptedPolicy:
    """Stands in for the model in every session."""
    scripted = ScriptedPolicy(says)
    monkeypatch.setattr(Session, "policy", lambda self: scripted)
    return scripted


@pytest.fixture
def read(policy: ScriptedPolicy, backbone: Backbone) -> Read:
    """Makes a memory that is read chunk by chunk."""

    def make(text: str = TEXT, model: Backbone = backbone, **settings: Any) -> FoldedMemory:
        session = Session(Recurrent.of(SETTINGS | settings), model)
        return fold_documents([Document("a.txt", text=text)], session)

    return make


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def events(path: Path) -> list[str]:
    return [line["event"] for line in lines(path)]


def told(response: Response) -> tuple[Any, ...]:
    """All of a response but its seconds."""
    cost = replace(response.trace.cost, seconds=0.0, first_token_seconds=0.0)
    return replace(response.trace, cost=cost), response.text, response.citations


def test_each_call_is_in_the_file_before_the_next_one_is_made(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    seen: list[list[str]] = []

    def look(call: Call) -> Answer:
        seen.append(events(path) if path.exists() else [])
        return says(call)

    policy.reply = look
    response = read().ask(QUESTION, trace=path)
    count = len(response.trace.steps)
    assert count > 4
    assert seen == [[], *(["asked"] + ["call"] * number for number in range(1, count))]
    assert events(path) == ["asked", *["call"] * count, "answered"]
    (stored,) = read_traces(path).values()
    assert tuple(stored.steps.values()) == response.trace.steps
    assert stored.record("x")["trace"]["answer"]["text"] == response.text == f"Velm {count - 1}"


@pytest.mark.parametrize("settings", [{}, {"parallel": True, "passes": 2, "note": 99}])
def test_the_calls_that_are_missing_are_made_and_no_other(
    read: Read, policy: ScriptedPolicy, path: Path, settings: dict[str, Any]
) -> None:
    whole = read(**settings).ask(QUESTION, trace=path)
    calls, written = [step.call for step in whole.trace.steps], path.read_bytes().splitlines(keepends=True)
    for kept in range(1, len(written) + 1):
        path.write_bytes(b"".join(written[:kept]))
        policy.calls.clear()
        steps: list[Step] = []
        again = read(**settings).ask(QUESTION, trace=path, resume=True, on_call=steps.append)
        assert policy.calls == calls[kept - 1 :]
        assert told(again) == told(whole)
        assert tuple(steps) == whole.trace.steps
        assert path.read_bytes().splitlines()[:-1] == [line.rstrip() for line in written[:-1]]


def test_half_a_line_at_the_end_is_left_out(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    """Wherever a kill cuts the file: what is kept is the calls whose lines are whole."""
    whole = read().ask(QUESTION, trace=path)
    data = path.read_bytes()
    torn = [data[:cut] for cut in range(0, len(data), 97)]
    torn.append(data.splitlines(keepends=True)[0] + b'{"event": "call", "case": "' + b"x" * len(data))
    for content in torn:
        path.write_bytes(content)
        kept = max(0, content.count(b"\n") - 1)
        policy.calls.clear()
        assert told(read().ask(QUESTION, trace=path, resume=True)) == told(whole)
        assert len(policy.calls) == len(whole.trace.steps) - kept
        assert events(path) == ["asked", *["call"] * len(whole.trace.steps), "answered"]


def test_a_line_that_lacks_nothing_but_its_end_is_kept(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    whole = read().ask(QUESTION, trace=path)
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:3]))
    policy.calls.clear()
    assert told(read().ask(QUESTION, trace=path, resume=True)) == told(whole)
    assert len(policy.calls) == len(whole.trace.steps) - 2
    assert events(path) == ["asked", *["call"] * len(whole.trace.steps), "answered"]


def interrupted(read: Read, policy: ScriptedPolicy, path: Path, calls: int = 2) -> bytes:
    """Store the first calls of a question, and return the file."""

    def stop(step: Step) -> None:
        if len(policy.calls) == calls:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read().ask(QUESTION, trace=path, on_call=stop)
    assert events(path) == ["asked", *["call"] * calls]
    policy.calls.clear()
    return path.read_bytes()


def test_what_does_not_match_is_refused_and_nothing_changes(
    read: Read, policy: ScriptedPolicy, path: Path, new_backbone: Callable[..., Backbone], backbone: Backbone
) -> None:
    before = interrupted(read, policy, path)
    other = new_backbone(seed=1)
    renamed = new_backbone(seed=1)
    renamed.name = "other"
    folded = read()
    folded.memory = replace(folded.memory, name="0" * 16)
    full = fold_documents([Document("a.txt", text=TEXT)], Session(Full(), backbone))
    ours, theirs = (f"{model.name!r} ({model.identity[:12]})" for model in (backbone, other))
    cases: list[tuple[FoldedMemory, str, str]] = [
        (read(), "Who?", f"for the question '{QUESTION}', not 'Who?'"),
        (read(TEXT + "More."), QUESTION, "about other documents than these"),
        (full, QUESTION, "of system 'recurrent', not 'full'"),
        (read(note=8), QUESTION, "with note = 16, not 8"),
        (read(style="bare"), QUESTION, "with style = 'recall', not 'bare'"),
        (read(chunk=16), QUESTION, "with chunk = 32, not 16"),
        (read(model=other), QUESTION, f"of model {ours}, not {theirs}"),
        (read(model=renamed), QUESTION, f"of model {ours}, not 'other' ({other.identity[:12]})"),
        (folded, QUESTION, "about another folding of these documents"),
    ]
    for memory, question, difference in cases:
        with pytest.raises(DataError) as raised:
            memory.ask(question, trace=path, resume=True)
        assert str(raised.value) == f"{path} holds calls {difference}; ask as it was asked, or give another name"
        assert (policy.calls, path.read_bytes()) == ([], before)
    assert read().ask(QUESTION, trace=path, resume=True).text


def test_another_precision_is_refused(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    before = interrupted(read, policy, path)
    memory = read()
    (stored,) = read_traces(path).values()
    model = replace(stored.asked.model, precision="bfloat16")
    with pytest.raises(DataError, match="holds calls of a model in float32, not in bfloat16; ask as it was asked"):
        TraceFile(path, [replace(stored.asked, model=model)], resume=True)
    asked = Asked.of(QUESTION, memory.session.system, memory.memory, memory.session.model)
    TraceFile(path, [asked], resume=True).close()
    assert path.read_bytes() == before


def test_a_call_that_differs_from_the_stored_one_is_refused(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    """As after a change of the prompts."""
    interrupted(read, policy, path)
    stored = lines(path)
    stored[2]["call"]["parts"][1]["text"] = "Other words: "
    torn = '{"event": "ca'
    path.write_text("".join(json.dumps(line) + "\n" for line in stored) + torn, encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(DataError) as raised:
        read().ask(QUESTION, trace=path, resume=True)
    message = "call 2 differs from the recorded one; repeat what was recorded, with the same version of memfold"
    assert str(raised.value) == f"{path}, question 1: {message}"
    with pytest.raises(DataError, match="call 2 differs"):
        list(read().answers([QUESTION], trace=path, resume=True))
    assert (policy.calls, path.read_bytes()) == ([], before)


def test_a_file_that_exists_is_refused_without_resume(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    before = interrupted(read, policy, path)
    for ask in (read().ask, lambda question, trace: list(read().answers([question], trace=trace))):
        with pytest.raises(DataError) as raised:
            ask(QUESTION, trace=path)  # type: ignore[operator]
        advice = "continue it with --resume (resume=True), or give another name"
        assert str(raised.value) == f"{path} exists already; {advice}"
        assert (policy.calls, path.read_bytes()) == ([], before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Notes of a day", "is not a trace; give a file that memfold ask --trace wrote"),
        ('{"case": "a", "reply": "x"}\n', "line 1 is not a line of a trace; give"),
        ('{"event": "asked", "case": "question 1"}\n', "line 1 is not a line of a trace; give"),
        ('{"event": "call", "case": "question 1", "number": 0}\n', "line 1 is not a line of a trace; give"),
        ('[1]\n{"event": "as', "line 1 is not a line of a trace; give"),
        ("\xff\n", "line 1 is not a line of a trace; give"),
    ],
)
def test_other_files_are_neither_continued_nor_changed(read: Read, path: Path, content: str, message: str) -> None:
    path.write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        read().ask(QUESTION, trace=path, resume=True)
    assert path.read_text(encoding="latin-1") == content


def test_a_line_that_is_damaged_is_named(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    interrupted(read, policy, path)
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(kept[0] + kept[1][:40] + b"\n" + kept[2])
    with pytest.raises(DataError, match=r"calls\.jsonl, line 2 is not a line of a trace"):
        read().ask(QUESTION, trace=path, resume=True)


def test_what_cannot_be_resumed(read: Read, path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*calls\.jsonl to continue; leave --resume \(resume=True\) out"):
        read().ask(QUESTION, trace=path, resume=True)
    with pytest.raises(ConfigError, match="resume = True is not possible; allowed: false without a trace to continue"):
        read().ask(QUESTION, resume=True)
    for wrong, message in (
        ({"trace": 3}, "trace must be a path"),
        ({"trace": path, "resume": 1}, "resume must be true or false, not int"),
        ({"on_call": "print"}, "on_call must be a function or None"),
    ):
        with pytest.raises(TypeError, match=message):
            read().ask(QUESTION, **wrong)  # type: ignore[arg-type]
    assert not path.exists()


def test_a_question_that_fails_goes_on_from_its_calls(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    whole = read().ask(QUESTION)
    policy.calls.clear()
    policy.reply = lambda call: says(call) if len(policy.calls) < 3 else CallError("policy", "the endpoint is gone")
    with pytest.raises(CallError, match="the endpoint is gone"):
        read().ask(QUESTION, trace=path)
    assert events(path) == ["asked", "call", "call", "answered"]
    (stored,) = read_traces(path).values()
    record = stored.record("question 1")
    assert (record["error"], record["unfinished"]) == ("policy: the endpoint is gone", False)
    policy.reply = says
    policy.calls.clear()
    assert told(read().ask(QUESTION, trace=path, resume=True)) == told(whole)
    assert len(policy.calls) == len(whole.trace.steps) - 2
    (stored,) = read_traces(path).values()
    assert (stored.is_answered, len(stored.steps)) == (True, len(whole.trace.steps))


def test_a_question_that_fails_before_its_first_call_leaves_nothing(
    read: Read, policy: ScriptedPolicy, path: Path
) -> None:
    policy.reply = lambda call: DataError("the text is too long")
    with pytest.raises(DataError, match="the text is too long"):
        read().ask(QUESTION, trace=path)
    assert not path.exists()


def test_several_questions_share_a_file(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    questions = [QUESTION, "Who met Ada?", "Where is Velm?"]
    whole = {number: told(response) for number, response in read().answers(questions)}
    count = len(policy.calls)
    policy.calls.clear()

    def stop(step: Step) -> None:
        if len(policy.calls) >= count // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(read().answers(questions, 2, trace=path, on_call=stop))
    kept = events(path).count("call")
    assert 0 < kept < count
    for asked in (questions[:1], [*questions[:1], "Who?", *questions[2:]]):
        with pytest.raises(
            DataError, match=r"holds calls for (question 2, which is not|the question 'Who met Ada\?',)"
        ):
            read().answers(asked, trace=path, resume=True)
    policy.calls.clear()
    again = {number: told(response) for number, response in read().answers(questions, trace=path, resume=True)}
    assert again == whole
    assert len(policy.calls) == count - kept
    assert len(read_traces(path)) == 3
    policy.calls.clear()
    before = path.read_bytes()
    assert dict(read().answers(questions, trace=path, resume=True)).keys() == whole.keys()
    assert (policy.calls, path.read_bytes()) == ([], before)


def test_parallel_calls_are_stored_in_the_order_in_which_they_end(path: Path, read: Read) -> None:
    memory = read()
    asked = [Asked.of(QUESTION, memory.session.system, memory.memory, memory.session.model)]
    steps = [
        Step(Call("gate", (Text(f"{number}"),), Generate(SamplingParams(4))), Reply(f"{number}")) for number in range(4)
    ]
    with TraceFile(path, asked) as file:
        for number in (2, 0, 3):
            file.add(0, number, steps[number])
    with TraceFile(path, asked, resume=True) as file:
        assert file.recorded(0) == (steps[0], None, steps[2], steps[3])
        assert file.recorded(1) == ()
        with pytest.raises(DataError, match=r"another process is writing .*calls\.jsonl; wait for it"):
            TraceFile(path, asked, resume=True)
        file.add(0, 0, steps[0])
        file.add(0, 1, steps[1])
    assert [line["number"] for line in lines(path)[1:]] == [2, 0, 3, 1]


def test_a_full_disk_keeps_the_calls_before_it(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    whole = read().ask(QUESTION, trace=path)
    size = len(b"".join(path.read_bytes().splitlines(keepends=True)[:4])) + 20
    path.unlink()
    with file_size_limit(size), pytest.raises(MemfoldError, match=r"cannot write .*calls\.jsonl: File too large"):
        read().ask(QUESTION, trace=path)
    assert len(path.read_bytes()) == size
    policy.calls.clear()
    assert told(read().ask(QUESTION, trace=path, resume=True)) == told(whole)
    assert len(policy.calls) == len(whole.trace.steps) - 3


def test_a_reply_that_is_not_utf8_is_stored(read: Read, policy: ScriptedPolicy, path: Path) -> None:
    policy.reply = lambda call: Reply("odd \ud800 caf\u00e9") if call.purpose == "update" else Reply("Velm")
    whole = read().ask(QUESTION, trace=path)
    policy.calls.clear()
    assert told(read().ask(QUESTION, trace=path, resume=True)) == told(whole)
    assert policy.calls == []
