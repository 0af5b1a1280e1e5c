"""A network in memory, for tests: no sockets, no threads, no time but the event loop's.

::

    net = MemoryNetwork()
    async with net.proxy("tcp://127.0.0.1:5555"), Peer("tcp://127.0.0.1:5555", network=net) as peer:
        ...

It runs on asyncio and on trio. On a clock that jumps, that of `new_jumping_loop` or trio's
``MockClock(autojump_threshold=0)``, a wait of seconds costs nothing.

Rule 1: it does what libzmq does. A connection has one direction; it replays the subscriptions
in byte order when it comes up, later ones follow in call order; a frame goes only where a
prefix of it is in force when it is sent, and arrives in order.

Rule 2: nothing is told in the call that caused it. Whatever travels goes into the mailbox of its
receiver, who reads it in a later step of its own `run`.

Rule 3: what was sent before a process died or closed still arrives; what a cut connection
carried is lost.
"""

from __future__ import annotations

import errno
import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
from attrs import define, field

from ._channels import DataChannel, DataListener, Network, ProxyChannel, ProxyListener
from ._core.config import PeerConfig
from ._core.endpoints import TcpEndpoint, numeric, parse
from ._core.envelope import PACK_LIMIT, inbox
from ._core.errors import BindError, ClosedError, InvalidEndpoint, MalformedMessage
from ._core.model import Endpoint, Overflow, Probe
from ._core.wire import Welcome, decode, encode
from ._loops import current_time
from ._peer import Peer
from ._turns import Turns
from ._zmq.monitor import MonitorEvent, SocketEvent

if TYPE_CHECKING:
    import asyncio

__all__ = ["MemoryNetwork", "MemoryProxy", "new_jumping_loop"]

_PROXY = "tcp://127.0.0.1:5555"

_BATCH = 256
"""What a mailbox hands out before it lets others run."""
_FIRST_PORT = 40_001
_LAST_PORT = 65_535
_LOOPBACK = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "[::]")
_SUBSCRIBE, _UNSUBSCRIBE = b"\x01", b"\x00"
"""The first byte of a subscription and of its end, before the topic (ZMTP 3.0)."""


