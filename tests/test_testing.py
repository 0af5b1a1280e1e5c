"""The network in memory does what libzmq does, as far as the library relies on it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from uuid import uuid4

import anyio
import pytest
from anyio.lowlevel import checkpoint
from trio.testing import MockClock

from zdisco import BindError, ClosedError, Drop, InvalidEndpoint, MonitorEvent, Peer, PeerConfig, PeerInfo, SocketEvent
from zdisco._channels import DataChannel, Network, ProxyChannel
from zdisco._core.model import Endpoint, Probe
from zdisco._core.wire import Announce, Farewell, Welcome, decode, encode
from zdisco.testing import MemoryNetwork, MemoryProxy

pytestmark = pytest.mark.anyio

JUMPING = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="trio-jumping")]
)
HOST = "127.0.0.1"
PROXY = f"tcp://{HOST}:5555"


class Recorder:
    """Listens to both kinds of channels, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self.frames: list[bytes] = []
        self.batches: list[int] = []
        self.sockets: list[MonitorEvent] = []

    def data_frames(self, frames: Sequence[bytes], most: int) -> tuple[int, int]:
        self.frames += frames
        self.batches.append(len(frames))
        self.told += [("frame", frame) for frame in frames]
        return len(frames), len(frames)

    def proxy_frames(self, proxy: Endpoint, frames: Sequence[bytes]) -> None:
        self.data_frames(frames, len(frames))

    def proxy_down(self, proxy: Endpoint) -> None:
        self.told.append(("proxy_down", proxy))

    def relay_up(self, proxy: Endpoint) -> None:
        self.told.append(("relay_up", proxy))

    def relay_down(self, proxy: Endpoint) -> None:
        self.told.append(("relay_down", proxy))

    def subscribed(self, topic: bytes) -> None:
        self.told.append(("subscribed", topic))

    def unsubscribed(self, topic: bytes) -> None:
        self.told.append(("unsubscribed", topic))

    def link_up(self, endpoint: Endpoint) -> None:
        self.told.append(("link_up", endpoint))

    def link_down(self, endpoint: Endpoint) -> None:
        self.told.append(("link_down", endpoint))

    def link_retried(self, endpoint: Endpoint) -> None:
        self.told.append(("link_retried", endpoint))

    def link_rejected(self, endpoint: Endpoint) -> None:
        self.told.append(("link_rejected", endpoint))

    def drained(self, endpoint: Endpoint) -> None:
        self.told.append(("drained", endpoint))

    def dropped(self, drop: Drop, detail: str = "") -> None:
        self.told.append(("dropped", drop))

    def observed(self, event: MonitorEvent) -> None:
        self.sockets.append(event)

    def of(self, *kinds: str) -> list[object]:
        return [value for kind, value in self.told if kind in kinds]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]

    def has(self, kind: str, count: int = 1) -> bool:
        return self.kinds().count(kind) >= count


async def quiet() -> None:
    """Let everybody run until nothing more can happen without time."""
    for _ in range(60):
        await checkpoint()


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not holds():  # noqa: ASYNC110  what is told has no event to wait for
            await anyio.sleep(0.01)


@asynccontextmanager
async def running(channel: DataChannel | ProxyChannel) -> AsyncIterator[Recorder]:
    recorder = Recorder()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(channel.run, recorder)
        try:
            yield recorder
        finally:
            # Before we cancel: a wait in a cancelled scope would take the place of the test's error.
            if isinstance(channel, DataChannel):
                await channel.aclose()
            else:
                channel.close()
            tasks.cancel_scope.cancel()


async def new_channel(net: MemoryNetwork, config: PeerConfig | None = None, port: int = 0) -> DataChannel:
    return await net(config or PeerConfig()).data_channel(HOST, port)


@asynccontextmanager
async def pair(
    net: MemoryNetwork, *topics: bytes, config: PeerConfig | None = None
) -> AsyncIterator[tuple[DataChannel, Recorder, DataChannel, Recorder]]:
    """A publisher and a subscriber that is connected to it."""
    pub, sub = await new_channel(net, config), await new_channel(net)
    for topic in topics:
        sub.subscribe(topic)
    async with running(pub) as at_pub, running(sub) as at_sub:
        sub.connect(pub.endpoint)
        await until(lambda: at_sub.has("link_up") and at_pub.has("subscribed", len(topics)))
        yield pub, at_pub, sub, at_sub


