r"""Extracts the answer from a reply by the rules of published evaluations.

A reply gives its answer in `\boxed{}` or after "Answer:".  Otherwise the last 20 words are taken, which suits metrics
that search the answer for a phrase.  The answer that a system itself extracts is defined in `core.prompt`.
"""

from __future__ import annotations

import re

from memfold.core.prompt import BOX, final_answer

LETTERS = "ABCD"
LAST_WORDS = 20  # pooled paper, appendix H.1
_CUE = re.compile(r"\banswer\s*(?:is\s*)?:[\s*]*([^\n]*[^\s*])", re.IGNORECASE)
# an A before a word is usually an article
_LETTER = r"[(\[*\s]*([BCD](?![\w'])|A(?=[)\].:,;*]|\s*\Z|\s*\n|\s+(?:because|since|as|is)\b))"
_NAMED = re.compile(rf"\b(?i:answer|choice|option)(?:\s+(?i:is|would\s+be))?\s*:?{_LETTER}")
_LEADING = re.compile(rf"\s*[(\[*]*([{LETTERS}])(?:[)\].:,*]|\s*\Z|\s*\n)")
_BRACKETED = re.compile(rf"\(([{LETTERS}])\)")


def short_answer(reply: str) -> str:
    r"""Return the last `\boxed{}`, else what follows the last "Answer:" on its line, else the last 20 words.

    >>> short_answer("It lies by the sea.\nAnswer: Velm\n")
    'Velm'
    """
    if BOX in reply:
        return final_answer(reply, "recall")
    answers = _CUE.findall(reply)
    return answers[-1].strip() if answers else " ".join(reply.split()[-LAST_WORDS:])


def choice_letter(reply: str) -> str | None:
    r"""Return the letter, A to D, that a reply chooses; None if it chooses none or is ambiguous.

    In order of priority: the letter in `\boxed{}`; the last letter that is called answer, choice or option; a letter at
    the beginning of the reply that is set off from what follows (not "A town"); the only letter in brackets.

    >>> choice_letter("The correct answer is (C), because (A) is not."), choice_letter("A town.")
    ('C', None)
    """
    if BOX in reply:
        boxed = re.match(_LETTER, re.sub(r"\\\w+\{|\}", "", final_answer(reply, "recall")))
        if boxed:
            return boxed[1]
    named = _NAMED.findall(reply)
    if named:
        return str(named[-1])
    leading = _LEADING.match(reply)
    if leading:
        return leading[1]
    bracketed = set(_BRACKETED.findall(reply))
    return bracketed.pop() if len(bracketed) == 1 else None
