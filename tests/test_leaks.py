"""However a block is left, it leaves no task, thread, socket or descriptor behind.

That each test leaves none is checked around it, see ``conftest.py``; the tests here look after
each life of a peer, too.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from random import Random

import anyio
import anyio.abc
import pytest
import pytest_asyncio
import zmq
from anyio.lowlevel import checkpoint

from zdisco import BindError, DiscoveryTimeout, InvalidEndpoint, Peer, PeerConfig, PeerJoined, Proxy, ProxyLost

TIMEOUT = 20.0
"""Seconds after which something that does not happen is missed."""

LOOPBACK = "tcp://127.0.0.1:*"

QUICK = PeerConfig(discovery_timeout=0.05, farewell_timeout=0.05, linger=0.01)
LEAVES_QUICKLY = PeerConfig(farewell_timeout=0.05, linger=0.01)


class Misfortune(Exception):
    """What goes wrong in the block of a user."""


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def zdisco_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("zdisco")]


async def assert_all_is_gone(tasks: set[int]) -> None:
    """No task of ours runs, no context waits for its end, now and not some time later."""
    assert not zdisco_threads()
    for _ in range(20):
        left = [task for task in anyio.get_running_tasks() if task.id not in tasks]
        if not left:
            return
        await checkpoint()
    raise AssertionError(f"left behind: {left}")


async def running_tasks() -> set[int]:
    """The tasks that are there, once those that were just started have started theirs."""
    for _ in range(20):
        await checkpoint()
    return {task.id for task in anyio.get_running_tasks()}


async def a_life(proxy: str, other: Peer) -> None:
    """All that a peer does: enter, find, subscribe, publish, read, watch, leave."""
    peer = Peer(proxy)
    monitor, events = peer.monitor(), peer.events()
    async with peer:
        await peer.wait_for(1)
        async with peer.subscribe("topic") as messages, other.subscribe("topic") as theirs:
            await peer.publish("topic", b"there")
            await anext(aiter(theirs))
            await other.publish("topic", b"and back")
            await anext(aiter(messages))
        async for event in events:
            if isinstance(event, PeerJoined):
                break
        await anext(aiter(monitor))
        await peer.leave()


@pytest.mark.anyio
async def test_an_exception_in_the_block() -> None:
    async with Proxy(LOOPBACK) as proxy:
        tasks = await running_tasks()

        async def life() -> None:
            async with Peer(proxy.endpoint), Peer(proxy.endpoint) as peer, peer.subscribe("topic"):
                await peer.wait_for(1)
                raise Misfortune

        with pytest.raises(Misfortune):
            await life()
        await assert_all_is_gone(tasks)


@pytest.mark.anyio
async def test_an_exception_in_the_block_of_a_proxy() -> None:
    with pytest.raises(Misfortune):
        async with Proxy(LOOPBACK):
            raise Misfortune


@pytest.mark.anyio
async def test_no_proxy_in_time() -> None:
    tasks = await running_tasks()
    # Bound but not listening: it refuses, and nobody else can get the port meanwhile.
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        for _ in range(3):
            with pytest.raises(DiscoveryTimeout):
                async with Peer(f"tcp://127.0.0.1:{refusing.getsockname()[1]}", config=QUICK):
                    raise AssertionError("entered without a proxy")
            await assert_all_is_gone(tasks)


@pytest.mark.anyio
async def test_an_address_in_use() -> None:
    async with Proxy(LOOPBACK) as proxy:
        port = int(proxy.endpoint.rpartition(":")[2])
        tasks = await running_tasks()
        for _ in range(3):
            with pytest.raises(BindError):
                async with Peer(proxy.endpoint, port=port):
                    raise AssertionError("entered without a port")
            for arguments in ({"endpoint": proxy.endpoint}, {"endpoint": LOOPBACK, "relay": proxy.endpoint}):
                with pytest.raises(BindError):
                    async with Proxy(**arguments):
                        raise AssertionError("entered without a port")
            await assert_all_is_gone(tasks)


@pytest.mark.anyio
async def test_a_host_that_is_not_ours() -> None:
    tasks = await running_tasks()
    with pytest.raises(BindError):
        async with Peer("tcp://127.0.0.1:1", host="192.0.2.1"):
            raise AssertionError("entered without an address")
    await assert_all_is_gone(tasks)


@pytest.mark.anyio
async def test_a_proxy_endpoint_that_cannot_be_used_beside_one_that_can() -> None:
    async with Proxy(LOOPBACK) as proxy:
        tasks = await running_tasks()
        with pytest.raises(InvalidEndpoint):
            await Peer([proxy.endpoint, "ipc:///" + "x" * 200]).__aenter__()
        gc.collect()  # a socket that was left to it warns
        await assert_all_is_gone(tasks)


@pytest.mark.anyio
async def test_the_proxy_is_dead_when_the_peer_leaves() -> None:
    tasks = await running_tasks()
    async with anyio.create_task_group() as group:
        dies = anyio.Event()

        async def run_proxy(*, task_status: anyio.abc.TaskStatus[str]) -> None:
            async with Proxy(LOOPBACK) as proxy:
                task_status.started(proxy.endpoint)
                await dies.wait()

        endpoint = await group.start(run_proxy)
        async with Peer(endpoint, config=LEAVES_QUICKLY) as one, Peer(endpoint, config=LEAVES_QUICKLY) as two:
            for peer in (one, two):
                await peer.wait_for(1, timeout=TIMEOUT)
            events = one.events()
            dies.set()
            with anyio.fail_after(TIMEOUT):
                async for event in events:
                    if isinstance(event, ProxyLost):
                        break
    await assert_all_is_gone(tasks)


async def cancel_after(turns: int, life: Callable[[], Awaitable[None]]) -> bool:
    """Cancel a life after so many turns of the event loop; whether it was still going on."""
    async with anyio.create_task_group() as tasks:

        async def live() -> None:
            await life()
            tasks.cancel_scope.cancel("over")

        tasks.start_soon(live)
        ended = False
        for _ in range(turns):
            await checkpoint()
        ended = tasks.cancel_scope.cancel_called
        tasks.cancel_scope.cancel()
    return not ended


def points(seed: int, count: int, most: int) -> list[int]:
    """The first turns of the loop one by one, and random ones among the later, more of them early."""
    random = Random(seed)
    return [*range(count // 3), *(int(most ** random.random()) for _ in range(count - count // 3))]


@pytest.mark.anyio
async def test_cancellation_of_a_peer_at_any_point(repeats: Callable[[int, int], int]) -> None:
    async with Proxy(LOOPBACK) as proxy, Peer(proxy.endpoint) as other:
        tasks = await running_tasks()
        for seed in range(repeats(3, 1)):
            cancelled = 0
            for turns in points(seed, 60, 2000):
                cancelled += await cancel_after(turns, lambda: a_life(proxy.endpoint, other))
                await assert_all_is_gone(tasks)
            assert cancelled > 20
        with anyio.fail_after(TIMEOUT):
            await a_life(proxy.endpoint, other)


@pytest.mark.anyio
async def test_cancellation_of_a_proxy_at_any_point() -> None:
    async def life() -> None:
        async with Proxy(LOOPBACK) as proxy, Peer(proxy.endpoint):
            pass

    tasks = await running_tasks()
    for turns in points(0, 60, 1000):
        await cancel_after(turns, life)
        await assert_all_is_gone(tasks)


@pytest.mark.anyio
async def test_cancellation_while_leaving() -> None:
    async with Proxy(LOOPBACK) as proxy:
        tasks = await running_tasks()
        for turns in points(1, 45, 300):

            async def cancel(scope: anyio.CancelScope, turns: int = turns) -> None:
                for _ in range(turns):
                    await checkpoint()
                scope.cancel()

            async with anyio.create_task_group() as group, Peer(proxy.endpoint):
                group.start_soon(cancel, group.cancel_scope)
            await assert_all_is_gone(tasks)


@pytest.mark.anyio
async def test_two_hundred_joins_and_leaves_keep_no_descriptor(repeats: Callable[[int, int], int]) -> None:
    async with Proxy(LOOPBACK) as proxy, Peer(proxy.endpoint) as stays:
        counts: list[int] = []
        tasks = await running_tasks()
        for cycle in range(repeats(200, 100)):
            async with Peer(proxy.endpoint) as peer:
                await peer.wait_for(1, timeout=TIMEOUT)
                await stays.wait_for(1, timeout=TIMEOUT)
            await stays.wait_for(lambda peers: not peers, timeout=TIMEOUT)
            if cycle % 50 == 49:
                gc.collect()
                await assert_all_is_gone(tasks)
                # The proxy and the one that stays close their ends when they hear of it.
                with anyio.fail_after(TIMEOUT):
                    while counts and descriptors() > counts[0]:  # noqa: ASYNC110 - nothing tells of it
                        await anyio.sleep(0.005)
                counts.append(descriptors())
        assert max(counts) == counts[0]


IMPORT = """
import logging, os, sys, threading
before = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
import zdisco
after = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
assert threading.active_count() == 1, threading.enumerate()
assert after == before, (before, after)
for name in (None, "zdisco"):
    logger = logging.getLogger(name)
    assert logger.handlers == [], logger.handlers
    assert logger.level == (logging.WARNING if name is None else logging.NOTSET)
    assert logger.propagate and not logger.disabled
