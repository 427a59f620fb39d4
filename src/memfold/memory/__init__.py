"""The memory file: what a fold leaves on disk.

Write it with `MemoryWriter` (block by block, resumable) or `save_memory`, read it with `open_memory`, ask for its
sizes with `describe`; `check_readable` and `concatenate` say which memories go together.
"""

from memfold.memory.combine import check_readable, concatenate
from memfold.memory.manifest import Manifest
from memfold.memory.reader import describe, open_memory
from memfold.memory.writer import MemoryWriter, save_memory

__all__ = ["Manifest", "MemoryWriter", "check_readable", "concatenate", "describe", "open_memory", "save_memory"]
