"""What comes of one question, as Python, the command line and `--json` give it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from memfold.core.prompt import recalled
from memfold.core.types import Citation, Trace


@dataclass(frozen=True)
class Response:
    """What came of one question: the answer, where it stands in the text, and everything that happened (`trace`).

    `warning` says when the answer is not to be trusted; `passages` are then what a plain search finds.
    """

    trace: Trace
    model: str
    fold_seconds: float = 0.0
    warning: str | None = None
    passages: tuple[Citation, ...] = ()

    @property
    def text(self) -> str:
        """The bare answer; empty when the question failed."""
        return self.trace.answer.text if self.trace.answer else ""

    @property
    def recalled(self) -> str:
        """The sentences that the model wrote out before it answered."""
        return recalled(self.trace.answer.reply) if self.trace.answer else ""

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The passages that the answer rests on, best first."""
        return self.trace.answer.citations if self.trace.answer else ()

    @property
    def error(self) -> str | None:
        """Why there is no answer."""
        return None if self.trace.failure is None else str(self.trace.failure)

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens, slots, positions and calls."""
        cost = self.trace.cost
        return {
            "document_tokens": cost.document_tokens,
            "memory_slots": cost.slots,
            "decoder_positions": cost.positions,
            "effective_ratio": round(cost.effective_ratio, 3),
            "calls": cost.calls,
            "generated_tokens": cost.generated_tokens,
        }

    @property
    def seconds(self) -> dict[str, float]:
        """Folding (0 for a memory that was opened), up to the first token, and both with the rest of the reply."""
        cost = self.trace.cost
        total = self.fold_seconds + cost.seconds
        parts = {"fold": self.fold_seconds, "first_token": cost.first_token_seconds, "total": total}
        return {name: round(value, 4) for name, value in parts.items()}

    def record(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        record: dict[str, Any] = {
            "answer": self.text,
            "recalled": self.recalled,
            "system": self.trace.system,
            "model": self.model,
            "citations": [asdict(citation) for citation in self.citations],
            "usage": self.usage,
            "seconds": self.seconds,
            "warning": self.warning,
        }
        if self.warning is not None:
            record["passages"] = [asdict(passage) for passage in self.passages]
        return record if self.error is None else record | {"error": self.error}


def unended(trace: Trace) -> str | None:
    """What to say of a reply that ran to its limit: it has come to no answer."""
    if not trace.steps or trace.steps[-1].reply.finish != "length":
        return None
    count = trace.steps[-1].reply.token_count
    return f"the reply did not end within {count} tokens, so it holds no answer; unfold, or fold at a lower ratio"
