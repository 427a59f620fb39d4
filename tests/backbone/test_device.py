"""Whether a device computes in bfloat16, and what is said where it does not."""

from __future__ import annotations

import pytest
import torch

from memfold.backbone.device import computes_bfloat16


@pytest.mark.parametrize("supported", [True, False])
def test_a_processor_computes_in_bfloat16_if_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert computes_bfloat16("cpu") is supported
    assert computes_bfloat16("cuda:0")  # whatever the processor is


def test_a_build_that_cannot_tell_is_not_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert computes_bfloat16("cpu")
