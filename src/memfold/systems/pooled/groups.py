"""Divides the tokens of a chunk into groups, one for each slot, and the groups into windows of the encoder.

Fixed groups (the paper) have `ratio` tokens each.  With `groups = "sentence"`, a group begins where a sentence begins:
short sentences are joined up to `longest_group` tokens while they have less than `shortest_group`, and long ones are
divided into parts of about equal length.  A chunk begins a group, whatever stands there.
"""

from __future__ import annotations

from collections.abc import Sequence

from memfold.backbone.model import Backbone
from memfold.backbone.sentences import sentence_lengths
from memfold.systems.pooled.settings import PooledFold


def group_lengths(tokens: Sequence[int], encoder: Backbone, settings: PooledFold) -> list[int]:
    """Return the number of tokens of each group of a chunk, with groups at sentences."""
    return join_sentences(sentence_lengths(tokens, encoder), settings.shortest_group, settings.longest_group)


def join_sentences(sentences: Sequence[int], shortest: int, longest: int) -> list[int]:
    """Return group lengths of at most `longest` tokens, with a border at every sentence that begins a group.

    A group of less than `shortest` tokens takes the next sentence in, if both fit.
    """
    groups: list[int] = []
    open_group = 0  # tokens of whole sentences that are too short for a group
    for sentence in sentences:
        if open_group and open_group + sentence > longest:
            groups.append(open_group)
            open_group = 0
        open_group += sentence
        if open_group >= shortest:
            groups += divide(open_group, longest)
            open_group = 0
    return [*groups, open_group] if open_group else groups


def divide(tokens: int, longest: int) -> list[int]:
    """Divide a number of tokens into the fewest parts of at most `longest`, of about equal length."""
    parts = -(-tokens // longest)
    return [(tokens * (part + 1)) // parts - (tokens * part) // parts for part in range(parts)]


def group_windows(groups: Sequence[int], window: int) -> list[list[int]]:
    """Return the groups of each window: as many as fit into `window` tokens, and at least one."""
    windows: list[list[int]] = []
    filled = 0
    for length in groups:
        if not windows or filled + length > window:
            windows.append([])
            filled = 0
        windows[-1].append(length)
        filled += length
    return windows
