r"""Takes the answer out of a reply by the rules of published evaluations.

A reply says its answer in `\boxed{}`, or after "Answer:", or nowhere; then its last 20 words stand for it, which suits
scores that look for a stretch of words in it.  Left out: what a system itself takes for its answer (`core.prompt`).
"""

from __future__ import annotations

import re

from memfold.core.prompt import BOX, final_answer

LETTERS = "ABCD"
_CUE = re.compile(r"\banswer\s*(?:is\s*)?:[\s*]*([^\n]*[^\s*])", re.IGNORECASE)
# an A before a word is more often an article than a choice
_LETTER = r"[(\[*\s]*([BCD](?![\w'])|A(?=[)\].:,;*]|\s*\Z|\s*\n|\s+(?:because|since|as|is)\b))"
_SAID = re.compile(rf"\b(?i:answer|choice|option)(?:\s+(?i:is|would\s+be))?\s*:?{_LETTER}")
_ALONE = re.compile(rf"\s*[(\[*]*([{LETTERS}])(?:[)\].:,*]|\s*\Z|\s*\n)")
_BRACKETED = re.compile(rf"\(([{LETTERS}])\)")


def short_answer(reply: str) -> str:
    r"""The last `\boxed{}`, else what follows the last "Answer:" on its line, else the last 20 words.

    >>> short_answer("It lies by the sea.\nAnswer: Velm\n")
    'Velm'
    """
    said = _CUE.findall(reply)
    return said[-1].strip() if said and BOX not in reply else final_answer(reply, "recall")


def choice_letter(reply: str) -> str | None:
    r"""The letter, A to D, that a reply chooses; None where it chooses none or leaves it open.

    In this order: the letter in `\boxed{}`; the last one that is called answer, choice or option; the one that the
    reply begins with, set off from what follows ("A town" is no choice); the only one that stands in brackets.

    >>> choice_letter("The correct answer is (C), because (A) is not."), choice_letter("A town.")
    ('C', None)
    """
    if BOX in reply:
        boxed = re.match(_LETTER, re.sub(r"\\\w+\{|\}", "", final_answer(reply, "recall")))
        if boxed:
            return boxed[1]
    said = _SAID.findall(reply)
    if said:
        return str(said[-1])
    begun = _ALONE.match(reply)
    if begun:
        return begun[1]
    bracketed = set(_BRACKETED.findall(reply))
    return bracketed.pop() if len(bracketed) == 1 else None
