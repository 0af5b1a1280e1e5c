"""Deadlines as plain arithmetic: what is armed, what is due, what comes next.

Rule: a key is armed at most once; arming it again moves it.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

from attrs import define, field

K = TypeVar("K", bound=Hashable)


@define
class Timers(Generic[K]):
    """A set of keys with one deadline each, in the seconds of whoever passes ``now``."""

    _at: dict[K, float] = field(factory=dict)
    _heap: list[tuple[float, int, K]] = field(factory=list)
    _put_off: set[K] = field(factory=set)
    _serial: int = 0

    def arm(self, key: K, at: float) -> None:
        """Make ``key`` due at ``at``, whenever it was due before."""
        self._at[key] = at
        self._put_off.discard(key)
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._at):
            # Moved and cancelled deadlines stay in the heap until they surface.
            self._heap = [(at, serial, key) for serial, (key, at) in enumerate(self._at.items())]
            self._serial = len(self._heap)
            heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Forget ``key``; nothing happens if it is not armed."""
        self._at.pop(key, None)
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
        return key in self._at

    @property
    def next(self) -> float | None:
        """The earliest deadline, or ``None`` if nothing is armed."""
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[tuple[K, float]]:
        """Take out every key that is due, earliest first, with its deadline."""
        due: list[tuple[K, float]] = []
        while (at := self.next) is not None and at <= now:
            key = heapq.heappop(self._heap)[2]
            del self._at[key]
            due.append((key, at))
        return due

    def __len__(self) -> int:
        return len(self._at)
