"""Groups: who is in them, and what is published to them, over the network in memory."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import pytest

from meshes import JUMPING, LIMIT, PROXY, mesh, next_of, take, turn_until
from zdisco import AnnounceTooLarge, ClosedError, Drop, Message, Peer, PeerGone, PeerJoined, PeerUpdated
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio


async def test_a_group_is_read_by_those_who_joined_it_and_by_nobody_else() -> None:
    async with mesh("a", "b", "c") as (a, b, c), b.subscribe("") as everything, c.join("room") as messages:
        async with c.subscribe("") as beside:
            await a.publish_group("room", b"1")
            await a.publish_group("other room", b"2")
            await a.publish_group("roo", b"3")
            await a.publish("room", b"4")
            await a.publish_group("room", b"5")
            await a.publish("end", b"")
            sender = c.peers[a.id]
            assert await take(messages, 2) == [Message(sender, "room", b"1"), Message(sender, "room", b"5")]
            for stream in (everything, beside):
                assert [message.topic for message in await take(stream, 2)] == ["room", "end"]
        assert {*b.dropped, *c.dropped} <= {Drop.OTHER_INBOX}, "which is what subscribing to everything brings in"


async def test_whoever_is_seen_among_the_members_is_reached() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", "b", net=net) as (a, b):
        for _ in range(20):
            async with b.join("room") as messages:
                await a.wait_for(lambda _: b.id in a.members("room"), timeout=LIMIT)
                await a.publish_group("room", b"x")
                assert [message.payload for message in await take(messages, 1)] == [b"x"]
            await a.wait_for(lambda _: not a.members("room"), timeout=LIMIT)


async def test_members_are_the_joined_peers_that_say_so() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", "b", net=net, groups=["given"]) as (a, b):
        events = a.events()
        assert dict(a.members("given")) == {b.id: a.peers[b.id]}
        assert not a.members("room")
        async with b.join("room"):
            assert b.me.groups == {"given", "room"}
            assert (await next_of(events, PeerUpdated)).peer.groups == {"given", "room"}
            assert a.members("room").keys() == {b.id}
            async with Peer(PROXY, network=net, groups=["room"]) as late:
                assert "room" in (await next_of(events, PeerJoined)).peer.groups
                await late.wait_for(lambda _: b.id in late.members("room"), timeout=LIMIT)
                assert a.members("room").keys() == {b.id, late.id}
            await next_of(events, PeerGone)
            assert a.members("room").keys() == {b.id}
        assert (await next_of(events, PeerUpdated)).peer.groups == {"given"}
        async with a.join("given"):
            pass
        assert a.me.groups == {"given"}, "what the constructor was given stays"
    assert not a.members("given")


async def test_two_users_of_one_group_do_not_hurt_each_other() -> None:
    async with mesh("a", "b") as (a, b), b.join("room") as first:
        revision = b.me.revision
        async with b.join("room") as second:
            assert b.me.revision == revision, "there is nothing new to say"
            await a.publish_group("room", b"1")
            assert [message.payload for message in await take(second, 1)] == [b"1"]
        assert b.me.groups == {"room"}
        await a.publish_group("room", b"2")
        assert [message.payload for message in await take(first, 2)] == [b"1", b"2"]


@JUMPING
async def test_a_join_that_is_cancelled_leaves_no_membership() -> None:
    net = MemoryNetwork(latency=0.01)
    async with net.proxy(), mesh("a", "b", net=net) as (a, b):
        for turns in range(40):
            with anyio.move_on_after(turns / 1000):
                async with b.join("room"):
                    assert b.me.groups == {"room"}
            assert b.me.groups == set()
            assert not b._groups
        await a.wait_for(lambda _: a.peers[b.id] == b.me, timeout=LIMIT)


async def test_a_group_that_does_not_fit_is_not_joined() -> None:
    async with mesh("a", "b") as (a, _), AsyncExitStack() as stack:
        await a.update(headers={"x": "y" * 64_000})
        await stack.enter_async_context(a.join("a" * 1000))
        with pytest.raises(AnnounceTooLarge):
            await a.join("b" * 1000).__aenter__()
        assert a.me.groups == a._groups.keys() == {"a" * 1000}
        assert not a._opened.data._topics.keys() & {b"\xfd" + b"b" * 1000 + b"\0"}  # type: ignore[attr-defined]
        await stack.aclose()
        assert not a.me.groups


async def test_a_membership_is_entered_once_and_only_at_a_peer_that_stays() -> None:
    async with mesh("a", "b") as (a, _):
        membership = a.join("room")
        with pytest.raises(ClosedError):
            await anext(membership)
        async with membership:
            with pytest.raises(ClosedError):
                await membership.__aenter__()
        assert not a.me.groups
        late = a.join("room")
        await a.leave()
        with pytest.raises(ClosedError):
            await late.__aenter__()
        with pytest.raises(ClosedError):
            await a.publish_group("room", b"")


async def test_a_membership_that_is_closed_after_its_peer_does_no_harm() -> None:
    net = MemoryNetwork()
    async with net.proxy():
        async with mesh("a", net=net) as (a,):
            membership = await a.join("room").__aenter__()
        await membership.aclose()
        assert not a._groups


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 1025])
async def test_names_of_groups_are_checked(name: str) -> None:
    peer = Peer(PROXY, network=MemoryNetwork())
    with pytest.raises(ValueError, match="group"):
        peer.join(name)
    with pytest.raises(ValueError, match="group"):
        Peer(PROXY, groups=[name])
    async with mesh("a") as (a,):
        with pytest.raises(ValueError, match="group"):
            await a.publish_group(name, b"")


async def test_names_of_groups_are_texts() -> None:
    async with mesh("a") as (a,):
        with pytest.raises(TypeError, match="a group is text"):
            a.join(b"room")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a group is text"):
            await a.publish_group([], b"")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a payload is bytes"):
            await a.publish_group("room", "x")  # type: ignore[arg-type]


async def test_what_is_no_frame_of_ours_is_no_message_of_a_group() -> None:
    async with mesh("a", "b") as (a, b), b.join("room") as messages, b.subscribe("") as everything:
        a._opened.data.send(b"\xfdroom\0from a classic program")
        await a.publish_group("room", b"1")
        assert [message.payload for message in await take(messages, 1)] == [b"1"]
        assert (await take(everything, 1))[0].sender is None
        await turn_until(lambda: not messages._queue)
