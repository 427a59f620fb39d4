"""Updates weights from groups: advantages, the loss over forward passes, the on-policy check, the optimiser step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from memfold.backbone.model import Backbone
from memfold.core.errors import CallError
from memfold.core.types import Step
from memfold.rl.advantages import CREDITS, ESTIMATES
from memfold.rl.collect import Group
from memfold.rl.losses import CLIPS, MEANS, clip_mask, k1, k3
from memfold.rl.ratios import RATIOS
from memfold.rl.recipe import END_TO_END, HEADS, RlRecipe
from memfold.rl.replay import Pass, Turn, entropies, passes, score, turns_of
from memfold.rl.shaping import answering, counted, overlong
from memfold.training import activation_checkpointing
from memfold.training.loop import check_finite
from memfold.training.optimisers import Optimisers
from memfold.training.processes import Processes
from memfold.training.sharding import clip_gradients

NAMED = 3  # the number of traces that an error names


@dataclass
class Sums:
    """Sums over the tokens of passes; those of several processes are added.

    `first` counts the tokens of a step's first update, whose sampler had the trainer's weights; `logprob_gap` and
    `logprob_gap_kl` are summed over these.  `compared` counts the tokens whose KL to the parent is summed in `kl`.
    """

    tokens: int = 0
    first: int = 0
    loss: float = 0.0
    clipped: float = 0.0
    logprob_gap: float = 0.0
    logprob_gap_kl: float = 0.0
    compared: int = 0
    kl: float = 0.0
    entropy: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in vars(self)))


@dataclass(frozen=True)
class Updated:
    """The result of a step's updates: the schedule's factor, the largest gradient norm, and means over tokens."""

    rate: float = 0.0
    norm: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Trainer:
    """Trains the weights of a backbone; `reference` is the parent if the algorithm uses a KL to it."""

    recipe: RlRecipe
    backbone: Backbone
    optimisers: Optimisers
    processes: Processes
    reference: Backbone | None = None

    def step(self, groups: Sequence[Group], number: int) -> Updated:
        """Run the updates of step `number`, counted from 0, each with equally many groups.

        Raises:
            CallError: when sampler and trainer differ, or a loss or gradient is not finite; that update has not changed
                any weight.
        """
        sums, rate, largest = Sums(), 0.0, 0.0
        if self.recipe.objective == HEADS:
            groups = [_labelled(group) for group in groups]
        for index in range(self.recipe.updates):
            total, rate, norm = self._update(groups[index :: self.recipe.updates], number, first=index == 0)
            sums, largest = sums + total, max(largest, norm)
        return Updated(rate, largest, self._figures(sums))

    def _update(self, groups: Sequence[Group], number: int, first: bool) -> tuple[Sums, float, float]:
        """One update.  Returns its sums over all processes, the schedule's factor and the gradient norm."""
        sums = Sums()
        turns = self.learned(groups, sums)
        weights = self._weights(turns)
        heads = sum(self.processes.gather(sum(turn.wants_head for turn in turns)))
        forward = list(passes([turn for turn in turns if self._needed(turn)], self.recipe.tokens))
        idle = self._required_passes(len(forward)) - len(forward)
        with activation_checkpointing.enabled(self.backbone, self.recipe.activation_checkpointing):
            for one_pass in forward:
                sums += self._pass(one_pass, weights, heads, number, first)
            for _ in range(idle):
                self._idle_pass()
        gathered = self.processes.gather(sums)
        total = sum(gathered[1:], gathered[0])
        if first:
            self._check_logprob_gap(total, number)
        self.processes.sum_gradients(self.optimisers.parameters)
        norm = clip_gradients(self.optimisers.parameters, self.recipe.clip)
        check_finite(f"gradient of step {number + 1}{_named(turns)}", norm)
        return total, self.optimisers.step(number), float(norm)

    def learned(self, groups: Sequence[Group], sums: Sums) -> list[Turn]:
        """Return the turns of groups with their advantages, without truncated trajectories if those are masked.

        The KL to the parent is added to `sums` if it is subtracted from rewards.
        """
        options = self.recipe.options
        credit, estimate = CREDITS[options.credit], ESTIMATES[options.advantage]
        learned: list[Turn] = []
        count = 0
        for group in groups:
            source = group.question.document if self.recipe.memory == END_TO_END else group.memory
            trajectories = turns_of(group.question, source, group.traces, count)
            count += len(trajectories)
            scored = zip(group.traces, group.rewards, strict=True)
            turn_rewards = [_turn_rewards(trace.steps, reward.turns) for trace, reward in scored]
            advantages = credit(self.shaped(group, trajectories, sums), turn_rewards, estimate)
            for trajectory, values in zip(trajectories, advantages, strict=True):
                pairs = zip(trajectory, values, strict=True)
                learned += [replace(turn, advantage=float(value)) for turn, value in pairs]
        return [turn for turn in learned if counted(turn.trace, options.mask_truncated)]

    def shaped(self, group: Group, trajectories: Sequence[Sequence[Turn]], sums: Sums) -> Tensor:
        """Return rewards [g] with the length penalty, and minus the KL to the parent if it is applied to rewards."""
        options, limit = self.recipe.options, self.recipe.reply_tokens
        lengths = [answering(trace).token_count for trace in group.traces]
        buffer, factor = options.overlong_buffer, options.overlong_factor
        penalties = [overlong(length, limit, buffer, factor) for length in lengths]
        rewards = group.reward_values + torch.tensor(penalties)
        if options.kl == "reward" and self.reference is not None:
            divergences = self._divergences(self.reference, trajectories)
            sums.kl += float(divergences.sum())
            sums.compared += sum(turn.size for trajectory in trajectories for turn in trajectory)
            rewards = rewards - options.beta * divergences
        return rewards

    @torch.no_grad()
    def _divergences(self, reference: Backbone, trajectories: Sequence[Sequence[Turn]]) -> Tensor:
        """Return the sampled estimate of the KL to the parent, summed over each trajectory's tokens: [g]."""
        totals = torch.zeros(len(trajectories))
        index_of = {id(turn): index for index, trajectory in enumerate(trajectories) for turn in trajectory}
        turns = [turn for trajectory in trajectories for turn in trajectory]
        for one_pass in passes(turns, self.recipe.tokens):
            with self.processes.autocast(self.recipe.precision):
                expected = score(reference, one_pass).logprobs
            parts = k1(one_pass.sampled(expected.device), expected).split([turn.size for turn in one_pass.turns])
            for turn, part in zip(one_pass.turns, parts, strict=True):
                totals[index_of[id(turn)]] += float(part.sum())
        return totals

    def _weights(self, turns: Sequence[Turn]) -> dict[int, float]:
        """Return the weight of each turn's tokens, by the id of the turn, normalised over all processes."""
        gathered = self.processes.gather([(turn.size, turn.trajectory) for turn in turns])
        sizes = [size for pairs in gathered for size, _ in pairs]
        owners = [(process, trajectory) for process, pairs in enumerate(gathered) for _, trajectory in pairs]
        numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
        weigh = MEANS[self.recipe.options.mean]
        weights = weigh(sizes, [numbers[owner] for owner in owners], self.recipe.reply_tokens)
        offset = sum(map(len, gathered[: self.processes.number]))
        return {id(turn): weights[offset + index] for index, turn in enumerate(turns)}

    def _needed(self, turn: Turn) -> bool:
        """Return whether a turn can contribute to the gradient."""
        options = self.recipe.options
        if turn.wants_head:
            return True
        return turn.size > 0 and (turn.advantage != 0 or options.kl == "loss" or options.entropy > 0)

    def _required_passes(self, count: int) -> int:
        """Return how many passes this process must run: with sharded layers, the maximum over processes."""
        return max(self.processes.gather(count)) if self.recipe.hardware.sharded else count

    def _idle_pass(self) -> None:
        """Run every layer once with a zero gradient, so that processes with sharded layers stay in step."""
        with self.processes.autocast(self.recipe.precision, copies=False):
            token = torch.full((1, 1), self.backbone.end_token, device=self.backbone.device)
            hidden = self.backbone.hidden(token)[0]
            logits = [self.backbone.logits(hidden) for _ in range(2 if self.recipe.options.entropy else 1)]
        (0.0 * torch.cat(logits).sum()).backward()

    def _pass(self, forward: Pass, weights: dict[int, float], heads: int, number: int, first: bool) -> Sums:
        """Run one pass forward and backward; `heads` are the head scores of the whole update."""
        options, device = self.recipe.options, self.backbone.device
        sizes = [turn.size for turn in forward.turns]
        sums = Sums(sum(sizes))
        with self.processes.autocast(self.recipe.precision, not self.recipe.hardware.sharded):
            scores = score(self.backbone, forward)
            bonus = entropies(self.backbone, scores) if options.entropy else None
        sampled = forward.sampled(device)
        # in the first update the ratio is exactly 1: rounding errors could exceed the narrow clip range of GSPO
        log_ratio = scores.logprobs - (scores.logprobs.detach() if first else sampled)
        ratio = RATIOS[options.ratio](log_ratio, sizes)
        advantage = forward.spread(lambda turn: turn.advantage, device)
        loss = CLIPS[options.clip](ratio, advantage, options.clip_low, options.clip_high, options.clip_dual)
        sums.clipped = float(clip_mask(loss.detach(), ratio.detach(), advantage).sum())
        if options.kl == "loss" and self.reference is not None:
            with torch.no_grad(), self.processes.autocast(self.recipe.precision):
                expected = score(self.reference, forward).logprobs
            divergence = k3(scores.logprobs, expected)
            loss = loss + options.beta * divergence
            sums.kl, sums.compared = float(divergence.detach().sum()), sums.tokens
        if bonus is not None:
            loss = loss - options.entropy * bonus
            sums.entropy = float(bonus.detach().sum())
        total = (loss * forward.spread(lambda turn: weights[id(turn)], device)).sum()
        for value in forward.system.losses(scores.outputs).values():
            total = total + value * len(scores.outputs) / heads
        check_finite(f"loss of step {number + 1}{_named(forward.turns)}", total)
        scores.backward(total)
        sums.loss = float(total.detach())
        if first:
            sums.first = sums.tokens
            sums.logprob_gap = float((scores.logprobs.detach() - sampled).abs().sum())
            sums.logprob_gap_kl = float(k3(sampled, scores.logprobs.detach()).sum())
        return sums

    def _check_logprob_gap(self, total: Sums, number: int) -> None:
        gap = total.logprob_gap / max(total.first, 1)
        if gap > self.recipe.max_logprob_gap:
            raise CallError(
                "training",
                f"sampler and trainer differ by {gap:.4g} nats per token in step {number + 1}, the recipe's "
                f"max_logprob_gap allows {self.recipe.max_logprob_gap}; {_closer(self.recipe.precision)}; earlier "
                "checkpoints are intact",
            )

    def _figures(self, sums: Sums) -> dict[str, float]:
        """Return means over tokens."""
        tokens, first = max(sums.tokens, 1), max(sums.first, 1)
        figures = {
            "loss": sums.loss,
            "clipped": sums.clipped / tokens,
            "logprob_gap": sums.logprob_gap / first,
            "logprob_gap_kl": sums.logprob_gap_kl / first,
        }
        if self.recipe.options.kl != "none":
            figures["kl"] = sums.kl / max(sums.compared, 1)
        if self.recipe.options.entropy:
            figures["entropy"] = sums.entropy / tokens
        return figures


def _labelled(group: Group) -> Group:
    """Return a group whose traces have labels for what heads scored, and train these scores alone."""
    system, sample = group.question.system, group.question.sample
    return replace(group, traces=tuple(system.labelled(sample, group.memory, trace) for trace in group.traces))


def _closer(precision: str) -> str:
    """Return what brings the log-probabilities of sampler and trainer closer, or lets them differ."""
    return "allow a larger gap" if precision == "float32" else 'set precision = "float32", or allow a larger gap'


def _turn_rewards(steps: Sequence[Step], turns: Sequence[float]) -> list[float]:
    """Return the turn rewards of the trained calls; 0 if there are none."""
    values = turns or [0.0] * len(steps)
    return [value for step, value in zip(steps, values, strict=True) if step.call.trained]


def _named(turns: Sequence[Turn]) -> str:
    """Return the names of the first few traces of `turns`, for an error."""
    names = list(dict.fromkeys(turn.name for turn in turns))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f" (traces {'; '.join(names[:NAMED])}{more})" if names else ""
