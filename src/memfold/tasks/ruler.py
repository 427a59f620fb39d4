"""The tasks of RULER (arXiv 2404.06654) in the language of the almanac: needles of every form, and the others by name.

`TASKS` has twelve of the thirteen tasks of RULER; `KINDS` joins those that differ only in what is planted where.  Sizes
are those that RULER publishes.  Essays are filler here, English words are invented ones, assignments to variables are
sentences, and questions are about an almanac.  RULER's second set of questions (several hops) is left out: it is that
of the suite `ruler-hqa`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random

from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.types import Sample, Span
from memfold.tasks.almanac.spread import spread
from memfold.tasks.haystack import as_many, filler_sentences, gather, plant, repeated_text, text_sentences
from memfold.tasks.names import Namer
from memfold.tasks.needle import NEEDLES, NOUNS, VALUES
from memfold.tasks.task import Encode, Task, TaskOptions
from memfold.tasks.tracking import LISTING, tracking_questions
from memfold.tasks.word_lists import common_words, frequent_words

KEYS, VALUES_EACH, ASKED = 4, 4, 4  # keys among filler, values of a key, and keys that are asked for at once
CHAINS, HOPS = 1, 4  # of variable tracking
FILLER, REPEATED, ONLY_NEEDLES = "filler", "repeated", "needles"  # haystacks
ONE_HOP = "one-hop"


@dataclass(frozen=True)
class _Key:
    """A key with its values, and the sentences that say so."""

    name: str
    values: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Needles:
    """A task of needles: values of a `kind`, of which each of `keys` keys or more has `values`; `asked` keys at once.

    With `coded_keys` the keys are values of that kind, too, not names.  `haystack` is filler, a few of its sentences
    over and over, or nothing but needles.
    """

    kind: str = "number"
    keys: int = 1
    values: int = 1
    asked: int = 1
    coded_keys: bool = False
    haystack: str = FILLER

    def __call__(self, seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
        """Return `options.samples` questions, each for other keys, about a document of at most `size` tokens.

        Raises:
            ConfigError: if the needles leave no room for a haystack, or if fewer have room than are asked for.
        """
        write = self._only_needles if self.haystack == ONLY_NEEDLES else self._planted
        text, keys, spans = write(seed, size, options, encode)
        document = Document(f"ruler-{seed}", text=text)
        samples = []
        for first in range(0, options.samples * self.asked, self.asked):
            own = slice(first, first + self.asked)
            samples.append(self._sample(document, keys[own], spans[first * self.values :], options))
        return samples

    def _planted(
        self, seed: int, size: int, options: TaskOptions, encode: Encode
    ) -> tuple[str, list[_Key], tuple[Span, ...]]:
        """Return a text with needles at random places, their keys in the order of questions, and the needles' spans."""
        rng = Random(seed)
        keys = self._keys(rng, max(self.keys, options.samples * self.asked), options)
        needles = [(rng.random(), sentence) for key in keys for sentence in key.sentences]
        room = size - sum(len(encode(f" {sentence}")) for _, sentence in needles)
        sentences = text_sentences(repeated_text(rng)) if self.haystack == REPEATED else filler_sentences(rng)
        whole = plant(gather(sentences, room, encode), needles)
        return whole.text, keys, whole.spans

    def _only_needles(
        self, seed: int, size: int, options: TaskOptions, encode: Encode
    ) -> tuple[str, list[_Key], tuple[Span, ...]]:
        """Return as `_planted`; keys and spans are those that are asked for."""
        count = as_many(size, lambda count: _lines(self._keys(Random(seed), count, options)), encode)
        if count < options.samples:
            raise ConfigError(
                f"{size} tokens have room for {count} needles, not for {options.samples} questions; "
                "use larger --lengths or fewer --per-document"
            )
        rng = Random(seed)
        keys = self._keys(rng, count, options)
        ends = list(accumulate(len(key.sentences[0]) + 1 for key in keys))
        chosen = rng.sample(range(count), options.samples)
        spans = [Span(ends[index] - 1 - len(keys[index].sentences[0]), ends[index] - 1) for index in chosen]
        return _lines(keys), [keys[index] for index in chosen], tuple(spans)

    def _keys(self, rng: Random, count: int, options: TaskOptions) -> list[_Key]:
        relation, draw, namer = NEEDLES[self.kind], VALUES[self.kind], Namer(rng, options.level)
        template = relation.held_out_statement if options.split == "out" else relation.statements[0]
        keys = []
        for _ in range(count):
            name = draw(rng) if self.coded_keys else namer.name("key")[0]
            values = tuple(draw(rng) for _ in range(self.values))
            keys.append(_Key(name, values, tuple(template.format(s=name, v=value) for value in values)))
        return keys

    def _sample(self, document: Document, keys: list[_Key], spans: tuple[Span, ...], options: TaskOptions) -> Sample:
        """Return a question for all values of these keys, whose sentences have the first of the spans."""
        answers = tuple(value for key in keys for value in key.values)
        support = tuple(sentence for key in keys for sentence in key.sentences)
        return Sample(
            task="ruler",
            document=document,
            question=self._question([key.name for key in keys]),
            answers=answers,
            target=", ".join(answers),
            evidence=spans[: len(support)],
            support=support,
            kind=self.kind if len(answers) == 1 else LISTING,
            hops=1,
            split=options.split,
            level=options.level,
        )

    def _question(self, names: list[str]) -> str:
        noun = NOUNS[self.kind]
        if self.values > 1:
            return f"What are the {self.values} secret {noun}s of {names[0]}?"
        if len(names) > 1:
            return f"What are the secret {noun}s of {', '.join(names[:-1])} and {names[-1]}?"
        return NEEDLES[self.kind].questions[0].format(s=names[0])


def _lines(keys: list[_Key]) -> str:
    return "\n".join(sentence for key in keys for sentence in key.sentences)


def _tracking(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """Return questions about chains of names, one for each, among a few sentences that are repeated."""
    chains, noise = max(CHAINS, options.samples), repeated_text(Random(seed))
    samples = tracking_questions(seed, size, encode, options.level, chains, HOPS, noise)
    return [replace(sample, split=options.split) for sample in samples[: options.samples]]


def _one_hop(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """Return questions of one hop about an almanac whose sentences are spread over a document."""
    return spread(seed, size, replace(options, kinds=(ONE_HOP,)), encode)


UUID = "uuid"
TASKS: dict[str, Task] = {
    "needle-1": Needles(haystack=REPEATED),
    "needle-2": Needles(),
    "needle-3": Needles(UUID),
    "multi-key-1": Needles(keys=KEYS),
    "multi-key-2": Needles(haystack=ONLY_NEEDLES),
    "multi-key-3": Needles(UUID, coded_keys=True, haystack=ONLY_NEEDLES),
    "multi-value": Needles(values=VALUES_EACH),
    "multi-query": Needles(keys=ASKED, asked=ASKED),
    "tracking": _tracking,
    "common-words": common_words,
    "frequent-words": frequent_words,
    "qa": _one_hop,
}
ALONE = ("common-words", "frequent-words")  # tasks that have one question for a document
KINDS: dict[str, tuple[str, ...]] = {
    "needle": ("needle-1", "needle-2", "needle-3"),
    "multi-key": ("multi-key-1", "multi-key-2", "multi-key-3"),
    **{name: (name,) for name in ("multi-value", "multi-query", "tracking", "common-words", "frequent-words", "qa")},
}
