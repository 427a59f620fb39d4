"""Invented names and values, drawn at random, so that no answer can be known without reading the document.

Names are made of syllables that can be split in one way only: a letter that ends a syllable never begins one.  So a
small tokenizer can learn one token for each syllable.  Names of split 'out' have patterns that never occur in split
'in': a leading vowel, a hyphen or a prefix word.
"""

from __future__ import annotations

from random import Random


def word_list(text: str) -> tuple[str, ...]:
    """The words of a text; long lists of words are easier to read this way."""
    return tuple(text.split())


OPEN_SYLLABLES = tuple(onset + vowel for onset in "bdfghjkmptvwz" for vowel in "aeiou")
CLOSED_SYLLABLES = word_list("""
    bar ben bol das dor dun fal fen gar gis gol hal hin hos jen jor kan kel kir mas mel mon mur pan pel por tan ter tol
    tus val ves vin wen wil zar zel zon
""")
SYLLABLES = OPEN_SYLLABLES + CLOSED_SYLLABLES
LEADING_VOWELS = ("Al", "An", "El", "Er", "Is", "On", "Or", "Ul", "Us")
PREFIXES = ("Saint", "Old")
TITLE_WORDS = ("Song", "Tale", "Road", "Dream", "Gate", "Fall", "Light", "Stone")

MONTHS = word_list("January February March April May June July August September October November December")
COLOURS = ("red", "blue", "green", "white", "black", "grey", "golden", "silver", "brown", "yellow")
ANIMALS = word_list("""
    horse lion bear wolf fox deer goat sheep swan crow hawk duck goose snake frog fish whale crab bee cat dog bull mouse
    hare boar seal dove crane
""")
GOODS = word_list("""
    salt wool copper iron tin silk wine beer honey butter cheese bread corn rice oil coal wood paper glass leather rope
    wax soap tea pepper sugar fruit nuts beans meat fur cotton linen clay sand chalk ink paint pearls gems lace hats
    shoes coats gloves belts rings bells clocks lamps knives nails boats carts chairs tables beds doors bricks pots cups
    spoons plates baskets
""")

_CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # without I and O, which resemble digits
_ATTEMPTS_PER_LENGTH = 4


def word(rng: Random, syllables: int) -> str:
    """A capitalised word of that many syllables."""
    return "".join(rng.choices(SYLLABLES, k=syllables)).capitalize()


def held_out_word(rng: Random, plain: bool = False) -> str:
    """A name with a pattern held out for split 'out'; with `plain` it has one word."""
    pattern = rng.randrange(2 if plain else 3)
    if pattern == 0:
        return rng.choice(LEADING_VOWELS) + word(rng, rng.randint(1, 2)).lower()
    if pattern == 1:
        return f"{word(rng, 2)}-{word(rng, rng.randint(1, 2))}"
    return f"{rng.choice(PREFIXES)} {word(rng, 2)}"


class Namer:
    """Generates the names of one document without repetition."""

    def __init__(self, rng: Random, level: int) -> None:
        self._rng = rng
        self._level = level
        self._used: set[str] = set()

    def name(self, kind: str, held_out: bool = False) -> tuple[str, str]:
        """A new name for an entity of this type, as sentences write it and in its bare form.

        The two differ if the name includes a type word: 'the river Sanu' and 'Sanu'.
        """
        for attempt in range(10_000):
            bare = self._draw(kind, held_out, attempt // _ATTEMPTS_PER_LENGTH)
            if bare not in self._used:
                break
        self._used.add(bare)
        if kind == "book":
            title = f"The {self._rng.choice(TITLE_WORDS)} of {bare}"
            return title, title
        written = {"river": "the river ", "ship": "the ship ", "guild": "the guild of "}.get(kind, "") + bare
        return written, bare

    def _draw(self, kind: str, held_out: bool, longer: int) -> str:
        rng = self._rng
        longer = min(longer, 2)
        if held_out:
            core = held_out_word(rng, plain=self._level == 0)
        elif kind == "person" and self._level > 0:
            core = word(rng, 2)
        else:
            core = word(rng, (2 if rng.random() < 0.7 else 3) + longer)
        if kind == "person" and self._level > 0:
            return f"{core} {word(rng, 1 + (rng.random() < 0.5) + longer)}"
        return core


def year(rng: Random) -> str:
    """A year from 1400 to 1899."""
    return str(rng.randrange(1400, 1900))


def number(rng: Random) -> str:
    """A whole number of two to five digits, each length with the same probability."""
    digits = rng.randint(2, 5)
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def date(rng: Random) -> str:
    """A day such as '14 March 1733'."""
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {year(rng)}"


def code(rng: Random) -> str:
    """Two letters and four digits: 'KX-4071'."""
    return f"{rng.choice(_CODE_LETTERS)}{rng.choice(_CODE_LETTERS)}-{rng.randrange(10_000):04d}"


def emblem(rng: Random) -> str:
    """A coloured animal: 'red fox'."""
    return f"{rng.choice(COLOURS)} {rng.choice(ANIMALS)}"


def goods(rng: Random) -> str:
    """Something that is sold."""
    return rng.choice(GOODS)


LITERALS = {"year": year, "number": number, "date": date, "code": code, "emblem": emblem, "goods": goods}
