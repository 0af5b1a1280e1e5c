"""What publishing does when the queue to a subscriber is full, and how one that was given up is shut out."""

from __future__ import annotations

import os
import socket as plain
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

import anyio
import anyio.abc
import pytest
import zmq
from anyio.lowlevel import checkpoint
from attrs import define, field
from trio.testing import MockClock

from zdisco import Cause, ClosedError, Peer, PeerConfig, PeerGone
from zdisco._channels import DataChannel
from zdisco._core.envelope import ALL, inbox
from zdisco._zmq import sockets
from zdisco._zmq.accepted import Accepted
from zdisco._zmq.channels import ZmqDataChannel
from zdisco._zmq.monitor import MonitorEvent, SocketEvent
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio

JUMPING = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="trio-jumping")]
)
HOST = "127.0.0.1"
PROXY = f"tcp://{HOST}:5555"
STALLED, READER = UUID(int=7), UUID(int=8)
LIMIT = 20


class Listener:
    """Writes down what matters here."""

    def __init__(self) -> None:
        self.topics: list[bytes] = []
        self.frames: list[bytes] = []
        self.events: list[MonitorEvent] = []

    def subscribed(self, topic: bytes) -> None:
        self.topics.append(topic)

    def data_frames(self, frames: Sequence[bytes], most: int) -> tuple[int, int]:
        self.frames += frames
        return len(frames), len(frames)

    def observed(self, event: MonitorEvent) -> None:
        self.events.append(event)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  what is told has no event to wait for
        await anyio.sleep(0.001)


@define
class Publisher:
    """A data channel, one subscriber that reads, and tasks that publish."""

    channel: DataChannel
    heard: Listener
    reader: Listener
    tasks: anyio.abc.TaskGroup
    sent: list[bytes] = field(factory=list)
    scopes: list[anyio.CancelScope] = field(factory=list)

    async def publish(self, frame: bytes) -> None:
        with anyio.CancelScope() as scope:
            self.scopes.append(scope)
            while not self.channel.publish(frame):
                await self.channel.writable()
            self.sent.append(frame)

    async def start(self, *frames: bytes) -> None:
        """Publish each in a task of its own, which has begun when this returns."""
        for frame in frames:
            before = len(self.scopes)
            self.tasks.start_soon(self.publish, frame)
            await until(lambda before=before: len(self.scopes) > before)  # type: ignore[misc]

    async def fill(self, frame: bytes) -> None:
        """Publish until it would have to wait, and go on having to while nobody reads."""
        refused = 0
        while refused < 20:
            refused = 0 if self.channel.publish(frame) else refused + 1
            if refused:
                await anyio.sleep(0.002)
            else:
                self.sent.append(frame)
                assert len(self.sent) < 200, "nobody is waited for"

    async def until_read(self) -> None:
        await until(lambda: len([one for one in self.reader.frames if one[:1] == b"t"]) == len(self.sent))
        assert [one for one in self.reader.frames if one[:1] == b"t"] == self.sent


# Real sockets

BIG = b"t" + bytes(1 << 17)
"""So that few of them fill the buffers of a connection."""


@contextmanager
def stalled(context: sockets.ZmqContext, endpoint: str, *topics: bytes) -> Iterator[zmq.Socket[bytes]]:
    """A subscriber that reads nothing unless the test does, and does not connect again."""
    sub = context.socket(zmq.SUB, socket_class=zmq.Socket)
    sub.setsockopt(zmq.RCVHWM, 1)
    sub.setsockopt(zmq.RCVBUF, 1 << 14)  # else the kernel lets it grow for a while after it seemed full
    sub.setsockopt(zmq.RECONNECT_IVL, -1)
    for topic in topics:
        sub.setsockopt(zmq.SUBSCRIBE, topic)
    sub.connect(endpoint)
    try:
        yield sub
    finally:
        sub.close(0)


@asynccontextmanager
async def publisher(**config: Any) -> AsyncIterator[tuple[Publisher, sockets.ZmqContext]]:
    context = sockets.new_context()
    channel = ZmqDataChannel(context, "tcp://127.0.0.1:*", PeerConfig(send_hwm=4, **config))
    reader = ZmqDataChannel(context, "tcp://127.0.0.1:*", PeerConfig())
    heard, at_reader = Listener(), Listener()
    try:
        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(channel.run, heard)
                tasks.start_soon(reader.run, at_reader)
                for topic in (b"t", ALL, inbox(READER)):
                    reader.subscribe(topic)
                reader.connect(channel.endpoint)
                await until(lambda: inbox(READER) in heard.topics)
                yield Publisher(channel, heard, at_reader, tasks), context
                tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await channel.aclose()
            await reader.aclose()
            context.destroy(0)


