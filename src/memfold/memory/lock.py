"""One writer for each memory file: the lock of the folder `<path>.partial`, where a fold keeps its blocks.

Readers take no lock: they see the old file or the new one.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from memfold.core.errors import DataError
from memfold.core.lock import FolderLock
from memfold.core.outputs import writing
from memfold.memory.partial import discard_empty, partial_folder, refuse_foreign


class WriteLock(FolderLock):
    """The right to write one memory file, from the beginning of the `with` block, or `WriteLock(path)`, to `release`.

    Its folder is removed with the lock if it holds no block.

    Raises:
        BusyError: if another process, or another writer of this one, has it; nothing is waited for.
    """

    makes_parents: ClassVar[bool] = False

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        super().__init__(partial_folder(self.path))
        self._made = [self.folder]  # even one that a killed process left

    @property
    def _subject(self) -> Path:
        return self.path

    @property
    def _another(self) -> str:
        return "name"

    def _check(self) -> None:
        if not self.path.parent.is_dir():
            raise DataError(f"cannot write {self.path}: there is no folder {self.path.parent}; choose another place")
        with writing(self.path):
            refuse_foreign(self.folder)

    def _discard(self) -> None:
        discard_empty(self.folder)
