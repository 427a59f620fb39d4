"""`tiny`: the small model that the package ships, trained from scratch by the recipes of this repository."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from memfold.core.errors import CheckpointError

RECIPE = "recipes/pooled/tiny/base.toml"


class Shipped:
    """The shipped model, a folder in the package."""

    def check(self) -> None:
        """Raise a `CheckpointError` if the package was built without the model."""
        self.folder()

    def folder(self) -> Path:
        """Return the model folder.

        Raises:
            CheckpointError: if the package was built without the model.
        """
        folder = Path(str(resources.files("memfold"))) / "assets" / "tiny"
        if not (folder / "config.json").exists():
            raise CheckpointError(
                f"the model 'tiny' is not in {folder}; train it (memfold train {RECIPE}) and use its run folder as "
                "--model"
            )
        return folder


MODEL = Shipped()
