"""The form in which answers are compared: numbers as numbers, words without case, punctuation and Unicode forms.

Articles and the LaTeX around words and numbers (`memfold.core.latex`) are left out.  Apostrophes and full stops inside
a word are dropped (`U.S.` is `US`), and so is the hyphen of a code (`KX-41` is `KX41`); other marks separate words.

A number has a sign, digits and a decimal mark: `-3` is not `3`, `1,234.50` is `1234.5` and `007` is `7`.  A mark
between groups of three digits is a thousands mark, and the last of two different marks is the decimal mark, so
`1.234,5` is 1234.5.  Where one mark could be either, it is read as in English: `1,234` is 1234 and `1.234` is a little
more than 1.  A comma before one or two digits, or after a single zero, is a decimal mark (`1,5`).  Any other sequence,
such as a date or a version, is several numbers.  Percent and currency signs are words (`5%` is `5 percent`), those of a
currency stand before their number.  Numbers in words, exponents and fractions are not computed.
"""

from __future__ import annotations

import unicodedata

import regex

from memfold.core.latex import plain
from memfold.core.words import UNSPACED, caseless

_ARTICLES = frozenset(("a", "an", "the"))
_SHARES = {"%": "percent", "\u2030": "permille"}
_SIGN = "[-+\u2212\u2013]"  # hyphen, plus, minus, and the en dash that many write for minus
_RAISED = regex.compile(r"(?<=\p{N})(?=\p{No})")  # before a superscript or a fraction, which NFKC makes into digits
_THIN = regex.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")  # a space between thousands that cannot break
_DIGIT = regex.compile(r"[^\P{Nd}0-9]")
_CHUNK = regex.compile(
    rf"[\w&&{UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}\p{{Sc}}.,'%\u2030+\u2212\u2013-]--{UNSPACED}]+", regex.V1
)
_AMOUNT = regex.compile(
    rf"(?P<sign>{_SIGN})?(?P<currency>\p{{Sc}})?(?P<sign>{_SIGN})?(?P<digits>[\d.,']*\d)(?P<unit>[%\u2030\p{{Sc}}]*)"
)
_DROPPED = regex.compile(  # inside a word
    r"(?<=[\p{L}\p{M}])['.](?=\p{L})|(?<=[\p{L}\p{M}])[-\u2013](?=\d)|(?<=\d)[-\u2013](?=\p{L}(?!\p{L}))"
)
_DASHES = regex.compile(rf"{_SIGN}+")
_WITH_UNIT = regex.compile(r"(?P<digits>(?:[\d.,']*\d))(?P<unit>\p{L}{2}[\p{L}\p{M}\p{N}]*)")
_PARTS = regex.compile(r"\d+(?=\p{L}{2})|[\p{L}\p{M}\p{N}]+|[%\u2030\p{Sc}]")
_CURRENCY_LAST = regex.compile(r"(?<!\S)(-?\d+(?:\.\d+)?)((?: \p{Sc})++)(?!\S)(?! -?\d)")
_MARKED = (  # forms of a number, with the mark between its thousands; in India, groups before the last have two digits
    (regex.compile(r"\d{1,3}(?:'\d{3})+(?:[.,]\d+)?"), "'"),
    (regex.compile(r"(?!0\d*,)\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d+)?"), ","),
    (regex.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}"), "."),
    (regex.compile(r"\d+,\d{1,2}|0,\d+|\d*\.\d+|\d+"), ""),
)
_MARKS = str.maketrans({"\u066b": ".", "\u066c": "'", "\u2019": "'"})


def normalise(text: str) -> str:
    """Return the words and numbers of a text, without articles, separated by spaces.

    >>> normalise("The river Sanu."), normalise("-1,234.50 EUR"), normalise("KX-41, 5%")
    ('river sanu', '-1234.5 eur', 'kx41 5 percent')
    """
    text = caseless(_THIN.sub("", _RAISED.sub(" ", plain(text)))).translate(_MARKS)
    text = _DIGIT.sub(lambda match: str(unicodedata.decimal(match[0], match[0])), text)
    found = " ".join(word for chunk in _CHUNK.findall(text) for word in _words(chunk) if word not in _ARTICLES)
    return str(_CURRENCY_LAST.sub(lambda match: f"{match[2].strip()} {match[1]}", found))


def _words(chunk: str) -> list[str]:
    """Return the words and numbers of a stretch of text without white space."""
    chunk = chunk.rstrip(".,'+-\u2212\u2013").lstrip(",'")
    amount = _amount(chunk) or _amount(chunk.lstrip("."))
    if amount:
        return amount
    pieces = _DASHES.split(_DROPPED.sub("", chunk))
    return [word for piece in pieces for word in _amount(piece) or _with_unit(piece) or _parts(piece)]


def _amount(text: str) -> list[str]:
    """Return a number with its sign, and the signs of its unit as words; empty if the text is something else."""
    match = _AMOUNT.fullmatch(text)
    value = None if match is None else _value(match["digits"])
    if match is None or value is None:
        return []
    negative = any(sign in "-\u2212\u2013" for sign in match.captures("sign"))
    number = f"-{value}" if negative and value != "0" else value
    signs = [*(match["currency"] or ""), *match["unit"]]
    currencies = [sign for sign in signs if sign not in _SHARES]
    return [*currencies, number, *(_SHARES[sign] for sign in signs if sign in _SHARES)]


def _value(digits: str) -> str | None:
    """Return the plain form of a number, such as 1234.5; None if its marks are not those of one number."""
    for pattern, thousands in _MARKED:
        if pattern.fullmatch(digits):
            whole, _, rest = (digits.replace(thousands, "") if thousands else digits).replace(",", ".").partition(".")
            rest = rest.rstrip("0")
            return (whole.lstrip("0") or "0") + (f".{rest}" if rest else "")
    return None


def _with_unit(piece: str) -> list[str]:
    """Return a number and the word that follows it without a space, such as 5km; empty for anything else."""
    match = _WITH_UNIT.fullmatch(piece)
    value = None if match is None else _value(match["digits"])
    return [] if match is None or value is None else [value, match["unit"]]


def _parts(piece: str) -> list[str]:
    return [_value(part) or _SHARES.get(part, part) for part in _PARTS.findall(piece)]
