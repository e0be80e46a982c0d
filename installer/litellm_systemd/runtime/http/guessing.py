"""Recognizes clients that guess keys, and delays what they get.

A client that repeats one wrong key, such as an agent with an old key, guesses nothing. A client that sends many
different keys does. The refusals of its address are then delayed, longer and longer. A request with the right key is
never delayed, because a team may share the address. A limited number of refusals wait; further ones are sent at once,
and their connections close. So delays slow down a client that waits for its refusals, and not one that opens many
connections. The state is that of one worker.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from litellm_systemd.runtime.http.addresses import client_network

#: An address may send this many different wrong keys without a delay.
FREE_KEYS = 10
#: Seconds without a wrong key after which an address starts again.
_FORGET = 600.0
#: Addresses that are remembered; the ones that sent a wrong key longest ago are forgotten first.
_MAX_CLIENTS = 1000
#: Seconds: the first delay of an address, which doubles with each further guess, and the longest.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 5.0
#: The number of refusals that wait at the same time. More would hold memory and connections for an attacker.
MAX_DELAYED = 100


@dataclass(slots=True)
class _Client:
    last_at: float
    #: Hashes of different keys, at most one more than are free.
    keys: set[int] = field(default_factory=set)
    guesses: int = 0


class Guesses:
    """The clients of this process that have sent wrong keys. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._delayed = 0

    def count(self, address: str, key: int, now: float) -> float:
        """Count a wrong key, given as its hash. Returns the delay of the refusal in seconds: 0 if it is no guess."""
        name = client_network(address)
        client = self._clients.pop(name, None)
        if client is None or now - client.last_at > _FORGET:
            client = _Client(now)
        self._clients[name] = client
        if len(self._clients) > _MAX_CLIENTS:
            self._clients.popitem(last=False)
        client.last_at = now
        if len(client.keys) <= FREE_KEYS:
            client.keys.add(key)
        if len(client.keys) <= FREE_KEYS:
            return 0.0
        client.guesses += 1
        return min(_FIRST_DELAY * 2.0 ** min(client.guesses - 1, 16), _LONGEST_DELAY)

    async def delay(self, seconds: float) -> bool:
        """Wait. Returns False at once if too many refusals wait already: the connection should then close after the
        refusal.
        """
        if self._delayed >= MAX_DELAYED:
            return False
        self._delayed += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._delayed -= 1
        return True