class MemoryNetwork:
    """Peers and proxies that reach each other in one process, and what can go wrong between them.

    Give it to each peer as ``network``. Use it in one event loop.

    Args:
        latency: Seconds that a hop takes, or a function that returns them anew for each hop.
            However long, what goes over one connection arrives in order.
    """

    def __init__(self, *, latency: float | Callable[[], float] = 0.0) -> None:
        self._latency = latency
        self._servers: dict[Endpoint, _Server] = {}
        self._cuts: set[frozenset[_Site]] = set()
        self._port = _FIRST_PORT
        self._started: tuple[datetime, float] | None = None

    def __call__(self, config: PeerConfig) -> Network:
        """The network of one more peer."""
        return _PeerNetwork(self, config)

    def proxy(self, endpoint: Endpoint = _PROXY) -> MemoryProxy:
        """Make a proxy; use it with ``async with``. A port ``*`` or ``0`` picks a free one.

        To restart a proxy, stop it and make another one at the same endpoint.

        Raises:
            InvalidEndpoint: If the endpoint is not of the form ``tcp://host:port``.
        """
        return MemoryProxy(self, endpoint)

    @asynccontextmanager
    async def peers(self, *names: str, proxy: Endpoint = _PROXY, **arguments: Any) -> AsyncIterator[list[Peer]]:
        """Peers of which each has joined all others; use it with ``async with``.

        ::

            async with net.peers("seller", "buyer") as (seller, buyer):
                ...

        Args:
            names: A name for each peer.
            proxy: The well-known endpoint of their proxy, which is started if none runs there.
            arguments: What else each `Peer` gets.

        Raises:
            TimeoutError: If they have not all joined each other within ``discovery_timeout`` seconds.

        Cancellation: safe; nothing stays open.
        """
        async with AsyncExitStack() as stack:
            if (server := self._server(proxy)) is None or not server.is_open:
                await stack.enter_async_context(self.proxy(proxy))
            peers = [
                await stack.enter_async_context(Peer(proxy, name=name, network=self, **arguments)) for name in names
            ]
            for peer in peers:
                await _wait_for_all(peer, {other.id for other in peers if other is not peer})
            yield peers

    def kill(self, who: Endpoint | MemoryProxy | Peer) -> None:
        """Let a process die: it says no farewell, and its endpoint refuses from now on.

        What it had sent still arrives. The object of a killed peer stays usable: it sees all its
        connections break and none come back, so leaving its block does not take long.

        Args:
            who: A peer, the endpoint of its data channel, or a proxy.

        Raises:
            ValueError: If nobody is, or was, at that endpoint.
        """
        site = self._find(who)
        site.is_alive = False
        for server in [server for server in self._servers.values() if server.site is site]:
            server.is_open = False
        for connection in self._connections(lambda connection: site in connection.sites):
            connection.end()

    def cut(self, one: Endpoint | MemoryProxy | Peer, other: Endpoint | MemoryProxy | Peer) -> None:
        """Take the way between two processes away: connections break, attempts fail, probes get no answer.

        Raises:
            ValueError: If nobody is, or was, at one of the endpoints.
        """
        pair = frozenset((self._find(one), self._find(other)))
        self._cuts.add(pair)
        for connection in self._connections(lambda connection: connection.sites == pair):
            connection.waiting.clear()
            connection.end()

    def heal(self, one: Endpoint | MemoryProxy | Peer, other: Endpoint | MemoryProxy | Peer) -> None:
        """Give the way between two processes back; they connect at their next attempt.

        Raises:
            ValueError: If nobody is, or was, at one of the endpoints.
        """
        self._cuts.discard(frozenset((self._find(one), self._find(other))))

    def _find(self, who: Endpoint | MemoryProxy | Peer) -> _Site:
        if isinstance(who, MemoryProxy):
            return who._site
        endpoint = who if isinstance(who, str) else who.me.endpoint
        server = self._server(endpoint)
        if server is None:
            raise ValueError(f"nobody was ever at {endpoint}")
        return server.site

    def _connections(self, wanted: Callable[[_Connection], bool]) -> list[_Connection]:
        return [
            connection for server in self._servers.values() for connection in server.connections if wanted(connection)
        ]

    # For the channels

    def _delay(self) -> float:
        return self._latency() if callable(self._latency) else self._latency

    def _server(self, endpoint: Endpoint) -> _Server | None:
        """Who listens there, or did last."""
        if (server := self._servers.get(endpoint)) is not None:
            return server
        port = endpoint.rpartition(":")[2]
        everywhere = (self._servers.get(f"tcp://{host}:{port}") for host in _EVERYWHERE)
        return next((server for server in everywhere if server is not None), None)

    def _look(self, site: _Site, endpoint: Endpoint) -> Probe:
        """What an attempt to connect comes to."""
        server = self._server(endpoint)
        if not site.is_alive or (server is not None and frozenset((site, server.site)) in self._cuts):
            return Probe.UNDECIDED
        return Probe.REFUSED if server is None or not server.is_open else Probe.ACCEPTED

    def _bind(self, host: str, port: int, site: _Site, hwm: int) -> _Server:
        while not port:
            candidate, self._port = self._port, _FIRST_PORT if self._port == _LAST_PORT else self._port + 1
            old = self._servers.get(str(TcpEndpoint(host, candidate)))
            port = candidate if old is None or not old.is_open else 0
        endpoint = str(TcpEndpoint(host, port))
        if (old := self._server(endpoint)) is not None and old.is_open:
            raise BindError(endpoint, errno.EADDRINUSE, "address already in use")
        server = self._servers[endpoint] = _Server(self, site, endpoint, hwm)
        return server

    def _event(self, socket: str, event: SocketEvent, value: int, endpoint: Endpoint) -> MonitorEvent:
        now = current_time()
        if self._started is None:
            self._started = datetime.now(UTC), now
        # Wall-clock time that goes on at the pace of the loop's clock, which a test may turn.
        at = self._started[0] + timedelta(seconds=now - self._started[1])
        return MonitorEvent(at, socket, event, value, endpoint)


