"""A gossip node over real sockets, on every event loop."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from math import inf
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import pytest
import pytest_asyncio
import zmq
from anyio.lowlevel import checkpoint

from rawgossip import ANYWHERE, HELLO, INVALID, PING, PONG, TIMEOUT, Raw, eventually, place, publish
from zdisco import (
    BindError,
    Change,
    ClosedError,
    Delivery,
    Drop,
    Gossip,
    GossipConfig,
    GossipStatus,
    InvalidEndpoint,
    Stream,
)

TRANSPORTS = pytest.mark.parametrize("transport", ["tcp", "ipc", "inproc"])
QUICK = GossipConfig(reconnect_interval=0.01, reconnect_interval_max=0.05, linger=0.1)


def new(key: str, value: str) -> Delivery:
    return Delivery(key, value, Change.NEW)


async def take(stream: Stream[Delivery], number: int) -> list[Delivery]:
    with anyio.fail_after(TIMEOUT):
        return [await anext(stream) for _ in range(number)]


async def until_agreed(*nodes: Gossip, holds: dict[str, str]) -> None:
    await eventually(lambda: all(dict(node) == holds for node in nodes))


async def bind_again(node: Gossip, endpoint: str) -> None:
    """Bind where another node was bound until now."""
    with anyio.fail_after(TIMEOUT):
        while not node.endpoints:
            with suppress(BindError):
                await node.bind(endpoint)


async def running_for(turns: int) -> None:
    """Let others run."""
    for _ in range(turns):
        await checkpoint()


@asynccontextmanager
async def pair(config: GossipConfig | None = None) -> AsyncIterator[tuple[Gossip, Gossip]]:
    """A server and its client, which know each other."""
    async with Gossip(ANYWHERE, config=config) as server, Gossip(connect=server.endpoints, config=config) as client:
        await client.settle(TIMEOUT)
        yield server, client


# The manual page of zgossip


@pytest.mark.anyio
@TRANSPORTS
async def test_the_example_of_the_manual_page_server(transport: str) -> None:
    with place(transport) as endpoint, Raw(zmq.DEALER) as client:
        async with Gossip() as server:
            client.connect(await server.bind(endpoint))
            # HELLO gets no message, PING gets PONG.
            client.send(HELLO)
            client.send(PING)
            assert await client.receive() == [PONG]


@pytest.mark.anyio
@TRANSPORTS
async def test_the_example_of_the_manual_page_peers(transport: str) -> None:
    with place(transport) as endpoint:
        async with Gossip() as base, Gossip() as alpha, Gossip() as beta:
            base.set("server/timeout", "100")
            bound = await base.bind(endpoint)
            deliveries = alpha.deliveries()

            await alpha.connect(bound)
            await alpha.publish("inproc://alpha-1", "service1")
            await alpha.publish("inproc://alpha-2", "service2")

            await beta.connect(bound)
            await beta.publish("inproc://beta-1", "service1")
            await beta.publish("inproc://beta-2", "service2")

            told = await take(deliveries, 4)
            assert told[:2] == [new("inproc://alpha-1", "service1"), new("inproc://alpha-2", "service2")]
            assert sorted(told[2:], key=lambda one: one.key) == [
                new("inproc://beta-1", "service1"),
                new("inproc://beta-2", "service2"),
            ]
            assert alpha.status().tuples == 4
            await until_agreed(base, alpha, beta, holds={one.key: one.value or "" for one in told})


# Vectors of the real protocol

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "zgossip.json").read_text(encoding="utf-8")
)["vectors"]
VECTOR = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))


def test_the_vectors_are_those_of_all_messages() -> None:
    messages = {vector["fields"].get("message", "malformed") for vector in VECTORS}
    assert messages == {"HELLO", "PUBLISH", "PING", "PONG", "INVALID", "malformed"}


def message_of(vector: dict[str, Any]) -> str:
    return str(vector["fields"].get("message", "malformed"))


@pytest.mark.anyio
@VECTOR
async def test_a_server_survives_what_a_client_may_say_and_answers_what_is_to_be_answered(
    vector: dict[str, Any],
) -> None:
    with Raw(zmq.DEALER) as client:
        async with Gossip(ANYWHERE) as node:
            client.connect(node.endpoints[0])
            client.send(bytes.fromhex(vector["hex"]))
            if message_of(vector) == "PING":
                assert await client.receive() == [PONG]
            # What comes before the PONG is the answer.
            client.send(PING)
            answers = await client.until(PONG)
            # Who has not said HELLO may be asked for it.
            assert answers in ([], [INVALID] if message_of(vector) == "PUBLISH" else [])
            assert node.dropped.get(Drop.MALFORMED_GOSSIP, 0) == (message_of(vector) == "malformed")
            assert node.dropped.get(Drop.UNEXPECTED_GOSSIP, 0) == (message_of(vector) in ("PONG", "INVALID"))
            if message_of(vector) == "PUBLISH":
                with anyio.fail_after(TIMEOUT):
                    assert await node.wait_for(vector["fields"]["key"]) == vector["fields"]["value"]
            else:
                assert len(node) == 0


@pytest.mark.anyio
@VECTOR
async def test_a_client_survives_what_a_server_may_say_and_takes_what_is_to_be_taken(vector: dict[str, Any]) -> None:
    with Raw(zmq.ROUTER) as server:
        async with Gossip(connect=server.bind(ANYWHERE)) as node:
            client, frame = await server.receive()
            assert frame.startswith(HELLO)
            assert (await server.receive())[1].startswith(PING)
            server.send(client, PONG)
            server.send(client, bytes.fromhex(vector["hex"]))
            # To this it says HELLO, once, though the vector may be the same message.
            server.send(client, INVALID)
            while not (await server.receive())[1].startswith(HELLO):
                pass
            assert node.dropped.get(Drop.MALFORMED_GOSSIP, 0) == (message_of(vector) == "malformed")
            assert node.dropped.get(Drop.UNEXPECTED_GOSSIP, 0) == (message_of(vector) in ("HELLO", "PING"))
            if message_of(vector) == "PUBLISH":
                with anyio.fail_after(TIMEOUT):
                    assert await node.wait_for(vector["fields"]["key"]) == vector["fields"]["value"]
            else:
                assert len(node) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("frames", [[HELLO, b"x"], [PING, PING], [b"", HELLO]], ids=["two", "twice", "delimiter"])
async def test_messages_of_several_frames_are_counted_in_both_roles(frames: list[bytes]) -> None:
    with Raw(zmq.DEALER) as client, Raw(zmq.ROUTER) as server:
        async with Gossip(ANYWHERE, server.bind(ANYWHERE)) as node:
            client.connect(node.endpoints[0])
            client.send(*frames)
            client.send(PING)
            assert await client.receive() == [PONG]
            routing_id, _ = await server.receive()
            server.send(routing_id, *frames)
            await eventually(lambda: node.dropped.get(Drop.MALFORMED_GOSSIP) == 2)


# The network


@pytest.mark.anyio
@TRANSPORTS
async def test_a_server_that_comes_back_and_its_client_agree(transport: str) -> None:
    with place(transport) as somewhere:
        async with Gossip(config=QUICK) as client:
            await client.publish("client", "1")
            async with Gossip(somewhere, config=QUICK) as server:
                endpoint = server.endpoints[0]
                await client.connect(endpoint)
                await server.publish("first", "1")
                await until_agreed(client, server, holds={"client": "1", "first": "1"})
            await client.publish("client", "2")
            async with Gossip(config=QUICK) as server:
                await bind_again(server, endpoint)
                await server.publish("second", "1")
                await until_agreed(client, server, holds={"client": "2", "first": "1", "second": "1"})


@pytest.mark.anyio
async def test_a_client_comes_and_goes_and_the_status_says_so() -> None:
    async with Gossip(ANYWHERE) as server:
        for _ in range(3):
            async with Gossip(connect=server.endpoints) as client:
                await client.settle(TIMEOUT)
                assert client.status() == GossipStatus(tuples=0, tombstones=0, remotes=1, clients=0)
                assert server.status() == GossipStatus(tuples=0, tombstones=0, remotes=0, clients=1)
            await eventually(lambda: server.status().clients == 0)


@pytest.mark.anyio
async def test_a_cycle_of_nodes_comes_to_rest() -> None:
    async with Gossip(ANYWHERE) as one, Gossip(ANYWHERE) as two, Gossip(ANYWHERE) as three:
        for node, other in ((one, two), (two, three), (three, one)):
            await node.connect(other.endpoints[0])
        for number, node in enumerate((one, two, three)):
            await node.publish("shared", str(number))
            await node.publish(str(number), "own")
        for node in (one, two, three):
            await node.settle(TIMEOUT)
        await eventually(lambda: one == two == three and len(one) == 4)


@pytest.mark.anyio
async def test_a_node_may_be_connected_to_itself() -> None:
    async with Gossip(ANYWHERE) as node:
        await node.connect(node.endpoints[0])
        await node.settle(TIMEOUT)
        await node.publish("key", "value")
        await node.settle(TIMEOUT)
        assert (node.status().remotes, node.status().clients) == (0, 0)


@pytest.mark.anyio
async def test_connecting_twice_is_nothing_and_disconnecting_is_told() -> None:
    async with Gossip(ANYWHERE) as server, Gossip(connect=server.endpoints) as client:
        endpoint = server.endpoints[0]
        await client.connect(endpoint)
        await client.settle(TIMEOUT)
        assert server.status().clients == 1
        assert await client.disconnect(endpoint)
        assert not await client.disconnect(endpoint)
        await eventually(lambda: server.status().clients == 0)
        await server.publish("missed", "1")
        await client.connect(endpoint)
        assert await client.wait_for("missed", timeout=TIMEOUT) == "1"


@pytest.mark.anyio
async def test_whoever_waits_for_a_node_that_is_not_there_is_told_so() -> None:
    async with Gossip(connect=["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]) as node:
        with pytest.raises(TimeoutError, match="2 of 2 gossip nodes do not answer"):
            await node.settle(0.01)
    async with Gossip() as node:
        await node.settle(0)


# Tuples


@pytest.mark.anyio
async def test_a_node_is_a_mapping_of_what_it_holds() -> None:
    async with Gossip() as node:
        assert (len(node), dict(node), list(node)) == (0, {}, [])
        await node.publish("a", "1")
        await node.publish("b", "")
        assert (len(node), dict(node), list(node)) == (2, {"a": "1", "b": ""}, ["a", "b"])
        assert (node["a"], node["b"], node.get("c"), node.get("c", "none")) == ("1", "", None, "none")
        assert "a" in node
        assert "c" not in node
        nothing: list[object] = [7]
        assert nothing[0] not in node
        assert "\ud800" not in node
        assert (list(node.keys()), list(node.values())) == (["a", "b"], ["1", ""])
        assert node == {"a": "1", "b": ""}
        with pytest.raises(KeyError, match="c"):
            node["c"]


@pytest.mark.anyio
async def test_a_node_is_true_whatever_it_holds_and_whether_it_is_open() -> None:
    node = Gossip()
    assert bool(node)
    async with node:
        assert len(node) == 0
        assert bool(node)
    assert bool(node)


@pytest.mark.anyio
async def test_iterating_goes_over_what_was_there_at_the_beginning() -> None:
    async with Gossip() as node:
        for number in range(10):
            await node.publish(str(number), "x")
        seen = []
        for key, _ in node.items():
            seen.append(key)
            for number in range(10):
                await node.unpublish(str(number))
        assert seen == [str(number) for number in range(10)]
        assert not list(node)


@pytest.mark.anyio
async def test_text_that_is_no_ascii_and_bytes_that_are_no_text_go_through() -> None:
    async with pair() as (server, client):
        await server.publish("schlüssel ✓", "wert\n\udcff")
        assert await client.wait_for("schlüssel ✓", timeout=TIMEOUT) == "wert\n\udcff"
        await server.publish("", "of the empty key")
        assert await client.wait_for("", timeout=TIMEOUT) == "of the empty key"


@pytest.mark.anyio
async def test_the_largest_tuple_goes_through() -> None:
    async with pair() as (server, client):
        key, value = "k" * 255, "v" * (1 << 20)
        await client.publish(key, value)
        assert await server.wait_for(key, timeout=TIMEOUT) == value


@pytest.mark.anyio
async def test_what_is_published_last_wins_though_the_clock_was_wrong_when_its_node_was_entered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time()
    wrong = -3_600.0
    monkeypatch.setattr(time, "time", lambda: now + wrong)
    async with Gossip(ANYWHERE) as one:
        wrong = 0.0
        async with Gossip(ANYWHERE) as other:
            await other.publish("key", "earlier")
            now += 0.01
            await one.publish("key", "later")
            await one.connect(other.endpoints[0])
            await one.settle(TIMEOUT)
            assert one["key"] == other["key"] == "later"


@pytest.mark.anyio
async def test_what_is_unpublished_is_gone_everywhere() -> None:
    async with pair() as (server, client):
        await server.publish("key", "value")
        await client.wait_for("key", timeout=TIMEOUT)
        deliveries = server.deliveries()
        assert await client.unpublish("key")
        assert not await client.unpublish("key")
        assert (await take(deliveries, 2))[1] == Delivery("key", None, Change.REMOVED)
        assert "key" not in server


@pytest.mark.anyio
async def test_what_has_a_time_to_live_goes_with_its_owner() -> None:
    async with Gossip(ANYWHERE) as server:
        async with Gossip(connect=server.endpoints) as client:
            await client.publish("lives", "1", ttl=60)
            await client.publish("stays", "1", ttl=60, refresh=False)
            await client.publish("remains", "1")
            await server.wait_for("remains", timeout=TIMEOUT)
            deliveries = server.deliveries()
            assert len(await take(deliveries, 3)) == 3
        assert await take(deliveries, 1) == [Delivery("lives", None, Change.REMOVED)]
        assert dict(server) == {"stays": "1", "remains": "1"}


@pytest.mark.anyio
async def test_what_is_not_refreshed_expires() -> None:
    async with pair() as (server, client):
        await client.publish("short", "1", ttl=0.1, refresh=False)
        deliveries = server.deliveries()
        assert [one.change for one in await take(deliveries, 2)] == [Change.NEW, Change.EXPIRED]
        assert "short" not in server


@pytest.mark.anyio
async def test_waiting_for_a_key_ends_with_its_value_or_in_time() -> None:
    async with Gossip() as node:
        values: list[str] = []

        async def wait(key: str) -> None:
            values.append(await node.wait_for(key, timeout=TIMEOUT))

        async with anyio.create_task_group() as tasks:
            for key in ("a", "a", "b"):
                tasks.start_soon(wait, key)
            await anyio.wait_all_tasks_blocked()
            await node.publish("a", "1")
            await node.publish("b", "2")
        assert sorted(values) == ["1", "1", "2"]
        with pytest.raises(TimeoutError, match="no value of 'c' within 0 s"):
            await node.wait_for("c", timeout=0)
        assert await node.wait_for("a", timeout=0) == "1"


@pytest.mark.anyio
async def test_whoever_waits_in_vain_leaves_nothing_and_takes_nothing_from_others() -> None:
    async with Gossip() as node:
        values: list[str] = []

        async def wait() -> None:
            values.append(await node.wait_for("key", timeout=TIMEOUT))

        with pytest.raises(TimeoutError):
            await node.wait_for("never", timeout=0)
        assert not node._awaited
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            async with anyio.create_task_group() as others:
                others.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                others.cancel_scope.cancel()
            assert values == []
            await node.publish("key", "value")
        assert values == ["value"]
        assert not node._awaited


@pytest.mark.anyio
async def test_a_key_may_be_awaited_in_another_spelling_of_its_bytes() -> None:
    async with Gossip() as node:
        values: list[str] = []

        async def wait() -> None:
            values.append(await node.wait_for("\udcc3\udca9", timeout=TIMEOUT))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await node.publish("é", "value")
        assert values == ["value"]


# Deliveries


@pytest.mark.anyio
async def test_a_reader_gets_what_is_there_and_then_each_change() -> None:
    before = Gossip()
    from_the_beginning = before.deliveries()
    async with before as node:
        await node.publish("a", "1")
        await node.publish("b", "1")
        async with node.deliveries() as deliveries:
            await node.publish("c", "1")
            assert await take(deliveries, 3) == [new("a", "1"), new("b", "1"), new("c", "1")]
            await node.publish("a", "2")
            await node.unpublish("b")
            assert await take(deliveries, 2) == [
                Delivery("a", "2", Change.CHANGED),
                Delivery("b", None, Change.REMOVED),
            ]
        with pytest.raises(StopAsyncIteration):
            await anext(deliveries)
    assert [one async for one in from_the_beginning] == [new("a", "2"), new("c", "1")]
    assert [one async for one in node.deliveries()] == []


@pytest.mark.anyio
async def test_a_slow_reader_misses_what_was_between_and_never_the_end() -> None:
    async with pair() as (server, client):
        slow, other = server.deliveries(), server.deliveries()
        for number in range(1000):
            await client.publish("fast", str(number))
        await client.publish("last", "1")
        seen = [new("", "")]
        while seen[-1].key != "last":
            seen += await take(other, 1)
        assert await take(slow, 2) == [new("fast", "999"), new("last", "1")]
        assert slow.dropped == 0
        assert server.dropped == {}


@pytest.mark.anyio
async def test_a_reader_with_more_keys_than_may_wait_is_told_how_many_it_lost() -> None:
    async with Gossip(config=GossipConfig(delivery_capacity=10)) as node:
        deliveries = node.deliveries()
        for number in range(25):
            await node.publish(str(number), "x")
        assert await take(deliveries, 10) == [new(str(number), "x") for number in range(15, 25)]
        assert deliveries.dropped == 15
        assert node.dropped == {Drop.DELIVERIES_FULL: 15}


# Security

CURVE = pytest.mark.skipif(not zmq.has("curve"), reason="libzmq was built without CURVE")


def keys() -> dict[str, Any]:
    public, secret = zmq.curve_keypair()
    return {"public_key": public.decode(), "secret_key": secret.decode()}


@pytest.mark.anyio
@CURVE
async def test_nodes_with_keys_talk() -> None:
    server_keys, client_keys = keys(), keys()
    async with (
        Gossip(ANYWHERE, **server_keys) as server,
        Gossip(connect={server.endpoints[0]: server_keys["public_key"]}, **client_keys) as client,
    ):
        await client.publish("tcp://127.0.0.1:9001", "service1")
        assert await server.wait_for("tcp://127.0.0.1:9001", timeout=TIMEOUT) == "service1"
        await client.connect(server.endpoints[0], server_keys["public_key"].encode())
        with pytest.raises(ValueError, match="another server_key"):
            await client.connect(server.endpoints[0])


@pytest.mark.anyio
@CURVE
async def test_nodes_without_the_key_or_with_the_wrong_one_are_not_let_in() -> None:
    server_keys, client_keys = keys(), keys()
    for server_key in (None, client_keys["public_key"]):
        async with Gossip(ANYWHERE, config=QUICK, **server_keys) as server:
            async with Gossip(config=QUICK, **client_keys) as client:
                await client.connect(server.endpoints[0], server_key)
                # It is tried again and again.
                await eventually(lambda: server.dropped.get(Drop.FAILED_HANDSHAKE, 0) >= 2)
                assert client.status().remotes == 0
            assert server.status().clients == 0


@asynccontextmanager
async def zap_handler(domains: list[bytes], status: bytes) -> AsyncIterator[None]:
    """Answers each question whether somebody may connect, and notes the domains."""
    with Raw(zmq.REP) as handler:
        await handler.bind_again("inproc://zeromq.zap.01")

        async def answer() -> None:
            while True:
                frames = await handler.receive()
                domains.append(frames[2])
                handler.send(frames[0], frames[1], status, b"", b"", b"")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            yield
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
@CURVE
async def test_where_nobody_decides_who_may_connect_nobody_may() -> None:
    server_keys = keys()
    async with (
        Gossip(ANYWHERE, config=QUICK, zap_domain="TEST", **server_keys) as server,
        Gossip(connect={server.endpoints[0]: server_keys["public_key"]}, config=QUICK, **keys()) as client,
    ):
        await eventually(lambda: server.dropped.get(Drop.FAILED_HANDSHAKE, 0) >= 1)
        assert client.status().remotes == 0


@pytest.mark.anyio
@pytest.mark.parametrize("mechanism", ["null", pytest.param("curve", marks=CURVE)])
async def test_a_handler_of_zap_decides_who_may_connect(mechanism: str) -> None:
    server_keys, client_keys = (keys(), keys()) if mechanism == "curve" else ({}, {})
    domains: list[bytes] = []
    async with (
        Gossip(config=QUICK, zap_domain="TEST", **server_keys) as server,
        Gossip(config=QUICK, **client_keys) as client,
    ):
        async with zap_handler(domains, b"400"):
            await client.connect(await server.bind(ANYWHERE), server_keys.get("public_key"))
            await eventually(lambda: len(domains) >= 2)
        assert client.status().remotes == 0
        async with zap_handler(domains, b"200"):
            await client.settle(TIMEOUT)
    assert set(domains) == {b"TEST"}


@pytest.mark.anyio
async def test_the_longest_domain_can_be_told_to_a_handler_of_zap() -> None:
    domains: list[bytes] = []
    async with (
        zap_handler(domains, b"200"),
        Gossip(ANYWHERE, config=QUICK, zap_domain="x" * 255) as server,
        Gossip(connect=server.endpoints, config=QUICK) as client,
    ):
        await client.settle(TIMEOUT)
    assert set(domains) == {b"x" * 255}


@CURVE
def test_keys_that_are_none_are_refused_without_being_shown() -> None:
    both = keys()
    public, secret = both.values()
    for arguments, complaint in [
        ({"public_key": public}, "secret_key is missing"),
        ({"secret_key": secret}, "public_key is missing"),
        ({"public_key": public, "secret_key": secret[:-1]}, "secret_key must be 32 bytes in Z85"),
        ({"public_key": public, "secret_key": "~" + secret[1:]}, "secret_key has characters"),
        ({"public_key": secret, "secret_key": secret}, "public_key is not that of secret_key"),
        ({"connect": {"tcp://127.0.0.1:1": public}}, "without the public_key and secret_key"),
        ({"connect": {"tcp://127.0.0.1:1": "x"}}, "without the public_key and secret_key"),
        (both | {"connect": {"tcp://127.0.0.1:1": "x"}}, "server_key must be 32 bytes in Z85"),
        # Five characters of Z85 may stand for more than the 32 bits that they are for.
        (both | {"connect": {"tcp://127.0.0.1:1": "0" * 35 + "%nSc1"}}, "server_key must be 32 bytes in Z85"),
        ({"public_key": public, "secret_key": "%" * 40}, "secret_key must be 32 bytes in Z85"),
        ({"public_key": "#" * 40, "secret_key": secret}, "public_key must be 32 bytes in Z85"),
    ]:
        with pytest.raises(ValueError, match=complaint) as caught:
            Gossip(**arguments)
        assert secret not in str(caught.value)
    Gossip(connect={"tcp://127.0.0.1:1": "0" * 35 + "%nSc0"}, **both)
    with pytest.raises(TypeError, match="secret_key must be text or bytes, not of type int"):
        Gossip(public_key=public, secret_key=7)  # type: ignore[arg-type]
    assert secret not in repr(vars(Gossip(public_key=public, secret_key=secret)))


def test_without_curve_in_libzmq_keys_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda _: False)
    with pytest.raises(RuntimeError, match="built without CURVE"):
        Gossip(public_key="x" * 40, secret_key="y" * 40)


# What the caller does wrong


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({"bind": "tcp://127.0.0.1"}, InvalidEndpoint, "tcp://host:port"),
        ({"bind": "udp://127.0.0.1:1"}, InvalidEndpoint, "must begin with tcp://, ipc:// or inproc://"),
        ({"bind": "inproc://"}, InvalidEndpoint, "no name follows"),
        ({"bind": ["ipc://x\0y"]}, InvalidEndpoint, "NUL"),
        ({"bind": 7}, TypeError, "bind must be several texts"),
        ({"bind": [7]}, TypeError, "each of bind must be of type str"),
        ({"connect": "tcp://127.0.0.1:*"}, InvalidEndpoint, "tcp://host:port"),
        ({"connect": "zdisco"}, InvalidEndpoint, "must begin"),
        ({"connect": 7}, TypeError, "connect must be several texts"),
        ({"id": "alice"}, TypeError, "id must be of type UUID"),
        ({"config": {}}, TypeError, "config must be of type GossipConfig"),
        ({"zap_domain": b"TEST"}, TypeError, "zap_domain must be of type str"),
        ({"zap_domain": "x" * 256}, ValueError, "zap_domain must have at most 255 bytes of UTF-8, not 256"),
        ({"zap_domain": "ü" * 128}, ValueError, "zap_domain must have at most 255 bytes"),
        ({"zap_domain": "\udc80"}, ValueError, "zap_domain cannot be UTF-8"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        Gossip(**arguments)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("key", "value", "ttl", "error", "complaint"),
    [
        ("k" * 256, "", None, ValueError, "a key has at most 255 bytes of UTF-8, not 256"),
        ("ü" * 128, "", None, ValueError, "a key has at most 255 bytes"),
        ("k\0", "", None, ValueError, "a key holds no NUL"),
        ("k", "v\0", None, ValueError, "a value holds no NUL"),
        ("k", "v" * ((1 << 20) + 1), None, ValueError, "a value has at most 1,048,576 bytes"),
        ("\ud800", "", None, ValueError, "a key cannot be UTF-8"),
        (b"k", "", None, TypeError, "key must be of type str"),
        ("k", 7, None, TypeError, "value must be of type str"),
        ("k", "v", 0, ValueError, "ttl must be from 0.001"),
        ("k", "v", -1.0, ValueError, "ttl must be from 0.001"),
        ("k", "v", float("nan"), ValueError, "ttl must be from 0.001"),
        ("k", "v", 5e6, ValueError, "ttl must be from 0.001 to 4,294,967 seconds"),
        ("k", "v", True, TypeError, "ttl must be a number"),
        ("k", "v", "1", TypeError, "ttl must be a number"),
    ],
)
async def test_tuples_that_cannot_be_are_refused_at_once(
    key: Any, value: Any, ttl: Any, error: type[Exception], complaint: str
) -> None:
    async with Gossip() as node:
        with pytest.raises(error, match=complaint):
            await node.publish(key, value, ttl)
        assert len(node) == 0


@pytest.mark.anyio
async def test_other_calls_are_checked_too() -> None:
    async with Gossip() as node:
        with pytest.raises(TypeError, match="key must be of type str"):
            await node.unpublish(7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="timeout must be a number"):
            await node.wait_for("k", timeout="1")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="endpoint must be of type str"):
            await node.disconnect(7)  # type: ignore[arg-type]
        with pytest.raises(InvalidEndpoint):
            await node.connect("tcp://0.0.0.0")
        with pytest.raises(InvalidEndpoint, match="nowhere"):
            await node.bind("tcp://nowhere")
        with pytest.raises(BindError, match=r"cannot bind tcp://192\.0\.2\.1:7000"):
            await node.bind("tcp://192.0.2.1:7000")
        assert node.endpoints == ()


@pytest.mark.anyio
async def test_what_cannot_be_bound_lets_nobody_in_and_leaves_nothing() -> None:
    async with Gossip(ANYWHERE) as node:
        other = Gossip([ANYWHERE, node.endpoints[0]])
        with pytest.raises(BindError):
            await other.__aenter__()
        with pytest.raises(ClosedError):
            other.status()


@pytest.mark.anyio
async def test_who_is_not_open_says_so() -> None:
    node = Gossip(id=UUID(int=7))
    assert repr(node) == "<zdisco.Gossip 00000000-0000-0000-0000-000000000007 not open>"
    assert (node.id, node.endpoints, node.port) == (UUID(int=7), (), None)

    async def all_fail() -> None:
        with pytest.raises(ClosedError, match="the gossip node is not open"):
            await node.publish("k", "v")
        calls: list[Coroutine[Any, Any, object]] = [
            node.settle(),
            node.wait_for("k"),
            node.bind(ANYWHERE),
            node.connect("tcp://127.0.0.1:1"),
            node.unpublish("k"),
            node.disconnect("x"),
            node.load("x"),
            node.save("x"),
        ]
        for call in calls:
            with pytest.raises(ClosedError):
                await call
        for look in (lambda: node["k"], lambda: len(node), lambda: list(node), lambda: "k" in node, node.status):
            with pytest.raises(ClosedError):
                look()

    await all_fail()
    async with node:
        assert repr(node).endswith(" without endpoint>")
        await node.bind(ANYWHERE)
        assert repr(node).endswith(f" {node.endpoints[0]}>")
        assert node.port == int(node.endpoints[0].rpartition(":")[2])
        with pytest.raises(ClosedError, match="was entered before"):
            await node.__aenter__()
    await all_fail()
    with pytest.raises(ClosedError, match="was entered before"):
        await node.__aenter__()
    with pytest.raises(ClosedError):
        node.set("server/timeout", "1")


@pytest.mark.anyio
async def test_a_new_timeout_counts_for_a_client_that_says_nothing_more() -> None:
    with Raw(zmq.DEALER) as client:
        async with Gossip(ANYWHERE) as node:
            client.connect(node.endpoints[0])
            client.send(HELLO)
            client.send(PING)
            assert await client.receive() == [PONG]
            assert node.status().clients == 1
            # Until nothing else wakes its clock.
            await eventually(lambda: node._opened.core.next == inf)
            node.set("server/timeout", "50")
            await eventually(lambda: node.status().clients == 0)


@pytest.mark.anyio
async def test_whoever_waits_when_the_node_is_closed_is_told() -> None:
    told: list[str] = []
    node = Gossip(connect="tcp://127.0.0.1:1")

    async def wait_for_key() -> None:
        with pytest.raises(ClosedError):
            await node.wait_for("key")
        told.append("key")

    async def settle() -> None:
        with pytest.raises(ClosedError):
            await node.settle()
        told.append("settle")

    async def read() -> None:
        async for _ in node.deliveries():
            raise AssertionError("nothing was published")
        told.append("deliveries")

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks, node:
            for function in (wait_for_key, settle, read):
                tasks.start_soon(function)
            await running_for(3)
    assert sorted(told) == ["deliveries", "key", "settle"]


@pytest.mark.anyio
async def test_a_node_belongs_to_its_thread() -> None:
    async with Gossip() as node:
        errors: list[Exception] = []

        def elsewhere() -> None:
            try:
                len(node)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "in the thread and the event loop in which it was entered" in str(errors[0])


# The end


class Misfortune(Exception):
    """What goes wrong in the block of a user."""


@pytest.mark.anyio
async def test_an_exception_in_the_block() -> None:
    async def life() -> None:
        async with pair() as (_, client):
            await client.publish("key", "value")
            raise Misfortune

    with pytest.raises(Misfortune):
        await life()


@pytest.mark.anyio
async def test_what_was_published_last_arrives_though_the_node_leaves_at_once() -> None:
    async with Gossip(ANYWHERE) as server:
        for number in range(10):
            async with Gossip(connect=server.endpoints) as client:
                await client.settle(TIMEOUT)
                await client.publish(str(number), "x" * 100_000)
            assert await server.wait_for(str(number), timeout=TIMEOUT)


LAST_WORDS = """
import os, sys, anyio
from zdisco import Gossip