async def test_a_stalled_subscriber_holds_all_publishers_until_it_is_shut_out_and_a_reader_loses_nothing() -> None:
    async with publisher(overflow="wait") as (pub, context):
        with stalled(context, pub.channel.endpoint, b"t", inbox(STALLED)):
            await until(lambda: inbox(STALLED) in pub.heard.topics)
            await pub.fill(BIG)
            frames = [b"t%d" % number for number in range(5)]
            held = len(pub.sent)
            await pub.start(*frames)
            await pub.until_read()
            assert len(pub.sent) == held
            pub.channel.shut(READER.bytes[::-1])
            pub.channel.shut(STALLED.bytes)
            await until(lambda: len(pub.sent) == held + 5)
            assert sorted(pub.sent[held:]) == frames
            await pub.until_read()


async def test_a_publisher_that_is_cancelled_while_it_waits_publishes_nothing_and_holds_nobody_up() -> None:
    async with publisher(overflow="wait") as (pub, context):
        with stalled(context, pub.channel.endpoint, b"t") as sub:
            await until(lambda: pub.heard.topics.count(b"t") == 2)
            await pub.fill(BIG)
            held = len(pub.sent)
            await pub.start(b"t1", b"t2", b"t3")
            pub.scopes[0].cancel()
            received = [sub.recv() for _ in range(held)]
            await until(lambda: len(pub.sent) == held + 2)
            assert sorted(pub.sent[held:]) == [b"t2", b"t3"]
            assert received + [sub.recv() for _ in range(2)] == pub.sent
            await pub.until_read()


@pytest.mark.parametrize("topic", [ALL, inbox(READER)])
async def test_control_frames_leave_while_a_subscriber_to_everything_is_full_and_it_loses_nothing(topic: bytes) -> None:
    async with publisher(overflow="wait") as (pub, context):
        with stalled(context, pub.channel.endpoint, b"") as sub:
            await until(lambda: b"" in pub.heard.topics)
            await pub.fill(BIG)
            pub.channel.send(topic + b"1")
            await until(lambda: topic + b"1" in pub.reader.frames)
            await pub.fill(BIG)  # it is still waited for
            # More than there is room for: the reader gets them all the same.
            for number in range(2, 12):
                pub.channel.send(topic + b"%d" % number)
                await until(lambda count=number: pub.reader.frames[-1] == topic + b"%d" % count)  # type: ignore[misc]
            received = [sub.recv() for _ in range(len(pub.sent) + 1)]
            assert [frame for frame in received if frame[:1] == b"t"] == pub.sent
            assert topic + b"1" in received


async def test_with_drop_a_full_subscriber_delays_nobody() -> None:
    async with publisher(overflow="drop") as (pub, context):
        with stalled(context, pub.channel.endpoint, b"t"):
            await until(lambda: pub.heard.topics.count(b"t") == 2)
            for _ in range(50):
                await pub.publish(BIG)
                await until(lambda: len(pub.reader.frames) == len(pub.sent))


async def test_closing_the_channel_ends_every_wait() -> None:
    errors: list[ClosedError] = []

    async def wait() -> None:
        try:
            await pub.publish(b"t")
        except ClosedError as error:
            errors.append(error)

    async with publisher(overflow="wait") as (pub, context):
        with stalled(context, pub.channel.endpoint, b"t"):
            await until(lambda: pub.heard.topics.count(b"t") == 2)
            await pub.fill(BIG)
            for _ in range(3):
                pub.tasks.start_soon(wait)
            await until(lambda: len(pub.scopes) == 3)
            await pub.channel.aclose()
            await until(lambda: len(errors) == 3)
            with pytest.raises(ClosedError):
                pub.channel.publish(b"t")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the time covers only what is not acknowledged")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it is the kernel that does it
async def test_who_reads_nothing_for_tcp_timeout_is_cut_off() -> None:
    async with publisher(overflow="wait", tcp_timeout=0.4) as (pub, context):
        with stalled(context, pub.channel.endpoint, b"t"):
            await until(lambda: pub.heard.topics.count(b"t") == 2)
            await pub.fill(BIG)
            await pub.start(b"t1")
            await until(lambda: pub.sent[-1] == b"t1")
            await until(lambda: SocketEvent.DISCONNECTED in [event.event for event in pub.heard.events])


