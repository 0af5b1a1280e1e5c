"""The peer over the network in memory: what a user sees, on every event loop and on a clock that jumps."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from random import Random
from typing import Any, TypeVar
from uuid import UUID

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve
from trio.testing import MockClock

from effort import THOROUGH
from meshes import lose_confirmations, take
from zdisco import (
    AnnounceTooLarge,
    BindError,
    Cause,
    ClosedError,
    DiscoveryTimeout,
    Drop,
    Event,
    EventsDropped,
    FarewellTimeout,
    InvalidEndpoint,
    Message,
    MonitorEvent,
    Peer,
    PeerConfig,
    PeerGone,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    PeerUpdated,
    ProxyFound,
    ProxyLost,
    ReconnectStop,
    SocketEvent,
    Stream,
)
from zdisco._core.actions import ProbePeer
from zdisco._core.model import Endpoint, PeerInfo, Probe
from zdisco._core.wire import Announce, encode
from zdisco.testing import MemoryNetwork, MemoryProxy, new_jumping_loop

pytestmark = pytest.mark.anyio

JUMPING = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="trio-jumping")]
)
JUMPING_ASYNCIO = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("asyncio", {"loop_factory": new_jumping_loop}), id="asyncio-jumping")]
)
BOTH_JUMPING = pytest.mark.parametrize("anyio_backend", [*JUMPING_ASYNCIO.args[1], *JUMPING.args[1]])
PROXY = "tcp://127.0.0.1:5555"
LIMIT = 10.0
E = TypeVar("E", bound=Event)
T = TypeVar("T")


def bumpy(seed: int, most: float = 0.02) -> Callable[[], float]:
    """Mostly short, sometimes long: that is where the races are."""
    random = Random(seed)
    return lambda: most * random.random() ** 3


def new_peer(net: MemoryNetwork, name: str = "", **arguments: Any) -> Peer:
    return Peer(PROXY, name=name, network=net, **arguments)


@asynccontextmanager
async def mesh(net: MemoryNetwork, *names: str, **arguments: Any) -> AsyncIterator[list[Peer]]:
    """Peers of which each has joined all others."""
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(new_peer(net, name, **arguments)) for name in names]
        for peer in peers:
            await peer.wait_for(len(peers) - 1, timeout=LIMIT)
        yield peers


async def through(stream: Stream[Event], kind: type[object]) -> list[Event]:
    """All events up to the next of a kind, that one last."""
    events: list[Event] = []
    with anyio.fail_after(LIMIT):
        async for event in stream:
            events.append(event)
            if isinstance(event, kind):
                return events
    raise AssertionError(f"the stream ended without {kind.__name__}")


async def next_of(stream: Stream[Event], kind: type[E]) -> E:
    """The next event of a kind; those before it are passed over."""
    *_, event = await through(stream, kind)
    assert isinstance(event, kind)
    return event


async def within(stream: Stream[T], seconds: float) -> list[T]:
    """All that comes within so many seconds; for a clock that jumps."""
    items: list[T] = []
    with anyio.move_on_after(seconds):
        async for item in stream:
            items.append(item)
    return items


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


# Discovery


async def test_peers_find_each_other() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b", "c") as (a, b, c):
        assert a.peers.keys() == {b.id, c.id}
        assert a.peers[b.id] == b.me
        assert b.me.name == "b"
        assert not a.dropped


@JUMPING
async def test_discovery_without_a_proxy_says_that_it_was_refused() -> None:
    net = MemoryNetwork()
    began = anyio.current_time()
    with pytest.raises(DiscoveryTimeout, match=rf"no welcome from {PROXY} \(nothing listens there") as caught:
        await new_peer(net).__aenter__()
    assert anyio.current_time() - began == pytest.approx(10.0, abs=0.01)
    assert caught.value.timeout == 10.0
    assert caught.value.proxies[0].refused >= 5


@JUMPING
async def test_discovery_through_a_proxy_without_relay_says_that_it_was_welcomed() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy:
        proxy._servers[1].close()
        with pytest.raises(DiscoveryTimeout, match="no answer at its publish endpoint") as caught:
            await new_peer(net).__aenter__()
    assert caught.value.proxies[0].relay == proxy.relay


@JUMPING
async def test_discovery_through_a_mute_proxy_says_that_no_echo_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryProxy, "_relay_frame", lambda *_: None)
    net = MemoryNetwork()
    async with net.proxy():
        with pytest.raises(DiscoveryTimeout, match=r"no echo of \d+ announces"):
            await new_peer(net).__aenter__()


@JUMPING
async def test_discovery_can_be_waited_for_inside_the_block() -> None:
    net = MemoryNetwork()
    async with new_peer(net, wait=False) as peer:
        with pytest.raises(DiscoveryTimeout):
            await peer.discover(0.5)
        async with net.proxy():
            await peer.discover()


async def test_one_proxy_of_several_is_enough() -> None:
    net = MemoryNetwork()
    async with net.proxy(), Peer([PROXY, "tcp://127.0.0.1:5556"], network=net) as a, new_peer(net) as b:
        await a.wait_for(1, timeout=LIMIT)
        await b.wait_for(1, timeout=LIMIT)


async def test_peers_of_other_clusters_are_not_there() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, cluster="x") as a, mesh(net, "b", "c"):
        assert not a.peers
        assert a.dropped[Drop.FOREIGN_CLUSTER] > 0


async def test_an_advertised_name_is_looked_up() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, advertise="localhost") as a, new_peer(net) as b:
        await b.wait_for(lambda peers: a.id in peers, timeout=LIMIT)
        assert b.peers[a.id].endpoint.startswith("tcp://localhost:")


async def test_a_name_that_does_not_exist_is_counted() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, new_peer(net) as peer:
        info = PeerInfo(UUID(int=7), "tcp://no.such.host:1", name="lost")
        proxy.publish(encode(Announce(info, session=b"abcd")))
        with anyio.fail_after(LIMIT):
            while not peer.dropped[Drop.REFUSED_ENDPOINT]:
                await checkpoint()


async def test_waiting_for_a_predicate() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, "a") as a, anyio.create_task_group() as tasks:

        async def later() -> None:
            async with new_peer(net, "b") as b:
                await b.wait_for(1, timeout=LIMIT)
                await b.wait_for(0)

        tasks.start_soon(later)
        await a.wait_for(lambda peers: any(peer.name == "b" for peer in peers.values()), timeout=LIMIT)
        await a.wait_for(lambda peers: not peers, timeout=LIMIT)


async def test_waiting_for_what_holds_already_takes_no_time() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, _):
        await a.wait_for(1, timeout=0)
        with pytest.raises(TimeoutError, match=r"1 of 2 peers joined within 0 s"):
            await a.wait_for(2, timeout=0)
        with pytest.raises(TimeoutError, match=r"1 peers joined within 0 s"):
            await a.wait_for(lambda peers: len(peers) > 1, timeout=0)


@JUMPING
async def test_waiting_for_nobody_ends_in_time() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        began = anyio.current_time()
        with pytest.raises(TimeoutError):
            await peer.wait_for(1, timeout=3)
        assert anyio.current_time() - began == pytest.approx(3)


async def test_events_start_with_those_who_are_there() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b", "c") as (a, b, c):
        events = await take(a.events(), 2)
        assert events == [PeerJoined(a.peers[b.id]), PeerJoined(a.peers[c.id])]


@JUMPING
async def test_events_start_with_those_who_are_suspect() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        events = a.events()
        net.cut(a, b)
        await next_of(events, PeerSuspected)
        late = a.events()
        net.heal(a, b)
        await next_of(events, PeerRecovered)
        assert kinds(await take(late, 3)) == [PeerJoined, PeerSuspected, PeerRecovered]


async def test_events_asked_for_after_the_block_end_at_once() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        pass
    assert [event async for event in peer.events()] == []
    assert [event async for event in peer.monitor()] == []


async def test_events_asked_for_before_the_block_miss_nothing() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, "a"):
        b = new_peer(net, "b")
        events = b.events()
        async with b:
            assert kinds(await take(events, 2)) == [ProxyFound, PeerJoined]
        with pytest.raises(StopAsyncIteration):
            await anext(events)


@JUMPING_ASYNCIO
async def test_forty_peers_form_a_mesh() -> None:
    net = MemoryNetwork()
    async with net.proxy(), AsyncExitStack() as stack:
        peers = [new_peer(net, str(number)) for number in range(40)]
        streams = [peer.events() for peer in peers]
        for peer in peers:
            await stack.enter_async_context(peer)
        for peer in peers:
            await peer.wait_for(39, timeout=LIMIT)
        for stream in streams:
            assert Counter(kinds(await take(stream, 40))) == {ProxyFound: 1, PeerJoined: 39}


@JUMPING_ASYNCIO
async def test_forty_peers_that_enter_at_once_form_a_mesh() -> None:
    await enter_at_once(40, MemoryNetwork(latency=bumpy(0)))


@JUMPING
@pytest.mark.parametrize(("seed", "count"), [(seed, 40 if THOROUGH else 16) for seed in range(1, 5)])
async def test_peers_that_enter_at_once_form_a_mesh_whatever_the_latency(seed: int, count: int) -> None:
    await enter_at_once(count, MemoryNetwork(latency=bumpy(seed)))


async def enter_at_once(count: int, net: MemoryNetwork) -> None:
    done = anyio.Event()
    joined = 0

    async def life() -> None:
        nonlocal joined
        async with new_peer(net) as peer:
            await peer.wait_for(count - 1, timeout=LIMIT)
            joined += 1
            if joined == count:
                done.set()
            await done.wait()

    async with net.proxy(), anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(life)
    assert joined == count


# Messages


async def test_a_message_reaches_those_who_subscribed() -> None:
    net = MemoryNetwork()
    async with (
        net.proxy(),
        mesh(net, "a", "b", "c") as (a, b, c),
        b.subscribe("prices.") as messages,
        c.subscribe("other") as others,
    ):
        await a.publish("prices.eur", b"1.08")
        await a.publish("other", b"x")
        assert await take(messages, 1) == [Message(b.peers[a.id], "prices.eur", b"1.08")]
        assert [message.topic for message in await take(others, 1)] == ["other"]


@pytest.mark.parametrize("payload", [b"", b"\0", bytearray(b"abc"), memoryview(b"abc")])
async def test_a_payload_is_any_bytes(payload: bytes) -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b), b.subscribe("") as messages:
        await a.publish("t", payload)
        assert [message.payload for message in await take(messages, 1)] == [bytes(payload)]


async def test_an_exact_subscription_gets_only_its_topic() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b), b.subscribe("ab", exact=True) as messages:
        for topic in ("a", "abc", "ab", "b", "ab"):
            await a.publish(topic, b"")
        await a.publish("ab", b"end")
        assert [(message.topic, message.payload) for message in await take(messages, 3)] == [
            ("ab", b""),
            ("ab", b""),
            ("ab", b"end"),
        ]


async def test_a_prefix_subscription_gets_all_that_begins_with_it() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b), b.subscribe("ab") as messages:
        for topic in ("a", "abc", "ab", "b", "abd"):
            await a.publish(topic, b"")
        assert [message.topic for message in await take(messages, 3)] == ["abc", "ab", "abd"]


async def test_overlapping_subscriptions_each_get_each_message_once() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        async with b.subscribe("p") as wide, b.subscribe("p.q") as narrow, b.subscribe("p.q") as same:
            for number in range(3):
                await a.publish("p.q.r", b"%d" % number)
            for stream in (wide, narrow, same):
                assert [message.payload for message in await take(stream, 3)] == [b"0", b"1", b"2"]
        assert not b.dropped


async def test_a_later_subscription_gets_what_an_earlier_one_got_already() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b), b.subscribe("p") as early:
        await a.publish("p.q", b"1")
        await take(early, 1)
        async with b.subscribe("p.q") as late:
            await a.publish("p.q", b"2")
            for stream in (early, late):
                assert [message.payload for message in await take(stream, 1)] == [b"2"]
        await a.publish("p.q", b"3")
        assert [message.payload for message in await take(early, 1)] == [b"3"]


async def test_subscriptions_of_one_turn_share_a_marker() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, _):
        before = a._opened.core.roster.marker

        async def subscribe(number: int) -> None:
            async with a.subscribe(f"{number}"):
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(subscribe, number)
            async with a.subscribe("the last"):
                assert a._opened.core.roster.marker - before < 10
            tasks.cancel_scope.cancel()


@JUMPING
async def test_a_lost_confirmation_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        lost = lose_confirmations(monkeypatch, b, 3)
        with anyio.fail_after(4):
            async with a.subscribe("t") as messages:
                await b.publish("t", b"x")
                assert (await anext(messages)).payload == b"x"
        assert len(lost) == 3


@JUMPING
async def test_a_peer_that_confirms_nothing_holds_a_subscriber_up_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        lose_confirmations(monkeypatch, b, 1000)
        began = anyio.current_time()
        async with a.subscribe("t"):
            assert anyio.current_time() - began == pytest.approx(PeerConfig().suspect_timeout, abs=0.01)


@JUMPING
async def test_many_who_wait_for_the_same_confirmation_repeat_one_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        lose_confirmations(monkeypatch, b, 1000)
        before = a._opened.core.roster.marker
        async with anyio.create_task_group() as tasks:
            for number in range(500):
                tasks.start_soon(a.subscribe(f"t{number}").__aenter__)
        # At once, then every second until the end of the patience.
        assert a._opened.core.roster.marker - before == 5
        assert not a._opened._awaited


async def test_closing_one_of_two_subscriptions_to_a_prefix_keeps_the_other() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b), b.subscribe("p") as kept:
        async with b.subscribe("p"):
            pass
        await a.publish("p", b"x")
        assert len(await take(kept, 1)) == 1


@JUMPING
@pytest.mark.parametrize("seed", range(20))
async def test_a_subscription_is_in_force_when_it_is_entered(seed: int) -> None:
    net = MemoryNetwork(latency=bumpy(seed))
    async with net.proxy(), mesh(net, "a", "b", "c") as (a, b, c):
        for number in range(5):
            async with b.subscribe(f"t{number}") as messages:
                await a.publish(f"t{number}", b"a")
                await c.publish(f"t{number}", b"c")
                assert {message.payload for message in await take(messages, 2)} == {b"a", b"c"}


@JUMPING
@pytest.mark.parametrize("seed", range(40))
async def test_what_is_published_after_joined_reaches_those_who_subscribe_first(seed: int) -> None:
    net, random, size = MemoryNetwork(latency=bumpy(seed)), Random(seed), 4
    done = anyio.Event()
    happy = 0

    async def greet(peer: Peer) -> None:
        async for event in peer.events():
            if isinstance(event, PeerJoined):
                await peer.publish(f"to.{event.peer.id}", b"hello")

    async def life(after: float) -> None:
        nonlocal happy
        await anyio.sleep(after)
        async with (
            new_peer(net) as peer,
            peer.subscribe(f"to.{peer.id}") as messages,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(greet, peer)
            greetings = await take(messages, size - 1)
            assert len({message.sender.id for message in greetings if message.sender}) == size - 1
            happy += 1
            if happy == size:
                done.set()
            await done.wait()
            tasks.cancel_scope.cancel()

    async with net.proxy(), anyio.create_task_group() as tasks:
        for _ in range(size):
            tasks.start_soon(life, random.random() * 0.05)


async def test_a_slow_reader_loses_the_oldest_messages_and_is_told_how_many() -> None:
    net = MemoryNetwork()
    config = PeerConfig(stream_capacity=3)
    async with net.proxy(), mesh(net, "a", "b", config=config) as (a, b), b.subscribe("t") as messages:
        async with b.subscribe("end") as ends:
            for number in range(10):
                await a.publish("t", b"%d" % number)
            await a.publish("end", b"")
            await take(ends, 1)
        assert [message.payload for message in await take(messages, 3)] == [b"7", b"8", b"9"]
        assert messages.dropped == 7
        assert b.dropped[Drop.STREAM_FULL] > 0


async def test_what_we_publish_does_not_come_back_to_us() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b), a.subscribe("") as messages:
        await a.publish("own", b"")
        await b.publish("other", b"")
        assert [message.topic for message in await take(messages, 1)] == ["other"]


async def test_a_burst_arrives_in_order() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b), b.subscribe("t") as messages:
        for number in range(5000):
            await a.publish("t", b"%d" % number)
        assert [message.payload for message in await take(messages, 5000)] == [b"%d" % number for number in range(5000)]


async def test_an_endpoint_is_probed_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    net = MemoryNetwork()
    tried: list[Endpoint] = []
    answer = anyio.Event()

    async def probe(endpoint: Endpoint) -> Probe:
        tried.append(endpoint)
        await answer.wait()
        return Probe.UNDECIDED

    async with net.proxy(), new_peer(net) as peer:
        driver = peer._opened
        monkeypatch.setattr(driver.data, "probe", probe)
        for _ in range(2):
            driver.perform([ProbePeer("tcp://127.0.0.1:9"), ProbePeer("tcp://127.0.0.1:10")])
        await anyio.wait_all_tasks_blocked()
        assert sorted(tried) == ["tcp://127.0.0.1:10", "tcp://127.0.0.1:9"]
        answer.set()
        await anyio.wait_all_tasks_blocked()
        driver.perform([ProbePeer("tcp://127.0.0.1:9")])
        await anyio.wait_all_tasks_blocked()
        assert len(tried) == 3


async def test_who_publishes_or_reads_without_a_pause_lets_others_run() -> None:
    net = MemoryNetwork()
    turns = 0

    async def run() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    full: Stream[int] = Stream(5000)
    full._push(range(5000))
    async with net.proxy(), new_peer(net) as peer, anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        for _ in range(5000):
            await peer.publish("t", b"")
        published = turns
        assert published > 0
        for number in range(5000):
            assert await anext(full) == number
        assert turns > published
        tasks.cancel_scope.cancel()


async def test_a_message_names_its_sender_as_the_newest_announce_does() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, mesh(net, "a", "b") as (a, b), a.subscribe("t") as messages:
        events = a.events()
        await b.publish("t", b"1")
        assert (await take(messages, 1))[0].sender == b.me
        net.cut(b, proxy)  # or it would contradict what is said in its name
        renamed = evolve(b.me, name="c", revision=b.me.revision + 1)
        proxy.publish(encode(evolve(b._me, info=renamed)))
        await next_of(events, PeerUpdated)
        await b.publish("t", b"2")
        assert (await take(messages, 1))[0].sender == renamed


async def test_what_was_published_last_arrives_although_the_publisher_leaves() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, "b") as b, b.subscribe("t") as messages:
        async with new_peer(net, "a") as a:
            await a.wait_for(1, timeout=LIMIT)
            for number in range(300):
                await a.publish("t", b"%d" % number)
        assert len(await take(messages, 300)) == 300


# Departures


async def test_a_farewell_of_the_younger_peer_is_told() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, "old") as old:
        async with new_peer(net, "young") as young:
            await young.wait_for(1, timeout=LIMIT)
            events = old.events()
        assert (await next_of(events, PeerGone)).cause is Cause.FAREWELL
        assert not old.peers


async def test_a_farewell_of_the_older_peer_is_told() -> None:
    net = MemoryNetwork()
    old, leaving = new_peer(net, "old"), anyio.Event()

    async def live() -> None:
        async with old:
            await leaving.wait()

    async with net.proxy(), anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        await anyio.sleep(0.01)
        async with new_peer(net, "young") as young:
            events = young.events()
            await young.wait_for(1, timeout=LIMIT)
            leaving.set()
            gone = await next_of(events, PeerGone)
            assert (gone.peer.id, gone.cause) == (old.id, Cause.FAREWELL)


@JUMPING
@pytest.mark.parametrize("seed", range(20))
async def test_leaving_is_one_event_whatever_the_latency(seed: int) -> None:
    net = MemoryNetwork(latency=bumpy(seed))
    async with net.proxy(), new_peer(net, "old") as old:
        events = old.events()
        async with new_peer(net, "young") as young:
            await old.wait_for(1, timeout=LIMIT)
            await young.wait_for(1, timeout=LIMIT)
        assert kinds(await within(events, 40)) == [PeerJoined, PeerGone]
        assert not old.peers


async def test_leaving_inside_the_block_tells_everybody_before_it_returns() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        events = a.events()
        await b.leave()
        assert (await next_of(events, PeerGone)).cause is Cause.FAREWELL
        await b.leave()


@JUMPING
async def test_leaving_without_a_proxy_does_not_wait() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, mesh(net, "a", "b") as (a, b):
        events = a.events()
        proxy.stop()
        await anyio.sleep(1)
        began = anyio.current_time()
        await b.leave()
        assert anyio.current_time() - began < 0.01
        assert (await next_of(events, PeerGone)).cause is Cause.FAREWELL


@JUMPING
async def test_a_farewell_without_echo_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        monkeypatch.setattr(MemoryProxy, "_relay_frame", lambda *_: None)
        began = anyio.current_time()
        with pytest.raises(FarewellTimeout) as caught:
            await peer.leave()
        assert anyio.current_time() - began == pytest.approx(2.0)
        assert caught.value.proxies == (PROXY,)
        monkeypatch.undo()


@JUMPING
async def test_a_farewell_without_echo_is_only_logged_at_the_end_of_the_block(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    net = MemoryNetwork()
    async with net.proxy():
        with caplog.at_level(logging.WARNING, "zdisco"):
            async with new_peer(net):
                monkeypatch.setattr(MemoryProxy, "_relay_frame", lambda *_: None)
    assert "no echo of our farewell" in caplog.text


@JUMPING
@pytest.mark.parametrize("seed", range(20))
async def test_a_killed_peer_is_gone_at_once_in_one_event(seed: int) -> None:
    net = MemoryNetwork(latency=bumpy(seed, 0.005))
    async with net.proxy(), mesh(net, "a", "b", "c") as (a, b, c):
        streams = [a.events(), c.events()]
        began = anyio.current_time()
        net.kill(b)
        for stream in streams:
            assert (await next_of(stream, PeerGone)).cause is Cause.REFUSED
        assert anyio.current_time() - began < 0.05
        for stream in streams:
            assert await within(stream, 20) == []


async def test_a_killed_peer_is_gone() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b), a.subscribe("t") as messages:
        events = a.events()
        await b.publish("t", b"last words")
        net.kill(b.me.endpoint)
        gone = await next_of(events, PeerGone)
        assert (gone.peer.id, gone.cause) == (b.id, Cause.REFUSED)
        assert len(await take(messages, 1)) == 1


@JUMPING
async def test_a_peer_that_is_cut_off_is_suspected_and_then_unreachable() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        events = a.events()
        net.cut(a, b)
        began = anyio.current_time()
        await next_of(events, PeerSuspected)
        assert anyio.current_time() - began == pytest.approx(0.2, abs=0.01)
        assert not a.peers
        gone = await next_of(events, PeerGone)
        assert gone.cause is Cause.UNREACHABLE
        assert anyio.current_time() - began == pytest.approx(5.0, abs=0.01)


@JUMPING
async def test_a_peer_that_was_given_up_joins_again_when_the_cut_heals() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        events = a.events()
        await next_of(events, PeerJoined)
        net.cut(a, b)
        # Their beacons go through the proxy all the time.
        assert kinds(await within(events, 100)) == [PeerSuspected, PeerGone]
        net.heal(a, b)
        with anyio.fail_after(PeerConfig().beacon_interval * 1.2 + 5):
            await a.wait_for(1)
            await b.wait_for(1)
        assert kinds(await within(events, 100)) == [PeerJoined]


@JUMPING
@pytest.mark.parametrize("seed", range(10))
async def test_a_peer_recovers_when_the_cut_heals_in_time(seed: int) -> None:
    net = MemoryNetwork(latency=bumpy(seed))
    async with net.proxy(), mesh(net, "a", "b") as (a, b), b.subscribe("t") as messages:
        events, others = a.events(), b.events()
        net.cut(a, b)
        await next_of(events, PeerSuspected)
        net.heal(a, b)
        await next_of(events, PeerRecovered)
        await next_of(others, PeerRecovered)
        await a.publish("t", b"again")
        assert [message.payload for message in await take(messages, 1)] == [b"again"]
        assert await within(events, 40) == await within(others, 40) == []


@JUMPING
async def test_a_short_cut_is_not_told() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        events = a.events()
        net.cut(a, b)
        net.heal(a, b)
        assert kinds(await within(events, 20)) == [PeerJoined]
        assert a.peers
        assert b.peers


@JUMPING
async def test_without_reconnect_stop_a_dead_peer_is_unreachable() -> None:
    net = MemoryNetwork()
    config = PeerConfig(reconnect_stop=ReconnectStop.NEVER)
    async with net.proxy(), mesh(net, "a", "b", config=config) as (a, b):
        events = a.events()
        net.kill(b)
        assert (await next_of(events, PeerGone)).cause is Cause.UNREACHABLE


@JUMPING
async def test_a_process_that_starts_again_under_its_id_joins_again() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        events = a.events()
        await next_of(events, PeerJoined)
        net.kill(b)
        async with new_peer(net, "b again", id=b.id) as again:
            await again.wait_for(1, timeout=LIMIT)
            got = await within(events, 20)
        assert kinds(got)[:2] == [PeerGone, PeerJoined]
        assert [event.peer.name for event in got if isinstance(event, PeerJoined)] == ["b again"]


# The proxy goes and comes


@JUMPING
async def test_the_loss_of_the_proxy_is_told_and_nobody_joins_twice_when_it_is_back() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, mesh(net, "a", "b") as (a, b), b.subscribe("t") as messages:
        events = a.events()
        await next_of(events, PeerJoined)
        proxy.stop()
        assert await within(events, 10) == [ProxyLost(PROXY)]
        assert a.peers.keys() == {b.id}
        await a.publish("t", b"without proxy")
        assert len(await take(messages, 1)) == 1
        async with net.proxy():
            assert await within(events, 60) == [ProxyFound(PROXY)]
            assert a.peers.keys() == {b.id}


@JUMPING
@pytest.mark.parametrize("seed", range(10))
async def test_a_stranger_that_joined_while_we_were_away_is_known_soon_after_the_new_welcome(seed: int) -> None:
    net = MemoryNetwork(latency=bumpy(seed))
    async with net.proxy() as proxy, mesh(net, "a", "b") as (a, b):
        events = [a.events(), b.events()]
        proxy.stop()
        await anyio.sleep(5 + Random(seed).random() * 2)
        async with net.proxy(), new_peer(net, "stranger") as stranger:
            told = [await through(stream, ProxyFound) for stream in events]
            began = anyio.current_time()
            await stranger.wait_for(2, timeout=LIMIT)
            await a.wait_for(2, timeout=LIMIT)
            await b.wait_for(2, timeout=LIMIT)
            assert anyio.current_time() - began <= 2.0
            for before, stream in zip(told, events, strict=True):
                # The other one and, before or after the proxy is found, the stranger.
                assert kinds([*before, *await within(stream, 1)]).count(PeerJoined) == 2
            await a.leave()
            await b.leave()


# Bounds


async def test_a_slow_reader_of_events_is_told_how_many_it_lost() -> None:
    net = MemoryNetwork()
    a = new_peer(net, "a", config=PeerConfig(event_capacity=2))
    events = a.events()
    async with net.proxy(), a, mesh(net, "b", "c", "d"):
        await a.wait_for(3, timeout=LIMIT)
        dropped, *rest = await take(events, 3)
        assert dropped == EventsDropped(2)
        assert kinds(rest) == [PeerJoined, PeerJoined]


async def test_a_closed_stream_takes_nothing_in() -> None:
    stream: Stream[int] = Stream(1)
    await stream.aclose()
    assert stream._push([1, 2]) == 0
    assert [item async for item in stream] == []
    assert stream.dropped == 0


async def test_a_closed_stream_of_events_ends() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, _):
        async with a.events() as events:
            pass
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_the_monitor_shows_what_the_sockets_do() -> None:
    net = MemoryNetwork()
    peer = new_peer(net)
    everything, some = peer.monitor(), peer.monitor(SocketEvent.HANDSHAKE_SUCCEEDED)
    async with net.proxy(), peer:
        events = await take(everything, 5)
        assert {(event.socket, event.event) for event in events if isinstance(event, MonitorEvent)} == {
            ("dataPub", SocketEvent.LISTENING),
            ("proxySub", SocketEvent.CONNECTED),
            ("proxySub", SocketEvent.HANDSHAKE_SUCCEEDED),
            ("proxyPub", SocketEvent.CONNECTED),
            ("proxyPub", SocketEvent.HANDSHAKE_SUCCEEDED),
        }
        assert [str(event).split()[-2] for event in await take(some, 2)] == ["desc:HANDSHAKE_SUCCEEDED"] * 2


@pytest.mark.parametrize(
    ("mask", "error"), [(0, ValueError), (1 << 16, ValueError), (True, TypeError), ("all", TypeError)]
)
async def test_a_monitor_needs_events(mask: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        new_peer(MemoryNetwork()).monitor(mask)


# What the caller does wrong


async def test_a_peer_that_is_not_open_says_so() -> None:
    net = MemoryNetwork()
    peer = new_peer(net)

    async def check() -> None:
        for attempt in (
            lambda: peer.publish("t", b""),
            lambda: peer.wait_for(1),
            peer.discover,
            peer.leave,
            lambda: peer.subscribe("t").__aenter__(),
        ):
            with pytest.raises(ClosedError, match="the peer is not open"):
                await attempt()
        assert not peer.peers

    await check()
    async with net.proxy():
        async with peer:
            pass
        await check()
        with pytest.raises(ClosedError):
            await peer.__aenter__()


async def test_a_peer_that_was_entered_twice_stays_open() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        with pytest.raises(ClosedError):
            await peer.__aenter__()
        await peer.publish("t", b"")


async def test_a_subscription_is_entered_once() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        async with peer.subscribe("t") as messages:
            with pytest.raises(ClosedError):
                await messages.__aenter__()
        with pytest.raises(ClosedError):
            await messages.__aenter__()
        with pytest.raises(StopAsyncIteration):
            await anext(messages)


async def test_reading_a_subscription_that_was_not_entered_says_so() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        with pytest.raises(ClosedError, match="the subscription is not open: use it with async with"):
            async for _ in peer.subscribe("t"):
                pass


async def test_after_its_farewell_a_peer_publishes_and_subscribes_no_more() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        await peer.leave()
        for attempt in (lambda: peer.publish("t", b""), peer.discover, lambda: peer.subscribe("t").__aenter__()):
            with pytest.raises(ClosedError, match="the peer is leaving"):
                await attempt()
        await peer.leave()


@pytest.mark.parametrize(
    ("topic", "error"),
    [
        ("a\0b", ValueError),
        ("\ud800", ValueError),
        ("é" * 513, ValueError),
        (b"a", TypeError),
        (None, TypeError),
        ([], TypeError),
    ],
)
async def test_a_topic_is_text_without_nul_and_not_too_long(topic: Any, error: type[Exception]) -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        with pytest.raises(error):
            await peer.publish(topic, b"")
        with pytest.raises(error):
            peer.subscribe(topic)


@pytest.mark.parametrize("payload", ["text", 7, None])
async def test_a_payload_is_bytes_and_nothing_else(payload: Any) -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        with pytest.raises(TypeError):
            await peer.publish("t", payload)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"proxies": []}, InvalidEndpoint),
        ({"proxies": "here"}, InvalidEndpoint),
        ({"proxies": "tcp://127.0.0.1:99999"}, InvalidEndpoint),
        ({"proxies": [5555]}, TypeError),
        ({"proxies": 5555}, TypeError),
        ({"proxies": b"tcp://127.0.0.1:5555"}, TypeError),
        ({"proxies": "inproc://here"}, InvalidEndpoint),
        ({"proxies": PROXY, "host": 5}, TypeError),
        ({"proxies": PROXY, "host": "a b"}, InvalidEndpoint),
        ({"proxies": PROXY, "host": ""}, InvalidEndpoint),
        ({"proxies": PROXY, "advertise": "127.0.0.1:80"}, InvalidEndpoint),
        ({"proxies": PROXY, "advertise": 5}, TypeError),
        ({"proxies": PROXY, "config": {}}, TypeError),
        ({"proxies": PROXY, "headers": ["a"]}, TypeError),
        ({"proxies": PROXY, "groups": 5}, TypeError),
        ({"proxies": PROXY, "cluster": None}, TypeError),
        ({"proxies": PROXY, "port": 70000}, ValueError),
        ({"proxies": PROXY, "port": "1"}, TypeError),
        ({"proxies": PROXY, "name": b"a"}, TypeError),
        ({"proxies": PROXY, "id": "a"}, TypeError),
        ({"proxies": PROXY, "headers": {"a": 1}}, TypeError),
        ({"proxies": PROXY, "groups": "ab"}, TypeError),
        ({"proxies": PROXY, "advertise": "0.0.0.0"}, InvalidEndpoint),
        ({"proxies": PROXY, "name": "x" * 70_000}, AnnounceTooLarge),
    ],
)
async def test_what_cannot_be_is_refused_at_once(arguments: dict[str, Any], error: type[Exception]) -> None:
    wrong = list(arguments.values())[-1]
    with pytest.raises(error) as caught:
        Peer(**arguments, network=MemoryNetwork())
    assert error is not TypeError or list(arguments)[-1] in str(caught.value)
    assert error is not InvalidEndpoint or wrong == [] or repr(wrong) in str(caught.value)


async def test_a_network_makes_networks() -> None:
    with pytest.raises(TypeError, match="network"):
        Peer(PROXY, network=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["1", None, True, 1.5])
async def test_what_is_waited_for_is_a_number_or_a_predicate(wrong: Any) -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        with pytest.raises(TypeError, match="wanted"):
            await peer.wait_for(wrong)


@pytest.mark.parametrize("wrong", ["1", True, []])
async def test_a_timeout_is_a_number(wrong: Any) -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        with pytest.raises(TypeError, match="timeout"):
            await peer.wait_for(1, timeout=wrong)
        with pytest.raises(TypeError, match="timeout"):
            await peer.discover(wrong)


async def test_a_peer_is_used_in_its_own_thread() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:

        async def misuse() -> None:
            for attempt in (
                lambda: peer.publish("t", b""),
                lambda: peer.wait_for(0),
                peer.leave,
                lambda: peer.subscribe("t").__aenter__(),
            ):
                with pytest.raises(RuntimeError, match="the thread and the event loop in which it was entered"):
                    await attempt()

        await anyio.to_thread.run_sync(asyncio.run, misuse())
        await peer.publish("t", b"")


async def test_a_peer_shows_who_it_is() -> None:
    net = MemoryNetwork()
    peer = new_peer(net, "alice")
    assert repr(peer) == f"<zdisco.Peer alice {peer.id} not open>"
    assert peer.me.endpoint == ""
    async with net.proxy(), peer:
        assert repr(peer) == f"<zdisco.Peer alice {peer.id} {peer.me.endpoint}>"


async def test_a_port_that_is_taken_is_a_bind_error() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, port=41000):
        with pytest.raises(BindError):
            await new_peer(net, port=41000).__aenter__()


# Cancellation, errors, tasks


async def test_cancelling_the_entry_leaves_nothing() -> None:
    net = MemoryNetwork()
    entered = 0
    async with net.proxy():
        for turns in range(40):
            peer = new_peer(net, port=41000)  # a peer that was left open would still hold it

            async def life(peer: Peer = peer) -> None:
                nonlocal entered
                async with peer:
                    entered += 1

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(life)
                for _ in range(turns):
                    await checkpoint()
                tasks.cancel_scope.cancel()
            with pytest.raises(ClosedError):
                await peer.publish("t", b"")
        assert 0 < entered < 40


@BOTH_JUMPING
async def test_cancelling_the_exit_leaves_nothing() -> None:
    # The echo of the farewell takes longer than all turns but the last.
    net = MemoryNetwork(latency=0.05)
    left = 0
    async with net.proxy(), new_peer(net, "watcher") as watcher:
        for turns in (*range(20), None):
            async with anyio.create_task_group() as tasks:
                leaving = anyio.Event()

                async def life(leaving: anyio.Event = leaving) -> None:
                    nonlocal left
                    async with new_peer(net, port=41000) as peer:
                        await peer.wait_for(1, timeout=LIMIT)
                        leaving.set()
                    left += 1

                tasks.start_soon(life)
                await leaving.wait()
                if turns is not None:
                    for _ in range(turns):
                        await checkpoint()
                    tasks.cancel_scope.cancel()
            await watcher.wait_for(lambda peers: not peers, timeout=LIMIT)
        assert 0 < left < 20


async def test_who_is_cancelled_in_the_block_says_farewell_and_may_speak_before() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, "a") as a, a.subscribe("t") as messages:
        events = a.events()
        with anyio.CancelScope() as scope:
            async with new_peer(net, "b") as b:
                await b.wait_for(1, timeout=LIMIT)
                await a.wait_for(1, timeout=LIMIT)
                scope.cancel()
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(0.01)
                        await b.publish("t", b"last words")
        assert (await take(messages, 1))[0].payload == b"last words"
        assert (await next_of(events, PeerGone)).cause is Cause.FAREWELL


async def test_a_peer_that_leaves_at_once_never_joins() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, config=PeerConfig(beacon_interval=0.01)) as peer:
        events = peer.events()
        for _ in range(50):
            async with new_peer(net):
                pass
        async with new_peer(net, "the last") as last:
            await last.wait_for(1, timeout=LIMIT)
            assert (await next_of(events, PeerJoined)).peer.name == "the last"


async def test_cancelling_the_entry_of_a_subscription_leaves_nothing() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh(net, "a", "b") as (a, b):
        for turns in range(12):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(b.subscribe("t").__aenter__)
                for _ in range(turns):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        async with b.subscribe("t") as messages:
            await a.publish("t", b"once")
            await a.publish("t", b"end")
            assert [message.payload for message in await take(messages, 2)] == [b"once", b"end"]


async def test_cancelling_a_reader_loses_no_message() -> None:
    net = MemoryNetwork()
    got: list[bytes] = []
    async with net.proxy(), mesh(net, "a", "b") as (a, b), b.subscribe("t") as messages:

        async def read() -> None:
            async for message in messages:
                got.append(message.payload)

        for number in range(200):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await a.publish("t", b"%d" % number)
                for _ in range(number % 5):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        got += [message.payload for message in await take(messages, 200 - len(got))]
        assert got == [b"%d" % number for number in range(200)]


async def test_an_error_in_the_block_passes_and_the_others_hear_a_farewell() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, "a") as a:
        events = a.events()
        b = new_peer(net, "b")

        async def fail() -> None:
            async with b:
                await b.wait_for(1, timeout=LIMIT)
                raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            await fail()
        assert (await next_of(events, PeerGone)).cause is Cause.FAREWELL
        with pytest.raises(ClosedError):
            await b.publish("t", b"")


async def test_streams_end_with_the_block_after_what_waits_in_them() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, "a") as a:
        async with new_peer(net, "b") as b:
            events, messages = b.events(), b.subscribe("t")
            await messages.__aenter__()
            await b.wait_for(1, timeout=LIMIT)
            await a.publish("t", b"x")
            await a.wait_for(1, timeout=LIMIT)
            with anyio.fail_after(LIMIT):
                while not messages._queue:
                    await checkpoint()
        assert [message.payload async for message in messages] == [b"x"]
        assert kinds([event async for event in events])[0] is PeerJoined
        await messages.aclose()


async def test_who_waits_is_told_that_the_peer_was_closed() -> None:
    net = MemoryNetwork()
    told: list[str] = []

    async def wait(peer: Peer) -> None:
        with pytest.raises(ClosedError):
            await peer.wait_for(5)
        told.append("wait_for")

    async def read(peer: Peer) -> None:
        async for _ in peer.events():
            pass
        told.append("events")

    async with net.proxy(), anyio.create_task_group() as tasks, new_peer(net) as peer:
        tasks.start_soon(wait, peer)
        tasks.start_soon(read, peer)
        for _ in range(3):
            await checkpoint()
    assert sorted(told) == ["events", "wait_for"]


@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
async def test_when_somebody_cancels_our_task_all_who_wait_are_told(caplog: pytest.LogCaptureFixture) -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer:
        async with peer.subscribe("t") as messages:
            events = peer.events()
            assert peer._background is not None
            assert peer._background._task is not None
            peer._background._task.cancel()
            with anyio.fail_after(LIMIT):
                with pytest.raises(ClosedError):
                    await peer.wait_for(1)
                assert not [event async for event in events]
                assert not [message async for message in messages]
        with pytest.raises(ClosedError):
            await peer.leave()
        with pytest.raises(ClosedError):
            await peer.publish("t", b"")
    assert [record.message for record in caplog.records] == ["a task of zdisco ended unexpectedly"]


@pytest.mark.parametrize("anyio_backend", [pytest.param(("trio", {}), id="trio")])
async def test_when_our_task_is_cancelled_on_trio_all_who_wait_are_told() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net) as peer, peer.subscribe("t") as messages:
        events = peer.events()
        assert peer._background is not None
        assert peer._background._scope is not None
        peer._background._scope.cancel()
        with anyio.fail_after(LIMIT):
            with pytest.raises(ClosedError):
                await peer.wait_for(1)
            assert not [event async for event in events]
            assert not [message async for message in messages]
        with pytest.raises(ClosedError):
            await peer.publish("t", b"")


async def test_who_waits_for_the_echo_of_a_farewell_is_told_that_the_peer_was_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = MemoryNetwork()
    told: list[ClosedError] = []

    async def leave(peer: Peer) -> None:
        with pytest.raises(ClosedError) as caught:
            await peer.leave()
        told.append(caught.value)

    async with net.proxy(), new_peer(net) as peer:
        monkeypatch.setattr(MemoryProxy, "_relay_frame", lambda *_: None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave, peer)
            while not peer._opened.core.unheard_farewells:
                await checkpoint()
            assert peer._background is not None
            assert peer._background._scope is not None
            peer._background._scope.cancel()
    assert len(told) == 1


@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
async def test_an_error_in_our_task_reaches_who_leaves_the_block(caplog: pytest.LogCaptureFixture) -> None:
    net = MemoryNetwork()
    async with net.proxy():
        peer = await new_peer(net).__aenter__()
        peer._opened.data_frames = lambda *_: 1 / 0  # type: ignore[assignment]
        async with new_peer(net):
            with suppress(ClosedError):
                await peer.wait_for(2, timeout=LIMIT)
        with pytest.raises(ExceptionGroup) as caught:
            await peer.__aexit__(None, None, None)
    assert caught.group_contains(ZeroDivisionError)
    assert "a task of zdisco ended unexpectedly" in caplog.text


@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
async def test_a_block_can_be_entered_in_one_task_and_left_in_another() -> None:
    net = MemoryNetwork()
    async with net.proxy(), new_peer(net, "a") as a:
        b = new_peer(net, "b")
        await asyncio.create_task(b.__aenter__())
        await a.wait_for(1, timeout=LIMIT)
        await asyncio.create_task(b.__aexit__(None, None, None))
        await a.wait_for(lambda peers: not peers, timeout=LIMIT)
        with pytest.raises(ClosedError):
            await b.publish("t", b"")


async def test_two_networks_know_nothing_of_each_other() -> None:
    one, other = MemoryNetwork(), MemoryNetwork()
    async with one.proxy(), other.proxy(), mesh(one, "a", "b") as (a, _), mesh(other, "c", "d") as (c, _d):
        assert len(a.peers) == len(c.peers) == 1