async def _wait_for_all(peer: Peer, others: set[UUID]) -> None:
    await peer.wait_for(lambda joined: others <= joined.keys(), timeout=peer._config.discovery_timeout)


def new_jumping_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop of asyncio whose clock jumps to the next deadline when nothing else can happen.

    It is a loop factory: for ``asyncio.Runner``, for pytest-asyncio's hook
    ``pytest_asyncio_loop_factories``, and as the option ``loop_factory`` of anyio's asyncio backend.

    The clock stands still while code runs. It jumps when every task waits, and nothing outside the
    loop can wake one: no socket or pipe is watched, and neither the loop nor anyio runs anything in
    a thread or a process. As long as one of these is there, the loop waits in real time. What it
    cannot see is a thread that you start yourself; the clock jumps while that works.
    """
    from ._jumping import JumpingLoop  # noqa: PLC0415  asyncio is not for programs on trio

    return JumpingLoop()


@define(eq=False)
class _Site:
    """One process."""

    is_alive: bool = True


class _Mailbox:
    """What is on its way to one end, in the order of its arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self._arrived: anyio.Event | None = None

    def put(self, at: float, what: Callable[..., None], *arguments: object) -> None:
        """Call ``what`` at that time, in a later step than this one."""
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, what, arguments))
        if self._arrived is not None:
            self._arrived.set()

    async def run(self, settle: Callable[[], None]) -> None:
        """Hand out what arrives, until cancelled; ``settle`` is called after each batch."""
        while True:
            await anyio.lowlevel.checkpoint()
            self._hand_out()
            settle()
            await self._wait()

    def _hand_out(self) -> None:
        now, last = current_time(), self._serial
        for _ in range(_BATCH):
            # What came while this batch was handed out needs a step of its own.
            if not self._heap or self._heap[0][0] > now or self._heap[0][1] > last:
                break
            _, _, what, arguments = heapq.heappop(self._heap)
            what(*arguments)

    async def _wait(self) -> None:
        deadline = self._heap[0][0] if self._heap else float("inf")
        if deadline <= current_time():
            return
        self._arrived = anyio.Event()
        try:
            with anyio.CancelScope(deadline=deadline):
                await self._arrived.wait()
        finally:
            self._arrived = None


def _ignore(*_: object) -> None:
    pass


@define(eq=False)
class _Server:
    """A bound socket."""

    net: MemoryNetwork
    site: _Site
    endpoint: Endpoint
    hwm: int
    """Frames that wait for one subscriber before its queue is full."""
    accepted: Callable[[_Connection], None] = _ignore
    received: Callable[[_Connection, bytes, float], None] = _ignore
    """Called with each frame of a client when it is sent, and when it will arrive."""
    ended: Callable[[_Connection], None] = _ignore
    freed: Callable[[], None] = _ignore
    """Called when a queue may have got room."""
    connections: list[_Connection] = field(factory=list)
    is_open: bool = True

    def close(self) -> None:
        """Close the socket; what was sent still arrives."""
        self.is_open = False
        for connection in list(self.connections):
            connection.end()
        # The endpoint is remembered, its owner is not.
        self.accepted, self.received, self.ended, self.freed = _ignore, _ignore, _ignore, _ignore


