"""What peers promise about messages, over the network in memory: received and told is what was published.

On a clock that jumps, so that what comes after seconds costs nothing.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from random import Random
from typing import Any
from uuid import uuid4

import anyio
import pytest
from anyio.lowlevel import checkpoint
from trio.testing import MockClock

from meshes import lose_confirmations
from zdisco import (
    Event,
    Message,
    MessagesLost,
    Peer,
    PeerConfig,
    PeerGone,
    PeerJoined,
    PeerRecovered,
    Stream,
    StreamOverflow,
    Subscription,
)
from zdisco.testing import MemoryNetwork

JUMPING = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="trio-jumping")]
)
pytestmark = [pytest.mark.anyio, JUMPING]

PROXY = "tcp://127.0.0.1:5555"
SMALL = PeerConfig(send_hwm=10, pack_size=0)


@asynccontextmanager
async def pair(net: MemoryNetwork, config: PeerConfig | None = None) -> AsyncIterator[tuple[Peer, Peer]]:
    """A publisher and a subscriber that have joined each other."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(net.proxy())
        publisher = await stack.enter_async_context(Peer(PROXY, name="publisher", network=net, config=config))
        subscriber = await stack.enter_async_context(Peer(PROXY, name="subscriber", network=net, config=config))
        await publisher.wait_for(1, timeout=10)
        await subscriber.wait_for(1, timeout=10)
        yield publisher, subscriber


def numbers(items: list[Any]) -> list[int]:
    """The payloads of messages; how many are missing, below zero."""
    return [int(item.payload) if isinstance(item, Message) else -item.count for item in items]


async def within(seconds: float, stream: Stream[Any]) -> list[Any]:
    """All that comes within so many seconds."""
    items: list[Any] = []
    with anyio.move_on_after(seconds):
        async for item in stream:
            items.append(item)
    return items


async def publish(peer: Peer, topic: str, *payloads: int) -> None:
    for number in payloads:
        await peer.publish(topic, b"%d" % number)


def losses(events: list[Event]) -> list[tuple[str, int]]:
    return [(event.topic, event.count) for event in events if isinstance(event, MessagesLost)]


# Losses


async def test_the_end_of_a_burst_that_did_not_fit_is_told_soon() -> None:
    net = MemoryNetwork()
    async with pair(net, SMALL) as (publisher, subscriber), subscriber.subscribe("t", losses=True) as messages:
        events = subscriber.events()
        await publish(publisher, "t", *range(1, 31))
        got = numbers(await within(0.5, messages))
        assert got[:10] == list(range(1, 11))
        assert len([number for number in got if number > 0]) - sum(n for n in got if n < 0) == 30
        assert messages.lost == sum(count for _, count in losses(await within(0.1, events))) > 0


async def test_messages_to_one_peer_are_counted_too() -> None:
    net = MemoryNetwork()
    async with pair(net, SMALL) as (publisher, subscriber), subscriber.subscribe("") as everything:
        events, inbox = subscriber.events(), subscriber.inbox()
        for number in range(1, 31):
            await publisher.send(subscriber.me, b"%d" % number)
        got = numbers(await within(0.5, inbox))
        lost = losses(await within(0.1, events))
        assert got == list(range(1, len(got) + 1))
        assert {topic for topic, _ in lost} == {""}
        assert len(got) + sum(count for _, count in lost) == 30
        assert sum(count for _, count in lost) > 0
        assert (everything.lost, await within(0.1, everything)) == (0, [])


async def test_what_was_sent_to_one_peer_while_the_link_was_cut_is_told_when_it_is_back() -> None:
    net = MemoryNetwork()
    async with pair(net) as (publisher, subscriber):
        inbox = subscriber.inbox()
        await publisher.send(subscriber.me, b"1")
        assert numbers([await anext(inbox)]) == [1]
        events = subscriber.events()
        net.cut(publisher, subscriber)
        await publisher.send(subscriber.me, b"2")
        gone = publisher.events()
        async for event in gone:
            if isinstance(event, PeerGone):
                break
        net.heal(publisher, subscriber)
        await publisher.wait_for(1)
        await publisher.send(subscriber.me, b"3")
        assert numbers([await anext(inbox)]) == [3]
        assert losses(await within(0.5, events)) == [("", 1)]


