"""Whether this instance is leaving: a byte that the main process shares with all of its workers."""

from __future__ import annotations

import mmap


class LeavingFlag:
    """Set by the main process when a drain is planned. Workers read it, also those that start later."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """The instance leaves from now on. It does not come back."""
        self._byte[0] = 1

    def __bool__(self) -> bool:
        return self._byte[0] == 1
