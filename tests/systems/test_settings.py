"""What every system says of its settings, its training and its costs, without folding anything."""

from __future__ import annotations

from dataclasses import asdict
from random import Random
from typing import Any

import pytest
import torch

from memfold.core.errors import CheckpointError, ConfigError
from memfold.core.footprint import Footprint
from memfold.core.registry import SYSTEMS, AnySystem, system_class
from memfold.core.system import USUAL_RATIO, Capabilities
from memfold.core.types import Block, BlockRef, Call, Memory
from memfold.systems.full.system import Full, FullFold, FullTrain
from memfold.systems.kvbank.settings import KvbankFold, KvbankRead, KvbankTrain
from memfold.systems.kvbank.system import Kvbank
from memfold.systems.pooled.settings import PooledFold, PooledRead, PooledTrain
from memfold.systems.pooled.system import Pooled
from memfold.systems.recurrent.system import Recurrent, RecurrentFold, RecurrentRead
from memfold.systems.retrieval.system import Retrieval, RetrievalFold, RetrievalRead

TEXT_SYSTEMS = ("full", "recurrent", "retrieval")
# settings by name, and the same in their groups
MADE: dict[str, tuple[dict[str, Any], AnySystem]] = {
    "pooled": (
        {"ratio": 8, "wrapper": "slot", "style": "bare", "unfold": 9, "ratios": [4, 8], "max_gap": 5},
        Pooled(
            PooledFold(ratio=8, wrapper="slot"),
            PooledRead(style="bare", unfold=9),
            PooledTrain(ratios=(4, 8), max_gap=5),
        ),
    ),
    "kvbank": (
        {"ratio": 2, "compressor": "norm", "gate": "bm25", "most": 3, "ratios": [2, 4], "gate_rank": 4},
        Kvbank(
            KvbankFold(ratio=2, compressor="norm"),
            KvbankRead(gate="bm25", most=3),
            KvbankTrain(ratios=(2, 4), gate_rank=4),
        ),
    ),
    "full": (
        {"chunk": 64, "read_loss": False},
        Full(FullFold(chunk=64), train=FullTrain(read_loss=False)),
    ),
    "retrieval": (
        {"chunk": 32, "style": "free", "top": 2},
        Retrieval(RetrievalFold(chunk=32), RetrievalRead(style="free", top=2)),
    ),
    "recurrent": (
        {"chunk": 512, "chat_template": "message", "note": 40},
        Recurrent(RecurrentFold(chunk=512), RecurrentRead(chat_template="message", note=40)),
    ),
}


def groups(system: AnySystem) -> tuple[object, object, object]:
    return system.fold, system.read, system.train


def test_every_system_is_tested_here() -> None:
    assert set(MADE) == set(SYSTEMS) == {"pooled", "kvbank", *TEXT_SYSTEMS}


# Settings by name.


@pytest.mark.parametrize(
    ("name", "fold", "read", "train"),
    [
        (
            "pooled",
            "ratio groups shortest longest window mask pooling projection wrapper positions chunk "
            "start_token end_token adapters",
            "style chat_template max_tokens thinking repetition_penalty cite unfold doubt candidates gap draw",
            "ratios max_gap rank",
        ),
        ("full", "chunk", "style chat_template max_tokens thinking repetition_penalty", "read_loss"),
        ("retrieval", "chunk", "style chat_template max_tokens thinking repetition_penalty top", ""),
        (
            "recurrent",
            "chunk",
            "style chat_template max_tokens thinking repetition_penalty "
            "note overflow passes candidates stop parallel questions about prompts adapters",
            "rank unchanged",
        ),
    ],
)
def test_the_names_of_all_settings(name: str, fold: str, read: str, train: str) -> None:
    """No name is in two groups; a trace records what folding fixes and how it was read, not what training varies."""
    names = f"{fold} {read} {train}".split()
    assert system_class(name).setting_names() == tuple(names)
    assert len(set(names)) == len(names)
    assert list(system_class(name)().settings) == f"{fold} {read}".split()


@pytest.mark.parametrize("name", SYSTEMS)
def test_settings_by_name_end_in_their_groups(name: str) -> None:
    by_name, system = MADE[name]
    assert groups(type(system).of(by_name)) == groups(system)
    assert groups(type(system)().changed(**by_name)) == groups(system)
    assert groups(type(system).of({})) == groups(type(system)())
    assert tuple(map(type, groups(system))) == type(system).groups


