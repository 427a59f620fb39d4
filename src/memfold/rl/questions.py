"""The questions of a step: a pure function of the recipe, the step and the number, as the batches of other stages are.

A resumed run draws what an unbroken one does, however many groups were dropped and refilled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.system import MemorySystem
from memfold.core.types import Sample
from memfold.rl.recipe import RlRecipe
from memfold.tasks.table import load_task
from memfold.tasks.task import TaskOptions
from memfold.training.batches import choose, draw_gap, seed_of, system_of
from memfold.training.recipe import Entry

TRAIN = "rl"


@dataclass(frozen=True)
class Question:
    """A sample with the system that it is put to; `number` tells it from the others of its draw.

    `label` is the place of its entry in the mixture and the entry's own label, as in validation.
    """

    label: str
    system: MemorySystem
    sample: Sample
    seed: int
    size: int
    number: int

    @property
    def document(self) -> Document:
        """What it is about."""
        return self.sample.document

    @property
    def kind(self) -> str:
        """Equal for questions that the same system, set up alike, is asked."""
        return repr((self.system.name, sorted(self.system.settings.items())))

    @property
    def name(self) -> str:
        """As errors and trace files call it."""
        return f"{self.document.source}/{self.number}"


def draw(recipe: RlRecipe, backbone: Backbone, number: int, purpose: str = TRAIN, entry: Entry | None = None
         ) -> list[Question]:  # fmt: skip
    """Draw `number`: the questions of one document.

    Raises:
        ConfigError: for a task whose samples have no answers, unless the reward is a user's own.
    """
    seed = seed_of(recipe.seed, purpose, number)
    rng = Random(seed)
    entry = entry or choose(recipe.mixture, number)
    size, ratio = rng.choice(entry.sizes), rng.choice(entry.ratios)
    drawn = {"ratio": ratio, "gap": draw_gap(rng, entry.gap), "style": recipe.style}
    system = system_of(entry, recipe, backbone, drawn)
    options = TaskOptions(entry.level, "in", entry.samples, entry.kinds, ratio=ratio, filler=entry.filler,
                          files=entry.files, dataset=entry.dataset, held_out=purpose != TRAIN)  # fmt: skip
    samples = load_task(entry.task)(rng.getrandbits(40), size, options, backbone.encode)
    first = samples[0].document
    if not samples[0].answers and ":" not in recipe.reward:
        raise ConfigError(
            f"task {entry.task!r} has no answers that reward {recipe.reward!r} could be computed on; give one that "
            "asks questions, like almanac"
        )
    label, document = f"{recipe.mixture.index(entry)}:{entry.label}", _as_text(first, backbone)
    return [
        Question(label, system, replace(sample, document=document), seed, size, place)
        for place, sample in enumerate(samples)
        if sample.document is first
    ]


def _as_text(document: Document, backbone: Backbone) -> Document:
    """The document as any user would give it: one that a task has cut between tokens has no text that says the same."""
    return document if document.tokens is None else Document(document.source, backbone.decode(document.tokens))


class Draws:
    """The questions of one step for one of several processes, as many at a time as are asked for."""

    def __init__(self, recipe: RlRecipe, backbone: Backbone, step: int, process: int = 0, processes: int = 1) -> None:
        self._recipe, self._backbone, self._step = recipe, backbone, step
        self._process, self._processes = process, processes
        self._drawn = 0
        self._left: list[Question] = []

    def take(self, count: int) -> list[Question]:
        """The next `count` questions; those of a document may be split between two calls."""
        while len(self._left) < count:
            number = self._step << 20 | self._number()
            self._left += draw(self._recipe, self._backbone, number, entry=choose(self._recipe.mixture, number))
            self._drawn += 1
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def _number(self) -> int:
        """Of the next draw of this process.

        Processes take turns, a draw for each update at a time: an update is then made of the groups that it would be
        made of in one process.
        """
        turn, place = divmod(self._drawn, self._recipe.updates)
        return (turn * self._processes + self._process) * self._recipe.updates + place
