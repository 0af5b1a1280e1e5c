"""Deadlines as plain arithmetic: what is armed, what is due, what comes next.

Rule: a key is armed at most once; arming it again moves it.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from math import inf
from typing import Generic, TypeVar

from attrs import define, field

K = TypeVar("K", bound=Hashable)


@define
class Timers(Generic[K]):
    """A set of keys with one deadline each, in the seconds of whoever passes ``now``."""

    _armed: dict[K, tuple[float, int, K]] = field(factory=dict)
    _heap: list[tuple[float, int, K]] = field(factory=list)
    """All that are armed, and what was moved or cancelled and has not surfaced yet."""
    _live: set[int] = field(factory=set)
    """The serials of those that are armed: `next` is asked for after each input, and a key may be slow to hash."""
    _put_off: set[K] = field(factory=set)
    _serial: int = 0

    def arm(self, key: K, at: float) -> None:
        """Make ``key`` due at ``at``, whenever it was due before."""
        self.cancel(key)
        self._serial += 1
        self._armed[key] = entry = (at, self._serial, key)
        self._live.add(self._serial)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._armed):
            self._heap = list(self._armed.values())
            heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Forget ``key``; nothing happens if it is not armed."""
        entry = self._armed.pop(key, None)
        if entry is not None:
            self._live.discard(entry[1])
        if self._put_off:
            self._put_off.discard(key)

    def put_off(self, key: K, at: float) -> bool:
        """Make ``key``, which was just popped, due once more at ``at``; ``False`` if that was done already."""
        if key in self._put_off:
            self._put_off.discard(key)
            return False
        self.arm(key, at)
        self._put_off.add(key)
        return True

    def is_armed(self, key: K) -> bool:
        return key in self._armed

    @property
    def next(self) -> float:
        """The earliest deadline; ``inf`` if nothing is armed."""
        heap, live = self._heap, self._live
        while heap and heap[0][1] not in live:
            heapq.heappop(heap)
        return heap[0][0] if heap else inf

    def pop_due(self, now: float) -> list[tuple[K, float]]:
        """Take out every key that is due, earliest first, with its deadline."""
        due: list[tuple[K, float]] = []
        while (at := self.next) <= now:
            _, serial, key = heapq.heappop(self._heap)
            del self._armed[key]
            self._live.discard(serial)
            due.append((key, at))
        return due

    def __len__(self) -> int:
        return len(self._armed)
