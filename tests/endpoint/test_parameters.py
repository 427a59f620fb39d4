"""Parameters that a model does not take: they are left out after one refusal, in every form that servers use."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from chat_server import SECONDS, ChatServer, Respond, fails, refuses, says, sends, whole

from memfold.core.errors import CallError
from memfold.core.job import Job
from memfold.core.scheduler import answer
from memfold.core.types import Block, Memory, Reply, SamplingParams, Usage
from memfold.endpoint.model import EndpointModel
from memfold.endpoint.policy import EndpointPolicy, Retries
from memfold.endpoint.refusal import refusal
from memfold.systems.full.system import Full

SAMPLED = SamplingParams(max_tokens=7, temperature=0.5, top_p=0.9, seed=3, top_k=4, repetition_penalty=1.1)
LATER = ("max_tokens", "temperature", "top_p", "seed", "top_k", "repetition_penalty")


def new_model(server: ChatServer) -> EndpointModel:
    return EndpointModel(server.url, "some-model")


def policy(model: EndpointModel) -> EndpointPolicy:
    return EndpointPolicy(model, retries=Retries(0), timeout=SECONDS)


def streamed(model: EndpointModel, pieces: list[str]) -> Any:
    """A question that is answered as a stream."""
    block = Block(0, 0, 0, 6, 0, 21, text="Ada was born in Velm.")
    memory = Memory("m", "full", {}, "", ("a.txt",), [block])
    return answer(Job(Full.of({"chat_template": "message"}), memory, "Who?"), policy(model), pieces.append)


def unsupported(name: str) -> Respond:
    other = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
    error = {
        "message": f"Unsupported parameter: '{name}' is not supported with this model.{other}",
        "type": "invalid_request_error",
        "param": name,
        "code": "unsupported_parameter",
    }
    return sends(json.dumps({"error": error}).encode(), status=400)


def unsupported_value(name: str) -> Respond:
    said = f"Unsupported value: '{name}' does not support 0.5 with this model. Only the default (1) value is supported."
    return fails(400, said)


def extra_forbidden(name: str) -> Respond:
    detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}]
    return sends(json.dumps({"detail": detail}).encode(), status=422)


def unknown_name(name: str) -> Respond:
    said = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
    return sends(
        json.dumps([{"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}}]).encode(), status=400
    )


def plain_text(name: str) -> Respond:
    return sends(f"unrecognized request argument supplied: {name}".encode(), "text/plain", 400)


FORMS = [unsupported, unsupported_value, extra_forbidden, plain_text, unknown_name]


@pytest.mark.parametrize("say", FORMS)
@pytest.mark.parametrize("name", LATER)
def test_a_refused_parameter_is_left_out_once_and_remembered(
    chat_server: ChatServer, say: Callable[[str], Respond], name: str
) -> None:
    chat_server.usual = refuses([name], say, says("yes"))
    model = new_model(chat_server)
    (reply,) = policy(model).ask(["Who?"], SAMPLED)
    assert reply == Reply("yes", usage=Usage(11, 3))
    first, second = chat_server.asked
    assert name in first
    expected = {key: value for key, value in first.items() if key != name}
    assert second == expected | ({"max_completion_tokens": 7} if name == "max_tokens" else {})
    assert policy(model).ask(["Who?", "Where?"], SAMPLED) == [reply, reply]  # another policy of the same model
    assert len(chat_server.asked) == 4
    assert policy(new_model(chat_server)).ask(["Who?"], SAMPLED) == [reply]
    assert len(chat_server.asked) == 6


def test_several_parameters_are_refused_one_after_another(chat_server: ChatServer) -> None:
    chat_server.usual = refuses([*LATER, "max_completion_tokens"], unsupported, says("yes"))
    model = new_model(chat_server)
    replies = policy(model).ask(["a", "b", "c"], SAMPLED)
    assert replies == [Reply("yes", usage=Usage(11, 3))] * 3
    assert chat_server.asked[-1].keys() == {"model", "messages"}
    count = len(chat_server.asked)
    assert isinstance(policy(model).ask(["d"], SAMPLED)[0], Reply)
    assert len(chat_server.asked) == count + 1


@pytest.mark.parametrize("name", ["stream_options", "stream"])
def test_a_stream_is_asked_for_as_far_as_it_is_taken(chat_server: ChatServer, name: str) -> None:
    chat_server.usual = refuses([name], unsupported, says(r"in Velm it was \boxed{Velm}"))
    model, pieces = new_model(chat_server), list[str]()
    for calls in (2, 3):
        trace = streamed(model, pieces)
        assert trace.failure is None
        assert trace.steps[-1].reply.text == "".join(pieces) == r"in Velm it was \boxed{Velm}"
        assert len(chat_server.asked) == calls
        pieces.clear()
    assert ("stream" in chat_server.asked[-1]) is (name == "stream_options")
    assert "stream_options" not in chat_server.asked[-1]


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_a_server_that_does_not_stream_is_read_whole(chat_server: ChatServer, kind: str) -> None:
    chat_server.usual = whole("in Velm it was", kind)
    pieces: list[str] = []
    reply = streamed(new_model(chat_server), pieces).steps[-1].reply
    assert (reply.text, pieces, reply.usage) == ("in Velm it was", ["in Velm it was"], Usage(11, 3))
    assert len(chat_server.asked) == 1


def test_a_whole_reply_that_breaks_off_is_told(chat_server: ChatServer) -> None:
    chat_server.usual = sends(b'{"choices": [', "application/json", content_length="999")
    failure = streamed(new_model(chat_server), []).failure
    assert "the connection failed (" in str(failure)


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 7. This model's maximum context length is 4 tokens",
        "max_tokens must be at least 16",
        "the prompt is not supported",
        "",
    ],
)
def test_what_is_no_refusal_of_a_parameter_is_not_asked_again(chat_server: ChatServer, message: str) -> None:
    chat_server.usual = fails(400, message)
    (error,) = policy(new_model(chat_server)).ask(["Who?"], SAMPLED)
    assert isinstance(error, CallError)
    assert len(chat_server.asked) == 1


def test_a_model_that_refuses_what_was_left_out_ends(chat_server: ChatServer) -> None:
    chat_server.usual = unsupported("temperature")
    (error,) = policy(new_model(chat_server)).ask(["Who?"], SAMPLED)
    assert isinstance(error, CallError)
    assert "400 Bad Request (Unsupported parameter: 'temperature'" in str(error)
    assert len(chat_server.asked) == 2


def test_what_changes_replies_is_said_once(chat_server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    chat_server.usual = refuses(["temperature", "max_tokens"], unsupported, says("yes"))
    model = new_model(chat_server)
    with caplog.at_level(logging.WARNING, "memfold.endpoint.chat"):
        policy(model).ask(["Who?", "Where?", "When?"], SAMPLED)
        policy(model).ask(["Who?"], SAMPLED)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"endpoint {chat_server.url}, model 'some-model': does not take 'temperature', which is left out"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"message": "no"}, "no"),
        ({"error": {"message": "no"}}, "no"),
        ({"error": "no"}, "no"),
        ({"detail": "no"}, "no"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "odd"}, {"msg": "no"}]}, "body.seed: odd; no"),
        ([{"error": {"message": "no"}}], "no"),
        ("no", "no"),
        ({}, ""),
        (None, ""),
        (3, ""),
        ({"message": {"msg": 3}}, "3"),
    ],
)
def test_errors_are_read_in_their_usual_forms(body: object, message: str) -> None:
    assert refusal(400, body).message == message
