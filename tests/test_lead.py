"""A user who waits for a message reads the socket meanwhile, on trio: nobody notices but the clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.lowlevel import checkpoint

from zdisco import ClosedError, Message, Peer, Proxy, Subscription
from zdisco._zmq.channels import ZmqDataChannel

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [pytest.param(("trio", {}), id="trio")]),
]

LIMIT = 20.0


@asynccontextmanager
async def pair(proxy: Proxy) -> AsyncIterator[tuple[Peer, Peer]]:
    """A publisher and a reader that have joined."""
    with anyio.fail_after(LIMIT):
        async with Peer(proxy.endpoint) as publisher, Peer(proxy.endpoint) as reader:
            await publisher.wait_for(1)
            await reader.wait_for(1)
            yield publisher, reader


@asynccontextmanager
async def subscribed(
    proxy: Proxy,
) -> AsyncIterator[tuple[Peer, Peer, Subscription[Message], anyio.abc.TaskGroup]]:
    """The same, with a subscription of the reader, and tasks to read it."""
    async with (
        pair(proxy) as (publisher, reader),
        reader.subscribe("t") as messages,
        anyio.create_task_group() as tasks,
    ):
        yield publisher, reader, messages, tasks


class Reading:
    """A task that reads a subscription, and what it has taken."""

    def __init__(self, publisher: Peer, messages: Subscription[Message], tasks: anyio.abc.TaskGroup) -> None:
        self._publisher = publisher
        self._messages = messages
        self._scope = anyio.CancelScope()
        self.published = 0
        self.taken: list[int] = []
        self.has_ended = anyio.Event()
        tasks.start_soon(self._read)

    async def _read(self) -> None:
        with self._scope, suppress(ClosedError):
            async for message in self._messages:
                self.taken.append(int(message.payload))
        self.has_ended.set()

    async def publish(self) -> None:
        await self._publisher.publish("t", b"%d" % self.published)
        self.published += 1

    async def until_it_leads(self) -> None:
        """Publish, one after the other, until the task reads the socket itself."""
        channel: Any = self._messages._lead
        while not channel._leads:
            await self.publish()
            while len(self.taken) < self.published:
                await checkpoint()

    async def cancel(self) -> None:
        self._scope.cancel()
        await self.has_ended.wait()


async def test_who_waits_reads_until_it_is_cancelled_and_loses_nothing(proxy: Proxy) -> None:
    async with subscribed(proxy) as (publisher, _, messages, tasks):
        taken: list[int] = []
        published = 0
        for number in range(50):
            reading = Reading(publisher, messages, tasks)
            reading.published, reading.taken = published, taken
            await reading.until_it_leads()
            if number % 2:
                await reading.publish()
            await reading.cancel()
            # Nobody waits for this one now.
            await reading.publish()
            published = reading.published
            await anyio.sleep(0.001 * (number % 3))
        while len(taken) < published:
            taken.append(int((await anext(messages)).payload))
        assert taken == list(range(published))


async def test_what_is_for_others_reaches_them_while_one_waits_for_nothing(proxy: Proxy) -> None:
    async with (
        pair(proxy) as (publisher, reader),
        reader.subscribe("t") as messages,
        reader.subscribe("other") as others,
        anyio.create_task_group() as tasks,
    ):
        reading = Reading(publisher, messages, tasks)
        await reading.until_it_leads()
        inbox = reader.inbox()
        for number in range(100):
            await publisher.publish("other", b"%d" % number)
            assert (await anext(others)).payload == b"%d" % number
            await publisher.send(reader.id, b"%d" % number)
            assert (await anext(inbox)).payload == b"%d" % number
        # Control frames, too: a newcomer joins.
        async with Peer(proxy.endpoint):
            await reader.wait_for(2)
        await reading.cancel()


async def test_two_readers_of_one_subscription_share_what_comes(proxy: Proxy) -> None:
    async with subscribed(proxy) as (publisher, _, messages, tasks):
        one = Reading(publisher, messages, tasks)
        other = Reading(publisher, messages, tasks)
        other.taken = one.taken
        await one.until_it_leads()
        for _ in range(200):
            await one.publish()
        while len(one.taken) < one.published:
            await checkpoint()
        assert sorted(one.taken) == list(range(one.published))
        await one.cancel()
        await other.cancel()


async def test_who_reads_a_subscription_that_somebody_else_closes_is_told(proxy: Proxy) -> None:
    async with subscribed(proxy) as (publisher, reader, messages, tasks):
        reading = Reading(publisher, messages, tasks)
        await reading.until_it_leads()
        await messages.aclose()
        await reading.has_ended.wait()
        # The peer reads on.
        async with reader.subscribe("t") as again:
            await publisher.publish("t", b"again")
            assert (await anext(again)).payload == b"again"


async def test_who_reads_when_its_peer_leaves_is_told(proxy: Proxy) -> None:
    async with anyio.create_task_group() as tasks:
        async with pair(proxy) as (publisher, reader):
            messages = reader.subscribe("t")
            await messages.__aenter__()
            reading = Reading(publisher, messages, tasks)
            await reading.until_it_leads()
        await reading.has_ended.wait()


async def test_what_goes_wrong_in_reading_ends_the_peer_not_its_user(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: ZmqDataChannel) -> bool:
        raise RuntimeError("a fault of ours")

    async def live() -> None:
        async with subscribed(proxy) as (publisher, _, messages, tasks):
            reading = Reading(publisher, messages, tasks)
            await reading.until_it_leads()
            monkeypatch.setattr(ZmqDataChannel, "_read_sub_once", fail)
            await reading.publish()
            await reading.has_ended.wait()

    with pytest.raises(BaseExceptionGroup) as caught:
        await live()
    assert caught.group_contains(RuntimeError, match="a fault of ours")


async def test_who_only_looks_whether_something_is_there_gets_all(proxy: Proxy) -> None:
    async with pair(proxy) as (publisher, reader), reader.subscribe("t") as messages:
        taken: list[int] = []
        for number in range(50):
            await publisher.publish("t", b"%d" % number)
        # Who starves is cancelled in `pair`.
        while len(taken) < 50:
            time.sleep(0.0005)  # noqa: ASYNC251  what was sent gets here, and nobody but us runs
            with anyio.move_on_after(0):
                taken.append(int((await anext(messages)).payload))
        assert taken == list(range(50))