@define(eq=False)
class _Connection:
    """One connection, from its acceptance to its end."""

    client: _Dialer
    server: _Server
    is_up: bool = True
    topics: tuple[bytes, ...] = ()
    """The subscriptions in force at the server."""
    waiting: deque[bytes] = field(factory=deque)
    """Frames that were sent and not read yet."""
    _inward: float = 0.0
    _outward: float = 0.0

    @property
    def sites(self) -> frozenset[_Site]:
        return frozenset((self.client.site, self.server.site))

    @property
    def is_full(self) -> bool:
        return len(self.waiting) >= self.server.hwm

    def send(self, frame: bytes, sent: float, room: int = 0) -> None:
        """From the server to the client; ``room`` is there for it when the queue is full."""
        if not self.is_up or len(self.waiting) >= self.server.hwm + room:
            return
        self.waiting.append(frame)
        self._inward = max(self._inward, sent + self.server.net._delay())
        self.client.mailbox.put(self._inward, self.client.read, self)

    def send_back(self, frame: bytes) -> None:
        """From the client to the server."""
        if self.is_up:
            self._outward = max(self._outward, current_time() + self.server.net._delay())
            self.server.received(self, frame, self._outward)

    def end(self) -> None:
        """End it; both sides hear of it."""
        if self.is_up:
            self.is_up = False
            self.server.connections.remove(self)
            self.server.ended(self)
            self.server.freed()
            at = current_time() + self.server.net._delay()
            self.client.mailbox.put(at, self.client.lost, self)


class _Dialer:
    """A connecting socket's side of one endpoint: tries, and tries again when the connection ends."""

    def __init__(
        self,
        net: MemoryNetwork,
        site: _Site,
        mailbox: _Mailbox,
        endpoint: Endpoint,
        config: PeerConfig,
        tell: Callable[[_Dialer, SocketEvent, int], None],
        arrived: Callable[[_Dialer, bytes], None],
        topics: Iterable[bytes] = (),
        stops_when_refused: bool = False,
    ) -> None:
        self.site = site
        self.mailbox = mailbox
        self.endpoint = endpoint
        self.connection: _Connection | None = None
        """The present connection, or the last one as long as its frames may be read."""
        self.is_up = False
        self._net = net
        self._config = config
        self._tell = tell
        self._arrived = arrived
        self._subscriptions = dict.fromkeys(topics)
        # libzmq fills the pipe of the next connection when the last one ends.
        self._pending = self._replay()
        self._stops_when_refused = stops_when_refused
        self._is_closed = False
        self._interval = config.reconnect_interval
        self._put(self._attempt)

    def _put(self, what: Callable[..., None], *arguments: object, after: float = 0.0) -> None:
        self.mailbox.put(current_time() + self._net._delay() + after, what, *arguments)

    def _attempt(self) -> None:
        if self._is_closed:
            return
        seen = self._net._look(self.site, self.endpoint)
        server = self._net._server(self.endpoint)
        if seen is not Probe.ACCEPTED or server is None:
            self._tell(self, SocketEvent.CLOSED, 0)
            if not (self._stops_when_refused and seen is Probe.REFUSED):
                self._retry()
            return
        self.connection = _Connection(self, server)
        server.connections.append(self.connection)
        self._put(self._shaken, self.connection)
        self._tell(self, SocketEvent.CONNECTED, 0)

    def _shaken(self, connection: _Connection) -> None:
        if connection is not self.connection or not connection.is_up:
            return
        self.is_up = True
        self._interval = self._config.reconnect_interval
        connection.server.accepted(connection)
        pending, self._pending = self._pending, []
        for frame in pending:
            connection.send_back(frame)
        self._tell(self, SocketEvent.HANDSHAKE_SUCCEEDED, 0)

    def lost(self, connection: _Connection) -> None:
        """The connection has ended."""
        if self._is_closed or connection is not self.connection:
            return
        self.is_up = False
        self._pending = self._replay()
        self._tell(self, SocketEvent.DISCONNECTED, 0)
        self._retry()

    def _retry(self) -> None:
        if self._is_closed:  # by the one who was told
            return
        interval = self._interval
        self._interval = min(2 * interval, self._config.reconnect_interval_max)
        self._put(self._attempt, after=interval)
        self._tell(self, SocketEvent.CONNECT_RETRIED, round(interval * 1000))

    def subscribe(self, topic: bytes, wanted: bool) -> None:
        """Add a subscription, or take it back."""
        if wanted:
            self._subscriptions[topic] = None
        else:
            self._subscriptions.pop(topic, None)
        frame = (_SUBSCRIBE if wanted else _UNSUBSCRIBE) + topic
        if self.is_up and self.connection is not None:
            self.connection.send_back(frame)
        else:
            self._pending.append(frame)

    def _replay(self) -> list[bytes]:
        return [_SUBSCRIBE + topic for topic in sorted(self._subscriptions)]

    def read(self, connection: _Connection) -> None:
        """Read one frame."""
        if connection.waiting and not self._is_closed:
            self._arrived(self, connection.waiting.popleft())
            connection.server.freed()

    def read_all(self) -> None:
        """Read what was sent, however far it is."""
        while self.connection is not None and self.connection.waiting:
            self.read(self.connection)

    def close(self) -> None:
        """Disconnect at once; what was not read is lost."""
        self._is_closed = True
        if self.connection is not None:
            self.connection.waiting.clear()
            self.connection.end()


