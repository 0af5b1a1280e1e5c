"""What leaves together and what alone, and in which order: with a channel that takes what it is given."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from meshes import take
from zdisco import Message, MessagesLost, Peer, PeerConfig, Proxy, Subscription
from zdisco._core.envelope import PACK_LIMIT, ControlFrame, DataFrame, Kind, split, unpack
from zdisco._publisher import _SINGLES, _TURN, _TURN_TIME
from zdisco.testing import MemoryNetwork, new_jumping_loop

PROXY = "tcp://127.0.0.1:5555"
JUMPING = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="trio-jumping"),
        pytest.param(("asyncio", {"loop_factory": new_jumping_loop}), id="asyncio-jumping"),
    ],
)
pytestmark = pytest.mark.anyio

QUIET: dict[str, Any] = {"beat_interval": 1e5, "beat_timeout": 1e6, "ping_interval": 1e6}
"""Beats and pings come in their own time, and would stand among the frames that are looked at."""
FLOOD = 100
"""Messages of one turn: so many that most are packed."""


class Wire:
    """What a peer gave to its data channel, frame by frame."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.frames: list[bytes] = []
        self.is_full = False
        """Whether data finds no room."""
        self.time = 0.0
        channel, publisher = peer._opened.data, peer._publishing
        self._post, self._send = channel.publish, channel.send
        publisher._post, publisher._data.send, publisher._clock = self.post, self.send, lambda: self.time  # type: ignore[method-assign]

    def post(self, frame: bytes) -> bool:
        if self.is_full:
            return False
        self.frames.append(frame)
        return self._post(frame)

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)
        self._send(frame)

    def shapes(self) -> list[tuple[str, int]]:
        """What left since the last call: the topic and how many messages, or the kind of another frame and 0."""
        frames, self.frames = self.frames, []
        return [shape(frame) for frame in frames]


def shape(frame: bytes) -> tuple[str, int]:
    parts = split(frame)
    if isinstance(parts, DataFrame) and parts.kind is Kind.DATA:
        return parts.topic.decode(errors="replace"), 1
    if isinstance(parts, DataFrame) and parts.kind is Kind.PACK:
        return parts.topic.decode(errors="replace"), len(unpack(frame, len(frame) - len(parts.payload)))
    assert isinstance(parts, DataFrame | ControlFrame)
    return parts.kind.name, 0


def messages(shapes: list[tuple[str, int]], topic: str = "t") -> int:
    return sum(count for name, count in shapes if name == topic)


@asynccontextmanager
async def wired(net: MemoryNetwork | None = None, **config: Any) -> AsyncIterator[tuple[Peer, Peer, Wire]]:
    """A publisher whose frames are seen, and another peer."""
    net = net or MemoryNetwork()
    async with (
        net.proxy(),
        Peer(PROXY, network=net, config=PeerConfig(**QUIET, **config)) as publisher,
        Peer(PROXY, network=net, config=PeerConfig(**QUIET)) as other,
    ):
        await publisher.wait_for(1)
        await other.wait_for(1)
        await anyio.sleep(2)  # link messages that are repeated
        yield publisher, other, Wire(publisher)


async def publish(peer: Peer, topic: str, count: int, size: int = 10) -> None:
    for _ in range(count):
        await peer.publish(topic, bytes(size))


@JUMPING
async def test_single_messages_leave_at_once_in_frames_of_their_own() -> None:
    async with wired() as (publisher, _, wire):
        for number in range(1, 4):
            await publisher.publish("t", b"")
            assert wire.shapes() == [("t", 1)], number
            await anyio.sleep(0.001)


@JUMPING
async def test_what_follows_in_the_same_turn_leaves_in_packs_at_its_end() -> None:
    async with wired(pack_size=20 * (64 + 10)) as (publisher, _, wire):
        await publish(publisher, "t", _SINGLES + 50)
        assert wire.shapes() == [("t", 1)] * _SINGLES
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert wire.shapes() == [("t", 20), ("t", 20), ("t", 10)]


@JUMPING
async def test_a_flood_has_no_single_messages_and_lets_others_run() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with wired() as (publisher, _, wire), anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await publish(publisher, "t", 10 * _TURN)
        tasks.cancel_scope.cancel()
        await anyio.sleep(0.01)
        assert turns >= 8
        shapes = [shape for shape in wire.shapes() if shape[0] == "t"]
        assert messages(shapes) == 10 * _TURN
        assert shapes.count(("t", 1)) <= _SINGLES + 10


