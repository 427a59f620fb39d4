"""Separates what a reasoning model thinks from what it answers.

A reasoning model writes its thoughts first, between two marks, and then its reply.  Thoughts are never part of an
answer, a note or a reward, so policies put them into a field of their own (`Reply.thinking`).
"""

from __future__ import annotations

from collections.abc import Callable

# the marks around thoughts: of most models, of some that are taught by prompts, of Sky-T1, of Kimi, of Magistral, of
# Command A, of Seed-OSS, of gpt-oss
MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
OPENINGS = tuple(opening for opening, _ in MARKS)


def split_thinking(text: str, opened: bool = False) -> tuple[str, str]:
    """Return the thoughts and the reply in what a model wrote; `opened` says that its prompt ends with an opening mark.

    Thoughts begin at an opening mark at the beginning of the text, and end at the first closing mark.  A closing mark
    without an opening one ends thoughts too, because the opening mark may be part of a prompt.  Thoughts that do not
    end leave no reply.

    >>> split_thinking("<think>It says Velm.</think> In Velm."), split_thinking("<think>It says")
    (('It says Velm.', 'In Velm.'), ('It says', ''))
    """
    beginning = text.lstrip()
    for opening, closing in MARKS:
        begun = beginning.startswith(opening)
        inside, end, after = (beginning.removeprefix(opening) if begun else text).partition(closing)
        if end and (begun or opened or opening not in inside):
            more, reply = split_thinking(after) if after.lstrip().startswith(OPENINGS) else ("", after.lstrip())
            return "\n".join(filter(None, (inside.strip(), more))), reply
        if begun:
            return inside.strip(), ""
    return (text.strip(), "") if opened else ("", text)


def opens_thinking(prompt: str) -> bool:
    """Return whether a prompt ends with an opening mark, so that the model continues with thoughts."""
    return prompt.rstrip().endswith(OPENINGS)


class ReplyStream:
    """Passes on a reply as it is written, without the thoughts before it.

    >>> shown = []
    >>> stream = ReplyStream(shown.append)
    >>> for text in ("<thi", "<think>It", "<think>It says.</think> In", "<think>It says.</think> In Velm."):
    ...     stream.update(text)
    >>> shown
    ['In', ' Velm.']
    """

    def __init__(self, on_text: Callable[[str], None], opened: bool = False) -> None:
        self._on_text, self._opened, self._shown = on_text, opened, ""

    def update(self, text: str, ended: bool = False) -> None:
        """Pass on what is new in the whole text so far; what may become an opening mark is held until it `ended`."""
        beginning = text.lstrip()
        if not ended and any(opening.startswith(beginning) for opening in OPENINGS):
            return
        reply = split_thinking(text, self._opened)[1]
        if len(reply) > len(self._shown) and reply.startswith(self._shown):
            self._on_text(reply[len(self._shown) :])
            self._shown = reply
