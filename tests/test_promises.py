"""What zdisco promises, on real sockets and with real processes."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import anyio
import anyio.abc
import pytest

from processes import Child, children
from zdisco import (
    Cause,
    Event,
    MonitorEvent,
    Peer,
    PeerConfig,
    PeerGone,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    Proxy,
    SocketEvent,
    Stream,
)

pytestmark = pytest.mark.anyio


class Pair:
    """Two peers of a cluster of their own, started at random offsets; each must get the other's first message."""

    def __init__(self, proxy: str, cluster: str, offsets: tuple[float, float]) -> None:
        self.proxy, self.cluster, self.offsets = proxy, cluster, offsets
        self.arrived: list[bytes] = []
        self.both = anyio.Event()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for number, offset in enumerate(self.offsets):
                tasks.start_soon(self._side, b"%d" % number, offset)

    async def _side(self, own: bytes, offset: float) -> None:
        await anyio.sleep(offset)
        async with Peer(self.proxy, cluster=self.cluster) as peer, peer.subscribe("topic") as messages:
            async for event in peer.events():
                if isinstance(event, PeerJoined):
                    break
            await peer.publish("topic", own)
            async for message in messages:
                self.arrived.append(message.payload)
                break
            if len(self.arrived) == 2:
                self.both.set()
            await self.both.wait()