# The proxy channel


def announce(name: str = "") -> bytes:
    return encode(Announce(PeerInfo(uuid4(), "tcp://127.0.0.1:9", name=name)))


@asynccontextmanager
async def followed(net: MemoryNetwork, proxy: MemoryProxy) -> AsyncIterator[tuple[ProxyChannel, Recorder]]:
    channel = net(PeerConfig()).proxy_channel(proxy.endpoint)
    async with running(channel) as told:
        await until(lambda: bool(told.frames))
        channel.follow(proxy.relay)
        await until(lambda: told.has("relay_up"))
        yield channel, told


async def test_the_first_frame_from_a_proxy_is_its_welcome() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, running(net(PeerConfig()).proxy_channel(PROXY)) as told:
        await quiet()
        assert [decode(frame) for frame in told.frames] == [Welcome(proxy.id, proxy.relay)]


async def test_a_proxy_that_starts_again_has_another_id_and_another_relay() -> None:
    net = MemoryNetwork()
    async with net.proxy() as first:
        pass
    async with net.proxy() as second:
        assert first.endpoint == second.endpoint
        assert (first.id, first.relay) != (second.id, second.relay)
        assert first.relay != second.relay


async def test_a_wildcard_port_is_resolved() -> None:
    net = MemoryNetwork()
    async with net.proxy("tcp://127.0.0.1:*") as one, net.proxy("tcp://127.0.0.1:0") as other:
        assert len({one.endpoint, other.endpoint, one.relay, other.relay}) == 4


async def test_two_proxies_cannot_have_the_same_endpoint() -> None:
    net = MemoryNetwork()
    async with net.proxy():
        with pytest.raises(BindError):
            await net.proxy().__aenter__()


async def test_a_proxy_is_entered_once() -> None:
    proxy = MemoryNetwork().proxy()
    async with proxy:
        pass
    with pytest.raises(ClosedError):
        await proxy.__aenter__()


def test_a_proxy_needs_an_endpoint() -> None:
    with pytest.raises(InvalidEndpoint):
        MemoryNetwork().proxy("here")


async def test_what_is_sent_before_the_proxy_subscribed_is_lost() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy:
        channel = net(PeerConfig()).proxy_channel(PROXY)
        async with running(channel) as told:
            await quiet()
            channel.send(announce("before"))
            channel.follow(proxy.relay)
            channel.send(announce("too early"))
            await quiet()
            late = announce("late")
            channel.send(late)
            await quiet()
            assert told.frames[1:] == [late]
            assert told.of("relay_up") == [PROXY]


async def test_a_proxy_relays_announces_and_farewells_to_everybody_and_nothing_else() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, followed(net, proxy) as (one, at_one), followed(net, proxy) as (_, at_other):
        farewell = encode(Farewell(proxy.id, "tcp://127.0.0.1:9"))
        for frame in (announce("a"), b"C", b"X" * 400, encode(Welcome(proxy.id, "tcp://127.0.0.1:1")), farewell):
            one.send(frame)
        await quiet()
        assert [frame[:1] for frame in at_one.frames] == [b"W", b"C", b"D"]
        assert at_other.frames[1:] == at_one.frames[1:]
        assert proxy.relayed == 2


async def test_a_test_can_publish_through_the_proxy_itself() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, followed(net, proxy) as (_, told):
        frame = announce("somebody")
        proxy.publish(frame)
        assert frame not in told.frames
        await quiet()
        assert told.frames[-1] == frame


@JUMPING
async def test_the_end_of_a_proxy_is_told_and_its_successor_is_found() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, followed(net, proxy) as (_, told):
        proxy.stop()
        proxy.stop()
        await quiet()
        assert sorted(told.kinds()[-2:]) == ["proxy_down", "relay_down"]
        await anyio.sleep(10)
        async with net.proxy() as successor:
            began = anyio.current_time()
            await until(lambda: len(told.frames) == 2)
            assert decode(told.frames[-1]) == Welcome(successor.id, successor.relay)
            assert anyio.current_time() - began <= PeerConfig().reconnect_interval_max + 0.1


@JUMPING
async def test_the_retries_of_a_refused_proxy_grow_to_their_bound() -> None:
    net = MemoryNetwork()
    async with running(net(PeerConfig()).proxy_channel(PROXY)) as told:
        await anyio.sleep(12)
        values = [event.value for event in told.sockets if event.event is SocketEvent.CONNECT_RETRIED]
        assert values[:7] == [100, 200, 400, 800, 1600, 2000, 2000]
        assert {event.socket for event in told.sockets} == {"proxySub"}