@pytest.mark.parametrize("name", SYSTEMS)
def test_recorded_settings_make_the_same_system_again(name: str) -> None:
    system = MADE[name][1]
    again = type(system).of(system.settings)
    assert (again.fold, again.read, again.settings) == (system.fold, system.read, system.settings)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_change_keeps_everything_else_and_the_system_itself(name: str) -> None:
    system = MADE[name][1]
    before = groups(system)
    changed = system.changed(chunk=1024)
    assert changed.settings == system.settings | {"chunk": 1024}
    assert (changed.read, changed.train) == (system.read, system.train)
    assert groups(system) == before
    assert groups(system.changed()) == before


@pytest.mark.parametrize(
    ("name", "setting", "nearest"),
    [
        ("pooled", "ratoi", "ratio"),
        ("pooled", "posittion", "positions"),
        ("full", "chnuk", "chunk"),
        ("retrieval", "topp", "top"),
        ("recurrent", "notes", "note"),
        ("recurrent", "chnk", "chunk"),
    ],
)
def test_an_unknown_setting_names_the_nearest(name: str, setting: str, nearest: str) -> None:
    known = ", ".join(sorted(system_class(name).setting_names()))
    message = f"unknown {name} setting {setting!r}; nearest: {nearest!r}; known: {known}"
    with pytest.raises(ConfigError) as made:
        system_class(name).of({setting: 4})
    with pytest.raises(ConfigError) as changed:
        system_class(name)().changed(**{setting: 4})
    assert str(made.value) == str(changed.value) == message


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        ("chunk", "4096", "chunk = '4096' is not possible; allowed: an integer"),
        ("style", 7, "unknown style 7; known: bare"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, setting: str, value: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        system_class(name).of({setting: value})


def test_published_settings_are_the_defaults_but_for_pooled_memory() -> None:
    for name in TEXT_SYSTEMS:
        assert groups(system_class(name).published()) == groups(system_class(name)())
    published = Pooled.published()
    assert published.fold != Pooled().fold
    assert (published.read, published.train) == (Pooled().read, Pooled().train)


# What a user may change, and what a memory fixes.


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pooled", ("repetition_penalty", "cite", "unfold", "doubt", "candidates")),
        ("full", ("repetition_penalty",)),
        ("retrieval", ("repetition_penalty", "top")),
        (
            "recurrent",
            (
                "repetition_penalty",
                "note",
                "overflow",
                "passes",
                "candidates",
                "stop",
                "parallel",
                "questions",
                "about",
                "prompts",
                "adapters",
            ),
        ),
    ],
)
def test_what_may_change_for_one_answer(name: str, settings: tuple[str, ...]) -> None:
    """Neither the chat template, which is the model's, nor what training draws."""
    assert system_class(name)().answering_settings == ("style", "max_tokens", "thinking", *settings)


@pytest.mark.parametrize("name", TEXT_SYSTEMS)
def test_a_memory_of_text_fixes_nothing(name: str) -> None:
    assert MADE[name][1].fixed == {}


@pytest.mark.parametrize("name", TEXT_SYSTEMS)
def test_a_memory_of_text_is_never_refused_for_its_blocks(name: str) -> None:
    blocks = [Block(0, 0, 0, 9, 0, 3, text="abc"), Block(1, 0, 9, 9, 3, 3, torch.zeros(2, 4))]
    system_class(name)().check_memory(Memory("m", name, {}, "", ("a",), blocks))


def test_pooled_memory_fixes_all_that_makes_slots_but_the_chunks() -> None:
    system = Pooled(PooledFold(ratio=4, chunk=64), PooledRead(style="bare", unfold=9))
    assert system.fixed == {
        "ratio": 4,
        "groups": "fixed",
        "shortest": 0,
        "longest": 0,
        "window": 64,
        "mask": "bidirectional",
        "pooling": "mean",
        "projection": "linear",
        "wrapper": "span",
        "positions": "strided",
        "start_token": "<MEM_START>",
        "end_token": "<MEM_END>",
        "adapters": False,
    }


# What shared code relies on.


