"""Finds the sentences of a text in its tokens, with any tokenizer and without the text.

A sentence ends after a full stop, question mark, exclamation mark or ellipsis followed by white space, after a mark
that needs no white space in its script (`memfold.core.borders`), and at a line end; closing quotes and brackets belong
to the sentence.  Abbreviations and initials end a sentence too, and a mark whose bytes are split over several tokens
ends none.  Both only move the border of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from memfold.backbone.model import Backbone
from memfold.core.borders import ends_sentence_unspaced

ENDS = ".!?\u2026"  # the last is an ellipsis
CLOSERS = "\"')]}*_\u201d\u2019\u00bb\u300d\u300f\uff09"  # straight, curly and angle quotes, corner and wide brackets
ANCHOR = "a"  # a word before the token, because some tokenizers remove white space from the beginning of a text


@dataclass(frozen=True)
class _Shape:
    """What the borders of sentences depend on, of the text of one token."""

    blank: bool
    closes: bool  # only closing quotes and brackets, without white space before them
    spaced: bool  # white space at the beginning
    space_after: bool
    line: bool  # a line ends in the white space at the end of the token
    ends: bool
    ends_wide: bool  # no white space needs to follow


_SHAPES: WeakKeyDictionary[Any, dict[int, _Shape]] = WeakKeyDictionary()  # by tokenizer


def sentence_lengths(tokens: Sequence[int], backbone: Backbone) -> list[int]:
    """Return the number of tokens of each sentence, in order; white space belongs to the sentence before it."""
    known = _SHAPES.setdefault(backbone.tokenizer, {})
    lengths: list[int] = []
    start, line, ended, wide, space = 0, False, False, False, False
    for index, token in enumerate(tokens):
        shape = known.get(token)
        if shape is None:
            shape = known[token] = _shape(backbone, token)
        if shape.blank:
            line, space = line or shape.line, True
            continue
        if index > start and not (shape.closes and not space) and (line or wide or (ended and (space or shape.spaced))):
            lengths.append(index - start)
            start, ended, wide = index, False, False
        if not shape.closes:
            ended, wide = shape.ends, shape.ends_wide
        line, space = shape.line, shape.space_after
    if len(tokens) > start:
        lengths.append(len(tokens) - start)
    return lengths


def _shape(backbone: Backbone, token: int) -> _Shape:
    """Read the text of a token after an ordinary word."""
    anchor = backbone.encode(ANCHOR)
    text = backbone.decode([*anchor, token]).removeprefix(backbone.decode(anchor))
    bare = text.strip()
    tail = text[len(text.rstrip()) :]
    last = bare.rstrip(CLOSERS)[-1:]
    return _Shape(
        blank=not bare,
        closes=bool(bare) and not last and not text[:1].isspace(),
        spaced=text[:1].isspace(),
        space_after=bool(tail),
        line="\n" in tail,
        ends=bool(last) and last in ENDS,
        ends_wide=bool(last) and ends_sentence_unspaced(last),
    )
