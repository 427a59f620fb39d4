"""A small almanac world whose sentences are spread over a document of any length, among articles of other worlds.

`almanac` makes one world as large as its document.  Here, the questions are about a world of a few pages, and the rest
of the document is filler: articles that each have a world of their own.  No name of the questions' world occurs in
them.  So a document of millions of tokens is written in seconds and asks what a short one asks, and the sentences that
a question needs stand far apart.  Articles are written one after the other and are not kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from memfold.core.document import Document
from memfold.core.errors import ConfigError, unknown
from memfold.core.types import Sample
from memfold.tasks.almanac.page import Page
from memfold.tasks.almanac.questions import HOPS, Draft, QuestionGenerator
from memfold.tasks.almanac.task import sample_of, write
from memfold.tasks.almanac.world import Fact, Unit, World, token_counter
from memfold.tasks.names import PREFIXES, TITLE_WORDS
from memfold.tasks.task import Encode, TaskOptions

KINDS = tuple(HOPS)
ARTICLE_TOKENS = 512
WORLD_TOKENS, QUESTION_TOKENS = 512, 128  # of a world: at least, and for each question; at most half of the document
MAX_WORLDS = 12  # how many are tried until one supports the questions
APART = 0.1  # of the document: the least distance of the facts of a question
MOVES = 10_000  # of a fact that stands too near
_NAME = re.compile(r"\b[A-Z][\w-]{3,}")  # shorter ones are second names, such as Po in Dozo Po
_ORDINARY = {*PREFIXES, *TITLE_WORDS}  # words that stand in many names

Article = list[Unit]


@dataclass(frozen=True)
class _World:
    """The sentences of the questions' world, and the questions about them."""

    units: list[list[Fact]]
    drafts: list[Draft]

    def names(self) -> frozenset[str]:
        """Return the words of all names that name one thing."""
        entities = {entity for unit in self.units for fact in unit for entity in (fact.subject, fact.target) if entity}
        words = {word for entity in entities for word in _NAME.findall(entity.bare)}
        return frozenset(words - _ORDINARY)

    def pairs(self) -> list[tuple[int, int]]:
        """Return the numbers of the units that must stand apart, as the two facts of a question."""
        unit_of = {fact: number for number, unit in enumerate(self.units) for fact in unit}
        return [(unit_of[draft.facts[0]], unit_of[draft.facts[-1]]) for draft in self.drafts if len(draft.facts) > 1]


