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
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self, overload
from uuid import UUID, uuid4
from weakref import WeakSet

import anyio
import anyio.lowlevel
from attrs import evolve

from ._arguments import (
    glob_pattern,
    gossip_bind_endpoint,
    gossip_endpoints,
    literal_prefix,
    of_type,
    payload_bytes,
    positive_number,
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
from ._core.envelope import Kind, check_name, check_topic, direct_topic, group_topic
from ._core.errors import (
    ClosedError,
    DiscoveryTimeout,
    FarewellTimeout,
    IdentityConflict,
    MalformedMessage,
    UnknownName,
    UnknownPeer,
)
from ._core.events import Event, EventsDropped, PeerEvent, ProxyFound, ProxyLost
from ._core.model import NO_SESSION, Endpoint, LinkInfo, Message, PeerInfo, StreamOverflow
from ._core.names import announced, check_registered
from ._core.wire import Announce, encode
from ._driver import Driver
from ._embedded import EmbeddedProxy
from ._gossip import Gossip
from ._gossip_relay import GossipRelay, any_port, beside
from ._home import Home
from ._hosts import HostsFile
from ._loops import current_time, runs_in
from ._messages import InboxStream, M, MessageStream, Received
from ._names import Names, Registration
from ._proxy import Proxy
from ._publisher import Publisher
from ._reachability import SERVICE, Reachability, decode_row, encode_row, reachability
from ._requests import Post, Reply, Requests, answer, reply
from ._services import Handler, Request, Service, Services
from ._streams import Stream
from ._zmq.monitor import MonitorEvent, SocketEvent, socket_events
from ._zmq.network import ZmqNetwork

logger = logging.getLogger("zdisco")

_DEFAULT_PROXY = "tcp://127.0.0.1:5555"
_OURS = "zdisco."
_ELSEWHERE = "a peer is used in the thread and the event loop in which it was entered"


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
        proxies: The well-known endpoint of a proxy, or several; by default ``tcp://127.0.0.1:5555``, or none where
            ``gossip`` is given.
        gossip: Find others without a proxy, or beside it: endpoints of gossip nodes, those of any other peers or
            such as stand alone. Empty for the first peer, which the others are told of. The node of this peer is
            `gossip`.
        gossip_bind: Where that node listens, ``tcp`` only; by default an ephemeral port of the address of the data
            channel.
        embed: Host the proxy at the (first) well-known endpoint, which must be one of this machine, whenever
            nobody else does: nobody has to start one then. It runs in a thread of its own until we leave;
            then one of the others that embed it takes over.
        name: What people call this peer; need not be unique.
        headers: Text to text, announced to all; `update` changes them.
        groups: Names of groups of which this peer is a member as long as it lives, announced to all; it reads
            those that it joins, see `join`.
        cluster: Only peers of the same cluster link.
        id: Names this peer; random unless given. No two running peers may have the same one: the one that
            started later ends with `IdentityConflict` as soon as they can reach each other.
        host: Local address to bind the data channel to; by default the one that routes to the first proxy.
        port: Port of the data channel; by default an ephemeral one.
        advertise: Host, or ``tcp`` endpoint, that the others connect to, where it differs from the bound one.
        hosts: A file, in ZPL, that says where names lead from this machine, whatever others register; read again when
            it changes. If it cannot be used then, that is logged, and what it said before counts on.
        config: Every interval, timeout and bound.
        wait: Whether entering the block waits for discovery; if not, call `discover`.
        network: Makes the channels; `zdisco.testing` has one without sockets.

    Raises:
        InvalidEndpoint: If a proxy or a gossip node is no endpoint, or with ``embed`` not one of ``tcp``, ``host``
            no address, or ``advertise`` neither host nor endpoint.
        InvalidHosts: If the hosts file is not there, or cannot be used.
        AnnounceTooLarge: If name, headers and groups do not fit into one announce.
        TypeError: If an argument is of the wrong type.
        ValueError: If ``port`` is none, the name of a group could be no topic, or ``embed`` or ``gossip`` is asked
            for together with another ``network``, or ``gossip_bind`` without ``gossip``.

    Entering the block raises `BindError` if the data channel cannot be bound, or if no local
    address leads to a proxy, `SocketLimitError` if no descriptors are left, and
    `DiscoveryTimeout` if no proxy relayed us in time. If another process has our id and started
    earlier, the peer ends: its streams end, and whatever is called, or leaving the block, raises
    `IdentityConflict`. A peer is entered once, and used in the
    thread and the event loop in which it was entered; elsewhere it raises `RuntimeError`.
    Cancellation while entering or leaving is safe: everything is closed; the others notice by
    the broken link, as after a crash.
    """

    def __init__(
        self,
        proxies: str | Iterable[str] | None = None,
        *,
        gossip: str | Iterable[str] | None = None,
        gossip_bind: str | None = None,
        embed: bool = False,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        groups: Iterable[str] = (),
        cluster: str = "",
        id: UUID | None = None,
        host: str | None = None,
        port: int = 0,
        advertise: str | None = None,
        hosts: str | os.PathLike[str] | None = None,
        config: PeerConfig | None = None,
        wait: bool = True,
        network: Callable[[PeerConfig], Network] = ZmqNetwork,
    ) -> None:
        self._gossips = None if gossip is None else gossip_endpoints(gossip)
        if proxies is not None or embed or gossip is None:
            self._proxies = proxy_endpoints(_DEFAULT_PROXY if proxies is None else proxies)
        else:
            self._proxies = ()
        self._gossip_bind = None if gossip_bind is None else gossip_bind_endpoint(gossip_bind)
        if gossip_bind is not None and gossip is None:
            raise ValueError("gossip_bind is for a peer that is given gossip, too")
        self._config = PeerConfig() if config is None else of_type("config", config, PeerConfig)
        self._home = Home(host, port, advertise, self._proxies or self._gossips or ())
        if not callable(network):
            raise TypeError(f"network must make a network of a PeerConfig, not {network!r}")
        member_of = frozenset(several_texts("groups", groups))
        for group in member_of:
            check_name("group", group)
        info = PeerInfo(
            id=uuid4() if id is None else of_type("id", id, UUID),
            endpoint="",
            name=of_type("name", name, str),
            headers=text_pairs("headers", {} if headers is None else headers),
            groups=member_of,
            cluster=of_type("cluster", cluster, str),
            incarnation=time.time_ns() // 1_000_000,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self._me = Announce(info, _new_session(), started=info.incarnation)
        # Whether it fits is the caller's business, so it raises here; the endpoint has room of its own.
        encode(evolve(self._me, info=evolve(info, endpoint="tcp://127.0.0.1:1"), gossip="x" * 256 if gossip else ""))
        if gossip is not None and network is not ZmqNetwork:
            raise ValueError("a gossip node has sockets, which a network without them does not reach")
        if embed:
            if network is not ZmqNetwork:
                raise ValueError("embed hosts a proxy on sockets, which a network without them does not reach")
            Proxy(self._proxies[0])  # raises if it could be none
        self._embedded = EmbeddedProxy(self._proxies[0]) if embed else None
        self._gossip: Gossip | None = None
        self._relay: GossipRelay | None = None
        self._names = Names(None if hosts is None else HostsFile(hosts), self._config.hosts_interval)
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
        self._rival: PeerInfo | None = None
        self._thread = 0
        self._loop: anyio.lowlevel.EventLoopToken | None = None
        self._publisher: Publisher | None = None
        self._take: Callable[[str, bytes, bool], bool] = _take_nothing
        self._groups = Counter(member_of)
        self._services = Services(self._config.stream_capacity, self._offer)
        self._requests: Requests | None = None
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
    def proxies(self) -> Mapping[Endpoint, bool]:
        """The well-known endpoints, as they were given, and whether the proxy there relays us now: a `ProxyFound`, and
        no `ProxyLost` since. None does before the block is entered, and after it."""
        relays = () if self._driver is None or self._is_closed else self._driver.core.relays
        found = {relay.proxy for relay in relays if relay.was_found}
        return MappingProxyType({proxy: proxy in found for proxy in self._proxies})

    @property
    def hosts_proxy(self) -> bool:
        """Whether the embedded proxy runs in this process now, see ``embed``."""
        return self._embedded is not None and self._embedded.is_host

    @property
    def dropped(self) -> Mapping[Drop, int]:
        """How often something from the network was dropped, by reason; read-only."""
        return self._drops

    @property
    def gossip(self) -> Gossip | None:
        """Our gossip node, for tuples of your own, too; ``None`` without ``gossip``, and before the block is entered.

        Keys that begin with ``zdisco/`` are ours.
        """
        return self._gossip

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
        if error is None and self._rival is not None:
            raise IdentityConflict(self._rival)

    async def _open(self) -> None:
        if self._embedded is not None:
            await self._embedded.start()
        self._network = self._new_network(self._config)
        self._data, endpoint = await self._home.open(self._network)
        self._me = evolve(self._me, info=evolve(self._me.info, endpoint=endpoint))
        for proxy in self._proxies:
            self._channels.append(self._network.proxy_channel(proxy))
        if self._gossips is not None:
            self._channels.append(await self._open_gossip(self._data.endpoint, endpoint, self._gossips))
        self._driver = driver = Driver(
            self._me, self._config, self._data, self._channels, self._network, self._home, self._tell, self._observe
        )
        self._drops = driver.drops
        if self._relay is not None:
            driver.move_gossip = self._relay.move
        self._names.open(driver)
        self._publisher = Publisher(driver, self._config, lambda: self._staying)
        self._take = self._publisher.take
        driver.flush = self._publisher.flush
        driver.receive(InboxStream(direct_topic(self.id) + b"\0", self._services.inbox))
        post = Post(driver)
        self._services.open(post)
        self._services.built_in = {SERVICE: lambda: encode_row(self.links())}
        self._requests = requests = Requests(post, self._me.session, lambda: tuple(driver.core.joined.values()))
        driver.inbox = {
            Kind.REQUEST: self._services.requested,
            Kind.REPLY: requests.replied,
        }
        self._background = Background(driver.run, self._shut)
        await self._background.start()

    async def _open_gossip(self, bound: Endpoint, announced: Endpoint, known: Sequence[Endpoint]) -> GossipRelay:
        """Start our gossip node; announce it at the address at which we announce the data channel."""
        bind = self._gossip_bind or any_port(bound)
        node = Gossip(bind, connect=known, id=uuid4())
        await node.__aenter__()
        self._gossip = node
        endpoint = beside(announced, node.endpoints[0])
        self._me = evolve(self._me, gossip=endpoint)
        assert self._network is not None
        self._relay = GossipRelay(node, endpoint, known, self._config, self._announced, self._network.resolve)
        return self._relay

    def _announced(self) -> Mapping[UUID, Announce]:
        """What the joined peers announce."""
        return {} if self._driver is None else self._driver.core.roster.announces

    async def _close(self) -> None:
        try:
            if self._background is not None:
                await self._background.stop()
        finally:
            self._shut()
            try:
                # Not within a scope of ours: on trio its tasks are children of a scope that was opened outside it.
                if self._gossip is not None:
                    await self._gossip.__aexit__(None, None, None)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._close_network()
                    if self._embedded is not None:
                        await self._embedded.stop()

    def _shut(self) -> None:
        """Let nobody use us, or wait for us, any more."""
        self._is_closed = True
        if self._publisher is not None:
            self._publisher.close()
        driver, self._driver = self._driver, None
        if driver is not None and driver.rival is not None:
            self._rival = driver.rival
            logger.error("%s", self._why_closed())
        self._end_requests("is not open")
        self._services.end()
        self._names.close()
        streams: list[Stream[Any]] = [*self._event_streams, *self._monitor_streams]
        if driver is not None:
            streams += driver.messages
        for stream in streams:
            stream._end()
        for channel in self._channels:
            channel.close()
        if self._data is not None:
            self._data.rouse()
        if driver is not None:
            self._me = driver.core.me
            driver.close()

    def _end_requests(self, state: str) -> None:
        """Answer what we still can as failed, and wait for no answer."""
        self._services.close(state)
        if self._requests is not None:
            self._requests.close(state)

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
        announce, publish and subscribe no more, nobody joins us, and requests in both directions
        have failed; leaving the block closes the rest.

        Raises:
            FarewellTimeout: If a farewell did not come back within ``farewell_timeout`` seconds.
            ClosedError: If the peer is not open, or is closed meanwhile.

        Cancellation: safe. The farewell has been sent once; nobody waits for its echo.
        """
        driver = self._opened
        self._publishing.close()
        self._end_requests("is leaving")
        driver.feed(driver.core.leave(anyio.current_time()))
        driver.data.rouse()
        with anyio.move_on_after(self._config.farewell_timeout):
            while driver.core.unheard_farewells and not driver.is_closed:
                await driver.changed()
        if driver.is_closed:
            raise self._why_closed()
        if unheard := driver.core.unheard_farewells:
            raise FarewellTimeout(self._config.farewell_timeout, tuple(sorted(unheard)))

    def _why_closed(self) -> ClosedError:
        return ClosedError("peer") if self._rival is None else IdentityConflict(self._rival)

    @property
    def _opened(self) -> Driver:
        if self._driver is None:
            raise self._why_closed()
        if self._thread != threading.get_ident() or self._loop is None or not runs_in(self._loop):
            raise RuntimeError(_ELSEWHERE)
        return self._driver

    @property
    def _staying(self) -> Driver:
        driver = self._opened
        if driver.core.stage is not Stage.STARTED:
            raise ClosedError("peer", "is leaving")
        return driver

    @property
    def _publishing(self) -> Publisher:
        if self._publisher is None:
            raise ClosedError("peer")
        return self._publisher

    def links(self) -> tuple[LinkInfo, ...]:
        """What we know of the link to each peer, in the order of their names: of those that are only announced, too.

        Raises:
            ClosedError: If the peer is not open.
        """
        infos = self._opened.core.roster.infos(current_time())
        return tuple(sorted(infos, key=lambda info: (info.peer.name, info.peer.id)))

    async def reachability(self, timeout: float | None = None) -> Reachability:
        """Ask every joined peer for its own links: who reaches whom, and who does not.

        Args:
            timeout: Seconds for all together; ``request_timeout`` of the configuration unless given. Who has not
                answered by then, or is gone, is `Reachability.mute`.

        Raises:
            ClosedError: If the peer is not open, or is leaving, or is closed meanwhile.

        Cancellation: safe; answers that come later are dropped and counted.
        """
        requests, roster = self._asking, self._staying.core.roster
        asked = [peer for peer in self.peers.values() if roster.session_of(peer.id) is not None]
        rows: dict[UUID, tuple[LinkInfo, ...]] = {}
        for one in await requests.ask(asked, SERVICE, b"", self._seconds(timeout)):
            match one.outcome:
                case bytes(raw):
                    try:
                        rows[one.peer.id] = decode_row(raw)
                    except MalformedMessage as error:
                        self._opened.dropped(Drop.MALFORMED_CONTROL, error.reason)
                case ClosedError() as closed:
                    raise closed
        return reachability(self.me, self.links(), rows)

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
        if isinstance(event, ProxyFound | ProxyLost):
            if event.endpoint not in self._proxies:
                return  # our own gossip node
            if self._embedded is not None and event.endpoint == self._proxies[0]:
                self._embedded.want(isinstance(event, ProxyLost))
        if isinstance(event, PeerEvent) and self._requests is not None:
            self._requests.told(event)
            self._publishing.told(event)
            if self._relay is not None:
                self._relay.look()
            self._names.told(event)
        for stream in self._event_streams:
            stream._push([event])

    def _observe(self, event: MonitorEvent) -> None:
        for stream in self._monitor_streams:
            stream.offer(event)

    # Messages

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send a message to every other peer that subscribed to a prefix of ``topic``.

        A peer whose queue is full (``send_hwm`` messages) does not get it, and is told of the loss
        with the next message that it gets, or after ``tail_delay``; nobody else is held up.
        With ``overflow="wait"`` in the configuration this waits instead until every peer that the
        message is for has room. So one peer that stalls holds up all who publish what it
        subscribed to, until it reads again or its connection ends. Those who wait try again in the
        order in which they came.

        The first messages that are published in a turn of the event loop leave at once. Those of a flood
        share frames (``pack_size``), which leave at the end of the turn, at the latest 2 ms after its
        beginning if something is published then.

        Args:
            topic: Text without NUL.
            payload: Any bytes.
            retain: Keep it as the last value of the topic: whoever subscribes later gets it before
                what is published from the moment on when the subscription is in force. The
                ``max_retained`` latest such topics are kept, but no more than half of ``send_hwm``.

        Raises:
            TypeError: If ``topic`` is not text or ``payload`` not bytes.
            ValueError: If ``topic`` holds a NUL, or has more than 1024 bytes of UTF-8.
            ClosedError: If the peer is not open, or is leaving; also when that happens while this waits.

        Cancellation: safe; the message has been sent, or has not. One that was still waiting has not.
        """
        if not self._take(topic, payload, retain):
            await self._publishing.publish(topic, payload, retain)

    def publish_nowait(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """The same for who is not in a coroutine: callbacks of the event loop, for example.

        It lets nobody else run; whoever publishes much prefers `publish`.

        Returns:
            Whether it was sent. It always is, unless ``overflow="wait"`` would make `publish` wait.

        Raises:
            TypeError: If ``topic`` is not text or ``payload`` not bytes.
            ValueError: If ``topic`` holds a NUL, or has more than 1024 bytes of UTF-8.
            ClosedError: If the peer is not open, or is leaving.
        """
        return self._publishing.publish_nowait(topic, payload, retain)

    async def publish_many(self, topic: str, payloads: Iterable[bytes]) -> None:
        """Publish many messages of one topic, for less than `publish` costs.

        Args:
            topic: Text without NUL.
            payloads: Any bytes, message by message.

        Raises:
            TypeError: If ``topic`` is not text or one of the payloads not bytes; those before it have been sent.
            ValueError: If ``topic`` holds a NUL, or has more than 1024 bytes of UTF-8.
            ClosedError: If the peer is not open, or is leaving.

        Cancellation: safe; some of the messages have been sent, the first ones, others have not.
        """
        await self._publishing.publish_many(topic, payloads)

    def forget_retained(self, topic: str) -> bool:
        """Keep the last value of a topic no longer; returns whether there was one.

        Raises:
            ClosedError: If the peer is not open.
        """
        return self._opened.core.roster.publications.release(topic)

    @overload
    def subscribe(
        self,
        topic: str,
        *,
        exact: bool = False,
        glob: bool = False,
        capacity: int | None = None,
        overflow: StreamOverflow | str = StreamOverflow.DROP_OLDEST,
        losses: Literal[False] = False,
    ) -> Subscription[Message]: ...

    @overload
    def subscribe(
        self,
        topic: str,
        *,
        exact: bool = False,
        glob: bool = False,
        capacity: int | None = None,
        overflow: StreamOverflow | str = StreamOverflow.DROP_OLDEST,
        losses: Literal[True],
    ) -> Subscription[Received]: ...

    def subscribe(
        self,
        topic: str,
        *,
        exact: bool = False,
        glob: bool = False,
        capacity: int | None = None,
        overflow: StreamOverflow | str = StreamOverflow.DROP_OLDEST,
        losses: bool = False,
    ) -> Subscription[Any]:
        """Messages whose topic begins with ``topic``; the empty one is for all.

        Use it with ``async with``: once entered, the subscription is in force at every peer that
        relies on us, and a peer that joins later has it before it is joined. A peer that hangs
        holds the entering up for ``suspect_timeout`` at the most.

        From then on each message is received or its loss is told: as `MessagesLost` among the
        `events`, and as the numbers ``lost`` (on the way) and ``dropped`` (here, because the reader
        was too slow) of the subscription.

        Args:
            topic: Text without NUL.
            exact: Only messages of just this topic.
            glob: ``topic`` is a pattern for the whole topic: ``*`` stands for any text, dots too, ``?``
                for one character, ``[abc]`` for one of these. What is before the first of them is
                subscribed to, the rest is looked at here.
            capacity: Messages that may wait for the reader; ``stream_capacity`` unless given.
            overflow: What goes when more come.
            losses: The stream yields a `MessagesLost` where messages are missing, too.

        Raises:
            TypeError: If ``topic`` is not text.
            ValueError: If ``topic`` holds a NUL, or has more than 1024 bytes of UTF-8; if it is said to be both
                exact and a pattern; if ``capacity`` or ``overflow`` is none.
        """
        raw = check_topic(topic)
        if exact and glob:
            raise ValueError("a topic is either exact or a pattern")
        accepts = None
        if glob:
            raw, accepts = check_topic(literal_prefix(topic)), glob_pattern(topic)
        size = self._config.stream_capacity if capacity is None else positive_number("capacity", capacity)
        policy = StreamOverflow(overflow)
        return Subscription(self, raw + b"\0" if exact else raw, size, policy, tells=losses, accepts=accepts)

    async def _subscribe(self, stream: Subscription[Any], prefix: bytes) -> None:
        driver = self._staying
        interest, outputs = driver.core.roster.subscribe(prefix)
        driver.messages.add(stream, interest)
        stream._lead = driver.data.lead
        driver.perform(outputs)
        await driver.in_force(interest.since)
        if driver.is_closed:
            raise self._why_closed()

    def _unsubscribe(self, stream: Subscription[Any]) -> None:
        if (driver := self._driver) is not None:
            driver.perform(driver.core.roster.unsubscribe(driver.messages.remove(stream)))

    # What we say of ourselves

    async def update(self, *, headers: Mapping[str, str]) -> None:
        """Announce other headers, in the place of all that were announced before.

        Every peer that is linked with us is told `PeerUpdated`, directly and through the proxies,
        so it works while they are gone; who comes later learns the newest. `me` has them at once.
        Where nothing changes, nothing is announced.

        Args:
            headers: Text to text.

        Raises:
            TypeError: If ``headers`` does not map text to text.
            AnnounceTooLarge: If they do not fit into one announce; then nothing has changed.
            ValueError: If a text cannot be UTF-8; likewise.
            ClosedError: If the peer is not open, or is leaving.

        Cancellation: safe; it has been announced, or nothing has changed.
        """
        pairs = text_pairs("headers", headers)
        await anyio.lowlevel.checkpoint()
        driver = self._staying
        driver.feed(driver.core.update(headers=pairs))

    def _offer(self, services: frozenset[str]) -> None:
        if self._driver is not None:
            self._driver.feed(self._driver.core.update(services=services))

    def _count_member(self, group: str, step: int) -> None:
        """Announce what we are a member of after one more, or one less, user of a group."""
        groups = self._groups + Counter({group: step}) if step > 0 else self._groups - Counter({group: 1})
        if self._driver is not None:
            self._driver.feed(self._driver.core.update(groups=groups))
        self._groups = groups

    # Groups

    def join(self, group: str) -> Subscription[Message]:
        """Be a member of a group: read what is published to it, and be announced as a member.

        Use it with ``async with``. Once entered, the messages of every peer that relies on us
        arrive, as with `subscribe`; only then the membership is announced, so whoever sees us among
        the members reaches us. The membership ends with the last block of the group, unless the
        group was given to the constructor. Who joins and leaves is told as `PeerJoined`,
        `PeerUpdated` and `PeerGone`, see ``groups`` of their peer.

        Entering raises `AnnounceTooLarge` if one more group does not fit into our announce, and
        `ClosedError` if the peer is not open, or is leaving. Cancelling it is safe: then we are no member.

        Args:
            group: Its name: text without NUL, not empty.

        Raises:
            TypeError: If ``group`` is not text.
            ValueError: If ``group`` is empty, holds a NUL, or has more than 1024 bytes of UTF-8.
        """
        return _Membership(self, group, group_topic(group) + b"\0", self._config.stream_capacity)

    def members(self, group: str) -> Mapping[UUID, PeerInfo]:
        """The joined peers that are members of a group now, by id, ourselves not among them; read-only."""
        return MappingProxyType({id: peer for id, peer in self.peers.items() if group in peer.groups})

    async def publish_group(self, group: str, payload: bytes) -> None:
        """Send a message to all members of a group that have joined it; we need not be one.

        A subscription to topics, even to all of them, does not get it. A peer whose queue is full
        (``send_hwm`` messages) does not get it; nobody else is held up.

        Args:
            group: Its name: text without NUL, not empty.
            payload: Any bytes.

        Raises:
            TypeError: If ``group`` is not text or ``payload`` not bytes.
            ValueError: If ``group`` is empty, holds a NUL, or has more than 1024 bytes of UTF-8.
            ClosedError: If the peer is not open, or is leaving.

        Cancellation: safe; the message has been sent, or has not.
        """
        await self._publishing.publish_group(group, payload_bytes(payload))

    # Names

    def register(self, name: str, *endpoints: Endpoint) -> AbstractAsyncContextManager[None]:
        """Let others find endpoints, of whatever sockets, under a name.

        Use it with ``async with``: when the block is entered, the announce with the name has gone out to
        all; when it is left, another one without it. If our process ends before, the name leads there no
        longer as soon as the others are told `PeerGone`. Any number of peers, and of blocks in one, may
        register the same name; it leads to all their endpoints.

        Entering raises `AnnounceTooLarge` if no more fits into our announce, and `ClosedError` if the peer is
        not open, or is leaving. Cancelling it is safe: then nothing is registered.

        Args:
            name: Text without NUL, not empty, at most 255 bytes of UTF-8.
            endpoints: What others connect to, one at least, the best first: ``tcp://host:port``, or
                ``ipc:///path``, which leads there from this machine only, as a loopback address does. A
                host that means all interfaces, as in the ``LAST_ENDPOINT`` of a socket that is bound to
                ``tcp://*:6000``, stands for that of our data channel, also when it moves.

        Raises:
            TypeError: If an argument is not text.
            ValueError: If ``name`` could be none, or no endpoint is given.
            InvalidEndpoint: If nobody could connect to an endpoint.
        """
        check_registered(name)
        if not endpoints:
            raise ValueError(f"the name {name!r} is registered for an endpoint, or several")
        return Registration(self._names, lambda: self._staying, name, [announced(endpoint) for endpoint in endpoints])

    @property
    def names(self) -> Mapping[str, tuple[Endpoint, ...]]:
        """All names that lead anywhere now, in their order, each with its endpoints, the best first; read-only.

        Those in the hosts file, and those that the peers that are there have registered, ourselves and
        suspect ones too. See `resolve`.
        """
        return self._names.known()

    async def resolve(self, name: str, *, timeout: float | None = None) -> Endpoint:
        """Find the endpoint to connect to for a name, or wait until there is one.

        Where the hosts file has one to connect to, it is the first of those. Else it is one that a peer has
        registered, if need be ourselves: of a peer that is not suspect rather than of one that is, then of
        the one that was started first. So all peers that see the same choose the same, and go on to the same
        next one when it is gone.

        Args:
            name: The name.
            timeout: Seconds to wait at the most; 0: only what is known now; not given: as long as it takes.

        Raises:
            UnknownName: If it led nowhere in time.
            TypeError: If an argument is of the wrong type.
            ValueError: If ``name`` could be none.
            ClosedError: If the peer is not open, or is closed meanwhile.

        Cancellation: safe.
        """
        check_registered(name)
        seconds = None if timeout is None else timeout_seconds(timeout)
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(seconds):
            while True:
                driver = self._opened
                if found := self._names.endpoints(name):
                    return found[0]
                await driver.changed()
        raise UnknownName(name, 0.0 if seconds is None else seconds)

    def bind_endpoint(self, name: str) -> Endpoint:
        """What the hosts file says that the program which serves a name binds.

        Raises:
            UnknownName: If it does not say it, or there is none.
            TypeError: If ``name`` is not text.
            ValueError: If it could be no name.
        """
        check_registered(name)
        return self._names.bound(name)

    def watch(self, name: str) -> Stream[tuple[Endpoint, ...]]:
        """All endpoints that a name leads to, the best first: those of now, and all of them again at each change.

        The first of them is what `resolve` returns; none is an empty tuple. A reader that is slow gets the
        newest only. May be called before the block is entered. Ends when the peer is closed.

        Args:
            name: The name.

        Raises:
            TypeError: If ``name`` is not text.
            ValueError: If it could be no name.
        """
        check_registered(name)
        return self._names.watch(name)

    # Messages to one peer, and requests

    async def send(self, to: UUID | PeerInfo, payload: bytes) -> None:
        """Send a message to one joined peer, which reads it from its `inbox`.

        Messages to one peer arrive in the order in which they were sent. If its queue is full
        (``send_hwm`` messages) it does not get this one, and is told of the loss; with
        ``overflow="wait"`` this waits until it has room.

        Args:
            to: The peer, or its id.
            payload: Any bytes.

        Raises:
            TypeError: If ``to`` is neither, or ``payload`` is not bytes.
            UnknownPeer: If no such peer is joined (one that is suspect is not), or it is a classic one.
            ClosedError: If the peer is not open, or is leaving.

        Cancellation: safe; the message has been sent, or has not.
        """
        id, raw = _peer_id(to), payload_bytes(payload)
        await self._publishing.publish_to(id, raw)

    def inbox(self) -> Stream[Message]:
        """The messages that others `send` to us alone; their ``topic`` is empty.

        Each reader gets all that comes from the call on. What comes while nobody reads, from the
        entry of the block on, waits for the next call. A reader that is more than
        ``stream_capacity`` messages behind loses the oldest; ``dropped`` counts them. What is lost on the
        way is told by `MessagesLost` among the `events`, with an empty topic. May be called before the
        block is entered. Ends when the peer is closed.
        """
        return self._services.inbox.reader()

    async def request(
        self, to: UUID | PeerInfo | str, payload: bytes, *, timeout: float | None = None, service: str = ""
    ) -> bytes:
        """Ask one peer, and wait for its answer. Any number may be under way at the same time.

        A request to a peer is read from its `requests`; with the name of a service it is answered
        by what that peer runs with `serve`. Without a peer, one of the joined peers that offer the
        service is asked, each in turn; never ourselves.

        It is sent once. If a queue on the way is full (``send_hwm`` messages), it, or its answer, is
        lost without notice: then the timeout tells. After an error other than `NoResponder` and
        `UnknownPeer` the request may or may not have been carried out.

        Args:
            to: The peer, or its id, or the name of a service.
            payload: Any bytes.
            timeout: Seconds; ``request_timeout`` of the configuration unless given.
            service: The service of the peer that is to answer, where ``to`` is a peer.

        Returns:
            The payload of the answer.

        Raises:
            UnknownPeer: If no such peer is joined (one that is suspect is not), or it is a classic one.
            NoResponder: If no joined peer offers the service.
            ResponderGone: As soon as the peer that was asked is gone.
            RequestFailed: If it answered that it failed, or that it does not serve this.
            TimeoutError: If there was no answer in time.
            TypeError: If an argument is of the wrong type.
            ValueError: If a name could be none, or two services are named.
            ClosedError: If the peer is not open, or is leaving, or is closed meanwhile.

        Cancellation: safe. The request is forgotten; the responder is not told, and its answer is
        dropped and counted.
        """
        raw, seconds = payload_bytes(payload), self._seconds(timeout)
        if isinstance(to, str):
            if service:
                raise ValueError(f"a request names one service, not {to!r} and {service!r}")
            check_name("service", to)
            requests = self._asking
            peer, service = requests.next_offer(to), to
        else:
            if service != "":
                check_name("service", service)
            id = _peer_id(to)
            requests = self._asking
            found = self._staying.core.joined.get(id)
            if found is None:
                raise UnknownPeer(id)
            peer = found
        (asked,) = await requests.ask((peer,), service, raw, seconds)
        return answer(asked, seconds)

    async def request_many(self, service: str, payload: bytes, *, timeout: float | None = None) -> list[Reply]:
        """Ask all joined peers that offer a service, and wait until each has answered, is gone, or is out of time.

        Args:
            service: Its name.
            payload: Any bytes.
            timeout: Seconds for all together; ``request_timeout`` of the configuration unless given.

        Returns:
            One `Reply` for each peer that was asked.

        Raises:
            NoResponder: If no joined peer offers the service.
            TypeError: If an argument is of the wrong type.
            ValueError: If ``service`` could be no name.
            ClosedError: If the peer is not open, or is leaving, or is closed meanwhile.

        Cancellation: safe. The requests are forgotten; answers are dropped and counted.
        """
        raw, seconds = payload_bytes(payload), self._seconds(timeout)
        check_name("service", service)
        requests = self._asking
        asked = await requests.ask(requests.offers(service), service, raw, seconds)
        return [reply(one, seconds) for one in asked]

    def _seconds(self, timeout: float | None) -> float:
        return self._config.request_timeout if timeout is None else timeout_seconds(timeout)

    @property
    def _asking(self) -> Requests:
        self._staying  # noqa: B018  raises if nobody can be asked
        assert self._requests is not None
        return self._requests

    def requests(self) -> Stream[Request]:
        """The requests to this peer that name no service, each to be answered with its `Request.reply`.

        Several readers share them: each request goes to one. What comes while nobody reads, from the
        entry of the block on, waits for a reader. When more than ``stream_capacity`` wait, the oldest
        are answered as failed; ``dropped`` counts them. May be called before the block is entered.
        Ends when the peer is closed.
        """
        return self._services.requests.reader()

    def serve(self, service: str, handler: Handler, *, limit: int | None = None) -> Service:
        """Offer a service: answer each request to it with what ``await handler(request)`` returns.

        Use it with ``async with``: the service is announced when it can answer, and served until the
        block is left. What the handler raises reaches the requester as `RequestFailed`, with its type
        and text, and is logged here. More than ``limit`` requests wait; more than ``stream_capacity``
        of those fail. A request whose sender is gone before its turn is not begun.

        When the block is left, or the peer leaves, the service is no longer announced, what is not
        answered is answered as failed, and handlers are cancelled; leaving waits until they have
        ended. On asyncio the block may be left in another task than the one that entered it.

        Args:
            service: Its name: text without NUL, not empty.
            handler: Called with each `Request`; returns the payload of the answer. It runs in one of
                ``limit`` tasks, which are used again.
            limit: Requests that it works on at the same time; ``serve_limit`` of the configuration unless given.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If ``service`` is empty, holds a NUL, has more than 1024 bytes of UTF-8 or begins with
                ``"zdisco."``, or ``limit`` is less than 1.
        """
        check_name("service", service)
        if service.startswith(_OURS):
            raise ValueError(f"services whose names begin with {_OURS!r} are those of zdisco, not {service!r}")
        if not callable(handler):
            raise TypeError(f"handler must take a request and return an awaitable, not be {handler!r}")
        most = self._config.serve_limit if limit is None else of_type("limit", limit, int)
        if most < 1:
            raise ValueError(f"limit must be at least 1, not {most}")
        return Service(self._services, lambda: self._staying, service, handler, most)


class Subscription(MessageStream[M]):
    """The messages of one subscription: ``async with`` makes it, ``async for`` reads it."""

    def __init__(
        self,
        peer: Peer,
        prefix: bytes,
        capacity: int,
        overflow: StreamOverflow,
        *,
        tells: bool,
        accepts: Callable[[str], bool] | None,
    ) -> None:
        super().__init__(prefix, capacity, overflow, tells=tells, accepts=accepts)
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
            self._peer._unsubscribe(self)
        self._end()


class _Membership(Subscription[Message]):
    """The messages of one group, and our membership in it."""

    def __init__(self, peer: Peer, group: str, prefix: bytes, capacity: int) -> None:
        super().__init__(peer, prefix, capacity, StreamOverflow.DROP_OLDEST, tells=False, accepts=None)
        self._group = group
        self._is_member = False

    async def __aenter__(self) -> Self:
        """Subscribe, wait until it is in force at every peer that relies on us, then announce the membership.

        Raises:
            AnnounceTooLarge: If no more fits into the announce of the peer.
            ClosedError: If the peer is not open, or is leaving, or this block was entered before.

        Cancellation: safe; then we are no member.
        """
        await super().__aenter__()
        try:
            self._peer._count_member(self._group, 1)
        except BaseException:
            self._unregister()
            raise
        self._is_member = True
        return self

    def _unregister(self) -> None:
        if self._is_member:
            self._is_member = False
            self._peer._count_member(self._group, -1)
        super()._unregister()


class _SocketEvents(Stream[MonitorEvent | EventsDropped]):
    """The socket events of a peer, as far as a mask lets them through."""

    def __init__(self, mask: SocketEvent, capacity: int) -> None:
        super().__init__(capacity, EventsDropped)
        self._mask = mask

    def offer(self, event: MonitorEvent) -> None:
        if event.event & self._mask:
            self._push([event])


def _take_nothing(_topic: str, _payload: bytes, _retain: bool) -> bool:
    return False


def _peer_id(to: object) -> UUID:
    if isinstance(to, PeerInfo):
        return to.id
    if not isinstance(to, UUID):
        raise TypeError(f"a peer is given by its PeerInfo or its id, not by {to!r}")
    return to


def _new_session() -> bytes:
    while (session := secrets.token_bytes(4)) == NO_SESSION:
        pass
    return session
