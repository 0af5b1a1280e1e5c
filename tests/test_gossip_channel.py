"""The sockets of a gossip node, without its mind."""

from __future__ import annotations

import errno
import os
import socket as plain
import stat
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
import zmq

from rawgossip import ANYWHERE, HELLO, PING, PONG, TIMEOUT, Raw, eventually, place
from zdisco._channels import GossipListener, Sent
from zdisco._core.actions import Drop
from zdisco._core.config import GossipConfig
from zdisco._core.errors import BindError, ClosedError, InvalidEndpoint, SocketLimitError
from zdisco._core.gossip.frames import FRAME_LIMIT
from zdisco._core.gossip.talk import Link
from zdisco._zmq import remotes, sockets
from zdisco._zmq.clients import Connections
from zdisco._zmq.gossip import ZmqGossipChannel
from zdisco._zmq.keys import Security
from zdisco._zmq.options import gossip_dealer
from zdisco._zmq.remotes import Remote

pytestmark = pytest.mark.anyio

CONFIG = GossipConfig(reconnect_interval=0.01, reconnect_interval_max=0.02)
TRANSPORTS = pytest.mark.parametrize("transport", ["tcp", "ipc", "inproc"])
WITH_EVENTS = pytest.mark.parametrize("transport", ["tcp", "ipc"])
"""Those of whose connections libzmq tells."""