@JUMPING
async def test_messages_that_come_slowly_leave_at_once_although_nobody_else_runs() -> None:
    async with wired() as (publisher, _, wire):
        for _ in range(FLOOD):
            await publisher.publish("t", b"")
            assert wire.shapes() == [("t", 1)]
            wire.time += 2 * _TURN_TIME / _SINGLES
        for _ in range(FLOOD):
            assert publisher.publish_nowait("t", b"")
            assert wire.shapes() == [("t", 1)]
            wire.time += 2 * _TURN_TIME / _SINGLES


@JUMPING
async def test_a_pack_is_not_kept_for_who_is_slow_to_go_on() -> None:
    async with wired() as (publisher, _, wire):
        for _ in range(4 * _TURN):
            publisher.publish_nowait("t", b"")
        left = messages(wire.shapes())
        assert left > 2 * _TURN, "what a full turn had has left when the next begins"
        wire.time += 2 * _TURN_TIME
        publisher.publish_nowait("t", b"")
        assert left + messages(wire.shapes()) == 4 * _TURN + 1
        await anyio.sleep(0.01)
        wire.time += 2 * _TURN_TIME
        for _ in range(_SINGLES + 3):
            publisher.publish_nowait("t", b"")
        assert wire.shapes() == [("t", 1)] * _SINGLES
        wire.time += 2 * _TURN_TIME
        publisher.publish_nowait("t", b"")
        assert wire.shapes() == [("t", 3), ("t", 1)]


@JUMPING
@pytest.mark.parametrize("how", ["other topic", "group", "direct", "retained", "large"])
async def test_whatever_comes_next_leaves_behind_the_open_pack(how: str) -> None:
    async with wired() as (publisher, other, wire):
        await publish(publisher, "t", _SINGLES + 5)
        wire.shapes()
        match how:
            case "other topic":
                publisher.publish_nowait("u", b"")
                expected = ("u", 1)
            case "group":
                await publisher.publish_group("g", b"")
                expected = ("\N{REPLACEMENT CHARACTER}g", 1)
            case "direct":
                await publisher.send(other.me, b"")
                expected = ("\N{REPLACEMENT CHARACTER}" + other.id.hex, 1)
            case "retained":
                publisher.publish_nowait("t", b"", retain=True)
                expected = ("t", 1)
            case _:
                publisher.publish_nowait("t", bytes(5000))
                expected = ("t", 1)
        await anyio.sleep(0.01)
        assert wire.shapes() == [("t", 5), expected]


@JUMPING
async def test_a_subscriber_is_confirmed_behind_what_was_published_before() -> None:
    async with wired() as (publisher, other, wire):
        got: list[bytes] = []
        async with other.subscribe("t", losses=True) as stream:
            wire.shapes()
            for number in range(_SINGLES + 5):
                publisher.publish_nowait("t", b"%d" % number)
            # What the core says now says that these were published.
            publisher._opened.feed(publisher._opened.core.leave(anyio.current_time()))
            kinds = [name for name, _ in wire.shapes()]
            assert kinds.index("t") < kinds.index("FAREWELL")
            assert kinds.count("t") == _SINGLES + 1
            async for message in stream:
                assert not hasattr(message, "count"), "nothing was lost"
                got.append(message.payload)
                if len(got) == _SINGLES + 5:
                    break
        assert got == [b"%d" % number for number in range(_SINGLES + 5)]


@JUMPING
async def test_without_packs_each_message_has_a_frame() -> None:
    async with wired(pack_size=0) as (publisher, _, wire):
        await publish(publisher, "t", FLOOD)
        await publisher.publish_many("t", [b""] * FLOOD)
        await anyio.sleep(0.01)
        assert [shape for shape in wire.shapes() if shape[0] == "t"] == [("t", 1)] * 2 * FLOOD


@JUMPING
async def test_messages_that_share_a_turn_with_their_group_are_packed_too() -> None:
    async with wired() as (publisher, _, wire):
        for _ in range(FLOOD):
            await publisher.publish_group("g", b"")
        await anyio.sleep(0.01)
        shapes = wire.shapes()
        assert messages(shapes, "\N{REPLACEMENT CHARACTER}g") == FLOOD
        assert len(shapes) < FLOOD / 2


