"""The endpoint policy against a real server: what is sent, what comes back, and everything that can go wrong."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import partial
from itertools import accumulate
from typing import Any

import openai
import pytest
from chat_server import SECONDS, ChatServer, breaks_off, fails, hangs, loses_connection, says, sends, unused_port

from memfold.core.errors import CallError, ConfigError, Failure
from memfold.core.job import Job
from memfold.core.policy import Execution, Request
from memfold.core.registry import AnySystem
from memfold.core.scheduler import Scheduler
from memfold.core.system import Prefix, Rendered
from memfold.core.types import (
    Block,
    BlockRef,
    Call,
    Generate,
    HeadScore,
    Likelihood,
    Memory,
    Reply,
    SamplingParams,
    Text,
    Usage,
    Wants,
)
from memfold.endpoint.chat import Chat, _retry_after
from memfold.endpoint.model import EndpointModel
from memfold.endpoint.policy import EndpointPolicy, Retries
from memfold.systems.full.system import Full
from memfold.systems.recurrent.system import Recurrent
from memfold.systems.retrieval.system import Retrieval

FULL = Full.of({"chat_template": "message"})
TEXTS = ("Ada was born in Velm. ", "Lor met Ada there. ", "Velm lies by the sea. ")
AT_ONCE = Retries(3, 0.0)
OnText = Callable[[int, str], None]
HTML = b"<html><body>\n\nWelcome\n\n</body></html>"
KEY = "sk-very-secret"
STREAM = "text/event-stream"


def memory(count: int = 3) -> Memory:
    starts = list(accumulate(map(len, TEXTS), initial=0))
    blocks = [Block(n, 0, 6 * n, 6 * n + 6, starts[n], starts[n + 1], text=text) for n, text in enumerate(TEXTS)]
    return Memory("m", "full", {}, "", ("a.txt",), blocks[:count])


def call(question: str = "Who?", purpose: str = "answer", **sampling: Any) -> Call:
    wants = Generate(SamplingParams(**sampling))
    return Call(purpose, (Text("Read. "), BlockRef("m", 0), Text(question)), wants)


def policy(server: ChatServer, **settings: Any) -> EndpointPolicy:
    settings = {"retries": AT_ONCE, "timeout": SECONDS} | settings
    return EndpointPolicy(EndpointModel(server.url, "some-model"), **settings)


def outcomes(execution: Execution, requests: Sequence[Request]) -> list[Reply | Failure]:
    """What came of some calls, in their order."""
    done: dict[Request, Reply | Failure] = {}
    try:
        while len(done) < len(requests):
            done |= dict(execution.step())
    finally:
        execution.close()
    return [done[request] for request in requests]


def submitted(execution: Execution, calls: Sequence[Call], on_text: OnText | None = None) -> list[Request]:
    """Requests for some calls, whose text is heard with the number of its call."""
    requests = []
    for number, each in enumerate(calls):
        listen = None if on_text is None else partial(on_text, number)
        requests.append(Request(FULL, memory(), each, listen))
        execution.submit(requests[-1])
    return requests


def replies(server: ChatServer, *calls: Call, on_text: OnText | None = None, **settings: Any) -> list[Reply | Failure]:
    execution = policy(server, **settings).start()
    return outcomes(execution, submitted(execution, calls, on_text))


def into(pieces: list[tuple[int, str]]) -> OnText:
    return lambda number, text: pieces.append((number, text))


def test_a_call_is_one_message(chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    (reply,) = replies(chat_server, call("\nWho?", max_tokens=40))
    assert reply == Reply("yes", positions=6, usage=Usage(11, 3))
    assert chat_server.asked == [
        {
            "model": "some-model",
            "messages": [{"role": "user", "content": "Read. Ada was born in Velm. \nWho?"}],
            "max_tokens": 40,
            "temperature": 0.0,
        }
    ]
    assert chat_server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_messages_are_asked_without_a_memory(chat_server: ChatServer) -> None:
    chat_server.plan = [fails(400)]
    failed, reply = sorted(
        policy(chat_server).ask(["Is it?", "Is it not?"], SamplingParams(max_tokens=5)),
        key=lambda outcome: isinstance(outcome, Reply),
    )
    assert isinstance(failed, CallError)
    assert reply == Reply("yes", usage=Usage(11, 3))
    assert sorted(chat_server.messages) == ["Is it not?", "Is it?"]
    assert chat_server.asked[0]["max_tokens"] == 5
    assert policy(chat_server).ask([], SamplingParams()) == []


def test_sampling_is_sent_where_it_matters(chat_server: ChatServer) -> None:
    replies(chat_server, call(temperature=0.7, top_p=0.9, seed=4, top_k=20, repetition_penalty=1.1))
    sent = {name: value for name, value in chat_server.asked[0].items() if name not in ("model", "messages")}
    assert sent == {
        "max_tokens": 256,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 4,
        "top_k": 20,
        "repetition_penalty": 1.1,
    }
    assert chat_server.headers[0]["authorization"] == "Bearer unset"


def test_answers_are_streamed_and_other_replies_are_not(chat_server: ChatServer) -> None:
    chat_server.usual = says("in Velm it was")
    pieces: list[tuple[int, str]] = []
    note, answer = replies(chat_server, call("a", "update"), call("b"), on_text=into(pieces), max_concurrency=1)
    assert note == answer == Reply("in Velm it was", positions=6, usage=Usage(11, 3))
    assert pieces == [(1, "in"), (1, " Velm"), (1, " it"), (1, " was")]
    assert [body.get("stream", False) for body in chat_server.asked] == [False, True]


@pytest.mark.parametrize(
    ("said", "thought"),
    [("<think>Tor it is.</think> In Velm it was", "Tor it is."), ("Tor, or?</think>\nIn Velm it was", "Tor, or?")],
)
def test_thoughts_are_no_part_of_a_reply(chat_server: ChatServer, said: str, thought: str) -> None:
    chat_server.usual = says(said)
    pieces: list[tuple[int, str]] = []
    note, answer = replies(chat_server, call("a", "update"), call("b"), on_text=into(pieces), max_concurrency=1)
    assert isinstance(note, Reply)
    assert isinstance(answer, Reply)
    assert (note.text, note.thinking) == (answer.text, answer.thinking) == ("In Velm it was", thought)
    if said.startswith("<think>"):  # a server that leaves out the opening mark streams thoughts as a reply
        assert "".join(text for _, text in pieces) == "In Velm it was"


@pytest.mark.parametrize("purpose", ["update", "answer"])
def test_finish_and_usage_are_told(chat_server: ChatServer, purpose: str) -> None:
    chat_server.plan = [says("a b", "length", None), says("a b", "tool_calls")]
    cut, odd = replies(chat_server, call("Who?", purpose), call("Who?", purpose), on_text=into([]), max_concurrency=1)
    assert cut == Reply("a b", finish="length", positions=6, usage=Usage(9, 2))
    assert odd == Reply("a b", positions=6, usage=Usage(11, 3))
    assert cut.token_count == 2


def test_a_reply_without_content_is_empty(chat_server: ChatServer) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": None}, "finish_reason": "length"}
    chat_server.usual = sends(json.dumps({"choices": [choice]}).encode())
    (reply,) = replies(chat_server, call())
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish) == ("", "length")


@dataclass(frozen=True)
class Waits(Retries):
    """Remembers what the endpoint asked to wait, and does not wait."""

    asked: list[float] = field(default_factory=list)

    def pause(self, attempt: int, asked: float) -> float | None:
        self.asked.append(asked)
        return None if super().pause(attempt, asked) is None else 0.0


@pytest.mark.parametrize(
    "fault",
    [fails(408), fails(409), fails(429), fails(500), fails(503), breaks_off(""), loses_connection("")],
)
def test_what_may_pass_is_asked_again(chat_server: ChatServer, fault: Any) -> None:
    chat_server.plan = [fault, fault]
    pieces: list[tuple[int, str]] = []
    (reply,) = replies(chat_server, call(), on_text=into(pieces))
    assert isinstance(reply, Reply)
    assert (reply.text, pieces, len(chat_server.asked)) == ("yes", [(0, "yes")], 3)


def test_the_wait_that_an_endpoint_asks_for_is_kept(chat_server: ChatServer) -> None:
    chat_server.plan = [fails(429, retry_after="7"), fails(503, retry_after="2.5"), fails(500)]
    waits = Waits(3, 0.0)
    (reply,) = replies(chat_server, call(), retries=waits)
    assert isinstance(reply, Reply)
    assert waits.asked == [7.0, 2.5, 0.0]


def test_waits_grow_are_spread_and_end() -> None:
    retries = Retries(4, 1.0, 6.0)
    for attempt, longest in enumerate((1.0, 2.0, 4.0, 6.0)):
        drawn = {retries.pause(attempt, 0.0) for _ in range(20)}
        assert len(drawn) > 1
        assert all(wait is not None and longest / 2 <= wait <= longest for wait in drawn)
    assert retries.pause(4, 0.0) is None
    assert retries.pause(0, 5.0) == 5.0
    assert retries.pause(0, 6.5) is None


def test_a_wait_is_given_in_seconds_or_as_a_date() -> None:
    assert [_retry_after({"retry-after": value}) for value in ("3", "0.5", "-1", "soon", "")] == [3, 0.5, 0, 0, 0]
    assert 50 < _retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)}) <= 60
    assert _retry_after({"retry-after": formatdate(0)}) == _retry_after({}) == 0


@pytest.mark.parametrize("purpose", ["update", "answer"])
@pytest.mark.parametrize(
    ("fault", "message", "times"),
    [
        (fails(400, "context is 4096 tokens"), "400 Bad Request (context is 4096 tokens); if the text is too long", 1),
        (fails(401, f"wrong key {KEY}"), "401 Unauthorized (wrong key ***); set OPENAI_API_KEY", 1),
        (fails(403), "403 Forbidden (no luck); set OPENAI_API_KEY to a key with access to this model", 1),
        (fails(404, "no such\n  path"), "404 Not Found (no such path); check the address", 1),
        (
            fails(404, "no such\n  model"),
            "404 Not Found (no such model); check the model's name after #; an address",
            1,
        ),
        (fails(402), "402 Payment Required (no luck); check the plan and the balance", 1),
        (
            fails(429, "You exceeded your current quota"),
            "Requests (You exceeded your current quota); check the plan",
            1,
        ),
        (
            fails(400, "the tool is odd"),
            "400 Bad Request (the tool is odd); the endpoint does not take this request",
            1,
        ),
        (fails(400, ""), "400 Bad Request; if the text is too long for the model, ", 1),
        (fails(413), "413 Request Entity Too Large (no luck); if the text is too long for the model, ", 1),
        (fails(400, "max_tokens is too large: the maximum context length is 9"), "); if the text is too long", 1),
        (
            sends(b'{"detail": "wait"}', status=503),
            "503 Service Unavailable (wait), after 4 attempts; check the log",
            4,
        ),
        (sends(b'{"error": "no disk"}', status=507), "507 Insufficient Storage (no disk), after 4", 4),
        (
            sends(b'{"detail": [{"loc": ["body", "messages"], "msg": "too short"}, "odd"]}', status=422),
            "422 Unprocessable Entity (body.messages: too short; odd); the endpoint does not take",
            1,
        ),
        (sends(HTML, "text/html", 404), "404 Not Found (<html><body> Welcome </body></html>); check the address", 1),
        (fails(429), "429 Too Many Requests (no luck), after 4 attempts; try again later", 4),
        (fails(429, retry_after="3600"), "429 Too Many Requests (no luck), with a requested wait of 3600 s; try", 1),
        (fails(500, "x" * 999), f"500 Internal Server Error ({'x' * 200} ...), after 4 attempts; check", 4),
        (sends(b"", status=599), ": 599, after 4 attempts; check", 4),
        (says("no", "content_filter"), "the content filter stopped the reply; rephrase", 1),
    ],
)
def test_what_does_not_pass_is_one_clear_line(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch, fault: Any, message: str, times: int, purpose: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat_server.usual = fault
    (failure,) = replies(chat_server, call("Who?", purpose), on_text=into([]))
    assert isinstance(failure, Failure)
    assert (failure.boundary, failure.kind) == ("policy", "CallError")
    error = failure.exception()
    assert isinstance(error, CallError)
    assert (error.boundary, error.exit_code) == ("policy", 1)
    assert str(error) == str(failure)
    assert str(error).startswith(f"policy: endpoint {chat_server.url}, model 'some-model': ")
    assert message in str(error)
    assert "\n" not in str(error)
    assert KEY not in str(error)
    assert len(chat_server.asked) == times


@pytest.mark.parametrize(
    ("fault", "whole", "streamed"),
    [
        (sends(HTML, "text/html"), "the response is not valid JSON", "the response is text/html, not an event stream"),
        (sends(b"{"), "the response is not valid JSON (", "the response is not valid JSON ("),
        (sends(b'{"choices": []}'), "the response has no choices", "the response has no choices"),
        (sends(b'{"choices": "none"}'), "the response has no choices", "the response has no choices"),
        (sends(b"[1]"), "the response has no choices", "the response has no choices"),
        (sends(b'{"error": {"message": "full"}}'), "reported an error (full)", "reported an error (full)"),
        (sends(b'data: {"choices": []}\n\ndata: [DONE]\n\n', STREAM), "not valid JSON", "the response has no choices"),
        (sends(b"data: {\n\n", STREAM), "not valid JSON", "the response is not valid JSON ("),
        (sends(b'data: {"error": {"message": "full"}}\n\n', STREAM), "not valid JSON", "reported an error (full)"),
    ],
)
def test_nonsense_is_told_and_not_asked_for_again(
    chat_server: ChatServer, fault: Any, whole: str, streamed: str
) -> None:
    chat_server.usual = fault
    for purpose, message in (("update", whole), ("answer", streamed)):
        (failure,) = replies(chat_server, call("Who?", purpose), on_text=into([]))
        assert isinstance(failure, Failure)
        assert failure.kind == "CallError"
        assert message in str(failure)
        assert "; " in str(failure)
    assert len(chat_server.asked) == 2


@pytest.mark.parametrize(
    ("fault", "timeout", "reason"),
    [
        (breaks_off("in Velm"), SECONDS, "the reply was cut off after 7 characters"),
        (loses_connection("in Velm"), SECONDS, "the connection failed (peer closed connection"),
        (hangs("in Velm"), 0.8, "no response within 0.8 s"),
    ],
)
def test_a_reply_that_was_shown_is_not_asked_for_again(
    chat_server: ChatServer, fault: Any, timeout: float, reason: str
) -> None:
    chat_server.plan = [fault]
    pieces: list[tuple[int, str]] = []
    (failure,) = replies(chat_server, call(), on_text=into(pieces), timeout=timeout)
    assert isinstance(failure, Failure)
    assert reason in str(failure)
    assert (pieces, len(chat_server.asked)) == ([(0, "in"), (0, " Velm")], 1)


def test_nobody_at_the_address(chat_server: ChatServer) -> None:
    nowhere = EndpointModel(f"http://127.0.0.1:{unused_port()}/v1", "m")
    execution = EndpointPolicy(nowhere, retries=Retries(2, 0.0)).start()
    (failure,) = outcomes(execution, submitted(execution, [call()]))
    assert isinstance(failure, Failure)
    assert failure.kind == "CallError"
    assert "the connection failed (" in str(failure)
    assert str(failure).endswith("), after 3 attempts; check the address, and that the endpoint is running")


def test_an_address_that_never_connects() -> None:
    class ConnectTimeout(Exception):
        pass

    error = openai.APITimeoutError(None)  # type: ignore[arg-type]
    error.__cause__ = ConnectTimeout()
    fault = Chat("http://localhost/v1", "m", 600.0)._fault(error)
    assert (fault.what, fault.again) == ("no connection within 10 s", True)


@pytest.mark.parametrize("purpose", ["update", "answer"])
def test_an_endpoint_that_is_silent(chat_server: ChatServer, purpose: str) -> None:
    chat_server.plan = [hangs()]
    (late,) = replies(chat_server, call("Who?", purpose), on_text=into([]), timeout=0.5)
    assert isinstance(late, Reply)
    chat_server.usual = hangs()
    (failure,) = replies(chat_server, call("Who?", purpose), on_text=into([]), timeout=0.3, retries=Retries(1, 0.0))
    assert isinstance(failure, Failure)
    assert "no response within 0.3 s, after 2 attempts; check" in str(failure)


def test_calls_in_flight_are_bounded_and_replies_in_order(chat_server: ChatServer) -> None:
    together = threading.Barrier(3)

    def wait(body: dict[str, Any]) -> None:
        together.wait(SECONDS)
        time.sleep(0.02 if body["messages"][0]["content"].endswith(("0", "4")) else 0.0)

    chat_server.before = wait
    chat_server.usual = says(lambda message: f"to {message[-2:]}")
    pieces: list[tuple[int, str]] = []
    calls = [call(f"{number:02}") for number in range(12)]
    answers = replies(chat_server, *calls, on_text=into(pieces), max_concurrency=3)
    assert [reply.text for reply in answers if isinstance(reply, Reply)] == [f"to {n:02}" for n in range(12)]
    assert sorted(pieces) == sorted((n, word) for n in range(12) for word in ("to", f" {n:02}"))
    assert chat_server.most == 3


def test_one_failing_call_leaves_the_others_alone(chat_server: ChatServer) -> None:
    chat_server.plan = [says("one"), fails(401), says("three")]
    unread = replace(memory(), blocks=[replace(memory().blocks[0], text=None)])
    requests = [Request(FULL, about, call()) for about in (memory(), unread, memory(), memory())]
    execution = policy(chat_server, max_concurrency=1).start()
    for request in requests:
        execution.submit(request)
    first, second, third, fourth = outcomes(execution, requests)
    assert isinstance(first, Reply)
    assert isinstance(second, Failure)
    assert (second.boundary, second.kind) == ("policy", "DataError")
    assert "holds no text" in str(second)
    assert isinstance(third, Failure)
    assert "401" in str(third)
    assert isinstance(fourth, Reply)


@pytest.mark.parametrize(("fault", "text"), [(hangs(), ""), (hangs("in Velm"), "in Velm"), (fails(500), "")])
def test_a_cancelled_call_ends_and_frees_its_place(chat_server: ChatServer, fault: Any, text: str) -> None:
    chat_server.plan = [fault]
    pieces: list[tuple[int, str]] = []
    execution = policy(chat_server, max_concurrency=1, retries=Retries(1, SECONDS)).start()
    requests = submitted(execution, [call("a"), call("b")], into(pieces))

    def cancel() -> None:
        while len(chat_server.asked) < 1 or "".join(piece for _, piece in pieces) != text:
            time.sleep(0.01)
        execution.cancel(requests[0])

    threading.Thread(target=cancel, daemon=True).start()
    first, second = outcomes(execution, requests)
    assert isinstance(first, Reply)
    assert (first.text, first.finish) == (text, "cancelled")
    assert second == Reply("yes", positions=6, usage=Usage(11, 3))
    assert [message[-1] for message in chat_server.messages] == ["a", "b"]


def test_a_cancelled_reply_is_what_its_listener_was_given(chat_server: ChatServer) -> None:
    chat_server.usual = says(" ".join(map(str, range(200))))
    texts = [""] * 24
    execution = policy(chat_server).start()

    def listen(number: int, piece: str) -> None:
        texts[number] += piece
        execution.cancel(requests[number])

    requests = submitted(execution, [call("a")] * len(texts), listen)
    answers = outcomes(execution, requests)
    assert all(isinstance(reply, Reply) and reply.finish in ("cancelled", "stop") for reply in answers)
    assert [reply.text for reply in answers if isinstance(reply, Reply)] == texts


def test_a_call_that_nobody_wants_is_not_sent(chat_server: ChatServer) -> None:
    execution = policy(chat_server).start()
    requests = submitted(execution, [call("a"), call("b")])
    execution.cancel(requests[0])
    first, second = outcomes(execution, requests)
    assert first == Reply("", finish="cancelled", positions=6, usage=Usage(9, 0))
    assert isinstance(second, Reply)
    assert len(chat_server.asked) == 1


def test_calls_join_while_others_are_under_way(chat_server: ChatServer) -> None:
    held = threading.Event()
    chat_server.before = lambda body: None if body["messages"][0]["content"].endswith("b") else _wait(held)
    execution = policy(chat_server).start()
    (slow,) = submitted(execution, [call("a")])
    (quick,) = submitted(execution, [call("b")])
    assert [request for request, _ in execution.step()] == [quick]
    held.set()
    (reply,) = outcomes(execution, [slow])
    assert isinstance(reply, Reply)


def _wait(event: threading.Event) -> None:
    event.wait(SECONDS)


def test_a_quick_sample_never_waits_for_a_slow_one(chat_server: ChatServer) -> None:
    others = threading.Event()
    chat_server.before = lambda body: _wait(others) if body["messages"][0]["content"].startswith("slow") else None
    jobs = [Job(FULL, memory(), question) for question in ("first", "second", "third")]
    slow = replace(memory(), blocks=[replace(memory().blocks[0], text="slow")])
    order = []
    for number, trace in Scheduler(policy(chat_server), 4).run([Job(FULL, slow, "who?"), *jobs]):
        order.append(number)
        assert trace.failure is None
        if len(order) == 3:
            others.set()
    assert sorted(order[:3]) == [1, 2, 3]
    assert order[3] == 0


def test_it_runs_within_an_event_loop(chat_server: ChatServer) -> None:
    async def notebook() -> list[Reply | Failure]:
        return replies(chat_server, call())

    assert asyncio.run(notebook()) == [Reply("yes", positions=6, usage=Usage(11, 3))]


@pytest.mark.parametrize("raised", [BrokenPipeError, ValueError])
def test_what_a_listener_raises_is_not_a_failure_of_the_endpoint(
    chat_server: ChatServer, raised: type[Exception]
) -> None:
    def closed(number: int, text: str) -> None:
        raise raised

    with pytest.raises(raised):
        replies(chat_server, call(), on_text=closed)


@pytest.mark.parametrize(
    ("wants", "changed"),
    [
        (Generate(), {"slots": object()}),
        (Generate(), {"prefix": Prefix(())}),
        (Likelihood((1, 2)), {}),
        (HeadScore("gate"), {}),
    ],
)
def test_what_is_not_text_is_refused(chat_server: ChatServer, wants: Wants, changed: dict[str, Any]) -> None:
    class Other(Full):
        def render(self, *given: Any) -> Rendered:
            return replace(super().render(*given), **changed)

    execution = policy(chat_server).start()
    request = Request(Other.of({"chat_template": "message"}), memory(), replace(call(), wants=wants))
    execution.submit(request)
    (failure,) = outcomes(execution, [request])
    assert isinstance(failure, Failure)
    assert (failure.boundary, failure.kind) == ("policy", "ConfigError")
    assert "is an endpoint: it reads and writes text only" in str(failure)
    assert chat_server.asked == []


def test_the_systems_of_text_answer_through_it(chat_server: ChatServer) -> None:
    chat_server.usual = says(lambda message: "a note" if "Write down what" in message else r"So. \boxed{Velm}")
    settings = {"chat_template": "message"}
    systems: list[AnySystem] = [FULL, Retrieval.of(settings | {"top": 1}), Recurrent.of(settings)]
    jobs = [Job(system, memory(), "Where was Ada born?") for system in systems]
    traces = dict(Scheduler(policy(chat_server)).run(jobs))
    assert [trace.answer.text for trace in traces.values() if trace.answer] == ["Velm"] * 3
    assert [traces[number].cost.calls for number in range(3)] == [1, 1, 4]
    assert traces[2].cost.generated_tokens == 12
    request = "\nWhere was Ada born?\nWrite out the sentences of the text above that you need, then give the answer in "
    assert "".join(TEXTS) + request + "\\boxed{}." in chat_server.messages
    assert TEXTS[0] + request + "\\boxed{}." in chat_server.messages
    notes = [message for message in chat_server.messages if "Notes:\na note\n\nText" in message]
    assert [text in message for text, message in zip(TEXTS[1:], notes, strict=True)] == [True, True]
    assert "Notes:\n(nothing yet)\n\nText, part 1 of 3:\nAda was born" in "".join(chat_server.messages)


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "memfold.endpoint.chat")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'memfold\[endpoint\]'"):
        EndpointPolicy(EndpointModel("http://localhost/v1", "m"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_concurrency": 0}, "max_concurrency = 0 is not possible; allowed: 1 call or more"),
        ({"timeout": 0}, "timeout = 0 is not possible; allowed: more than 0 seconds"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EndpointPolicy(EndpointModel("http://localhost/v1", "m"), **settings)
    with pytest.raises(ConfigError, match="count = -1"):
        Retries(-1)
    with pytest.raises(ConfigError, match=r"first = 2\.0 is not possible; allowed: 0 to 1 seconds"):
        Retries(1, 2.0, 1.0)


def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "clé-secrète")
    with pytest.raises(ConfigError, match=r"^OPENAI_API_KEY contains a character that is not printable ASCII; set it"):
        EndpointPolicy(EndpointModel("http://localhost/v1", "m"))


@pytest.mark.parametrize("streamed", [False, True])
def test_completions_are_told_by_id_and_a_key_may_be_given(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    whole = {"id": "c7", "choices": [choice | {"message": {"role": "assistant", "content": "yes"}}]}
    chunk = {"id": "c7", "choices": [choice | {"delta": {"content": "yes"}}]}
    piece = sends(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n", STREAM)
    chat_server.plan = [piece if streamed else sends(json.dumps(whole).encode())]
    ids: list[str] = []
    pieces: list[tuple[int, str]] = []
    hear = into(pieces) if streamed else None
    (reply,) = replies(chat_server, call(), on_text=hear, key=KEY, on_completion=ids.append)
    assert isinstance(reply, Reply)
    assert (reply.text, ids) == ("yes", ["c7"])
    assert chat_server.headers[0]["authorization"] == f"Bearer {KEY}"
    with pytest.raises(ConfigError, match=r"^the API key contains a character that is not printable ASCII"):
        policy(chat_server, key="a\nb")
