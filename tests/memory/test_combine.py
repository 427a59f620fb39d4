from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_memories import make_memory, same_bits, small_memory

from memfold.core.errors import DataError
from memfold.core.types import Memory
from memfold.memory import check_readable, concatenate, open_memory, save_memory

READER = SimpleNamespace(name="reader", readable=("encoder-0", "encoder-1"))
GOOD: dict[str, Any] = {"model": READER, "system": "pooled", "settings": {"ratio": 4}}


def named(memory: Memory, model: str, fingerprint: str = "encoder-1") -> Memory:
    """The same memory as a model of this name would have folded it."""
    return replace(memory, fingerprint=fingerprint, settings={**memory.settings, "model": model})


def text_memory(model: str, fingerprint: str = "") -> Memory:
    """A memory of text, with settings that depend on the model that cut the text."""
    settings = {"chunk": len(model), "model": model, "chat_template": "flat"}
    return replace(
        make_memory([[f"By {model}."]], [[3]], settings, "float32"), fingerprint=fingerprint, sha256=(model[0] * 64,)
    )


def other_memory() -> Memory:
    """Shares the second document of `small_memory`, and has one of its own."""
    mine = small_memory()
    other = make_memory([["Third.", " More."], ["shared"]], [[5, 3], [4]], dict(mine.settings), "bfloat16", seed=50)
    return replace(other, sources=("third.txt", "copy.txt"), sha256=("3" * 64, mine.sha256[1]))


def test_a_memory_of_the_same_encoder_system_and_ratio_is_readable() -> None:
    check_readable(small_memory(), **GOOD)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"system": "kvbank"}, ("'pooled'", "'kvbank'")),
        (
            {"model": SimpleNamespace(name="big", readable=("encoder-2", "encoder-3"))},
            ("folded by another model, and model 'big' cannot read its slots; use the model that folded it",),
        ),
        ({"model": SimpleNamespace(name="remote", readable=())}, ("model 'remote' cannot read its slots",)),
        ({"settings": {"ratio": 16}}, ("ratio = 4", "16")),
        ({"settings": {"window": 64}}, ("window = None", "64")),
    ],
)
def test_a_mismatch_names_both_values(change: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        check_readable(small_memory(), **(GOOD | change))
    assert all(value in str(caught.value) for value in named)


def test_a_mismatch_names_models_and_not_their_fingerprints() -> None:
    for model, said in [("small", "folded by model 'small'"), ("reader", "another model that is also named 'reader'")]:
        with pytest.raises(DataError, match=f"{said}, and model 'reader' cannot read its slots") as caught:
            check_readable(named(small_memory(), model, "f" * 64), **GOOD)
        assert "ff" not in str(caught.value).replace("different", "")


def test_a_memory_of_text_is_readable_for_any_model() -> None:
    for model in (READER, SimpleNamespace(name="remote", readable=())):
        check_readable(text_memory("ann", "old"), model, system="full", settings={"ratio": 4})


def test_memories_of_text_join_whatever_models_folded_them() -> None:
    joined = concatenate([text_memory("ann"), text_memory("bernard", "old")])
    assert [block.read() for block in joined.blocks] == ["By ann.", "By bernard."]
    assert joined.settings["model"] == "ann"


def test_slots_of_one_encoder_join_whatever_their_models_are_called() -> None:
    joined = concatenate([named(small_memory(), "ann"), named(other_memory(), "bernard")])
    assert len(joined.sources) == 3


def test_memories_of_different_documents_join_in_any_order() -> None:
    one, two = small_memory(), other_memory()
    joined = concatenate([two, one])
    assert joined.sources == ("third.txt", "copy.txt", "document 0.txt")
    assert joined.sha256 == (*two.sha256, one.sha256[0])
    assert [block.index for block in joined.blocks] == list(range(5))
    assert [block.source for block in joined.blocks] == [0, 0, 1, 2, 2]
    assert [block.read() for block in joined.blocks[3:]] == ["Ann signed it.\n", "Ben read it.\n"]
    assert len(concatenate([one, two]).blocks) == 7
    assert concatenate([one, two]).name != joined.name


def test_a_document_that_is_there_already_is_dropped() -> None:
    one = small_memory()
    again = concatenate([one, one])
    assert (again.sources, again.sha256, again.blocks) == (one.sources, one.sha256, one.blocks)


def test_joined_files_can_be_saved_and_opened_again(tmp_path: Path) -> None:
    save_memory(small_memory(), tmp_path / "a.fold")
    save_memory(other_memory(), tmp_path / "b.fold", keep_text=False)
    joined = concatenate([open_memory(tmp_path / "a.fold"), open_memory(tmp_path / "b.fold")])
    save_memory(joined, tmp_path / "a.fold")
    opened = open_memory(tmp_path / "a.fold")
    assert opened.sources == ("document 0.txt", "document 1.txt", "third.txt")
    assert [block.read() for block in opened.blocks[3:]] == ["went to ", "Łódź.", None, None]
    for before, after in zip(joined.blocks, opened.blocks, strict=True):
        assert before.slots is not None
        assert after.slots is not None
        assert same_bits(before.slots, after.slots)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"system": "full"}, "'full'"),
        ({"fingerprint": "encoder-9"}, "slots of another model cannot join those of another model; fold both with one"),
        ({"settings": {"ratio": 4}}, "hidden = None"),
        ({"sha256": ()}, "0 hashes for 2 documents"),
    ],
)
def test_memories_that_do_not_go_together_are_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        concatenate([small_memory(), replace(other_memory(), **change)])


def test_nothing_cannot_be_joined() -> None:
    with pytest.raises(DataError, match="at least one"):
        concatenate([])