@pytest.mark.timeout(180)
async def test_the_first_message_after_joined_arrives_in_both_directions_of_500_pairs(
    repeats: Callable[[int, int], int],
) -> None:
    chance, lanes = random.Random(20), 10
    pairs: list[Pair] = []

    async def run_some() -> None:
        # Each lane has a proxy of its own: what other clusters announce would cost most of the time.
        async with Proxy("tcp://127.0.0.1:*") as proxy:
            for _ in range(repeats(500, 50) // lanes):
                pair = Pair(proxy.endpoint, f"{len(pairs)}", (chance.random() / 50, chance.random() / 50))
                pairs.append(pair)
                # A message that is lost would be waited for without end.
                with anyio.move_on_after(20):
                    await pair.run()

    async with anyio.create_task_group() as tasks:
        for _ in range(lanes):
            tasks.start_soon(run_some)
    assert len(pairs) == repeats(500, 50)
    assert [pair.cluster for pair in pairs if sorted(pair.arrived) != [b"0", b"1"]] == []


@pytest.mark.whole_machine
@pytest.mark.timeout(300)
async def test_the_first_message_after_joined_reaches_each_of_128_subscribers_that_connect_at_once() -> None:
    # Only the publisher is at every proxy. Of the subscribers those of one proxy find each other.
    await reach_a_crowd(processes=4, proxies_of_each=4, at_each_proxy=8)


@pytest.mark.whole_machine
@pytest.mark.timeout(300)
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
async def test_the_first_message_after_joined_reaches_each_of_a_mesh_of_128(proxy: Proxy) -> None:
    await reach_a_crowd(processes=4, proxies_of_each=1, at_each_proxy=32, shared=proxy.endpoint)


async def reach_a_crowd(*, processes: int, proxies_of_each: int, at_each_proxy: int, shared: str = "") -> None:
    """Publish to each of 128 peers the moment that it has joined, and wait until each has told that it got it."""
    async with AsyncExitStack() as stack:
        proxies = [
            shared or (await stack.enter_async_context(Proxy("tcp://127.0.0.1:*"))).endpoint
            for _ in range(processes * proxies_of_each)
        ]
        own = [proxies[number::processes] for number in range(processes)]
        publisher = await stack.enter_async_context(Peer(proxies, name="publisher"))
        starters = [await stack.enter_async_context(children(endpoints[0], ())) for endpoints in own]
        for (child,), endpoints in zip(starters, own, strict=True):
            await child.wait_for("PeerJoined")
            child.order(f"crowd {at_each_proxy} news {' '.join(endpoints)}")
        waited_for = processes * proxies_of_each * at_each_proxy
        assert waited_for == 128
        async for event in publisher.events():
            assert not isinstance(event, PeerGone | PeerSuspected)
            if isinstance(event, PeerJoined):
                await publisher.publish("news", event.peer.id.bytes)
                waited_for -= event.peer.name == "one of a crowd"
            if not waited_for:
                break
        for (child,) in starters:
            await child.wait_for("reached", proxies_of_each * at_each_proxy)


@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
async def test_each_of_eight_tells_a_killed_one_gone_once_and_does_not_try_it_again(proxy: Proxy) -> None:
    # Long enough for a busy machine to find out, and less than `suspect_timeout`.
    options = [
        ("--name", f"p{n}", "--suspect-after", "3", "--backend", ("asyncio", "uvloop", "trio")[n % 3]) for n in range(8)
    ]
    async with children(proxy.endpoint, *options) as peers:
        with anyio.fail_after(50):
            for child in peers:
                await child.wait_for("PeerJoined", 7)
            endpoint = await peers[0].endpoint()
            peers[0].kill()
            for child in peers[1:]:
                await child.wait_for("PeerGone")
            # A newcomer's join comes after anything that was still on its way.
            async with Peer(proxy.endpoint, name="late") as late:
                await late.wait_for(7)
                for child in peers[1:]:
                    await child.wait_for("PeerJoined", name="late")
        for child in peers[1:]:
            (gone,) = child.told("PeerGone", name="p0")
            assert gone["cause"] == "REFUSED"
            retried = [fact["wall"] for fact in child.told("CONNECT_RETRIED", endpoint=endpoint)]
            assert [wall for wall in retried if wall > gone["wall"]] == []
            assert child.told("PeerSuspected") == []


async def test_with_reconnect_stop_0_a_dead_endpoint_is_tried_on(proxy: Proxy) -> None:
    config = PeerConfig(reconnect_stop=0, suspect_timeout=0.5)
    async with children(proxy.endpoint, ("--name", "dead")) as (dead,), Peer(proxy.endpoint, config=config) as peer:
        monitor = peer.monitor(SocketEvent.CONNECT_RETRIED)
        events = peer.events()
        with anyio.fail_after(20):
            await peer.wait_for(1)
            endpoint = await dead.endpoint()
            dead.kill()
            async for event in events:
                if isinstance(event, PeerGone):
                    assert event.cause is Cause.UNREACHABLE
                    break
            retries = 0
            async for fact in monitor:
                retries += isinstance(fact, MonitorEvent) and fact.endpoint == endpoint
                if retries == 3:
                    break


async def test_a_peer_that_hangs_does_not_hold_up_who_subscribes(proxy: Proxy) -> None:
    config = PeerConfig(suspect_timeout=0.5)
    async with children(proxy.endpoint, ("--name", "stopped")) as (child,), Peer(proxy.endpoint, config=config) as peer:
        with anyio.fail_after(20):
            await peer.wait_for(1)
            child.signal(signal.SIGSTOP)
            async with peer.subscribe("t"):
                assert peer.peers, "it hangs, but nothing says so yet"
            child.signal(signal.SIGCONT)


@pytest.mark.timeout(120)
async def test_all_that_a_killed_peer_had_sent_is_delivered_while_others_flood(proxy: Proxy) -> None:
    waiting, last = 20_000, 300
    async with (
        children(proxy.endpoint, ("--name", "victim"), ("--name", "noise1"), ("--name", "noise2")) as (
            victim,
            *noise,
        ),
        Peer(proxy.endpoint, config=PeerConfig(stream_capacity=2_000_000)) as peer,
        peer.subscribe("last") as messages,
        peer.subscribe("noise"),
    ):
        with anyio.fail_after(60):
            await peer.wait_for(3)
            for child in noise:
                child.order("flood noise")
                await child.wait_for("flooding")
        _stall_while(lambda: _send_and_die(victim, waiting, last))
        with anyio.fail_after(30):
            events = peer.events()
            async for event in events:
                if isinstance(event, PeerGone):
                    assert event.cause is Cause.REFUSED
                    break
            numbers = [int((await anext(messages)).payload) for _ in range(waiting + last)]
        assert numbers == [*range(waiting), *range(last)]


def _stall_while(work: Callable[[], None]) -> None:
    """Hold the event loop up, as an application that computes does, until ``work`` is done in a thread."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _send_and_die(victim: Child, *counts: int) -> None:
    for number, count in enumerate(counts):
        victim.order(f"publish last {count}")
        while len(victim.told("published")) <= number:
            time.sleep(0.005)
    # What has not left the process dies with it, so it must have become idle.
    used, quiet = victim.cpu_ticks(), 0
    while quiet < 20:
        time.sleep(0.02)
        quiet = quiet + 1 if victim.sleeps() and victim.cpu_ticks() == used else 0
        used = victim.cpu_ticks()
    victim.kill()


class Forwarder:
    """Stands before a publisher; ends the reader's half of its connections and leaves the publisher's half open."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.is_open = True
        self.readers: list[anyio.abc.SocketStream] = []
        self.zombies = 0

    async def serve(self, *, task_status: anyio.abc.TaskStatus[int]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener:
            task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
            await listener.serve(self._forward)

    async def _forward(self, reader: anyio.abc.SocketStream) -> None:
        self.readers.append(reader)
        async with reader:
            if not self.is_open:
                await anyio.sleep_forever()
            async with await anyio.connect_tcp("127.0.0.1", self.target) as publisher:
                self.zombies += 1
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._pump, reader, publisher)
                    tasks.start_soon(self._pump, publisher, reader)
                # The publisher's half stays until the test ends.
                await anyio.sleep_forever()

    async def _pump(self, source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream) -> None:
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                await sink.send(await source.receive())

    async def cut(self) -> None:
        readers, self.readers = self.readers, []
        for reader in readers:
            await anyio.aclose_forcefully(reader)


async def test_after_a_reconnect_beside_a_zombie_connection_nothing_is_lost(proxy: Proxy) -> None:
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(30):
            await _reconnect_beside_zombies(proxy.endpoint, tasks)
        tasks.cancel_scope.cancel()


async def _reconnect_beside_zombies(proxy: str, tasks: anyio.abc.TaskGroup) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    forwarder = Forwarder(port)
    front = await tasks.start(forwarder.serve)
    config = PeerConfig(suspect_after=0.05, handshake_interval=0.1)
    async with (
        Peer(proxy, port=port, advertise=f"tcp://127.0.0.1:{front}") as publisher,
        Peer(proxy, config=config) as reader,
        reader.subscribe("t") as messages,
    ):
        await publisher.wait_for(1)
        await reader.wait_for(1)
        events = reader.events()
        await _until_told(events, PeerJoined)
        for number in range(10):
            forwarder.is_open = False
            await forwarder.cut()
            await _until_told(events, PeerSuspected)
            forwarder.is_open = True
            await forwarder.cut()
            await _until_told(events, PeerRecovered)
            await publisher.publish("t", b"%d" % number)
            assert (await anext(messages)).payload == b"%d" % number
        assert forwarder.zombies > 10


async def _until_told(events: Stream[Event], kind: type[Event]) -> None:
    async for event in events:
        assert not isinstance(event, PeerGone)
        if isinstance(event, kind):
            return