class Listener(GossipListener):
    """Writes down what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.messages: list[tuple[Link, bytes]] = []
        self.batches: list[int] = []
        self._changed = anyio.Event()

    def _tell(self, *what: object) -> None:
        self.told.append(what)
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(TIMEOUT):
            while not holds():
                self._changed = anyio.Event()
                await self._changed.wait()

    async def until_told(self, *what: object, times: int = 1) -> None:
        await self.until(lambda: self.told.count(what) >= times)

    async def message(self, number: int = 1) -> tuple[Link, bytes]:
        """The message of that number."""
        await self.until(lambda: len(self.messages) >= number)
        return self.messages[number - 1]

    def gossip_messages(self, messages: Sequence[tuple[Link, bytes]]) -> None:
        self.messages += messages
        self.batches.append(len(messages))
        self._tell("messages")

    def remote_up(self, link: int) -> None:
        self._tell("up", link)

    def remote_down(self, link: int) -> None:
        self._tell("down", link)

    def client_gone(self, link: bytes) -> None:
        self._tell("gone", link)

    def dropped(self, drop: Drop, detail: str = "") -> None:
        self._tell("dropped", drop)


class Side:
    """A channel that runs, and what it told."""

    def __init__(self, channel: ZmqGossipChannel) -> None:
        self.channel = channel
        self.heard = Listener()
        self.ended = anyio.Event()

    async def run(self) -> None:
        await self.channel.run(self.heard)
        self.ended.set()


@asynccontextmanager
async def opened(config: GossipConfig = CONFIG) -> AsyncIterator[Side]:
    side = Side(ZmqGossipChannel(config, Security()))
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(side.run)
            yield side
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await side.channel.aclose()


# Clients


@TRANSPORTS
async def test_a_client_is_heard_with_its_routing_id_and_answered(transport: str) -> None:
    with place(transport) as endpoint, Raw(zmq.DEALER) as client:
        async with opened() as side:
            client.connect(side.channel.bind(endpoint))
            client.send(PING)
            link, frame = await side.heard.message()
            assert (type(link), frame) == (bytes, PING)
            assert side.channel.send(link, PONG) is Sent.SENT
            assert await client.receive() == [PONG]


async def test_one_router_serves_clients_of_all_transports() -> None:
    with (
        place("tcp") as tcp,
        place("ipc") as ipc,
        place("inproc") as inproc,
        Raw(zmq.DEALER) as one,
        Raw(zmq.DEALER) as two,
        Raw(zmq.DEALER) as three,
    ):
        async with opened() as side:
            bound = [side.channel.bind(endpoint) for endpoint in (tcp, ipc, inproc)]
            assert [endpoint.partition(":")[0] for endpoint in bound] == ["tcp", "ipc", "inproc"]
            for client, endpoint in zip((one, two, three), bound, strict=True):
                client.connect(endpoint)
                client.send(PING)
            await side.heard.message(3)
            for link, _ in side.heard.messages:
                side.channel.send(link, PONG)
            for client in (one, two, three):
                assert await client.receive() == [PONG]


@WITH_EVENTS
async def test_the_end_of_a_client_is_told_behind_what_it_had_sent(transport: str) -> None:
    with place(transport) as endpoint:
        async with opened() as side:
            bound = side.channel.bind(endpoint)
            with Raw(zmq.DEALER, LINGER=1000) as client:
                client.connect(bound)
                for _ in range(100):
                    client.send(PING)
                client.zmq.close()
            link, _ = await side.heard.message(100)
            await side.heard.until_told("gone", link)
            assert side.heard.told[-1] == ("gone", link)
            assert side.channel.send(link, PONG) is Sent.UNREACHABLE


async def test_a_client_that_is_gone_over_inproc_cannot_be_reached() -> None:
    with place("inproc") as endpoint:
        async with opened() as side:
            bound = side.channel.bind(endpoint)
            with Raw(zmq.DEALER) as client:
                client.connect(bound)
                client.send(PING)
                link, _ = await side.heard.message()
            await eventually(lambda: side.channel.send(link, PONG) is Sent.UNREACHABLE)


async def test_nobody_is_reached_where_nothing_is_bound() -> None:
    async with opened() as side:
        assert side.channel.send(b"nobody", PONG) is Sent.UNREACHABLE


@TRANSPORTS
async def test_a_client_with_a_routing_id_of_its_own_comes_back(transport: str) -> None:
    with place(transport) as endpoint:
        async with opened() as side:
            bound = side.channel.bind(endpoint)
            links: set[Link] = set()
            for number in range(20):
                with Raw(zmq.DEALER, ROUTING_ID=b"mine") as client:
                    client.connect(bound)
                    client.send(b"%d" % number)
                    link, frame = await side.heard.message(number + 1)
                    assert frame == b"%d" % number
                    assert side.channel.send(link, PONG) is Sent.SENT
                    links.add(link)
                    assert await client.receive() == [PONG]
            assert len(links) == 1


async def test_of_two_with_one_routing_id_only_the_end_of_the_present_one_is_told() -> None:
    async with opened() as side:
        bound = side.channel.bind(ANYWHERE)
        with Raw(zmq.DEALER, ROUTING_ID=b"mine") as second:
            with Raw(zmq.DEALER, ROUTING_ID=b"mine") as first:
                first.connect(bound)
                first.send(b"1")
                link, _ = await side.heard.message(1)
                second.connect(bound)
                second.send(b"2")
                await side.heard.message(2)
            second.send(b"3")
            await side.heard.message(3)
            assert side.channel.send(link, PONG) is Sent.SENT
            assert await second.receive() == [PONG]
            assert ("gone", link) not in side.heard.told
        await side.heard.until_told("gone", link)


@TRANSPORTS
async def test_a_full_queue_is_told(transport: str) -> None:
    config = GossipConfig(queue_limit=10)
    with place(transport) as endpoint, Raw(zmq.DEALER, RCVHWM=10) as client:
        async with opened(config) as side:
            client.connect(side.channel.bind(endpoint))
            client.send(PING)
            link, _ = await side.heard.message()
            large = b"x" * FRAME_LIMIT
            sent = 0
            while (fate := side.channel.send(link, large)) is Sent.SENT:
                sent += 1
                await anyio.lowlevel.checkpoint()
            assert fate is Sent.FULL
            for _ in range(sent):
                assert await client.receive() == [large]
            await eventually(lambda: side.channel.send(link, PONG) is Sent.SENT)
            assert await client.receive() == [PONG]


async def test_room_in_a_queue_is_seen_at_once() -> None:
    # libzmq itself looks once in a millisecond.
    with place("inproc") as endpoint, Raw(zmq.DEALER, RCVHWM=10) as client:
        async with opened(GossipConfig(queue_limit=10)) as side:
            client.connect(side.channel.bind(endpoint))
            client.send(PING)
            link, _ = await side.heard.message()
            while side.channel.send(link, PONG) is Sent.SENT:
                pass
            assert client.socket.receive_nowait() == [PONG] * 20
            assert side.channel.send(link, PONG) is Sent.SENT


def test_who_is_back_over_another_connection_is_not_gone() -> None:
    connections = Connections()
    for fd in (1, 2, 3):
        connections.accepted(fd)
    connections.heard(b"stays", 1)
    connections.heard(b"moves", 2)
    connections.ended(2)
    connections.heard(b"moves", 3)
    assert connections.gone() == set()
    connections.ended(1)
    connections.heard(b"late", 1)
    assert connections.gone() == {b"stays", b"late"}
    assert connections.gone() == set()
    connections.accepted(1)  # another one, with the same number
    connections.heard(b"new", 1)
    connections.heard(b"near", None)
    connections.ended(1)
    connections.ended(7)
    assert connections.gone() == {b"new"}


def test_who_was_heard_over_a_descriptor_that_another_one_got_is_gone() -> None:
    # All this came while nobody read.
    connections = Connections()
    connections.accepted(1)
    connections.ended(1)
    connections.accepted(1)
    for client in (b"first", b"second", b"first", b"second", b"first"):
        connections.heard(client, 1)
    assert connections.gone() == {b"first"}
    connections.heard(b"first", 1)
    assert connections.gone() == set()
    connections.ended(1)
    assert connections.gone() == {b"second"}
    connections.accepted(1)
    connections.heard(b"first", 1)
    connections.ended(1)
    assert connections.gone() == {b"first"}


async def test_what_is_not_of_one_frame_is_dropped_and_what_is_beside_it_told() -> None:
    with Raw(zmq.DEALER) as client:
        async with opened() as side:
            client.connect(side.channel.bind(ANYWHERE))
            client.send(b"one")
            client.send(HELLO, b"two")
            client.send(b"", PING)
            client.send(*[b"x"] * 1000)
            client.send(b"last")
            await side.heard.message(2)
            assert [frame for _, frame in side.heard.messages] == [b"one", b"last"]
            assert side.heard.told.count(("dropped", Drop.MALFORMED_GOSSIP)) == 3


async def test_what_waits_is_told_at_once() -> None:
    with Raw(zmq.DEALER) as client, place("inproc") as endpoint:
        async with opened() as side:
            client.connect(side.channel.bind(endpoint))
            for _ in range(200):
                client.send(PING)
            await side.heard.message(200)
            assert len(side.heard.batches) <= 2


async def test_a_reader_lets_others_run_between_large_messages() -> None:
    with Raw(zmq.DEALER) as client, place("inproc") as endpoint:
        async with opened() as side:
            client.connect(side.channel.bind(endpoint))
            for _ in range(10):
                client.send(b"x" * FRAME_LIMIT)
            await side.heard.message(10)
            assert max(side.heard.batches) == 1


async def test_whoever_speaks_no_zmtp_is_counted() -> None:
    async with opened() as side:
        port = int(side.channel.bind(ANYWHERE).rpartition(":")[2])
        with plain.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        await side.heard.until_told("dropped", Drop.FAILED_HANDSHAKE)


async def test_whoever_sends_more_than_a_frame_may_have_is_cut_off() -> None:
    with Raw(zmq.DEALER) as client:
        async with opened() as side:
            client.connect(side.channel.bind(ANYWHERE))
            client.send(PING)
            link, _ = await side.heard.message()
            client.send(b"x" * (FRAME_LIMIT + 1))
            await side.heard.until_told("gone", link)
            assert len(side.heard.messages) == 1


async def test_an_endpoint_that_cannot_be_bound_is_named() -> None:
    async with opened() as side:
        bound = side.channel.bind(ANYWHERE)
        with pytest.raises(BindError, match=bound):
            side.channel.bind(bound)
        side.channel.bind(ANYWHERE)


async def test_the_place_of_another_node_that_listens_is_not_taken() -> None:
    with place("ipc") as endpoint:
        async with opened() as side, opened() as other:
            bound = side.channel.bind(endpoint)
            for late in (other, side):
                with pytest.raises(BindError, match="somebody listens there") as caught:
                    late.channel.bind(endpoint)
                assert caught.value.errno == errno.EADDRINUSE
            with Raw(zmq.DEALER) as client:
                client.connect(bound)
                client.send(PING)
                assert (await side.heard.message())[1] == PING


async def test_the_file_of_a_node_is_private_and_goes_with_it(short_path: Path) -> None:
    path = short_path / "gossip"
    async with opened() as side, opened() as other:
        assert side.channel.bind(f"ipc://{path}") == f"ipc://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        side.channel.close()
        assert not path.exists()
        other.channel.bind(f"ipc://{path}")
        await side.ended.wait()
        await side.channel.aclose()
        assert path.exists()


async def test_the_place_of_a_dead_node_is_taken_and_that_of_a_file_is_not(short_path: Path) -> None:
    dead, file = short_path / "dead", short_path / "file"
    with plain.socket(plain.AF_UNIX) as left:
        left.bind(str(dead))
    file.write_text("precious")
    async with opened() as side:
        bound = side.channel.bind(f"ipc://{dead}")
        with pytest.raises(BindError, match="no socket"):
            side.channel.bind(f"ipc://{file}")
        with pytest.raises(BindError, match="no such file or directory"):
            side.channel.bind(f"ipc://{short_path}/gone/gossip")
        with Raw(zmq.DEALER) as client:
            client.connect(bound)
            client.send(PING)
            await side.heard.message()
    assert file.read_text() == "precious"


async def test_what_cannot_be_bound_after_all_leaves_no_file(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(socket: zmq.Socket[bytes], endpoint: str) -> None:
        raise zmq.ZMQError(zmq.EINVAL)

    async with opened() as side:
        with monkeypatch.context() as patch:
            patch.setattr(zmq.Socket, "bind", refuse)
            with pytest.raises(BindError, match="invalid argument"):
                side.channel.bind(f"ipc://{short_path}/gossip")
        assert not os.listdir(short_path)
        side.channel.bind(f"ipc://{short_path}/gossip")
        side.channel.bind(ANYWHERE)


async def test_endpoints_with_and_without_a_file_are_bound_one_after_the_other(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(short_path)
    monkeypatch.setenv("TMPDIR", str(short_path))  # of the one that libzmq chooses
    files = short_path / "a", short_path / "here"
    endpoints = [f"ipc://{short_path}/a", ANYWHERE, "ipc://here", "ipc://*", f"ipc://@gossip-{uuid4()}", ANYWHERE]
    async with opened() as side:
        for number, endpoint in enumerate(endpoints):
            with Raw(zmq.DEALER) as client:
                client.connect(side.channel.bind(endpoint))
                client.send(b"%d" % number)
                assert (await side.heard.message(number + 1))[1] == b"%d" % number
        assert all(file.exists() for file in files)
        monkeypatch.chdir("/")
    assert not any(file.exists() for file in files)


# Remotes


@TRANSPORTS
async def test_a_remote_is_up_and_both_hear_each_other(transport: str) -> None:
    with place(transport) as endpoint, Raw(zmq.ROUTER) as server:
        bound = server.bind(endpoint)
        async with opened() as side:
            side.channel.connect(7, bound)
            await side.heard.until_told("up", 7)
            assert side.channel.send(7, HELLO) is Sent.SENT
            client, frame = await server.receive()
            assert frame == HELLO
            server.send(client, PONG)
            assert await side.heard.message() == (7, PONG)
            assert side.heard.told == [("up", 7), ("messages",)]


@TRANSPORTS
async def test_a_remote_may_come_later(transport: str) -> None:
    with place(transport) as endpoint:
        async with opened() as side:
            side.channel.connect(7, endpoint)
            if transport == "inproc":
                # Nobody tells when it comes, so it passes for up, and what is said waits for it.
                await side.heard.until_told("up", 7)
                side.channel.send(7, HELLO)
            with Raw(zmq.ROUTER) as server:
                server.bind(endpoint)
                if transport != "inproc":
                    await side.heard.until_told("up", 7)
                    side.channel.send(7, HELLO)
                assert (await server.receive())[1] == HELLO


@TRANSPORTS
async def test_a_remote_that_comes_back_hears_nothing_that_was_said_to_the_one_before(transport: str) -> None:
    with place(transport) as somewhere:
        async with opened() as side:
            with Raw(zmq.ROUTER, RCVHWM=1) as server:
                endpoint = server.bind(somewhere)
                side.channel.connect(7, endpoint)
                await side.heard.until_told("up", 7)
                side.channel.send(7, HELLO)
                client, _ = await server.receive()
                server.send(client, b"last")
                for _ in range(1000):
                    side.channel.send(7, b"stale")
            await side.heard.until_told("down", 7)
            if transport != "inproc":  # it throws away what it sent when it is closed, as inproc does not
                assert side.heard.told[1:] in ([("messages",), ("down", 7)], [("down", 7)])
            with Raw(zmq.ROUTER) as server:
                await server.bind_again(endpoint)
                await side.heard.until_told("up", 7, times=2)
                side.channel.send(7, b"fresh")
                assert (await server.receive())[1] == b"fresh"


async def test_what_a_remote_had_sent_is_told_before_its_end() -> None:
    async with opened() as side:
        with Raw(zmq.ROUTER, LINGER=1000) as server:
            side.channel.connect(7, server.bind(ANYWHERE))
            await side.heard.until_told("up", 7)
            side.channel.send(7, HELLO)
            client, _ = await server.receive()
            for number in range(500):
                server.send(client, b"%d" % number)
            server.zmq.close()
        await side.heard.until_told("down", 7)
        assert [frame for _, frame in side.heard.messages] == [b"%d" % number for number in range(500)]
        assert side.heard.told[-1] == ("down", 7)


@TRANSPORTS
async def test_a_connection_is_thrown_away_with_what_waits_in_it(transport: str) -> None:
    with place(transport) as endpoint, Raw(zmq.ROUTER) as server:
        bound = server.bind(endpoint)
        async with opened() as side:
            side.channel.connect(7, bound)
            await side.heard.until_told("up", 7)
            side.channel.send(7, HELLO)
            first, _ = await server.receive()
            server.send(first, PONG)
            await side.heard.message()
            side.channel.reconnect(7)
            assert side.heard.told[-1] == ("down", 7)
            await side.heard.until_told("up", 7, times=2)
            side.channel.send(7, b"again")
            second, frame = await server.receive()
            assert frame == b"again"
            assert second != first


async def test_an_inproc_connection_that_nobody_has_answered_is_kept() -> None:
    # libzmq would hold each one that is closed before the endpoint is bound.
    with place("inproc") as endpoint, Raw(zmq.ROUTER) as server:
        async with opened() as side:
            side.channel.connect(7, endpoint)
            await side.heard.until_told("up", 7)
            side.channel.send(7, HELLO)
            for _ in range(3):
                side.channel.reconnect(7)
            assert side.heard.told == [("up", 7), ("down", 7)]
            server.bind(endpoint)
            client, frame = await server.receive()
            assert frame == HELLO
            server.send(client, PONG)
            await side.heard.message()
            assert side.heard.told == [("up", 7), ("down", 7), ("up", 7), ("messages",)]


async def test_a_full_inproc_queue_is_thrown_away() -> None:
    with place("inproc") as endpoint, Raw(zmq.ROUTER, RCVHWM=10) as server:
        server.bind(endpoint)
        async with opened(GossipConfig(queue_limit=10, reconnect_interval=0.01)) as side:
            side.channel.connect(7, endpoint)
            await side.heard.until_told("up", 7)
            while side.channel.send(7, PING) is Sent.SENT:
                pass
            client, _ = await server.receive()
            server.send(client, PONG)
            await side.heard.until_told("up", 7, times=2)


async def test_a_remote_that_offends_the_protocol_is_connected_anew() -> None:
    # libzmq itself would give it up in silence, and for ever.
    async with opened() as side:
        with Raw(zmq.ROUTER) as server:
            side.channel.connect(7, server.bind(ANYWHERE))
            for times in (1, 2):
                await side.heard.until_told("up", 7, times=times)
                side.channel.send(7, HELLO)
                client, _ = await server.receive()
                server.send(client, b"x" * (FRAME_LIMIT + 1))
                await side.heard.until_told("down", 7, times=times)
        assert side.heard.messages == []


async def test_a_port_that_speaks_no_zmtp_is_tried_now_and_then() -> None:
    with plain.create_server(("127.0.0.1", 0)) as stranger:
        stranger.setblocking(False)
        port = stranger.getsockname()[1]
        async with opened() as side:
            side.channel.connect(7, f"tcp://127.0.0.1:{port}")
            with anyio.fail_after(TIMEOUT):
                for _ in range(5):
                    await anyio.wait_readable(stranger)
                    connection, _ = stranger.accept()
                    with connection:
                        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 10)
            assert ("up", 7) not in side.heard.told


async def test_a_connection_to_its_own_socket_is_none() -> None:
    # Where a dead server had an ephemeral port, one try in some ten thousand ends so, and takes the port.
    with place("tcp") as endpoint:
        address = endpoint.removeprefix("tcp://")
    async with opened() as side:
        side.channel.connect(7, f"tcp://{address};{address}")
        remote = side.channel._remotes[7]
        for _ in range(3):
            before = remote.queue
            await eventually(lambda before=before: remote.queue is not before)  # type: ignore[misc]
        assert side.heard.told == []


async def test_a_remote_sends_what_is_not_of_one_frame() -> None:
    with Raw(zmq.ROUTER) as server:
        async with opened() as side:
            side.channel.connect(7, server.bind(ANYWHERE))
            await side.heard.until_told("up", 7)
            side.channel.send(7, HELLO)
            client, _ = await server.receive()
            server.send(client, b"", PONG)
            server.send(client, *[b"x"] * 100)
            server.send(client, PONG)
            assert await side.heard.message() == (7, PONG)
            assert side.heard.told.count(("dropped", Drop.MALFORMED_GOSSIP)) == 2


async def test_of_a_remote_that_was_disconnected_nothing_more_is_told() -> None:
    with Raw(zmq.ROUTER) as server:
        async with opened() as side:
            side.channel.connect(7, server.bind(ANYWHERE))
            await side.heard.until_told("up", 7)
            side.channel.send(7, HELLO)
            client, _ = await server.receive()
            server.send(client, PONG)
            await side.heard.message()
            side.channel.send(7, b"last")
            side.channel.disconnect(7)
            assert (await server.receive())[1] == b"last"
            assert side.channel.send(7, HELLO) is Sent.FULL
            side.channel.reconnect(7)
            side.channel.disconnect(7)
            await anyio.lowlevel.checkpoint()
            assert side.heard.told == [("up", 7), ("messages",)]


@TRANSPORTS
async def test_a_remote_that_is_disconnected_while_it_starts_is_not_told_after_that(transport: str) -> None:
    with place(transport) as endpoint, Raw(zmq.ROUTER) as server:
        bound = server.bind(endpoint)
        async with opened() as side:
            await anyio.wait_all_tasks_blocked()  # from now on what connects starts at once
            for turns in range(10):
                side.channel.connect(turns, bound)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                side.channel.disconnect(turns)
                told = side.heard.told.count(("up", turns))
                await anyio.wait_all_tasks_blocked()
                assert side.heard.told.count(("up", turns)) == told


async def test_an_endpoint_that_libzmq_cannot_read_is_named() -> None:
    async with opened() as side:
        with pytest.raises(InvalidEndpoint, match="gopher"):
            side.channel.connect(7, "gopher://there")
        side.channel.disconnect(7)


async def test_a_connection_that_cannot_be_made_anew_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [SocketLimitError(24, "too many open files"), InvalidEndpoint("there", "for a while")]

    def fails_twice(socket: zmq.Socket[bytes], endpoint: str) -> None:
        if failures:
            raise failures.pop()
        sockets.connect(socket, endpoint)

    with Raw(zmq.ROUTER) as server:
        async with opened() as side:
            side.channel.connect(7, server.bind(ANYWHERE))
            await side.heard.until_told("up", 7)
            monkeypatch.setattr(remotes, "connect", fails_twice)
            side.channel.reconnect(7)
            await side.heard.until_told("up", 7, times=2)
            assert failures == []


# The end


@TRANSPORTS
@pytest.mark.parametrize("role", ["clients", "remotes"])
async def test_what_was_sent_leaves_before_the_end(transport: str, role: str) -> None:
    with place(transport) as endpoint, Raw(zmq.DEALER if role == "clients" else zmq.ROUTER) as other:
        async with opened() as side:
            link: Link = 7
            if role == "clients":
                other.connect(side.channel.bind(endpoint))
                other.send(PING)
                link, _ = await side.heard.message()
            else:
                side.channel.connect(7, other.bind(endpoint))
                await side.heard.until_told("up", 7)
            for _ in range(1000):
                assert side.channel.send(link, b"x" * 1000) is Sent.SENT
        for _ in range(1000):
            assert (await other.receive())[-1] == b"x" * 1000


async def test_whoever_reads_nothing_holds_up_the_end_no_longer_than_it_lingers() -> None:
    with Raw(zmq.DEALER, RCVHWM=1) as client:
        async with opened(GossipConfig(linger=0.05)) as side:
            client.connect(side.channel.bind(ANYWHERE))
            client.send(PING)
            link, _ = await side.heard.message()
            for _ in range(50):
                side.channel.send(link, b"x" * FRAME_LIMIT)
            began = anyio.current_time()
        assert anyio.current_time() - began < TIMEOUT / 4


async def test_cancellation_does_not_shorten_the_end() -> None:
    with Raw(zmq.DEALER, RCVHWM=1) as client:
        channel, heard = ZmqGossipChannel(GossipConfig(linger=0.05), Security()), Listener()
        client.connect(channel.bind(ANYWHERE))
        client.send(PING)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run, heard)
            link, _ = await heard.message()
            for _ in range(50):
                channel.send(link, b"x" * FRAME_LIMIT)
            tasks.cancel_scope.cancel()
        began = anyio.current_time()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await channel.aclose()
        assert anyio.current_time() - began >= 0.05
        await channel.aclose()


async def test_a_channel_that_is_closed_can_do_nothing_more() -> None:
    with Raw(zmq.ROUTER) as server:
        async with opened() as side:
            bound = side.channel.bind(ANYWHERE)
            side.channel.connect(7, server.bind(ANYWHERE))
            await side.heard.until_told("up", 7)
            side.channel.close()
            with anyio.fail_after(TIMEOUT):
                await side.ended.wait()
            assert side.channel.send(7, PING) is Sent.FULL
            assert side.channel.send(b"x", PING) is Sent.UNREACHABLE
            with pytest.raises(ClosedError):
                side.channel.bind(bound)
            with pytest.raises(ClosedError):
                side.channel.connect(8, bound)


@pytest.mark.parametrize("role", ["clients", "remotes"])
async def test_a_channel_ends_with_its_context(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    monkeypatch.setattr(zmq.Context, "_instance", context)
    async with opened() as side:
        if role == "clients":
            side.channel.bind(ANYWHERE)
        else:
            side.channel.connect(7, "tcp://127.0.0.1:1")
        await anyio.lowlevel.checkpoint()
        with anyio.fail_after(TIMEOUT):
            await anyio.to_thread.run_sync(context.term)
            await side.ended.wait()


def begin_to_terminate(context: zmq.Context[zmq.Socket[bytes]]) -> threading.Thread:
    """Terminate a context in a thread that waits for its sockets, which have all been told of it."""
    thread = threading.Thread(target=context.term, daemon=True)
    thread.start()
    while True:
        try:
            context.socket(zmq.PAIR).close()
        except zmq.ZMQError:
            return thread


async def test_a_channel_ends_though_its_context_is_terminated_between_a_read_and_a_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    monkeypatch.setattr(zmq.Context, "_instance", context)
    threads: list[threading.Thread] = []
    look = Remote._has_more

    def has_more(remote: Remote, socket: sockets.Socket) -> bool:
        if not threads:
            threads.append(begin_to_terminate(context))
        return look(remote, socket)

    monkeypatch.setattr(Remote, "_has_more", has_more)
    with place("inproc") as endpoint, place("inproc") as another:
        async with opened() as side:
            side.channel.bind(ANYWHERE)
            side.channel.connect(7, endpoint)
            side.channel.connect(8, another)
            with anyio.fail_after(TIMEOUT):
                await side.ended.wait()
                await anyio.to_thread.run_sync(threads[0].join)


@pytest.mark.parametrize("step", ["gossip_dealer", "Socket", "Monitor"])
async def test_a_channel_ends_though_its_context_is_terminated_while_a_connection_is_made(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[zmq.Socket[bytes]] = []

    def dealer(*arguments: Any) -> zmq.Socket[bytes]:
        made.append(gossip_dealer(*arguments))
        return made[-1]

    def terminated(*_: object) -> None:
        raise zmq.ContextTerminated

    with Raw(zmq.ROUTER) as server:
        async with opened() as side:
            monkeypatch.setattr(remotes, "gossip_dealer", dealer)
            side.channel.connect(7, server.bind(ANYWHERE))
            await side.heard.until_told("up", 7)
            monkeypatch.setattr(remotes, step, terminated)
            side.channel.reconnect(7)
            with anyio.fail_after(TIMEOUT):
                await side.ended.wait()
            assert all(one.closed for one in made)