async def test_a_peer_that_starts_again_under_its_id_misses_nothing_that_was_sent_to_its_former_life() -> None:
    net, id = MemoryNetwork(), uuid4()
    async with net.proxy(), Peer(PROXY, name="publisher", network=net) as publisher:
        for life in range(3):
            async with Peer(PROXY, id=id, network=net) as subscriber:
                events, inbox = subscriber.events(), subscriber.inbox()
                await publisher.wait_for(1)
                for number in range(1, 4):
                    await publisher.send(id, b"%d" % number)
                assert numbers(await within(1.0, inbox)) == [1, 2, 3]
                assert losses(await within(0.1, events)) == []
                if life == 1:
                    net.kill(subscriber)
            await publisher.wait_for(lambda peers: not peers)
        assert not publisher._opened.core.roster.publications.peers


async def test_what_was_published_while_the_link_was_cut_is_told_when_it_is_back() -> None:
    net = MemoryNetwork()
    async with (
        pair(net) as (publisher, subscriber),
        subscriber.subscribe("", losses=True) as messages,
        subscriber.subscribe("t.old") as old,
    ):
        await publish(publisher, "t.old", 1)
        assert numbers([await anext(messages)]) == [1]
        events = subscriber.events()
        net.cut(publisher, subscriber)
        await publish(publisher, "t.old", 2, 3)
        await publish(publisher, "t.new", 1, 2)
        net.heal(publisher, subscriber)
        async for event in events:
            if isinstance(event, PeerRecovered | MessagesLost):
                break
        await publish(publisher, "t.old", 4)
        await publish(publisher, "t.new", 3)
        got = await within(1.0, messages)
        by_topic = {topic: numbers([item for item in got if item.topic == topic]) for topic in ("t.old", "t.new")}
        assert by_topic == {"t.old": [-2, 4], "t.new": [-2, 3]}
        assert (messages.lost, old.lost) == (4, 2)


async def test_a_sender_that_starts_again_is_counted_from_the_start() -> None:
    net = MemoryNetwork()
    async with (
        net.proxy(),
        Peer(PROXY, name="subscriber", network=net) as subscriber,
        subscriber.subscribe("t", losses=True) as messages,
    ):
        for _ in range(3):
            async with Peer(PROXY, name="publisher", network=net) as publisher:
                await publisher.wait_for(1)
                await publish(publisher, "t", 1, 2, 3)
        assert numbers(await within(0.5, messages)) == [1, 2, 3] * 3


async def test_who_leaves_tells_of_its_last_losses_before_it_is_gone() -> None:
    net = MemoryNetwork()
    async with (
        net.proxy(),
        Peer(PROXY, name="subscriber", network=net) as subscriber,
        subscriber.subscribe("t") as messages,
    ):
        events = subscriber.events()
        async with Peer(PROXY, name="publisher", network=net, config=SMALL) as publisher:
            await publisher.wait_for(1)
            await publish(publisher, "t", *range(1, 31))
            # Those that fit are read, so that there is room for what is said at the end.
            await within(0.01, messages)
        told = [event for event in await within(0.5, events) if not isinstance(event, PeerJoined)]
        assert [type(event) for event in told if isinstance(event, MessagesLost | PeerGone)][-1] is PeerGone
        assert messages.lost > 0


async def test_who_subscribed_later_does_not_miss_what_was_lost_before() -> None:
    net = MemoryNetwork()
    async with pair(net, SMALL) as (publisher, subscriber), subscriber.subscribe("t") as first:
        await publish(publisher, "t", *range(1, 31))
        async with subscriber.subscribe("t", losses=True) as second:
            await publish(publisher, "t", 31)
            got = numbers(await within(1.0, second))
            assert got[-1] == 31
            assert all(number > 0 for number in got)
            assert second.lost == 0 < first.lost


async def test_a_reader_that_is_too_slow_loses_what_it_chose() -> None:
    net = MemoryNetwork()
    async with pair(net) as (publisher, subscriber):
        options: dict[str, Any] = {"losses": True, "capacity": 3}
        async with (
            subscriber.subscribe("t", overflow="drop-oldest", **options) as oldest,
            subscriber.subscribe("t", overflow="drop-newest", **options) as newest,
            subscriber.subscribe("t", overflow=StreamOverflow.PAUSE, **options) as pause,
        ):
            await publish(publisher, "t", *range(1, 8))
            await anyio.sleep(0.1)
            assert numbers(await within(0.1, oldest)) == [-4, 5, 6, 7]
            assert numbers(await within(0.1, newest)) == [1, 2, 3, -4]
            assert numbers(await within(0.1, pause)) == [1, 2, 3, -4]
            assert oldest.dropped == newest.dropped == pause.dropped == 4


async def test_many_topics_that_come_and_go_are_counted_within_the_bounds() -> None:
    net = MemoryNetwork()
    config = PeerConfig(max_topics=3)
    async with pair(net, config) as (publisher, subscriber), subscriber.subscribe("", losses=True) as messages:
        for step in range(1, 4):
            for topic in "abcdefgh":
                await publish(publisher, topic, step)
        assert numbers(await within(0.5, messages)) == [step for step in range(1, 4) for _ in range(8)]
        assert len(publisher._opened.core.roster.publications.topics) == 3
        assert all(len(link.counts) <= 3 for link in subscriber._opened.core.roster.links)