def spread(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """Return `options.samples` questions, their kinds in turn, about one document of at most `size` tokens.

    If there are fewer questions than `options.kinds`, the turn begins with any of them, so that all occur in training.
    The document is shorter by a few sentences at most.  The facts of a two-hop question stand about a tenth of it apart
    or more, in any order.

    Raises:
        ConfigError: for an unknown kind, two hops below level 2, or a document too short for its questions.
    """
    kinds = options.kinds or (KINDS if options.level >= 2 else KINDS[:1])
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind of question", kind, KINDS)
    rng = Random(seed)
    first = rng.randrange(len(kinds)) if options.samples < len(options.kinds) else 0
    turn = [kinds[(first + number) % len(kinds)] for number in range(options.samples)]
    world = _world(rng, size, options, turn, encode)
    articles = _filler(rng, size - _tokens(world, encode), _articles(rng, world.names(), options, encode), encode)
    _insert(rng, world, articles)
    _shorten(articles, size, encode)
    document = Document(f"almanac-{seed}-{size}", text=_text(articles))
    return [sample_of(draft, document, options, "spread") for draft in world.drafts]


def names_in(text: str) -> set[str]:
    """Return the capitalised words of a text that may be names, without second names of one syllable."""
    return set(_NAME.findall(text))


def _world(rng: Random, size: int, options: TaskOptions, kinds: Sequence[str], encode: Encode) -> _World:
    """Write worlds until one supports questions of these kinds."""
    most = min(size // 2, max(WORLD_TOKENS, QUESTION_TOKENS * len(kinds)))
    wanted = Counter(kinds)
    for _ in range(MAX_WORLDS):
        made = World(rng, options.level, options.split, token_counter(encode))
        made.fill(most)
        units = [unit for unit in made.units if not isinstance(unit, str)]
        facts = [fact for unit in units for fact in unit]
        generator = QuestionGenerator(rng, Page("", facts), options.level, options.split == "out")
        # those with more hops first: few facts support them
        order = sorted(wanted, key=lambda kind: -HOPS[kind])
        drafts = {kind: generator.draft(wanted[kind], (kind,)) if facts else [] for kind in order}
        if all(len(drafts[kind]) == count for kind, count in wanted.items()):
            waiting = {kind: iter(own) for kind, own in drafts.items()}
            return _World(units, [next(waiting[kind]) for kind in kinds])
    raise ConfigError(
        f"documents of {size} tokens at level {options.level} have no {len(kinds)} questions of kind "
        f"{', '.join(wanted)}; use longer documents, fewer questions about each, or level 2 or 3"
    )


def _tokens(world: _World, encode: Encode) -> int:
    return sum(len(encode(f" {_written(unit)}")) for unit in world.units)


def _articles(rng: Random, taken: frozenset[str], options: TaskOptions, encode: Encode) -> Iterator[Article]:
    """Yield endless articles without these names, each cut where a sentence may stand between two of its own."""
    plain = TaskOptions(options.level, options.split)
    while True:
        page = write(rng, ARTICLE_TOKENS, plain, encode)
        if names_in(page.text).isdisjoint(taken):
            yield _cut(page)


def _cut(page: Page) -> Article:
    """Return the text of a page, cut before each sentence that names its subject: pronouns stay with their names."""
    starts = [fact.start for fact in page.facts if fact.after is None and fact.start > 0]
    ends = [*starts, len(page.text)]
    return [page.text[start:end] for start, end in zip([0, *starts], ends, strict=True)]


def _filler(rng: Random, size: int, articles: Iterator[Article], encode: Encode) -> list[Article]:
    """Return the first articles, about `size` tokens of them; the last one is cut."""
    chosen: list[Article] = []
    left = size
    while left > 0:
        article = next(articles)
        count = _count(article, encode)
        while count > left and len(article) > 1:
            article.pop()
            count = _count(article, encode)
        chosen.append(article)
        left -= count
    return chosen


def _insert(rng: Random, world: _World, articles: list[Article]) -> None:
    """Put the units of a world at random places between the parts of the articles."""
    borders = [(article, part) for article in range(len(articles)) for part in range(len(articles[article]))]
    places = _places(rng, len(world.units), world.pairs())
    chosen = [(borders[int(place * len(borders))], unit) for place, unit in zip(places, world.units, strict=True)]
    for (article, part), unit in sorted(chosen, key=lambda pair: pair[0], reverse=True):
        articles[article].insert(part, unit)


def _places(rng: Random, count: int, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Return `count` random numbers from 0 to 1; those of a pair differ by `APART` or more."""
    places = [rng.random() for _ in range(count)]
    for _ in range(MOVES):
        near = [pair for pair in pairs if abs(places[pair[0]] - places[pair[1]]) < APART]
        if not near:
            break
        places[rng.choice(rng.choice(near))] = rng.random()
    return places


def _shorten(articles: list[Article], size: int, encode: Encode) -> None:
    """Remove parts of the last articles until all of them have at most `size` tokens; facts stay."""
    counts = [_count(article, encode) for article in articles]
    surplus = sum(counts) - size
    for number in reversed(range(len(articles))):
        article = articles[number]
        while surplus > 0 and any(isinstance(part, str) for part in article):
            last = max(index for index, part in enumerate(article) if isinstance(part, str))
            del article[last]
            count = _count(article, encode)
            surplus, counts[number] = surplus - counts[number] + count, count
        if surplus <= 0:
            break


def _count(article: Article, encode: Encode) -> int:
    """Return the number of tokens of an article and the line end after it."""
    return len(encode(f"{_text([article])}\n"))


def _text(articles: Iterable[Article]) -> str:
    """Return the text of some articles, and set where each fact of theirs begins."""
    written: list[str] = []
    position = 0
    for article in articles:
        for number, part in enumerate(article):
            text = part if isinstance(part, str) else _placed(part, position)
            if number == len(article) - 1:
                text = f"{text.rstrip()}\n"
            written.append(text)
            position += len(text)
    return "".join(written).rstrip()


def _placed(unit: Sequence[Fact], position: int) -> str:
    """Return the sentences of a unit that begins at a position, and set where each of its facts begins."""
    for fact in unit:
        fact.start = position
        position += len(fact.text) + 1
    return f"{_written(unit)} "


def _written(unit: Sequence[Fact]) -> str:
    return " ".join(fact.text for fact in unit)