# What was accepted, by descriptor


@contextmanager
def connections(count: int) -> Iterator[tuple[Accepted, list[plain.socket], list[plain.socket]]]:
    """The table of a port, and both ends of connections to it."""
    with ExitStack() as stack:
        server = stack.enter_context(plain.create_server(("127.0.0.1", 0)))
        table = Accepted(server.getsockname()[1])
        clients, accepted = [], []
        for _ in range(count):
            clients.append(stack.enter_context(plain.create_connection(server.getsockname())))
            accepted.append(stack.enter_context(server.accept()[0]))
            table.accepted(accepted[-1].fileno())
        yield table, clients, accepted


def has_ended(client: plain.socket) -> bool:
    client.settimeout(0)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def test_the_connection_of_a_peer_is_shut_and_no_other() -> None:
    with connections(2) as (table, clients, accepted), connections(1) as (_, [stranger], [elsewhere]):
        table.note(accepted[0].fileno(), STALLED.bytes)
        table.note(accepted[1].fileno(), READER.bytes)
        table.accepted(elsewhere.fileno())
        table.note(elsewhere.fileno(), STALLED.bytes)
        assert len(table) == 2, "a connection to another port is none of ours"
        table.shut(STALLED.bytes)
        table.shut(STALLED.bytes)
        assert [has_ended(client) for client in (*clients, stranger)] == [True, False, False]
        assert len(table) == 1


def test_a_descriptor_that_has_become_another_connection_is_left_alone() -> None:
    with connections(2) as (table, clients, accepted):
        table.note(accepted[0].fileno(), STALLED.bytes)
        os.dup2(accepted[1].fileno(), accepted[0].fileno())
        table.shut(STALLED.bytes)
        assert not has_ended(clients[1])


def test_what_has_ended_is_forgotten_and_not_noted_again() -> None:
    with connections(1) as (table, clients, [accepted]):
        number = accepted.fileno()
        table.note(number, STALLED.bytes)
        assert len(table) == 1
        table.ended(number)
        assert len(table) == 0
        # A subscription that came over it may be read later. The number may be another connection's then.
        table.note(number, STALLED.bytes)
        assert len(table) == 0
        table.shut(STALLED.bytes)
        assert not has_ended(clients[0])


@pytest.mark.parametrize("what", ["a file", "nothing"])
def test_what_is_no_connection_is_not_noted(what: str) -> None:
    table, number = Accepted(1), os.open(os.devnull, os.O_RDONLY)
    table.accepted(number)
    if what == "nothing":
        os.close(number)
    table.note(number, STALLED.bytes)
    if what == "a file":
        os.close(number)
    assert len(table) == 0


# In memory


@asynccontextmanager
async def memory_publisher(*topics: bytes, **config: Any) -> AsyncIterator[tuple[Publisher, DataChannel]]:
    """A publisher, and a subscriber to it that has connected and does not read until its ``run`` is started."""
    net = MemoryNetwork()
    channel = await net(PeerConfig(send_hwm=2, **config)).data_channel(HOST, 0)
    sub = await net(PeerConfig()).data_channel(HOST, 0)
    heard, at_sub = Listener(), Listener()
    for topic in topics:
        sub.subscribe(topic)
    sub.connect(channel.endpoint)
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run, heard)
            async with anyio.create_task_group() as reading:
                reading.start_soon(sub.run, at_sub)
                await until(lambda: len(heard.topics) == len(topics))
                reading.cancel_scope.cancel()
            yield Publisher(channel, heard, at_sub, tasks), sub
            await channel.aclose()
            await sub.aclose()
            tasks.cancel_scope.cancel()


async def quiet() -> None:
    for _ in range(30):
        await checkpoint()


async def test_in_memory_publishers_wait_for_room_and_all_go_on() -> None:
    async with memory_publisher(b"t", overflow="wait") as (pub, sub):
        frames = [b"t%d" % number for number in range(9)]
        await pub.start(*frames)
        await quiet()
        assert pub.sent == frames[:2]
        await pub.start(b"u")
        assert pub.sent.pop() == b"u", "nobody reads that, so nobody is waited for"
        pub.tasks.start_soon(sub.run, pub.reader)
        await until(lambda: len(pub.reader.frames) == 9)
        assert pub.reader.frames == pub.sent
        assert sorted(pub.sent) == frames