import zmq
assert zmq.Context._instance is None
assert "trio" not in sys.modules and "uvloop" not in sys.modules and "click" not in sys.modules
"""


def test_importing_starts_nothing_and_configures_no_logging() -> None:
    result = subprocess.run([sys.executable, "-W", "error", "-c", IMPORT], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# What asyncio alone allows: to cancel a task as such, and to leave in another task than entered.


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(2))
async def test_a_task_of_asyncio_that_is_cancelled_at_any_point(seed: int) -> None:
    async with Proxy(LOOPBACK) as proxy, Peer(proxy.endpoint) as other:
        tasks = await running_tasks()
        for turns in points(seed, 60, 2000):
            life = asyncio.create_task(a_life(proxy.endpoint, other))
            for _ in range(turns):
                await asyncio.sleep(0)
            life.cancel()
            with suppress(asyncio.CancelledError):
                await life
            await assert_all_is_gone(tasks)


@pytest.mark.asyncio
async def test_a_task_of_asyncio_that_is_cancelled_again_and_again() -> None:
    async with Proxy(LOOPBACK) as proxy, Peer(proxy.endpoint) as other:
        tasks = await running_tasks()
        for turns in points(7, 40, 1000):
            life = asyncio.create_task(a_life(proxy.endpoint, other))
            for _ in range(turns):
                await asyncio.sleep(0)
            while not life.done():
                life.cancel()
                await asyncio.sleep(0)
            await assert_all_is_gone(tasks)


@pytest.mark.asyncio
async def test_entering_in_one_task_and_leaving_in_another() -> None:
    proxy = await asyncio.create_task(Proxy(LOOPBACK).__aenter__())
    peers = [Peer(proxy.endpoint), Peer(proxy.endpoint)]
    for peer in peers:
        await asyncio.create_task(peer.__aenter__())
    for peer in peers:
        await asyncio.create_task(peer.wait_for(1, timeout=TIMEOUT))
    for peer in peers:
        await asyncio.create_task(peer.__aexit__(None, None, None))
    await asyncio.create_task(proxy.__aexit__(None, None, None))


@pytest_asyncio.fixture
async def shared_proxy() -> AsyncIterator[Proxy]:
    async with Proxy(LOOPBACK) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def alice(shared_proxy: Proxy) -> AsyncIterator[Peer]:
    async with Peer(shared_proxy.endpoint, name="alice") as peer:
        yield peer


@pytest_asyncio.fixture
async def bob(shared_proxy: Proxy) -> AsyncIterator[Peer]:
    async with Peer(shared_proxy.endpoint, name="bob") as peer:
        yield peer


@pytest.mark.asyncio
async def test_peers_from_fixtures_of_pytest_asyncio_talk(alice: Peer, bob: Peer) -> None:
    async with bob.subscribe("greeting") as messages:
        await alice.wait_for(1, timeout=TIMEOUT)
        await alice.publish("greeting", b"hello")
        async with asyncio.timeout(TIMEOUT):
            message = await anext(aiter(messages))
    assert (message.sender, message.payload) == (alice.me, b"hello")


@pytest.mark.asyncio
async def test_peers_from_fixtures_of_pytest_asyncio_are_new_for_each_test(alice: Peer, bob: Peer) -> None:
    await bob.wait_for(lambda peers: peers.keys() == {alice.id}, timeout=TIMEOUT)


@pytest.mark.asyncio
async def test_a_timeout_of_asyncio_around_a_life() -> None:
    # A port that is bound and silent: neither refused nor welcomed.
    with zmq.Context() as context, context.socket(zmq.PULL) as silent:
        silent.bind(LOOPBACK)
        tasks = await running_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), Peer(silent.getsockopt_string(zmq.LAST_ENDPOINT)):
                raise AssertionError("entered without a proxy")
        await assert_all_is_gone(tasks)
