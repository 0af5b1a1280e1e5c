"""`Peer`: what an application imports.

Rule 1: what the caller does wrong raises at once; what the network does wrong is counted in
`Peer.dropped` and ends nothing.

Rule 2: whatever happens in the block, leaving it closes every task, socket and descriptor.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Self
from uuid import UUID, uuid4
from weakref import WeakSet

import anyio
import anyio.lowlevel
from attrs import evolve

from ._arguments import (
    advertised_endpoint,
    bind_host,
    of_type,
    payload_bytes,
    port_number,
    proxy_endpoints,
    several_texts,
    text_pairs,
    timeout_seconds,
)
from ._background import Background
from ._channels import DataChannel, Network, ProxyChannel
from ._core.actions import Drop
from ._core.config import PeerConfig
from ._core.discovery import Stage
from ._core.endpoints import TcpEndpoint, numeric, parse
from ._core.envelope import check_topic
from ._core.errors import ClosedError, DiscoveryTimeout, FarewellTimeout, InvalidEndpoint
from ._core.events import (
    Event,
    EventsDropped,
    PeerGone,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    PeerUpdated,
)
from ._core.model import NO_SESSION, Endpoint, PeerInfo
from ._core.wire import Announce, encode
from ._driver import Driver
from ._messages import MessageStream, Publications, Subscriptions
from ._streams import Stream
from ._zmq.monitor import MonitorEvent, SocketEvent, socket_events
from ._zmq.network import ZmqNetwork, local_address_towards

logger = logging.getLogger("zdisco")

_PEER_EVENTS = (PeerJoined, PeerUpdated, PeerSuspected, PeerRecovered, PeerGone)
_ELSEWHERE = "a peer is used in the thread and the event loop in which it was entered"
_TURN = 256
"""Messages that a publisher sends before it lets others run."""


class Peer:
    """One process that takes part: finds the others through proxies, and talks to them directly.

    ::

        async with Peer("tcp://127.0.0.1:5555", name="alice") as peer:
            await peer.wait_for(1)
            await peer.publish("prices.eur", b"1.08")

    Entering the block binds the data channel, connects to the proxies and waits until our own
    announce came back through one of them. Leaving it says farewell, waits for its echo, and
    closes everything.

    Args:
        proxies: The well-known endpoint of a proxy, or several.
        name: What people call this peer; need not be unique.
        headers: Text to text, announced to all.
        groups: Names of groups, announced to all.
        cluster: Only peers of the same cluster link.
        id: Names this peer; random unless given. No two running peers may have the same one: each would
            replace the other, again and again.
        host: Local address to bind the data channel to; by default the one that routes to the first proxy.
        port: Port of the data channel; by default an ephemeral one.
        advertise: Host, or ``tcp`` endpoint, that the others connect to, where it differs from the bound one.
        config: Every interval, timeout and bound.
        wait: Whether entering the block waits for discovery; if not, call `discover`.
        network: Makes the channels; `zdisco.testing` has one without sockets.

    Raises:
        InvalidEndpoint: If a proxy is no endpoint, ``host`` no address, or ``advertise`` neither host nor endpoint.
        AnnounceTooLarge: If name, headers and groups do not fit into one announce.
        TypeError: If an argument is of the wrong type.
        ValueError: If ``port`` is none.

    Entering the block raises `BindError` if the data channel cannot be bound, or if no local
    address leads to a proxy, `SocketLimitError` if no descriptors are left, and
    `DiscoveryTimeout` if no proxy relayed us in time. A peer is entered once, and used in the
    thread and the event loop in which it was entered; elsewhere it raises `RuntimeError`.
    Cancellation while entering or leaving is safe: everything is closed; the others notice by
    the broken link, as after a crash.
    """

    def __init__(
        self,
        proxies: str | Iterable[str],
        *,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        groups: Iterable[str] = (),
        cluster: str = "",
        id: UUID | None = None,
        host: str | None = None,
        port: int = 0,
        advertise: str | None = None,
        config: PeerConfig | None = None,
        wait: bool = True,
        network: Callable[[PeerConfig], Network] = ZmqNetwork,
    ) -> None:
        self._proxies = proxy_endpoints(proxies)
        self._config = PeerConfig() if config is None else of_type("config", config, PeerConfig)
        self._host, self._port, self._advertise = bind_host(host), port_number(port), advertise
        if advertise is not None:
            advertised_endpoint(advertise, 1)
        if not callable(network):
            raise TypeError(f"network must make a network of a PeerConfig, not {network!r}")
        info = PeerInfo(
            id=uuid4() if id is None else of_type("id", id, UUID),
            endpoint="",
            name=of_type("name", name, str),
            headers=text_pairs("headers", {} if headers is None else headers),
            groups=frozenset(several_texts("groups", groups)),
            cluster=of_type("cluster", cluster, str),
            incarnation=time.time_ns() // 1_000_000,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self._me = Announce(info, _new_session())
        # Whether it fits is the caller's business, so it raises here; the endpoint has room of its own.
        encode(evolve(self._me, info=evolve(info, endpoint="tcp://127.0.0.1:1")))
        self._wait = wait
        self._new_network = network
        self._network: Network | None = None
        self._data: DataChannel | None = None
        self._channels: list[ProxyChannel] = []
        self._driver: Driver | None = None
        self._background: Background | None = None
        self._drops: Mapping[Drop, int] = MappingProxyType({})
        self._was_entered = False
        self._is_closed = False
        self._thread = 0
        self._loop: object = None
        self._sent = 0
        self._publications = Publications(info.id, self._me.session, self._config.max_topics)
        self._subscriptions: Subscriptions | None = None
        self._event_streams: WeakSet[Stream[Event]] = WeakSet()
        self._monitor_streams: WeakSet[_SocketEvents] = WeakSet()

    def __repr__(self) -> str:
        me = self.me
        return f"<zdisco.Peer {me.name or 'without a name'} {me.id} {me.endpoint or 'not open'}>"

    # What can be asked

    @property
    def id(self) -> UUID:
        """Our peer id."""
        return self._me.info.id

    @property
    def me(self) -> PeerInfo:
        """What we say about ourselves; its ``endpoint`` is empty until the block is entered."""
        return self._me.info if self._driver is None else self._driver.core.info

    @property
    def peers(self) -> Mapping[UUID, PeerInfo]:
        """The joined peers by id, ourselves not among them: a read-only view that follows the events.

        A suspect peer is not in it: what is published now may not reach it. Empty before the block
        is entered, and after it.
        """
        return MappingProxyType({}) if self._driver is None else self._driver.core.joined

    @property
    def dropped(self) -> Mapping[Drop, int]:
        """How often something from the network was dropped, by reason; read-only."""
        return self._drops

    async def wait_for(
        self, wanted: int | Callable[[Mapping[UUID, PeerInfo]], bool], *, timeout: float | None = None
    ) -> None:
        """Wait until so many peers are joined, or until ``wanted(peers)`` is true.

        Args:
            wanted: A number of peers, ourselves not counted, or a predicate over `peers`.
            timeout: Seconds to wait at the most.

        Raises:
            TimeoutError: If it did not become true in time.
            TypeError: If ``wanted`` or ``timeout`` is of the wrong type.
            ClosedError: If the peer is not open, or is closed meanwhile.

        Cancellation: safe.
        """
        number = 0 if callable(wanted) else of_type("wanted", wanted, int)
        seconds = None if timeout is None else timeout_seconds(timeout)
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(seconds):
            while not (
                wanted(self._opened.core.joined) if callable(wanted) else len(self._opened.core.joined) >= number
            ):
                await self._opened.changed()
            return
        joined = len(self._opened.core.joined)
        short = f"{joined} peers joined" if callable(wanted) else f"{joined} of {number} peers joined"
        raise TimeoutError(f"{short} within {seconds:g} s")

    # Life

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise ClosedError("peer", "was entered before: make a new one")
        self._was_entered = True
        self._thread, self._loop = threading.get_ident(), anyio.lowlevel.current_token()
        try:
            await self._open()
            if self._wait:
                await self.discover()
        except BaseException:
            await self._close()
            raise
        self._opened.open_soon()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._is_closed:
                await self.leave()
        except FarewellTimeout as timeout:
            logger.warning("%s", timeout)
        finally:
            await self._close()

    async def _open(self) -> None:
        self._network = self._new_network(self._config)
        self._data = await self._network.data_channel(self._host, self._port, self._proxies)
        endpoint = await self._endpoint_to_announce(self._data.endpoint)
        self._me = evolve(self._me, info=evolve(self._me.info, endpoint=endpoint))
        for proxy in self._proxies:
            self._channels.append(self._network.proxy_channel(proxy))
        self._driver = driver = Driver(
            self._me, self._config, self._data, self._channels, self._network, self._deliver, self._tell, self._observe
        )
        self._drops = driver.drops
        self._subscriptions = Subscriptions(driver.core.roster.sender, driver.control, driver.dropped)
        self._background = Background(driver.run, self._shut)
        await self._background.start()

    async def _endpoint_to_announce(self, bound: Endpoint) -> Endpoint:
        port = parse(bound).port
        if self._advertise is not None:
            return advertised_endpoint(self._advertise, port)
        try:
            return numeric(bound) or bound
        except InvalidEndpoint:  # bound to all interfaces
            return str(TcpEndpoint(await local_address_towards(self._proxies), port))

    async def _close(self) -> None:
        try:
            if self._background is not None:
                await self._background.stop()
        finally:
            self._shut()
            with anyio.CancelScope(shield=True):
                await self._close_network()

    def _shut(self) -> None:
        """Let nobody use us, or wait for us, any more."""
        self._is_closed = True
        driver, self._driver = self._driver, None
        streams: list[Stream[Any]] = [*self._event_streams, *self._monitor_streams]
        for stream in streams + list(self._subscriptions or ()):
            stream._end()
        for channel in self._channels:
            channel.close()
        if self._data is not None:
            self._data.rouse()
        if driver is not None:
            driver.close()

    async def _close_network(self) -> None:
        data, self._data = self._data, None
        network, self._network = self._network, None
        try:
            if data is not None:
                await data.aclose()
        finally:
            if network is not None:
                await network.aclose()

    async def discover(self, timeout: float | None = None) -> None:
        """Wait until our own announce came back through a proxy: the discovery handshake.

        Args:
            timeout: Seconds; ``discovery_timeout`` of the configuration unless given.

        Raises:
            DiscoveryTimeout: If it did not; says of each proxy what was seen.
            TypeError: If ``timeout`` is no number.
            ClosedError: If the peer is not open, or is closed meanwhile, or is leaving.

        Cancellation: safe; we go on announcing, and it may be called again.
        """
        seconds = self._config.discovery_timeout if timeout is None else timeout_seconds(timeout)
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(seconds):
            while not self._staying.core.is_found:
                await self._staying.changed()
        if not self._staying.core.is_found:
            raise DiscoveryTimeout(seconds, self._staying.sightings)

    async def leave(self) -> None:
        """Say farewell, and wait until every proxy that hears us has relayed it.

        When this returns, every peer that the proxies reach has been told. From the call on we
        announce, publish and subscribe no more, and nobody joins us; leaving the block closes the
        rest.

        Raises:
            FarewellTimeout: If a farewell did not come back within ``farewell_timeout`` seconds.
            ClosedError: If the peer is not open, or is closed meanwhile.

        Cancellation: safe. The farewell has been sent once; nobody waits for its echo.
        """
        driver = self._opened
        driver.feed(driver.core.leave(anyio.current_time()))
        driver.data.rouse()
        with anyio.move_on_after(self._config.farewell_timeout):
            while driver.core.unheard_farewells and not driver.is_closed:
                await driver.changed()
        if driver.is_closed:
            raise ClosedError("peer")
        if unheard := driver.core.unheard_farewells:
            raise FarewellTimeout(self._config.farewell_timeout, tuple(sorted(unheard)))

    @property
    def _opened(self) -> Driver:
        if self._driver is None:
            raise ClosedError("peer")
        if self._thread != threading.get_ident() or self._loop != anyio.lowlevel.current_token():
            raise RuntimeError(_ELSEWHERE)
        return self._driver

    @property
    def _staying(self) -> Driver:
        driver = self._opened
        if driver.core.stage is not Stage.STARTED:
            raise ClosedError("peer", "is leaving")
        return driver

    # Streams

    def events(self) -> Stream[Event]:
        """What happens from now on, after a `PeerJoined` for each peer that is there already.

        A `PeerSuspected` follows for one that is suspect. A reader that is more than
        ``event_capacity`` events behind loses the oldest and gets one `EventsDropped` in their
        place. May be called before the block is entered. Ends when the peer is closed.
        """
        stream: Stream[Event] = Stream(self._config.event_capacity, EventsDropped)
        if self._driver is not None:
            stream._push(self._driver.present)
        self._event_streams.add(stream)
        if self._is_closed:
            stream._end()
        return stream

    def monitor(self, events: SocketEvent | int = SocketEvent.ALL) -> Stream[MonitorEvent | EventsDropped]:
        """The socket events of `proxySub`, `proxyPub`, `dataSub` and `dataPub` from now on.

        May be called before the block is entered, so that nothing is missed. A reader that is
        more than ``event_capacity`` events behind loses the oldest and gets one `EventsDropped`
        in their place. Ends when the peer is closed.

        Args:
            events: Which events of libzmq to pass on.

        Raises:
            TypeError: If ``events`` is no number.
            ValueError: If ``events`` is empty or has unknown bits.
        """
        stream = _SocketEvents(socket_events(events), self._config.event_capacity)
        self._monitor_streams.add(stream)
        if self._is_closed:
            stream._end()
        return stream

    def _tell(self, event: Event) -> None:
        if isinstance(event, _PEER_EVENTS) and self._subscriptions is not None:
            self._subscriptions.forget_routes()
        for stream in self._event_streams:
            stream._push([event])

    def _observe(self, event: MonitorEvent) -> None:
        for stream in self._monitor_streams:
            stream.offer(event)

    # Messages

    async def publish(self, topic: str, payload: bytes) -> None:
        """Send a message to every other peer that subscribed to a prefix of ``topic``.

        A peer whose queue is full (``send_hwm`` messages) does not get it; nobody else is held up.
        With ``overflow="wait"`` in the configuration this waits instead until every peer that the
        message is for has room. So one peer that stalls holds up all who publish what it
        subscribed to, until it reads again or its connection ends. Those who wait try again in the
        order in which they came.

        Args:
            topic: Text without NUL.
            payload: Any bytes.

        Raises:
            TypeError: If ``topic`` is not text or ``payload`` not bytes.
            ValueError: If ``topic`` holds a NUL, or has more than 1024 bytes of UTF-8.
            ClosedError: If the peer is not open, or is leaving; also when that happens while this waits.

        Cancellation: safe; the message has been sent, or has not. One that was still waiting has not.
        """
        raw = payload if type(payload) is bytes else payload_bytes(payload)
        self._sent += 1
        if self._sent >= _TURN:
            self._sent = 0
            await anyio.lowlevel.checkpoint()
        while not (data := self._publishing).publish(self._publications.frame(topic, raw)):
            await data.writable()
        self._publications.count(topic)

    @property
    def _publishing(self) -> DataChannel:
        driver = self._driver
        if driver is None:
            raise ClosedError("peer")
        if driver.core.stage is not Stage.STARTED:
            raise ClosedError("peer", "is leaving")
        if self._thread != threading.get_ident():
            raise RuntimeError(_ELSEWHERE)
        return driver.data

    def subscribe(self, topic: str, *, exact: bool = False) -> Subscription:
        """Messages whose topic begins with ``topic``; the empty one is for all.

        Use it with ``async with``: once entered, the subscription is in force at every peer that
        relies on us, and a peer that joins later has it before it is joined. A peer that hangs
        holds the entering up for ``suspect_timeout`` at the most. A reader that is more than
        ``stream_capacity`` messages behind loses the oldest; ``dropped`` counts them.

        Args:
            topic: Text without NUL.
            exact: Only messages of just this topic.

        Raises:
            TypeError: If ``topic`` is not text.
            ValueError: If ``topic`` holds a NUL, or has more than 1024 bytes of UTF-8.
        """
        raw = check_topic(topic)
        return Subscription(self, raw + b"\0" if exact else raw, self._config.stream_capacity)

    async def _subscribe(self, stream: Subscription, prefix: bytes) -> None:
        driver = self._staying
        assert self._subscriptions is not None
        if self._subscriptions.add(stream, prefix):
            driver.data.subscribe(prefix)
        await driver.in_force()
        if driver.is_closed:
            raise ClosedError("peer")

    def _unsubscribe(self, stream: Subscription, prefix: bytes) -> None:
        assert self._subscriptions is not None
        if self._subscriptions.remove(stream, prefix) and self._data is not None:
            self._data.unsubscribe(prefix)

    def _deliver(self, frames: Sequence[bytes]) -> None:
        assert self._subscriptions is not None
        self._subscriptions.deliver(frames)


class Subscription(MessageStream):
    """The messages of one subscription: ``async with`` makes it, ``async for`` reads it."""

    def __init__(self, peer: Peer, prefix: bytes, capacity: int) -> None:
        super().__init__(prefix, capacity)
        self._peer = peer
        self._was_entered = False
        self._is_registered = False
        self._is_closed = True

    async def __aenter__(self) -> Self:
        """Subscribe, and wait until it is in force at every peer that relies on us.

        Raises:
            ClosedError: If the peer is not open, or is leaving, or this subscription was entered before.

        Cancellation: safe; then nothing is subscribed.
        """
        if self._was_entered:
            raise ClosedError("subscription", "was entered before: make a new one")
        self._peer._staying  # noqa: B018  raises if the peer cannot subscribe
        self._was_entered = self._is_registered = True
        self._is_closed = False
        try:
            await self._peer._subscribe(self, self._prefix)
        except BaseException:
            self._unregister()
            raise
        return self

    def _no_more(self) -> Exception:
        if self._was_entered:
            return super()._no_more()
        return ClosedError("subscription", "is not open: use it with async with")

    async def aclose(self) -> None:
        """Unsubscribe; what waits is dropped. Idempotent. Cancellation: safe; it is closed all the same."""
        self._unregister()
        await super().aclose()

    def _unregister(self) -> None:
        if self._is_registered:
            self._is_registered = False
            self._peer._unsubscribe(self, self._prefix)
        self._end()


class _SocketEvents(Stream[MonitorEvent | EventsDropped]):
    """The socket events of a peer, as far as a mask lets them through."""

    def __init__(self, mask: SocketEvent, capacity: int) -> None:
        super().__init__(capacity, EventsDropped)
        self._mask = mask

    def offer(self, event: MonitorEvent) -> None:
        if event.event & self._mask:
            self._push([event])


def _new_session() -> bytes:
    while (session := secrets.token_bytes(4)) == NO_SESSION:
        pass
    return session
