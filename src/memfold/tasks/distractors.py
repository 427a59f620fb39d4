"""Questions of a dataset in documents as long as one likes: their own paragraphs among those of other questions.

Paragraphs are what a loader sets off with blank lines.  A paragraph with the title of one that the question has already
is no distractor, since it may say the same; each title comes once.  Left out: looking for the answer in distractors;
questions whose answer is "yes" would lose most of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random

from memfold.core.errors import DataError
from memfold.core.types import Sample, Span
from memfold.tasks.task import Encode

BREAK = "\n\n"


@dataclass(frozen=True)
class _Paragraph:
    """A paragraph, its title (the first line), its tokens with the blank line before it, and whose it is."""

    text: str
    title: str
    tokens: int
    owner: int


class Distractors:
    """The paragraphs of some samples, to lengthen the documents of each with those of the others."""

    def __init__(self, samples: Iterable[Sample], encode: Encode) -> None:
        self.samples = list(samples)
        self._paragraphs = [
            _Paragraph(text, text.partition("\n")[0], len(encode(BREAK + text)), owner)
            for owner, sample in enumerate(self.samples)
            for text in dict.fromkeys(sample.document.read().split(BREAK))
        ]

    def lengthened(self, size: int, seed: int) -> Iterator[Sample]:
        """Each sample in a document of at most `size` tokens, and close to it; those that are longer are left out.

        Raises:
            DataError: when all paragraphs together are not that long.
        """
        for number in range(len(self.samples)):
            longer = self._lengthened(number, size, Random(f"{seed}/{size}/{number}"))
            if longer is not None:
                yield longer

    def _lengthened(self, number: int, size: int, rng: Random) -> Sample | None:
        own = [one for one in self._paragraphs if one.owner == number]
        titles = {one.title for one in own}
        left = size - sum(one.tokens for one in own)
        if left < 0:
            return None
        others = [one for one in self._paragraphs if one.owner != number and one.title not in titles]
        chosen: list[_Paragraph] = []
        for one in {one.title: one for one in rng.sample(others, len(others))}.values():
            if one.tokens > left:
                break
            chosen.append(one)
            left -= one.tokens
        else:
            raise DataError(
                f"the paragraphs of {self.samples[number].task} fill {size - left} of {size} tokens; give more files, "
                "or smaller --lengths"
            )
        return _laid_out(self.samples[number], own, chosen, rng)


def _laid_out(sample: Sample, own: list[_Paragraph], others: list[_Paragraph], rng: Random) -> Sample:
    """Its paragraphs in their order, at random places among the others."""
    places = sorted(rng.sample(range(len(own) + len(others)), len(own)))
    mixed = [one.text for one in others]
    for place, one in zip(places, own, strict=True):
        mixed.insert(place, one.text)
    text = BREAK.join(mixed)
    starts = {stretch: text.find(stretch) for stretch in sample.support}
    evidence = tuple(Span(start, start + len(stretch)) for stretch, start in starts.items() if start >= 0)
    source = f"{sample.document.source}#{len(text)}"
    document = replace(sample.document, source=source, text=text)
    return replace(sample, document=document, evidence=evidence)
