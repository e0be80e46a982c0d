"""Keys that LiteLLM has refused a moment ago, so that the same key costs no query of the database again.

The state is that of one worker. A key is held as its hash, and so briefly that one which is created meanwhile works
soon.
"""

from __future__ import annotations

from collections import OrderedDict

#: Seconds for which a refusal is repeated.
_HELD = 10.0
_MAX_KEYS = 10_000


class UnknownKeys:
    """Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._until: OrderedDict[int, float] = OrderedDict()

    def add(self, key: int, now: float) -> None:
        """LiteLLM has refused a key, given as its hash."""
        self._until[key] = now + _HELD
        self._until.move_to_end(key)
        if len(self._until) > _MAX_KEYS:
            self._until.popitem(last=False)

    def has(self, key: int, now: float) -> bool:
        """Whether LiteLLM has refused the key a moment ago."""
        return now < self._until.get(key, now)