@pytest.mark.parametrize("endpoint", ["ipc://somewhere", "inproc://somewhere", "tcp://no.such.host:5555"])
async def test_a_proxy_that_cannot_be_is_one_that_refuses(endpoint: str) -> None:
    async with running(MemoryNetwork()(PeerConfig()).proxy_channel(endpoint)) as told:
        await quiet()
        assert [event.event for event in told.sockets] == [SocketEvent.CLOSED, SocketEvent.CONNECT_RETRIED]


async def test_following_another_relay_leaves_the_first() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, net.proxy("tcp://127.0.0.1:*") as other, followed(net, proxy) as (channel, told):
        channel.follow(other.relay)
        channel.send(announce())
        await quiet()
        channel.send(announce())
        await quiet()
        assert (proxy.relayed, other.relayed) == (0, 1)
        assert told.of("relay_up", "relay_down") == [PROXY, PROXY]


async def test_a_closed_proxy_channel_says_nothing_any_more() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, followed(net, proxy) as (channel, told):
        channel.close()
        channel.close()
        count = len(told.told)
        channel.follow(proxy.relay)
        channel.send(announce())
        proxy.publish(announce())
        await quiet()
        assert len(told.told) == count


# The data channel


async def test_nothing_is_told_in_the_call_that_caused_it() -> None:
    async with pair(MemoryNetwork(), b"a") as (pub, at_pub, sub, at_sub):
        counts = len(at_pub.told), len(at_sub.told)
        pub.send(b"a1")
        sub.subscribe(b"b")
        sub.drain(pub.endpoint, b"x")
        assert (len(at_pub.told), len(at_sub.told)) == counts
        await quiet()
        assert at_sub.told[counts[1] :] == [("frame", b"a1"), ("drained", pub.endpoint)]


async def test_subscriptions_are_replayed_in_byte_order_and_later_ones_follow_in_call_order() -> None:
    net = MemoryNetwork()
    pub, sub = await new_channel(net), await new_channel(net)
    for topic in (b"\xff", b"b", b"", b"aa"):
        sub.subscribe(topic)
    async with running(pub) as at_pub, running(sub):
        sub.connect(pub.endpoint)
        sub.subscribe(b"z")
        sub.subscribe(b"c")
        sub.unsubscribe(b"aa")
        await quiet()
        assert at_pub.of("subscribed") == [b"", b"aa", b"b", b"\xff", b"z", b"c"]
        assert at_pub.told[-1] == ("unsubscribed", b"aa")


async def test_subscriptions_are_replayed_in_byte_order_after_a_reconnect() -> None:
    net = MemoryNetwork()
    async with pair(net, b"b", b"c") as (pub, at_pub, sub, at_sub):
        sub.subscribe(b"a")
        await quiet()
        at_pub.told.clear()
        net.cut(pub.endpoint, sub.endpoint)
        net.heal(pub.endpoint, sub.endpoint)
        await until(lambda: at_sub.has("link_up", 2) and at_pub.has("subscribed", 3))
        assert at_pub.of("subscribed") == [b"a", b"b", b"c"]
        assert sorted(map(repr, at_pub.of("unsubscribed"))) == ["b'a'", "b'b'", "b'c'"]


async def test_a_frame_arrives_only_where_a_prefix_of_it_is_in_force() -> None:
    async with pair(MemoryNetwork(), b"a", b"bc") as (pub, _, sub, at_sub):
        for frame in (b"a", b"b", b"bcd", b"abc", b""):
            pub.send(frame)
        await quiet()
        assert at_sub.frames == [b"a", b"bcd", b"abc"]
        sub.unsubscribe(b"a")
        pub.send(b"a last")  # the end of the subscription has not arrived yet
        await quiet()
        pub.send(b"a lost")
        await quiet()
        assert at_sub.frames == [b"a", b"bcd", b"abc", b"a last"]


async def test_a_frame_that_matches_twice_arrives_once() -> None:
    async with pair(MemoryNetwork(), b"a", b"ab", b"") as (pub, _, _sub, at_sub):
        pub.send(b"abc")
        await quiet()
        assert at_sub.frames == [b"abc"]