@pytest.mark.parametrize("seed", range(20))
async def test_received_and_told_is_what_was_published_whatever_happens_to_the_link(seed: int) -> None:
    random = Random(seed)
    net = MemoryNetwork(latency=lambda: 0.02 * random.random() ** 3)
    async with (
        pair(net, PeerConfig(send_hwm=20, stream_capacity=15, pack_size=400 * (seed % 2))) as (publisher, subscriber),
        subscriber.subscribe("", losses=True) as wide,
        subscriber.subscribe("t.a", losses=True, overflow="drop-newest") as narrow,
    ):
        published = {"t.a": 0, "t.b": 0}
        got: dict[Subscription[Any], list[Any]] = {wide: [], narrow: []}
        for _ in range(120):
            match random.randrange(8):
                case 0:
                    net.cut(publisher, subscriber)
                case 1 | 2:
                    net.heal(publisher, subscriber)
                case 3:
                    for stream in got:
                        got[stream] += await within(0.01, stream)
                case 4:
                    await anyio.sleep(random.random())
                case _:
                    topic = random.choice(list(published))
                    for _ in range(random.randrange(30)):
                        published[topic] += 1
                        await publish(publisher, topic, published[topic])
        net.heal(publisher, subscriber)
        await subscriber.wait_for(1, timeout=60)
        # The TAIL of a topic that has rested for long comes every 30 s.
        for stream in got:
            got[stream] += await within(40.0, stream)
        for stream, topics in ((wide, published), (narrow, {"t.a": published["t.a"]})):
            for topic, count in topics.items():
                own = [item for item in got[stream] if item.topic == topic]
                received = [int(item.payload) for item in own if isinstance(item, Message)]
                told = sum(item.count for item in own if isinstance(item, MessagesLost))
                assert received == sorted(set(received))
                assert len(received) + told == count, (topic, stream is wide)


# Subscribing


async def test_a_pattern_is_looked_at_here() -> None:
    net = MemoryNetwork()
    async with (
        pair(net) as (publisher, subscriber),
        subscriber.subscribe("prices.*.eur", glob=True, losses=True) as euros,
        subscriber.subscribe("*", glob=True) as everything,
        subscriber.subscribe("prices.[ab]", glob=True) as short,
    ):
        for topic in ("prices.a.eur", "prices.a.usd", "prices.a.b.eur", "prices.a", "other.a.eur"):
            await publisher.publish(topic, b"1")
        assert [item.topic for item in await within(0.5, euros)] == ["prices.a.eur", "prices.a.b.eur"]
        assert len(await within(0.1, everything)) == 5
        assert [item.topic for item in await within(0.1, short)] == ["prices.a"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"exact": True, "glob": True}, ValueError),
        ({"capacity": 0}, ValueError),
        ({"capacity": "7"}, TypeError),
        ({"overflow": "wait"}, ValueError),
    ],
)
async def test_what_no_subscription_can_be_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Peer(PROXY, network=MemoryNetwork()).subscribe("t", **options)


async def test_many_messages_at_once() -> None:
    net = MemoryNetwork()
    async with pair(net) as (publisher, subscriber), subscriber.subscribe("t") as messages:
        await publisher.publish_many("t", (b"%d" % number for number in range(1000)))
        got: list[Message] = []
        async for batch in messages.batches():
            got += batch
            if len(got) == 1000:
                break
        assert numbers(got) == list(range(1000))
        with pytest.raises(TypeError, match="payload"):
            await publisher.publish_many("t", [b"1000", "1001"])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="payload"):
            await publisher.publish_many("t", [7])  # type: ignore[list-item]
        publisher.publish_nowait("t", b"1001")
        assert numbers([await anext(messages), await anext(messages)]) == [1000, 1001]


async def test_5000_topics_at_once_are_all_in_force() -> None:
    net = MemoryNetwork()
    async with pair(net) as (publisher, subscriber), AsyncExitStack() as stack:
        streams = [subscriber.subscribe(f"t{number}", exact=True) for number in range(5000)]
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(stack.enter_async_context, stream)
        for number in range(5000):
            await publisher.publish(f"t{number}", b"%d" % number)
        for number, stream in enumerate(streams):
            assert (await anext(stream)).payload == b"%d" % number


# Last values


