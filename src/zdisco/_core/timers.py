"""Deadlines as plain arithmetic: what is armed, what is due, what comes next.

Rule 1: a key is armed at most once; arming it again moves it.

Rule 2: what moves to a later time stays where it is in the heap until it comes to the top. Most deadlines are
moved again and again, and never come.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import Generic, TypeVar

from attrs import define, field

K = TypeVar("K", bound=Hashable)


@define(eq=False)
class _Armed:
    at: float
    serial: int
    """That of the arming: what is due at the same time comes in this order."""
    queued: int
    """That of its entry in the heap."""


@define
class Timers(Generic[K]):
    """A set of keys with one deadline each, in the seconds of whoever passes ``now``."""

    next: float = field(default=inf, init=False)
    """The earliest deadline; ``inf`` if nothing is armed."""
    _armed: dict[K, _Armed] = field(factory=dict, init=False)
    _heap: list[tuple[float, int, K]] = field(factory=list, init=False)
    """One entry for each key that is armed, not after its deadline; and those of keys that were cancelled, or moved to
    an earlier time, and have not come to the top yet."""
    _put_off: set[K] = field(factory=set, init=False)
    _serial: int = field(default=0, init=False)

    def arm(self, key: K, at: float) -> None:
        """Make ``key`` due at ``at``, whenever it was due before."""
        if self._put_off:
            self._put_off.discard(key)
        self._serial = serial = self._serial + 1
        armed = self._armed.get(key)
        if armed is not None and armed.at <= at:
            was, armed.at, armed.serial = armed.at, at, serial
            if was == self.next:
                self._settle()
            return
        self._armed[key] = _Armed(at, serial, serial)
        heappush(self._heap, (at, serial, key))
        self.next = min(self.next, at)
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._armed):
            self._rebuild()

    def cancel(self, key: K) -> None:
        """Forget ``key``; nothing happens if it is not armed."""
        armed = self._armed.pop(key, None)
        if armed is not None and armed.at == self.next:
            self._settle()
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

    def pop_due(self, now: float) -> list[tuple[K, float]]:
        """Take out every key that is due, earliest first, with its deadline."""
        due: list[tuple[K, float]] = []
        while self.next <= now:
            at, _, key = heappop(self._heap)
            del self._armed[key]
            due.append((key, at))
            self._settle()
        return due

    def _settle(self) -> None:
        """Let what is due first come to the top."""
        heap = self._heap
        while heap:
            at, serial, key = heap[0]
            armed = self._armed.get(key)
            if armed is None or armed.queued != serial:
                heappop(heap)
            elif armed.serial != serial:
                armed.queued = armed.serial
                heapreplace(heap, (armed.at, armed.serial, key))
            else:
                self.next = at
                return
        self.next = inf

    def _rebuild(self) -> None:
        self._heap = [(armed.at, armed.serial, key) for key, armed in self._armed.items()]
        heapify(self._heap)
        for armed in self._armed.values():
            armed.queued = armed.serial

    def __len__(self) -> int:
        return len(self._armed)
