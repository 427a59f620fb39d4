"""The window of the encoder and its mask: what a slot may know of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memfold.backbone.masks import Visibility
from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.types import Block
from memfold.folding import fold_file
from memfold.session import Session
from memfold.systems.pooled import encoder
from memfold.systems.pooled.encoder import encode_windows, fixed_windows, windows_of
from memfold.systems.pooled.head import HEAD
from memfold.systems.pooled.settings import PooledFold
from memfold.systems.pooled.system import Pooled

LONG = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger in a house on the river Tarn. " * 4
WIDE = (
    {"window": 16, "mask": "causal"},
    {"window": 16, "mask": "bidirectional"},
    {"window": 32, "mask": "bidirectional"},
)


def slots_of(backbone: Any, tokens: Sequence[int], settings: PooledFold) -> Tensor:
    return encode_windows(backbone, windows_of(tokens, backbone, settings), settings)


@torch.no_grad()
def fold(system: Pooled, backbone: Backbone, *texts: str) -> list[Block]:
    documents = [Document(f"{number}.txt", text) for number, text in enumerate(texts)]
    return list(system.compress(documents, backbone))


def together(blocks: Sequence[Block]) -> Tensor:
    return torch.cat([block.slots for block in blocks if block.slots is not None])


# By hand: a model whose state at a token is the sum of all the token ids that it sees.


def adding_up() -> Any:
    def hidden(ids: Tensor, positions: None, visibility: Visibility | None) -> Tensor:
        rows, width = ids.shape
        causal = torch.ones(width, width, dtype=torch.bool).tril().expand(rows, width, width)
        seen = causal if visibility is None else visibility.allowed
        return (seen * ids[:, None, :]).sum(2, keepdim=True).float()

    head = nn.Linear(1, 1, bias=False)
    nn.init.eye_(head.weight)
    return SimpleNamespace(
        hidden=hidden,
        hidden_size=1,
        heads={HEAD: head},
        adapter=lambda role: nullcontext(),
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(
    ("window", "mask", "expected"),
    [
        (0, "causal", [2, 5, 8, 7]),  # means of 1 3, 3 7, 5 11, 7
        (2, "causal", [2, 5, 8, 7]),
        (4, "causal", [2, 8, 8, 18]),  # 1 3 6 10, then 5 11 18
        (6, "causal", [2, 8, 18, 7]),  # 1 3 6 10 15 21, then 7
        (0, "bidirectional", [3, 7, 11, 7]),
        (4, "bidirectional", [10, 10, 18, 18]),
        (8, "bidirectional", [28, 28, 28, 28]),
    ],
)
@torch.no_grad()
def test_windows_and_masks_by_hand(window: int, mask: Any, expected: list[int]) -> None:
    settings = PooledFold(ratio=2, window=window, mask=mask, chunk=48)
    assert slots_of(adding_up(), [1, 2, 3, 4, 5, 6, 7], settings)[:, 0].tolist() == expected


@torch.no_grad()
def test_a_window_of_one_group_is_the_papers_path_bit_for_bit(any_backbone: Backbone) -> None:
    tokens = any_backbone.encode(LONG)[:64]
    groups = torch.tensor(tokens).view(-1, 4)
    states = any_backbone.model.base_model(groups).last_hidden_state
    paper = any_backbone.heads[HEAD](states.mean(1))
    for window in (0, 3, 4):
        settings = PooledFold(ratio=4, window=window, mask="causal")
        assert torch.equal(slots_of(any_backbone, tokens, settings), paper)


@torch.no_grad()
@pytest.mark.parametrize("settings", WIDE)
def test_a_slot_of_a_wide_window_is_the_mean_of_its_states_in_that_window(
    any_backbone: Backbone, settings: dict[str, Any]
) -> None:
    tokens = any_backbone.encode(LONG)[:26]  # the last window and the last group are short
    wide = PooledFold(ratio=4, **settings)
    expected = []
    for window in windows_of(tokens, any_backbone, wide):
        ids, size = torch.tensor([list(window.tokens)]), len(window.tokens)
        seen = torch.ones(1, 1, size, size, dtype=torch.bool)
        seen = seen if wide.mask == "bidirectional" else seen.tril()
        states = any_backbone.body(ids, attention_mask=seen).last_hidden_state[0]
        expected += [any_backbone.heads[HEAD](part.mean(0)) for part in states.split(4)]
    torch.testing.assert_close(slots_of(any_backbone, tokens, wide), torch.stack(expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("mask", "changed"), [("bidirectional", [4, 5, 6, 7]), ("causal", [6, 7])])
def test_a_token_is_seen_in_its_window_only_and_by_a_causal_one_not_before(
    any_backbone: Backbone, mask: Any, changed: list[int]
) -> None:
    """Windows of 16 tokens, four slots each: token 25 is in the second window, in slot 6."""
    settings, tokens = PooledFold(ratio=4, window=16, mask=mask), any_backbone.encode(LONG)[:40]
    other = [*tokens[:25], tokens[25] + 1, *tokens[26:]]
    before, after = slots_of(any_backbone, tokens, settings), slots_of(any_backbone, other, settings)
    assert [number for number in range(10) if not torch.equal(before[number], after[number])] == changed


# Folding with windows.


@pytest.mark.parametrize("settings", WIDE)
@pytest.mark.parametrize("chunk", [32, 64])
def test_folding_in_pieces_equals_folding_at_once(any_backbone: Backbone, settings: dict[str, Any], chunk: int) -> None:
    (whole,) = fold(Pooled.of({"ratio": 4, "chunk": 4096, **settings}), any_backbone, LONG)
    pieces = fold(Pooled.of({"ratio": 4, "chunk": chunk, **settings}), any_backbone, LONG)
    assert len(pieces) == -(-whole.token_count // chunk)
    torch.testing.assert_close(together(pieces), together([whole]), atol=1e-5, rtol=1e-5)
    assert [block.slot_count for block in pieces[:-1]] == [chunk // 4] * (len(pieces) - 1)
    assert sum(block.slot_count for block in pieces) == whole.slot_count == -(-whole.token_count // 4)


@pytest.mark.parametrize("settings", WIDE)
def test_short_documents_beside_long_ones_change_nothing(any_backbone: Backbone, settings: dict[str, Any]) -> None:
    system, texts = Pooled.of({"ratio": 4, **settings}), ("Velm.", LONG, "The code of the vault is KX-41.")
    alone = [together(fold(system, any_backbone, text)) for text in texts]
    torch.testing.assert_close(together(fold(system, any_backbone, *texts)), torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_an_interrupted_fold_with_wide_windows_ends_in_the_same_bytes(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("memfold.systems.pooled.system.BATCH_TOKENS", 64)
    session = Session(Pooled(PooledFold(ratio=4, window=16, mask="bidirectional", chunk=32)), backbone)
    document, seen = Document("a.txt", text=LONG), 0

    def stop(block: Block) -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise KeyboardInterrupt

    fold_file([document], tmp_path / "whole.fold", session)
    with pytest.raises(KeyboardInterrupt):
        fold_file([document], tmp_path / "broken.fold", session, progress=stop)
    kept: list[int] = []
    fold_file([document], tmp_path / "broken.fold", session, on_resume=kept.append)
    assert kept == [3]
    assert (tmp_path / "broken.fold").read_bytes() == (tmp_path / "whole.fold").read_bytes()


@pytest.mark.parametrize("window", [0, 16, 64, 512, 1024])
def test_without_gradient_a_processor_takes_about_as_many_tokens_whatever_the_window(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    sizes: list[int] = []

    def counted(ids: Tensor, *others: Any) -> Tensor:
        sizes.append(ids.numel())
        return torch.zeros(*ids.shape, backbone.hidden_size)

    monkeypatch.setattr(backbone, "hidden", counted)
    settings = PooledFold(window=window, mask="bidirectional")
    with torch.no_grad():
        slots = slots_of(backbone, [7] * 4000, settings)
    assert len(slots) == 250
    assert max(sizes) == encoder.CPU_TOKENS == 1024
    assert len(sizes) == 4


def test_short_documents_share_passes_and_a_long_one_does_not_stretch_them(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    def counted(ids: Tensor, *others: Any) -> Tensor:
        shapes.append(tuple(ids.shape))
        return torch.zeros(*ids.shape, backbone.hidden_size)

    monkeypatch.setattr(backbone, "hidden", counted)
    settings = PooledFold(window=1024)
    short, long = fixed_windows([1] * 60, 1024, 16) * 8, fixed_windows([1] * 1000, 1024, 16)
    with torch.no_grad():
        encode_windows(backbone, [*short, *long, *short], settings)
    assert shapes == [(8, 64), (1, 1008), (8, 64)]
    shapes.clear()
    encode_windows(backbone, [*short, *long, *short], settings)  # with gradient: no more than a full batch
    assert shapes == [(8, 64), (8, 1008), (1, 64)]


@pytest.mark.parametrize("settings", [{}, *WIDE, {"pooling": "gqa"}, {"positions": "randomised"}])
def test_the_effective_ratio_is_that_of_ratio_and_wrapper_alone(settings: dict[str, Any]) -> None:
    assert Pooled.of(settings).effective_ratio(160) == 160 / 12


def test_the_gradient_reaches_what_a_bidirectional_window_reads(new_backbone: Callable[..., Backbone]) -> None:
    """The first slot depends on the last token of its window, and on none of the next."""
    backbone = new_backbone()
    settings = PooledFold(ratio=4, window=8, mask="bidirectional")
    slots_of(backbone, [10, 11, 12, 13, 14, 15, 16, 17, 18, 19], settings)[0].square().sum().backward()
    reached = backbone.model.get_input_embeddings().weight.grad.norm(dim=1)
    if backbone.model.config.tie_word_embeddings:
        assert [int(token) for token in reached.nonzero()[:, 0]] == list(range(10, 18))


@torch.no_grad()
def test_attention_that_adds_its_mask_gives_the_same_slots(new_backbone: Callable[..., Backbone]) -> None:
    """As recipes train on a CPU."""
    backbone, settings = new_backbone(), PooledFold(ratio=4, window=16, mask="bidirectional")
    tokens = backbone.encode(LONG)[:42]
    fused = slots_of(backbone, tokens, settings)
    backbone.model.set_attn_implementation("eager")
    torch.testing.assert_close(slots_of(backbone, tokens, settings), fused, atol=1e-5, rtol=1e-5)
