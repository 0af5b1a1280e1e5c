"""What subscribers are promised, on real sockets and with real processes."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any

import anyio
import pytest

from processes import Child, children
from zdisco import Message, MessagesLost, Peer, PeerConfig, Proxy, Subscription
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio

ASYNCIO = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
LIMIT = 50.0


async def totals(child: Child, topics: int) -> dict[str, dict[str, Any]]:
    """What a child has received, lost and dropped of each topic that it counts."""
    seen = len(child.told("totals"))
    child.order("totals")
    return {fact["topic"]: fact for fact in (await child.wait_for("totals", seen + topics))[seen:]}


@ASYNCIO
@pytest.mark.timeout(120)
async def test_a_stopped_reader_is_told_of_every_loss_and_costs_the_others_nothing(proxy: Proxy) -> None:
    published = Counter[str]()
    async with (
        Peer(proxy.endpoint, name="publisher", config=PeerConfig(send_hwm=500)) as publisher,
        children(proxy.endpoint, ("--name", "stopped"), ("--name", "other")) as (stopped, other),
    ):
        for child in (stopped, other):
            for topic in ("t.", "t.a"):
                child.order(f"count {topic}")
            await child.wait_for("counting", 2)
        await publisher.wait_for(2)

        async def publish(seconds: float) -> None:
            end = anyio.current_time() + seconds
            while anyio.current_time() < end:
                for topic in ("t.a", "t.b"):
                    await publisher.publish_many(topic, [bytes(200)] * 40)
                    published[topic] += 40
                await anyio.sleep(0.01)

        await publish(0.3)
        stopped.signal(signal.SIGSTOP)
        await publish(10.0)
        stopped.signal(signal.SIGCONT)
        await publish(0.3)
        wanted = {"t.": published.total(), "t.a": published["t.a"]}

        async def told(child: Child) -> dict[str, int]:
            facts = await totals(child, 2)
            return {topic: fact["received"] + fact["lost"] + fact["dropped"] for topic, fact in facts.items()}

        with anyio.fail_after(LIMIT):
            while await told(stopped) != wanted or await told(other) != wanted:  # noqa: ASYNC110  a process
                await anyio.sleep(0.1)
        assert (await totals(stopped, 2))["t."]["lost"] > 0, "the stop was long enough"
        assert all(fact["lost"] == fact["dropped"] == 0 for fact in (await totals(other, 2)).values())


async def test_what_another_publishes_the_moment_that_the_block_is_entered_arrives(proxy: Proxy) -> None:
    config = PeerConfig(suspect_after=30.0)
    async with Peer(proxy.endpoint, config=config) as publisher, Peer(proxy.endpoint, config=config) as subscriber:
        await publisher.wait_for(1)
        await subscriber.wait_for(1)
        for number in range(300):
            async with subscriber.subscribe(f"t{number}") as messages:
                publisher.publish_nowait(f"t{number}", b"%d" % number)
                with anyio.fail_after(LIMIT):
                    assert (await anext(messages)).payload == b"%d" % number


async def test_5000_topics_at_once_are_all_in_force_on_sockets(proxy: Proxy) -> None:
    config = PeerConfig(suspect_after=30.0)
    async with Peer(proxy.endpoint, config=config) as publisher, Peer(proxy.endpoint, config=config) as subscriber:
        await publisher.wait_for(1)
        await subscriber.wait_for(1)
        streams = [subscriber.subscribe(f"t{number}", exact=True) for number in range(5000)]
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(stream.__aenter__)
        for number in range(5000):
            await publisher.publish(f"t{number}", b"%d" % number)
        with anyio.fail_after(LIMIT):
            for number, stream in enumerate(streams):
                assert (await anext(stream)).payload == b"%d" % number


# Cancellation: 20,000 messages, their reader cancelled at random points.


async def by_scope(read: Callable[[], Awaitable[None]], delay: float) -> bool:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await anyio.sleep(delay)
                scope.cancel()

            tasks.start_soon(cancel)
            await read()
            tasks.cancel_scope.cancel()
    return scope.cancelled_caught


async def by_timeout(read: Callable[[], Awaitable[None]], delay: float) -> bool:
    with anyio.move_on_after(delay) as scope:
        await read()
    return scope.cancelled_caught


async def by_asyncio_timeout(read: Callable[[], Awaitable[None]], delay: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(delay):
            await read()
        return False
    return True


async def by_task_cancel(read: Callable[[], Awaitable[None]], delay: float) -> bool:
    task = asyncio.ensure_future(read())
    await asyncio.sleep(delay)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return task.cancelled()


WAYS = {"asyncio": (by_scope, by_timeout, by_asyncio_timeout, by_task_cancel), "trio": (by_scope, by_timeout)}


@pytest.mark.parametrize("bulk", [False, True], ids=["one by one", "in batches"])
async def test_a_reader_that_is_cancelled_again_and_again_loses_nothing(
    proxy: Proxy, anyio_backend_name: str, bulk: bool
) -> None:
    count, random, got, cancelled = 20_000, Random(7), list[bytes](), 0
    async with Peer(proxy.endpoint) as publisher, Peer(proxy.endpoint) as subscriber:
        await publisher.wait_for(1)
        async with subscriber.subscribe("t") as messages, anyio.create_task_group() as tasks:

            async def publish() -> None:
                for number in range(count):
                    await publisher.publish("t", b"%d" % number)
                    if not number % 50:
                        await anyio.sleep(0.001)

            async def read() -> None:
                await (read_batches if bulk else read_one_by_one)(messages, got, count)

            tasks.start_soon(publish)
            with anyio.fail_after(LIMIT):
                while len(got) < count:
                    way = random.choice(WAYS[anyio_backend_name])
                    cancelled += await way(read, random.random() * 0.004)
        assert got == [b"%d" % number for number in range(count)]
        assert cancelled > 50


async def read_one_by_one(messages: Subscription[Message], got: list[bytes], count: int) -> None:
    while len(got) < count:
        got.append((await anext(messages)).payload)


async def read_batches(messages: Subscription[Message], got: list[bytes], count: int) -> None:
    async for batch in messages.batches():
        got += [message.payload for message in batch]
        if len(got) >= count:
            break


async def test_a_burst_to_an_idle_peer_is_received_or_told(proxy: Proxy) -> None:
    async with Peer(proxy.endpoint) as publisher, Peer(proxy.endpoint) as subscriber:
        await publisher.wait_for(1)
        async with subscriber.subscribe("t", losses=True) as messages:
            for number in range(20_000):
                publisher.publish_nowait("t", b"%064d" % number)
            seen = 0
            with anyio.fail_after(LIMIT):
                async for item in messages:
                    seen += item.count if isinstance(item, MessagesLost) else 1
                    if seen == 20_000:
                        break


@pytest.mark.parametrize("is_real", [True, False], ids=["sockets", "memory"])
def test_a_callback_of_asyncio_can_publish(is_real: bool) -> None:
    async def main() -> None:
        net = MemoryNetwork()
        real: dict[str, Any] = {} if is_real else {"network": net}
        async with (
            Proxy("tcp://127.0.0.1:*") if is_real else net.proxy() as proxy,
            Peer(proxy.endpoint, **real) as publisher,
            Peer(proxy.endpoint, **real) as subscriber,
        ):
            await publisher.wait_for(1)
            async with subscriber.subscribe("t") as messages:
                asyncio.get_running_loop().call_soon(publisher.publish_nowait, "t", b"1")
                with anyio.fail_after(LIMIT):
                    assert (await anext(messages)).payload == b"1"

    # Not with anyio.run: it leaves a trace by which anyio knows its loop in callbacks, too.
    asyncio.run(main())
