"""Every system leaves out blocks that are there already, and makes the others bit for bit as without them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.registry import SYSTEMS, system_class
from memfold.systems.pooled import system as pooled
from memfold.systems.pooled.encoder import encode_windows
from memfold.systems.pooled.settings import PooledFold

TEXTS = [Document("a.txt", text="Velm lies by the sea. " * 60), Document("b.txt", text="Ada wrote 20 books. " * 40)]


@pytest.mark.parametrize("name", SYSTEMS)
def test_done_blocks_are_left_out(name: str, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "BATCH_TOKENS", 128)
    system = system_class(name)(chunk=64)
    with torch.no_grad():
        whole = list(system.compress(TEXTS, backbone))
        for done in range(len(whole) + 2):
            rest = list(system.compress(TEXTS, backbone, done=done))
            assert [(b.source, b.index, b.starts, b.text) for b in rest] == [
                (b.source, b.index, b.starts, b.text) for b in whole[done:]
            ]
            for one, other in zip(rest, whole[done:], strict=True):
                assert one.slots is other.slots is None or torch.equal(one.slots, other.slots)


def test_what_is_done_is_not_encoded_again(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "BATCH_TOKENS", 128)
    groups: list[int] = []

    def counted(own: Backbone, given: Sequence[Sequence[int]], settings: PooledFold) -> Tensor:
        groups.append(len(given))
        return encode_windows(own, given, settings)

    monkeypatch.setattr(pooled, "encode_windows", counted)
    system = pooled.Pooled(chunk=64)
    with torch.no_grad():
        count = len(list(system.compress(TEXTS, backbone)))
        passes, last = len(groups), groups[-1]
        list(system.compress(TEXTS, backbone, done=count - 1))
    assert len(groups) == passes + 1
    assert groups[-1] == last
