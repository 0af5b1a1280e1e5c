"""Peers that find each other over gossip, without a proxy or beside one: on sockets, with processes that are killed."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import anyio
import pytest

from meshes import LIMIT, next_of, take
from processes import until
from programs import zdisco
from zdisco import (
    Cause,
    Drop,
    Gossip,
    InvalidEndpoint,
    Peer,
    PeerConfig,
    PeerGone,
    PeerInfo,
    PeerJoined,
    PeerUpdated,
    Proxy,
    ProxyFound,
    ProxyLost,
)
from zdisco._core.wire import Announce, encode_text
from zdisco._gossip_relay import PREFIX
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio

ANY = "tcp://127.0.0.1:*"


def gossip_endpoint(peer: Peer) -> str:
    assert peer.gossip is not None
    return peer.gossip.endpoints[0]


async def until_all_joined(*peers: Peer) -> None:
    for peer in peers:
        await peer.wait_for(len(peers) - 1, timeout=LIMIT)


async def test_who_knows_any_one_of_them_joins_all() -> None:
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer(gossip=[], name="0"))]
        for number in range(1, 5):
            # A chain: each is told of the one before it.
            known = gossip_endpoint(peers[-1])
            peers.append(await stack.enter_async_context(Peer(gossip=known, name=str(number))))
        await until_all_joined(*peers)
        async with peers[0].subscribe("t") as messages:
            for peer in peers[1:]:
                await peer.publish("t", peer.me.name.encode())
            assert sorted([message.payload for message in await take(messages, 4)]) == [b"1", b"2", b"3", b"4"]


async def test_the_network_stays_in_one_piece_when_the_one_that_all_were_told_of_leaves() -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Peer(gossip=[]))
        known = gossip_endpoint(first)
        others = [await stack.enter_async_context(Peer(gossip=known)) for _ in range(4)]
        await until_all_joined(first, *others)
        # Until each of them is connected to those that come after it.
        await until(lambda: all(peer.gossip and peer.gossip.status().remotes >= 2 for peer in others))
        await first.leave()
        await until(lambda: all(first.id not in peer.peers for peer in others))
        async with Peer(gossip=gossip_endpoint(others[2])) as newcomer:
            await until_all_joined(newcomer, *others)


async def test_it_works_after_every_proxy_is_gone() -> None:
    async with AsyncExitStack() as stack:
        with zdisco("proxy", "--bind", ANY) as proxy:
            endpoint = proxy.wait_for(r"^endpoint (.*)")[1]
            peers = [
                await stack.enter_async_context(Peer(endpoint, gossip=[], name=str(number))) for number in range(3)
            ]
            await until_all_joined(*peers)
            proxy.process.kill()
        async with Peer(gossip=gossip_endpoint(peers[1]), name="late") as late:
            # The gossip nodes of the others may be connected with that of 1 only now.
            await until_all_joined(late, *peers)


async def test_a_proxy_and_gossip_together_tell_of_a_peer_once(proxy: Proxy) -> None:
    async with Peer(proxy.endpoint, gossip=[]) as a:
        events = a.events()
        async with Peer(proxy.endpoint, gossip=gossip_endpoint(a)) as b:
            await until_all_joined(a, b)
            await b.update(headers={"k": "v"})
            assert (await next_of(events, PeerUpdated)).peer.headers == {"k": "v"}
        gone = await next_of(events, PeerGone)
        assert (gone.peer.id, gone.cause) == (b.id, Cause.FAREWELL)
        events_so_far = [event for event in await drain(events) if isinstance(event, PeerJoined | PeerGone)]
        assert events_so_far == []


async def drain(stream: Any) -> list[Any]:
    found: list[Any] = []
    with anyio.move_on_after(0.2):
        async for item in stream:
            found.append(item)
    return found


async def test_our_own_gossip_node_is_told_as_no_proxy() -> None:
    peer = Peer(gossip=[])
    events = peer.events()
    async with peer:
        pass
    assert not [event async for event in events if isinstance(event, ProxyFound | ProxyLost)]


async def test_updates_and_the_end_of_a_peer_travel_without_a_proxy() -> None:
    async with Peer(gossip=[]) as a:
        events = a.events()
        async with Peer(gossip=gossip_endpoint(a), headers={"v": "1"}) as b:
            joined = await next_of(events, PeerJoined)
            assert joined.peer.headers == {"v": "1"}
            await b.update(headers={"v": "2"})
            updated = await next_of(events, PeerUpdated)
            assert (updated.was.headers, updated.peer.headers) == ({"v": "1"}, {"v": "2"})
        gone = await next_of(events, PeerGone)
        assert (gone.peer.id, gone.cause) == (b.id, Cause.FAREWELL)
        # It has taken its tuple back.
        with anyio.fail_after(LIMIT):
            await until(lambda: a.gossip is not None and f"{PREFIX}{b.id}" not in a.gossip)


async def test_a_peer_that_is_killed_is_told_and_its_tuple_ends() -> None:
    async with Peer(gossip=[], config=PeerConfig(beacon_interval=0.3)) as a:
        events = a.events()
        with zdisco("peer", "--gossip", gossip_endpoint(a), "--name", "b") as program:
            joined = await next_of(events, PeerJoined)
            program.process.kill()
            gone = await next_of(events, PeerGone)
        assert (gone.peer, gone.cause) == (joined.peer, Cause.REFUSED)


async def test_a_standing_gossip_node_brings_peers_together() -> None:
    async with Gossip(ANY) as node, Peer(gossip=node.endpoints) as a, Peer(gossip=node.endpoints) as b:
        await until_all_joined(a, b)
        assert a.gossip is not None
        await a.gossip.publish("color", "red")
        assert await node.wait_for("color", timeout=LIMIT) == "red"


async def test_tuples_that_are_no_announces_are_counted() -> None:
    info = PeerInfo(uuid4(), "tcp://127.0.0.1:9")
    text = encode_text(Announce(info, b"abcd"))
    async with Peer(gossip=[]) as peer, Gossip(connect=gossip_endpoint(peer)) as liar:
        await liar.publish(f"{PREFIX}x", "no announce")
        await liar.publish(f"{PREFIX}{uuid4()}", text)
        with anyio.fail_after(LIMIT):
            await until(lambda: peer.dropped.get(Drop.MALFORMED_DISCOVERY) == 1)
            await until(lambda: peer.dropped.get(Drop.FORGED_ANNOUNCE) == 1)


async def test_who_writes_or_deletes_the_announce_of_another_does_not_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zdisco._gossip_relay._RETELL", 0.2)
    async with Peer(gossip=[]) as peer, Gossip(connect=gossip_endpoint(peer)) as liar:
        key = f"{PREFIX}{peer.id}"
        truth = await liar.wait_for(key, timeout=LIMIT)
        for lie in ("nonsense", None):
            if lie is None:
                await liar.unpublish(key)
            else:
                await liar.publish(key, lie)
            with anyio.fail_after(LIMIT):
                await until(lambda: liar.get(key) == truth)


async def test_a_peer_of_another_cluster_does_not_join() -> None:
    async with Peer(gossip=[], cluster="one") as a, Peer(gossip=gossip_endpoint(a), cluster="two"):
        async with Peer(gossip=gossip_endpoint(a), cluster="one") as c:
            await until_all_joined(a, c)
        assert a.dropped[Drop.FOREIGN_CLUSTER] >= 1


async def test_a_given_endpoint_is_bound_and_announced() -> None:
    async with Peer(gossip=[], gossip_bind="tcp://127.0.0.1:0") as peer:
        assert peer.gossip is not None
        assert peer.gossip.endpoints == (f"tcp://127.0.0.1:{peer.gossip.port}",)
        assert peer._me.gossip == gossip_endpoint(peer)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"gossip": "udp://127.0.0.1:1"}, InvalidEndpoint, "must begin with"),
        ({"gossip": "tcp://127.0.0.1"}, InvalidEndpoint, "tcp://host:port"),
        ({"gossip": 7}, TypeError, "gossip"),
        ({"gossip": [], "gossip_bind": "ipc:///x"}, InvalidEndpoint, "tcp://host:port"),
        ({"gossip_bind": ANY}, ValueError, "gossip_bind"),
        ({"gossip": [], "network": MemoryNetwork()}, ValueError, "network"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Peer(**options)
