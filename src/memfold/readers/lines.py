"""Turns the lines of PDF pages into running text: paragraphs on one line each, table rows on one line each.

A PDF has positions in place of paragraphs.  A line continues the one before it if its first word would not have fit
there.  Hyphens at line ends are removed, unless the word has a hyphen elsewhere in the text.  The order of lines is the
one in which the file draws them, so columns of prose follow each other; columns of a table are put side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from unicodedata import east_asian_width

ENOUGH = 3  # lines that show where a column ends
OVERFULL = 20  # one line in so many may reach out of its column
CELL_GAP = "  "  # between the cells of a row
SAME_LINE = 0.3  # of the height of a line: how far apart two baselines of one row are
SAME_HEIGHT = 0.12
SPACE = 0.2  # of the height of a line: the width of a space
INDENT = 0.3  # of the height of a line
WIDE_STEP = 1.35  # of the usual distance of two lines: from there on it is a gap between paragraphs
CELL_CHARACTERS = 30  # mean length of the cells of a column, at most
WORD_CHARACTERS = 12  # mean length of cells that hold one word or number
FORCED_BREAKS = 0.5  # of the lines of a column; prose has more
_ENDS = re.compile(r"[.!?:;\u2026][\"')\]\u201d\u2019\u00bb]*$")
_ITEM = re.compile(r"([\u2022\u2023\u25aa\u25cf\u25e6\u2043\u00b7*\u2013-]|\(?(\d{1,3}|[a-z]|[ivx]+)[.)])\s")
_LEADER = re.compile(r"(\.\s?){4,}\s*\w*$")  # from an entry of a table of contents to its page
_HYPHEN = re.compile(r"(\w[\w-]*?)[-\u2010\u00ad]$")
_COMPOUND = re.compile(r"\w+(?:-\w+)+")


@dataclass(frozen=True)
class Line:
    """A line of a page, in points from its lower left corner.

    `base` is the baseline, `word` the width of the first word.  `cells`: it has gaps as between the cells of a table;
    `fixed`: its letters are all equally wide, as in source code.
    """

    text: str
    left: float
    right: float
    base: float
    height: float
    word: float = 0.0
    cells: bool = False
    fixed: bool = False


def running_text(pages: Iterable[Sequence[Line]]) -> Iterator[str]:
    """Yield the text of pages, one part for each; a sentence that goes on on the next page is not cut."""
    text = _RunningText()
    for lines in pages:
        yield text.add(lines)
    yield text.end()


class _RunningText:
    """Joins lines to paragraphs; what follows the last line is known when the next one comes."""

    def __init__(self) -> None:
        self._last: Line | None = None
        self._item: float | None = None  # the left edge of the list item that the last line belongs to
        self._margin: dict[tuple[int, int], float] = {}  # left edge and height -> the right margin so far
        self._compounds: set[str] = set()

    def add(self, lines: Sequence[Line]) -> str:
        parts: list[str] = []
        self._compounds.update(word.lower() for line in lines for word in _COMPOUND.findall(line.text))
        for run in _runs(with_rows(lines)):
            self._widen(run)
            steps = [above.base - below.base for above, below in pairwise(run)]
            step = median(steps) if steps else 0.0
            for number, line in enumerate(run):
                parts.append(self._after_last(line, step if number else None))
                if _ITEM.match(line.text):
                    self._item = line.left
                elif parts[-1].endswith("\n"):
                    self._item = None
                self._last = line
        return "".join(parts)

    def end(self) -> str:
        return f"{self._last.text}\n" if self._last is not None else ""

    def _after_last(self, line: Line, step: float | None) -> str:
        """Return the last line with what separates it from the next; `step` is None if that starts a column or page."""
        last = self._last
        if last is None:
            return ""
        if not self._continues(last, line, step):
            return f"{last.text}\n"
        hyphenated = _HYPHEN.search(last.text)
        if hyphenated is None or not line.text[:1].isalnum():
            return last.text if _is_wide(last.text[-1]) and _is_wide(line.text[0]) else f"{last.text} "
        return last.text if self._keeps_hyphen(hyphenated[1], last, line) else last.text[:-1]

    def _keeps_hyphen(self, beginning: str, last: Line, line: Line) -> bool:
        """Whether the hyphen between two lines belongs to the word: well-known, 1999-2000, Anglo-Saxon."""
        rest = re.match(r"\w+", line.text)
        if last.text.endswith("\u00ad") or rest is None:
            return False
        whole = f"{beginning}-{rest[0]}".lower()
        return not rest[0][0].islower() or not beginning[-1].islower() or "-" in beginning or whole in self._compounds

    def _continues(self, last: Line, line: Line, step: float | None) -> bool:
        if last.cells or line.cells or last.fixed or line.fixed or _ITEM.match(line.text) or _LEADER.search(last.text):
            return False
        if abs(last.height - line.height) > SAME_HEIGHT * max(last.height, line.height):
            return False
        unfinished = not _ENDS.search(last.text)
        hyphenated = bool(_HYPHEN.search(last.text)) and line.text[:1].isalnum()
        forced = hyphenated or _is_forced(last, line, self._margin.get(_place(last), last.right))
        if step is None:
            return unfinished and (forced or line.text[:1].islower())
        if last.base - line.base > WIDE_STEP * step:
            return False
        if self._item is not None and line.left < self._item - INDENT * line.height:
            return False
        indented = line.left > last.left + INDENT * last.height and self._item is None
        return forced and (unfinished or not indented)

    def _widen(self, run: Sequence[Line]) -> None:
        """Note how far the lines of a column reach, for lines of each height; a few lines do not tell."""
        reach = [(line.right, round(line.height)) for line in run if not line.cells]
        for line in run:
            same = sorted(right for right, height in reach if height == round(line.height))
            place, known = _place(line), len(same) >= ENOUGH
            right = (
                same[-1 - len(same) // OVERFULL] if known else max((right for right, _ in reach), default=line.right)
            )
            self._margin[place] = right if known else max(self._margin.get(place, 0.0), right)


def with_rows(lines: Sequence[Line]) -> list[Line]:
    """Return lines with the columns of tables side by side: cells that share a baseline become one line."""
    joined: list[Line] = []
    for run in _runs(lines):
        pairs = _pairs(joined, run)
        if not _are_columns(pairs, run):
            joined += run
            continue
        rows = {id(cell): _row(left, cell) for left, cell in pairs}
        partners = {id(left): rows[id(cell)] for left, cell in pairs}
        top = min(index for index, line in enumerate(joined) if id(line) in partners)
        table = [partners.get(id(line), line) for line in joined[top:]]
        table += [line for line in run if id(line) not in rows]
        joined[top:] = sorted(table, key=lambda line: -line.base)
    return joined


def _runs(lines: Sequence[Line]) -> list[list[Line]]:
    """Cut lines into columns: each line of a column is below the one before it, and under or above a part of it."""
    runs: list[list[Line]] = []
    left = right = 0.0
    for line in lines:
        below = bool(runs) and line.base < runs[-1][-1].base - SAME_LINE * line.height
        if below and line.left < right and line.right > left:
            runs[-1].append(line)
            left, right = min(left, line.left), max(right, line.right)
        else:
            runs.append([line])
            left, right = line.left, line.right
    return runs


def _pairs(lines: Sequence[Line], run: Sequence[Line]) -> list[tuple[Line, Line]]:
    """Return the lines of a column with the lines to their left that share their baseline."""
    pairs = []
    for cell in run:
        beside = [
            line for line in lines if abs(line.base - cell.base) < SAME_LINE * cell.height and line.right < cell.left
        ]
        if beside:
            pairs.append((beside[-1], cell))
    return pairs


def _are_columns(pairs: Sequence[tuple[Line, Line]], run: Sequence[Line]) -> bool:
    """Whether these lines are cells of a table, and not lines of prose in two columns."""
    if not pairs:
        return False
    low = min(left.base for left, _ in pairs) - 1.0
    beside = sum(line.base > low for line in run)
    if len(pairs) < 2 or 3 * len(pairs) < 2 * beside:
        return False
    return all(_are_cells([pair[side] for pair in pairs]) for side in (0, 1))


def _are_cells(column: Sequence[Line]) -> bool:
    """Whether lines below each other are cells: short ones, most of which had room for more."""
    if any(line.cells for line in column):
        return True  # rows that were joined before
    characters = sum(len(line.text) for line in column) / len(column)
    edge = max(line.right for line in column)
    forced = sum(_is_forced(above, below, edge) for above, below in pairwise(column))
    return characters <= WORD_CHARACTERS or (
        characters <= CELL_CHARACTERS and forced < FORCED_BREAKS * (len(column) - 1)
    )


def _is_forced(line: Line, following: Line, edge: float) -> bool:
    """Whether a line ends because the first word of the next had no room left of the edge of the column."""
    return line.right + SPACE * line.height + following.word > edge


def _row(left: Line, cell: Line) -> Line:
    return replace(left, text=f"{left.text}{CELL_GAP}{cell.text}", right=cell.right, cells=True)


def _is_wide(character: str) -> bool:
    """Whether a character is of a script without spaces between words, such as Chinese."""
    return east_asian_width(character) in "WF"


def _place(line: Line) -> tuple[int, int]:
    return round(line.left / 10), round(line.height)
