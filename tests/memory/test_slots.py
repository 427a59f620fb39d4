from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_memories import small_memory

from memfold.core.errors import DataError
from memfold.memory import open_memory, save_memory
from memfold.memory.slots import dequantise, quantise, to_bytes

VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=4))
def test_int8_keeps_its_error_bound_for_any_finite_values(rows: list[list[float]]) -> None:
    slots = torch.tensor(rows, dtype=torch.float32).view(-1, 3)
    quantised, scales = quantise(slots)
    restored = dequantise(quantised, scales)
    assert torch.isfinite(restored).all()
    step = (slots.double().abs().amax(1) / 127).clamp(min=1.2e-38) if len(slots) else torch.zeros(0).double()
    assert ((restored.double() - slots.double()).abs() <= 0.5001 * step[:, None]).all()


def test_quantising_by_hand() -> None:
    quantised, scales = quantise(torch.tensor([[127.0, -127.0, 1.4, 1.6], [0.0, 0.0, 0.0, 0.0]]))
    assert quantised.tolist() == [[127, -127, 1, 2], [0, 0, 0, 0]]
    assert scales[0] == 1


def test_an_int8_file_opens_as_float32_and_writes_the_same_numbers_again(tmp_path: Path) -> None:
    memory = small_memory("float32")
    for block in memory.blocks:
        assert block.slots is not None
        block.slots.copy_(torch.randn(block.slots.shape, generator=torch.Generator().manual_seed(block.index)))
    save_memory(memory, tmp_path / "a.fold", dtype="int8")
    first = open_memory(tmp_path / "a.fold")
    save_memory(first, tmp_path / "b.fold", dtype="int8")
    for made, once, twice in zip(memory.blocks, first.blocks, open_memory(tmp_path / "b.fold").blocks, strict=True):
        assert made.slots is not None
        assert once.slots is not None
        assert twice.slots is not None
        assert once.slots.dtype == torch.float32
        assert (once.slots - made.slots).abs().max() <= 0.004 * made.slots.abs().max()
        torch.testing.assert_close(twice.slots, once.slots, rtol=1e-6, atol=0)


def test_each_part_of_a_slot_has_a_scale_of_its_own(tmp_path: Path) -> None:
    """Large keys do not take the digits of small values."""
    quantised, scales = quantise(torch.tensor([[1270.0, -635.0, 0.127, 0.064]]), parts=2)
    assert quantised.tolist() == [[127, -64, 127, 64]]
    torch.testing.assert_close(scales, torch.tensor([[10.0, 0.001]]))
    memory = small_memory("float32")
    size = memory.blocks[0].slots.shape[1]  # type: ignore[union-attr]
    memory.settings = {**memory.settings, "slot_parts": size}
    save_memory(memory, tmp_path / "a.fold", dtype="int8")
    for made, read in zip(memory.blocks, open_memory(tmp_path / "a.fold").blocks, strict=True):
        torch.testing.assert_close(made.slots, read.slots, rtol=1e-6, atol=1e-37)
    memory.settings = {**memory.settings, "slot_parts": size + 1}
    with pytest.raises(DataError, match="cannot be divided into"):
        save_memory(memory, tmp_path / "b.fold", dtype="int8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_int8_refuses_what_it_cannot_hold(value: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        to_bytes(torch.tensor([[1.0, value]]), "int8")


def test_slots_with_a_gradient_or_strides_are_written_by_value() -> None:
    slots = torch.arange(6.0).view(2, 3).T.requires_grad_()
    assert to_bytes(slots, "float32")[0] == slots.detach().contiguous().numpy().tobytes()
    assert to_bytes(slots, "bfloat16")[0] == to_bytes(slots.detach().bfloat16(), "bfloat16")[0]
