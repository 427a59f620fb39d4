"""Merging of notes that were written independently of each other, each for another part of the text.

All of them were written with one shared note in view.  Its sentences come first, whatever became of them in the notes;
new ones follow in the order of the text.  Two sentences are the same if their words are.  Left out: sentences that say
the same in other words, which all stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from memfold.core.borders import sentences
from memfold.core.words import words
from memfold.systems.shared.notes import EMPTY, search_query
from memfold.systems.shared.passages import PassageIndex


def merged_note(shared: str, notes: Sequence[str], question: str, characters: float) -> str:
    """Return the shared note with the new sentences of `notes`, which are in the order of the text.

    The note has at most `characters` characters, but a sentence at least.  Where there is no room for all new
    sentences, those that share the rarest words with the question and the shared note (BM25) come in first, and each
    that no longer fits is left out.
    """
    said = set[str]()
    kept = new_sentences(shared, said)
    new = [sentence for note in notes for sentence in new_sentences(note, said)]
    room = characters + 1 - sum(len(sentence) + 1 for sentence in kept)
    if sum(len(sentence) + 1 for sentence in new) > room:
        new = _fitting(new, room, search_query(question, shared), needed=not kept)
    return _joined([*kept, *new]) if new else shared


def new_sentences(note: str, said: set[str]) -> list[str]:
    """Return the sentences of a note whose words are not among those that were `said`, and add them there."""
    found = list[str]()
    for start, end in sentences(note):
        key = " ".join(words(note[start:end]))
        if key and key not in said and note[start:end] != EMPTY:
            said.add(key)
            found.append(note[start:end])
    return found


def _fitting(new: Sequence[str], room: float, sought: str, needed: bool) -> list[str]:
    """Return the sentences that have room, the best first to be chosen, in their order; one at least if `needed`."""
    chosen = set[int]()
    for number, _ in PassageIndex(new).best(sought, len(new)):
        size = len(new[number]) + 1
        if size <= room or (needed and not chosen):
            chosen.add(number)
            room -= size
    return [new[number] for number in sorted(chosen)]


def _joined(found: Sequence[str]) -> str:
    """Return sentences as a text that has the same ones: a line end divides two that a space would not divide."""
    parts = list(found[:1])
    for sentence, following in pairwise(found):
        divided = len(list(sentences(f"{sentence} {following}"))) > 1
        parts.append(f" {following}" if divided else f"\n{following}")
    return "".join(parts)
