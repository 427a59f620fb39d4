"""The questions of a step: a pure function of the recipe, the step and the number, like the batches of other stages.

A resumed run draws the same questions as an uninterrupted one, however many groups were dropped and refilled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.registry import AnySystem, make_system
from memfold.core.types import Sample
from memfold.rl.recipe import RlRecipe
from memfold.tasks.table import load_task
from memfold.training.batches import choose, seed_of
from memfold.training.recipe import Entry

TRAIN = "rl"


@dataclass(frozen=True)
class Question:
    """A sample with the system that answers it; `number` is its index within its draw.

    `label` is the index of its entry in the mixture and the entry's label, as in validation.
    """

    label: str
    system: AnySystem
    sample: Sample
    seed: int
    size: int
    number: int

    @property
    def document(self) -> Document:
        """The document that the question is about."""
        return self.sample.document

    @property
    def kind(self) -> str:
        """Equal for questions to the same system with the same settings."""
        return repr((self.system.name, sorted(self.system.settings.items())))

    @property
    def name(self) -> str:
        """The name in errors and trace files."""
        return f"{self.document.source}/{self.number}"


def draw(
    recipe: RlRecipe, backbone: Backbone, number: int, purpose: str = TRAIN, entry: Entry | None = None
) -> list[Question]:
    """Draw `number`: the questions of one document.

    Raises:
        ConfigError: for a task whose samples have no answers, unless the reward is a function of the user.
    """
    seed = seed_of(recipe.seed, purpose, number)
    rng = Random(seed)
    entry = entry or choose(recipe.mixture, number)
    size = rng.choice(entry.sizes)
    settings = recipe.system_settings(entry) | {"style": recipe.style}
    system = make_system(entry.system, backbone, settings).draw(rng, None)
    options = entry.options(system.ratio, held_out=purpose != TRAIN)
    samples = load_task(entry.task)(rng.getrandbits(40), size, options, backbone.encode)
    first = samples[0].document
    if not samples[0].answers and ":" not in recipe.reward:
        raise ConfigError(
            f"task {entry.task!r} has no answers, which reward {recipe.reward!r} needs; use a task with questions, "
            "such as almanac"
        )
    label, document = f"{recipe.mixture.index(entry)}:{entry.label}", _as_text(first, backbone)
    return [
        Question(label, system, replace(sample, document=document), seed, size, index)
        for index, sample in enumerate(samples)
        if sample.document is first
    ]


def _as_text(document: Document, backbone: Backbone) -> Document:
    """Return the document as text, as a user would give it, even if the task cut it at token boundaries."""
    return document if document.tokens is None else Document(document.source, backbone.decode(document.tokens))


class Draws:
    """The questions of one step for one of several processes, drawn on demand."""

    def __init__(self, recipe: RlRecipe, backbone: Backbone, step: int, process: int = 0, processes: int = 1) -> None:
        self._recipe, self._backbone, self._step = recipe, backbone, step
        self._process, self._processes = process, processes
        self._drawn = 0
        self._pending: list[Question] = []

    def take(self, count: int) -> list[Question]:
        """Return the next `count` questions; those of a document may be split between two calls."""
        while len(self._pending) < count:
            number = self._step << 20 | self._number()
            self._pending += draw(self._recipe, self._backbone, number, entry=choose(self._recipe.mixture, number))
            self._drawn += 1
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken

    def _number(self) -> int:
        """Return the number of the next draw of this process.

        Processes alternate, with one draw for each update at a time, so that an update consists of the same groups as
        in a single process.
        """
        cycle, update = divmod(self._drawn, self._recipe.updates)
        return (cycle * self._processes + self._process) * self._recipe.updates + update
