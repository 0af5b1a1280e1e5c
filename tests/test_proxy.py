"""The proxy against peers of all kinds: ours, raw sockets, and those that mean harm."""

from __future__ import annotations

import socket as plain
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
import zmq

from zdisco import _proxy
from zdisco._core.actions import Drop
from zdisco._core.config import PeerConfig
from zdisco._core.endpoints import parse
from zdisco._core.errors import BindError, ClosedError, InvalidEndpoint
from zdisco._core.model import PeerInfo
from zdisco._core.wire import Announce, Farewell, Welcome, decode, encode
from zdisco._proxy import Proxy
from zdisco._zmq import options, sockets
from zdisco._zmq.monitor import MonitorEvent, SocketEvent, monitor
from zdisco._zmq.sockets import Socket

pytestmark = pytest.mark.anyio

ANYWHERE = "tcp://127.0.0.1:*"
CONFIG = PeerConfig()


def announce() -> bytes:
    return encode(Announce(PeerInfo(uuid4(), "tcp://127.0.0.1:40001", name="alice"), session=b"1234"))


class Client:
    """The two sockets of a peer, without its mind."""

    def __init__(self, sub: Socket, pub: Socket, welcome: Welcome) -> None:
        self.sub = sub
        self.pub = pub
        self.welcome = welcome

    async def passes(self) -> None:
        """Publish a good announce and wait until it is back."""
        frame = announce()
        self.pub.send_nowait(frame)
        assert await self.sub.receive() == frame


@asynccontextmanager
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    context = sockets.new_context()
    sub, pub = Socket(options.proxy_sub(context, CONFIG)), Socket(options.proxy_pub(context, CONFIG))
    try:
        with anyio.fail_after(10):
            sub.zmq.setsockopt(zmq.SUBSCRIBE, b"")
            sockets.connect(sub.zmq, proxy.endpoint)
            welcome = decode(await sub.receive())
            assert isinstance(welcome, Welcome)
            sockets.connect(pub.zmq, welcome.endpoint)
            assert await pub.receive() == b"\x01"
            yield Client(sub, pub, welcome)
    finally:
        sub.close(0)
        pub.close(0)
        await sockets.terminate(context)


async def test_the_welcome_names_the_proxy_and_its_publish_endpoint() -> None:
    async with Proxy(ANYWHERE) as proxy, client(proxy) as peer:
        assert peer.welcome.id == proxy.id
        assert peer.welcome.endpoint == proxy.relay
        assert parse(proxy.endpoint).port != parse(proxy.relay).port


async def test_every_start_has_another_id() -> None:
    assert Proxy().id != Proxy().id


async def test_announces_and_farewells_are_relayed_to_everybody_unchanged() -> None:
    async with Proxy(ANYWHERE) as proxy, client(proxy) as one, client(proxy) as two:
        frames = [announce(), encode(Farewell(uuid4(), "tcp://127.0.0.1:40001"))]
        for frame in frames:
            one.pub.send_nowait(frame)
        for peer in (one, two):
            assert [await peer.sub.receive() for _ in frames] == frames
        assert proxy.relayed == 2
        assert dict(proxy.refused) == {}


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([encode(Welcome(uuid4(), "tcp://127.0.0.1:6666"))], Drop.FORGED_WELCOME),
        ([announce()[:200]], Drop.MALFORMED_DISCOVERY),
        ([b""], Drop.MALFORMED_DISCOVERY),
        ([b"C"], Drop.MALFORMED_DISCOVERY),
        ([b"\xff" * 500], Drop.MALFORMED_DISCOVERY),
        ([announce()[:295] + b"ZD\x01\x00" + (500_000).to_bytes(4, "big") + b"x" * 500_000], Drop.MALFORMED_DISCOVERY),
        ([announce(), b""], Drop.MULTIPART),
        ([b"", announce()], Drop.MULTIPART),
        ([announce(), announce(), announce()], Drop.MULTIPART),
    ],
)
async def test_what_is_no_message_of_a_peer_is_counted_and_not_relayed(frames: list[bytes], reason: Drop) -> None:
    async with Proxy(ANYWHERE) as proxy, client(proxy) as peer:
        peer.pub.zmq.send_multipart(frames)
        await peer.passes()
        assert dict(proxy.refused) == {reason: 1}
        assert proxy.relayed == 1


async def test_a_message_beyond_the_limit_costs_its_sender_the_connection_and_nobody_else() -> None:
    async with Proxy(ANYWHERE) as proxy, client(proxy) as bad, client(proxy) as good:
        bad.pub.send_nowait(b"C" + bytes(options.MAX_DISCOVERY_MESSAGE))
        # It was cut off, and libzmq connects anew.
        assert await bad.pub.receive() == b"\x01"
        await good.passes()


@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\xff" * 1000])
async def test_noise_on_both_ports_harms_nobody(noise: bytes) -> None:
    async with Proxy(ANYWHERE) as proxy, client(proxy) as peer:
        for endpoint in (proxy.endpoint, proxy.relay):
            with plain.create_connection(("127.0.0.1", parse(endpoint).port), timeout=5) as connection:
                connection.sendall(noise)
        await peer.passes()


async def test_a_subscriber_that_is_no_peer_does_not_stop_it() -> None:
    async with Proxy(ANYWHERE) as proxy, client(proxy) as peer:
        context = sockets.new_context()
        xsub = Socket(options.proxy_xsub(context, CONFIG))
        sockets.connect(xsub.zmq, proxy.endpoint)
        xsub.send_nowait(b"no subscription at all")
        xsub.zmq.send_multipart([b"\x01", b"\x00", b"rest"])
        xsub.send_nowait(b"\x01W")
        # Two of these subscriptions let the welcome through.
        assert isinstance(decode(await xsub.receive()), Welcome)
        await peer.passes()
        xsub.close(0)
        await sockets.terminate(context)


