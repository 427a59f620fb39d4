from __future__ import annotations

import sys

import pytest
from chat_server import ChatServer, unused_port
from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.core.document import Document, chunks
from memfold.core.errors import ConfigError
from memfold.core.registry import make_system
from memfold.endpoint.model import EndpointModel, is_address, open_endpoint

REMOTE = EndpointModel("http://localhost/v1", "some-model")
WORDS = "Ada Brisk was born in Velm, on the 3rd of May 1871; internationally known. "


@settings(deadline=None)
@given(st.text())
def test_text_comes_back_from_its_tokens(text: str) -> None:
    tokens, offsets = REMOTE.tokenize(text)
    assert tokens == REMOTE.encode(text)
    assert REMOTE.decode(tokens) == text
    assert [end for _, end in offsets[:-1]] == [start for start, _ in offsets[1:]]
    assert "".join(text[start:end] for start, end in offsets) == text


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Ada was born", ["Ada", " was", " born"]),
        ("known internationally.", ["known", " intern", "ationa", "lly."]),
        ("two  spaces\n\nand lines", ["two", "  ", "spaces", "\n\n", "and", " lines"]),
        ("\0zero", ["\0", "zero"]),
        ("東京タワー", ["東京", "タワ", "ー"]),
        ("", []),
    ],
)
def test_a_token_is_a_word_or_a_piece_of_one(text: str, tokens: list[str]) -> None:
    assert [REMOTE.decode([token]) for token in REMOTE.encode(text)] == tokens


def test_tokens_are_about_as_long_as_those_of_other_tokenizers() -> None:
    assert 3.5 < len(WORDS) / len(REMOTE.encode(WORDS)) < 4.5
    assert REMOTE.decode([REMOTE.end_token]) == ""


def test_documents_are_cut_by_its_tokens() -> None:
    cut = list(chunks(Document("a.txt", WORDS * 500), REMOTE.tokenize, 64))
    assert "".join(chunk.text for chunk in cut) == WORDS * 500
    assert {len(chunk.tokens) for chunk in cut[:-1]} == {64}


def test_what_needs_weights_is_refused() -> None:
    assert not REMOTE.has_weights
    with pytest.raises(ConfigError, match=r"'some-model' is an endpoint, but its weights are needed here"):
        REMOTE.weights()
    for name in ("model", "tokenizer", "heads", "dtype", "device"):
        assert not hasattr(REMOTE, name)
    with pytest.raises(ConfigError, match=r"'pooled' is not possible with model 'some-model'.*full, retrieval"):
        make_system("pooled", REMOTE)
    assert repr(REMOTE) == "EndpointModel('http://localhost/v1', 'some-model')"


def test_systems_of_text_speak_as_a_user_does() -> None:
    for name in ("full", "retrieval", "recurrent"):
        assert make_system(name, REMOTE).settings["chat_template"] == "message"


def test_an_endpoint_reads_no_slots() -> None:
    assert REMOTE.readable == ()


@pytest.mark.parametrize(
    ("model", "url", "name"),
    [
        ("http://localhost:8000/v1#qwen", "http://localhost:8000/v1", "qwen"),
        ("https://host/api/v1/#org/Model-7B:free", "https://host/api/v1", "org/Model-7B:free"),
        ("HTTP://[::1]:80/v1#m", "http://[::1]:80/v1", "m"),
    ],
)
def test_an_address_names_an_endpoint_and_its_model(model: str, url: str, name: str) -> None:
    assert is_address(model)
    endpoint = open_endpoint(model)
    assert (endpoint.url, endpoint.name) == (url, name)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("http://#m", "not the address of an endpoint; write http://HOST:PORT/v1#NAME"),
        ("http://host:99999/v1#m", "not a valid address"),
        ("http://host:port/v1#m", "not a valid address"),
        ("http://host:0/v1#m", "not the address"),
        ("http://ho st/v1#m", "not the address"),
        ("http://[::1/v1#m", "not a valid address"),
        ("http://host/v1?key=1#m", "not the address"),
        ("http://me:sesame@host/v1#m", "a user name or password is not possible"),
    ],
)
def test_other_addresses_are_refused(model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        open_endpoint(model)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize(
    "listed",
    [
        {"object": "list", "data": [{"id": "org/Model-7B:free"}]},
        {"data": [{"id": "org/Model-7B:free"}, {"id": "org/Model-7B:free"}, {}]},
        {"models": [{"name": "org/Model-7B:free"}]},
        ["org/Model-7B:free"],
    ],
)
def test_an_address_without_a_name_takes_the_only_model(chat_server: ChatServer, listed: object) -> None:
    chat_server.listed = listed
    for address in (chat_server.url, f"{chat_server.url}/", f"{chat_server.url}#"):
        assert open_endpoint(address).identity == f"{chat_server.url}#org/Model-7B:free"
    assert chat_server.asked == []


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"data": [{"id": "b"}, {"id": "a"}]}, "which lists b, a; write"),
        ([f"m{number}" for number in range(23)], "m18, m19 and 3 more; write"),
        ({"data": []}, "which lists none; write"),
        ({"data": "x"}, "which lists none; write"),
        (3, "which lists none; write"),
        (None, r"and its list cannot be read: 404 Not Found \(Not Found\); write"),
        (b"<html>", r"and its list cannot be read: the response is not valid JSON \(.*\); write"),
    ],
)
def test_an_address_without_a_name_is_refused_if_that_leaves_the_model_open(
    chat_server: ChatServer, listed: object, message: str
) -> None:
    chat_server.listed = listed
    start = f"model '{chat_server.url}' does not name a model of the endpoint"
    with pytest.raises(ConfigError, match=f"^{start}.*{message} {chat_server.url}#NAME$") as refused:
        open_endpoint(chat_server.url)
    assert "\n" not in str(refused.value)


def test_an_address_without_a_name_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{unused_port()}/v1"
    with pytest.raises(ConfigError, match=rf"cannot be read: the connection failed \(.*; write {url}#NAME"):
        open_endpoint(url)
    monkeypatch.delitem(sys.modules, "memfold.endpoint.chat", raising=False)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=f"does not name a model of the endpoint; write {url}#NAME"):
        open_endpoint(url)


def test_names_and_folders_are_no_addresses() -> None:
    assert not any(map(is_address, ("tiny", "someone/model", "./http", "ftp://host/v1#m")))
