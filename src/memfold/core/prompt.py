"""The chat template around a memory and a question, and how the answer is taken from a reply.

`flat` is one stretch of text, for base models; `chatml` is that of the Qwen chat models; `message` is what a user
would write, for an endpoint that applies its own chat template.  A reply is `bare` (the answer alone) or
`recall` (the supporting sentences written out, then the answer in `\\boxed{}`); a `free` one recalls where its writer
thinks that it helps.  The published prompts of the pooled paper are pictures only; the words here are ours.
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
LAST_WORDS = 20


def before_memory(chat_template: ChatTemplate) -> str:
    """What stands before the memory, after the token that begins a sequence."""
    return "<|im_start|>user\n" if chat_template == "chatml" else ""


def after_memory(chat_template: ChatTemplate, question: str, style: Style | None) -> str:
    """What stands between the memory and the reply.  `style` None is an instruction that is no question."""
    if chat_template != "flat":
        request = f"\n{question}\n{_REQUESTS[style]}" if style else f"\n{question}"
        return f"{request}<|im_end|>\n<|im_start|>assistant\n" if chat_template == "chatml" else request
    return f"\n{question}\n{_CUES[style]}" if style else f"\n{question}\n"


def target(answer: str, support: tuple[str, ...], style: Style) -> str:
    """The reply that a question should have had, with the space that separates it from the prompt.

    Without `support` a reply that is not bare is the answer in its box.
    """
    return f" {answer}" if style == "bare" else " ".join(("", *support, f"\\boxed{{{answer}}}"))


def final_answer(reply: str, style: Style) -> str:
    r"""The answer in a reply: the last `\boxed{}`, else the last 20 words (appendix H.1); a bare reply is its answer.

    >>> final_answer(r" Ada was born in Velm. \boxed{Velm}", "recall")
    'Velm'
    """
    start = reply.rfind(BOX)
    if start < 0:
        return reply.strip() if style == "bare" else " ".join(reply.split()[-LAST_WORDS:])
    return in_box(reply, start)[0]


def in_box(reply: str, start: int) -> tuple[str, bool]:
    r"""What stands in the `\boxed{}` that begins at `start`, all that is left where it is not closed; whether it is."""
    depth, begin = 1, start + len(BOX)
    for end in range(begin, len(reply)):
        depth += (reply[end] == "{") - (reply[end] == "}")
        if depth == 0:
            return reply[begin:end].strip(), True
    return reply[begin:].strip(), False


def recalled(reply: str) -> str:
    r"""What a reply says before its `\boxed{}`: the recalled sentences, empty for a bare reply."""
    start = reply.rfind(BOX)
    return reply[:start].strip() if start >= 0 else ""
