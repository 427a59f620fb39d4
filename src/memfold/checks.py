"""What is said about an answer besides its text: warnings, and how far the text of the memory supports it.

The checks belong to no system: they compare a finished reply with the stored text.  An answer that the text does not
state is withheld, and the response says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from memfold.core.model import Model
from memfold.core.prompt import ABSENT
from memfold.core.types import Memory, Recall, Span, Trace
from memfold.response import Response, unended
from memfold.session import Session
from memfold.systems.shared.citations import check_reply, read_span, sentence_index, support
from memfold.systems.shared.mentions import is_name_alone, mentions_none, unmentioned
from memfold.systems.shared.statements import states

SCANNED = 200_000  # characters of a memory that are checked for being familiar to the model, in blocks spread evenly
PASSAGE = 256  # characters around the sentence that matches a question


def memory_warning(memory: Memory, model: Model) -> str | None:
    """Return a warning that the text of a memory, or a part of it, is unlike the training text of the model."""
    if not model.has_weights or not memory.blocks:
        return None
    from memfold.backbone import familiarity

    if not memory.holds_text:
        return familiarity.slots_warning(model, memory.blocks)
    characters = sum(block.char_end - block.char_start for block in memory.blocks)
    excerpts = memory.blocks[:: -(-characters // SCANNED)]
    return familiarity.warning(model, "".join(block.read() or "" for block in excerpts))


def respond(memory: Memory, session: Session, trace: Trace, warning: str | None, fold_seconds: float) -> Response:
    """Return the response to a question: its trace with everything that the checks say about it.

    `warning` is that of the memory (`memory_warning`).
    """
    model, question = session.model, trace.question
    if trace.answer is None:
        return Response(trace, model.name, fold_seconds)
    warnings = (
        trace.answer.warning,
        warning or _passage_warning(memory, model, question),
        unended(trace, session.system, model, memory.holds_text),
    )
    shown = "; ".join(filter(None, warnings)) or None
    text, recalls = trace.answer.text, check_reply(memory, trace.answer.reply)
    # other models word what they recall freely, and may answer rightly in words that the text does not have
    judged = model.trained_here and is_withheld(memory, question, recalls, text)
    withheld = text if judged else None
    return Response(
        trace=trace,
        model=model.name,
        fold_seconds=fold_seconds,
        warning=shown,
        passages=() if shown is None else sentence_index(memory).cite("", question, ""),
        recalls=recalls,
        supported=None if withheld is not None else _is_supported(memory, model, recalls, text),
        unmentioned=unmentioned(memory, question, text),
        withheld=withheld,
        checked=memory.holds_text,
    )


def _is_supported(memory: Memory, model: Model, recalls: Sequence[Recall], answer: str) -> bool | None:
    """Return whether the text contains the recalled sentences and the answer; None if that cannot be said.

    A model that was not trained here answers in sentences of its own.  That the text does not contain those says
    nothing: only their names and numbers can be looked up (`unmentioned`).
    """
    found = support(memory, recalls, answer)
    free = not (model.trained_here or recalls or is_name_alone(answer))
    return None if free and not found else found


def is_withheld(memory: Memory, question: str, recalls: Sequence[Recall], answer: str) -> bool:
    """Return whether an answer is withheld: the text mentions no name of the question, or does not state the answer.

    This suits a model that was trained here, which recalls sentences word for word.
    """
    if not answer or answer == ABSENT:
        return False
    return mentions_none(memory, question) or states(memory, question, recalls, answer) is False


def _passage_warning(memory: Memory, model: Model, question: str) -> str | None:
    """Return a warning if the passage of the text that matches a question best is unlike the training text."""
    if not model.has_weights or not memory.holds_text:
        return None
    from memfold.backbone import familiarity

    if not familiarity.has_limits(model):
        return None
    for citation in sentence_index(memory).cite("", question, "")[:1]:
        spare = max(0, PASSAGE - (citation.end - citation.start)) // 2
        around = Span(max(0, citation.start - spare), citation.end + spare)
        return familiarity.passage_warning(model, read_span(memory, memory.sources.index(citation.source), around))
    return None
