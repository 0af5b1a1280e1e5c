"""What users read from: bounded streams for ``async for``.

Rule 1: nothing stands between taking an item and handing it to the reader, so a cancelled read
loses nothing.

Rule 2: a stream never makes its source wait. Where the reader is too slow the oldest items go,
and the stream says how many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar
from weakref import WeakSet

import anyio.lowlevel

from ._loops import Arrival

T = TypeVar("T")

TURN = 512
"""Items that a reader takes before it lets others run."""


class Stream(Generic[T]):
    """A bounded stream of items; iterate it with ``async for``, close it with ``async with`` or `aclose`."""

    def __init__(self, capacity: int, note: Callable[[int], T] | None = None) -> None:
        self._queue: deque[T] = deque()
        self._capacity = capacity
        self._note = note
        self._taken = 0
        self._noted = 0
        self._is_closed = False
        self._arrival = Arrival()
        self._wake = self._arrival.tell
        self.dropped = 0
        """How many items were dropped because the reader was too slow."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Wait for the next item.

        Cancellation: safe; no item is lost.
        """
        await self._ready()
        return self._take_note() if self._has_note() else self._queue.popleft()

    async def _ready(self) -> None:
        """Wait until there is something to take, and let others run now and then. Cancellation: safe."""
        self._taken += 1
        if self._taken >= TURN:
            self._taken = 0
            await anyio.lowlevel.checkpoint()
        while not self._queue and not self._has_note():
            if self._is_closed:
                raise self._no_more()
            self._taken = 0
            await self._wait()

    async def _wait(self) -> None:
        """Wait until something may have come. Cancellation: safe."""
        await self._arrival.wait()

    def _has_note(self) -> bool:
        """Whether the reader is to be told of what was dropped before it gets the next item."""
        return self._note is not None and self._noted < self.dropped

    def _take_note(self) -> T:
        assert self._note is not None
        count, self._noted = self.dropped - self._noted, self.dropped
        return self._note(count)

    def _no_more(self) -> Exception:
        """What a reader gets from a closed stream in which nothing waits."""
        return StopAsyncIteration()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the stream; what waits in it is dropped. Idempotent.

        Cancellation: safe; the stream is closed all the same.
        """
        self._end()
        self._queue.clear()
        self._noted = self.dropped

    def _push(self, items: Iterable[T]) -> int:
        """Add items; returns how many of the oldest had to go."""
        if self._is_closed:
            return 0
        self._queue.extend(items)
        return self._settle()

    def _settle(self) -> int:
        """Hold the bound and wake the reader; returns how many of the oldest had to go."""
        excess = len(self._queue) - self._capacity
        for _ in range(excess):
            self._queue.popleft()
        if excess > 0:
            self.dropped += excess
        self._wake()
        return max(excess, 0)

    def _end(self) -> None:
        """Let the reader take what waits, then end."""
        self._is_closed = True
        self._wake()


class Mailbox(Generic[T]):
    """What comes for whoever reads it: each reader gets all from its call on, and what came while nobody read."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._readers: WeakSet[Stream[T]] = WeakSet()
        self._unread: Stream[T] | None = None
        """Holds what comes while nobody reads; the next reader gets it."""
        self._is_closed = False

    def reader(self) -> Stream[T]:
        """One more reader; it is forgotten when it is closed, or when nobody holds it any more."""
        stream: Stream[T] = Stream(self._capacity) if self._unread is None else self._unread
        self._unread = None
        self._readers.add(stream)
        if self._is_closed:
            stream._end()
        return stream

    def push(self, items: Sequence[T]) -> int:
        """Give items to all readers; returns how many of the oldest had to go."""
        streams = [stream for stream in self._readers if not stream._is_closed]
        if not streams:
            if self._unread is None:
                self._unread = Stream(self._capacity)
            streams = [self._unread]
        return sum(stream._push(items) for stream in streams)

    def end(self) -> None:
        """Let the readers take what waits, then end."""
        self._is_closed = True
        for stream in self._readers:
            stream._end()


class _Share(Stream[T]):
    """One of the readers of a `WorkQueue`."""

    def __init__(self, capacity: int, queue: deque[T]) -> None:
        super().__init__(capacity)
        self._queue = queue

    def _end(self) -> None:
        # What waits is not its own, and stays for the others.
        self._queue = deque()
        super()._end()


class WorkQueue(Generic[T]):
    """What is to be done once: each item goes to one of the readers, and waits for one while nobody reads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queue: deque[T] = deque()
        self._readers: WeakSet[_Share[T]] = WeakSet()
        self._is_closed = False

    def reader(self) -> Stream[T]:
        """One more reader."""
        share = _Share(self._capacity, self._queue)
        self._readers.add(share)
        if self._is_closed:
            share._end()
        return share

    def push(self, item: T) -> list[T]:
        """Add an item; returns the oldest that had to go."""
        self._queue.append(item)
        excess = [self._queue.popleft() for _ in range(len(self._queue) - self._capacity)]
        for share in self._readers:
            if not share._is_closed:
                share.dropped += len(excess)
                share._settle()
        return excess

    def end(self) -> None:
        """End all readers; what waits is dropped."""
        self._is_closed = True
        self._queue.clear()
        for share in self._readers:
            share._end()