@JUMPING
async def test_bulk_is_packed_from_the_first_message_on() -> None:
    async with wired(pack_size=20 * (64 + 10)) as (publisher, _, wire):
        await publisher.publish_many("t", [bytes(10)] * 50)
        await anyio.sleep(0.01)
        assert wire.shapes() == [("t", 20), ("t", 20), ("t", 10)]
        await publisher.publish_many("t", [bytes(10)])
        assert wire.shapes() == [("t", 1)]


@JUMPING
async def test_what_is_packed_is_sent_when_the_peer_is_closed_at_once() -> None:
    async with wired() as (publisher, _, wire):
        await publish(publisher, "t", _SINGLES + 5)
        wire.shapes()
        publisher._shut()
        assert wire.shapes()[0] == ("t", 5)


@JUMPING
async def test_the_edges_are_looked_after_behind_each_message_and_each_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    async with wired() as (publisher, _, wire):
        left: list[int] = []
        monkeypatch.setattr(publisher._opened.data, "published", lambda: left.append(len(wire.frames)))
        wire.frames.clear()
        await publish(publisher, "t", _SINGLES)
        assert left == list(range(1, _SINGLES + 1))
        await publish(publisher, "t", 50)
        await anyio.sleep(0.01)
        assert left[-1] == len(wire.frames) > _SINGLES


@JUMPING
async def test_a_turn_that_has_many_publishers_is_still_one() -> None:
    async with wired() as (publisher, _, wire), anyio.create_task_group() as tasks:
        most = 0
        post = wire.post

        def counted(frame: bytes) -> bool:
            nonlocal most
            most = max(most, len(publisher._publishing._packs))
            return post(frame)

        publisher._publishing._post = counted
        for number in range(30):
            tasks.start_soon(publish, publisher, f"t{number % 3}", 300, 2000)
    assert most <= _TURN


@JUMPING
async def test_no_pack_has_more_messages_than_a_reader_takes_in_a_turn() -> None:
    async with wired(pack_size=65_535) as (publisher, _, wire):
        await publisher.publish_many("t", [b""] * 1000)
        await anyio.sleep(0.01)
        assert max(count for _, count in wire.shapes()) <= PACK_LIMIT


# Where publishers wait


@JUMPING
async def test_a_pack_gets_past_a_full_queue_and_the_next_message_waits_alone() -> None:
    async with wired(overflow="wait") as (publisher, _, wire), anyio.create_task_group() as tasks:
        await publish(publisher, "t", _SINGLES + 5)
        wire.shapes()
        wire.is_full = True
        await anyio.sleep(0.01)
        assert wire.shapes() == [("t", 5)], "these are published"
        tasks.start_soon(publish, publisher, "t", FLOOD)
        await anyio.sleep(1)
        assert messages(wire.shapes()) == 0
        assert not publisher.publish_nowait("t", b"")
        wire.is_full = False
        publisher._opened.data.rouse()
        await anyio.sleep(0.01)
        shapes = [shape for shape in wire.shapes() if shape[0] == "t"]
        assert messages(shapes) == FLOOD
        assert shapes[0] == ("t", 1)
        assert max(count for _, count in shapes) > 1, "there is room again"


@JUMPING
@pytest.mark.parametrize(("overflow", "is_packed"), [("wait", False), ("drop", True)])
async def test_in_a_short_queue_that_is_waited_for_nothing_is_packed(overflow: str, is_packed: bool) -> None:
    async with wired(overflow=overflow, send_hwm=1000) as (publisher, _, wire):
        await publish(publisher, "t", 50)
        await anyio.sleep(0.01)
        assert any(count > 1 for _, count in wire.shapes()) is is_packed


@JUMPING
@pytest.mark.parametrize(("most", "is_packed"), [(1, False), (2, True)])
async def test_only_so_many_topics_get_past_full_queues(most: int, is_packed: bool) -> None:
    async with wired(overflow="wait", send_hwm=most * 4 * _TURN) as (publisher, _, wire):
        await publish(publisher, "t", _SINGLES + 2)
        wire.is_full = True
        await anyio.sleep(0.01)
        assert wire.shapes()[-1] == ("t", 2)
        wire.is_full = False
        await publish(publisher, "u", _SINGLES)
        wire.is_full = True
        assert publisher.publish_nowait("u", b"") is is_packed