class MemoryProxy:
    """A proxy of a `MemoryNetwork`: greets each new subscriber, and relays announces and farewells.

    It relays from entering the block until leaving it, or until `stop`, and is entered once.
    """

    def __init__(self, net: MemoryNetwork, endpoint: Endpoint) -> None:
        host, _, port = endpoint.rpartition(":")
        is_wildcard = port in ("*", "0")
        self._host = parse(f"{host}:{'1' if is_wildcard else port}").host
        self._port = 0 if is_wildcard else int(port)
        self._net = net
        self._site = _Site()
        self._servers: list[_Server] = []
        self._was_entered = False
        self.endpoint = endpoint
        """The well-known endpoint to give to peers, resolved once the block is entered."""
        self.relay: Endpoint = ""
        """The publish endpoint that the welcome names, from entering the block."""
        self.id: UUID = uuid4()
        """Tells one start of a proxy from another."""
        self.relayed = 0
        """How many messages were relayed."""

    async def __aenter__(self) -> Self:
        """Bind, and start to relay.

        Raises:
            BindError: If the endpoint is in use.
            ClosedError: If the block was entered before.

        Cancellation: safe; nothing stays open.
        """
        await anyio.lowlevel.checkpoint()
        if self._was_entered:
            raise ClosedError("proxy")
        self._was_entered = True
        hwm = PeerConfig().send_hwm
        well_known = self._net._bind(self._host, self._port, self._site, hwm)
        relay = self._net._bind(self._host, 0, self._site, hwm)
        self._servers = [well_known, relay]
        self.endpoint, self.relay = well_known.endpoint, relay.endpoint
        welcome = encode(Welcome(self.id, self.relay))
        well_known.accepted = lambda connection: _greet(connection, welcome, (b"W", b"C", b"D"))
        relay.accepted = lambda connection: _greet(connection, _SUBSCRIBE, ())
        relay.received = lambda _, frame, at: self._relay_frame(frame, at)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await anyio.lowlevel.checkpoint()

    def stop(self) -> None:
        """Let the proxy die: its connections end, and both its endpoints refuse. Idempotent."""
        for server in self._servers:
            server.close()

    def publish(self, frame: bytes) -> None:
        """Relay a discovery message, as if a peer had sent it; what is none is dropped."""
        self._relay_frame(frame, current_time())

    def _relay_frame(self, frame: bytes, at: float) -> None:
        try:
            if isinstance(decode(frame), Welcome):
                return
        except MalformedMessage:
            return
        for connection in self._servers[0].connections if self._servers else ():
            if frame.startswith(connection.topics):
                connection.send(frame, at)
        self.relayed += 1


