"""Peers that find each other over gossip, without a proxy or beside one: on sockets, with processes that are killed."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from bench.hosts import Host, hosts, why_not
from bench.member import Member
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
    SocketLimitError,
)
from zdisco._core.wire import Announce, encode_text
from zdisco._gossip_relay import PREFIX
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio

ANY = "tcp://127.0.0.1:*"
_PORT = 7000
"""Each host of a test has its own."""


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
        with Member("peer", "--gossip", gossip_endpoint(a), "--beacon-interval", "0.3") as other:
            joined = await next_of(events, PeerJoined)
            other.kill()
            gone = await next_of(events, PeerGone)
        assert (gone.peer, gone.cause) == (joined.peer, Cause.REFUSED)
        with anyio.fail_after(LIMIT):
            await until(lambda: a.gossip is not None and f"{PREFIX}{gone.peer.id}" not in a.gossip)


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


async def test_a_beacon_interval_may_be_as_long_as_any() -> None:
    config = PeerConfig(beacon_interval=2_000_000)
    async with Peer(gossip=[], config=config) as a, Peer(gossip=gossip_endpoint(a), config=config) as b:
        await until_all_joined(a, b)


async def test_peers_that_announce_a_name_are_in_the_ring_too() -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Peer(gossip=[]))
        known = gossip_endpoint(first)
        others = [await stack.enter_async_context(Peer(gossip=known, advertise="localhost")) for _ in range(3)]
        await until_all_joined(first, *others)
        assert {peer._me.gossip.split(":")[1] for peer in others} == {"//localhost"}
        with anyio.fail_after(LIMIT):
            await until(lambda: all(peer.gossip and peer.gossip.status().remotes >= 2 for peer in others))


async def test_no_room_for_a_connection_to_the_ring_ends_nothing_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zdisco._gossip_relay._RETELL", 0.2)
    borrow = Gossip._borrow
    refused: list[str] = []

    def borrow_later(self: Gossip, endpoint: str) -> None:
        if len(refused) < 4:
            refused.append(endpoint)
            raise SocketLimitError(24, "too many open files")
        borrow(self, endpoint)

    monkeypatch.setattr(Gossip, "_borrow", borrow_later)
    async with Peer(gossip=[]) as a, Peer(gossip=gossip_endpoint(a)) as b:
        await until_all_joined(a, b)
        with anyio.fail_after(LIMIT):
            await until(lambda: a.gossip is not None and a.gossip.status().remotes == 1)
        assert len(refused) == 4


async def test_what_the_user_connects_to_the_ring_does_not_disconnect() -> None:
    async with Gossip() as node, Gossip(ANY) as other, Gossip(ANY) as third:
        ours, theirs = other.endpoints[0], third.endpoints[0]
        node._borrow(ours)
        await node.connect(ours)
        node._give_back(ours)
        await node.connect(theirs)
        node._borrow(theirs)
        node._give_back(theirs)
        with anyio.fail_after(LIMIT):
            await until(lambda: node.status().remotes == 2)
        node._borrow(ANY.replace("*", "9"))
        node._give_back(ANY.replace("*", "9"))
        assert await node.disconnect(ours)
        node._give_back(ours)
        await node.settle(LIMIT)
        assert node.status().remotes == 1


async def test_what_a_file_connects_to_the_ring_does_not_disconnect(tmp_path: Path) -> None:
    config = tmp_path / "gossip.cfg"
    async with Gossip() as node, Gossip(ANY) as other:
        config.write_text(f'zgossip\n    connect\n        endpoint = "{other.endpoints[0]}"\n')
        node._borrow(other.endpoints[0])
        await node.load(config)
        node._give_back(other.endpoints[0])
        await node.settle(LIMIT)
        assert node.status().remotes == 1


async def test_only_the_one_spelling_of_a_key_takes_the_announce_of_a_peer_back() -> None:
    id = UUID("abcdef00-0000-4000-8000-000000000001")
    info = PeerInfo(id, "tcp://127.0.0.1:9")
    async with Peer(gossip=[]) as peer, Gossip(connect=gossip_endpoint(peer)) as liar:
        assert peer._relay is not None
        await liar.publish(f"{PREFIX}{id}", encode_text(Announce(info, b"abcd")))
        await until(lambda: peer._relay is not None and id in peer._relay._heard)
        upper = f"{PREFIX}{str(id).upper()}"
        await liar.publish(upper, "x")
        await liar.unpublish(upper)
        await liar.publish("after", "that")
        assert peer.gossip is not None
        await peer.gossip.wait_for("after", timeout=LIMIT)
        await peer.gossip.settle(LIMIT)
        assert id in peer._relay._heard


@pytest.mark.timeout(120)
async def test_the_gossip_node_moves_with_its_machine() -> None:
    if reason := why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        places = stack.enter_context(hosts(3))
        binds = [f"tcp://{host.address}:{_PORT}" for host in places]

        def start(host: Host, *known: str, bind: bool = True) -> Member:
            given = [word for endpoint in known for word in ("--gossip", endpoint)]
            own = ["--gossip-bind", f"tcp://{host.address}:{_PORT}"] if bind else []
            return stack.enter_context(Member("peer", *given, *own, inside=host.inside))

        # Each is given another one, so that its address is not loopback.
        peers = [start(places[0], binds[1]), start(places[1], binds[0]), start(places[2], binds[0])]
        for peer in peers:
            for _ in range(2):
                peer.next("joined")
        places[1].move()
        for peer in (peers[0], peers[2]):
            peer.next("updated", about=peers[1].id)
        newcomer = start(places[2], f"tcp://{places[1].address}:{_PORT}", bind=False)
        assert {newcomer.next("joined")["is"] for _ in range(3)} == {peer.id for peer in peers}


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