async def main():
    async with Gossip(connect=sys.argv[1]) as node:
        await node.settle()
        for number in range(10):
            await node.publish(str(number), "x" * 1_000_000)

anyio.run(main)
os._exit(0)
"""


@pytest.mark.anyio
async def test_what_was_published_last_arrives_though_the_process_ends_at_once() -> None:
    async with Gossip(ANYWHERE) as server:
        with anyio.fail_after(TIMEOUT):
            done = await anyio.run_process([sys.executable, "-c", LAST_WORDS, server.endpoints[0]], env=environment())
        assert done.returncode == 0
        await eventually(lambda: len(server) == 10)


def environment() -> dict[str, str]:
    paths = [str(Path(__file__).resolve().parent.parent / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.mark.anyio
async def test_a_node_whose_context_is_terminated_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    monkeypatch.setattr(zmq.Context, "_instance", context)
    async with Gossip(ANYWHERE) as node:
        deliveries = node.deliveries()
        await anyio.to_thread.run_sync(context.term)
        with anyio.fail_after(TIMEOUT):
            assert [one async for one in deliveries] == []
        with pytest.raises(ClosedError):
            node.status()
    assert "has ended, as it does with the ZeroMQ context of the process" in caplog.text


async def a_life(server: Gossip) -> None:
    async with Gossip(ANYWHERE, connect=server.endpoints, config=QUICK) as node:
        await node.connect(node.endpoints[0])
        await node.publish("key", "value", ttl=60)
        async with node.deliveries() as deliveries:
            await anext(deliveries)
        await node.wait_for("there")
        await node.settle()
        await node.disconnect(server.endpoints[0])


@pytest.mark.anyio
async def test_cancellation_at_any_point_leaves_nothing() -> None:
    async with Gossip(ANYWHERE, config=QUICK) as server:
        await server.publish("there", "1")
        await a_life(server)
        for turns in [*range(30), *range(30, 300, 15)]:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(a_life, server)
                for _ in range(turns):
                    await checkpoint()
                tasks.cancel_scope.cancel()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@pytest.mark.anyio
@TRANSPORTS
async def test_nodes_that_come_and_go_keep_no_descriptor(transport: str) -> None:
    with place(transport) as endpoint:
        async with Gossip(endpoint, config=QUICK) as server:
            counts: list[int] = []
            for cycle in range(40):
                async with Gossip(connect=server.endpoints, config=QUICK) as client:
                    await client.settle(TIMEOUT)
                if cycle % 20 == 19:
                    gc.collect()
                    if counts:
                        await eventually(lambda: descriptors() <= counts[0])
                    counts.append(descriptors())


@pytest.mark.asyncio
async def test_entering_in_one_task_and_leaving_in_another() -> None:
    server = await asyncio.create_task(Gossip(ANYWHERE).__aenter__())
    client = await asyncio.create_task(Gossip(connect=server.endpoints).__aenter__())
    await asyncio.create_task(client.publish("key", "value"))
    assert await asyncio.create_task(server.wait_for("key", timeout=TIMEOUT)) == "value"
    await asyncio.create_task(server.__aexit__(None, None, None))
    await asyncio.create_task(client.__aexit__(None, None, None))


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[Gossip]:
    async with Gossip(ANYWHERE) as node:
        yield node


@pytest_asyncio.fixture
async def spoke(hub: Gossip) -> AsyncIterator[Gossip]:
    async with Gossip(connect=hub.endpoints) as node:
        yield node


@pytest.mark.asyncio
@pytest.mark.parametrize("time", [1, 2])
async def test_nodes_from_fixtures_of_pytest_asyncio_talk_and_are_new_for_each_test(
    hub: Gossip, spoke: Gossip, time: int
) -> None:
    assert len(hub) == 0
    await spoke.publish("key", str(time))
    assert await hub.wait_for("key", timeout=TIMEOUT) == str(time)


@pytest.mark.asyncio
async def test_a_task_of_asyncio_that_is_cancelled_again_and_again() -> None:
    async with Gossip(ANYWHERE, config=QUICK) as server:
        await server.publish("there", "1")
        for turns in range(0, 200, 9):
            life = asyncio.create_task(a_life(server))
            for _ in range(turns):
                await asyncio.sleep(0)
            while not life.done():
                life.cancel()
                await asyncio.sleep(0)


# What is logged


@pytest.mark.anyio
async def test_a_verbose_node_logs_each_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zdisco")
    with Raw(zmq.DEALER) as client:
        async with Gossip(ANYWHERE) as node:
            client.connect(node.endpoints[0])
            client.send(PING)
            assert await client.receive() == [PONG]
            assert caplog.messages == []
            node.set("server/verbose", "1")
            client.send(PING)
            client.send(b"nonsense")
            client.send(HELLO)
            client.send(publish(b"key", b"v" * 1000))
            await node.wait_for("key", timeout=TIMEOUT)
            node.set("server/verbose", "0")
            client.send(PING)
            await client.until(PONG)
    said = [message.partition(": ")[2] for message in caplog.messages]
    assert said[0] == "Ping(trailer=None)"
    assert "Pong(trailer=None)" in said
    assert any(text.startswith("malformed message of 8 bytes") for text in said)
    assert max(map(len, said)) == 203
    assert all(message.startswith(("gossip from client ", "gossip to client ")) for message in caplog.messages)


def test_ids_are_random_unless_given() -> None:
    assert Gossip().id != Gossip().id
    mine = uuid4()
    assert Gossip(id=mine).id == mine
