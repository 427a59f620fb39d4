from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_memories import make_memory, same_bits, small_memory

from memfold.core.errors import DataError
from memfold.core.types import Memory
from memfold.memory import check_readable, concatenate, open_memory, save_memory

GOOD: dict[str, Any] = {"system": "pooled", "fingerprints": ("encoder-0", "encoder-1"), "settings": {"ratio": 4}}


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
        ({"fingerprints": ("encoder-2", "encoder-3")}, ("fingerprint encoder-1", "knows encoder-2 or encoder-3")),
        ({"fingerprints": ("0123456789abcdef",), "reader": "big"}, ("model 'big' reads those of 0123456789ab;",)),
        ({"fingerprints": ()}, ("encoder-1", "none")),
        ({"settings": {"ratio": 16}}, ("ratio = 4", "16")),
        ({"settings": {"window": 64}}, ("window = None", "64")),
    ],
)
def test_a_mismatch_names_both_values(change: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        check_readable(small_memory(), **(GOOD | change))
    assert all(value in str(caught.value) for value in named)


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
        ({"fingerprint": "encoder-9"}, "fingerprint encoder-9"),
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
