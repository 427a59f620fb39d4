"""From groups to new weights: advantages, the loss over forward passes, the on-policy check, the optimiser step."""

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
from memfold.rl.losses import CLIPS, MEANS, held_back, k1, k3
from memfold.rl.ratios import RATIOS
from memfold.rl.recipe import END_TO_END, RlRecipe
from memfold.rl.replay import Conversation, Pass, conversations, entropies, passes, score
from memfold.rl.shaping import counted, overlong
from memfold.training.loop import check_finite
from memfold.training.optimisers import Optimisers
from memfold.training.processes import Processes
from memfold.training.recomputation import recomputed
from memfold.training.sharding import clip_gradients

NAMED = 3  # traces that an error names


@dataclass
class Sums:
    """Sums over the tokens of passes; those of several processes add up.

    `first` counts the tokens whose sampler had the trainer's weights, `apart` and `distance` are summed over them;
    `compared` those whose distance to the parent is summed in `kl`.
    """

    tokens: int = 0
    first: int = 0
    loss: float = 0.0
    clipped: float = 0.0
    apart: float = 0.0
    distance: float = 0.0
    compared: int = 0
    kl: float = 0.0
    entropy: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in vars(self)))


@dataclass(frozen=True)
class Updated:
    """What an update did: the schedule's factor, the gradient's norm, and means over tokens."""

    rate: float = 0.0
    norm: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Trainer:
    """The weights with what changes them; `reference` is the parent where the distance to it counts."""

    recipe: RlRecipe
    backbone: Backbone
    optimisers: Optimisers
    processes: Processes
    reference: Backbone | None = None

    def step(self, groups: Sequence[Group], number: int) -> Updated:
        """`updates` updates of step `number`, from 0, each from as many groups.

        Raises:
            CallError: when the sampler was not the trainer, or a loss or gradient is not a number; no weight has been
                changed by that update.
        """
        sums, rate, largest = Sums(), 0.0, 0.0
        for index in range(self.recipe.updates):
            own, rate, norm = self._update(groups[index :: self.recipe.updates], number, first=index == 0)
            sums, largest = sums + own, max(largest, norm)
        return Updated(rate, largest, self._figures(sums))

    def _update(self, groups: Sequence[Group], number: int, first: bool) -> tuple[Sums, float, float]:
        """One update; its sums over all processes, the schedule's factor and the norm."""
        sums = Sums()
        given = self.learned(groups, sums)
        weights = self._weights(given)
        own = list(passes([each for each in given if self._needed(each)], self.recipe.tokens))
        idle = self._most(len(own)) - len(own)
        with recomputed(self.backbone, self.recipe.checkpointing):
            for one in own:
                sums += self._pass(one, weights, number, first)
            for _ in range(idle):
                self._idle_pass()
        found = self.processes.gather(sums)
        total = sum(found[1:], found[0])
        if first:
            self._check_drift(total, number)
        self.processes.sum_gradients(self.optimisers.parameters)
        norm = clip_gradients(self.optimisers.parameters, self.recipe.clip)
        check_finite(f"gradient of step {number + 1}{_named(given)}", norm)
        return total, self.optimisers.step(number), float(norm)

    def learned(self, groups: Sequence[Group], sums: Sums) -> list[Conversation]:
        """The conversations of groups with their advantages, without those of cut-off answers where they are masked.

        A distance to the parent that is taken from rewards is added to `sums`.
        """
        options = self.recipe.options
        found: list[Conversation] = []
        trajectories = 0
        for group in groups:
            about = group.question.document if self.recipe.memory == END_TO_END else group.memory
            own = conversations(group.question, about, group.traces, trajectories)
            trajectories += len(own)
            turns = [_turns(trace.steps, worth.turns) for trace, worth in zip(group.traces, group.worths, strict=True)]
            advantages = CREDITS[options.credit](self.shaped(group, own, sums), turns, ESTIMATES[options.advantage])
            for trajectory, values in zip(own, advantages, strict=True):
                pairs = zip(trajectory, values, strict=True)
                found += [replace(conversation, advantage=float(value)) for conversation, value in pairs]
        return [each for each in found if counted(each.trace, options.mask_truncated)]

    def shaped(self, group: Group, own: Sequence[Sequence[Conversation]], sums: Sums) -> Tensor:
        """Rewards [g] with the punishment of length, and the distance to the parent where it counts there."""
        options = self.recipe.options
        punished = [
            overlong(trace.steps[-1].reply.token_count, self.recipe.reply_tokens, options.overlong_buffer,
                     options.overlong_factor)
            for trace in group.traces
        ]  # fmt: skip
        rewards = group.rewards + torch.tensor(punished)
        if options.kl == "reward" and self.reference is not None:
            distances = self._distances(self.reference, own)
            sums.kl += float(distances.sum())
            sums.compared += sum(each.size for trajectory in own for each in trajectory)
            rewards = rewards - options.beta * distances
        return rewards

    @torch.no_grad()
    def _distances(self, reference: Backbone, own: Sequence[Sequence[Conversation]]) -> Tensor:
        """Sampled estimate of the distance to the parent, summed over each trajectory's tokens: [g]."""
        totals = torch.zeros(len(own))
        places = {id(each): place for place, trajectory in enumerate(own) for each in trajectory}
        for one in passes([each for trajectory in own for each in trajectory], self.recipe.tokens):
            with self.processes.autocast(self.recipe.precision):
                against = score(reference, one).logprobs
            parts = k1(one.sampled(against.device), against).split([each.size for each in one.conversations])
            for each, part in zip(one.conversations, parts, strict=True):
                totals[places[id(each)]] += float(part.sum())
        return totals

    def _weights(self, given: Sequence[Conversation]) -> dict[int, float]:
        """The weight of each conversation's tokens, by its id: over those of all processes."""
        shares = self.processes.gather([(each.size, each.trajectory) for each in given])
        everything = [(size, (process, owner)) for process, own in enumerate(shares) for size, owner in own]
        owners = {owner: number for number, owner in enumerate(dict.fromkeys(owner for _, owner in everything))}
        make = MEANS[self.recipe.options.mean]
        weights = make([s for s, _ in everything], [owners[o] for _, o in everything], self.recipe.reply_tokens)
        before = sum(map(len, shares[: self.processes.number]))
        return {id(each): weights[before + index] for index, each in enumerate(given)}

    def _needed(self, conversation: Conversation) -> bool:
        """Whether a conversation can have a gradient."""
        options = self.recipe.options
        return conversation.size > 0 and (conversation.advantage != 0 or options.kl == "loss" or options.entropy > 0)

    def _most(self, count: int) -> int:
        """How many passes this process must run: where layers are spread, as many as any other."""
        return max(self.processes.gather(count)) if self.recipe.hardware.sharded else count

    def _idle_pass(self) -> None:
        """Run every layer for the others, as `_pass` does, with a gradient of zero."""
        with self.processes.autocast(self.recipe.precision, copies=False):
            token = torch.full((1, 1), self.backbone.end_token, device=self.backbone.device)
            hidden = self.backbone.hidden(self.backbone.embed_rows(token, ()))[0]
            logits = [self.backbone.logits(hidden) for _ in range(2 if self.recipe.options.entropy else 1)]
        (0.0 * torch.cat(logits).sum()).backward()

    def _pass(self, one: Pass, weights: dict[int, float], number: int, first: bool) -> Sums:
        """Forward and backward of one pass."""
        options, device = self.recipe.options, self.backbone.device
        sums = Sums(sum(each.size for each in one.conversations))
        with self.processes.autocast(self.recipe.precision, not self.recipe.hardware.sharded):
            scores = score(self.backbone, one)
            spread = entropies(self.backbone, scores) if options.entropy else None
        sampled = one.sampled(device)
        # where the sampler had these weights their ratio is 1, whatever rounding says: GSPO's clip is as narrow as that
        change = scores.logprobs - (scores.logprobs.detach() if first else sampled)
        ratio = RATIOS[options.ratio](change, [each.size for each in one.conversations])
        advantage = one.spread(lambda each: each.advantage, device)
        loss = CLIPS[options.clip](ratio, advantage, options.clip_low, options.clip_high, options.clip_dual)
        sums.clipped = float(held_back(loss.detach(), ratio.detach(), advantage).sum())
        if options.kl == "loss" and self.reference is not None:
            with torch.no_grad(), self.processes.autocast(self.recipe.precision):
                against = score(self.reference, one).logprobs
            distance = k3(scores.logprobs, against)
            loss = loss + options.beta * distance
            sums.kl, sums.compared = float(distance.detach().sum()), sums.tokens
        if spread is not None:
            loss = loss - options.entropy * spread
            sums.entropy = float(spread.detach().sum())
        total = (loss * one.spread(lambda each: weights[id(each)], device)).sum()
        check_finite(f"loss of step {number + 1}{_named(one.conversations)}", total)
        scores.backward(total)
        sums.loss = float(total.detach())
        if first:
            sums.first = sums.tokens
            sums.apart = float((scores.logprobs.detach() - sampled).abs().sum())
            sums.distance = float(k3(sampled, scores.logprobs.detach()).sum())
        return sums

    def _check_drift(self, total: Sums, number: int) -> None:
        apart = total.apart / max(total.first, 1)
        if apart > self.recipe.drift:
            raise CallError(
                "training",
                f"sampler and trainer differ by {apart:.4g} nats a token in step {number + 1}, the recipe's drift "
                f"allows {self.recipe.drift}; use the same precision for both; the last checkpoint is whole",
            )

    def _figures(self, sums: Sums) -> dict[str, float]:
        """Means over tokens."""
        tokens, first = max(sums.tokens, 1), max(sums.first, 1)
        figures = {"loss": sums.loss, "clipped": sums.clipped / tokens, "apart": sums.apart / first,
                   "apart_kl": sums.distance / first}  # fmt: skip
        if self.recipe.options.kl != "none":
            figures["kl"] = sums.kl / max(sums.compared, 1)
        if self.recipe.options.entropy:
            figures["entropy"] = sums.entropy / tokens
        return figures


def _turns(steps: Sequence[Step], turns: Sequence[float]) -> list[float]:
    """The turn rewards of the trained calls; 0 where turns have none."""
    values = turns or [0.0] * len(steps)
    return [value for step, value in zip(steps, values, strict=True) if step.call.trained]


def _named(given: Sequence[Conversation]) -> str:
    """The first traces of some conversations, for an error."""
    names = list(dict.fromkeys(each.name for each in given))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f" (traces {'; '.join(names[:NAMED])}{more})" if names else ""
