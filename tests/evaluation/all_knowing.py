"""A policy that looks every reply up in the cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memfold.core.prompt import target
from memfold.core.system import MemorySystem
from memfold.core.types import Call, Memory, Reply
from memfold.evaluation.runner import Evaluation
from memfold.evaluation.suite import Case


class KnowsEverything:
    """Gives each case the reply it should have had; `wrong` names the cases that get another."""

    def __init__(self, evaluation: Evaluation, wrong: Callable[[Case], bool] = lambda case: False) -> None:
        self.backbone = evaluation.model
        self.cases = {
            (case.sample.document.source, case.sample.question): case
            for case in evaluation.suite.cases(evaluation.options, evaluation.model)
        }
        self.wrong = wrong
        self.asked: list[tuple[str, str]] = []
        self.batches: list[int] = []

    def generate(
        self,
        requests: Sequence[tuple[MemorySystem, Memory, Call]],
        on_token: Callable[[int, str], None] | None = None,
        cancel: Callable[[int], bool] | None = None,
    ) -> list[Reply | Exception]:
        self.batches.append(len(requests))
        return [self._reply(system, memory, call) for system, memory, call in requests]

    def _reply(self, system: MemorySystem, memory: Memory, call: Call) -> Reply:
        prompt = "".join(getattr(part, "text", "") for part in call.parts)
        case = next(
            case
            for (source, question), case in self.cases.items()
            if source == memory.name and f"\n{question}\n" in prompt
        )
        self.asked.append((system.name, case.key))
        if self.wrong(case):
            return Reply("nothing", tuple(self.backbone.encode("nothing")), positions=8)
        sample = case.sample
        if sample.answers:
            return Reply(target(sample.expected, sample.support, system.settings["style"]), positions=8)
        tokens = sample.document.tokens or ()
        return Reply(self.backbone.decode(tokens), (*tokens, self.backbone.end_token), positions=8)
