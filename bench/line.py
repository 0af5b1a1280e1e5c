"""What a measured process and its conductor say to each other, and the loops that all programs share.

Rule 1: this goes through a pipe, never through the sockets that are measured, so it holds when
messages are lost. ``HELLO`` and ``END`` are published again and again until the pipe says that
every subscriber has them.

Rule 2: the inner loops, which are what is measured, belong to each program: here they are called
once for a run.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

import anyio
from attrs import frozen

HELLO = b"hello"
"""Published until every subscriber has it: then all subscriptions are in force."""
END = b"end"
"""Published after the last message of a run, until every subscriber has it. As messages of one
publisher keep their order, whatever is missing by then is lost."""
PAUSE = 0.005
"""Seconds between two of them."""


@frozen
class Setting:
    """Where the processes of one cell find each other, and what is asked of their sockets."""

    proxy: str
    """The well-known endpoint of a zdisco proxy."""
    cluster: str
    """A name that no other cell has."""
    beacon_port: int
    """A UDP port that no other cell has."""
    is_patient: bool
    """Whether a publisher waits where a queue is full, if it can; else the sockets are as they come."""


@frozen
class Run:
    """An order: publish, or send there and back, so many messages of that size."""

    size: int
    count: int


@frozen
class Ready:
    """The first `HELLO` has come."""


@frozen
class Published:
    """A publisher has sent all."""

    cpu: float
    """Seconds of processor time that it took."""


@frozen
class Counted:
    """A subscriber has seen `END`."""

    received: int
    first: float
    """When the first message came, in seconds of ``time.perf_counter``, which all processes share."""
    last: float
    told: int
    cpu: float


@frozen
class Trips:
    """Seconds of each round trip."""

    seconds: list[float]


class Line:
    """The end of the pipe that a measured process has."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, fact: object) -> None:
        self._connection.send(fact)

    def meet(self, endpoint: str = "") -> list[str]:
        """Tell our endpoint, if we bound one; returns what the others told."""
        self.tell(endpoint)
        others: list[str] = self.order()
        return others

    def has_order(self, within: float = 0.0) -> bool:
        return self._connection.poll(within)

    def order(self) -> Any:
        """The next order; blocks."""
        return self._connection.recv()


def publish(line: Line, send: Callable[[bytes], object], flood: Callable[[bytes, int], object]) -> None:
    """Publish what is ordered, run by run. ``flood`` publishes one payload so many times."""
    while True:
        while not line.has_order(PAUSE):
            send(HELLO)
        run = line.order()
        payload, began = bytes(run.size), time.process_time()
        flood(payload, run.count)
        line.tell(Published(time.process_time() - began))
        send(END)
        while not line.has_order(PAUSE):
            send(END)
        line.order()


async def publish_async(
    line: Line, send: Callable[[bytes], Awaitable[object]], flood: Callable[[bytes, int], Awaitable[object]]
) -> None:
    """The same for coroutines."""
    while True:
        while not line.has_order():
            await send(HELLO)
            await anyio.sleep(PAUSE)
        run = line.order()
        payload, began = bytes(run.size), time.process_time()
        await flood(payload, run.count)
        line.tell(Published(time.process_time() - began))
        await send(END)
        while not line.has_order():
            await anyio.sleep(PAUSE)
            await send(END)
        line.order()


def subscribe(line: Line, receive: Callable[[], bytes], count: Callable[[], int]) -> None:
    """Count what is received, run by run. ``count`` receives up to `END` and returns how many came before it."""
    while True:
        while receive() != HELLO:
            pass
        line.tell(Ready())
        while (payload := receive()) == HELLO:
            pass
        first, began = time.perf_counter(), time.process_time()
        received = 0 if payload == END else 1 + count()
        line.tell(Counted(received, first, time.perf_counter(), 0, time.process_time() - began))


async def subscribe_async(
    line: Line,
    receive: Callable[[], Awaitable[bytes]],
    count: Callable[[], Awaitable[int]],
    told: Callable[[], int] = lambda: 0,
) -> None:
    """The same for coroutines; ``told`` returns how many messages were told lost so far."""
    while True:
        while await receive() != HELLO:
            pass
        line.tell(Ready())
        before = told()
        while (payload := await receive()) == HELLO:
            pass
        first, began = time.perf_counter(), time.process_time()
        received = 0 if payload == END else 1 + await count()
        line.tell(Counted(received, first, time.perf_counter(), told() - before, time.process_time() - began))


def ask(
    line: Line, send: Callable[[bytes], object], receive: Callable[[], bytes], hears: Callable[[float], bool]
) -> None:
    """Time round trips, run by run. ``hears`` waits so many seconds for something to receive."""
    send(HELLO)
    while not hears(PAUSE):
        send(HELLO)
    while True:
        line.tell(Ready())
        run = line.order()
        payload, seconds = bytes(run.size), []
        for _ in range(run.count):
            began = time.perf_counter()
            send(payload)
            while receive() != payload:  # a `HELLO` that was late
                pass
            seconds.append(time.perf_counter() - began)
        line.tell(Trips(seconds))


async def ask_async(
    line: Line, send: Callable[[bytes], Awaitable[object]], receive: Callable[[], Awaitable[bytes]]
) -> None:
    """The same for coroutines."""
    is_heard = False
    while not is_heard:
        await send(HELLO)
        with anyio.move_on_after(PAUSE):
            await receive()
            is_heard = True
    while True:
        line.tell(Ready())
        run = line.order()
        payload, seconds = bytes(run.size), []
        for _ in range(run.count):
            began = time.perf_counter()
            await send(payload)
            while await receive() != payload:
                pass
            seconds.append(time.perf_counter() - began)
        line.tell(Trips(seconds))