def _greet(connection: _Connection, frame: bytes, topics: tuple[bytes, ...]) -> None:
    connection.topics = topics
    connection.send(frame, current_time())


class _MemoryProxyChannel(ProxyChannel):
    """What leads from one peer to one proxy."""

    def __init__(self, net: MemoryNetwork, site: _Site, endpoint: Endpoint, config: PeerConfig) -> None:
        self.endpoint = endpoint
        self._net = net
        self._site = site
        self._config = config
        self._mailbox = _Mailbox()
        self._listener: ProxyListener | None = None
        self._sub: _Dialer | None = None
        self._pub: _Dialer | None = None
        self._is_heard = False
        self._is_closed = False
        self._frames: list[bytes] = []

    async def run(self, listener: ProxyListener) -> None:
        self._listener = listener
        if self._sub is None and not self._is_closed:
            self._sub = self._dial(self.endpoint, self._sub_event, self._sub_frame)
        try:
            await self._mailbox.run(self._settle)
        finally:
            self._listener = None

    def _dial(
        self,
        endpoint: Endpoint,
        tell: Callable[[_Dialer, SocketEvent, int], None],
        arrived: Callable[[_Dialer, bytes], None],
        stops_when_refused: bool = False,
    ) -> _Dialer:
        return _Dialer(
            self._net,
            self._site,
            self._mailbox,
            endpoint,
            self._config,
            tell,
            arrived,
            stops_when_refused=stops_when_refused,
        )

    def _settle(self) -> None:
        frames, self._frames = self._frames, []
        if frames and self._listener is not None:
            self._listener.proxy_frames(self.endpoint, frames)

    def _sub_frame(self, dialer: _Dialer, frame: bytes) -> None:
        self._frames.append(frame)

    def _sub_event(self, dialer: _Dialer, event: SocketEvent, value: int) -> None:
        self._settle()
        if self._listener is not None:
            self._listener.observed(self._net._event("proxySub", event, value, dialer.endpoint))
            if event is SocketEvent.DISCONNECTED:
                self._listener.proxy_down(self.endpoint)

    def _pub_frame(self, dialer: _Dialer, frame: bytes) -> None:
        self._settle()
        if dialer is self._pub and self._listener is not None:
            self._is_heard = True
            self._listener.relay_up(self.endpoint)

    def _pub_event(self, dialer: _Dialer, event: SocketEvent, value: int) -> None:
        self._settle()
        if dialer is self._pub and self._listener is not None:
            self._listener.observed(self._net._event("proxyPub", event, value, dialer.endpoint))
            if event is SocketEvent.DISCONNECTED:
                self._is_heard = False
                self._listener.relay_down(self.endpoint)

    def follow(self, relay: Endpoint) -> None:
        if self._is_closed:
            return
        if self._pub is not None:
            self._pub.close()
        self._is_heard = False
        self._pub = self._dial(relay, self._pub_event, self._pub_frame, stops_when_refused=True)

    def reconnect(self) -> None:
        if self._sub is not None:
            self._sub.close()
            self._sub = self._dial(self.endpoint, self._sub_event, self._sub_frame)

    def send(self, frame: bytes) -> None:
        if self._is_heard and self._pub is not None and self._pub.connection is not None:
            self._pub.connection.send_back(frame)

    def close(self) -> None:
        self._is_closed = True
        for dialer in (self._sub, self._pub):
            if dialer is not None:
                dialer.close()
        self._sub = self._pub = None


