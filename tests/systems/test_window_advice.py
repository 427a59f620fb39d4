"""What a call past the window of its model advises can be followed from there."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from chat_server import ChatServer, fails

import memfold
from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import CallError, DataError
from memfold.core.registry import AnySystem, make_system, text_systems
from memfold.core.types import Reply
from memfold.core.window import LARGER, shorten
from memfold.systems.shared.folding import fold

QUESTION = "Where was Ada born?"
POOLED = {"pooled": {"wrapper": "none", "ratios": [16]}}
ADVISED = "fold the text with --system retrieval, or "
SENTENCES = "Ada Lorn was born in Velm, a town by the sea. "


def problem(system: AnySystem, text: str, backbone: Backbone) -> str | None:
    """The error of the first call that is too long, with notes as long as they may be; None if all calls fit."""
    (memory,) = fold(system, [Document("a.txt", text=text)], backbone)
    note = SENTENCES * 200
    while len(backbone.encode(note)) > getattr(system.read, "note", 0):
        note = note[: len(note) // 2]
    steps = system.answer(memory, QUESTION)
    calls = next(steps)
    try:
        while True:
            for call in calls:
                system.render(memory, call, backbone)
            calls = steps.send(tuple(Reply(note) for _ in calls))
    except StopIteration:
        return None
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("trained", [{}, POOLED], ids=["text", "slots"])
@pytest.mark.parametrize("window", [300, 700, 2048, 8192])
@pytest.mark.parametrize("name", text_systems())
def test_the_advised_systems_fit(
    new_backbone: Callable[..., Backbone], name: str, window: int, trained: object
) -> None:
    backbone = new_backbone(window=window)
    backbone.trained = dict(trained)  # type: ignore[call-overload]
    text = SENTENCES * (2 * window // len(backbone.encode(SENTENCES)))
    said = problem(make_system(name, backbone), text, backbone)
    if said is None:
        assert name != "full", "it reads everything"
        return
    assert said.endswith(LARGER)
    found = re.search(r"fold the text with --system (.*), or use a --model", said)
    advised = found[1].split(" or ") if found else []
    assert name not in advised
    assert ("pooled" in advised) <= bool(trained)
    assert ("retrieval" in advised) == (name != "retrieval") or window < 600
    assert all(problem(make_system(other, backbone), text, backbone) is None for other in advised)


def test_a_question_that_fills_the_window_is_to_be_shorter(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone(window=300)
    system = make_system("full", backbone)
    (memory,) = fold(system, [Document("a.txt", text="Ada.")], backbone)
    (call,) = next(system.answer(memory, QUESTION * 60))
    with pytest.raises(DataError, match="the model's window is 300; ask a shorter question, or"):
        system.render(memory, call, backbone)


@pytest.mark.parametrize(("system", "advice"), [("full", ADVISED), ("retrieval", ""), ("recurrent", ADVISED)])
@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_endpoint_that_refuses_a_text(chat_server: ChatServer, system: str, advice: str, status: int) -> None:
    chat_server.usual = fails(status, "the context is too long")
    memory = memfold.fold(SENTENCES * 900, system=system, model=f"{chat_server.url}#m")
    with pytest.raises(CallError) as caught:
        memory.ask(QUESTION)
    assert str(caught.value).endswith(f"; if the text is too long for the model, {advice}{LARGER}")


def test_an_endpoint_that_refuses_a_message_without_a_text(chat_server: ChatServer) -> None:
    from memfold.session import check_reached, load

    chat_server.usual = fails(400)
    with pytest.raises(CallError, match=r"400 Bad Request .*; the endpoint does not take this request") as caught:
        check_reached(load(f"{chat_server.url}#m"))
    assert "--system" not in str(caught.value)


def test_slots_count_only_for_a_model_that_was_trained_for_them(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone(window=2048)
    assert shorten("full", backbone, 8000, 1800) == f"fold the text with --system retrieval or recurrent, or {LARGER}"
    backbone.trained = POOLED
    assert "--system pooled or retrieval" in shorten("full", backbone, 8000, 1800)
    assert "--system retrieval or recurrent," in shorten("full", backbone, 80_000, 1800)