async def test_frames_arrive_in_batches() -> None:
    async with pair(MemoryNetwork(), b"") as (pub, _, _sub, at_sub):
        for number in range(100):
            pub.send(b"%d" % number)
        await quiet()
        assert at_sub.frames == [b"%d" % number for number in range(100)]
        assert at_sub.batches == [100]


async def test_a_slow_subscriber_alone_loses_the_newest_frames() -> None:
    net = MemoryNetwork()
    async with pair(net, b"", config=PeerConfig(send_hwm=10)) as (pub, _, _sub, at_sub):
        for number in range(15):
            pub.send(b"%d" % number)
        await quiet()
        pub.send(b"after")
        await quiet()
        assert at_sub.frames == [b"%d" % number for number in range(10)] + [b"after"]


async def test_connecting_twice_is_connecting_once() -> None:
    async with pair(MemoryNetwork(), b"") as (pub, _, sub, at_sub):
        sub.connect(pub.endpoint)
        pub.send(b"x")
        await quiet()
        assert at_sub.frames == [b"x"]


async def test_disconnecting_loses_what_was_not_read() -> None:
    async with pair(MemoryNetwork(), b"a") as (pub, at_pub, sub, at_sub):
        pub.send(b"a")
        sub.disconnect(pub.endpoint)
        sub.disconnect(pub.endpoint)
        await quiet()
        assert at_sub.frames == []
        assert at_pub.of("unsubscribed") == [b"a"]
        assert not at_sub.has("link_down"), "what we end ourselves is not told"


async def test_draining_delivers_what_was_on_its_way_and_then_disconnects() -> None:
    net = MemoryNetwork()
    async with pair(net, b"") as (pub, _, sub, at_sub):
        pub.send(b"1")
        pub.send(b"2")
        net.kill(pub.endpoint)
        sub.drain(pub.endpoint, b"anybody")
        await quiet()
        assert [one for one in at_sub.told if one[0] in ("frame", "drained")] == [
            ("frame", b"1"),
            ("frame", b"2"),
            ("drained", pub.endpoint),
        ]
        count = len(at_sub.told)
        await anyio.sleep(0.3)
        assert len(at_sub.told) == count, "nobody tries to connect any more"


@JUMPING
async def test_draining_does_not_wait_for_the_latency() -> None:
    net = MemoryNetwork(latency=1.0)
    async with pair(net, b"") as (pub, _, sub, at_sub):
        pub.send(b"1")
        sub.drain(pub.endpoint, b"x")
        await quiet()
        assert at_sub.told[-2:] == [("frame", b"1"), ("drained", pub.endpoint)]


async def test_draining_where_we_are_not_connected_is_told_too() -> None:
    channel = await new_channel(MemoryNetwork())
    async with running(channel) as told:
        channel.drain("tcp://127.0.0.1:9", b"")
        await quiet()
        assert told.told == [("drained", "tcp://127.0.0.1:9")]


async def test_whoever_connects_while_we_drain_is_connected_anew() -> None:
    async with pair(MemoryNetwork(), b"") as (pub, _, sub, at_sub):
        sub.drain(pub.endpoint, b"x")
        sub.connect(pub.endpoint)
        await quiet()
        assert at_sub.kinds() == ["link_up", "drained", "link_up"]
        pub.send(b"1")
        await quiet()
        assert at_sub.frames == [b"1"]


async def test_a_killed_process_says_nothing_more_and_its_endpoint_refuses() -> None:
    net = MemoryNetwork()
    async with pair(net, b"") as (pub, at_pub, sub, at_sub):
        pub.send(b"last words")
        net.kill(pub.endpoint)
        pub.send(b"from the grave")
        assert await sub.probe(pub.endpoint) is Probe.REFUSED
        await quiet()
        assert at_sub.told[1:4] == [
            ("frame", b"last words"),
            ("link_down", pub.endpoint),
            ("link_retried", pub.endpoint),
        ]
        assert at_sub.frames == [b"last words"]
        assert at_pub.has("unsubscribed")


async def test_another_process_can_take_the_endpoint_of_a_dead_one() -> None:
    net = MemoryNetwork()
    async with pair(net, b"") as (pub, _, _sub, at_sub):
        port = int(pub.endpoint.rpartition(":")[2])
        with pytest.raises(BindError):
            await new_channel(net, port=port)
        net.kill(pub.endpoint)
        successor = await new_channel(net, port=port)
        async with running(successor) as at_successor:
            await until(lambda: at_sub.has("link_up", 2) and at_successor.has("subscribed"))
            successor.send(b"here")
            await quiet()
            assert at_sub.frames == [b"here"]