@pytest.mark.parametrize(
    ("name", "capabilities"),
    [
        (
            "pooled",
            Capabilities(
                slots=True,
                unfolds=True,
                activation_checkpointing=True,
                consecutive=False,
                pass_tokens=8192,
                untrained=False,
            ),
        ),
        ("kvbank", Capabilities(slots=True, consecutive=False, pass_tokens=8192, call_positions=4096 + 2 * 1024)),
        ("full", Capabilities(activation_checkpointing=True)),
        ("retrieval", Capabilities(call_positions=4 * 64)),
        ("recurrent", Capabilities(activation_checkpointing=True, call_positions=5000 + 2 * 1024)),
    ],
)
def test_capabilities(name: str, capabilities: Capabilities) -> None:
    assert system_class(name)().capabilities == capabilities


@pytest.mark.parametrize("name", TEXT_SYSTEMS)
def test_a_system_of_text_has_no_ratio_no_unfolding_no_slots_and_no_head(name: str) -> None:
    system = system_class(name)()
    memory = Memory("m", name, {}, "", ("a",), [Block(0, 0, 0, 9, 0, 3, text="abc")])
    assert system.ratio is None
    assert system.tokens == ()
    assert system.parameters(64) == {}
    with pytest.raises(ConfigError, match=f"ratio 4 is not possible: system '{name}' keeps the text as it is"):
        system.at_ratio(4)
    with pytest.raises(ConfigError, match=f"system '{name}' cannot unfold"):
        system.unfolding(100)
    with pytest.raises(ConfigError, match=f"system '{name}' has no slots that a reply could attend to"):
        system.passage(memory, Call("answer", (BlockRef("m", 0),)), 0, None)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=f"system '{name}' has no head"):
        system.read_head({"weight": torch.eye(2)})


@pytest.mark.parametrize(("name", "ratio"), [("full", 1.0), ("retrieval", None), ("recurrent", None)])
def test_the_effective_ratio_of_a_memory_of_text(name: str, ratio: float | None) -> None:
    assert system_class(name)().effective_ratio(1000) == ratio


# What a model folder says after training.


@pytest.mark.parametrize(
    ("name", "record"),
    [("full", {"chunk": 64}), ("retrieval", {"chunk": 32}), ("recurrent", {"chunk": 512, "note": 40, "passes": 1})],
)
def test_a_model_folder_says_what_was_trained(name: str, record: dict[str, int]) -> None:
    system = MADE[name][1]
    assert system.record({}) == system.record({"chunk": 7, "old": True}) == record
    assert type(system).trained_settings(record) == record
    again = type(system).of(type(system).trained_settings(record))
    assert asdict(again.fold) == asdict(system.fold)
    assert system.trained_ratios(record) == ()
    assert system.trained_at(record)
    assert system.trained_at({})


# What a training batch draws.


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_takes_the_same_numbers_from_the_generator(name: str, seed: int) -> None:
    """So a batch has the same documents whichever system reads them."""
    rng, expected = Random(seed), Random(seed)
    system_class(name)().draw(rng, seed)
    expected.choice((USUAL_RATIO,))
    expected.random()
    assert rng.getstate() == expected.getstate()


@pytest.mark.parametrize("name", TEXT_SYSTEMS)
def test_a_system_of_text_draws_nothing(name: str) -> None:
    system = MADE[name][1]
    assert groups(system.draw(Random(1), 5)) == groups(system.draw(Random(2), None)) == groups(system)
    assert groups(system.costliest()) == groups(system)
    assert system.losses([]) == {}


# What a document costs.


def test_a_note_is_read_and_written_with_every_chunk_of_every_pass() -> None:
    system = system_class("recurrent").of({"chunk": 400, "note": 50, "passes": 2})
    assert system.footprint(1000) == Footprint(positions=2 * (1000 + 3 * 50), written=2 * 3 * 50)


@pytest.mark.parametrize("name", TEXT_SYSTEMS)
def test_every_token_of_a_text_is_a_position(name: str) -> None:
    system = system_class(name)()
    notes = 1024 if name == "recurrent" else 0
    assert system.footprint(1000.5) == Footprint(positions=1000.5 + notes, written=notes)
    layouts = system.layouts()
    assert list(layouts) == [name]
    assert groups(layouts[name]) == groups(system)