async def test_later_subscribers_get_the_last_values_first() -> None:
    net = MemoryNetwork()
    async with pair(net) as (publisher, subscriber):
        for number in (1, 2):
            await publisher.publish("t.a", b"%d" % number, retain=True)
        await publisher.publish("t.b", b"7", retain=True)
        await publisher.publish("u", b"8", retain=True)
        await publisher.publish("t.b", b"not kept")
        async with subscriber.subscribe("t.") as messages:
            await publisher.publish("t.a", b"3", retain=True)
            got = await within(0.5, messages)
            assert [(m.topic, m.payload) for m in got] == [("t.a", b"2"), ("t.b", b"7"), ("t.a", b"3")]
            async with Peer(PROXY, name="late", network=net) as late, late.subscribe("t.a") as values:
                assert numbers(await within(0.5, values)) == [3]
            assert await within(0.5, messages) == []
        assert publisher.forget_retained("t.b")
        async with subscriber.subscribe("t.") as messages:
            assert [m.topic for m in await within(0.5, messages)] == ["t.a"]


@pytest.mark.parametrize("seed", range(20))
async def test_the_seam_of_the_last_value_and_what_comes_live_has_no_gap_and_no_duplicate(seed: int) -> None:
    random = Random(seed)
    net = MemoryNetwork(latency=lambda: 0.02 * random.random() ** 3)
    async with pair(net) as (publisher, subscriber):

        async def keep_publishing() -> None:
            for number in range(1, 400):
                await publisher.publish("t", b"%d" % number, retain=True)
                await anyio.sleep(0.001 * random.random())

        async def subscribe_later() -> None:
            await anyio.sleep(0.2 * random.random())
            async with subscriber.subscribe("t", losses=True) as messages:
                got = numbers(await within(2.0, messages))
                assert got == list(range(got[0], 400))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_publishing)
            for _ in range(5):
                tasks.start_soon(subscribe_later)


async def test_a_value_that_was_lost_with_the_link_comes_when_it_is_back() -> None:
    net = MemoryNetwork()
    async with pair(net) as (publisher, subscriber), subscriber.subscribe("t", losses=True) as messages:
        await publisher.publish("t", b"1", retain=True)
        await anyio.sleep(0.1)
        net.cut(publisher, subscriber)
        for number in (2, 3):
            await publisher.publish("t", b"%d" % number, retain=True)
        await checkpoint()
        net.heal(publisher, subscriber)
        assert numbers(await within(5.0, messages)) == [1, -1, 3]


async def test_a_subscription_keeps_nothing_of_publishers_that_are_gone() -> None:
    net = MemoryNetwork()
    async with (
        net.proxy(),
        Peer(PROXY, name="subscriber", network=net) as subscriber,
        subscriber.subscribe("t") as messages,
    ):
        for number in range(3):
            async with Peer(PROXY, name="publisher", network=net) as publisher:
                await publisher.publish("t", b"%d" % number, retain=True)
                await publisher.wait_for(1)
            assert numbers(await within(0.5, messages)) == [number]
        gc.collect()
        assert len(messages._given) == 0


class Topic(StrEnum):
    EUR = "prices.eur"


async def test_a_topic_may_be_a_text_of_a_kind_of_its_own() -> None:
    net = MemoryNetwork()
    async with pair(net) as (publisher, subscriber), subscriber.subscribe("prices.", losses=True) as messages:
        for number in range(1, 4):
            await publisher.publish(Topic.EUR, b"%d" % number, retain=True)
        assert numbers(await within(0.5, messages)) == [1, 2, 3]
        assert len(publisher._opened.core.roster.publications.topics) == 1


async def test_a_payload_that_is_none_leaves_no_topic_behind() -> None:
    net = MemoryNetwork()
    async with pair(net) as (publisher, _):
        with pytest.raises(TypeError, match="payload"):
            await publisher.publish("t", "text")  # type: ignore[arg-type]
        assert not publisher._opened.core.roster.publications.topics


async def test_a_confirmation_that_was_lost_while_a_peer_joined_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = MemoryNetwork()
    async with net.proxy(), Peer(PROXY, name="publisher", network=net) as publisher:
        lost = lose_confirmations(monkeypatch, publisher, 2)
        async with (
            Peer(PROXY, name="subscriber", network=net) as subscriber,
            subscriber.subscribe("t", losses=True) as messages,
        ):
            await subscriber.wait_for(1)
            await anyio.sleep(5)
            assert len(lost) == 2
            (link,) = subscriber._opened.core.roster.links
            assert link.confirmed == subscriber._opened.core.roster.marker
            net.cut(publisher, subscriber)
            await publish(publisher, "t", 1, 2)
            net.heal(publisher, subscriber)
            assert numbers(await within(5, messages)) == [-2]
