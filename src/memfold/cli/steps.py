"""Describes the calls of a recorded trace in lines: what the gate decided of which blocks, and what each note changed.

Where blocks are opened in the order of the text, scores of blocks after an opened one are left out, because the gate
decides on those blocks again with the new note.  Of notes that are merged, the sentences that no earlier one had are
shown, also those that the merged one has no room for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from memfold.cli.printable import on_one_line
from memfold.core.borders import sentences
from memfold.core.system import ADDITION, GATE, UPDATE
from memfold.systems.shared.merging import new_sentences

BEGINNING = 100  # characters of a reply that are shown
Line = tuple[str, str]  # a label and a text
Recorded = Mapping[str, Any]  # a step of a trace file


def describe(steps: Sequence[Recorded], unfinished: bool = False, best: bool = False) -> list[Line]:
    """Return lines for the calls of a trace, in order; after the last one of an `unfinished` trace, more may follow.

    With `best`, the gate scored all blocks before the best one was opened.
    """
    lines: list[Line] = []
    note, said = "", set[str]()
    groups = [list(group) for _, group in groupby(steps, lambda step: step["call"]["purpose"] == GATE)]
    number = 0
    for group, following in pairwise([*groups, []]):
        if group[0]["call"]["purpose"] == GATE:
            opened = _block(following[0]) if following else None
            lines += _decisions(group, opened, unfinished and not following, best)
            continue
        for step in group:
            number += 1
            lines.append(("step", f"{number}, {_reply(step)}"))
            if step["call"]["purpose"] == UPDATE:
                text = step["reply"]["text"].strip() or note
                lines += _changes(note, text)
                note = text
            elif step["call"]["purpose"] == ADDITION:
                new = new_sentences(step["reply"]["text"], said)
                lines += [("", f"+ {sentence}") for sentence in new] or [("", "= it adds nothing")]
    return lines


def _decisions(group: Sequence[Recorded], opened: int | None, undecided: bool, best: bool) -> Iterator[Line]:
    """Yield what the gate decided: which blocks stay closed, and which one is opened; if `undecided`, what it saw."""
    scores: dict[int, float] = {}
    for block, grouped in groupby(group, _block):
        calls = list(grouped)
        if block is not None and (len(calls) > 1 or calls[0]["reply"]["score"] is not None):
            scores[block] = _score(calls)  # half of a pair of calls has none
    seen = list(scores)
    if opened in scores:
        at = seen.index(opened)
        seen = seen[:at] + (seen[at + 1 :] if best else [])
    if seen:
        many = f"block {seen[0]}" if len(seen) == 1 else f"{len(seen)} blocks, {_ranges(seen)}"
        state = "not decided yet" if undecided else "closed"
        yield "gate", f"{many}: {state}, score at most {max(scores[block] for block in seen):.2f}"
    if opened in scores:
        yield "gate", f"block {opened}: opened, score {scores[opened]:.2f}"


def _ranges(blocks: Sequence[int]) -> str:
    """Return the numbers of blocks as ranges; a second pass begins again at the first block."""
    ranges: list[list[int]] = []
    for block in blocks:
        if ranges and block == ranges[-1][-1] + 1:
            ranges[-1].append(block)
        else:
            ranges.append([block])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in ranges)


def _score(calls: Sequence[Recorded]) -> float:
    """Return the probability of a block, from the logit of a head or the likelihoods of yes and no."""
    if len(calls) == 1:
        logit = calls[0]["reply"]["score"] or 0.0
    else:
        logit = sum(calls[0]["reply"]["logprobs"]) - sum(calls[1]["reply"]["logprobs"])
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, logit))))


def _block(step: Recorded) -> int | None:
    """Return the first block that a call reads; None if it reads none."""
    return next((part["index"] for part in step["call"].get("parts", ()) if "index" in part), None)


def _reply(step: Recorded) -> str:
    """Return the purpose of a call, the block that it reads, and the length, the end and the beginning of its reply."""
    reply, block = step["reply"], _block(step)
    text = on_one_line(" ".join(reply["text"].split()))
    text = text if len(text) <= BEGINNING else f"{text[:BEGINNING]} ..."
    read = "" if block is None else f", block {block}"
    tokens = reply["usage"]["reply"] if reply.get("usage") else len(reply["tokens"])  # an endpoint sends no tokens
    return f"{step['call']['purpose']}{read}: {tokens} tokens ({reply['finish']}) {text}"


def _changes(before: str, after: str) -> Iterator[Line]:
    """Yield the sentences that a note gained and lost."""
    old, new = _sentences(before), _sentences(after)
    yield from (("", f"+ {sentence}") for sentence in new if sentence not in old)
    yield from (("", f"- {sentence}") for sentence in old if sentence not in new)
    if old == new:
        yield "", "= the note is unchanged"


def _sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]