async def test_the_counts_are_read_only() -> None:
    with pytest.raises(TypeError):
        Proxy().refused[Drop.MULTIPART] = 1  # type: ignore[index]


async def test_an_address_in_use_is_a_bind_error_and_leaves_nothing_open() -> None:
    async with Proxy(ANYWHERE) as proxy:
        for other in (Proxy(proxy.endpoint), Proxy(ANYWHERE, relay=proxy.relay)):
            with pytest.raises(BindError):
                await other.__aenter__()


async def test_the_endpoints_may_be_chosen() -> None:
    async with Proxy(ANYWHERE) as proxy:
        endpoint, relay = proxy.endpoint, proxy.relay
    async with Proxy(endpoint, relay=relay) as again:
        assert (again.endpoint, again.relay) == (endpoint, relay)


@pytest.mark.parametrize(("route", "host"), [("192.0.2.7", "192.0.2.7"), (None, "127.0.0.1")])
async def test_where_it_listens_on_all_interfaces_the_address_of_the_default_route_is_named(
    route: str | None, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    bound: list[str] = []

    def route_to(beyond: str) -> str | None:
        asked.append(beyond)
        return route

    def bind(socket: sockets.ZmqSocket, endpoint: str) -> str:
        """Do not open this machine for a test, but say so."""
        bound.append(sockets.bind(socket, endpoint.replace("*", "127.0.0.1", 1)))
        return bound[-1].replace("127.0.0.1", "0.0.0.0")

    monkeypatch.setattr(_proxy, "route_to", route_to)
    monkeypatch.setattr(_proxy, "bind", bind)
    async with Proxy("tcp://*:0") as proxy:
        named = [endpoint.replace("127.0.0.1", host) for endpoint in bound]
        assert [proxy.relay, proxy.endpoint] == named
        context = sockets.new_context()
        sub = Socket(options.proxy_sub(context, CONFIG))
        sub.zmq.setsockopt(zmq.SUBSCRIBE, b"W")
        sockets.connect(sub.zmq, bound[-1])
        with anyio.fail_after(10):
            assert decode(await sub.receive()) == Welcome(proxy.id, named[0])
        sub.close(0)
        await sockets.terminate(context)
    assert asked == ["192.0.2.1"] * 2


async def test_what_the_peers_cannot_take_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Proxy(ANYWHERE) as proxy, client(proxy) as peer:
        send_nowait = Socket.send_nowait
        monkeypatch.setattr(
            Socket, "send_nowait", lambda self, frame: self is not proxy._xpub and send_nowait(self, frame)
        )
        peer.pub.send_nowait(announce())
        while not proxy.refused:
            await anyio.lowlevel.checkpoint()
        assert dict(proxy.refused) == {Drop.SEND_QUEUE_FULL: 1}
        assert proxy.relayed == 0


async def test_a_proxy_whose_task_somebody_cancels_leaves_nobody_connected() -> None:
    async with (
        Proxy(ANYWHERE) as proxy,
        client(proxy) as peer,
        monitor(peer.sub.zmq, SocketEvent.DISCONNECTED) as events,
    ):
        assert proxy._background._scope is not None
        proxy._background._scope.cancel()
        event = await anext(events)
        assert isinstance(event, MonitorEvent)
        assert (event.event, event.endpoint) == (SocketEvent.DISCONNECTED, proxy.endpoint)


async def test_the_advertised_host_is_what_peers_hear() -> None:
    async with Proxy("tcp://0.0.0.0:*", advertise="127.0.0.1") as proxy, client(proxy) as peer:
        assert {parse(proxy.endpoint).host, parse(peer.welcome.endpoint).host} == {"127.0.0.1"}


@pytest.mark.parametrize("endpoint", ["", "tcp://", "127.0.0.1:5555", "ipc:///x", "tcp://127.0.0.1", "tcp://a b:1"])
async def test_an_endpoint_that_cannot_be_used_raises_at_once(endpoint: str) -> None:
    with pytest.raises(InvalidEndpoint):
        Proxy(endpoint)
    with pytest.raises(InvalidEndpoint):
        Proxy(ANYWHERE, relay=endpoint)


async def test_an_argument_of_the_wrong_type_raises_at_once() -> None:
    for arguments in ({"endpoint": 5}, {"relay": 5}, {"advertise": 5}):
        with pytest.raises(TypeError, match="must be of type str, not 5"):
            Proxy(**arguments)  # type: ignore[arg-type]
    for host in ("tcp://127.0.0.1:5", "0.0.0.0", "a b", ""):
        with pytest.raises(InvalidEndpoint, match="advertise takes a host"):
            Proxy(advertise=host)


async def test_it_can_be_entered_once() -> None:
    proxy = Proxy(ANYWHERE)
    async with proxy:
        with pytest.raises(ClosedError):
            await proxy.__aenter__()
    with pytest.raises(ClosedError):
        await proxy.__aenter__()


async def test_a_cancelled_block_closes_everything() -> None:
    with anyio.CancelScope() as scope:
        async with Proxy(ANYWHERE) as proxy, client(proxy) as peer:
            await peer.passes()
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    async with Proxy(proxy.endpoint, relay=proxy.relay):
        pass


async def test_a_host_that_is_not_ours_is_named_as_it_was_given() -> None:
    reason = r"cannot bind tcp://203\.0\.113\.5:\*: this machine does not have that address"
    with pytest.raises(BindError, match=reason):
        await Proxy("tcp://203.0.113.5:*").__aenter__()
