"""The real channels over real sockets."""

from __future__ import annotations

import errno
import socket as plain
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
import zmq

from zdisco._channels import DataListener, ProxyListener
from zdisco._core.actions import Drop
from zdisco._core.config import PeerConfig
from zdisco._core.endpoints import TcpEndpoint, parse
from zdisco._core.envelope import MAGIC
from zdisco._core.errors import BindError, InvalidEndpoint
from zdisco._core.model import Endpoint, PeerInfo, Probe
from zdisco._core.wire import Announce, Welcome, decode, encode
from zdisco._proxy import Proxy
from zdisco._zmq import options, sockets
from zdisco._zmq.channels import ZmqDataChannel, ZmqProxyChannel
from zdisco._zmq.monitor import MonitorEvent, SocketEvent
from zdisco._zmq.sockets import ZmqContext

pytestmark = pytest.mark.anyio

ANYWHERE = "tcp://127.0.0.1:*"
CONFIG = PeerConfig(reconnect_interval=0.01, reconnect_interval_max=0.02, zombie_after=0.05)
TIMEOUT = 10


class Listener(ProxyListener, DataListener):
    """Writes down what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.frames: list[bytes] = []
        self.events: list[MonitorEvent] = []
        self._changed = anyio.Event()

    def _tell(self, *what: object) -> None:
        self.told.append(what)
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed = anyio.Event()
            await self._changed.wait()

    async def until_told(self, *what: object, times: int = 1) -> None:
        await self.until(lambda: self.told.count(what) >= times)

    async def until_event(self, event: SocketEvent, *, endpoint: Endpoint = "", times: int = 1) -> None:
        await self.until(lambda: self.count(event, endpoint) >= times)

    def count(self, event: SocketEvent, endpoint: Endpoint = "") -> int:
        return sum(one.event is event and one.endpoint.startswith(endpoint) for one in self.events)

    def proxy_frames(self, proxy: Endpoint, frames: Sequence[bytes]) -> None:
        self.frames += frames
        for frame in frames:
            self._tell("frame", frame[:1])

    def proxy_down(self, proxy: Endpoint) -> None:
        self._tell("proxy_down", proxy)

    def relay_up(self, proxy: Endpoint) -> None:
        self._tell("relay_up", proxy)

    def relay_down(self, proxy: Endpoint) -> None:
        self._tell("relay_down", proxy)

    def data_frames(self, frames: Sequence[bytes], most: int) -> tuple[int, int]:
        self.frames += frames
        self._tell("frames", len(frames))
        return len(frames), len(frames)

    def subscribed(self, topic: bytes) -> None:
        self._tell("subscribed", topic)

    def unsubscribed(self, topic: bytes) -> None:
        self._tell("unsubscribed", topic)

    def link_up(self, endpoint: Endpoint) -> None:
        self._tell("link_up", endpoint)

    def link_down(self, endpoint: Endpoint) -> None:
        self._tell("link_down", endpoint)

    def link_retried(self, endpoint: Endpoint) -> None:
        self._tell("link_retried", endpoint)

    def link_rejected(self, endpoint: Endpoint) -> None:
        self._tell("link_rejected", endpoint)

    def drained(self, endpoint: Endpoint) -> None:
        self._tell("drained", endpoint)

    def dropped(self, drop: Drop, detail: str = "") -> None:
        self._tell("dropped", drop)

    def observed(self, event: MonitorEvent) -> None:
        self.events.append(event)
        self._changed.set()


@asynccontextmanager
async def network() -> AsyncIterator[ZmqContext]:
    context = sockets.new_context()
    try:
        with anyio.fail_after(TIMEOUT):
            yield context
    finally:
        # Closes what a failed test left open, too, or termination would wait for ever.
        context.destroy(linger=0)


class Data:
    """A data channel that runs, and what it told."""

    def __init__(self, channel: ZmqDataChannel) -> None:
        self.channel = channel
        self.endpoint = channel.endpoint
        self.heard = Listener()

    async def hear(self, other: Data) -> None:
        """Connect and subscribe to everything; return when that is in force."""
        before = other.heard.told.count(("subscribed", b""))
        self.channel.connect(other.endpoint)
        await other.heard.until_told("subscribed", b"", times=before + 1)


@asynccontextmanager
async def data_channel(context: ZmqContext, config: PeerConfig = CONFIG) -> AsyncIterator[Data]:
    data = Data(ZmqDataChannel(context, ANYWHERE, config))
    try:
        data.channel.subscribe(b"")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(data.channel.run, data.heard)
            yield data
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await data.channel.aclose()


@asynccontextmanager
async def data_channels(count: int, config: PeerConfig = CONFIG) -> AsyncIterator[list[Data]]:
    async with network() as context, AsyncExitStack() as stack:
        yield [await stack.enter_async_context(data_channel(context, config)) for _ in range(count)]


@asynccontextmanager
async def proxy_channel(endpoint: Endpoint) -> AsyncIterator[tuple[ZmqProxyChannel, Listener]]:
    async with network() as context:
        channel, heard = ZmqProxyChannel(context, endpoint, CONFIG), Listener()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(channel.run, heard)
                yield channel, heard
                tasks.cancel_scope.cancel()
        finally:
            channel.close()


def announce() -> bytes:
    return encode(Announce(PeerInfo(uuid4(), "tcp://127.0.0.1:40001"), session=b"1234"))


def free_port() -> Endpoint:
    """An endpoint where nobody listens."""
    with plain.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


# The proxy channel


async def test_a_peer_hears_the_welcome_follows_it_and_hears_itself() -> None:
    async with Proxy(ANYWHERE) as proxy, proxy_channel(proxy.endpoint) as (channel, heard):
        await heard.until_told("frame", b"W")
        welcome = decode(heard.frames[0])
        assert isinstance(welcome, Welcome)
        channel.follow(welcome.endpoint)
        await heard.until_told("relay_up", proxy.endpoint)
        frame = announce()
        channel.send(frame)
        await heard.until_told("frame", b"C")
        assert heard.frames[-1] == frame
        assert {event.socket for event in heard.events} == {"proxySub", "proxyPub"}


async def test_the_end_of_both_connections_is_told_and_a_restart_heard_after_it() -> None:
    async with Proxy(ANYWHERE) as proxy:
        endpoint = proxy.endpoint
    async with proxy_channel(endpoint) as (channel, heard):
        for times in (1, 2, 3):
            async with Proxy(endpoint) as proxy:
                await heard.until_told("frame", b"W", times=times)
                channel.follow(proxy.relay)
                await heard.until_told("relay_up", endpoint, times=times)
            await heard.until_told("relay_down", endpoint, times=times)
            await heard.until_told("proxy_down", endpoint, times=times)
        told = [what for what in heard.told if what[0] in ("frame", "proxy_down")]
        assert told == [("frame", b"W"), ("proxy_down", endpoint)] * 3


def greet_blocking(context: ZmqContext, endpoint: Endpoint, subscriber: sockets.Socket) -> zmq.Socket[bytes]:
    """Bind a proxy that greets, and hold up the event loop until the welcome has arrived."""
    rogue = options.proxy_xpub(context, CONFIG)
    sockets.set_welcome(rogue, b"W")
    end = time.monotonic() + TIMEOUT
    is_bound = False
    while time.monotonic() < end:
        # libzmq closes the listener of the one before in its own time.
        with suppress(BindError):
            is_bound = is_bound or bool(sockets.bind(rogue, endpoint))
        rogue.poll(1)
        if subscriber.zmq.poll(1):
            subscriber.wake()  # the question has swallowed the edge
            return rogue
    raise TimeoutError


async def test_the_end_of_a_connection_is_told_before_the_welcome_of_the_next() -> None:
    async with Proxy(ANYWHERE) as proxy:
        endpoint = proxy.endpoint
    async with network() as context, proxy_channel(endpoint) as (channel, heard):
        await heard.until(lambda: len(heard.events) > 0)
        for times in range(1, 6):
            rogue = greet_blocking(context, endpoint, channel._sub.socket)
            # When the event loop runs again, both tasks find work, and any of them may be the first to run.
            await heard.until_told("frame", b"W", times=times)
            rogue.close(0)
        told = [what[0] for what in heard.told]
        assert told == ["frame", *["proxy_down", "frame"] * 4]


async def test_a_proxy_channel_that_connects_anew_is_welcomed_again() -> None:
    async with Proxy(ANYWHERE) as proxy, proxy_channel(proxy.endpoint) as (channel, heard):
        await heard.until_told("frame", b"W")
        channel.reconnect()
        await heard.until_told("frame", b"W", times=2)
        assert heard.count(SocketEvent.HANDSHAKE_SUCCEEDED, proxy.endpoint) == 2


async def test_following_again_forgets_the_old_connection() -> None:
    async with Proxy(ANYWHERE) as one, Proxy(ANYWHERE) as two, proxy_channel(one.endpoint) as (channel, heard):
        for times, proxy in enumerate([one, two, one, two], start=1):
            channel.follow(proxy.relay)
            await heard.until_told("relay_up", one.endpoint, times=times)
            relayed = [one.relayed, two.relayed]
            channel.send(announce())
            while [one.relayed, two.relayed] == relayed:
                await anyio.lowlevel.checkpoint()
            assert proxy.relayed == relayed[proxy is two] + 1
        assert heard.told.count(("relay_up", one.endpoint)) == 4


async def test_a_relay_is_up_when_it_subscribes_to_what_announces_begin_with(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Proxy(ANYWHERE) as proxy, network() as context, proxy_channel(proxy.endpoint) as (channel, heard):
        read: list[bytes] = []
        take = channel._read_single

        def read_single(socket: sockets.Socket) -> list[bytes]:
            frames = take(socket)
            read.extend(frames)
            return frames

        monkeypatch.setattr(channel, "_read_single", read_single)
        xsub = options.proxy_xsub(context, CONFIG)
        endpoint = sockets.bind(xsub, ANYWHERE)
        channel.follow(endpoint)
        await heard.until_event(SocketEvent.HANDSHAKE_SUCCEEDED, endpoint=endpoint)
        xsub.send(b"\x01D")
        xsub.send(b"\x01Carol")
        while not {b"\x01D", b"\x01Carol"} <= set(read):
            xsub.poll(0)  # or it would not take the connection in
            await anyio.lowlevel.checkpoint()
        assert ("relay_up", proxy.endpoint) not in heard.told
        xsub.send(b"\x01C")
        await heard.until_told("relay_up", proxy.endpoint)
        xsub.close(0)


async def test_what_the_old_relay_subscribed_to_does_not_pass_for_the_new_one() -> None:
    async with Proxy(ANYWHERE) as proxy, network() as context, proxy_channel(proxy.endpoint) as (channel, heard):
        xsub = options.proxy_xsub(context, CONFIG)
        endpoint = sockets.bind(xsub, ANYWHERE)
        channel.follow(endpoint)
        await heard.until_event(SocketEvent.HANDSHAKE_SUCCEEDED, endpoint=endpoint)
        xsub.send(b"\x01C")
        # The reader does not run before the subscription is there and we follow another.
        while not channel._pub.socket.zmq.poll(1):
            xsub.poll(0)  # or it would not take the connection in
        nowhere = free_port()
        channel.follow(nowhere)
        await heard.until_event(SocketEvent.CLOSED, endpoint=nowhere)
        assert ("relay_up", proxy.endpoint) not in heard.told
        xsub.close(0)


async def test_no_socket_is_asked_for_accepts_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[int] = []
    real = zmq.Socket.monitor

    def watch(self: zmq.Socket[bytes], address: str, events: int) -> None:
        if events:  # else it is the end of one
            masks.append(events)
        real(self, address, events)

    monkeypatch.setattr(zmq.Socket, "monitor", watch)
    async with data_channels(1), proxy_channel(free_port()):
        assert masks == [SocketEvent.ALL & ~SocketEvent.ACCEPT_FAILED] * 4
    async with Proxy(ANYWHERE):
        assert len(masks) == 6
        assert not any(mask & SocketEvent.ACCEPT_FAILED for mask in masks)


@pytest.mark.parametrize("relay", ["", "nonsense", "tcp://", "tcp://127.0.0.1", "gopher://127.0.0.1:1"])
async def test_a_relay_that_cannot_be_used_is_dropped(relay: Endpoint) -> None:
    async with Proxy(ANYWHERE) as proxy, proxy_channel(proxy.endpoint) as (channel, heard):
        await heard.until_told("frame", b"W")
        channel.follow(relay)
        assert heard.told[-1] == ("dropped", Drop.REFUSED_ENDPOINT)
        channel.follow(proxy.relay)
        await heard.until_told("relay_up", proxy.endpoint)


async def test_a_well_known_endpoint_that_cannot_be_used_raises() -> None:
    async with network() as context:
        with pytest.raises(InvalidEndpoint):
            ZmqProxyChannel(context, "nonsense", CONFIG)


async def test_a_subscription_that_arrives_while_another_is_answered_is_told() -> None:
    class Answering(Listener):
        def subscribed(self, topic: bytes) -> None:
            super().subscribed(topic)
            if topic == b"one":
                sub.setsockopt(zmq.SUBSCRIBE, b"two")
                time.sleep(0.005)  # the I/O threads bring it while we are busy; the send then swallows the edge
            channel.send(b"answer")

    async with network() as context:
        sub = context.socket(zmq.SUB)
        channel = ZmqDataChannel(context, ANYWHERE, CONFIG)
        heard = Answering()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run, heard)
            sub.connect(channel.endpoint)
            sub.setsockopt(zmq.SUBSCRIBE, b"one")
            await heard.until_told("subscribed", b"two")
            tasks.cancel_scope.cancel()
        await channel.aclose()
        sub.close(0)


async def test_multipart_messages_of_a_proxy_are_dropped_whole() -> None:
    async with network() as context:
        rogue = options.proxy_xpub(context, CONFIG)
        async with proxy_channel(sockets.bind(rogue, ANYWHERE)) as (_, heard):
            reader = sockets.Socket(rogue)
            for _ in range(3):
                await reader.receive()
            rogue.send_multipart([b"C1", b"C2"])
            rogue.send(b"C3")
            await heard.until_told("frame", b"C")
            assert heard.frames == [b"C3"]
            assert ("dropped", Drop.MULTIPART) in heard.told
            reader.close(0)


async def test_a_connection_that_libzmq_gave_up_is_made_anew() -> None:
    async with network() as context:
        rogue = options.proxy_xpub(context, CONFIG)
        async with proxy_channel(sockets.bind(rogue, ANYWHERE)) as (_, heard):
            reader = sockets.Socket(rogue)
            for _ in range(3):
                await reader.receive()
            reader.send_nowait(b"C" + bytes(options.MAX_DISCOVERY_MESSAGE))
            while await reader.receive() != b"\x01C":
                pass
            await heard.until_told("proxy_down", heard.events[0].endpoint)
            reader.send_nowait(b"C")
            await heard.until_told("frame", b"C")
            reader.close(0)


async def test_a_closed_proxy_channel_ends_its_run_and_takes_no_harm() -> None:
    async with Proxy(ANYWHERE) as proxy, network() as context:
        channel, heard = ZmqProxyChannel(context, proxy.endpoint, CONFIG), Listener()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run, heard)
            await heard.until_told("frame", b"W")
            channel.close()
            channel.close()
        channel.send(b"C")
        channel.follow(proxy.relay)


# The data channel


async def test_frames_arrive_and_links_are_told() -> None:
    async with data_channels(2) as (one, two):
        await one.hear(two)
        two.channel.send(b"hello")
        await one.heard.until(lambda: one.heard.frames == [b"hello"])
        await one.heard.until_told("link_up", two.endpoint)
        await two.channel.aclose()
        await one.heard.until_told("link_down", two.endpoint)
        await one.heard.until_told("link_retried", two.endpoint)
        assert {event.socket for event in one.heard.events} == {"dataPub", "dataSub"}


async def test_connecting_twice_gives_one_copy() -> None:
    async with data_channels(2) as (one, two):
        await one.hear(two)
        one.channel.connect(two.endpoint)
        two.channel.send(b"1")
        two.channel.send(b"2")
        await one.heard.until(lambda: b"2" in one.heard.frames)
        assert one.heard.frames == [b"1", b"2"]


async def test_every_single_subscription_is_told_and_its_end() -> None:
    async with data_channels(3) as (one, two, three):
        for other in (two, three):
            other.channel.subscribe(b"t")
            other.channel.connect(one.endpoint)
        await one.heard.until_told("subscribed", b"t", times=2)
        two.channel.unsubscribe(b"t")
        await one.heard.until_told("unsubscribed", b"t")
        await three.channel.aclose()
        await one.heard.until_told("unsubscribed", b"t", times=2)


async def test_what_is_no_subscription_is_dropped() -> None:
    async with network() as context, data_channel(context) as one:
        xsub = context.socket(zmq.XSUB, socket_class=zmq.Socket)
        xsub.connect(one.endpoint)
        xsub.send(b"rubbish")
        xsub.send_multipart([b"two", b"\x01frames"])
        xsub.send(b"\x01t")
        await one.heard.until_told("subscribed", b"t")
        assert one.heard.told.count(("dropped", Drop.MALFORMED_SUBSCRIPTION)) == 2
        xsub.close(0)


async def test_a_handshake_that_fails_is_told() -> None:
    async with data_channels(1) as (one,):
        with plain.create_server(("127.0.0.1", 0)) as server:
            endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
            one.channel.connect(endpoint)
            await anyio.wait_readable(server)
            server.accept()[0].close()
            await one.heard.until_told("link_rejected", endpoint)


async def test_after_a_disconnect_libzmq_does_not_go_on_retrying() -> None:
    async with data_channels(2) as (one, two):
        await one.hear(two)
        await one.heard.until_told("link_up", two.endpoint)
        one.channel.disconnect(two.endpoint)
        one.channel.disconnect(two.endpoint)
        await two.heard.until_told("unsubscribed", b"")
        await two.channel.aclose()
        # The same clock of libzmq drives both: five retries of this one leave time for one of the other.
        elsewhere = free_port()
        one.channel.connect(elsewhere)
        await one.heard.until_told("link_retried", elsewhere, times=5)
        assert one.heard.count(SocketEvent.CONNECT_RETRIED, two.endpoint) == 0


async def test_disconnecting_a_dead_peer_ends_its_retries() -> None:
    async with data_channels(1) as (one,):
        dead, elsewhere = free_port(), free_port()
        one.channel.connect(dead)
        await one.heard.until_told("link_retried", dead)
        one.channel.disconnect(dead)
        one.channel.connect(elsewhere)
        await one.heard.until_told("link_retried", elsewhere)
        # One that was on its way may still come, then none.
        retried = one.heard.count(SocketEvent.CONNECT_RETRIED, dead)
        await one.heard.until_told("link_retried", elsewhere, times=8)
        assert one.heard.count(SocketEvent.CONNECT_RETRIED, dead) <= retried + 1
        assert one.heard.told.count(("link_retried", dead)) <= retried


async def test_an_endpoint_can_be_connected_again_after_a_disconnect() -> None:
    async with data_channels(2) as (one, two):
        for _ in range(5):
            await one.hear(two)
            one.channel.disconnect(two.endpoint)
        await one.hear(two)
        two.channel.send(b"x")
        await one.heard.until(lambda: b"x" in one.heard.frames)


async def test_a_channel_that_listens_at_another_address_ends_what_came_in_at_the_former() -> None:
    async with data_channels(2) as (one, other):
        await other.hear(one)
        one.channel.rebind("127.0.0.2")
        former = one.endpoint
        one.endpoint = one.channel.endpoint
        assert parse(one.endpoint) == TcpEndpoint("127.0.0.2", parse(former).port)
        await other.heard.until_told("link_down", former)
        await other.hear(one)
        one.channel.send(b"frame")
        await other.heard.until(lambda: b"frame" in other.heard.frames)
        with plain.socket() as refused:
            assert refused.connect_ex(("127.0.0.1", parse(former).port)) == errno.ECONNREFUSED


async def test_where_the_port_is_taken_at_the_other_address_another_one_is() -> None:
    async with data_channels(1) as (one,):
        with plain.create_server(("127.0.0.2", parse(one.endpoint).port)):
            one.channel.rebind("127.0.0.2")
            assert parse(one.channel.endpoint).host == "127.0.0.2"
            assert one.channel.endpoint.rpartition(":")[2] != one.endpoint.rpartition(":")[2]


async def test_what_cannot_be_bound_changes_nothing() -> None:
    async with data_channels(2) as (one, other):
        with pytest.raises(BindError):
            one.channel.rebind("192.0.2.1")
        assert one.channel.endpoint == one.endpoint
        await other.hear(one)


@pytest.mark.parametrize("sender", [b"dead", b""])
@pytest.mark.parametrize(("count", "topic"), [(300, b"dead"), (5000, b"dead"), (900, b"dead" + 5000 * b"x")])
async def test_a_drain_under_traffic_delivers_all_that_the_dead_peer_had_sent(
    sender: bytes, count: int, topic: bytes
) -> None:
    async with data_channels(4) as (one, dead, *others):
        for other in (dead, *others):
            await one.hear(other)

        async def flood(other: Data) -> None:
            while True:
                for _ in range(20):
                    other.channel.send(b"topic\0\xda\x01live" + bytes(100))
                await anyio.lowlevel.checkpoint()

        header = MAGIC + sender if sender else b""
        frames = [b"%b %d %b" % (topic, number, header) for number in range(count)]
        async with anyio.create_task_group() as tasks:
            for other in others:
                tasks.start_soon(flood, other)
            await one.heard.until(lambda: len(one.heard.frames) > 100)
            for frame in frames:
                dead.channel.send(frame)
            await dead.channel.aclose()
            one.channel.drain(dead.endpoint, sender)
            one.channel.drain(dead.endpoint, sender)
            await one.heard.until_told("drained", dead.endpoint)
            tasks.cancel_scope.cancel()
        assert [frame for frame in one.heard.frames if frame.startswith(b"dead")] == frames
        assert one.heard.told.count(("drained", dead.endpoint)) == 1


async def test_several_drains_at_once_each_end() -> None:
    async with data_channels(5) as (one, *others):
        for other in others:
            await one.hear(other)
            for number in range(300):
                other.channel.send(b"%b %d" % (other.endpoint.encode(), number))
            await other.channel.aclose()
        for other in others:
            one.channel.drain(other.endpoint, other.endpoint.encode())
        for other in others:
            await one.heard.until_told("drained", other.endpoint)
        assert len(one.heard.frames) == 4 * 300


async def test_a_peer_that_lives_and_is_silent_can_be_drained() -> None:
    async with data_channels(2) as (one, two):
        await one.hear(two)
        two.channel.send(b"last words")
        one.channel.drain(two.endpoint, b"last")
        await one.heard.until_told("drained", two.endpoint)
        assert one.heard.frames == [b"last words"]
        await two.heard.until_told("unsubscribed", b"")


async def test_a_peer_that_does_not_fall_silent_is_drained_in_bounded_time() -> None:
    config = PeerConfig(suspect_timeout=0.2, zombie_after=0.1)
    async with data_channels(2, config) as (one, two):
        await one.hear(two)

        async def flood() -> None:
            while True:
                for _ in range(20):
                    two.channel.send(b"live")
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            one.channel.drain(two.endpoint, b"live")
            await one.heard.until_told("drained", two.endpoint)
            tasks.cancel_scope.cancel()


async def test_a_peer_whose_queue_is_never_empty_is_drained_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with data_channels(2, PeerConfig(suspect_timeout=0.1, zombie_after=0.05)) as (one, two):
        await one.hear(two)
        ours, real = one.channel._sub.socket, sockets.Socket.receive_nowait

        def receive_nowait(self: sockets.Socket, limit: int = sockets.BATCH) -> list[bytes]:
            frames = real(self, limit)
            if self is ours:
                self.drained = False
                frames = [b"topic\0" + MAGIC + b"live"]
            return frames

        monkeypatch.setattr(sockets.Socket, "receive_nowait", receive_nowait)
        began = anyio.current_time()
        one.channel.drain(two.endpoint, b"live")
        await one.heard.until_told("drained", two.endpoint)
        assert anyio.current_time() >= began + 0.1
        monkeypatch.undo()


async def test_draining_where_nothing_is_connected_ends_at_once_but_not_in_the_call() -> None:
    async with data_channels(1) as (one,):
        await one.heard.until_event(SocketEvent.LISTENING)
        one.channel.drain("tcp://127.0.0.1:1", b"x")
        assert one.heard.told == []
        await one.heard.until_told("drained", "tcp://127.0.0.1:1")


async def test_multipart_data_messages_are_delivered_as_frames_and_survive_a_disconnect() -> None:
    async with network() as context, data_channel(context) as one:
        foreign = sockets.Socket(options.data_pub(context, CONFIG))
        endpoint = sockets.bind(foreign.zmq, ANYWHERE)
        one.channel.connect(endpoint)
        assert await foreign.receive() == b"\x01"
        for _ in range(1000):
            foreign.zmq.send_multipart([b"a", b"b", b"c"])
        await one.heard.until(lambda: len(one.heard.frames) > 0)
        assert len(one.heard.frames) % 3 == 0
        one.channel.disconnect(endpoint)
        two = sockets.Socket(options.data_pub(context, CONFIG))
        one.channel.connect(sockets.bind(two.zmq, ANYWHERE))
        assert await two.receive() == b"\x01"
        two.send_nowait(b"end")
        await one.heard.until(lambda: one.heard.frames[-1] == b"end")
        foreign.close(0)
        two.close(0)


async def test_what_cannot_be_connected_is_dropped() -> None:
    async with data_channels(1) as (one,):
        await one.heard.until_event(SocketEvent.LISTENING)
        one.channel.connect("nonsense")
        assert one.heard.told == [("dropped", Drop.REFUSED_ENDPOINT)]


async def test_an_address_in_use_is_a_bind_error_and_leaves_nothing_open() -> None:
    async with data_channels(1) as (one,), network() as context:
        with pytest.raises(BindError):
            ZmqDataChannel(context, one.endpoint, CONFIG)


async def test_a_closed_data_channel_ends_its_run_and_takes_no_harm() -> None:
    async with network() as context:
        channel = ZmqDataChannel(context, ANYWHERE, CONFIG)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run, Listener())
            await anyio.lowlevel.checkpoint()
            await channel.aclose()
            await channel.aclose()
        channel.connect("tcp://127.0.0.1:1")
        channel.drain("tcp://127.0.0.1:1", b"")
        channel.disconnect("tcp://127.0.0.1:1")
        channel.subscribe(b"x")
        channel.unsubscribe(b"x")
        channel.send(b"x")


# Probes


async def test_a_probe_tells_whether_somebody_listens() -> None:
    async with data_channels(2) as (one, two):
        assert await one.channel.probe(two.endpoint) is Probe.ACCEPTED
        assert await one.channel.probe(free_port()) is Probe.REFUSED


@pytest.mark.parametrize(
    "endpoint",
    ["", "nonsense", "ipc:///x", "tcp://localhost:1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:99999", "tcp://[::x]:1"],
)
async def test_a_probe_of_what_is_no_numeric_endpoint_is_undecided(endpoint: Endpoint) -> None:
    async with data_channels(1) as (one,):
        assert await one.channel.probe(endpoint) is Probe.UNDECIDED


async def test_a_probe_without_answer_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyio, "wait_writable", lambda _: anyio.sleep_forever())
    async with data_channels(2, PeerConfig(probe_timeout=0.02)) as (one, two):
        assert await one.channel.probe(two.endpoint) is Probe.UNDECIDED


async def test_a_probe_that_meets_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with data_channels(1) as (one,):
        endpoint = free_port()
        where = ("127.0.0.1", parse(endpoint).port)

        class Bound(plain.socket):
            """A socket that got, as its own port, the one it connects to."""

            def connect_ex(self, address: object) -> int:
                self.bind(where)
                return super().connect_ex(where)

        monkeypatch.setattr(plain, "socket", Bound)
        assert await one.channel.probe(endpoint) is Probe.REFUSED


async def test_a_probe_that_finds_no_route_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(plain.socket):
        """A socket of a machine without a route."""

        def connect_ex(self, address: object) -> int:
            return errno.EHOSTUNREACH

    async with data_channels(1) as (one,):
        monkeypatch.setattr(plain, "socket", Lost)
        assert await one.channel.probe(one.endpoint) is Probe.UNDECIDED
        monkeypatch.undo()


async def test_a_cancelled_probe_leaves_nothing_open() -> None:
    async with data_channels(1) as (one,):
        for turns in range(4):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.channel.probe, one.endpoint)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
