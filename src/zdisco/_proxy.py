"""`Proxy`: the relay at the well-known endpoint.

Rule 1: it relays frames, unchanged, that decode as an announce or a farewell, and nothing else.
The welcome is its own to send: one that came from a peer could lead all others astray.

Rule 2: its publish endpoint is bound before anybody can hear of it from a welcome.

Rule 3: what the network does wrong is counted and never ends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Self
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel

from ._background import Background
from ._core.actions import Drop
from ._core.config import PeerConfig
from ._core.endpoints import numeric, split_bound
from ._core.errors import BindError, ClosedError, InvalidEndpoint, MalformedMessage
from ._core.model import Endpoint
from ._core.wire import Welcome, decode, encode
from ._zmq.monitor import Handshakes, Monitor, SocketEvent
from ._zmq.network import route_to
from ._zmq.options import proxy_xpub, proxy_xsub
from ._zmq.sockets import Socket, ZmqContext, ZmqSocket, bind, new_context, set_welcome, terminate

_ACCEPTANCE = SocketEvent.ACCEPTED | SocketEvent.HANDSHAKE_SUCCEEDED | SocketEvent.DISCONNECTED
"""What happens to connections that others open."""

_ANYWHERE = {"0.0.0.0": ("192.0.2.1", "127.0.0.1"), "[::]": ("2001:db8::1", "::1")}
"""The hosts that mean all interfaces: an address behind the default route (RFC 5737, RFC 3849), and loopback."""


class Proxy:
    """Relays discovery messages between peers; data never passes it.

    ::

        async with Proxy("tcp://127.0.0.1:*") as proxy:
            print(proxy.endpoint)

    It relays from entering the block until leaving it, and can be entered once.

    Args:
        endpoint: The well-known endpoint, ``tcp`` only. A port ``*`` or ``0`` picks a free one, a host ``*``
            listens on all interfaces.
        relay: The publish endpoint to bind; by default a free port at the same host.
        advertise: The host that peers shall connect to, if it is not the one that is bound; by default, where it
            listens on all interfaces, the local address of the default route.

    Raises:
        InvalidEndpoint: If an endpoint is not of the form ``tcp://host:port``, or ``advertise`` is no host.
        TypeError: If an argument is not text.
    """

    def __init__(
        self,
        endpoint: Endpoint = "tcp://127.0.0.1:5555",
        *,
        relay: Endpoint | None = None,
        advertise: str | None = None,
    ) -> None:
        host, _ = _split(endpoint)
        self._bind = endpoint
        self._relay_is_ours = relay is None
        self._bind_relay = f"tcp://{host}:*" if relay is None else relay
        _split(self._bind_relay)
        self._advertise = advertise
        if advertise is not None:
            _check_advertised(advertise)
        self._endpoint = endpoint
        self._relay = relay or ""
        self._id = uuid4()
        self._relayed = 0
        self._refused: Counter[Drop] = Counter()
        self._context: ZmqContext | None = None
        self._sockets: list[Socket] = []
        self._monitors: list[Monitor] = []
        self._background = Background(self._run, self._ended)
        self._entered = False

    @property
    def endpoint(self) -> Endpoint:
        """The well-known endpoint to give to peers, resolved once the block is entered."""
        return self._endpoint

    @property
    def relay(self) -> Endpoint:
        """The publish endpoint that the welcome names, resolved once the block is entered."""
        return self._relay

    @property
    def id(self) -> UUID:
        """Tells one start of the proxy from another."""
        return self._id

    @property
    def relayed(self) -> int:
        """How many messages were relayed."""
        return self._relayed

    @property
    def refused(self) -> Mapping[Drop, int]:
        """How many messages were not relayed, and connections not made, by reason; read-only and live."""
        return MappingProxyType(self._refused)

    async def __aenter__(self) -> Self:
        """Bind, and start to relay.

        Raises:
            BindError: If an endpoint cannot be bound; nothing stays open then.
            SocketLimitError: If there are too few descriptors left; likewise.
            ClosedError: If the block was entered before.

        Cancellation: safe; nothing stays open.
        """
        if self._entered:
            raise ClosedError("proxy", "was entered before: make a new one")
        self._entered = True
        self._context = new_context()
        try:
            self._open(self._context)
            await self._background.start()
        except BaseException:
            await self._close()
            raise
        return self

    def _open(self, context: ZmqContext) -> None:
        config = PeerConfig()
        self._xsub = self._own(proxy_xsub(context, config))
        self._xpub = self._own(proxy_xpub(context, config))
        try:
            self._relay = self._reachable(bind(self._xsub.zmq, self._bind_relay))
        except BindError as error:
            # Where we chose the endpoint, what is wrong with it is the host that we were given.
            raise BindError(self._bind, error.errno or 0, error.reason) if self._relay_is_ours else error from None
        # Everything: which topics peers subscribed to does not travel upstream.
        self._xsub.send_nowait(b"\x01")
        set_welcome(self._xpub.zmq, encode(Welcome(self._id, self._relay)))
        self._endpoint = self._reachable(bind(self._xpub.zmq, self._bind))

    def _own(self, raw: ZmqSocket) -> Socket:
        owned = Socket(raw, "proxy")
        self._sockets.append(owned)
        self._monitors.append(Monitor(raw, "proxy", _ACCEPTANCE))
        return owned

    def _reachable(self, bound: Endpoint) -> Endpoint:
        """The endpoint for others to connect to."""
        host, port = _split(bound)
        if self._advertise is not None:
            return _join(self._advertise, port)
        if host in _ANYWHERE:
            beyond, loopback = _ANYWHERE[host]
            return _join(route_to(beyond) or loopback, port)
        return bound

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop relaying and close everything.

        Cancellation: everything is closed all the same.
        """
        try:
            await self._background.stop()
        finally:
            await self._close()

    async def _close(self) -> None:
        for monitor in self._monitors:
            monitor.close()
        for owned in self._sockets:
            owned.close()
        context, self._context = self._context, None
        if context is not None:
            await terminate(context)

    def _ended(self) -> None:
        """Leave nobody connected to a proxy that relays nothing."""
        for owned in self._sockets:
            owned.close(0)

    async def _run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._forward)
            tasks.start_soon(self._discard_subscriptions)
            for monitor in self._monitors:
                tasks.start_soon(self._count_failed_handshakes, monitor)

    async def _forward(self) -> None:
        xsub = self._xsub
        while True:
            await anyio.lowlevel.checkpoint()
            frames = xsub.receive_single_nowait()
            if xsub.multiparts:
                self._refused[Drop.MULTIPART] = xsub.multiparts
            for frame in frames:
                self._relay_frame(frame)
            if xsub.drained:
                await xsub.wait()

    def _relay_frame(self, frame: bytes) -> None:
        try:
            message = decode(frame)
        except MalformedMessage:
            self._refused[Drop.MALFORMED_DISCOVERY] += 1
            return
        if isinstance(message, Welcome):
            self._refused[Drop.FORGED_WELCOME] += 1
        elif self._xpub.send_nowait(frame):
            self._relayed += 1
        else:
            self._refused[Drop.SEND_QUEUE_FULL] += 1

    async def _discard_subscriptions(self) -> None:
        # libzmq has taken them in; unread, they would pile up, and no welcome would leave.
        while True:
            await self._xpub.receive_many()

    async def _count_failed_handshakes(self, monitor: Monitor) -> None:
        handshakes = Handshakes()
        while True:
            for event in await monitor.receive_many():
                if handshakes.is_failure(event):
                    self._refused[Drop.FAILED_HANDSHAKE] += 1


def _split(endpoint: Endpoint) -> tuple[str, str]:
    """Host, as it is written in the endpoint, and port, which may be a wildcard.

    Raises:
        InvalidEndpoint: If it is not of the form ``tcp://host:port``.
    """
    if not isinstance(endpoint, str):
        raise TypeError(f"an endpoint must be of type str, not {endpoint!r}")
    return split_bound(endpoint)


def _check_advertised(host: str) -> None:
    if not isinstance(host, str):
        raise TypeError(f"advertise must be of type str, not {host!r}")
    try:
        numeric(_join(host, "1"))
    except InvalidEndpoint:
        raise InvalidEndpoint(host, "advertise takes a host, without tcp:// and port") from None


def _join(host: str, port: str) -> Endpoint:
    bare = host.removeprefix("[").removesuffix("]")
    return f"tcp://[{bare}]:{port}" if ":" in bare else f"tcp://{bare}:{port}"
