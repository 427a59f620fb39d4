"""The response to one question, for the Python API, the command line and `--json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from memfold.core.model import Model
from memfold.core.prompt import ABSENT, recalled
from memfold.core.registry import AnySystem
from memfold.core.types import Citation, Finish, Generate, Recall, Trace


@dataclass(frozen=True, repr=False)
class Response:
    """The response to one question: the answer, its citations and the full `trace`.

    `recalls` are the sentences that the model recalled, each compared with the text of the memory, and `supported` says
    whether the text contains all of them and the answer; None if that cannot be said.  `unmentioned` are names and
    numbers of the question and the answer that the text does not mention.  An answer that the text does not state is
    `withheld`: `text` is then "not in the text".  `warning` says why the answer is unreliable, if it is; `passages`
    then holds the results of a text search for the question.  `checked` is false if the memory holds no text with which
    the answer could be compared.
    """

    trace: Trace
    model: str
    fold_seconds: float = 0.0
    warning: str | None = None
    passages: tuple[Citation, ...] = ()
    recalls: tuple[Recall, ...] = ()
    supported: bool | None = None
    unmentioned: tuple[str, ...] = ()
    withheld: str | None = None
    checked: bool = True

    def __repr__(self) -> str:
        if self.error is not None:
            return f"<Response without an answer: {self.error}>"
        return f"<Response {self.text!r}, {len(self.citations)} citations{', with a warning' * bool(self.warning)}>"

    @property
    def text(self) -> str:
        """The answer alone, without recalled sentences; empty if the question failed."""
        if self.withheld is not None:
            return ABSENT
        return self.trace.answer.text if self.trace.answer else ""

    @property
    def reply(self) -> str:
        """The whole reply that the answer was taken from, without the thoughts before it."""
        return self.trace.answer.reply if self.trace.answer else ""

    @property
    def thinking(self) -> str:
        """What a reasoning model thought before its last reply."""
        return self.trace.steps[-1].reply.thinking if self.trace.steps else ""

    @property
    def finish(self) -> Finish:
        """Why the last reply ended: by itself (`stop`), at its limit (`length`), because it went round in a circle
        (`repetition`), or because it was `cancelled`."""
        return self.trace.steps[-1].reply.finish if self.trace.steps else "stop"

    @property
    def recalled(self) -> str:
        """The supporting sentences that the model recalled before its answer."""
        return recalled(self.reply)

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The passages that support the answer, best first."""
        return self.trace.answer.citations if self.trace.answer else ()

    @property
    def error(self) -> str | None:
        """Why there is no answer; None if there is one."""
        return None if self.trace.failure is None else str(self.trace.failure.exception())

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
            "reply": self.reply,
            "thinking": self.thinking,
            "finish": self.finish,
            "recalled": self.recalled,
            "supported": self.supported,
            "recalls": [asdict(recall) for recall in self.recalls],
            "unmentioned": list(self.unmentioned),
            "withheld": self.withheld,
            "checked": self.checked,
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


def unended(trace: Trace, system: AnySystem, model: Model, holds_text: bool) -> str | None:
    """Return a warning if the last reply is empty or was cut off, with what this system can do, else None.

    `holds_text` says whether the memory holds its text.
    """
    if not trace.steps or not isinstance(trace.steps[-1].call.wants, Generate):
        return None  # the last call was one of a gate: the system has answered without a reply
    reply, limit = trace.steps[-1].reply, trace.steps[-1].call.sampling.max_tokens
    if reply.finish == "repetition":
        return "the reply repeats itself and was stopped; ask in other words, or use another --model"
    if reply.finish != "length":
        return None if reply.text.strip() else "the reply is empty; ask in other words, or use another --model"
    ratio, ratios = system.ratio, system.trained_ratios(model.trained.get(system.name, {}))
    advice = {
        "allow a longer reply (--max-tokens)": reply.usage is not None or reply.token_count >= limit,
        "ask for the answer alone (--style bare)": system.read.style != "bare",
        "read the cited text again (--unfold)": system.capabilities.unfolds and holds_text and len(trace.steps) == 1,
        "fold at a lower ratio": ratio is not None and any(trained < ratio for trained in ratios),
    }
    possible = [what for what, is_possible in advice.items() if is_possible] or ["ask a narrower question"]
    lost = "the answer may be incomplete" if reply.text.strip() else "there is no answer"
    return f"the reply did not end within {reply.token_count} tokens, so {lost}; {', or '.join(possible)}"
