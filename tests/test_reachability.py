"""What a peer knows of its links, and what all of them say together."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from uuid import UUID

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshes import JUMPING, PROXY, mesh, next_of, turn_until
from zdisco import Drop, LinkInfo, LinkState, MalformedMessage, Peer, PeerInfo, PeerSuspected, RequestFailed
from zdisco._core.wire import Announce, encode
from zdisco._reachability import SERVICE, Reachability, decode_row, encode_row
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio


def pairs(found: Reachability) -> set[str]:
    return {publisher.name + subscriber.name for publisher, subscriber in found.broken}


async def test_the_links_of_peers_that_have_joined_go_both_ways() -> None:
    async with mesh("a", "b", "c") as (a, b, c):
        links = a.links()
        assert [link.peer for link in links] == [b.me, c.me]
        for link in links:
            assert (link.state, link.inward, link.outward) == (LinkState.JOINED, True, True)
            assert link.since >= 0
            assert link.silence is not None
            assert link.silence >= 0
            assert link.round_trip is None
        found = await a.reachability()
        assert (found.broken, found.mute) == ((), ())
        assert found.peers.keys() == found.rows.keys() == {a.id, b.id, c.id}


@JUMPING
async def test_every_peer_is_pinged_some_time_and_how_far_it_is_is_known() -> None:
    net = MemoryNetwork(latency=0.01)
    async with net.proxy(), mesh("a", "b", "c", net=net) as (a, _, _):
        await anyio.sleep(120)
        for link in a.links():
            assert link.round_trip is not None
            assert 0.02 - 1e-9 <= link.round_trip < 0.1  # a difference of two times
            assert link.since > 119


async def test_each_direction_of_a_link_that_is_cut_is_named() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", "b", "c", net=net) as (a, b, c):
        events = a.events()
        net.cut(a, b)
        await next_of(events, PeerSuspected)
        await turn_until(lambda: a.id not in b.peers)
        (link, _) = a.links()
        assert (link.state, link.inward, link.outward) == (LinkState.SUSPECT, False, False)
        found = await c.reachability()
        assert pairs(found) == {"ab", "ba"}
        assert found.mute == ()
        from_a = await a.reachability()
        assert pairs(from_a) == {"ba"}, "what b hears is not known here"
        assert from_a.mute == (b.me,)


async def test_who_does_not_answer_in_time_is_mute(monkeypatch: pytest.MonkeyPatch) -> None:
    async with mesh("a", "b") as (a, b):
        monkeypatch.setattr(b._services, "built_in", {})
        assert (await a.reachability()).mute == (b.me,), "one that does not know the question"
        monkeypatch.setattr(b._services, "requested", lambda _: None)
        b._opened.inbox = {}
        assert (await a.reachability(0.05)).mute == (b.me,)


async def test_a_row_that_is_none_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with mesh("a", "b") as (a, b):
        monkeypatch.setattr(b._services, "built_in", {SERVICE: lambda: b"[{}]"})
        assert (await a.reachability()).mute == (b.me,)
        assert a.dropped == {Drop.MALFORMED_CONTROL: 1}


async def test_a_classic_peer_is_mute_and_is_not_asked() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, mesh("a", net=net) as (a,), Peer(PROXY, name="old", network=net) as old:
        await a.wait_for(1)
        classic = UUID(int=5)
        proxy.publish(encode(Announce(PeerInfo(classic, old.me.endpoint))))
        await anyio.sleep(0.1)
        (link, *_) = [link for link in a.links() if link.peer.id == classic]
        assert (link.outward, link.silence, link.round_trip) == (None, None, None)
        assert classic not in (await a.reachability()).rows


async def test_the_names_of_our_own_services_are_not_for_others() -> None:
    async with mesh("a", "b") as (a, b):

        async def answer(_: object) -> bytes:
            return b""

        with pytest.raises(ValueError, match="zdisco"):
            a.serve("zdisco.links", answer)
        with pytest.raises(RequestFailed, match="does not serve"):
            await a.request(b.id, b"", service="zdisco.else")
        assert SERVICE not in b.me.services


seconds = st.floats(0, 1e9)
link_infos = st.builds(
    LinkInfo,
    st.builds(PeerInfo, st.uuids(), st.text(), name=st.text()),
    st.sampled_from(LinkState),
    seconds,
    st.booleans(),
    st.none() | st.booleans(),
    st.none() | seconds,
    st.none() | seconds,
)


@given(st.lists(link_infos, max_size=3))
def test_rows_arrive_as_they_were(links: list[LinkInfo]) -> None:
    assert decode_row(encode_row(links)) == tuple(links)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.binary(max_size=50) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_row_or_malformed(raw: bytes) -> None:
    with suppress(MalformedMessage):
        decode_row(raw)


@given(link_infos, st.data())
def test_a_row_with_another_value_in_it_is_one_or_malformed(link: LinkInfo, data: st.DataObject) -> None:
    (row,) = json.loads(encode_row([link]))
    key = data.draw(st.sampled_from(sorted(row)))
    row[key] = data.draw(json_values)
    decoded: Any = None
    with suppress(MalformedMessage):
        decoded = decode_row(json.dumps([row]).encode())
    assert decoded is None or isinstance(decoded[0], LinkInfo)