@JUMPING
async def test_topics_that_rest_behind_a_full_queue_keep_no_others_from_packing_and_wait_when_they_wake() -> None:
    async with wired(overflow="wait", send_hwm=4 * _TURN) as (publisher, _, wire), anyio.create_task_group() as tasks:
        await publish(publisher, "t", _SINGLES + 2)
        wire.is_full = True
        await anyio.sleep(1)
        wire.is_full = False
        await publish(publisher, "u", _SINGLES + 5)
        wire.shapes()
        await anyio.sleep(0.01)
        assert wire.shapes() == [("u", 5)]
        wire.is_full = True
        tasks.start_soon(publish, publisher, "t", 1)
        await anyio.sleep(1)
        assert messages(wire.shapes()) == 0
        wire.is_full = False
        publisher._opened.data.rouse()


@JUMPING
async def test_nothing_is_kept_of_topics_that_had_to_go() -> None:
    async with wired(overflow="wait", max_topics=10, send_hwm=4 * _TURN) as (publisher, _, wire):
        wire.is_full = True
        for number in range(100):
            assert not publisher.publish_nowait(f"t{number}", b"")
        assert len(publisher._publishing._passed) == 0


# On sockets


@asynccontextmanager
async def linked(proxy: Proxy, config: PeerConfig) -> AsyncIterator[tuple[Peer, Peer]]:
    async with Peer(proxy.endpoint, config=config) as publisher, Peer(proxy.endpoint, config=config) as reader:
        await publisher.wait_for(1)
        yield publisher, reader


async def numbers(stream: Subscription[Message | MessagesLost], count: int) -> list[int]:
    """So many messages, none of which may have been lost."""
    items = await take(stream, count)
    assert not any(isinstance(item, MessagesLost) for item in items)
    return [int(item.payload) for item in items if isinstance(item, Message)]


@pytest.mark.parametrize(("tasks", "size"), [(30, 1500), (6, 3900)])
async def test_where_publishers_wait_many_of_them_lose_nothing(proxy: Proxy, tasks: int, size: int) -> None:
    config = PeerConfig(overflow="wait", send_hwm=4 * _TURN)
    count, got, lost = 500, 0, 0
    async with (
        linked(proxy, config) as (publisher, reader),
        reader.subscribe("", losses=True) as stream,
        anyio.create_task_group() as group,
    ):
        for number in range(tasks):
            group.start_soon(publish, publisher, f"t{number}", count, size)
        with anyio.fail_after(50):
            async for message in stream:
                if isinstance(message, MessagesLost):
                    lost += message.count
                else:
                    got += 1
                if got + lost == tasks * count:
                    break
    assert lost == 0


async def test_where_publishers_wait_what_is_not_sent_is_said(proxy: Proxy) -> None:
    config = PeerConfig(overflow="wait", send_hwm=4 * _TURN)
    async with linked(proxy, config) as (publisher, reader), reader.subscribe("", losses=True) as stream:
        sent = sum(publisher.publish_nowait("t", b"%01000d" % number) for number in range(50_000))
        assert 0 < sent < 50_000
        got = await numbers(stream, sent)
        assert got == sorted(set(got))


async def test_a_reader_that_keeps_up_loses_nothing_where_packs_and_large_messages_alternate(proxy: Proxy) -> None:
    capacity = 4 * _TURN
    config = PeerConfig(overflow="wait", stream_capacity=capacity)
    rounds = 40
    async with (
        linked(proxy, config) as (publisher, reader),
        reader.subscribe("") as stream,
        anyio.create_task_group() as tasks,
    ):

        async def flood() -> None:
            for _ in range(rounds):
                await publisher.publish_many("t", [b"x"] * 1024)
                for _ in range(3):
                    await publisher.publish("t", bytes(5000))

        tasks.start_soon(flood)
        got = 0
        with anyio.fail_after(50):
            async for _ in stream:
                got += 1
                if got == rounds * 1027:
                    break
        assert stream.dropped == stream.lost == 0


@pytest.mark.parametrize("topics", [("t",), ("t", "u", "v")])
@pytest.mark.parametrize("overflow", ["wait", "drop"])
async def test_a_flood_arrives_whole_and_in_order(proxy: Proxy, topics: tuple[str, ...], overflow: str) -> None:
    count = 5_000
    async with (
        linked(proxy, PeerConfig(overflow=overflow)) as (publisher, reader),
        reader.subscribe("", losses=True) as stream,
        anyio.create_task_group() as tasks,
    ):

        async def flood() -> None:
            for number in range(count):
                await publisher.publish(topics[number // 40 % len(topics)], b"%d" % number)

        tasks.start_soon(flood)
        got = await numbers(stream, count)
        assert got == list(range(count))
