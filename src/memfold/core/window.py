"""Advice about a call that is too long for its model: the systems whose calls fit, however long the documents are."""

from __future__ import annotations

from memfold.core.model import Model
from memfold.core.registry import SYSTEMS, has_slots, make_system

LARGER = "use a --model with a larger window"


def shorten(system: str, model: Model, tokens: int, room: int) -> str:
    """Return what to do about a call of `system` over documents of `tokens` tokens.

    `room` is the number of positions that the window leaves for a memory, beside prompt and answer.  A system with
    slots counts only if the model was trained for it.
    """
    if room <= 0:
        return f"ask a shorter question, or {LARGER}"
    others = [name for name in SYSTEMS if name != system and _fits(name, model, tokens, room)]
    return f"fold the text with --system {' or '.join(others)}, or {LARGER}" if others else LARGER


def _fits(name: str, model: Model, tokens: int, room: int) -> bool:
    if has_slots(name) and name not in model.trained:
        return False
    system = make_system(name, model)
    most = system.capabilities.call_positions
    return (system.footprint(tokens).positions if most is None else most) <= room
