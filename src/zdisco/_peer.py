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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4
from weakref import WeakSet

import anyio
import anyio.lowlevel
from attrs import evolve

from ._background import Background
from ._channels import DataChannel, Network
from ._core.actions import Drop
from ._core.config import PeerConfig
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
from ._zmq.monitor import MonitorEvent, SocketEvent
from ._zmq.network import ZmqNetwork, local_address_towards

logger = logging.getLogger("zdisco")

T = TypeVar("T")

_PEER_EVENTS = (PeerJoined, PeerUpdated, PeerSuspected, PeerRecovered, PeerGone)
_UNBOUND = "tcp://127.0.0.1:1"
"""Stands for our data endpoint until it is bound."""
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
        id: Names this peer; random unless given.
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

    Entering the block raises `BindError` if the data channel cannot be bound, and
    `DiscoveryTimeout` if no proxy relayed us in time. A peer is entered once. Cancellation while
    entering or leaving is safe: everything is closed; the others notice by the broken link, as
    after a crash.
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
        self._proxies = _proxy_endpoints(proxies)
        self._config = PeerConfig() if config is None else config
        self._host, self._port, self._advertise = _host(host), _port(port), advertise
        endpoint = _UNBOUND if advertise is None else _advertised(advertise, 1)
        info = PeerInfo(
            id=uuid4() if id is None else _of_type("id", id, UUID),
            endpoint=endpoint,
            name=_of_type("name", name, str),
            headers=_text_pairs("headers", {} if headers is None else headers),
            groups=_texts("groups", groups),
            cluster=_of_type("cluster", cluster, str),
            incarnation=time.time_ns() // 1_000_000,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self._me = Announce(info, _new_session())
        encode(self._me)  # whether it fits is the caller's business, so it raises here
        self._wait = wait
        self._new_network = network
        self._network: Network | None = None
        self._data: DataChannel | None = None
        self._driver: Driver | None = None
        self._background: Background | None = None
        self._drops: Mapping[Drop, int] = MappingProxyType({})
        self._was_entered = False
        self._sent = 0
        self._publications = Publications(info.id, self._me.session, self._config.max_topics)
        self._subscriptions: Subscriptions | None = None
        self._event_streams: WeakSet[Stream[Event]] = WeakSet()
        self._monitor_streams: WeakSet[_SocketEvents] = WeakSet()

    # What can be asked

    @property
    def id(self) -> UUID:
        """Our peer id."""
        return self._me.info.id

    @property
    def me(self) -> PeerInfo:
        """What we say about ourselves; its ``endpoint`` holds from when the block is entered."""
        return self._me.info if self._driver is None else self._driver.core.info

    @property
    def peers(self) -> Mapping[UUID, PeerInfo]:
        """The joined peers by id, ourselves not among them: a read-only view that follows the events.

        A suspect peer is not in it: what is published now may not reach it.
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
            ClosedError: If the peer is not open, or is closed meanwhile.

        Cancellation: safe.
        """

        def holds() -> bool:
            peers = self._opened.core.joined
            return wanted(peers) if callable(wanted) else len(peers) >= wanted

        with anyio.fail_after(timeout):
            await anyio.lowlevel.checkpoint()
            while not holds():
                await self._opened.changed()

    # Life

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise ClosedError("peer")
        self._was_entered = True
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
        channels = [self._network.proxy_channel(proxy) for proxy in self._proxies]
        self._driver = driver = Driver(
            self._me, self._config, self._data, channels, self._network, self._deliver, self._tell, self._observe
        )
        self._drops = driver.drops
        self._subscriptions = Subscriptions(driver.core.roster.sender, driver.control, driver.dropped)
        self._background = Background(driver.run)
        await self._background.start()

    async def _endpoint_to_announce(self, bound: Endpoint) -> Endpoint:
        port = parse(bound).port
        if self._advertise is not None:
            return _advertised(self._advertise, port)
        try:
            return numeric(bound) or bound
        except InvalidEndpoint:  # bound to all interfaces
            return str(TcpEndpoint(await local_address_towards(self._proxies[0]), port))

    async def _close(self) -> None:
        try:
            if self._background is not None:
                await self._background.stop()
        finally:
            driver, self._driver = self._driver, None
            self._end_streams()
            if driver is not None:
                driver.notify()
                driver.close_proxies()
            with anyio.CancelScope(shield=True):
                await self._close_network()

    def _end_streams(self) -> None:
        streams: list[Stream[Any]] = [*self._event_streams, *self._monitor_streams]
        for stream in streams + list(self._subscriptions or ()):
            stream.end()

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
            ClosedError: If the peer is not open, or is closed meanwhile.

        Cancellation: safe; we go on announcing, and it may be called again.
        """
        seconds = self._config.discovery_timeout if timeout is None else timeout
        with anyio.move_on_after(seconds):
            await anyio.lowlevel.checkpoint()
            while not self._opened.core.is_found:
                await self._opened.changed()
        if not self._opened.core.is_found:
            raise DiscoveryTimeout(seconds, self._opened.sightings)

    async def leave(self) -> None:
        """Say farewell, and wait until every proxy that hears us has relayed it.

        When this returns, every peer that the proxies reach has been told. From the call on we
        announce ourselves no more; leaving the block closes the rest.

        Raises:
            FarewellTimeout: If a farewell did not come back within ``farewell_timeout`` seconds.
            ClosedError: If the peer is not open.

        Cancellation: safe. The farewell has been sent once; nobody waits for its echo.
        """
        driver = self._opened
        driver.feed(driver.core.leave(anyio.current_time()))
        with anyio.move_on_after(self._config.farewell_timeout):
            while driver.core.unheard_farewells and self._driver is driver:
                await driver.changed()
        if unheard := driver.core.unheard_farewells:
            raise FarewellTimeout(self._config.farewell_timeout, tuple(sorted(unheard)))

    @property
    def _opened(self) -> Driver:
        if self._driver is None:
            raise ClosedError("peer")
        return self._driver

    # Streams

    def events(self) -> Stream[Event]:
        """What happens from now on, after a `PeerJoined` for each peer that is there already.

        A reader that is more than ``event_capacity`` events behind loses the oldest and gets one
        `EventsDropped` in their place. May be called before the block is entered. Ends when the
        peer is closed.
        """
        stream: Stream[Event] = Stream(self._config.event_capacity, EventsDropped)
        stream.push(PeerJoined(peer) for peer in self.peers.values())
        self._event_streams.add(stream)
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
        if isinstance(events, bool) or not isinstance(events, int):
            raise TypeError(f"events must be a SocketEvent, not {events!r}")
        if not 0 < events <= SocketEvent.ALL:
            raise ValueError(f"events must be a combination of SocketEvent's, not {int(events):#x}")
        stream = _SocketEvents(SocketEvent(events), self._config.event_capacity)
        self._monitor_streams.add(stream)
        return stream

    def _tell(self, event: Event) -> None:
        if isinstance(event, _PEER_EVENTS) and self._subscriptions is not None:
            self._subscriptions.forget_routes()
        for stream in self._event_streams:
            stream.push([event])

    def _observe(self, event: MonitorEvent) -> None:
        for stream in self._monitor_streams:
            stream.offer(event)

    # Messages

    async def publish(self, topic: str, payload: bytes) -> None:
        """Send a message to every peer that subscribed to a prefix of ``topic``.

        A peer whose queue is full (``send_hwm`` messages) does not get it; nobody else is held up.

        Args:
            topic: Text without NUL.
            payload: Any bytes.

        Raises:
            TypeError: If ``topic`` is not text or ``payload`` not bytes.
            ValueError: If ``topic`` holds a NUL.
            ClosedError: If the peer is not open.

        Cancellation: safe; the message has been sent, or has not.
        """
        if self._data is None:
            raise ClosedError("peer")
        if not isinstance(payload, bytes | bytearray | memoryview):
            raise TypeError(f"a payload is bytes, not {type(payload).__name__}: {payload!r}")
        self._sent += 1
        if self._sent >= _TURN:
            self._sent = 0
            await anyio.lowlevel.checkpoint()
        self._data.send(self._publications.frame(topic, payload, check_topic))

    def subscribe(self, topic: str, *, exact: bool = False) -> Subscription:
        """Messages whose topic begins with ``topic``; the empty one is for all.

        Use it with ``async with``: once entered, the subscription is in force at every peer that
        relies on us, and a peer that joins later has it before it is joined. A reader that is
        more than ``stream_capacity`` messages behind loses the oldest; ``dropped`` counts them.

        Args:
            topic: Text without NUL.
            exact: Only messages of just this topic.

        Raises:
            TypeError: If ``topic`` is not text.
            ValueError: If ``topic`` holds a NUL.
        """
        raw = check_topic(topic)
        return Subscription(self, raw + b"\0" if exact else raw, self._config.stream_capacity)

    async def _subscribe(self, stream: Subscription, prefix: bytes) -> None:
        driver = self._opened
        assert self._subscriptions is not None
        if self._subscriptions.add(stream, prefix):
            driver.data.subscribe(prefix)
        driver.perform(driver.core.roster.next_marker())
        marker = driver.core.roster.marker
        await anyio.lowlevel.checkpoint()
        while self._driver is driver and driver.core.roster.unconfirmed(marker):
            await driver.changed()

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
        self._is_registered = False

    async def __aenter__(self) -> Self:
        """Subscribe, and wait until it is in force at every peer that relies on us.

        Raises:
            ClosedError: If the peer is not open, or this subscription was used before.

        Cancellation: safe; then nothing is subscribed.
        """
        if self._is_registered or self._is_closed:
            raise ClosedError("subscription")
        self._peer._opened  # noqa: B018  raises if the peer is not open
        self._is_registered = True
        try:
            await self._peer._subscribe(self, self._prefix)
        except BaseException:
            self._unregister()
            raise
        return self

    async def aclose(self) -> None:
        """Unsubscribe; what waits is dropped. Idempotent. Cancellation: safe; it is closed all the same."""
        self._unregister()
        await super().aclose()

    def _unregister(self) -> None:
        if self._is_registered:
            self._is_registered = False
            self._peer._unsubscribe(self, self._prefix)
        self.end()


class _SocketEvents(Stream[MonitorEvent | EventsDropped]):
    """The socket events of a peer, as far as a mask lets them through."""

    def __init__(self, mask: SocketEvent, capacity: int) -> None:
        super().__init__(capacity, EventsDropped)
        self._mask = mask

    def offer(self, event: MonitorEvent) -> None:
        if event.event & self._mask:
            self.push([event])


def _new_session() -> bytes:
    while (session := secrets.token_bytes(4)) == NO_SESSION:
        pass
    return session


def _proxy_endpoints(proxies: str | Iterable[str]) -> tuple[Endpoint, ...]:
    if not isinstance(proxies, str | Iterable):
        raise TypeError(f"proxies must be an endpoint, or several, not {proxies!r}")
    endpoints = (proxies,) if isinstance(proxies, str) else tuple(proxies)
    if not endpoints:
        raise InvalidEndpoint("", "at least one proxy is needed")
    for endpoint in endpoints:
        if _of_type("proxies", endpoint, str).startswith("tcp://"):
            parse(endpoint)
        elif not endpoint.startswith(("ipc://", "inproc://")):
            raise InvalidEndpoint(endpoint, "not a tcp, ipc or inproc endpoint")
    return tuple(dict.fromkeys(endpoints))


def _host(host: str | None) -> str | None:
    if host is not None and _of_type("host", host, str) != "*":
        try:
            parse(str(TcpEndpoint(host, 1)))
        except InvalidEndpoint as error:
            raise InvalidEndpoint(host, error.reason) from None
    return host


def _advertised(advertise: str, port: int) -> Endpoint:
    """The endpoint to announce for ``advertise``, which may name only a host."""
    is_endpoint = _of_type("advertise", advertise, str).startswith("tcp://")
    endpoint = advertise if is_endpoint else str(TcpEndpoint(advertise, port))
    try:
        numeric(endpoint)
    except InvalidEndpoint as error:
        raise InvalidEndpoint(advertise, error.reason) from None
    return endpoint


def _port(port: int) -> int:
    if not 0 <= _of_type("port", port, int) <= 65535:
        raise ValueError(f"port must be from 0 to 65535, not {port}")
    return port


def _of_type(name: str, value: T, kind: type[T]) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} must be a {kind.__name__}, not {value!r}")
    return value


def _texts(name: str, values: Iterable[str]) -> frozenset[str]:
    if isinstance(values, str):
        raise TypeError(f"{name} must be several texts, not one: {values!r}")
    return frozenset(_of_type(name, value, str) for value in values)


def _text_pairs(name: str, pairs: Mapping[str, str]) -> Mapping[str, str]:
    return {_of_type(name, key, str): _of_type(name, value, str) for key, value in pairs.items()}
