"""A real HTTP server on this machine that speaks the chat protocol, or fails at it in the ways that servers do."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Respond = Callable[["Handler", Body], None]
SECONDS = 5  # the longest that anything here waits for anything


class ChatServer(ThreadingHTTPServer):
    """Answers with `plan` in turn, then with `usual`; `asked` are the requests in the order of their arrival.

    `listed` is the list of its models as it is sent; with None there is none.
    `before` runs for each request that is in flight; `most` is how many were at one time.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[Respond] = []
        self.usual: Respond = says("yes")
        self.before: Callable[[Body], None] = lambda body: None
        self.listed: Any = {"object": "list", "data": [{"id": "some-model", "object": "model"}]}
        self.asked: list[Body] = []
        self.headers: list[Mapping[str, str]] = []
        self.closing = threading.Event()
        self.most = self._inside = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def messages(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.asked]

    def take(self, body: Body, headers: Mapping[str, str]) -> Respond:
        with self._lock:
            self.asked.append(body)
            self.headers.append(headers)
            self._inside += 1
            self.most = max(self.most, self._inside)
            respond = self.plan.pop(0) if self.plan else self.usual
        self.before(body)
        with self._lock:  # before anything is sent: the client may ask the next at once
            self._inside -= 1
        return respond

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/chat/completions"
        self.server.take(body, dict(self.headers))(self, body)

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        listed = self.server.listed
        if listed is None:
            self.send(b'{"detail": "Not Found"}', "application/json", 404)
            return
        self.send(listed if isinstance(listed, bytes) else json.dumps(listed).encode(), "application/json")

    def send(self, body: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer; the connection ends with it, as it does in HTTP/1.0."""
        self.send_response(status)
        for name, value in ({"content-type": kind} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def says(text: str | Callable[[str], str], finish: str = "stop", usage: tuple[int, int] | None = (11, 3)) -> Respond:
    """A reply, whole or word by word as it was asked for; a function makes it from the message."""

    def respond(handler: Handler, body: Body) -> None:
        reply = text(body["messages"][0]["content"]) if callable(text) else text
        if body.get("stream"):
            handler.send(b"".join(events(reply, finish, usage)) + b"data: [DONE]\n\n", "text/event-stream")
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": finish}
        handler.send(json.dumps({"choices": [choice]} | counted(usage)).encode(), "application/json")

    return respond


def events(text: str, finish: str | None = "stop", usage: tuple[int, int] | None = None) -> list[bytes]:
    """The chunks of a stream, a word each; `finish` None leaves it without its end."""
    words = [word for word in text.replace(" ", "\0 ").split("\0") if word]
    choices: list[Body] = [{"index": 0, "delta": {"content": word}, "finish_reason": None} for word in words]
    if finish is not None:
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    chunks: list[Body] = [{"choices": [choice]} for choice in choices]
    if usage is not None:
        chunks.append({"choices": []} | counted(usage))
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]


def counted(usage: tuple[int, int] | None) -> Body:
    return {} if usage is None else {"usage": dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))}


def sends(body: bytes, kind: str = "application/json", status: int = 200, **headers: str) -> Respond:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, _: handler.send(body, kind, status, named)


def fails(status: int, message: str = "no luck", **headers: str) -> Respond:
    return sends(json.dumps({"error": {"message": message}}).encode(), status=status, **headers)


def refuses(names: Sequence[str], say: Callable[[str], Respond], otherwise: Respond) -> Respond:
    """Refuses requests with any of these parameters, the first of them by name; other requests are answered."""

    def respond(handler: Handler, body: Body) -> None:
        refused = [name for name in names if name in body]
        (say(refused[0]) if refused else otherwise)(handler, body)

    return respond


def whole(text: str, kind: str = "application/json") -> Respond:
    """A reply as a whole, even if a stream was asked for."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return sends(json.dumps({"choices": [choice]} | counted((11, 3))).encode(), kind)


def breaks_off(text: str) -> Respond:
    """A stream that ends as if it were complete, without a finish."""
    return lambda handler, _: handler.send(b"".join(events(text, None)), "text/event-stream")


def loses_connection(text: str) -> Respond:
    """A stream in HTTP/1.1 that ends within a chunk."""

    def respond(handler: Handler, _: Body) -> None:
        handler.protocol_version = "HTTP/1.1"
        data = b"".join(events(text, None))
        headers = {"transfer-encoding": "chunked", "connection": "close"}
        handler.send(f"{len(data) + 1:x}\r\n".encode() + data, "text/event-stream", headers=headers)

    return respond


def hangs(text: str = "") -> Respond:
    """Sends the beginning of a stream, if any, and then nothing more while the test lasts."""

    def respond(handler: Handler, _: Body) -> None:
        if text:
            handler.send(b"".join(events(text, None)), "text/event-stream")
        handler.server.closing.wait(SECONDS)

    return respond


def unused_port() -> int:
    """A port that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
