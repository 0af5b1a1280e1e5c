"""Two processes with one id, in memory and on sockets: what the user of each is told."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from meshes import LIMIT, turn_until
from processes import Child, children
from zdisco import ClosedError, Event, IdentityConflict, Message, Peer, PeerGone, PeerInfo, PeerJoined, Proxy, Stream
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio


async def live(peer: Peer) -> None:
    """Be there until the stream of events ends; then nothing can be done any more."""
    events = peer.events()
    async with peer:
        with anyio.fail_after(LIMIT):
            async for _ in events:
                pass
        with pytest.raises(IdentityConflict):
            await peer.publish("t", b"")
        with pytest.raises(ClosedError):
            await peer.wait_for(1)


async def two_of_one_id(endpoint: str, **options: Any) -> None:
    id = uuid4()
    async with (
        Peer(endpoint, name="other", **options) as other,
        Peer(endpoint, name="first", id=id, **options) as first,
    ):
        await first.wait_for(1, timeout=LIMIT)
        events, first_events = other.events(), first.events()
        await anyio.sleep(0.002)  # so that the second starts later, to the millisecond
        second = Peer(endpoint, name="second", id=id, **options)
        with pytest.raises(IdentityConflict, match=str(id)) as caught:
            await live(second)
        assert caught.value.other.name == "first"
        # When it has said that it stays it goes on as if nothing had been; until then the two may change once.
        with anyio.fail_after(LIMIT):
            await turn_until(lambda: id in other.peers and other.peers[id].incarnation > second.me.incarnation)
            async with other.subscribe("t") as messages:
                await first.wait_for(1)
                await first.publish("t", b"1")
                message: Message = await anext(messages)
        assert message.payload == b"1"
        assert message.sender is not None
        assert message.sender.name == "first"
        assert not [event async for event in so_far(first_events) if isinstance(event, PeerGone)]
        # What they said while both were there may still be on its way, but is over within `announce_interval`.
        told = [type(event) async for event in so_far(events, 2.5) if isinstance(event, PeerJoined | PeerGone)]
        assert told == [PeerJoined, PeerGone] * (len(told) // 2) + [PeerJoined]
        assert other.peers[id].name == "first"


async def so_far(events: Stream[Event], seconds: float = 0.05) -> AsyncIterator[Event]:
    """What has been told until now, or comes within so many seconds."""
    with anyio.move_on_after(seconds):
        async for event in events:
            yield event


async def test_the_one_that_started_later_ends_with_an_error_and_the_other_goes_on() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy:
        await two_of_one_id(proxy.endpoint, network=net)


async def test_the_same_on_sockets(proxy: Proxy) -> None:
    await two_of_one_id(proxy.endpoint)


def test_the_error_says_what_it_knows_and_can_be_pickled() -> None:
    other = PeerInfo(UUID(int=7), "tcp://127.0.0.1:7", name="other")
    error = IdentityConflict(other)
    assert isinstance(error, ClosedError)
    assert "tcp://127.0.0.1:7" in str(error)
    assert pickle.loads(pickle.dumps(error)).other == other


async def test_an_id_that_comes_back_after_a_kill_is_no_conflict(proxy: Proxy) -> None:
    id = uuid4()
    async with Peer(proxy.endpoint, name="other") as other:
        events = other.events()
        for _ in range(3):
            async with children(proxy.endpoint, ("--id", str(id))) as (child,):
                await wait_for(child, other, id)
                child.kill()
                with anyio.fail_after(LIMIT):
                    await turn_until(lambda: id not in other.peers)
        told = [type(event) async for event in so_far(events) if isinstance(event, PeerJoined | PeerGone)]
        assert told == [PeerJoined, PeerGone] * 3


async def wait_for(child: Child, peer: Peer, id: UUID) -> None:
    await child.wait_for("ready")
    await peer.wait_for(lambda peers: id in peers, timeout=LIMIT)
    await child.wait_for("PeerJoined")
