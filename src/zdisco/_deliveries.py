"""What a reader of a gossip node is told: of each key the latest change.

Rule: what one reader gets of one key is a history without gaps: `NEW` where it knew no value, the
others where it knew one. Changes that wait are put together so that this holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import cast

from attrs import evolve

from ._core.gossip.model import Change, Delivery
from ._streams import Stream


def merged(waiting: Delivery, later: Delivery) -> Delivery | None:
    """One change of a key in the place of two; `None` where the two are none together."""
    if waiting.change is Change.NEW:
        return None if later.value is None else evolve(later, change=Change.NEW)
    return later if later.value is None else evolve(later, change=Change.CHANGED)


class _Latest:
    """Changes that wait, one for each key, in the order in which the keys changed first."""

    def __init__(self) -> None:
        self._changes: dict[str, Delivery] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        for later in deliveries:
            waiting = self._changes.get(later.key)
            change = later if waiting is None else merged(waiting, later)
            if change is None:
                del self._changes[later.key]
            else:
                self._changes[later.key] = change

    def popleft(self) -> Delivery:
        return self._changes.pop(next(iter(self._changes)))

    def clear(self) -> None:
        self._changes.clear()


class DeliveryStream(Stream[Delivery]):
    """The changes of a gossip node.

    Args:
        capacity: Keys whose change waits.
        present: What is there already.
        lost: Called with the number of changes that the reader loses, since so many keys wait for it.
    """

    def __init__(self, capacity: int, present: Iterable[Delivery], lost: Callable[[int], None]) -> None:
        super().__init__(capacity)
        self._queue = cast("deque[Delivery]", _Latest())
        self._lost = lost
        self.offer(present)

    def offer(self, deliveries: Iterable[Delivery]) -> None:
        """Add changes."""
        if lost := self._push(deliveries):
            self._lost(lost)
