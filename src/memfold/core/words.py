"""The words of a text in the form in which they are compared: for search, for checks against a text, for scores.

Ligatures, full-width forms, composed and decomposed characters compare as equal, and characters that nobody sees (soft
hyphens, zero-width spaces) do not count.  In scripts without spaces between words, every character is a word, so that a
word is found inside a run of them.  Such forms are for comparing: what is shown or cited is the text as it stands.
Words are not stemmed, and accents count.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import regex

_INVISIBLE = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
# scripts that are written without spaces, or that attach particles to a word without a space, as Korean does
UNSPACED = r"[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Hangul}\p{LineBreak=SA}]"
_WORD = regex.compile(rf"(?P<unspaced>[\w&&{UNSPACED}]\p{{M}}*)|[\w--{UNSPACED}]+", regex.V1)
_ASCII_WORD = re.compile(r"\w+", re.ASCII)


def visible(text: str) -> str:
    """Return a text in one Unicode form (NFKC), without invisible characters; case and spaces are unchanged.

    >>> visible("\\ufb01ne \\uff21\\u00adB")
    'fine AB'
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))


def caseless(text: str) -> str:
    """Return a text as `visible`, and without difference of case (NFKC_Casefold of the Unicode standard).

    >>> caseless("STRASSE"), caseless("Stra\\u00dfe")
    ('strasse', 'strasse')
    """
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", _INVISIBLE.sub("", text)).casefold())
    return visible(folded.casefold())


def words(text: str) -> list[str]:
    """Return the words of a text, without difference of case; in scripts without spaces, each character is one.

    >>> words("KX-41 in Velm, \\u6771\\u4eac")
    ['kx', '41', 'in', 'velm', '\u6771', '\u4eac']
    """
    if text.isascii():  # as below, but in a fraction of the time
        return _ASCII_WORD.findall(text.lower())
    return [match[0] for match in _WORD.finditer(caseless(text))]


def terms(text: str) -> list[str]:
    """Return what a search compares: the words, and pairs of adjacent characters in scripts without spaces.

    Pairs are the usual substitute for words where no dictionary is at hand: a single character says too little.

    >>> terms("Velm \\u6771\\u4eac\\u90fd")
    ['velm', '\u6771\u4eac', '\u4eac\u90fd']
    """
    if text.isascii():
        return words(text)
    found: list[str] = []
    run: list[regex.Match[str]] = []
    for match in _WORD.finditer(caseless(text)):
        if run and not (match["unspaced"] and match.start() == run[-1].end()):
            found += _pairs(run)
            run = []
        if match["unspaced"]:
            run.append(match)
        else:
            found.append(match[0])
    return found + _pairs(run)


def _pairs(run: list[regex.Match[str]]) -> list[str]:
    characters = [match[0] for match in run]
    return characters if len(characters) == 1 else ["".join(pair) for pair in pairwise(characters)]
