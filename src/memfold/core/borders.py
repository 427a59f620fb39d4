"""Where a text can be divided: after a sentence, after a clause, between words, and inside a word only if it must be.

One rule for the sentences that are cited and for the pieces of text that a model reads.  A sentence ends after a mark
with the Unicode property Sentence_Terminal.  Full stop, `!`, `?` and an ellipsis need white space after them, and end
no sentence before a lower-case letter or after an initial or an abbreviation; the marks of other scripts need neither.
A line end ends a sentence unless the line is wrapped: a long line of a paragraph most of whose lines begin in lower
case.  Dictionaries are not used, so a name in a script without spaces is not recognised.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import regex

Range = tuple[int, int]  # the end of what is before a border, and the start of what is after it: white space is between

NEIGHBOURHOOD = 200  # characters around a border that decide about it
LONG_LINE = 30  # characters from which on a line may be wrapped
_SPACED = r".!?\u2026"  # marks that need white space after them; the last is an ellipsis
_UNSPACED = r"(?:[\p{Sentence_Terminal}--[\p{SB=ATerm}!?]]|[\p{SB=ATerm}--.](?!\w))"
_CLOSERS = r"(?:[\p{Pe}\p{Pf}\p{Pi}\"'*_]|\[\w{1,4}\])*+"  # quotes, brackets, and the number of a footnote
_LINE = r"(?:\r\n|[\n\r\v\f\x85\u2028\u2029])"
_END = regex.compile(
    rf"(?<![{_SPACED}])(?P<mark>[{_SPACED}]++{_CLOSERS})(?P<gap>\s++|\Z)"
    rf"|(?P<unspaced>{_UNSPACED}(?:{_UNSPACED}|[{_SPACED}])*+[\p{{Pe}}\p{{Pf}}\"']*+)(?P<gap>\s*+)"
    rf"|(?P<gap>{_LINE}\s*+)",
    regex.V1,
)
_MARK = regex.compile(_UNSPACED, regex.V1)
_LINE_END = regex.compile(_LINE)
_CONTINUED = regex.compile(rf"[^\w\s]*\p{{Ll}}|[{_SPACED}]")
_CONTINUED_UNCASED = regex.compile(rf"[{_SPACED}]")
# words with a full stop inside a sentence: before a name, before a number, and the months after an ordinal ("3. Mai")
_ABBREVIATION = regex.compile(
    "Mr|Mrs|Ms|Mx|Dr|Prof|St|Ste|Rev|Fr|Hon|Gen|Col|Maj|Capt|Cmdr|Lt|Sgt|Gov|Sen|Rep|Pres|Messrs|Mme|Mlle|Sr|Sra|Srta"
    "|Dra|Hr|Mt|Ft|Co|Bros|vs?|cf|ca|viz|approx|al|bzw|vgl"
)
_BEFORE_NUMBER = regex.compile(
    "[Nn]os?|[Nn]r|[Ff]igs?|Eq|[Vv]ol|pp|Ch|Sec|Art|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
)
_MONTH = regex.compile("(?:Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember),?")
_LONGEST_WORD = 24  # characters of the words that are looked up
_OPENERS = "\"'([{\u201c\u2018\u00ab\u201e"
_SEPARATORS = regex.compile(r"[.-]")
_LOWER = regex.compile(r"[^\w\s]*[\p{Ll}\p{Lo}]")
_ITEM = regex.compile(r"\s*(?:[-*+\u2022\u2013\u2014#|>]\s|\p{N}+[.)]\s)")  # an item of a list, a heading, a row
_CLAUSE = regex.compile(
    r"[,;:\u2013\u2014\u060c\u061b][\p{Pe}\p{Pf}\"']*+(?P<gap>\s++)|[\u3001\uff0c\uff1b\uff1a](?P<gap>\s*+)"
)
_DIGITS = regex.compile(r"\p{N}\p{N}")  # on both sides of the comma of a date
_GAP = regex.compile(r"\s++")
_PARTICLES = "of|the|de|la|le|du|des|del|della|di|da|do|dos|van|von|der|den|zu|bin|ibn|al|el|y"
_NAME_END = regex.compile(rf"(?<!\w)(?:[\p{{Lu}}\p{{Lt}}\p{{N}}][\w.'\u2019-]*|\p{{N}}+,)(?:\s+(?:{_PARTICLES}))*\Z")
_NAME_START = regex.compile(rf"(?:(?:{_PARTICLES})\s+)*[\p{{Lu}}\p{{Lt}}\p{{N}}]")
_WORD_BORDER = regex.compile(r"\b", regex.WORD)
_MARKS = regex.compile(r"\p{M}")


def sentences(text: str, longest: int | None = None) -> Iterator[Range]:
    """Yield the start and end of each sentence, without the white space around it.

    A sentence of more than `longest` characters is divided where `border` says.

    >>> text = "Dr. A. Brisk paid 1.5 coins. He left!"
    >>> [text[start:end] for start, end in sentences(text)]
    ['Dr. A. Brisk paid 1.5 coins.', 'He left!']
    """
    start = 0
    for end, following in (*_sentence_ends(text), (len(text), len(text))):
        while longest is not None and end - start > longest:
            cut = border(text, start, start + longest)
            yield from _trimmed(text, start, cut)
            start = cut
        yield from _trimmed(text, start, end)
        start = following


def border(text: str, start: int, limit: int) -> int:
    """Return the best end, at most `limit`, of a piece of text that begins at `start`; it has a character at least.

    >>> text = "Ada met Belo Tarsk, who sold bread."
    >>> text[: border(text, 0, 15)], text[: border(text, 0, 25)]
    ('Ada met ', 'Ada met Belo Tarsk, ')
    """
    if limit >= len(text):
        return len(text)
    _, following = next(borders(text, start, limit), (limit, limit))
    cut = min(following, limit)
    while cut > start + 1 and _MARKS.match(text, cut):
        cut -= 1
    return cut


def borders(text: str, start: int, limit: int) -> Iterator[Range]:
    """Yield where a piece of text that begins at `start` can end, up to `limit`, the best first.

    The last sentence end in the second half of the piece is the best; then follow the last end of a clause there, the
    last gap between words that is not inside a name or a number, and in the second half again other gaps, and the
    borders of words of the Unicode standard.  A border is a range: a piece may end anywhere in the white space.
    """
    middle = start + max(1, (limit - start) // 2)
    first, last = max(start, middle - NEIGHBOURHOOD), limit + NEIGHBOURHOOD
    part = text[first:last]
    for find, lowest in (
        (_sentence_ends, middle),
        (_clause_ends, middle),
        (partial(_gaps, in_names=False), start + 1),
        (partial(_gaps, in_names=True), middle),
        (_word_ends, middle),
    ):
        found = [(end + first, following + first) for end, following in find(part)]
        yield from (each for each in reversed(found) if lowest <= each[0] <= limit)


def ends_sentence_unspaced(character: str) -> bool:
    """Return whether a character ends a sentence without white space after it, as a Chinese full stop does."""
    return _MARK.fullmatch(character) is not None


def _sentence_ends(text: str) -> list[Range]:
    cased = text != text.lower()
    wraps = _wraps(text)
    return [match.span("gap") for match in _END.finditer(text) if _ends(text, match, wraps, cased)]


def _ends(text: str, match: regex.Match[str], wraps: set[int], cased: bool) -> bool:
    """Return whether a mark or a line end is the end of a sentence."""
    lines = [] if match["gap"] == " " else [line.end() for line in _LINE_END.finditer(match["gap"])]
    if match["unspaced"] or len(lines) > 1 or match.end() == len(text):
        return True
    if lines and match.start("gap") + lines[0] - 1 not in wraps:
        return True
    if match["mark"] is None:
        return False
    if (_CONTINUED if cased else _CONTINUED_UNCASED).match(text, match.end()):
        return False
    return match["mark"] != "." or not _abbreviated(text, match)


def _abbreviated(text: str, match: regex.Match[str]) -> bool:
    """Return whether a full stop stands after an initial, an abbreviation, an ordinal or the number of an item."""
    start = match.start()
    before = text[max(0, start - _LONGEST_WORD) : start]
    if not before or before[-1].isspace():
        return True
    word = before.split()[-1].lstrip(_OPENERS)
    following = text[match.end() : match.end() + _LONGEST_WORD].split()[0]
    if _ABBREVIATION.fullmatch(word.rpartition("-")[2]):
        return True
    if following[0].isnumeric() and _BEFORE_NUMBER.fullmatch(word):
        return True
    if word.isnumeric() and len(word) <= 3:
        rest = before[: len(before) - len(word)]
        return _MONTH.fullmatch(following) is not None or not rest.strip(" ") or rest.rstrip(" ")[-1] in "\n.!?:;"
    letters = _SEPARATORS.split(word)
    return all(len(letter) == 1 and letter.isalpha() for letter in letters) and (len(letters) > 1 or word.isupper())


def _wraps(text: str) -> set[int]:
    """Return the places of the line ends inside sentences."""
    wraps: set[int] = set()
    if "\n" not in text:
        return wraps
    paragraph: list[tuple[int, str]] = []
    start = 0
    for line in (*text.split("\n"), ""):
        if line.strip():
            paragraph.append((start, line))
        elif paragraph:
            wraps |= set(_wrapped(paragraph))
            paragraph = []
        start += len(line) + 1
    return wraps


def _wrapped(paragraph: list[tuple[int, str]]) -> Iterator[int]:
    following = [line for _, line in paragraph[1:]]
    if 2 * sum(_LOWER.match(line.lstrip()) is not None for line in following) < len(following):
        return
    for (start, line), (_, after) in pairwise(paragraph):
        if len(line.strip()) >= LONG_LINE and not _ITEM.match(after):
            yield start + len(line)


def _clause_ends(text: str) -> list[Range]:
    gaps = [match.span("gap") for match in _CLAUSE.finditer(text)]
    return [
        (end, start) for end, start in gaps if not _DIGITS.fullmatch(text[end - 2 : end - 1] + text[start : start + 1])
    ]


def _gaps(text: str, in_names: bool) -> list[Range]:
    return [match.span() for match in _GAP.finditer(text) if _in_name(text, *match.span()) == in_names]


def _in_name(text: str, end: int, following: int) -> bool:
    """Return whether a gap is inside a name, a date or a number, as far as capitals and digits tell."""
    before = text[max(0, end - 40) : end]
    return _NAME_START.match(text, following) is not None and _NAME_END.search(before) is not None


def _word_ends(text: str) -> list[Range]:
    return [match.span() for match in _WORD_BORDER.finditer(text)]


def _trimmed(text: str, start: int, end: int) -> Iterator[Range]:
    """Yield a range without the white space around it, if anything is left."""
    part = text[start:end]
    if bare := part.strip():
        begin = start + len(part) - len(part.lstrip())
        yield begin, begin + len(bare)
