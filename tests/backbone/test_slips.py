"""Reply tokens that are read as the model would have written them: which, and what stays right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.backbone.score import Scores, logprobs
from memfold.backbone.slips import Slips
from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.system import Rendered
from memfold.core.types import Memory, Sample, Trace
from memfold.systems.full.system import Full
from memfold.systems.pooled.system import Pooled
from memfold.training.recipe import SupervisedEntry

TEXT = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger. The code of the vault is KX-41."
ASKED = [("Where was Ada born?", "She was born in Velm."), ("What is the code?", "It is KX-41, they say.")]


def traces(system: Full | Pooled, backbone: Backbone) -> tuple[Document, list[Trace]]:
    document = Document("a.txt", tokens=tuple(backbone.encode(TEXT)))
    samples = [Sample("almanac", document, question, (reply,)) for question, reply in ASKED]
    return document, [system.script(sample, backbone, "bare") for sample in samples]


def scores(backbone: Backbone, share: float | None, seed: int = 0, system: Full | Pooled | None = None) -> Scores:
    slips = None if share is None else Slips(share, seed)
    system = system or Full()
    return logprobs(backbone, system, [traces(system, backbone)], slips=slips)


@torch.no_grad()
def by_hand(backbone: Backbone) -> Tensor:
    """Log-probabilities of the right tokens after predicted ones, each reply in a pass of its own."""
    document, scripted = traces(Full(), backbone)
    found = []
    with torch.no_grad():
        blocks = list(Full().compress([document], backbone))
    memory = Memory("a.txt", "full", {}, "", ("a.txt",), blocks)
    for trace in scripted:
        (step,) = [step for step in trace.steps if step.call.purpose == "answer"]
        rendered: Rendered = Full().render(memory, step.call, backbone)
        before, reply = rendered.tokens, list(step.reply.tokens)
        right = backbone.model(torch.tensor([before + reply])).logits[0, len(before) - 1 : -1]
        slipped = torch.tensor([before + right.argmax(1).tolist()])
        after = backbone.model(slipped).logits[0, len(before) - 1 : -1].log_softmax(1)
        found.append(after.gather(1, torch.tensor(reply)[:, None])[:, 0])
    return torch.cat(found)


def answers(found: Scores) -> Tensor:
    return torch.cat([values for call, values, _ in found.parts() if call.purpose == "answer"]).detach()


def test_every_token_of_a_reply_may_be_read_as_predicted(backbone: Backbone) -> None:
    """The replies share a packed row, and are scored on the right tokens."""
    torch.testing.assert_close(answers(scores(backbone, 1.0)), by_hand(backbone), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(answers(scores(backbone, None)), by_hand(backbone), atol=1e-2)


@pytest.mark.parametrize("system", [Full(), Pooled()], ids=lambda system: str(system.name))
def test_the_share_and_the_seed_choose_the_tokens(backbone: Backbone, system: Full | Pooled) -> None:
    plain, none = scores(backbone, None, system=system), scores(backbone, 0.0, system=system)
    assert torch.equal(plain.logprobs, none.logprobs)
    half = [scores(backbone, 0.5, seed, system).logprobs for seed in (1, 1, 2)]
    assert torch.equal(half[0], half[1])
    assert not torch.equal(half[0], half[2])
    assert not torch.equal(half[0], plain.logprobs)


def test_slips_teach_reading_and_are_not_taught_themselves(new_backbone: Callable[..., Backbone]) -> None:
    """A gradient reaches every weight through one pass: predicting the slips keeps no graph."""
    backbone = new_backbone()
    found = scores(backbone, 1.0, system=Pooled())
    found.backward(-found.logprobs.mean())
    assert all(weight.grad is not None for _, weight in backbone.parameters())
    expected = [
        token for _, trace in [traces(Pooled(), backbone)] for one in trace for token in one.steps[0].reply.tokens
    ]
    assert found.batches[0].targets[:, 2].tolist() == expected


@pytest.mark.parametrize("slips", [-0.1, 1.1])
def test_the_share_is_a_fraction(slips: float) -> None:
    with pytest.raises(ConfigError, match=rf"slips = {slips} is not possible; allowed: 0 to 1"):
        SupervisedEntry("almanac", 1.0, (64,), slips=slips)
