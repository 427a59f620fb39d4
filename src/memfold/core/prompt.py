"""Prompts around a memory and a question, and extraction of the answer from a reply.

There are three chat templates: `flat` is plain text, for base models; `chatml` is the template of the Qwen chat
models; `message` is the content of a user message, for endpoints that apply their own chat template.  There are three
reply styles: `bare` is the answer alone; `recall` is the supporting sentences, then the answer in `\\boxed{}`; `free`
lets the model decide whether to recall.  The pooled paper shows its prompts only as images, so the wording is our own.
"""

from __future__ import annotations

from typing import Literal

ChatTemplate = Literal["flat", "chatml", "message"]
Style = Literal["bare", "recall", "free"]

CHAT_TEMPLATES: tuple[ChatTemplate, ...] = ("flat", "chatml", "message")
STYLES: tuple[Style, ...] = ("bare", "recall", "free")

_CUES = {"bare": "Answer:", "recall": "Recall:", "free": "Recall?"}
_REQUESTS = {
    "bare": "Answer from the text above in a few words.",
    "recall": "Write out the sentences of the text above that you need, then give the answer in \\boxed{}.",
    "free": "Write out sentences of the text above where they help you, and give the answer in \\boxed{}.",
}
BOX = "\\boxed{"
ABSENT = "not in the text"  # the answer to a question that the text does not answer
LAST_WORDS = 20


def before_memory(chat_template: ChatTemplate) -> str:
    """Return the text before the memory; it follows the token that begins every sequence."""
    return "<|im_start|>user\n" if chat_template == "chatml" else ""


def after_memory(chat_template: ChatTemplate, question: str, style: Style | None) -> str:
    """Return the text between the memory and the reply; `style` is None if `question` is an instruction."""
    if chat_template != "flat":
        request = f"\n{question}\n{_REQUESTS[style]}" if style else f"\n{question}"
        return f"{request}<|im_end|>\n<|im_start|>assistant\n" if chat_template == "chatml" else request
    return f"\n{question}\n{_CUES[style]}" if style else f"\n{question}\n"


def target(answer: str, support: tuple[str, ...], style: Style) -> str:
    """Return the expected reply to a question, with the space that separates it from the prompt.

    In the styles other than `bare`, the sentences of `support` precede the answer in `\\boxed{}`.
    """
    return f" {answer}" if style == "bare" else " ".join(("", *support, f"\\boxed{{{answer}}}"))


def final_answer(reply: str, style: Style) -> str:
    r"""Extract the answer: the content of the last `\boxed{}`, else the whole reply in style `bare`, else its last 20
    words (pooled paper, appendix H.1).

    >>> final_answer(r" Ada was born in Velm. \boxed{Velm}", "recall")
    'Velm'
    """
    start = reply.rfind(BOX)
    if start < 0:
        return reply.strip() if style == "bare" else " ".join(reply.split()[-LAST_WORDS:])
    return in_box(reply, start)[0]


def in_box(reply: str, start: int) -> tuple[str, bool]:
    r"""Return the content of the `\boxed{}` at `start`, and whether it is closed; if not, the content is the rest."""
    depth, begin = 1, start + len(BOX)
    for end in range(begin, len(reply)):
        depth += (reply[end] == "{") - (reply[end] == "}")
        if depth == 0:
            return reply[begin:end].strip(), True
    return reply[begin:].strip(), False


def recalled(reply: str) -> str:
    r"""Return the recalled sentences: the text before the last `\boxed{}`, or "" if there is none."""
    start = reply.rfind(BOX)
    return reply[:start].strip() if start >= 0 else ""
