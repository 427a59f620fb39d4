"""The agent that AReaL trains: a system of memfold answers a question at AReaL's address, and memfold rewards it.

AReaL (https://github.com/areal-project/AReaL) samples and trains on many machines.  A class with `async def run(self,
data, **kwargs)` tells it what a trajectory is: the completions that `run` asks for at the address, and the reward of
each that it returns.  `Agent` is such a class, for any system whose memory is text.  AReaL is not imported; what it
passes and expects is that of its version 1.0.4 with `export_style="individual"`, where every call is a sample of its
own.  Left out: the judge, rewards of single turns, and AReaL's second rollout controller (`_version="v2"`), which keeps
only the reward of the last call.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal

from memfold.core.config import build, require, require_known
from memfold.core.document import Document
from memfold.core.errors import CallError, ConfigError, DataError, unknown
from memfold.core.job import Job
from memfold.core.registry import AnySystem, load, make_system
from memfold.core.scheduler import answer
from memfold.core.types import Call, Sample, SamplingParams, Trace
from memfold.endpoint.model import EndpointModel
from memfold.endpoint.policy import EndpointPolicy, Retries
from memfold.rl.rewards import JUDGE, REWARDS, Reward, Rules, find_reward
from memfold.systems.shared.folding import fold
from memfold.tasks.datasets.rows import Row
from memfold.tasks.datasets.table import DATASETS, Loader

OWN = "memfold"  # the rows that `row_of` makes
MODEL = "default"  # AReaL serves one model, whatever its name
UNTAKEN = ("seed", "stream")  # parameters that AReaL's address ignores, with a warning for each, or has no use for
ADDRESS_VARIABLE = "OPENAI_BASE_URL"  # set by AReaL where it runs an agent in a process of its own
CREDITS = ("trajectory", "last", "divided")

Credit = Literal["trajectory", "last", "divided"]

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgentOptions:
    """What `workflow_kwargs` may hold.

    `system` is a name of memfold, `settings` are those of the system.  `dataset` says how rows are laid out: a name of
    `memfold.tasks.datasets`, or `memfold` for those of `row_of`.  `reward` is a name of `memfold.rl.rewards` or
    `path.py:function`.  `credit` is how the calls of a trajectory share it.  `turn_discount` must equal AReaL's
    `rollout.agent.turn_discount`.  `temperature` is that of all calls; 0 is greedy, for evaluation.  `timeout` is the
    maximum time in seconds for a reply, which may have to wait for new weights.
    """

    system: str
    settings: dict[str, Any] = field(default_factory=dict)
    dataset: str = OWN
    reward: str = "exact"
    credit: Credit = "trajectory"
    turn_discount: float = 1.0
    temperature: float = 1.0
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        require_known("dataset", self.dataset, (OWN, *DATASETS))
        require_known("credit", self.credit, CREDITS)
        require(0 <= self.turn_discount <= 1, "turn_discount", self.turn_discount, "0 to 1, as in AReaL's config")
        require(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        require(self.timeout > 0, "timeout", self.timeout, "more than 0 seconds")
        if self.reward == JUDGE:
            raise unknown("reward", self.reward, REWARDS)
        find_reward(self.reward)
        self.made_for(EndpointModel("", MODEL))

    def made_for(self, model: EndpointModel) -> AnySystem:
        """Return the system with its settings."""
        return make_system(self.system, model, self.settings)

    def sampling(self, call: Call, number: int) -> SamplingParams:
        """Return the sampling parameters of a call: its own limit, and the temperature of the rollouts."""
        return replace(call.sampling, temperature=self.temperature)


class Agent:
    """The agent, `workflow="memfold.rl.areal.Agent"`; it holds its options alone, so that it can be pickled.

    Raises:
        ConfigError: for an option, a system, a setting or a reward that is not possible.
    """

    def __init__(self, **options: Any) -> None:
        self.options = build(AgentOptions, options, "workflow_kwargs")

    async def run(self, data: Mapping[str, Any], **kwargs: Any) -> float | dict[str, float]:
        """Answer the question of a row; return the reward of each completion, or 0 if a request failed.

        AReaL passes `base_url` and `api_key`, or sets the variables of the environment.  Its `http_client` is not used:
        it belongs to AReaL's event loop, and the work is done in a thread of its own.

        Raises:
            ConfigError: without an address.
            DataError: for a row of another layout, or without exactly one question.
            CallError: for a trajectory without completions, or one that cannot be rewarded; AReaL rejects it.
        """
        url = kwargs.get("base_url") or os.environ.get(ADDRESS_VARIABLE)
        if not url:
            raise ConfigError(f"AReaL gave no address: base_url is missing, and {ADDRESS_VARIABLE} is not set")
        thread = ThreadPoolExecutor(1, "memfold-trajectory")  # the threads of the event loop are too few for rollouts
        try:
            work = partial(self._trajectory, data, str(url).rstrip("/"), kwargs.get("api_key"))
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        finally:
            thread.shutdown(wait=False)

    def _trajectory(self, data: Mapping[str, Any], url: str, key: str | None) -> float | dict[str, float]:
        """Answer the question of a row at an address; return the reward of each completion."""
        options, sample = self.options, sample_of(data, self.options.dataset)
        model = EndpointModel(url, MODEL)
        model.left_out.update(UNTAKEN)
        system = options.made_for(model)
        (memory,) = fold(system, [sample.document], model)
        completions: list[str] = []
        # a request at a time and never again: the completions that AReaL recorded are then these, in this order
        policy = EndpointPolicy(model, 1, options.timeout, Retries(0), key, completions.append)
        trace = answer(Job(system, memory, sample.question, options.sampling), policy)
        if trace.failure is not None:
            return _failed(sample, trace, completions)
        named = len(set(filter(None, completions)))
        if not named or named < len(trace.steps):
            calls = f"{len(trace.steps)} calls got {named} completions with an id"
            raise CallError("policy", f"{calls}; AReaL gives one to each, so check that {url} is its address")
        value = _reward(options.reward, sample, trace).value
        told = rewards_to_tell(value, options.credit, len(completions), options.turn_discount)
        return dict(zip(completions, told, strict=True))


def rewards_to_tell(value: float, credit: Credit, calls: int, turn_discount: float) -> list[float]:
    """Return the rewards to tell AReaL, so that each call of a trajectory ends with its share of `value`.

    AReaL adds to the reward of a call that of the next one times `turn_discount`, from the last call on.  This is
    taken back, so that the shares are `value` for all, for the last call alone, or its `calls`-th part for all.

    >>> rewards_to_tell(1.0, "trajectory", 3, 1.0), rewards_to_tell(1.0, "last", 3, 1.0)
    ([0.0, 0.0, 1.0], [0.0, -1.0, 1.0])
    >>> rewards_to_tell(1.0, "divided", 4, 0.0)
    [0.25, 0.25, 0.25, 0.25]
    """
    if credit == "last":
        shares = [*[0.0] * (calls - 1), value]
    else:
        shares = [value if credit == "trajectory" else value / calls] * calls
    return [share - turn_discount * later for share, later in zip(shares, [*shares[1:], 0.0], strict=True)]


def sample_of(data: Mapping[str, Any], dataset: str) -> Sample:
    """Return the question of a row with its document.

    Raises:
        DataError: for a row of another layout, or without exactly one question.
    """
    row = Row(data, f"a row of layout {dataset!r}")
    loader: Loader = _own if dataset == OWN else load("dataset", dataset, DATASETS)
    samples = [sample for sample in loader(row) if sample is not None]
    if len(samples) != 1:
        raise DataError(f"{row.where} has {len(samples)} questions with an answer; allowed: one; give each its own row")
    return samples[0]


def row_of(sample: Sample) -> dict[str, Any]:
    """Return the row of a sample of any task, for a line of JSON: its document, question, answers and kind."""
    answers, kind = list(sample.answers), sample.kind
    return {"document": sample.document.read(), "question": sample.question, "answers": answers, "kind": kind}


def _own(row: Row) -> Iterator[Sample]:
    """The question of a row that `row_of` made; a row of one's own may leave out the kind."""
    if not row.texts("answers"):
        raise row.wrong("answers", "at least one answer")
    kind = row.string("kind") if row.has("kind") else ""
    document = Document(row.name("id"), text=row.text("document"))
    yield Sample(OWN, document, row.text("question"), row.texts("answers"), kind=kind)


def _failed(sample: Sample, trace: Trace, completions: list[str]) -> float:
    """Return the reward of a trajectory with a failed request, 0 for all of its calls, and say so in a line.

    Raises:
        MemfoldError: the failure, if it is not that of a request, or if AReaL has no completion to train: version
            1.0.4 rejects a trajectory that raises, but stops at an empty one.
    """
    assert trace.failure is not None, "the trace has failed"
    if trace.failure.boundary != "policy" or not completions:
        raise trace.failure.exception()
    LOG.warning("%s: reward 0 for %d calls: %s", sample.document.source, len(completions), trace.failure)
    return 0.0


def _reward(name: str, sample: Sample, trace: Trace) -> Reward:
    """Return the reward of a trajectory.

    Raises:
        CallError: if it cannot be scored.
    """
    (reward,) = _rules(name)([(sample, trace)])
    if isinstance(reward, CallError):
        raise reward
    return reward


@cache
def _rules(name: str) -> Rules:
    return Rules(find_reward(name))
