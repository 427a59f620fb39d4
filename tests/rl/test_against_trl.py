"""The loss of the same rows as TRL computes it, to 1e-5; runs where TRL is installed (pip install trl)."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from memfold.rl.algorithm import make_algorithm
from memfold.rl.losses import CLIPS, MEANS, k3
from memfold.rl.ratios import RATIOS

SIZES, LONGEST, MOST = (2, 5, 3, 4), 5, 20
ADVANTAGES = (1.5, -0.5, 0.25, -2.0)


def trl_trainer() -> Any:
    try:
        from trl import GRPOTrainer
    except (ImportError, RuntimeError) as error:  # TRL raises RuntimeError for a missing package
        pytest.skip(f"TRL cannot be imported: {error}")
    return GRPOTrainer


def stand_in(logprobs: Tensor, loss_type: str, level: str, beta: float, high: float) -> SimpleNamespace:
    """The attributes of a trainer that TRL's loss reads."""
    accelerator = SimpleNamespace(
        num_processes=1,
        sync_gradients=True,
        gather=lambda value: value,
        reduce=lambda value, reduction: value,
        gather_for_metrics=lambda value: value,
    )
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *given, **named: (logprobs, torch.zeros_like(logprobs), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        _entropy_bonus_enabled=False,
        importance_sampling_level=level,
        beta=beta,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=high,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        model=SimpleNamespace(training=True),
        use_adaptive_entropy=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=MOST,
        accelerator=accelerator,
        _metrics={"train": defaultdict(list)},
    )


@pytest.mark.parametrize(
    ("loss_type", "mean", "level", "beta", "high"),
    [
        ("grpo", "sequence", "token", 0.04, 0.2),
        ("grpo", "sequence", "sequence", 0.0, 0.2),
        ("dr_grpo", "fixed", "token", 0.0, 0.2),
        ("dapo", "token", "token", 0.0, 0.28),
    ],
)
def test_loss_and_gradient_equal_trls(loss_type: str, mean: str, level: str, beta: float, high: float) -> None:
    trainer = trl_trainer()
    generator = torch.Generator().manual_seed(3)
    sampled, reference, noise = (torch.randn(len(SIZES), LONGEST, generator=generator) for _ in range(3))
    sampled, reference = -sampled.abs() - 0.1, -reference.abs() - 0.1
    mask = torch.arange(LONGEST) < torch.tensor(SIZES)[:, None]

    theirs = (sampled + 0.4 * noise).requires_grad_()
    ids = torch.zeros(len(SIZES), LONGEST, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": torch.tensor(ADVANTAGES),
        "old_per_token_logps": sampled,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    expected = trainer._compute_loss(stand_in(theirs, loss_type, level, beta, high), None, inputs)
    expected.backward()

    options = make_algorithm(None, {"mean": mean, "ratio": level, "clip": "higher", "clip_high": high})
    ours = (sampled + 0.4 * noise)[mask].requires_grad_()
    spread = torch.tensor(SIZES)
    advantage = torch.tensor(ADVANTAGES).repeat_interleave(spread)
    ratio = RATIOS[options.ratio](ours - sampled[mask], SIZES)
    loss = CLIPS[options.clip](ratio, advantage, options.clip_low, options.clip_high, options.clip_dual)
    loss = loss + beta * k3(ours, reference[mask])
    weights = torch.tensor(MEANS[options.mean](SIZES, range(len(SIZES)), MOST)).repeat_interleave(spread)
    total = (loss * weights).sum()
    total.backward()

    assert float(total.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad[mask], atol=1e-5, rtol=1e-5)
    assert bool((theirs.grad[mask] == 0).any()) == (beta == 0)  # some tokens are clipped