async def test_in_memory_a_cancelled_publisher_publishes_nothing() -> None:
    async with memory_publisher(b"t", overflow="wait") as (pub, sub):
        await pub.start(b"t0", b"t1", b"t2", b"t3")
        pub.scopes[2].cancel()
        pub.tasks.start_soon(sub.run, pub.reader)
        await until(lambda: len(pub.reader.frames) == 3)
        assert pub.reader.frames == pub.sent == [b"t0", b"t1", b"t3"]


@pytest.mark.parametrize("shuts", [True, False])
async def test_in_memory_who_is_shut_out_or_unsubscribes_is_not_waited_for(shuts: bool) -> None:
    async with memory_publisher(b"t", inbox(STALLED), overflow="wait") as (pub, sub):
        await pub.start(b"t0", b"t1", b"t2")
        pub.channel.shut(READER.bytes)
        await quiet()
        assert len(pub.sent) == 2
        if shuts:
            pub.channel.shut(STALLED.bytes)
        else:
            sub.unsubscribe(b"t")
        await until(lambda: len(pub.sent) == 3)
        pub.tasks.start_soon(sub.run, pub.reader)
        await quiet()
        assert pub.reader.frames == ([] if shuts else [b"t0", b"t1"])


async def test_in_memory_control_frames_have_room_where_data_waits() -> None:
    async with memory_publisher(b"", overflow="wait") as (pub, sub):
        await pub.start(b"t0", b"t1", b"t2")
        for number in range(3):
            pub.channel.send(ALL + b"%d" % number)
        pub.tasks.start_soon(sub.run, pub.reader)
        await until(lambda: b"t2" in pub.reader.frames)
        assert pub.reader.frames == [b"t0", b"t1", ALL + b"0", ALL + b"1", b"t2"]


async def test_in_memory_with_drop_nobody_waits_and_the_newest_are_lost() -> None:
    async with memory_publisher(b"t", overflow="drop") as (pub, sub):
        await pub.start(b"t0", b"t1", b"t2")
        assert len(pub.sent) == 3
        pub.tasks.start_soon(sub.run, pub.reader)
        await quiet()
        assert pub.reader.frames == [b"t0", b"t1"]


# Peers


@asynccontextmanager
async def two_peers(net: MemoryNetwork, overflow: str) -> AsyncIterator[tuple[Peer, Peer]]:
    config = PeerConfig(send_hwm=3, overflow=overflow)
    async with net.proxy(), Peer(PROXY, network=net, config=config) as one, Peer(PROXY, network=net) as other:
        await one.wait_for(1)
        await other.wait_for(1)
        yield one, other


@JUMPING
@pytest.mark.parametrize(("overflow", "count"), [("wait", 20), ("drop", 3)])
async def test_a_peer_that_waits_delivers_what_one_that_drops_does_not(overflow: str, count: int) -> None:
    async with two_peers(MemoryNetwork(latency=0.05), overflow) as (one, other), other.subscribe("t") as messages:
        for number in range(20):
            await one.publish("t", b"%d" % number)
        await one.publish("nobody reads this", b"")
        received = [(await anext(messages)).payload for _ in range(count)]
        assert received == [b"%d" % number for number in range(count)]
        await anyio.sleep(1)
        assert not messages._queue


@JUMPING
@pytest.mark.parametrize("how", ["leave", "close"])
async def test_leaving_ends_every_publish_that_waits(how: str) -> None:
    net = MemoryNetwork(latency=0.05)
    errors: list[tuple[str, float]] = []

    async def publish() -> None:
        try:
            for _ in range(4):
                await one.publish("t", b"")
        except ClosedError as error:
            errors.append((str(error), anyio.current_time()))

    async with two_peers(net, "wait") as (one, other), other.subscribe("t"), anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(publish)
        await quiet()
        began = anyio.current_time()
        if how == "leave":
            await one.leave()
        else:
            one._shut()
        await quiet()
        expected = "the peer is leaving" if how == "leave" else "the peer is not open"
        assert errors == [(expected, began)] * 3


@JUMPING
async def test_a_peer_that_is_given_up_is_shut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net = MemoryNetwork()
    shut: list[bytes] = []
    async with two_peers(net, "wait") as (one, other):
        assert one._data is not None
        monkeypatch.setattr(one._data, "shut", shut.append)
        net.cut(one, other)
        async for event in one.events():
            if isinstance(event, PeerGone):
                assert event.cause is Cause.UNREACHABLE
                break
        assert shut == [other.id.bytes]
        net.heal(one, other)
        await one.wait_for(1)
