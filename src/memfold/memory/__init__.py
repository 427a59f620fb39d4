"""The memory file: what a fold leaves on disk.

Write it with `MemoryWriter` (block by block, resumable) or `save_memory`, read it with `open_memory`, ask for its
sizes with `describe`; `check_readable` and `concatenate` say which memories go together.  `open_stored` opens a file
that is to grow: its blocks are copied as they are stored, and `sort_out` says which documents it lacks.
"""

from memfold.memory.combine import check_readable, concatenate, sort_out
from memfold.memory.manifest import Manifest
from memfold.memory.reader import StoredMemory, describe, open_memory, open_stored
from memfold.memory.writer import MemoryWriter, save_memory

__all__ = [
    "Manifest",
    "MemoryWriter",
    "StoredMemory",
    "check_readable",
    "concatenate",
    "describe",
    "open_memory",
    "open_stored",
    "save_memory",
    "sort_out",
]
