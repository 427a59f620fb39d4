"""What becomes of the evidence in the notes of a system that writes them, and what else its last note holds.

Each figure is a share of one question.  A note may lose a fact that it had, be full of what matters to nobody, or use
little of its room: MemAgent and LycheeMemory show single notes, and these figures count.  Evidence is found by the
rules of `evidence`, so other words for the same fact do not count, and names must be those of an English text.
"""

from __future__ import annotations

from memfold.core.borders import sentences
from memfold.core.types import Generate, Memory, Sample, Trace
from memfold.core.words import words
from memfold.evaluation.evidence import evidence_of, looks_at
from memfold.evaluation.reading import NOTING
from memfold.systems.shared.citations import sentence_index

NOTED, KEPT = "evidence_noted", "evidence_kept"
BESIDE, COPIED, FILLED = "note_beside", "note_copied", "note_filled"
NOTE_FIGURES = {  # with the names of their columns
    NOTED: "evidence noted",
    KEPT: "in the last note",
    BESIDE: "other sentences",
    COPIED: "copied sentences",
    FILLED: "room used",
}


def note_figures(trace: Trace, memory: Memory, sample: Sample) -> dict[str, float]:
    """Return the shares of one question; none if its trace has no notes, or its sample no evidence.

    `evidence_noted` is the share of the evidence that any note had, `evidence_kept` that of the last one.  Of the
    sentences of the last note, `note_beside` is the share of those that are no evidence, `note_copied` of those that
    stand in the text word for word; there are none if the note is blank.  `note_filled` is the number of tokens of the
    longest reply that is a note, as a share of its limit.
    """
    noting = [step for step in trace.steps if step.call.purpose in NOTING]
    if not noting or not sample.evidence:
        return {}
    notes = [look.after for look in looks_at(trace.steps) if look.reads]
    evidence, last = evidence_of(sample, memory), notes[-1]
    figures = {
        NOTED: sum(any(map(piece.is_in, notes)) for piece in evidence) / len(evidence),
        KEPT: sum(piece.is_in(last) for piece in evidence) / len(evidence),
        FILLED: max(
            step.reply.token_count / step.call.wants.sampling.max_tokens
            for step in noting
            if isinstance(step.call.wants, Generate)
        ),
    }
    found = [last[start:end] for start, end in sentences(last)]
    if found:
        proven = [f" {' '.join(words(piece.text))} " for piece in evidence]
        beside = [not any(f" {' '.join(words(each))} " in piece for piece in proven) for each in found]
        figures[BESIDE] = sum(beside) / len(found)
        figures[COPIED] = sum(map(sentence_index(memory).contains, found)) / len(found)
    return figures
