"""Prompts around a memory and a question, and the answer in a reply.

There are four chat templates.  `message` is the content of a user's message in the chat template of the model's own
tokenizer, or in that of an endpoint; `plain` is plain text after the token that the tokenizer puts before a text, for
models without a chat template.  `flat` (plain text) and `chatml` (the template of the Qwen chat models) are the layouts
of models that are trained here; each part of such a prompt is encoded alone.

There are three reply styles: `bare` is the answer alone; `recall` is the supporting sentences, then the answer in
`\\boxed{}`; `free` lets the model decide whether to recall.  The pooled paper shows its prompts only as images, so the
wording is our own.
"""

from __future__ import annotations

from typing import Literal

from memfold.core.latex import content
from memfold.core.types import Part, TemplatePart

ChatTemplate = Literal["flat", "chatml", "plain", "message"]
Style = Literal["bare", "recall", "free"]

CHAT_TEMPLATES: tuple[ChatTemplate, ...] = ("flat", "chatml", "plain", "message")
TRAINED_LAYOUTS = ("flat", "chatml")
STYLES: tuple[Style, ...] = ("bare", "recall", "free")

# what stands before a user's message, and after it up to the reply; that of `message` is the tokenizer's own
FRAMES: dict[ChatTemplate, tuple[str, str]] = {
    "flat": ("", ""),
    "chatml": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "plain": ("", ""),
}
_CUES = {"bare": "Answer:", "recall": "Recall:", "free": "Recall?"}
_REQUESTS = {
    "bare": "Answer from the text above in a few words.",
    "recall": "Write out the sentences of the text above that you need, then give the answer in \\boxed{}.",
    "free": "Write out sentences of the text above where they help you, and give the answer in \\boxed{}.",
}
BOX = "\\boxed{"
ABSENT = "not in the text"  # the answer to a question that the text does not answer


def user_message(*parts: Part) -> tuple[Part, ...]:
    """Return the parts of a prompt: a user's message between what the chat template writes before and after it."""
    return (TemplatePart("before"), *parts, TemplatePart("after"))


def after_memory(chat_template: ChatTemplate, question: str, style: Style | None) -> str:
    """Return the end of a user's message, after the memory; `style` is None if `question` is an instruction."""
    if chat_template in ("chatml", "message"):
        return f"\n{question}\n{_REQUESTS[style]}" if style else f"\n{question}"
    return f"\n{question}\n{_CUES[style]}" if style else f"\n{question}\n"


def target(answer: str, support: tuple[str, ...], style: Style) -> str:
    """Return the expected reply to a question, with the space that separates it from the prompt.

    In the styles other than `bare`, the sentences of `support` precede the answer in `\\boxed{}`.
    """
    return f" {answer}" if style == "bare" else " ".join(("", *support, f"\\boxed{{{answer}}}"))


def final_answer(reply: str, style: Style) -> str:
    r"""Return the answer in a reply: what the last `\boxed{}` holds if the style asks for one, else the whole reply.

    An empty box is no answer, and in style `bare` no box is asked for.

    >>> final_answer(r" Ada was born in Velm. \boxed{Velm}", "recall"), final_answer(" In Velm. ", "bare")
    ('Velm', 'In Velm.')
    """
    box = None if style == "bare" else last_box(reply)
    return reply.strip() if box is None else box[1]


def last_box(reply: str) -> tuple[int, str, bool] | None:
    r"""Return the last `\boxed{}` that holds something: where it begins, its plain text, and whether it is closed."""
    start = reply.rfind(BOX)
    while start >= 0:
        inside, closed = in_box(reply, start)
        if text := content(inside):
            return start, text, closed
        start = reply.rfind(BOX, 0, start)
    return None


def in_box(reply: str, start: int) -> tuple[str, bool]:
    r"""Return the content of the `\boxed{}` at `start`, and whether it is closed; if not, the content is the rest."""
    depth, begin = 1, start + len(BOX)
    for end in range(begin, len(reply)):
        depth += (reply[end] == "{") - (reply[end] == "}")
        if depth == 0:
            return reply[begin:end].strip(), True
    return reply[begin:].strip(), False


def recalled(reply: str) -> str:
    r"""Return the recalled sentences: the text before the box with the answer, or "" if there is none."""
    box = last_box(reply)
    start = reply.rfind(BOX) if box is None else box[0]
    return reply[:start].strip() if start >= 0 else ""
