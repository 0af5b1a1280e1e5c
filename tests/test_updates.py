"""What a peer changes of itself while it runs, over the network in memory."""

from __future__ import annotations

import anyio
import pytest
from attrs import evolve

from meshes import JUMPING, LIMIT, PROXY, mesh, next_of
from zdisco import AnnounceTooLarge, ClosedError, Event, Peer, PeerGone, PeerInfo, PeerJoined, PeerUpdated, Stream
from zdisco._core.envelope import ControlFrame, Kind, split
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio


async def updates(stream: Stream[Event], until: PeerInfo) -> list[PeerUpdated]:
    """All updates up to the one that tells this state."""
    found: list[PeerUpdated] = []
    while not found or found[-1].peer != until:
        found.append(await next_of(stream, PeerUpdated))
    return found


def announces(peer: Peer) -> list[bytes]:
    """From now on, the announces that the peer sends on its data channel."""
    sent: list[bytes] = []
    channel = peer._opened.data
    send = channel.send

    def spy(frame: bytes) -> None:
        parts = split(frame)
        if isinstance(parts, ControlFrame) and parts.kind is Kind.ANNOUNCE:
            sent.append(frame)
        send(frame)

    channel.send = spy  # type: ignore[method-assign]
    return sent


async def test_other_headers_are_told_once_and_shown_at_once() -> None:
    async with mesh("a", "b", "c", headers={"role": "idle"}) as (a, b, c):
        streams = [b.events(), c.events()]
        was = a.me
        await a.update(headers={"role": "busy"})
        assert a.me == evolve(was, headers={"role": "busy"}, revision=1)
        await a.update(headers={"role": "done"})
        for stream in streams:
            told = await updates(stream, a.me)
            assert [one.peer.headers["role"] for one in told] == ["busy", "done"]
            assert [one.was.headers["role"] for one in told] == ["idle", "busy"]
        # Both ways have brought everything by now, and nobody is told again.
        await c.update(headers={"role": "last"})
        assert (await next_of(streams[0], PeerUpdated)).peer == c.me


async def test_what_is_the_same_is_not_announced() -> None:
    async with mesh("a", "b", headers={"x": "y"}) as (a, _):
        sent, was = announces(a), a.me
        await a.update(headers={"x": "y"})
        assert a.me == was
        assert not sent


async def test_headers_that_do_not_fit_change_nothing() -> None:
    async with mesh("a", "b", headers={"x": "y"}) as (a, _):
        sent, was = announces(a), a.me
        with pytest.raises(AnnounceTooLarge):
            await a.update(headers={"x": "y" * 70_000})
        with pytest.raises(ValueError, match="surrogate"):
            await a.update(headers={"x": "\ud800"})
        with pytest.raises(TypeError, match="headers must map text to text"):
            await a.update(headers={"x": 1})  # type: ignore[dict-item]
        assert a.me == was
        assert not sent


async def test_a_change_arrives_with_every_proxy_gone() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, mesh("a", "b", net=net) as (a, b):
        events = b.events()
        proxy.stop()
        await a.update(headers={"x": "y"})
        assert (await next_of(events, PeerUpdated)).peer == a.me
        assert b.peers[a.id] == a.me


@JUMPING
async def test_a_change_while_the_way_is_cut_is_known_when_it_is_back_though_every_proxy_is_gone() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, mesh("a", "b", net=net) as (a, b):
        proxy.stop()
        net.cut(a, b)
        await b.wait_for(lambda peers: not peers, timeout=LIMIT)
        await a.update(headers={"x": "y"})
        net.heal(a, b)
        await b.wait_for(lambda peers: peers.get(a.id) == a.me, timeout=LIMIT)


async def test_a_newcomer_is_told_the_newest_state_when_it_is_told_of_the_peer() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", net=net) as (a,):
        await a.update(headers={"x": "y"})
        async with Peer(PROXY, network=net) as late:
            assert (await next_of(late.events(), PeerJoined)).peer == a.me


async def test_a_change_between_the_link_and_joining_is_not_lost() -> None:
    net = MemoryNetwork(latency=0.001)
    async with net.proxy(), mesh("a", net=net) as (a,):
        seen: list[PeerInfo] = []
        async with Peer(PROXY, network=net) as late:
            for number in range(20):
                await a.update(headers={"x": str(number)})
                await anyio.sleep(0.0005)
            await late.wait_for(lambda peers: peers.get(a.id) == a.me, timeout=LIMIT)
            seen.append(late.peers[a.id])
        assert seen == [a.me]


async def test_what_a_peer_was_last_is_told_when_it_goes_and_kept_by_itself() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("b", net=net) as (b,):
        async with Peer(PROXY, network=net) as a:
            await a.wait_for(1, timeout=LIMIT)
            events = b.events()
            await a.update(headers={"x": "y"})
        assert (await next_of(events, PeerGone)).peer.headers == {"x": "y"}
        assert a.me.headers == {"x": "y"}


async def test_a_peer_that_is_not_open_or_is_leaving_changes_nothing() -> None:
    net = MemoryNetwork()
    async with net.proxy():
        peer = Peer(PROXY, network=net)
        with pytest.raises(ClosedError):
            await peer.update(headers={"x": "y"})
        async with peer:
            await peer.leave()
            with pytest.raises(ClosedError, match="is leaving"):
                await peer.update(headers={"x": "y"})
        assert peer.me.headers == {}


async def test_a_change_that_is_cancelled_before_it_begins_changes_nothing() -> None:
    async with mesh("a", "b") as (a, _):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await a.update(headers={"x": "y"})
        assert a.me.revision == 0


async def test_an_announce_that_comes_twice_is_told_once() -> None:
    async with mesh("a", "b") as (a, b):
        sent, events = announces(a), b.events()
        await a.update(headers={"x": "1"})
        await a.update(headers={"x": "2"})
        first, second = sent
        a._opened.data.send(second)
        a._opened.data.send(first)
        await a.update(headers={"x": "3"})
        told = await updates(events, a.me)
        assert [one.peer.headers["x"] for one in told] == ["1", "2", "3"]
        assert not b.dropped
