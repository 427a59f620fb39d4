"""Poolings and projections: what they compute, how they begin, and that they are kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import CheckpointError
from memfold.systems.pooled.head import HEAD, AttentionPooling, Mlp, NormMlp, add_head, read_head
from memfold.systems.pooled.settings import POOLINGS, PROJECTIONS, PooledFold
from memfold.systems.pooled.system import Pooled

TEXT = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger in a house on the river Tarn."
PAPER_LIKE = PooledFold(ratio=4, window=0, mask="causal")  # each group alone
KINDS = list(itertools.product(POOLINGS, PROJECTIONS))
RICH = [(pooling, projection) for pooling, projection in KINDS[1:] if projection != "norm_mlp"]  # grown from linear


def with_head(backbone: Backbone, pooling: Any, projection: Any) -> Pooled:
    """The system of these settings, and a backbone that has the head for it."""
    system = Pooled(replace(PAPER_LIKE, pooling=pooling, projection=projection))
    add_head(backbone, system.fold)
    return system


def slots(system: Pooled, backbone: Backbone) -> Tensor:
    (block,) = system.compress([Document("a", TEXT)], backbone)
    assert block.slots is not None
    return block.slots


# By hand.


def test_attention_pooling_by_hand() -> None:
    """Two query heads share the keys of one: the first weighs the tokens 1 to 3, the second equally."""
    pooling = AttentionPooling(4, heads=2, key_heads=1)
    states = torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 8]]])
    with torch.no_grad():
        pooling.key.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))  # keys: (1, 0) and (5, 0)
        pooling.query.copy_(torch.tensor([[math.sqrt(2) * math.log(3) / 4, 7], [0, 0]]))
        torch.testing.assert_close(pooling(states, None), torch.tensor([[4.0, 5, 5, 6]]))
        alone = pooling(states, torch.tensor([[True, False]]))
        torch.testing.assert_close(alone, states[:, 0])
        pooling.query.zero_()
        torch.testing.assert_close(pooling(states, None), states.mean(1))


def test_an_mlp_by_hand() -> None:
    mlp = Mlp(1, 1, units=1)
    for layer, weight in ((mlp.linear, 2.0), (mlp.inner, 1.0), (mlp.outer, 3.0)):
        nn.init.constant_(layer.weight, weight)
    found = mlp(torch.tensor([[0.0], [10.0], [-10.0]]))  # gelu: 0, 10, 0
    torch.testing.assert_close(found, torch.tensor([[0.0], [50.0], [-20.0]]))


def test_a_normalised_mlp_by_hand() -> None:
    projection = NormMlp(2, 1)
    for layer, weight, bias in ((projection.inner, 5.0, 1.0), (projection.outer, 3.0, 2.0)):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
    found = projection(torch.tensor([[3.0, 3.0], [-7.0, -7.0]]))  # normalised: 1 and -1; gelu: 11 and 0
    torch.testing.assert_close(found, torch.tensor([[35.0], [2.0]]), atol=1e-4, rtol=0)


def test_queries_of_a_group_read_the_same_keys(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()  # 4 heads of queries, 2 of keys, 32 numbers wide
    with_head(backbone, "gqa", "linear")
    pooling = backbone.heads[HEAD].pooling
    assert isinstance(pooling, AttentionPooling)
    assert (pooling.query.shape, pooling.key.weight.shape) == ((4, 8), (16, 32))
    with torch.no_grad():
        pooling.query[1], pooling.query[2] = pooling.query[0], pooling.query[0]
        weights = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1)).repeat(1, 1, 1)
        weights[..., 8:16] = weights[..., :8]
        pooled = pooling(weights, None)[0]
    assert torch.equal(pooled[:8], pooled[8:16]), "the first two heads are of one group"


# How they begin, and that they learn.


@pytest.mark.parametrize(("pooling", "projection"), RICH)
@torch.no_grad()
def test_a_trained_linear_head_grows_into_a_richer_one_and_begins_as_it_was(
    new_backbone: Callable[..., Backbone], pooling: str, projection: str
) -> None:
    backbone = new_backbone()
    before, matrix = slots(Pooled(PAPER_LIKE), backbone), backbone.heads[HEAD].weight.clone()
    system = with_head(backbone, pooling, projection)
    after = slots(system, backbone)
    assert any(torch.equal(matrix, weight) for weight in backbone.heads.parameters())
    assert not torch.equal(before, after)
    assert float((after - before).norm() / before.norm()) < 0.1
    grown = backbone.heads[HEAD]
    add_head(backbone, system.fold)
    assert backbone.heads[HEAD] is grown


@pytest.mark.parametrize(("pooling", "projection"), KINDS)
def test_the_gradient_reaches_every_weight_of_a_head(
    new_backbone: Callable[..., Backbone], pooling: str, projection: str
) -> None:
    backbone = new_backbone()
    backbone.heads.pop(HEAD)
    slots(with_head(backbone, pooling, projection), backbone).square().sum().backward()
    norms = {name: float(weight.grad.norm()) for name, weight in backbone.heads.named_parameters()}  # type: ignore[union-attr]
    assert min(norms.values()) > 0, norms
    assert len(norms) == {"mean": 0, "gqa": 2}[pooling] + {"linear": 1, "mlp": 3, "norm_mlp": 5}[projection]


@pytest.mark.parametrize(("pooling", "projection"), KINDS)
def test_a_new_head_is_the_same_every_time(
    new_backbone: Callable[..., Backbone], pooling: str, projection: str
) -> None:
    heads = []
    for _ in range(2):
        backbone = new_backbone()
        del backbone.heads[HEAD]
        with_head(backbone, pooling, projection)
        heads.append(backbone.heads[HEAD].state_dict())
        torch.randn(7)
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


@torch.no_grad()
def test_short_groups_are_pooled_without_their_padding(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    system = with_head(backbone, "gqa", "mlp")
    nn.init.normal_(backbone.heads[HEAD].pooling.query)  # type: ignore[union-attr, arg-type]
    tokens = backbone.encode(TEXT)[:6]
    (both,) = system.compress([Document("a", tokens=tuple(tokens))], backbone)
    (last,) = system.compress([Document("a", tokens=tuple(tokens[4:]))], backbone)
    assert both.slots is not None
    assert last.slots is not None
    torch.testing.assert_close(both.slots[1:], last.slots, atol=1e-5, rtol=1e-5)


# Kept in a model folder.


@pytest.mark.parametrize(("pooling", "projection"), KINDS)
@torch.no_grad()
def test_every_head_is_saved_and_read_back_bit_for_bit(
    new_backbone: Callable[..., Backbone], tmp_path: Path, pooling: str, projection: str
) -> None:
    backbone = new_backbone()
    backbone.heads.pop(HEAD)
    system = with_head(backbone, pooling, projection)
    save_backbone(backbone, tmp_path)
    again = load_backbone(tmp_path)
    before, after = backbone.heads.state_dict(), again.heads.state_dict()
    assert before.keys() == after.keys() == load_file(tmp_path / "heads.safetensors").keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(slots(system, again), slots(system, backbone))
    assert again.fingerprint() == backbone.fingerprint()


def test_a_linear_head_is_stored_as_one_matrix(backbone: Backbone, tmp_path: Path) -> None:
    save_backbone(backbone, tmp_path)
    assert list(load_file(tmp_path / "heads.safetensors")) == ["pooled.weight"]
    assert isinstance(load_backbone(tmp_path).heads[HEAD], nn.Linear)


@pytest.mark.parametrize(("pooling", "projection"), RICH)
def test_a_head_of_another_kind_than_the_settings_is_refused(
    new_backbone: Callable[..., Backbone], pooling: str, projection: str
) -> None:
    backbone = new_backbone()
    system = Pooled.of({"pooling": pooling, "projection": projection})
    message = (
        "model 'qwen3' has a head with pooling mean and projection linear, but the settings require "
        f"{pooling} and {projection}; use the settings that it was trained with"
    )
    with pytest.raises(CheckpointError) as raised:
        list(system.compress([Document("a", TEXT)], backbone))
    assert str(raised.value) == message
    with_head(backbone, pooling, projection)
    with pytest.raises(CheckpointError, match=f"pooling {pooling} and projection {projection}, but the settings"):
        add_head(backbone, PooledFold())


def test_tensors_that_make_no_head_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tensors gate, weight are not a head of pooled memory"):
        read_head({"weight": torch.eye(2), "gate": torch.eye(2)})
    save_backbone(backbone, tmp_path)
    save_file({"pooled.projection.inner.weight": torch.eye(2)}, tmp_path / "heads.safetensors")
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: tensors projection\.inner\.weight are not"):
        load_backbone(tmp_path)
