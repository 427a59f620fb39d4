"""The block table of a memory file: what its numbers may be, so that they announce no more than the file can hold.

Writer and reader apply the same rules: what is written can be opened, and a forged table is refused before anything is
allocated for it.  Compressed text is bounded by its expansion.  zlib reaches 1032 characters for one byte, which half a
megabyte would turn into gigabytes; text that compresses better than `EXPANSION` is therefore stored uncompressed.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from memfold.memory.manifest import COLUMNS, LARGEST, Contents, Manifest

Table = np.ndarray[Any, np.dtype[np.int64]]

EXPANSION = 64  # characters for each stored byte of text
ZLIB_EXPANSION = 1032  # the most that zlib can reach
FREE_CHARACTERS, FREE_TOTAL = 1 << 20, 1 << 24  # of a block and of a file, whatever their expansion


def compress(text: str) -> bytes:
    """Return the text of a block as a zlib stream of at most `EXPANSION` characters for each byte.

    Raises:
        UnicodeEncodeError: for an unpaired surrogate.
    """
    data = text.encode()
    packed = zlib.compress(data, 6)
    return packed if len(text) <= EXPANSION * len(packed) else zlib.compress(data, 0)


def is_sound(table: Table, manifest: Manifest, contents: Contents) -> bool:
    """Return whether a table [blocks, columns] agrees with its manifest, however well its hash is forged."""
    if (table < 0).any() or (table >= LARGEST).any():
        return False
    column = dict(zip(COLUMNS, table.T, strict=True))
    tokens = column["token_end"] - column["token_start"]
    characters = column["char_end"] - column["char_start"]
    totals = (
        (tokens, contents.tokens),
        (characters, contents.characters),
        (column["slot_count"], contents.slots),
        (column["text_bytes"], contents.text_bytes),
    )
    return (
        bool((tokens >= 0).all() and (characters >= 0).all() and (column["source"] < len(manifest.sources)).all())
        and all(sum(values.tolist()) == total for values, total in totals)  # Python integers do not overflow
        and all(_is_consecutive(column, unit) for unit in ("token", "char"))
        and _is_plausible(characters, column["text_bytes"])
    )


def _is_consecutive(column: dict[str, Table], unit: str) -> bool:
    """Return whether each block begins where the one before it in its document ends, and the first one at 0."""
    order = np.argsort(column["source"], kind="stable")
    source, starts, ends = (column[name][order] for name in ("source", f"{unit}_start", f"{unit}_end"))
    before = np.where(source[1:] == source[:-1], ends[:-1], 0)
    return bool((starts[1:] == before).all() and not starts[:1].any())


def _is_plausible(characters: Table, text_bytes: Table) -> bool:
    """Return whether the compressed text can hold its characters; blocks without text are not considered."""
    held = np.where(text_bytes > 0, characters, 0)
    most = np.minimum(ZLIB_EXPANSION * text_bytes, np.maximum(FREE_CHARACTERS, EXPANSION * text_bytes))
    total = max(FREE_TOTAL, EXPANSION * sum(text_bytes.tolist()))
    return bool((held <= most).all()) and sum(held.tolist()) <= total
