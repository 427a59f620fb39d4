"""The prefixes of the blocks that were read last: a long memory has more blocks than a device can hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from memfold.core.system import Prefix


class Prefixes:
    """Keeps at most `most` prefixes, those used last; calls that read the same block share one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[Hashable, Prefix] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Prefix]) -> Prefix:
        """Return the prefix of a key, which is made if it is not kept."""
        prefix = self._kept.pop(key) if key in self._kept else make()
        self._kept[key] = prefix
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return prefix
