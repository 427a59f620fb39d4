"""Every system leaves out blocks that are there already, and makes the others bit for bit as without them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.registry import SYSTEMS, system_class
from memfold.core.types import Block
from memfold.systems.pooled import encoder
from memfold.systems.pooled.encoder import encode_windows
from memfold.systems.pooled.settings import PooledFold
from memfold.systems.pooled.system import Pooled

TEXTS = [Document("a.txt", text="Velm lies by the sea. " * 60), Document("b.txt", text="Ada wrote 20 books. " * 40)]


def described(block: Block) -> tuple[object, ...]:
    """All of a block but its slots."""
    return (
        block.index,
        block.source,
        block.token_start,
        block.token_end,
        block.char_start,
        block.char_end,
        block.slot_count,
        block.text,
    )


@pytest.mark.parametrize("name", SYSTEMS)
def test_done_blocks_are_left_out(name: str, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memfold.systems.pooled.system.BATCH_TOKENS", 128)
    system = system_class(name).of({"chunk": 64})
    with torch.no_grad():
        whole = list(system.compress(TEXTS, backbone))
        for done in range(len(whole) + 2):
            rest = list(system.compress(TEXTS, backbone, done=done))
            assert [described(block) for block in rest] == [described(block) for block in whole[done:]]
            for one, other in zip(rest, whole[done:], strict=True):
                assert one.slots is other.slots is None or torch.equal(one.slots, other.slots)


def test_what_is_done_is_not_encoded_again(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memfold.systems.pooled.system.BATCH_TOKENS", 128)
    groups: list[int] = []

    def counted(model: Backbone, windows: Sequence[Sequence[int]], settings: PooledFold) -> Tensor:
        groups.append(len(windows))
        return encode_windows(model, windows, settings)

    monkeypatch.setattr(encoder, "encode_windows", counted)
    system = Pooled(PooledFold(chunk=64))
    with torch.no_grad():
        count = len(list(system.compress(TEXTS, backbone)))
        passes, last = len(groups), groups[-1]
        list(system.compress(TEXTS, backbone, done=count - 1))
    assert len(groups) == passes + 1
    assert groups[-1] == last
