"""The memory file: what a fold leaves on disk.

Write it with `MemoryWriter` (block by block, resumable) or `save_memory`, read it with `open_memory`, ask for its
sizes with `describe`, and check all of it with `verify`; `check_readable` and `concatenate` say which memories go
together.  `open_stored` opens a file that is to grow: its blocks are copied as they are stored, and `sort_out` says
which documents it lacks.  A path is `claimed` by one writer at a time, and `check_target` says whether what is there
may be replaced.
"""

from memfold.memory.combine import check_readable, check_system, concatenate, same_encoder, sort_out
from memfold.memory.lock import WriteLock
from memfold.memory.manifest import Manifest
from memfold.memory.partial import partial_folder
from memfold.memory.reader import StoredMemory, damage, describe, open_memory, open_stored, verify
from memfold.memory.target import check_target, claimed
from memfold.memory.writer import MemoryWriter, save_memory

__all__ = [
    "Manifest",
    "MemoryWriter",
    "StoredMemory",
    "WriteLock",
    "check_readable",
    "check_system",
    "check_target",
    "claimed",
    "concatenate",
    "damage",
    "describe",
    "open_memory",
    "open_stored",
    "partial_folder",
    "same_encoder",
    "save_memory",
    "sort_out",
    "verify",
]
