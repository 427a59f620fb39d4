"""The gate: the probability that a block helps with a question, given the note so far.

There are three: a trained classifier on the last hidden state (LycheeMemory, section 3.3), the model itself, asked for
yes or no, and BM25, which looks at the texts of block, question and note.  None of them generates text.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

from memfold.core.prompt import after_memory
from memfold.core.system import ask_all
from memfold.core.types import Call, HeadScore, Likelihood, Memory, Part, Reply
from memfold.systems.kvbank.prompts import NO, YES, block_message, helps
from memfold.systems.kvbank.settings import GATE, GATE_HEAD, KvbankFold, KvbankRead
from memfold.systems.shared.candidates import candidates

MOST = 8  # blocks that BM25 opens if `most` is 0
Scores = Generator[tuple[Call, ...], tuple[Reply, ...], list[float]]


def gate_scores(
    fold: KvbankFold, read: KvbankRead, memory: Memory, question: str, note: str, indices: Sequence[int]
) -> Scores:
    """Return a score from 0 to 1 for each of some blocks."""
    if read.gate == "head":
        place = (fold, read, memory.name)
        replies = yield from ask_all([head_call(*place, index, question, note) for index in indices])
        return [_sigmoid(reply.score or 0.0) for reply in replies]
    if read.gate == "ask":
        calls = [
            _asking(fold, read, memory.name, index, question, note, word) for index in indices for word in (YES, NO)
        ]
        replies = yield from ask_all(calls)
        odds = [sum(reply.logprobs) for reply in replies]
        return [_sigmoid(yes - no) for yes, no in zip(odds[::2], odds[1::2], strict=True)]
    if read.gate == "bm25":
        best = candidates(memory, question, note, read.most or MOST)
        return [float(index in best) for index in indices]
    return [1.0] * len(indices)


def head_call(
    fold: KvbankFold, read: KvbankRead, memory: str, index: int, question: str, note: str, trained: bool = False
) -> Call:
    """Return the call of the trained gate for a block.

    Its score is a training target where there are labels, in supervised samples and in `labels`.  Rewards train
    nothing, because the decision of the gate is discrete (section 3.3.1).
    """
    parts = _parts(fold, read, memory, index, question, note)
    return Call("gate", parts, HeadScore(GATE_HEAD), GATE, trained)


def _asking(fold: KvbankFold, read: KvbankRead, memory: str, index: int, question: str, note: str, word: str) -> Call:
    return Call("gate", _parts(fold, read, memory, index, question, note), Likelihood(text=word), trained=False)


def _parts(fold: KvbankFold, read: KvbankRead, memory: str, index: int, question: str, note: str) -> tuple[Part, ...]:
    return block_message(
        fold, memory, index, after_memory(read.chat_template, helps(read.chat_template, question, note), None)
    )


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, logit))))
