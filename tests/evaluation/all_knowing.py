"""A policy that looks every reply up in the cases."""

from __future__ import annotations

from collections.abc import Callable

from scripted_policy import ScriptedPolicy

from memfold.core.policy import Request
from memfold.core.prompt import target
from memfold.core.types import Reply
from memfold.evaluation.runner import Evaluation
from memfold.evaluation.suite import Case


class KnowsEverything(ScriptedPolicy):
    """Gives each case the reply it should have had; `wrong` names the cases that get another.

    `asked` are the names of systems and keys of cases, in the order of the calls.
    """

    def __init__(self, evaluation: Evaluation, wrong: Callable[[Case], bool] = lambda case: False) -> None:
        super().__init__(reply=lambda call: "")  # `answer` takes its place
        self.model, self.wrong = evaluation.model, wrong
        self.cases = {
            (case.sample.document.source, case.sample.question): case
            for case in evaluation.suite.cases(evaluation.options, evaluation.model)
        }
        self.asked: list[tuple[str, str]] = []

    def answer(self, request: Request) -> Reply:
        case = self._case(request)
        self.asked.append((request.system.name, case.key))
        if self.wrong(case):
            return Reply("nothing", tuple(self.model.encode("nothing")), positions=8)
        sample = case.sample
        if sample.answers:
            return Reply(target(sample.expected, sample.support, request.system.read.style), positions=8)
        tokens = sample.document.tokens or ()
        return Reply(self.model.decode(tokens), (*tokens, self.model.end_token), positions=8)

    def _case(self, request: Request) -> Case:
        """By the document, and the question in the prompt."""
        prompt = "".join(getattr(part, "text", "") for part in request.call.parts)
        return next(
            case
            for (source, question), case in self.cases.items()
            if source == request.memory.name and f"\n{question}\n" in prompt
        )
