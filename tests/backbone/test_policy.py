from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from memfold.backbone import policy as policy_module
from memfold.backbone.decode import generate
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.scheduler import Job, run
from memfold.core.system import Rendered
from memfold.core.types import Block, BlockRef, Call, Memory, Reply, SamplingParams, Text
from memfold.systems.full.system import Full

FACTS = ["Ada was born in Velm.", "The code is KX-41. The vault of Oskadim is deep.", "Brisk."]


class Adapted(Full):
    """Calls name their adapter; one that reads 'no adapter' cannot be rendered."""

    def render(self, memory: Memory, call: Call, backbone: Backbone) -> Rendered:
        if call.adapter == "missing":
            raise LookupError("no such adapter")
        return replace(super().render(memory, call, backbone), adapter=call.adapter)


@pytest.fixture
def memory() -> Memory:
    blocks = [Block(number, 0, 0, 0, 0, 0, text=text) for number, text in enumerate(FACTS)]
    return Memory("m", "full", {}, "", ("a.txt",), blocks)


def calls(adapters: tuple[str | None, ...] = (None,)) -> list[Call]:
    """One call for each fact and adapter, of different lengths and limits."""
    return [
        Call("answer", (BlockRef("m", fact), Text("\nWho?")), SamplingParams(max_tokens=3 + fact), adapter)
        for adapter in adapters
        for fact in (1, 2, 0)
    ]


def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes how many rows each batch has."""
    sizes: list[int] = []

    def noted(backbone: Backbone, inputs: list[Rendered], *rest: Any) -> list[Reply]:
        assert len({row.adapter for row in inputs}) == 1, "rows of one adapter only"
        sizes.append(len(inputs))
        return generate(backbone, inputs, *rest)

    monkeypatch.setattr(policy_module, "generate", noted)
    return sizes


def good(replies: list[Reply | Exception]) -> list[tuple[int, ...]]:
    assert all(isinstance(reply, Reply) for reply in replies), replies
    return [reply.tokens for reply in replies if isinstance(reply, Reply)]


def test_replies_come_in_the_order_of_their_calls(backbone: Backbone, memory: Memory) -> None:
    policy, system = LocalPolicy(backbone), Full()
    together = good(policy.generate([(system, memory, call) for call in calls()]))
    assert together == [good(policy.generate([(system, memory, call)]))[0] for call in calls()]
    assert [len(tokens) for tokens in together] == [4, 5, 3]


@pytest.mark.parametrize(("adapters", "bound", "sizes"), [
    ((None,), 1 << 16, [3]),
    ((None, "a"), 1 << 16, [3, 3]),
    ((None,), 1, [1, 1, 1]),
])  # fmt: skip
def test_batches_hold_one_adapter_and_keep_within_their_bound(
    backbone: Backbone, memory: Memory, monkeypatch: pytest.MonkeyPatch, adapters: tuple[str | None, ...],
    bound: int, sizes: list[int],
) -> None:  # fmt: skip
    unbounded = good(LocalPolicy(backbone).generate([(Full(), memory, call) for call in calls(adapters)]))
    found = batch_sizes(monkeypatch)
    replies = LocalPolicy(backbone, bound).generate([(Adapted(), memory, call) for call in calls(adapters)])
    assert found == sizes
    assert good(replies) == unbounded


def test_a_call_that_cannot_be_rendered_is_an_exception_in_its_place(backbone: Backbone, memory: Memory) -> None:
    wanted = [replace(call, adapter="missing" if number == 1 else None) for number, call in enumerate(calls())]
    first, failed, last = LocalPolicy(backbone).generate([(Adapted(), memory, call) for call in wanted])
    assert isinstance(failed, LookupError)
    alone = good(LocalPolicy(backbone).generate([(Full(), memory, call) for call in (wanted[0], wanted[2])]))
    assert good([first, last]) == alone


def test_a_memory_that_cannot_be_rendered_fails_on_its_own_trace(backbone: Backbone, memory: Memory) -> None:
    without_text = replace(memory, name="bare", blocks=[Block(0, 0, 0, 0, 0, 0)])
    jobs = [Job(Full(), each, "Who was born?") for each in (memory, without_text, memory)]
    traces = dict(run(jobs, LocalPolicy(backbone), places=2))
    assert [traces[number].error for number in range(3)] == [
        None,
        "policy: DataError: memory 'bare' holds no text to read; fold it without --no-text",
        None,
    ]
    assert traces[0].answer == traces[2].answer
    assert len(traces[0].steps[0].reply.tokens) > 0


@pytest.mark.parametrize("bound", [1 << 16, 1])
def test_streams_and_cancellations_reach_their_own_call(backbone: Backbone, memory: Memory, bound: int) -> None:
    heard = ["", "", ""]

    def listen(row: int, piece: str) -> None:
        heard[row] += piece

    def stopped(row: int) -> bool:
        return row == 1 and bool(heard[1])

    replies = LocalPolicy(backbone, bound).generate([(Full(), memory, call) for call in calls()], listen, stopped)
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == heard
    assert [reply.finish for reply in replies if isinstance(reply, Reply)] == ["length", "cancelled", "length"]