async def test_a_cut_breaks_connections_without_a_refusal_until_it_heals() -> None:
    net = MemoryNetwork()
    async with pair(net, b"") as (pub, _, sub, at_sub):
        pub.send(b"lost")
        net.cut(pub.endpoint, sub.endpoint)
        assert await sub.probe(pub.endpoint) is Probe.UNDECIDED
        await until(lambda: at_sub.has("link_down", 2))
        assert at_sub.frames == []
        net.heal(sub.endpoint, pub.endpoint)
        assert await sub.probe(pub.endpoint) is Probe.ACCEPTED
        await until(lambda: at_sub.has("link_up", 2))


async def test_a_cut_keeps_others_connected() -> None:
    net = MemoryNetwork()
    third = await new_channel(net)
    async with pair(net, b"") as (pub, _, sub, at_sub), running(third):
        net.cut(pub.endpoint, third.endpoint)
        pub.send(b"x")
        await quiet()
        assert at_sub.frames == [b"x"]
        assert await sub.probe(third.endpoint) is Probe.ACCEPTED


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp://127.0.0.1:9", Probe.REFUSED),
        ("tcp://localhost:9", Probe.UNDECIDED),
        ("tcp://0.0.0.0:9", Probe.UNDECIDED),
        ("nowhere", Probe.UNDECIDED),
    ],
)
async def test_a_probe_of_nobody(endpoint: str, expected: Probe) -> None:
    channel = await new_channel(MemoryNetwork())
    assert await channel.probe(endpoint) is expected
    await channel.aclose()


@JUMPING
async def test_a_probe_that_takes_too_long_is_undecided() -> None:
    net = MemoryNetwork(latency=0.15)
    one, other = await new_channel(net), await new_channel(net)
    began = anyio.current_time()
    assert await one.probe(other.endpoint) is Probe.UNDECIDED
    assert anyio.current_time() - began == pytest.approx(0.2)


async def test_closing_a_channel_ends_its_connections_after_what_it_had_sent() -> None:
    net = MemoryNetwork()
    async with pair(net, b"") as (pub, _, sub, at_sub):
        pub.send(b"1")
        await pub.aclose()
        await pub.aclose()
        assert await sub.probe(pub.endpoint) is Probe.REFUSED
        await quiet()
        assert at_sub.kinds()[1:3] == ["frame", "link_down"]


async def test_a_closed_channel_connects_nowhere() -> None:
    net = MemoryNetwork()
    async with pair(net, b"") as (pub, at_pub, sub, _):
        await sub.aclose()
        at_pub.told.clear()
        sub.connect(pub.endpoint)
        sub.subscribe(b"a")
        sub.send(b"b")
        await quiet()
        assert not at_pub.has("subscribed")


async def test_a_channel_bound_to_all_interfaces_is_found_at_loopback() -> None:
    net = MemoryNetwork()
    pub = await net(PeerConfig()).data_channel("0.0.0.0", 0)
    sub = await new_channel(net)
    async with running(pub), running(sub) as at_sub:
        sub.connect(pub.endpoint.replace("0.0.0.0", "127.0.0.1"))
        await quiet()
        assert at_sub.has("link_up")


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [("tcp://localhost:7", "tcp://127.0.0.1:7"), ("tcp://elsewhere:7", None)],
)
async def test_only_the_local_host_has_a_name(endpoint: str, expected: str | None) -> None:
    network: Network = MemoryNetwork()(PeerConfig())
    assert await network.resolve(endpoint) == expected
    await network.aclose()


async def test_socket_events_are_those_of_libzmq() -> None:
    net = MemoryNetwork()
    async with pair(net, b"") as (pub, at_pub, _sub, at_sub):
        net.kill(pub.endpoint)
        await until(lambda: at_sub.has("link_down", 2))
        assert [event.event for event in at_pub.sockets] == [SocketEvent.LISTENING]
        events = [event for event in at_sub.sockets if event.socket == "dataSub"]
        assert [event.event for event in events][:6] == [
            SocketEvent.CONNECTED,
            SocketEvent.HANDSHAKE_SUCCEEDED,
            SocketEvent.DISCONNECTED,
            SocketEvent.CONNECT_RETRIED,
            SocketEvent.CLOSED,
            SocketEvent.CONNECT_RETRIED,
        ]
        assert events[3].interval == 100
        assert events[0].at <= events[5].at
        assert events[0].at.tzinfo is not None