class _MemoryDataChannel(DataChannel):
    """`dataPub` and `dataSub` of one peer."""

    def __init__(self, net: MemoryNetwork, site: _Site, server: _Server, config: PeerConfig) -> None:
        self._net = net
        self._site = site
        self._config = config
        self._use(server)
        self._mailbox = _Mailbox()
        self._listener: DataListener | None = None
        self._dialers: dict[Endpoint, _Dialer] = {}
        self._drains: dict[Endpoint, bool] = {}
        self._waits = config.overflow is Overflow.WAIT
        self._turns = Turns("peer")
        self.publish = self._publish
        # Nothing here may depend on how fast the machine is.
        self.clock = lambda: 0.0
        self._topics: dict[bytes, None] = {}
        self._frames: list[bytes] = []
        self._is_closed = False
        self._mailbox.put(0.0, self._listening)

    def _use(self, server: _Server) -> None:
        self._server = server
        self.endpoint = server.endpoint
        server.received = self._received
        server.ended = self._ended
        server.freed = self.rouse

    async def run(self, listener: DataListener) -> None:
        self._listener = listener
        try:
            await self._mailbox.run(self._settle)
        finally:
            self._listener = None

    def rebind(self, host: str) -> None:
        was = self._server
        try:
            server = self._net._bind(host, parse(was.endpoint).port, self._site, was.hwm)
        except BindError:
            server = self._net._bind(host, 0, self._site, was.hwm)
        self._use(server)
        was.close()

    def _listening(self) -> None:
        if self._listener is not None:
            self._listener.observed(self._net._event("dataPub", SocketEvent.LISTENING, 0, self.endpoint))

    # dataPub

    def send(self, frame: bytes) -> None:
        self._send(frame, self._server.hwm if self._waits else 0)

    def _publish(self, frame: bytes) -> bool:
        if self._is_closed:
            raise ClosedError("peer")
        if self._waits and any(connection.is_full for connection in self._matching(frame)):
            return False
        self._send(frame)
        return True

    def _send(self, frame: bytes, room: int = 0) -> None:
        now = current_time()
        for connection in self._matching(frame):
            connection.send(frame, now, room)

    def _matching(self, frame: bytes) -> list[_Connection]:
        return [connection for connection in self._server.connections if frame.startswith(connection.topics)]

    async def writable(self) -> None:
        await self._turns.wait()

    def rouse(self) -> None:
        self._turns.start()

    def shut(self, peer: bytes) -> None:
        topic = inbox(UUID(bytes=peer))
        for connection in [one for one in self._server.connections if topic in one.topics]:
            connection.waiting.clear()
            connection.end()

    def published(self) -> None:
        pass

    def _received(self, connection: _Connection, frame: bytes, at: float) -> None:
        self._mailbox.put(at, self._subscription, connection, frame[:1] == _SUBSCRIBE, frame[1:])

    def _subscription(self, connection: _Connection, is_new: bool, topic: bytes) -> None:
        self._settle()
        if not connection.is_up or self._listener is None:
            return
        others = tuple(other for other in connection.topics if other != topic)
        if is_new:
            connection.topics = (*others, topic)
            self._listener.subscribed(topic)
        elif others != connection.topics:
            connection.topics = others
            self._listener.unsubscribed(topic)
            self.rouse()

    def _ended(self, connection: _Connection) -> None:
        self._mailbox.put(current_time() + self._net._delay(), self._end_told, connection)

    def _end_told(self, connection: _Connection) -> None:
        self._settle()
        for topic in connection.topics:
            if self._listener is not None:
                self._listener.unsubscribed(topic)

    # dataSub

    def connect(self, endpoint: Endpoint) -> None:
        if self._is_closed:
            return
        if endpoint in self._drains:
            self._drains[endpoint] = True
        elif endpoint not in self._dialers:
            self._dialers[endpoint] = _Dialer(
                self._net, self._site, self._mailbox, endpoint, self._config, self._event, self._arrived, self._topics
            )

    def disconnect(self, endpoint: Endpoint) -> None:
        if endpoint in self._drains:
            self._drains[endpoint] = False
        if (dialer := self._dialers.pop(endpoint, None)) is not None:
            dialer.close()

    def drain(self, endpoint: Endpoint, sender: bytes) -> None:
        if endpoint not in self._drains:
            self._drains[endpoint] = False
            self._mailbox.put(current_time(), self._drain, endpoint)

    def _drain(self, endpoint: Endpoint) -> None:
        if endpoint in self._dialers:
            self._dialers[endpoint].read_all()
        # Nothing may come between the last frame and the end, but what follows from the frame.
        self._settle()
        reconnect = self._drains.pop(endpoint)
        self.disconnect(endpoint)
        if reconnect:
            self.connect(endpoint)
        if self._listener is not None:
            self._listener.drained(endpoint)

    def subscribe(self, topic: bytes) -> None:
        assert topic not in self._topics, "the caller counts users: libzmq forwards every repeat"
        self._topics[topic] = None
        for dialer in self._dialers.values():
            dialer.subscribe(topic, True)

    def unsubscribe(self, topic: bytes) -> None:
        if topic in self._topics:
            del self._topics[topic]
            for dialer in self._dialers.values():
                dialer.subscribe(topic, False)

    def _arrived(self, dialer: _Dialer, frame: bytes) -> None:
        self._frames.append(frame)

    def _settle(self) -> None:
        frames, self._frames = self._frames, []
        if frames and self._listener is not None:
            self._listener.data_frames(frames, len(frames) * PACK_LIMIT)

    def _event(self, dialer: _Dialer, event: SocketEvent, value: int) -> None:
        self._settle()
        listener, endpoint = self._listener, dialer.endpoint
        if listener is None or self._dialers.get(endpoint) is not dialer:
            return
        listener.observed(self._net._event("dataSub", event, value, endpoint))
        match event:
            case SocketEvent.HANDSHAKE_SUCCEEDED:
                listener.link_up(endpoint)
            case SocketEvent.DISCONNECTED | SocketEvent.CLOSED:
                listener.link_down(endpoint)
            case SocketEvent.CONNECT_RETRIED:
                listener.link_retried(endpoint)
            case _:
                pass

    async def probe(self, endpoint: Endpoint) -> Probe:
        await anyio.lowlevel.checkpoint()
        try:
            if numeric(endpoint) is None:
                return Probe.UNDECIDED
        except InvalidEndpoint:
            return Probe.UNDECIDED
        result, there_and_back = Probe.UNDECIDED, self._net._delay() + self._net._delay()
        with anyio.move_on_after(self._config.probe_timeout):
            await anyio.sleep(there_and_back)
            result = self._net._look(self._site, endpoint)
            if result is Probe.UNDECIDED:
                await anyio.sleep_forever()
        return result

    async def aclose(self) -> None:
        self._is_closed = True
        self._server.close()
        self._turns.close()
        for endpoint in list(self._dialers):
            self.disconnect(endpoint)
        await anyio.lowlevel.checkpoint()


class _PeerNetwork(Network):
    """The channels of one peer."""

    def __init__(self, net: MemoryNetwork, config: PeerConfig) -> None:
        self._net = net
        self._config = config
        self._site = _Site()

    async def local_address(self, proxies: Sequence[Endpoint]) -> str:
        await anyio.lowlevel.checkpoint()
        return _LOOPBACK

    def has_address(self, host: str) -> bool:
        return True  # the machine keeps what it has

    async def data_channel(self, host: str, port: int) -> DataChannel:
        await anyio.lowlevel.checkpoint()
        server = self._net._bind(host, port, self._site, self._config.send_hwm)
        return _MemoryDataChannel(self._net, self._site, server, self._config)

    def proxy_channel(self, endpoint: Endpoint) -> ProxyChannel:
        return _MemoryProxyChannel(self._net, self._site, endpoint, self._config)

    async def resolve(self, endpoint: Endpoint) -> Endpoint | None:
        await anyio.lowlevel.checkpoint()
        parsed = parse(endpoint)
        # There is one machine; a name that is not its own does not exist.
        return str(TcpEndpoint(_LOOPBACK, parsed.port)) if parsed.host.lower() == "localhost" else None

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
