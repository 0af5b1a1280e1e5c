"""Real nodes of zgossip: that the harness runs them, and what they do that our own node relies on.

The facts are those of CZMQ 4.2.1, seen from outside: a raw client talks to a real server, a raw server to a
real client. A test here that fails says that another CZMQ behaves otherwise.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

import czmq
from czmq import NodeDied, RealGossip, RealGossips, RealNode, czmq_reason
from zgossip import HELLO, INVALID, PING, PONG, Raw, RawClient, RawServer, publish

pytestmark = pytest.mark.anyio
needs_czmq = pytest.mark.skipif(czmq_reason() is not None, reason=str(czmq_reason()))
# The raw sockets wait for nobody's event loop.
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
ROLES = pytest.mark.parametrize("role", ["server", "client"])

ANY = "tcp://127.0.0.1:*"
VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "zgossip.json").read_text(encoding="utf-8")
)["vectors"]
MANY = [(b"key %d" % number, b"value %d" % number) for number in range(1000)]
PING_INTERVAL = 0.3
TIMEOUT = 1.0
"""Seconds of silence after which a server forgets a client, unless it is told otherwise."""


async def bound(node: RealNode) -> str:
    """Let it listen, and forget no client that a machine under load keeps silent."""
    await node.set("server/timeout", "0")
    return await node.bind(ANY)


@asynccontextmanager
async def served(*, rcvhwm: int = 0) -> AsyncIterator[tuple[RealGossip, RawClient]]:
    """A real server that forgets nobody, and a raw client that has joined it."""
    async with RealGossip() as node:
        with RawClient(await bound(node), rcvhwm=rcvhwm) as client:
            assert client.join() == []
            yield node, client


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[RealGossip, RawServer]]:
    """A real client, and the raw server that it has joined."""
    async with RealGossip() as node:
        with RawServer() as server:
            await node.connect(server.endpoint)
            assert server.receive() == HELLO
            yield node, server


def changes(tuples: list[tuple[bytes, bytes]], table: dict[bytes, bytes]) -> list[bytes]:
    """Frames of what changes the table, which is changed."""
    frames = []
    for key, value in tuples:
        if table.get(key) != value:
            table[key] = value
            frames.append(publish(key, value))
    return frames


# -- the harness ----------------------------------------------------------------------------------


@needs_czmq
async def test_real_nodes_exchange_what_they_publish() -> None:
    async with RealGossip() as hub, RealGossip() as other:
        await other.connect(await bound(hub))
        await hub.publish(b"of the hub", b"1")
        await other.publish(b"of the other", b"\xff\xfe 2")
        await hub.wait_for(b"of the other", b"\xff\xfe 2")
        await other.wait_for(b"of the hub", b"1")
        for node in (hub, other):
            assert await node.tuples() == {b"of the hub": b"1", b"of the other": b"\xff\xfe 2"}
            assert await node.status() == 2
            assert await node.delivered() == 2
            assert await node.is_alive()
        assert hub.pid != other.pid


@needs_czmq
@ON_ASYNCIO
async def test_a_process_holds_several_nodes_and_reads_all_that_they_deliver() -> None:
    async with RealGossips(4) as process:
        hub, *others = (process.node(number) for number in range(4))
        endpoint = await bound(hub)
        for number, other in enumerate(others):
            await other.connect(endpoint)
            await other.publish(b"of node %d" % number, b"")
        await hub.wait_for_count(3)
        used = process.cpu_seconds
        # A node comes to a halt when 2,000 tuples that it delivered were not read.
        await hub.publish_many([(b"%d" % number, b"value") for number in range(5000)])
        for node in (hub, *others):
            await node.wait_for_count(5003)
            assert await node.delivered() == await node.status() == 5003
        assert process.cpu_seconds > used


@needs_czmq
async def test_the_end_of_a_node_is_noticed_and_spares_the_others() -> None:
    async with RealGossips(2) as process:
        stopped, other = process.node(0), process.node(1)
        await stopped.stop()
        await stopped.wait_until_dead()
        assert not await stopped.is_alive()
        with pytest.raises(NodeDied):
            await stopped.publish(b"key", b"value")
        assert await other.is_alive()


@needs_czmq
async def test_who_waits_for_a_process_that_is_killed_is_told() -> None:
    async with RealGossip() as node, anyio.create_task_group() as tasks:

        async def wait() -> None:
            with pytest.raises(NodeDied):
                await node.wait_for(b"key", b"value")

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await node.kill()
        assert not await node.is_alive()
        with pytest.raises(NodeDied):
            await node.status()


@needs_czmq
@ON_ASYNCIO
async def test_a_node_that_hangs_is_not_alive() -> None:
    async with RealGossip() as node:
        node.pause()
        assert not await node.is_alive(limit=0.1)
        node.resume()
        assert await node.is_alive()


@ON_ASYNCIO
async def test_the_reason_why_no_real_node_can_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(czmq, "LIBRARY", "libczmq-of-nobody.so.4")
    assert "libczmq-of-nobody.so.4" in str(czmq_reason())


# -- what follows a message -------------------------------------------------------------------------


@needs_czmq
@ON_ASYNCIO
@pytest.mark.parametrize("size", [4, 60 << 10, 1 << 20])
async def test_a_real_server_ignores_what_follows_a_message(size: int) -> None:
    more = (b"ZD\x01" + PING * size)[:size]
    async with RealGossip() as node:
        endpoint = await bound(node)
        with RawClient(endpoint) as watcher, RawClient(endpoint) as client:
            assert watcher.join() == []
            client.send(HELLO + more, publish(b"key", b"value") + more, PING + more)
            assert client.receive_until(PONG) == [publish(b"key", b"value")]
            assert watcher.ping() == [publish(b"key", b"value")]
        assert await node.tuples() == {b"key": b"value"}


@needs_czmq
@ON_ASYNCIO
@pytest.mark.parametrize("size", [4, 60 << 10, 1 << 20])
async def test_a_real_client_ignores_what_follows_a_message(size: int) -> None:
    more = (b"ZD\x01" + PING * size)[:size]
    async with connected() as (node, server):
        server.send(PONG + more, publish(b"key", b"value") + more, INVALID + more)
        assert server.receive_until(HELLO) == [publish(b"key", b"value")]
        assert await node.tuples() == {b"key": b"value"}


# -- echoes and barriers ------------------------------------------------------------------------------


@needs_czmq
@ON_ASYNCIO
@ROLES
async def test_what_changes_a_real_node_comes_back_once_in_order_and_nothing_else_does(role: str) -> None:
    choice = random.Random(role)
    table: dict[bytes, bytes] = {}
    async with served() if role == "server" else connected() as (node, raw):
        mixed = [(choice.choice(MANY[:50])[0], b"%d" % choice.randrange(3)) for _ in MANY]
        for tuples in (MANY, MANY, mixed):
            raw.send(*(publish(key, value) for key, value in tuples))
            assert barrier(raw) == changes(tuples, table)
            assert await node.tuples() == table
        assert raw.waits()


def barrier(raw: Raw) -> list[bytes]:
    """What a real node has sent when it has done with all that it was sent."""
    match raw:
        case RawClient():
            return raw.ping()
        case RawServer():
            return raw.reset()
    raise AssertionError(raw)


@needs_czmq
@ON_ASYNCIO
async def test_all_clients_of_a_real_server_see_the_same_changes_in_the_same_order() -> None:
    choice = random.Random(0)
    async with RealGossip() as node:
        endpoint = await bound(node)
        with RawClient(endpoint) as one, RawClient(endpoint) as other, RawClient(endpoint) as watcher:
            clients = (one, other, watcher)
            assert [client.join() for client in clients] == [[], [], []]
            for _ in range(500):
                for client in (one, other):
                    client.send(publish(b"%d" % choice.randrange(10), b"%d" % choice.randrange(3)))
            seen = [client.ping() for client in clients]
            seen = [frames + client.ping() for frames, client in zip(seen, clients, strict=True)]
            assert len(seen[0]) > 500
            assert seen[0] == seen[1] == seen[2]


@needs_czmq
@ON_ASYNCIO
async def test_a_real_server_tells_all_that_it_holds_between_hello_and_the_next_pong() -> None:
    async with RealGossip() as node:
        with RawClient(await bound(node)) as client:
            await node.publish_many(MANY)
            assert sorted(client.join()) == sorted(publish(key, value) for key, value in MANY)


@needs_czmq
@ON_ASYNCIO
async def test_two_values_of_a_key_under_way_at_once_are_swapped_for_ever_by_real_nodes() -> None:
    async with RealGossip() as hub, RealGossip() as client:
        await client.connect(await bound(hub))
        await client.publish(b"key", b"of the client")
        await hub.wait_for(b"key", b"of the client")
        # The hub has the second one when the client sends the first one back.
        client.pause()
        await hub.publish_many([(b"key", b"1"), (b"key", b"2")])
        client.resume()
        await hub.wait_for_deliveries(100)


# -- expiry -------------------------------------------------------------------------------------------


@needs_czmq
@ON_ASYNCIO
async def test_a_real_server_forgets_a_client_that_is_silent_for_a_second_and_no_other() -> None:
    async with RealGossip() as node:
        endpoint = await node.bind(ANY)
        with RawClient(endpoint) as silent, RawClient(endpoint) as pinging:
            for attempt in count():
                for client in (silent, pinging):
                    client.send(INVALID)
                    client.join()
                pinged = [time.monotonic()]
                while pinged[-1] < pinged[0] + 1.2 * TIMEOUT:
                    await anyio.sleep(PING_INTERVAL)
                    pinging.ping()
                    pinged.append(time.monotonic())
                await node.publish(b"of the node", b"%d" % attempt)
                pinging.send(publish(b"of a client", b"%d" % attempt))
                told = pinging.ping()
                pinged.append(time.monotonic())
                # A machine under load may have kept us silent, too.
                if all(later - earlier < 0.9 * TIMEOUT for earlier, later in pairwise(pinged)):
                    break
            assert told == [publish(b"of the node", b"%d" % attempt), publish(b"of a client", b"%d" % attempt)]
            silent.send(publish(b"of the silent", b"1"))
            assert silent.ping() == [INVALID]
            assert await node.status() == 2


@needs_czmq
@ON_ASYNCIO
async def test_a_real_server_that_was_held_up_forgets_clients_that_kept_pinging_and_answers_them() -> None:
    async with RealGossip() as node:
        with RawClient(await node.bind(ANY)) as client:
            assert client.join() == []
            node.pause()
            begin = time.monotonic()
            pings = 0
            while time.monotonic() < begin + 1.2 * TIMEOUT:
                client.send(PING)
                pings += 1
                await anyio.sleep(PING_INTERVAL)
            node.resume()
            assert [client.receive_until(PONG) for _ in range(pings)] == [[]] * pings
            client.send(publish(b"key", b"value"))
            assert client.ping() == [INVALID]
            assert await node.status() == 0


@needs_czmq
@ON_ASYNCIO
async def test_a_known_tuple_and_a_ping_prove_that_a_real_server_knows_us() -> None:
    known = publish(b"key", b"value")
    async with served() as (_, client):
        client.send(known)
        assert client.ping() == [known]
        client.send(known)
        assert client.ping() == []
        client.send(INVALID, known)
        assert client.ping() == [INVALID, INVALID]


@needs_czmq
@ON_ASYNCIO
async def test_invalid_and_hello_join_a_real_server_whatever_it_thinks_of_us() -> None:
    held = publish(b"key", b"value")
    async with RealGossip() as node:
        await node.publish(b"key", b"value")
        with RawClient(await bound(node)) as client:
            for before in ((), (PING,), (HELLO, PING), (HELLO, held, PING)):
                client.send(*before)
                if before:
                    client.receive_until(PONG)
                client.send(INVALID)
                assert client.join() == [INVALID, held]
            assert client.join() == [INVALID]
            assert client.join() == [held]


# -- a server that restarts -----------------------------------------------------------------------------


@needs_czmq
@ON_ASYNCIO
async def test_a_real_client_tells_a_restarted_server_all_and_one_that_forgot_it_nothing() -> None:
    async with connected() as (node, server):
        await node.publish_many(MANY)
        assert [server.receive() for _ in MANY] == [publish(key, value) for key, value in MANY]
        assert server.reset() == []
        server.close()
        await node.publish(b"meanwhile", b"1")
        with RawServer(server.endpoint) as restarted:
            # What was on its way when the old server went may come before the HELLO.
            wanted = {HELLO, *(publish(key, value) for key, value in [*MANY, (b"meanwhile", b"1")])}
            while wanted:
                wanted.discard(restarted.receive())
            assert restarted.reset() == []


@needs_czmq
@ON_ASYNCIO
async def test_a_real_client_brings_back_what_a_killed_server_held() -> None:
    async with RealGossip() as client:
        async with RealGossip() as server:
            endpoint = await bound(server)
            await client.connect(endpoint)
            await server.publish(b"of the server", b"1")
            await client.wait_for(b"of the server", b"1")
            await server.kill()
        async with RealGossip() as server:
            await server.bind(endpoint)
            await server.wait_for(b"of the server", b"1")


# -- what kills, and what does not ------------------------------------------------------------------------


MALFORMED = {vector["name"]: [bytes.fromhex(vector["hex"])] for vector in VECTORS if "malformed" in vector["fields"]}
SOUND = {vector["name"]: [bytes.fromhex(vector["hex"])] for vector in VECTORS if "malformed" not in vector["fields"]}
SEVERAL_FRAMES = {"rest": [HELLO, b"x"], "delimiter": [b"", PING], "nothing": [PING, b""]}


@needs_czmq
@ON_ASYNCIO
@ROLES
async def test_any_malformed_message_kills_a_real_node_and_no_other_one_does(role: str) -> None:
    deadly = MALFORMED | SEVERAL_FRAMES
    assert len(deadly) == 16
    assert len(SOUND) == 14
    async with RealGossips(len(deadly) + len(SOUND)) as process:
        for number, (name, frames) in enumerate((deadly | SOUND).items()):
            node = process.node(number)
            if role == "server":
                raw: Raw = RawClient(await bound(node))
            else:
                raw = server = RawServer()
                await node.connect(server.endpoint)
                assert server.receive() == HELLO
            with raw:
                raw.send_whole(*frames)
                if name in deadly:
                    await node.wait_until_dead()
                else:
                    barrier(raw)
                assert await node.is_alive() == (name not in deadly), name


# -- queues -------------------------------------------------------------------------------------------------


@needs_czmq
@ON_ASYNCIO
async def test_a_real_server_drops_nothing_for_a_client_that_does_not_read() -> None:
    tuples = [(b"%d" % number, b"x" * 200) for number in range(5000)]
    async with served(rcvhwm=10) as (node, client):
        await node.publish_many(tuples)
        assert await node.delivered() == 5000
        assert client.ping() == [publish(key, value) for key, value in tuples]


@needs_czmq
@ON_ASYNCIO
@ROLES
async def test_a_real_node_takes_thousands_of_tuples_at_once_from_who_does_not_read(role: str) -> None:
    tuples = [(b"%d" % number, b"x" * 200) for number in range(2000)]
    frames = [publish(key, value) for key, value in tuples]
    async with RealGossip() as node:
        if role == "server":
            with RawClient(await bound(node), rcvhwm=10) as client:
                client.send(HELLO, *frames)
                await node.wait_for_count(2000)
                assert client.ping() == frames
        else:
            with RawServer() as server:
                await node.connect(server.endpoint)
                assert server.receive() == HELLO
                server.send(*frames)
                await node.wait_for_count(2000)
                assert server.reset() == frames
