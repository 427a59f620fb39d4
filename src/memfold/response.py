"""The response to one question, for the Python API, the command line and `--json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from memfold.core.prompt import recalled
from memfold.core.types import Citation, Recall, Trace


@dataclass(frozen=True, repr=False)
class Response:
    """The response to one question: the answer, its citations and the full `trace`.

    `recalls` are the sentences that the model recalled, each compared with the text of the memory, and `supported` says
    whether the text contains all of them and the answer; None if that cannot be said.  `warning` says why the answer is
    unreliable, if it is; `passages` then holds the results of a text search for the question.
    """

    trace: Trace
    model: str
    fold_seconds: float = 0.0
    warning: str | None = None
    passages: tuple[Citation, ...] = ()
    recalls: tuple[Recall, ...] = ()
    supported: bool | None = None

    def __repr__(self) -> str:
        if self.error is not None:
            return f"<Response without an answer: {self.error}>"
        return f"<Response {self.text!r}, {len(self.citations)} citations{', with a warning' * bool(self.warning)}>"

    @property
    def text(self) -> str:
        """The answer alone, without recalled sentences; empty if the question failed."""
        return self.trace.answer.text if self.trace.answer else ""

    @property
    def recalled(self) -> str:
        """The supporting sentences that the model recalled before its answer."""
        return recalled(self.trace.answer.reply) if self.trace.answer else ""

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The passages that support the answer, best first."""
        return self.trace.answer.citations if self.trace.answer else ()

    @property
    def error(self) -> str | None:
        """Why there is no answer; None if there is one."""
        return None if self.trace.failure is None else str(self.trace.failure)

    @property
    def usage(self) -> dict[str, Any]:
        """Counts of document tokens, slots, decoder positions, calls and generated tokens, and the effective ratio."""
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
        """Seconds spent folding (0 for an opened memory), to the first token, and in total (fold and reply)."""
        cost = self.trace.cost
        total = self.fold_seconds + cost.seconds
        seconds = {"fold": self.fold_seconds, "first_token": cost.first_token_seconds, "total": total}
        return {name: round(value, 4) for name, value in seconds.items()}

    def record(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        record: dict[str, Any] = {
            "answer": self.text,
            "recalled": self.recalled,
            "supported": self.supported,
            "recalls": [asdict(recall) for recall in self.recalls],
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
    """Return a warning if the last reply was cut off at its token limit, else None."""
    if not trace.steps or trace.steps[-1].reply.finish != "length":
        return None
    count = trace.steps[-1].reply.token_count
    return f"the reply did not end within {count} tokens, so it holds no answer; unfold, or fold at a lower ratio"
