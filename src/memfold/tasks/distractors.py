"""Lengthens the documents of a dataset to any size: mixes the paragraphs of a question with those of other questions.

The size is a number of tokens (`lengthened`) or of paragraphs (`among`, as RULER-HQA counts articles).  Loaders
separate paragraphs by blank lines.  Each title appears once: a paragraph with the same title as one of the
question's paragraphs is not used as a distractor, because it may say the same.  Distractors are not searched for the
answer; questions whose answer is "yes" would lose most of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from memfold.core.errors import DataError
from memfold.core.types import Sample, Span
from memfold.tasks.task import Encode, Places

BREAK = "\n\n"
PUBLISHED_SEED = 4  # with which the data of MemAgent was shuffled


@dataclass(frozen=True)
class _Paragraph:
    """A paragraph, its title (the first line), its number of tokens with a blank line, and the sample it belongs to."""

    text: str
    title: str
    tokens: int
    owner: int


class Distractors:
    """The paragraphs of some samples, with which the documents of the other samples are lengthened."""

    def __init__(self, samples: Iterable[Sample], encode: Encode, places: Places = "random") -> None:
        self.samples, self.places = list(samples), places
        self._paragraphs = [
            _Paragraph(text, text.partition("\n")[0], len(encode(BREAK + text)), owner)
            for owner, sample in enumerate(self.samples)
            for text in dict.fromkeys(sample.document.read().split(BREAK))
        ]

    def lengthened(self, size: int, seed: int) -> Iterator[Sample]:
        """Yield each sample with a document of at most `size` tokens, and close to it; longer samples are skipped.

        Raises:
            DataError: if all paragraphs together are shorter than `size`.
        """
        for number in range(len(self.samples)):
            sample = self._lengthened(number, size, Random(f"{seed}/{size}/{number}"))
            if sample is not None:
                yield sample

    def among(self, count: int, seed: int) -> Iterator[Sample]:
        """Yield each sample with a document of `count` paragraphs, its own at random places in random order.

        Samples that have more paragraphs are skipped.

        Raises:
            DataError: if all titles together are fewer than `count`, or all samples have more paragraphs.
        """
        skipped = 0
        for number, sample in enumerate(self.samples):
            rng = Random(f"{seed}/{count}/{number}")
            own = _own_paragraphs(sample)
            if len(own) > count:
                skipped += 1
                continue
            titles = {text.partition("\n")[0] for _, text in own}
            others = {other.title: other.text for other in self._paragraphs if other.title not in titles}
            if len(own) + len(others) < count:
                raise DataError(
                    f"the rows of {sample.task} have {len(own) + len(others)} of {count} articles; give more files, or "
                    "smaller --lengths"
                )
            chosen = rng.sample(sorted(others), count - len(own))
            yield _shuffled(sample, own, [others[title] for title in chosen], rng)
        if skipped and skipped == len(self.samples):
            raise DataError(
                f"all questions of {self.samples[0].task} have more than {count} articles of their own; use larger "
                "--lengths"
            )

    def _lengthened(self, number: int, size: int, rng: Random) -> Sample | None:
        original = [paragraph for paragraph in self._paragraphs if paragraph.owner == number]
        titles = {paragraph.title for paragraph in original}
        left = size - sum(paragraph.tokens for paragraph in original)
        if left < 0:
            return None
        others = [other for other in self._paragraphs if other.owner != number and other.title not in titles]
        by_title = {other.title: other for other in rng.sample(others, len(others))}
        distractors: list[_Paragraph] = []
        for distractor in by_title.values():
            if distractor.tokens > left:
                break
            distractors.append(distractor)
            left -= distractor.tokens
        else:
            raise DataError(
                f"the paragraphs of {self.samples[number].task} fill {size - left} of {size} tokens; give more files, "
                "or smaller --lengths"
            )
        own, filling = ([paragraph.text for paragraph in part] for part in (original, distractors))
        mixed = published_order([*own, *filling]) if self.places == "published" else _mixed(own, filling, rng)
        return _with_text(self.samples[number], BREAK.join(mixed))


def _mixed(own: list[str], others: list[str], rng: Random) -> list[str]:
    """The paragraphs of a question in their order, at random places among the others."""
    mixed = list(others)
    for place, text in zip(sorted(rng.sample(range(len(own) + len(others)), len(own))), own, strict=True):
        mixed.insert(place, text)
    return mixed


def published_order(paragraphs: Sequence[str]) -> list[str]:
    """The paragraphs of a document, those of its question first, in the order of MemAgent's data.

    That data shuffles every document with the same seed, so that of 200 paragraphs those of the question are always the
    same ten.  It is for comparison alone: a model can learn these places.
    """
    shuffled = list(paragraphs)
    Random(PUBLISHED_SEED).shuffle(shuffled)
    return shuffled


def _with_text(sample: Sample, text: str) -> Sample:
    """The sample with a longer document, and its evidence in it."""
    starts = {sentence: text.find(sentence) for sentence in sample.support}
    evidence = tuple(Span(start, start + len(sentence)) for sentence, start in starts.items() if start >= 0)
    source = f"{sample.document.source}#{len(text)}"
    document = replace(sample.document, source=source, text=text)
    return replace(sample, document=document, evidence=evidence)


def _own_paragraphs(sample: Sample) -> list[tuple[int, str]]:
    """The paragraphs of a sample, each with the position at which it begins."""
    found, start = [], 0
    for text in sample.document.read().split(BREAK):
        found.append((start, text))
        start += len(text) + len(BREAK)
    return found


def _shuffled(sample: Sample, own: list[tuple[int, str]], others: list[str], rng: Random) -> Sample:
    """The sample with its paragraphs and others in random order, and its evidence where it stands there."""
    mixed: list[tuple[int | None, str]] = [*own, *((None, text) for text in others)]
    rng.shuffle(mixed)
    moved: list[tuple[int, int, int]] = []  # start and end of a paragraph in the old document, and its new start
    position = 0
    for start, text in mixed:
        if start is not None:
            moved.append((start, start + len(text), position))
        position += len(text) + len(BREAK)
    evidence = tuple(
        Span(span.start - start + new, span.end - start + new)
        for span in sample.evidence
        for start, end, new in moved
        if start <= span.start and span.end <= end
    )
    text = BREAK.join(text for _, text in mixed)
    document = replace(sample.document, source=f"{sample.document.source}#{len(text)}", text=text)
    return replace(sample, document=document, evidence=evidence)
