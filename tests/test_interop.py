"""Our gossip nodes and real ones, those of CZMQ, in every role: on sockets, in processes of their own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from czmq import RealGossip, RealNode, czmq_reason
from meshes import LIMIT
from processes import until
from zdisco import Delivery, Drop, Gossip, GossipConfig, Stream

TWO_LOOPS = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("asyncio", {}), id="asyncio"), pytest.param(("trio", {}), id="trio")]
)
"""The sockets are the same on uvloop, and these tests take long."""
pytestmark = [
    pytest.mark.anyio,
    TWO_LOOPS,
    pytest.mark.skipif(czmq_reason() is not None, reason=czmq_reason() or ""),
]

ANY = "tcp://127.0.0.1:*"
MANY = 1000
IDLE = 10.0
"""Seconds; a real server forgets after 1 s who is silent."""
QUIET = 2.0
"""Seconds for which the processor time of a real node at rest is taken."""
BUSY = 0.2
"""The part of a processor that is far more than rest, and far less than a storm, which takes a whole one."""


def numbered(prefix: str, count: int = MANY) -> dict[str, str]:
    return {f"{prefix}{number}": f"value {number}" for number in range(count)}


def raw(tuples: dict[str, str]) -> dict[bytes, bytes]:
    return {key.encode(): value.encode() for key, value in tuples.items()}


@asynccontextmanager
async def connected(role: str) -> AsyncIterator[tuple[Gossip, RealGossip]]:
    """One of ours and a real one; the role is that of ours."""
    async with RealGossip() as real:
        if role == "client":
            async with Gossip(connect=await real.bind(ANY)) as ours:
                yield ours, real
        else:
            async with Gossip(ANY) as ours:
                await real.connect(ours.endpoints[0])
                yield ours, real


async def both_hold(ours: Gossip, real: RealNode, tuples: dict[str, str]) -> None:
    """Wait until both hold just this."""
    with anyio.fail_after(LIMIT):
        await until(lambda: dict(ours) == tuples)
        await real.wait_for_count(len(tuples))
        # There may be as many already while the last value of one is still on its way.
        for key, value in raw(tuples).items() - (await real.tuples()).items():
            await real.wait_for(key, value)
    assert await real.tuples() == raw(tuples)
    assert await real.status() == len(tuples)


async def rests(*reals: RealNode) -> None:
    """See that real nodes have nothing to do any more."""
    before = [real.cpu_seconds for real in reals]
    await anyio.sleep(QUIET)
    for real, was in zip(reals, before, strict=True):
        assert real.cpu_seconds - was < BUSY * QUIET
        assert await real.is_alive()


async def test_a_thousand_tuples_go_both_ways_also_after_ten_idle_seconds() -> None:
    # Both roles at the same time: most of the time they rest.
    async with anyio.create_task_group() as tasks:
        for role in ("client", "server"):
            tasks.start_soon(exchange_a_thousand, role)


async def exchange_a_thousand(role: str) -> None:
    async with connected(role) as (ours, real):
        tuples = numbered("ours ") | numbered("real ")
        for key, value in numbered("ours ").items():
            await ours.publish(key, value)
        await real.publish_many(raw(numbered("real ")).items())
        await both_hold(ours, real, tuples)
        await anyio.sleep(IDLE)
        late = numbered("late ours ", 10) | numbered("late real ", 10)
        for key, value in numbered("late ours ", 10).items():
            await ours.publish(key, value)
        await real.publish_many(raw(numbered("late real ", 10)).items())
        await both_hold(ours, real, tuples | late)
        # Each once: none was told twice, none came back as a change.
        assert await real.delivered() == len(tuples | late)
        assert ours.dropped == {}
        await rests(real)


async def changed(stream: Stream[Delivery], key: str) -> Delivery:
    with anyio.fail_after(LIMIT):
        async for delivery in stream:
            if delivery.key == key:
                return delivery
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("role", ["client", "server"])
async def test_changes_go_both_ways_and_those_that_follow_fast_start_no_storm(role: str) -> None:
    async with connected(role) as (ours, real):
        for number in range(20):
            await ours.publish("mine", str(number))
        await real.wait_for(b"mine", b"19")
        for number in range(5):
            await real.publish(b"theirs", str(number).encode())
            with anyio.fail_after(LIMIT):
                await until(lambda wanted=str(number): ours.get("theirs") == wanted)  # type: ignore[misc]
        await rests(real)


@pytest.mark.parametrize("role", ["client", "server"])
async def test_two_values_of_one_key_settle_on_one(role: str) -> None:
    async with RealGossip() as real, AsyncExitStack() as stack:
        await real.publish(b"key", b"real")
        if role == "client":
            endpoint = await real.bind(ANY)
            ours = await stack.enter_async_context(Gossip())
            await ours.publish("key", "ours")
            await ours.connect(endpoint)
        else:
            ours = await stack.enter_async_context(Gossip(ANY))
            await ours.publish("key", "ours")
            await real.connect(ours.endpoints[0])

        async def agree() -> bool:
            held = (await real.tuples()).get(b"key")
            return held == ours["key"].encode()

        await ours.publish("sign", "x")
        await real.wait_for(b"sign", b"x")
        await rests(real)
        assert await agree()
        assert await real.delivered() <= 4


async def test_a_real_server_that_is_killed_and_started_again_gets_everything() -> None:
    async with RealGossip() as first:
        endpoint = await first.bind(ANY)
        async with Gossip(connect=endpoint) as ours:
            await first.publish(b"real", b"1")
            await ours.publish("ours", "1")
            await both_hold(ours, first, {"real": "1", "ours": "1"})
            await first.kill()
            await ours.publish("meanwhile", "1")
            async with RealGossip() as second:
                await second.bind(endpoint)
                await both_hold(ours, second, {"real": "1", "ours": "1", "meanwhile": "1"})
                await second.publish(b"again", b"1")
                await both_hold(ours, second, {"real": "1", "ours": "1", "meanwhile": "1", "again": "1"})


async def test_one_of_our_servers_that_starts_again_gets_what_a_real_client_holds() -> None:
    async with RealGossip() as real:
        async with Gossip(ANY) as first:
            endpoint = first.endpoints[0]
            await real.connect(endpoint)
            await first.publish("ours", "1")
            await real.publish(b"real", b"1")
            await both_hold(first, real, {"real": "1", "ours": "1"})
        await real.publish(b"meanwhile", b"1")
        async with Gossip(endpoint) as second:
            await both_hold(second, real, {"real": "1", "ours": "1", "meanwhile": "1"})
            await second.publish("again", "1")
            await both_hold(second, real, {"real": "1", "ours": "1", "meanwhile": "1", "again": "1"})


async def test_clients_that_start_again_get_everything_whatever_they_are() -> None:
    async with RealGossip() as server, Gossip(ANY) as ours:
        endpoint = await server.bind(ANY)
        await server.publish(b"real", b"1")
        await ours.publish("ours", "1")
        for number in range(2):
            async with Gossip(connect=endpoint) as client, RealGossip() as real_client:
                await real_client.connect(ours.endpoints[0])
                await client.publish("of our client", str(number))
                await real_client.publish(b"of a real one", str(number).encode())
                await both_hold(client, server, {"real": "1", "of our client": str(number)})
                await both_hold(ours, real_client, {"ours": "1", "of a real one": str(number)})
                await real_client.kill()


async def _pair_of_ours(stack: AsyncExitStack, reals: list[RealNode]) -> list[Gossip]:
    """Two of ours and a real one: the real one a server of the one and a client of the other."""
    (real,) = reals
    first = await stack.enter_async_context(Gossip(ANY))
    await real.connect(first.endpoints[0])
    second = await stack.enter_async_context(Gossip(connect=[first.endpoints[0], await real.bind(ANY)]))
    return [first, second]


async def _pair_of_real_ones(stack: AsyncExitStack, reals: list[RealNode]) -> list[Gossip]:
    """Two real ones and one of ours, a client of the one and the server of the other."""
    one, other = reals
    endpoint = await one.bind(ANY)
    await other.connect(endpoint)
    ours = await stack.enter_async_context(Gossip(ANY, endpoint))
    await other.connect(ours.endpoints[0])
    return [ours]


@pytest.mark.parametrize(
    ("build", "count"),
    [pytest.param(_pair_of_ours, 1, id="two-of-ours"), pytest.param(_pair_of_real_ones, 2, id="two-real")],
)
async def test_a_cycle_of_three_settles_with_one_delivery_for_each_change(
    build: Callable[[AsyncExitStack, list[RealNode]], Any], count: int
) -> None:
    async with AsyncExitStack() as stack:
        reals: list[RealNode] = [await stack.enter_async_context(RealGossip()) for _ in range(count)]
        ours: list[Gossip] = await build(stack, reals)
        everything: dict[str, str] = {}
        for number in range(3):
            # Each writes in turn, a new key and then one that another one wrote; one change at a time, as CZMQ
            # can bear no more.
            for writer, publish in enumerate([*(_publisher(node) for node in ours), *(_real(node) for node in reals)]):
                for key in (f"{number} {writer}", "shared"):
                    everything[key] = f"{number} {writer}"
                    await publish(key, everything[key])
                    for node in ours:
                        with anyio.fail_after(LIMIT):
                            await until(lambda node=node: dict(node) == everything)  # type: ignore[misc]
                    for real in reals:
                        await real.wait_for(key.encode(), everything[key].encode())
                    await anyio.sleep(0.3)  # until all echoes are through: a real one is to see the next change alone
        await rests(*reals)
        for real in reals:
            assert await real.tuples() == raw(everything)
            assert await real.delivered() == 2 * 3 * (len(ours) + len(reals))
        for node in ours:
            assert node.dropped.get(Drop.MALFORMED_GOSSIP, 0) == 0


def _publisher(node: Gossip) -> Callable[[str, str], Any]:
    return node.publish


def _real(node: RealNode) -> Callable[[str, str], Any]:
    async def publish(key: str, value: str) -> None:
        await node.publish(key.encode(), value.encode())

    return publish


async def test_what_expires_or_is_removed_here_is_not_brought_back_by_a_real_node() -> None:
    async with RealGossip() as real:
        endpoint = await real.bind(ANY)
        async with Gossip(ANY, endpoint) as ours, Gossip(connect=ours.endpoints[0]) as other:
            deliveries = other.deliveries()
            await ours.publish("removed", "1")
            await ours.publish("short", "1", ttl=0.5, refresh=False)
            await real.wait_for(b"short", b"1")
            await other.wait_for("removed", timeout=LIMIT)
            await ours.unpublish("removed")
            with anyio.fail_after(LIMIT):
                await until(lambda: not len(other))
            # Connect anew: the real node tells all that it holds, which is more than we do.
            await ours.disconnect(endpoint)
            await ours.connect(endpoint)
            await ours.publish("sign", "1")
            await real.wait_for(b"sign", b"1")
            await rests(real)
            assert dict(ours) == dict(other) == {"sign": "1"}
            assert await real.status() == 3
            del deliveries


async def test_a_real_node_that_floods_one_key_is_damped() -> None:
    async with connected("client") as (ours, real), Gossip(ANY) as watcher:
        await ours.connect(watcher.endpoints[0])
        deliveries, passed = watcher.deliveries(), 0
        began = time.monotonic()
        await real.publish_many((b"key", str(number).encode()) for number in range(3000))
        with anyio.fail_after(LIMIT):
            while (await anext(deliveries)).value != "2999":
                passed += 1
        numbers = GossipConfig()
        assert passed <= numbers.damping_burst + (time.monotonic() - began) / numbers.damping_interval
        assert ours.dropped[Drop.DAMPED] > 0
