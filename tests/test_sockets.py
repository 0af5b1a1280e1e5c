"""Sockets that wait on their descriptor, on every event loop."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import anyio
import anyio.lowlevel
import pytest
import zmq

from zdisco._core.config import PeerConfig
from zdisco._core.errors import BindError, ClosedError, InvalidEndpoint
from zdisco._zmq import options, sockets
from zdisco._zmq.sockets import Socket, ZmqContext

pytestmark = pytest.mark.anyio

CONFIG = PeerConfig()


@asynccontextmanager
async def open_context() -> AsyncIterator[ZmqContext]:
    context = sockets.new_context()
    try:
        yield context
    finally:
        context.destroy(linger=0)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Socket, Socket]]:
    """An XPUB and a SUB whose subscription to everything is in force."""
    async with open_context() as context:
        xpub = Socket(options.data_pub(context, PeerConfig(send_hwm=100_000)), "xpub")
        sub = Socket(options.data_sub(context, CONFIG), "sub")
        endpoint = sockets.bind(xpub.zmq, "tcp://127.0.0.1:*")
        sub.zmq.setsockopt(zmq.SUBSCRIBE, b"")
        sockets.connect(sub.zmq, endpoint)
        try:
            with anyio.fail_after(10):
                assert await xpub.receive() == b"\x01"
                yield xpub, sub
        finally:
            sub.close(0)
            xpub.close(0)


async def until_waiting(socket: Socket) -> None:
    while not socket._waiting:
        await anyio.lowlevel.checkpoint()


async def test_what_was_sent_is_received_in_order() -> None:
    async with pair() as (xpub, sub):
        for number in range(1000):
            assert xpub.send_nowait(b"%d" % number)
        received = [await sub.receive()]
        while len(received) < 1000:
            received += await sub.receive_many(limit=100)
        assert received == [b"%d" % number for number in range(1000)]


async def test_receive_many_says_whether_more_may_be_there() -> None:
    async with pair() as (xpub, sub):
        for number in range(3):
            xpub.send_nowait(b"%d" % number)
        received: list[bytes] = []
        while len(received) < 3:
            received += await sub.receive_many(limit=1)
            assert not sub.drained
        assert sub.receive_nowait() == []
        assert sub.drained


async def test_a_multipart_message_is_never_left_half_read() -> None:
    async with pair() as (xpub, sub):
        xpub.zmq.send_multipart([b"a", b"b", b"c"])
        xpub.zmq.send_multipart([b"d"])
        assert await sub.receive_many(limit=1) == [b"a", b"b", b"c"]
        assert await sub.receive_many(limit=1) == [b"d"]


async def test_multipart_messages_are_thrown_away_where_only_single_frames_are_wanted() -> None:
    async with pair() as (xpub, sub):
        for frames in ([b"a", b"b"], [b"c"], [b"d", b"e", b"f"], [b"end"]):
            xpub.zmq.send_multipart(frames)
        received: list[bytes] = []
        while b"end" not in received:
            received += sub.receive_single_nowait()
            await anyio.lowlevel.checkpoint()
        assert received == [b"c", b"end"]
        assert sub.multiparts == 2


async def test_cancelled_receives_lose_nothing() -> None:
    count = 20_000
    async with pair() as (xpub, sub):
        received: list[bytes] = []
        cancelled = 0
        random = Random(7)

        async def receive(scope: anyio.CancelScope) -> None:
            with scope:
                while len(received) < count:
                    received.extend(await sub.receive_many(limit=64))

        async def publish() -> None:
            for number in range(count):
                xpub.send_nowait(b"%d" % number)
                if random.random() < 0.1:
                    await anyio.lowlevel.checkpoint()

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                while len(received) < count:
                    async with anyio.create_task_group() as receiving:
                        scope = anyio.CancelScope()
                        receiving.start_soon(receive, scope)
                        for _ in range(random.randrange(6)):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()
                    cancelled += scope.cancelled_caught
        assert received == [b"%d" % number for number in range(count)]
        assert cancelled > 20


async def test_closing_wakes_who_waits() -> None:
    async with pair() as (xpub, sub):
        errors: list[ClosedError] = []

        async def receive(socket: Socket) -> None:
            try:
                await socket.receive_many()
            except ClosedError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for socket in (xpub, sub):
                tasks.start_soon(receive, socket)
                await until_waiting(socket)
            for socket in (sub, xpub):
                socket.close(0)
        assert sorted(error.what for error in errors) == ["sub", "xpub"]


async def test_a_descriptor_used_again_keeps_its_reader_when_the_old_waiter_ends() -> None:
    async with pair() as (xpub, sub), open_context() as context:

        async def receive() -> None:
            with pytest.raises(ClosedError):
                await sub.receive()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await until_waiting(sub)
            sub.close(0)
            # Gets, as a rule, the descriptor that was just freed, and waits before the old reader has run.
            other = Socket(options.data_sub(context, CONFIG), "other")
            other.zmq.setsockopt(zmq.SUBSCRIBE, b"")
            sockets.connect(other.zmq, str(xpub.zmq.getsockopt_string(zmq.LAST_ENDPOINT)))
            while await xpub.receive() != b"\x01":
                pass
            xpub.send_nowait(b"hello")
            assert await other.receive() == b"hello"
        other.close(0)


async def test_a_closed_socket_says_so_and_closing_twice_is_nothing() -> None:
    async with pair() as (xpub, sub):
        assert not sub.closed
        for socket in (xpub, sub):
            socket.close(0)
            socket.close(0)
            assert socket.closed
        for receive in (sub.receive, sub.receive_many, sub.wait):
            with pytest.raises(ClosedError, match="the sub is"):
                await receive()
        with pytest.raises(ClosedError):
            xpub.send_nowait(b"")


async def test_a_second_reader_is_refused() -> None:
    async with pair() as (_, sub), anyio.create_task_group() as tasks:
        tasks.start_soon(sub.receive)
        await until_waiting(sub)
        with pytest.raises(anyio.BusyResourceError):
            await sub.receive()
        tasks.cancel_scope.cancel()


async def test_wake_is_remembered_until_somebody_waits() -> None:
    async with pair() as (_, sub):
        sub.wake()
        await sub.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sub.wait)
            # It may have found the descriptor readable and be gone: then nobody is left to wake.
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            sub.wake()


async def test_sending_does_not_starve_the_reader_of_the_same_socket() -> None:
    topics = 500
    async with pair() as (xpub, sub):
        seen: set[bytes] = set()

        async def read_subscriptions() -> None:
            while len(seen) < topics:
                seen.update(await xpub.receive_many())

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read_subscriptions)
                await until_waiting(xpub)
                for number in range(topics):
                    sub.zmq.setsockopt(zmq.SUBSCRIBE, b"topic-%d" % number)
                    for _ in range(50):
                        xpub.send_nowait(b"x" * 100)
                    await anyio.lowlevel.checkpoint()
        assert len(seen) == topics


async def test_a_send_that_swallowed_the_edge_wakes_the_reader() -> None:
    async with pair() as (xpub, sub):
        with anyio.fail_after(10):
            for number in range(300):
                got: list[bytes] = []

                async def receive(got: list[bytes] = got) -> None:
                    got.append(await xpub.receive())

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(receive)
                    await until_waiting(xpub)
                    sub.zmq.setsockopt(zmq.SUBSCRIBE, b"%d" % number)
                    # One of these takes in the subscription, before the event loop looks at the descriptor.
                    while not got:
                        xpub.send_nowait(b"x")
                        await anyio.lowlevel.checkpoint()
                assert got == [b"\x01%d" % number]


async def test_nobody_asks_for_the_events_of_a_socket_that_only_receives(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as (xpub, sub):
        asked: list[int] = []
        real = zmq.Socket.getsockopt

        def getsockopt(self: zmq.Socket[bytes], option: int) -> int | bytes:
            if self is sub.zmq:
                asked.append(option)
            return real(self, option)

        monkeypatch.setattr(zmq.Socket, "getsockopt", getsockopt)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sub.receive)
            await until_waiting(sub)
            sub.wake()
            xpub.send_nowait(b"x")
        assert zmq.EVENTS not in asked


async def test_a_flood_can_be_cancelled_and_others_run() -> None:
    async with pair() as (xpub, sub):
        turns = 0
        with anyio.CancelScope() as scope:
            while True:
                for _ in range(50):
                    xpub.send_nowait(b"x")
                await sub.receive_many(limit=10)
                turns += 1
                if turns == 100:
                    scope.cancel()
        assert turns == 100


async def test_bind_and_connect_raise_errors_of_ours() -> None:
    async with open_context() as context:
        first, second = options.data_pub(context, CONFIG), options.data_pub(context, CONFIG)
        endpoint = sockets.bind(first, "tcp://127.0.0.1:*")
        with pytest.raises(BindError, match="address already in use") as caught:
            sockets.bind(second, endpoint)
        assert (caught.value.endpoint, caught.value.errno) == (endpoint, zmq.EADDRINUSE)
        for bad in ("", "tcp://", "nonsense", "tcp://127.0.0.1", "gopher://127.0.0.1:1"):
            with pytest.raises(InvalidEndpoint):
                sockets.connect(second, bad)
        sockets.disconnect(second, "tcp://127.0.0.1:1")
        first.close(0)
        second.close(0)


# Numbers that are nobody's default.
UNUSUAL = PeerConfig(
    reconnect_interval=0.123,
    reconnect_interval_max=4.567,
    handshake_interval=3.21,
    connect_timeout=4.5,
    proxy_heartbeat=7.5,
    proxy_heartbeat_timeout=21.5,
    tcp_timeout=12.5,
    tcp_keepalive_idle=77,
    tcp_keepalive_interval=13,
    tcp_keepalive_count=5,
    linger=0.75,
    send_hwm=12_345,
    receive_hwm=678,
)
COMMON = {
    zmq.HANDSHAKE_IVL: 3210,
    zmq.CONNECT_TIMEOUT: 4500,
    zmq.RECONNECT_IVL: 123,
    zmq.RECONNECT_IVL_MAX: 4567,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 77,
    zmq.TCP_KEEPALIVE_INTVL: 13,
    zmq.TCP_KEEPALIVE_CNT: 5,
}
# A heartbeat there may end the process, the native option loses messages.
DATA = COMMON | {zmq.TCP_MAXRT: 12_500, zmq.HEARTBEAT_IVL: 0, zmq.HEARTBEAT_TIMEOUT: -1, zmq.RECONNECT_STOP: 0}
DISCOVERY = COMMON | {
    zmq.RCVHWM: 0,
    zmq.MAXMSGSIZE: 1 << 20,
    zmq.TCP_MAXRT: 0,
}
TO_PROXY = DISCOVERY | {zmq.HEARTBEAT_IVL: 7500, zmq.HEARTBEAT_TIMEOUT: 21_500, zmq.HEARTBEAT_TTL: 21_500}
# Those of the peers are enough for both; these are for classic ones.
OF_PROXY = DISCOVERY | {zmq.HEARTBEAT_IVL: 21_500, zmq.HEARTBEAT_TIMEOUT: 21_500, zmq.BACKLOG: 4096}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            options.data_pub,
            DATA | {zmq.SNDHWM: 12_345, zmq.RCVHWM: 0, zmq.MAXMSGSIZE: 1 << 16, zmq.BACKLOG: 4096, zmq.LINGER: 750},
        ),
        (options.data_sub, DATA | {zmq.SNDHWM: 0, zmq.RCVHWM: 678, zmq.MAXMSGSIZE: -1, zmq.LINGER: 0}),
        (options.proxy_sub, TO_PROXY | {zmq.SNDHWM: 0, zmq.LINGER: 0, zmq.RECONNECT_STOP: 0}),
        (options.proxy_pub, TO_PROXY | {zmq.SNDHWM: 12_345, zmq.LINGER: 750, zmq.RECONNECT_STOP: 1}),
        (options.proxy_xpub, OF_PROXY | {zmq.SNDHWM: 12_345, zmq.LINGER: 750}),
        (options.proxy_xsub, OF_PROXY | {zmq.SNDHWM: 0, zmq.LINGER: 750}),
    ],
)
async def test_options_are_set_as_designed(
    make: Callable[[ZmqContext, PeerConfig], sockets.ZmqSocket], expected: dict[int, int]
) -> None:
    async with open_context() as context:
        assert context.get(zmq.MAX_SOCKETS) == sockets.MAX_SOCKETS
        socket = make(context, UNUSUAL)
        assert {option: socket.getsockopt(option) for option in expected} == expected
        socket.close(0)


HANGS = """
import signal, sys, zmq
from zdisco import PeerConfig
from zdisco._zmq.options import proxy_sub
sub = proxy_sub(zmq.Context(), PeerConfig(proxy_heartbeat=0.1, proxy_heartbeat_timeout=0.5))
sub.setsockopt(zmq.SUBSCRIBE, b"t")
sub.connect(sys.argv[1])
signal.pause()
"""


async def test_a_proxy_ends_the_connection_of_a_peer_that_hangs() -> None:
    async with open_context() as context:
        xpub = Socket(options.proxy_xpub(context, CONFIG))
        command = [sys.executable, "-c", HANGS, sockets.bind(xpub.zmq, "tcp://127.0.0.1:*")]
        with subprocess.Popen(command) as peer:  # noqa: ASYNC220  a moment
            try:
                with anyio.fail_after(20):
                    assert await xpub.receive() == b"\x01t"
                    # Its heartbeats say for how long it may be silent, so one must have come.
                    await anyio.sleep(1.0)
                    peer.send_signal(signal.SIGSTOP)
                    assert await xpub.receive() == b"\x00t"
            finally:
                peer.kill()
        xpub.close(0)


@pytest.mark.parametrize("make", [options.data_pub, options.proxy_pub, options.proxy_xpub])
async def test_every_single_subscription_and_its_end_is_heard(
    make: Callable[[ZmqContext, PeerConfig], sockets.ZmqSocket],
) -> None:
    # libzmq does not tell whether XPUB_VERBOSER is set, but what it does.
    async with open_context() as context:
        xpub = Socket(make(context, CONFIG))
        endpoint = sockets.bind(xpub.zmq, "tcp://127.0.0.1:*")
        subs = [options.data_sub(context, CONFIG) for _ in range(2)]
        with anyio.fail_after(10):
            for sub in subs:
                sub.setsockopt(zmq.SUBSCRIBE, b"t")
                sockets.connect(sub, endpoint)
                assert await xpub.receive() == b"\x01t"
            for sub in subs:
                sub.setsockopt(zmq.UNSUBSCRIBE, b"t")
                assert await xpub.receive() == b"\x00t"
        for sub in subs:
            sub.close(0)
        xpub.close(0)


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EAGAIN])
async def test_where_nobody_here_has_the_name_binding_says_so(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_context() as context:
        socket = options.data_pub(context, CONFIG)

        def refuse(self: zmq.Socket[bytes], endpoint: str) -> None:
            raise zmq.ZMQError(number)

        monkeypatch.setattr(zmq.Socket, "bind", refuse)
        with pytest.raises(BindError, match="no address of this machine has that name") as caught:
            sockets.bind(socket, "tcp://elsewhere.example:1")
        assert caught.value.errno == number
        socket.close(0)


async def test_termination_waits_until_what_was_sent_has_left_and_leaves_no_thread() -> None:
    async with open_context() as context:
        sub = Socket(options.data_sub(context, CONFIG))
        endpoint = sockets.bind(sub.zmq, "tcp://127.0.0.1:*")
        sub.zmq.setsockopt(zmq.SUBSCRIBE, b"")
        other = sockets.new_context()
        pub = Socket(options.data_pub(other, CONFIG))
        sockets.connect(pub.zmq, endpoint)
        with anyio.fail_after(10):
            received: list[bytes] = []

            async def receive() -> None:
                while len(received) < 500:
                    received.extend(await sub.receive_many())

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await pub.receive()
                threads = threading.active_count()
                for number in range(500):
                    pub.send_nowait(b"%d" % number)
                pub.close(5000)
                await sockets.terminate(other)
                assert threading.active_count() == threads
                assert other.closed
        sub.close(0)


async def test_termination_that_is_cancelled_still_ends() -> None:
    context = sockets.new_context()
    socket = options.data_pub(context, CONFIG)
    socket.close(0)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await sockets.terminate(context)
    assert context.closed


async def test_a_context_is_terminated_although_a_socket_was_left_open() -> None:
    context = sockets.new_context()
    socket = sockets.new_socket(context, zmq.PUB)
    with anyio.fail_after(10):
        await sockets.terminate(context)
    assert socket.closed
