"""One cell of the bench: one program at one measure, in processes of its own, and what it came to.

Rule 1: publisher and subscribers are processes that are new for each cell, so no cell inherits
anything from the one before. They are forked from a server that has imported everything.

Rule 2: a process that says nothing for `LIMIT` seconds, or ends, makes a `Failure`, which is shown.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any, TypeVar

from attrs import frozen

from .figures import Failure, Outcome, Sample, percentile
from .line import Counted, Line, Published, Ready, Run, Setting, Trips
from .stacks.bare import Bare
from .stacks.peers import Peers
from .stacks.pyre_group import Pyre
from .stacks.stack import Role, Stack
from .stacks.sync import Sync
from .stacks.zmq_asyncio import ZmqAsyncio

LIMIT = 60.0
"""Seconds that a process may take for anything."""
WARM_UP = 10
"""A run of this part of the messages comes first and is not counted."""

REFERENCE = Sync()
STACKS: tuple[Stack, ...] = (
    REFERENCE,
    ZmqAsyncio(),
    Pyre(),
    Bare("asyncio", "asyncio"),
    Bare("uvloop", "asyncio", use_uvloop=True),
    Bare("trio", "trio"),
    Peers("asyncio", "asyncio"),
    Peers("uvloop", "asyncio", use_uvloop=True),
    Peers("trio", "trio"),
    Peers("asyncio bulk", "asyncio", in_bulk=True),
    Peers("uvloop bulk", "asyncio", use_uvloop=True, in_bulk=True),
    Peers("trio bulk", "trio", in_bulk=True),
)
"""In the order of the table; the first is what the others are compared to."""

T = TypeVar("T")


class Kind(Enum):
    """What is measured."""

    RATE = auto()
    """Messages a second that arrive, at all subscribers together, from the first to the last."""
    TRIPS = auto()
    """Round trips."""
    BURST = auto()
    """How many messages of one burst arrive, with sockets as they come."""


@frozen
class Measure:
    """Something that is measured of each program."""

    key: str
    """What a filter calls it."""
    title: str
    kind: Kind
    size: int
    """Bytes of a payload."""
    count: int
    """Messages, or round trips, of one run."""
    subscribers: int = 1

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of the figures that it gives."""
        return (f"{self.title} p50", f"{self.title} p99") if self.kind is Kind.TRIPS else (self.title,)


class _Stuck(Exception):
    pass


class _Worker:
    """One measured process, as its conductor sees it."""

    def __init__(self, stack: Stack, role: Role, setting: Setting) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._role = role
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_work, args=(stack.name, role, setting, end), daemon=True)
        self._process.start()
        end.close()

    def told(self, kind: type[T]) -> T:
        """The next thing that it tells, which must be of this kind."""
        if not self._pipe.poll(LIMIT):
            raise _Stuck(f"{self._role.name} said nothing for {LIMIT:g} s, expected {kind.__name__}")
        try:
            fact = self._pipe.recv()
        except EOFError:
            raise _Stuck(f"{self._role.name} ended, expected {kind.__name__}") from None
        if isinstance(fact, Failure):
            raise _Stuck(f"{self._role.name}: {fact.reason}")
        assert isinstance(fact, kind), fact
        return fact

    def order(self, order: Any) -> None:
        with suppress(BrokenPipeError):  # `told` says that it ended
            self._pipe.send(order)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _work(name: str, role: Role, setting: Setting, end: Any) -> None:
    stack = next(stack for stack in STACKS if stack.name == name)
    threading.Thread(target=_end_with_conductor, daemon=True).start()
    try:
        stack.work(role, Line(end), setting)
    except Exception as error:  # noqa: BLE001  it belongs into the table, whatever it is
        with suppress(BrokenPipeError):
            end.send(Failure(f"{type(error).__name__}: {error}"))


def _end_with_conductor() -> None:
    """The conductor kills us, unless it was killed itself. This thread sleeps all the time, so it costs nothing."""
    conductor = multiprocessing.parent_process()
    assert conductor is not None
    conductor.join()
    os._exit(1)


@contextmanager
def _workers(stack: Stack, roles: Sequence[Role], proxy: str, *, is_patient: bool) -> Iterator[list[_Worker]]:
    """Processes that know each other's endpoints."""
    setting = Setting(proxy, uuid.uuid4().hex, _free_udp_port(), is_patient)
    workers: list[_Worker] = []
    try:
        for role in roles:
            workers.append(_Worker(stack, role, setting))
        endpoints = [worker.told(str) for worker in workers]
        for number, worker in enumerate(workers):
            worker.order(endpoints[:number] + endpoints[number + 1 :])
        yield workers
    finally:
        for worker in workers:
            worker.kill()


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def measure(stack: Stack, measure: Measure, proxy: str) -> dict[str, Outcome]:
    """Run one cell; returns what came of each of its rows."""
    run: Callable[[Stack, Measure, str], dict[str, Outcome]] = _trips if measure.kind is Kind.TRIPS else _flood
    try:
        return run(stack, measure, proxy)
    except _Stuck as error:
        return dict.fromkeys(measure.rows, Failure(str(error)))


def _flood(stack: Stack, measure: Measure, proxy: str) -> dict[str, Outcome]:
    is_burst = measure.kind is Kind.BURST
    whole = measure.count if is_burst else round(measure.count * stack.share)
    roles = [Role.PUBLISH] + [Role.SUBSCRIBE] * measure.subscribers
    with _workers(stack, roles, proxy, is_patient=not is_burst) as (publisher, *subscribers):
        for count in (whole // WARM_UP, whole):
            for subscriber in subscribers:
                subscriber.told(Ready)
            publisher.order(Run(measure.size, count))
            published = publisher.told(Published)
            counted = [subscriber.told(Counted) for subscriber in subscribers]
            publisher.order(None)
    received = sum(each.received for each in counted)
    seconds = max(each.last for each in counted) - min(each.first for each in counted)
    sample = Sample(
        value=received if is_burst else received / seconds,
        expected=whole * len(counted),
        received=received,
        told=sum(each.told for each in counted),
        publisher_cpu=published.cpu / whole,
        subscriber_cpu=statistics.mean(each.cpu / max(1, each.received) for each in counted),
    )
    return dict.fromkeys(measure.rows, sample)


def _trips(stack: Stack, measure: Measure, proxy: str) -> dict[str, Outcome]:
    with _workers(stack, (Role.ECHO, Role.ASK), proxy, is_patient=True) as (_, asker):
        for count in (measure.count // WARM_UP, measure.count):
            asker.told(Ready)
            asker.order(Run(measure.size, count))
            trips = asker.told(Trips).seconds
    outcomes: list[Outcome] = [
        Sample(percentile(trips, percent) * 1e6, expected=len(trips), received=len(trips)) for percent in (50, 99)
    ]
    return dict(zip(measure.rows, outcomes, strict=True))