@JUMPING
async def test_a_hop_takes_the_latency() -> None:
    net = MemoryNetwork(latency=0.25)
    async with pair(net, b"") as (pub, _, _sub, at_sub):
        pub.send(b"x")
        await anyio.sleep(0.24)
        assert at_sub.frames == []
        await anyio.sleep(0.02)
        assert at_sub.frames == [b"x"]


@JUMPING
@pytest.mark.parametrize("seed", range(10))
async def test_what_goes_over_one_connection_arrives_in_order_whatever_the_latency(seed: int) -> None:
    random = Random(seed)
    net = MemoryNetwork(latency=lambda: random.random() * 0.1)
    async with pair(net, b"") as (pub, at_pub, sub, at_sub):
        for number in range(100):
            pub.send(b"%d" % number)
            sub.subscribe(b"s%d" % number)
            await anyio.sleep(random.random() * 0.01)
        await anyio.sleep(1)
        assert at_sub.frames == [b"%d" % number for number in range(100)]
        assert at_pub.of("subscribed")[1:] == [b"s%d" % number for number in range(100)]


async def test_who_was_never_there_cannot_be_killed_or_cut() -> None:
    net = MemoryNetwork()
    with pytest.raises(ValueError, match="nobody was ever at"):
        net.kill("tcp://127.0.0.1:9")
    async with net.proxy() as proxy:
        with pytest.raises(ValueError, match="nobody was ever at"):
            net.cut(proxy, "nonsense")


async def test_cancelling_a_channel_loses_nothing() -> None:
    net = MemoryNetwork()
    pub, sub = await new_channel(net), await new_channel(net)
    sub.subscribe(b"")
    async with running(pub) as at_pub:
        recorder = Recorder()
        sub.connect(pub.endpoint)
        sent = 0
        for turns in range(200):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sub.run, recorder)
                for _ in range(turns % 7):
                    await checkpoint()
                    if at_pub.has("subscribed"):
                        pub.send(b"%d" % sent)
                        sent += 1
                tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sub.run, recorder)
            await quiet()
            tasks.cancel_scope.cancel()
        assert recorder.frames == [b"%d" % number for number in range(sent)]
        assert sent > 100
    await sub.aclose()


async def test_ports_and_memory_do_not_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zdisco.testing._LAST_PORT", 40_010)
    net = MemoryNetwork()
    gone: weakref.WeakSet[object] = weakref.WeakSet()
    async with net.proxy() as proxy, Peer(proxy.endpoint, network=net) as stays:
        for _ in range(50):
            async with Peer(proxy.endpoint, network=net) as peer:
                assert peer.me.endpoint != stays.me.endpoint
                gone.add(peer)
        del peer
        gc.collect()
        assert len(gone) <= 1, "the generator of the loop may still hold the last one"


# Peers that have joined


async def test_peers_have_joined_each_other_and_get_what_else_is_given() -> None:
    async with MemoryNetwork().peers("a", "b", "c", headers={"k": "v"}) as peers:
        for peer in peers:
            assert set(peer.peers.values()) == {other.me for other in peers if other is not peer}
        assert [peer.me.name for peer in peers] == ["a", "b", "c"]
        assert peers[0].me.headers == {"k": "v"}


async def test_peers_use_the_proxy_that_runs_and_join_those_who_are_there() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, net.peers("a") as (a,), net.peers("b", "c") as (b, _):
        await a.wait_for(2, timeout=5)
        assert proxy.relayed
        assert a.peers[b.id].name == "b"
    async with net.peers("d", proxy="tcp://127.0.0.1:7777") as (d,):
        assert not d.peers
    # The proxy that was started for them has gone with them.
    async with net.proxy("tcp://127.0.0.1:7777"):
        pass


@JUMPING
async def test_peers_that_do_not_join_are_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    net = MemoryNetwork()
    monkeypatch.setattr("zdisco.testing._MemoryDataChannel.connect", lambda *_: None)
    with pytest.raises(TimeoutError):
        async with net.peers("a", "b"):
            raise AssertionError("they have joined")
