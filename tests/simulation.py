"""A network that does not exist: several cores, a seeded random number, and a clock turned by hand.

What it keeps of the real one, and what the laws of ``test_simulation.py`` rest on:

* A data connection is one direction: the subscriber's. When it comes up, the subscriptions are
  replayed in byte order, later ones follow in call order, and a frame reaches the subscriber only
  if a prefix of it is in force at the publisher when it is sent. First in, first out, nothing
  lost while it lasts.
* What was on its way when a connection ended may still arrive, also after the end was told.
* A proxy forwards what reaches it to those who are subscribed then; it may lose and repeat, and
  messages of different senders overtake each other. What is sent before its subscription
  arrived is lost.
* All else is told late, by a random time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from math import inf
from random import Random
from uuid import UUID

from attrs import define, field

from zdisco._core.actions import (
    ConnectPeer,
    DeliverRetained,
    DisconnectPeer,
    DrainPeer,
    Drop,
    Dropped,
    FollowWelcome,
    GiveWay,
    MeetRival,
    Output,
    ProbePeer,
    ResolveEndpoint,
    RevivePeer,
    SendData,
    SendToProxy,
    ShutPeer,
    SubscribeTopic,
    TellLoss,
    UnsubscribeTopic,
)
from zdisco._core.config import PeerConfig
from zdisco._core.discovery import Discovery
from zdisco._core.envelope import ControlFrame, inbox, split
from zdisco._core.events import Event, PeerGone, PeerJoined, PeerRecovered, PeerSuspected, PeerUpdated
from zdisco._core.model import Endpoint, LinkState, PeerId, PeerInfo, Probe
from zdisco._core.wire import Announce, Farewell, Welcome, decode, encode

WELL_KNOWN: Endpoint = "tcp://127.0.0.1:5555"
SLOW_BEATS = PeerConfig(beat_interval=2.0, beat_timeout=4.5, ping_interval=20.0)
"""For laws that run for minutes and are about something else: most of what happens would be beats."""


@define(eq=False)
class Network:
    """The clock, what is going to happen, and who listens where."""

    seed: int
    loss: float = 0.0
    """How much of what a proxy forwards does not arrive."""
    repeats: float = 0.0
    """How much of it arrives twice."""
    config: PeerConfig = SLOW_BEATS
    """That of all peers for which none is given."""
    now: float = 1000.0
    random: Random = field(init=False)
    listeners: dict[Endpoint, Listener] = field(factory=dict)
    proxies: dict[Endpoint, FakeProxy] = field(factory=dict)
    peers: list[FakePeer] = field(factory=list)
    classics: list[ClassicPeer] = field(factory=list)
    cut_off: dict[frozenset[str], float] = field(factory=dict)
    """Pairs of names that cannot reach each other, and until when."""
    deaf: dict[tuple[str, str], float] = field(factory=dict)
    """Subscriber and publisher by name: the one cannot connect to the other, and until when."""
    held: dict[tuple[str, str], float] = field(factory=dict)
    """From whom, by name, nothing gets to whom though no connection ends, and until when."""
    disturbed: dict[frozenset[str], float] = field(factory=dict)
    """When a connection between two of them was last cut, or given up by one while both live."""
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(factory=list)
    _serial: int = 0
    _ports: int = 40000

    def __attrs_post_init__(self) -> None:
        self.random = Random(self.seed)

    # Time

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._agenda, (max(when, self.now), self._serial, what))

    def later(self, what: Callable[[], None], least: float = 0.0001, most: float = 0.02) -> None:
        self.at(self.now + self.delay(least, most), what)

    def delay(self, least: float = 0.0001, most: float = 0.02) -> float:
        # Mostly short, sometimes long: that is where the races are.
        return least + (most - least) * self.random.random() ** 3

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            self.now, _, what = heapq.heappop(self._agenda)
            what()
        self.now = end

    def run_until(self, is_so: Callable[[], bool], limit: float) -> None:
        end = self.now + limit
        while not is_so():
            is_late = not self._agenda or self._agenda[0][0] > end
            assert not is_late, f"not so within {limit} s"
            self.now, _, what = heapq.heappop(self._agenda)
            what()

    # What there is

    def new_endpoint(self) -> Endpoint:
        self._ports += 1
        return f"tcp://127.0.0.1:{self._ports}"

    def new_id(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)

    def proxy(self, endpoint: Endpoint = WELL_KNOWN, *, greets_all: bool = False) -> FakeProxy:
        proxy = self.proxies[endpoint] = FakeProxy(self, endpoint, greets_all)
        return proxy

    def peer(
        self,
        name: str,
        *,
        proxies: Iterable[Endpoint] = (WELL_KNOWN,),
        config: PeerConfig | None = None,
        id: PeerId | None = None,
        incarnation: int | None = None,
        endpoint: Endpoint | None = None,
        topics: Iterable[bytes] = (),
        open_after: float = 0.0,
    ) -> FakePeer:
        info = PeerInfo(
            id or self.new_id(),
            endpoint or self.new_endpoint(),
            name=name,
            incarnation=int(self.now * 1000) if incarnation is None else incarnation,
            host="here",
        )
        me = Announce(info, session=self.random.randbytes(4), started=info.incarnation)
        core = Discovery(me, tuple(proxies), config or self.config, self.random.random)
        peer = FakePeer(self, name, core, [b"user." + topic for topic in topics])
        self.peers.append(peer)
        peer.start(open_after)
        return peer

    def classic(self, name: str) -> ClassicPeer:
        peer = ClassicPeer(self, name, self.new_id(), self.new_endpoint())
        self.classics.append(peer)
        peer.start()
        return peer

    @property
    def alive(self) -> list[FakePeer]:
        return [peer for peer in self.peers if peer.is_alive and not peer.has_left]

    def can_reach(self, one: str, other: str) -> bool:
        return self.cut_off.get(frozenset((one, other)), 0.0) <= self.now

    def cut(self, one: FakePeer, other: FakePeer, seconds: float = 0.0) -> None:
        """Break the connections of two peers, and keep them apart for so long."""
        pair = frozenset((one.name, other.name))
        self.cut_off[pair] = self.now + seconds
        for subscriber, publisher in ((one, other), (other, one)):
            self.cut_one_way(subscriber, publisher)

    def hold(self, one: FakePeer, other: FakePeer, seconds: float) -> None:
        """Let nothing of what they send each other arrive for so long, as where TCP repeats it in vain."""
        self.hold_one_way(one, other, seconds)
        self.hold_one_way(other, one, seconds)

    def hold_one_way(self, sender: FakePeer, receiver: FakePeer, seconds: float) -> None:
        """The same for what one of them publishes, as where the other has much to read."""
        self.held[sender.name, receiver.name] = self.now + seconds

    def arrival(self, sender: str, receiver: str) -> float:
        """When something that is sent now arrives, at the earliest."""
        return max(self.now, self.held.get((sender, receiver), 0.0)) + self.delay()

    def cut_one_way(self, subscriber: FakePeer, publisher: FakePeer, seconds: float = 0.0) -> None:
        self.deaf[subscriber.name, publisher.name] = self.now + seconds
        socket = subscriber.sub.sockets.get(publisher.endpoint)
        if socket is not None and socket.connection is not None:
            socket.connection.end()


@define(eq=False)
class Listener:
    """A bound publisher socket and the connections that it accepted."""

    network: Network
    name: str
    endpoint: Endpoint
    subscribed: Callable[[bytes], None]
    connections: list[Connection] = field(factory=list)
    shuts: int = 0
    """How many connections were ended by `shut`."""

    def publish(self, frame: bytes) -> None:
        for connection in self.connections:
            connection.publish(frame)

    def shut(self, topic: bytes) -> None:
        """End the connections over which this was subscribed."""
        for connection in [connection for connection in self.connections if topic in connection.in_force]:
            self.shuts += 1
            connection.end()

    def close(self) -> None:
        if self.network.listeners.get(self.endpoint) is self:
            del self.network.listeners[self.endpoint]
        for connection in list(self.connections):
            connection.end()


@define(eq=False)
class Connection:
    """One data connection, from the handshake to its end."""

    network: Network
    socket: SubSocket
    listener: Listener
    is_up: bool = True
    in_force: list[bytes] = field(factory=list)
    """What the publisher knows of the subscriber's subscriptions."""
    waiting: list[bytes] = field(factory=list)
    """What was sent and not read yet."""
    _outward: float = 0.0
    _inward: float = 0.0

    def subscribe(self, topic: bytes, *, off: bool = False) -> None:
        self._outward = max(self._outward, self.network.arrival(self.socket.owner.name, self.listener.name))
        self.network.at(self._outward, lambda: self._subscribed(topic, off))

    def _subscribed(self, topic: bytes, off: bool) -> None:
        if not self.is_up:
            return
        if off:
            if topic in self.in_force:
                self.in_force.remove(topic)
            return
        self.in_force.append(topic)
        self.listener.subscribed(topic)

    def publish(self, frame: bytes) -> None:
        if self.is_up and any(frame.startswith(topic) for topic in self.in_force):
            self.waiting.append(frame)
            self._inward = max(self._inward, self.network.arrival(self.listener.name, self.socket.owner.name))
            self.network.at(self._inward, self.read_one)

    def read_one(self) -> None:
        if self.waiting:
            self.socket.owner.read(self.waiting.pop(0))

    def end(self) -> None:
        """Cut it. What is on its way still arrives; the subscriber hears of the end some time."""
        self.forget()
        network = self.network
        network.disturbed[frozenset((self.socket.owner.name, self.listener.name))] = network.now
        network.later(lambda: self.socket.lost(self), most=0.005)

    def forget(self) -> None:
        self.is_up = False
        if self in self.listener.connections:
            self.listener.connections.remove(self)


@define(eq=False)
class SubSocket:
    """What the subscriber keeps for one endpoint: it connects, and again when the connection ends."""

    sub: Sub
    endpoint: Endpoint
    connection: Connection | None = None
    is_closed: bool = False
    tries: int = 0

    @property
    def owner(self) -> Subscriber:
        return self.sub.owner

    def attempt(self) -> None:
        if self.is_closed:
            return
        network = self.sub.network
        listener = network.listeners.get(self.endpoint)
        is_deaf = listener is not None and network.deaf.get((self.owner.name, listener.name), 0.0) > network.now
        if listener is None or is_deaf or not network.can_reach(self.owner.name, listener.name):
            self._fail()
            return
        self.tries = 0
        connection = self.connection = Connection(network, self, listener)
        listener.connections.append(connection)
        self._tell(self.owner.link_up)
        for topic in sorted(self.sub.topics):
            connection.subscribe(topic)

    def lost(self, connection: Connection) -> None:
        if not self.is_closed and self.connection is connection:
            self.connection = None
            self._fail()

    def _fail(self) -> None:
        self._tell(self.owner.link_down)
        if self.sub.network.random.random() < 0.05:
            return  # libzmq sometimes gives up in silence
        self._tell(self.owner.link_retried)
        self.tries = min(self.tries + 1, 5)
        interval = 0.1 * 2 ** (self.tries - 1)
        self.sub.network.later(self.attempt, least=interval, most=min(2 * interval, 2.0))

    def _tell(self, how: Callable[[Endpoint], None]) -> None:
        """Tell what the monitor saw: in order, and a little late."""
        sub = self.sub
        sub.told_until = max(sub.told_until, sub.network.now + sub.network.delay(0.0, 0.004))
        sub.network.at(sub.told_until, lambda: None if self.is_closed else how(self.endpoint))

    def close(self) -> None:
        self.is_closed = True
        if self.connection is not None:
            network = self.sub.network
            network.disturbed[frozenset((self.owner.name, self.connection.listener.name))] = network.now
            self.connection.waiting.clear()
            self.connection.forget()


class Subscriber:
    """Who owns a `Sub`."""

    name: str

    def read(self, frame: bytes) -> None: ...
    def link_up(self, endpoint: Endpoint) -> None: ...
    def link_down(self, endpoint: Endpoint) -> None: ...
    def link_retried(self, endpoint: Endpoint) -> None: ...


@define(eq=False)
class Sub:
    """A SUB socket."""

    network: Network
    owner: Subscriber
    topics: set[bytes] = field(factory=set)
    sockets: dict[Endpoint, SubSocket] = field(factory=dict)
    told_until: float = 0.0

    def subscribe(self, topic: bytes) -> None:
        assert topic not in self.topics, "libzmq forwards every repeat"
        self.topics.add(topic)
        self._forward(topic, off=False)

    def unsubscribe(self, topic: bytes) -> None:
        self.topics.remove(topic)
        self._forward(topic, off=True)

    def _forward(self, topic: bytes, *, off: bool) -> None:
        for socket in self.sockets.values():
            if socket.connection is not None and socket.connection.is_up:
                socket.connection.subscribe(topic, off=off)

    def connect(self, endpoint: Endpoint) -> None:
        assert endpoint not in self.sockets, f"connected twice to {endpoint}"
        socket = self.sockets[endpoint] = SubSocket(self, endpoint)
        self.network.later(socket.attempt)

    def disconnect(self, endpoint: Endpoint) -> None:
        self.sockets.pop(endpoint).close()

    def drain(self, endpoint: Endpoint) -> None:
        socket = self.sockets[endpoint]
        while socket.connection is not None and socket.connection.waiting:
            socket.connection.read_one()
        self.disconnect(endpoint)

    def close(self) -> None:
        for endpoint in list(self.sockets):
            self.disconnect(endpoint)


@define(eq=False)
class ProxyClient:
    """The two connections between one participant and one proxy."""

    name: str
    received: Callable[[bytes], None]
    relay_up: Callable[[], None]
    lost: Callable[[], None]
    relay_lost: Callable[[], None]
    hears: bool = False
    is_heard: bool = False
    inward: float = 0.0
    outward: float = 0.0


@define(eq=False)
class FakeProxy:
    """A relay: greets each new subscriber, forwards announces and farewells to all subscribers."""

    network: Network
    endpoint: Endpoint
    greets_all: bool
    """Whether a new subscriber makes everybody see another welcome, as with the classic proxy."""
    is_alive: bool = True
    life: int = 0
    id: UUID = field(init=False)
    relay: Endpoint = field(init=False)
    clients: list[ProxyClient] = field(factory=list)
    forwarded: list[bytes] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.id, self.relay = self.network.new_id(), self.network.new_endpoint()

    def die(self) -> None:
        self.is_alive = False
        self.life += 1
        for client in self.clients:
            if client.hears:
                self.network.later(client.lost)
            if client.is_heard:
                self.network.later(client.relay_lost)
            client.hears = client.is_heard = False

    def restart(self, *, relay: Endpoint | None = None) -> None:
        self.is_alive = True
        self.id, self.relay = self.network.new_id(), relay or self.network.new_endpoint()
        for client in self.clients:
            self.network.later(lambda client=client: self.join(client), least=0.05, most=0.5)  # type: ignore[misc]

    def join(self, client: ProxyClient) -> None:
        """A participant's `proxySub` comes up."""
        if client not in self.clients:
            self.clients.append(client)
        if not self.is_alive or client.hears:
            return
        client.hears = True
        welcome = encode(Welcome(self.id, self.relay))
        for other in self.clients if self.greets_all else [client]:
            if other.hears:
                self._deliver(other, welcome)

    def leave(self, client: ProxyClient) -> None:
        client.hears = client.is_heard = False
        if client in self.clients:
            self.clients.remove(client)

    def follow(self, client: ProxyClient, relay: Endpoint) -> None:
        """A participant's `proxyPub` connects to ``relay``."""
        client.is_heard = False
        life = self.life
        self.network.later(lambda: self._connected(client, relay, life))

    def _connected(self, client: ProxyClient, relay: Endpoint, life: int) -> None:
        is_there = self.is_alive and life == self.life and relay == self.relay
        if is_there and client in self.clients and not client.is_heard:
            client.is_heard = True
            client.relay_up()

    def publish(self, client: ProxyClient, frame: bytes) -> None:
        if not client.is_heard:
            return
        life = self.life
        client.outward = max(client.outward, self.network.now + self.network.delay())
        self.network.at(client.outward, lambda: self._forward(frame, life))

    def _forward(self, frame: bytes, life: int) -> None:
        if life == self.life:
            self.forwarded.append(frame)
            self._forward_to_all(frame, self.network.loss)

    def _forward_to_all(self, frame: bytes, loss: float) -> None:
        random = self.network.random
        for client in self.clients:
            if client.hears and random.random() >= loss:
                self._deliver(client, frame)
                if random.random() < self.network.repeats:
                    self._deliver(client, frame)

    def inject(self, frame: bytes) -> None:
        """What anybody on the bus may send; nothing of it is lost, so its victim hears it."""
        self._forward_to_all(frame, 0.0)

    def _deliver(self, client: ProxyClient, frame: bytes) -> None:
        client.inward = max(client.inward, self.network.now + self.network.delay())
        life = self.life

        def arrive() -> None:
            if life == self.life and client.hears:
                client.received(frame)

        self.network.at(client.inward, arrive)


@define(eq=False)
class FakePeer(Subscriber):
    """One core and what the shell does for it; it checks each event as it comes."""

    network: Network
    name: str
    core: Discovery
    user_topics: list[bytes]
    is_alive: bool = True
    has_left: bool = False
    events: list[Event] = field(factory=list)
    drops: list[Drop] = field(factory=list)
    confirmed_topics: list[bytes] = field(init=False)
    """What was subscribed before the first marker that still waits for confirmation."""
    stays: dict[PeerId, LinkState] = field(factory=dict)
    entered: dict[int, list[bytes]] = field(factory=dict)
    """Markers that wait for confirmation, and what was subscribed before them."""
    sub: Sub = field(init=False)
    listener: Listener = field(init=False)
    clients: dict[Endpoint, ProxyClient] = field(factory=dict)
    resumed_at: float = 0.0
    """When it last went on after a stall; what it reads then is old."""
    _tick_at: float = inf
    is_open: bool = False
    _stalled: list[Callable[[], None]] | None = None

    def __attrs_post_init__(self) -> None:
        self.confirmed_topics = list(self.user_topics)

    @property
    def id(self) -> PeerId:
        return self.core.info.id

    @property
    def endpoint(self) -> Endpoint:
        return self.core.info.endpoint

    # Life

    def start(self, open_after: float) -> None:
        network = self.network
        self.sub = Sub(network, self)
        self.listener = Listener(
            network, self.name, self.endpoint, lambda topic: self._input(lambda: self.core.subscribed(topic, self.now))
        )
        assert self.endpoint not in network.listeners
        network.listeners[self.endpoint] = self.listener
        for topic in self.user_topics:
            self.sub.subscribe(topic)
        self._do(self.core.start())
        for endpoint in self.core.proxies:
            self._join_proxy(endpoint)
        if open_after:
            network.at(network.now + open_after, self._open)
        else:
            self._open()

    def _open(self) -> None:
        self.is_open = True
        self._input(lambda: self.core.open(self.now))

    def _join_proxy(self, endpoint: Endpoint) -> None:
        core = self.core
        client = self.clients[endpoint] = ProxyClient(
            self.name,
            lambda frame: self._input(lambda: core.received(endpoint, frame, self.now)),
            lambda: self._input(lambda: core.relay_up(endpoint, self.now)),
            lambda: self._input(lambda: core.proxy_down(endpoint, self.now)),
            lambda: self._input(lambda: core.relay_down(endpoint, self.now)),
        )
        proxy = self.network.proxies[endpoint]
        self.network.later(lambda: proxy.join(client) if self.is_alive else None)

    def leave(self, timeout: float = 2.0) -> None:
        """Say farewell, and close when it has come back or the time is over."""
        self.has_left = True
        self._input(lambda: self.core.leave(self.now))
        end = self.network.now + timeout

        def look() -> None:
            if not self.core.unheard_farewells or self.network.now >= end:
                # What was published leaves before the socket closes.
                self.network.at(self.network.now + 0.03, self.kill)
            else:
                self.network.at(self.network.now + 0.01, look)

        look()

    def update(self, value: str) -> None:
        """Announce another header."""
        self._input(lambda: self.core.update(headers={"value": value}))

    def kill(self) -> None:
        if not self.is_alive:
            return
        self.is_alive = False
        self.listener.close()
        self.sub.close()
        for endpoint, client in self.clients.items():
            self.network.proxies[endpoint].leave(client)

    def stall(self, seconds: float) -> None:
        """Stop the process for a while; its kernel goes on."""
        if self._stalled is None and self.is_alive:
            self._stalled = []
            self.network.at(self.network.now + seconds, self._resume)

    def _resume(self) -> None:
        stalled, self._stalled = self._stalled or [], None
        self._tick_at = inf
        self.resumed_at = self.now
        if self.network.random.random() < 0.5:
            self._tick()
        for what in stalled:
            what()
        self._tick_at = inf
        self._tick()

    @property
    def now(self) -> float:
        return self.network.now

    # What the shell does

    def subscribe(self, topic: bytes) -> None:
        """Subscribe as a user does, with a marker behind it."""
        self.sub.subscribe(b"user." + topic)
        self.user_topics.append(b"user." + topic)
        self._input(self.core.roster.next_marker)
        self.entered[self.core.roster.marker] = list(self.user_topics)
        self._look_who_confirmed()

    def _input(self, how: Callable[[], list[Output]]) -> None:
        if not self.is_alive:
            return
        if self._stalled is not None:
            self._stalled.append(lambda: self._input(how))
            return
        self._do(how())
        self._look_who_confirmed()
        self._arm()

    def _arm(self) -> None:
        at = self.core.deadline
        if at < self._tick_at:
            self._tick_at = at
            self.network.at(at, lambda: self._tick(at))

    def _tick(self, at: float = inf) -> None:
        # What was due earlier meanwhile has taken its place.
        if not self.is_alive or self._stalled is not None or at != self._tick_at:
            return
        self._tick_at = inf
        if self.core.deadline <= self.now:
            self._do(self.core.tick(self.now))
            assert self.core.deadline > self.now, "a deadline that stays due would spin"
            self._look_who_confirmed()
        self._arm()

    def _do(self, outputs: list[Output]) -> None:
        for output in outputs:
            self._do_one(output)

    def _do_one(self, output: Output) -> None:
        network = self.network
        match output:
            case SendToProxy(proxy, frame):
                network.proxies[proxy].publish(self.clients[proxy], frame)
            case FollowWelcome(proxy, relay):
                network.proxies[proxy].follow(self.clients[proxy], relay)
            case SendData(frame):
                self.listener.publish(frame)
            case ConnectPeer(endpoint):
                self.sub.connect(endpoint)
            case DisconnectPeer(endpoint):
                self.sub.disconnect(endpoint)
            case RevivePeer(endpoint):
                self.sub.disconnect(endpoint)
                self.sub.connect(endpoint)
            case DrainPeer(endpoint):
                network.later(lambda: self._drain(endpoint))
            case ShutPeer(peer):
                self.listener.shut(inbox(peer))
            case ProbePeer(endpoint):
                network.later(lambda: self._probe(endpoint), most=0.2)
            case SubscribeTopic(topic):
                self.sub.subscribe(topic)
            case UnsubscribeTopic(topic):
                self.sub.unsubscribe(topic)
            case ResolveEndpoint(name):
                numeric = name.replace("localhost", "127.0.0.1")
                network.later(lambda: self._input(lambda: self.core.resolved(name, numeric, self.now)))
            case MeetRival(announce):
                self._input(lambda: self.core.rival_met(announce, self.now))
            case GiveWay():
                self.has_left = True
                # What was published leaves before the socket closes.
                network.at(network.now + 0.03, self.kill)
            case Dropped(drop):
                self.drops.append(drop)
            case TellLoss() | DeliverRetained():
                pass  # the peers of this network publish nothing
            case _:
                self._event(output)

    def _drain(self, endpoint: Endpoint) -> None:
        if not self.is_alive:
            return
        if self._stalled is not None:
            self._stalled.append(lambda: self._drain(endpoint))
            return
        self.sub.drain(endpoint)
        self._input(lambda: self.core.drained(endpoint, self.now))

    def _probe(self, endpoint: Endpoint) -> None:
        listener = self.network.listeners.get(endpoint)
        if listener is None:
            probe = Probe.REFUSED
        elif self.network.can_reach(self.name, listener.name):
            probe = Probe.ACCEPTED
        else:
            probe = Probe.UNDECIDED
        self.network.later(lambda: self._input(lambda: self.core.probed(endpoint, probe, self.now)))

    # What its sockets tell

    def read(self, frame: bytes) -> None:
        control = split(frame)
        if isinstance(control, ControlFrame):
            self._input(lambda: self.core.control(control, self.now))

    def link_up(self, endpoint: Endpoint) -> None:
        self._input(lambda: self.core.link_up(endpoint, self.now))

    def link_down(self, endpoint: Endpoint) -> None:
        self._input(lambda: self.core.link_down(endpoint, self.now))

    def link_retried(self, endpoint: Endpoint) -> None:
        self._input(lambda: self.core.link_retried(endpoint))

    # What the user is told

    def _event(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case PeerJoined(peer):
                assert peer.id not in self.stays, f"{peer.name} joined {self.name} twice"
                self.stays[peer.id] = LinkState.JOINED
                self._check_deliverable(peer)
            case PeerSuspected(peer):
                assert self.stays.get(peer.id) is LinkState.JOINED
                self.stays[peer.id] = LinkState.SUSPECT
            case PeerRecovered(peer):
                assert self.stays.get(peer.id) is LinkState.SUSPECT
                self.stays[peer.id] = LinkState.JOINED
                self._check_deliverable(peer)
            case PeerGone(peer):
                assert peer.id in self.stays, f"{peer.name} went from {self.name} without having joined"
                del self.stays[peer.id]
            case PeerUpdated(peer):
                assert peer.id in self.stays
            case _:
                pass

    def _check_deliverable(self, peer: PeerInfo) -> None:
        """Joined means deliverable: what either had subscribed is in force at the other."""
        if not peer.incarnation:
            return  # a classic peer proves nothing
        other = next(
            (
                other
                for other in self.network.peers
                if other.is_alive and other.core.info.id == peer.id and other.endpoint == peer.endpoint
            ),
            None,
        )
        if other is None or max(self.resumed_at, other.resumed_at) > self.now - 0.1 or other.is_stalled:
            return
        self._check_in_force(other, self)
        self._check_in_force(self, other)

    def _check_in_force(self, subscriber: FakePeer, publisher: FakePeer) -> None:
        socket = subscriber.sub.sockets.get(publisher.endpoint)
        connection = None if socket is None else socket.connection
        if connection is None or not connection.is_up:
            # It was cut a moment ago, which nobody here can know yet.
            pair = frozenset((subscriber.name, publisher.name))
            assert self.network.disturbed.get(pair, 0.0) > self.now - 0.1, (
                f"{self.name} holds for joined: {subscriber.name} is not connected to {publisher.name}"
            )
            return
        # What waits for its confirmation was subscribed after the marker that the link message named.
        wanted = {*subscriber.confirmed_topics, inbox(subscriber.id)}
        missing = wanted - set(connection.in_force)
        assert not missing, f"{self.name} told joined; {subscriber.name}'s {missing} not in force at {publisher.name}"

    def _look_who_confirmed(self) -> None:
        for marker, topics in list(self.entered.items()):
            if self.core.roster.unconfirmed(marker):
                continue
            del self.entered[marker]
            if not any(other < marker for other in self.entered):
                self.confirmed_topics = topics
            for other in self.network.alive:
                if other.id in self.core.joined and not other.is_stalled and self.resumed_at < self.now - 0.1:
                    self._check_entered(other, topics)

    def _check_entered(self, other: FakePeer, topics: list[bytes]) -> None:
        socket = self.sub.sockets.get(other.endpoint)
        connection = None if socket is None else socket.connection
        if connection is not None and connection.is_up:
            pair = frozenset((self.name, other.name))
            if self.network.disturbed.get(pair, 0.0) > self.now - 0.3:
                return
            missing = set(topics) - set(connection.in_force)
            assert not missing, f"{missing} of {self.name} is not in force at {other.name}"

    @property
    def is_stalled(self) -> bool:
        return self._stalled is not None


@define(eq=False)
class ClassicPeer(Subscriber):
    """What the C++ programs do: announce until the echo, answer a stranger once, say farewell."""

    network: Network
    name: str
    id: PeerId
    endpoint: Endpoint
    known: dict[PeerId, Endpoint] = field(factory=dict)
    has_echo: bool = False
    is_alive: bool = True
    sub: Sub = field(init=False)
    listener: Listener = field(init=False)
    client: ProxyClient = field(init=False)

    @property
    def proxy(self) -> FakeProxy:
        return self.network.proxies[WELL_KNOWN]

    def start(self) -> None:
        self.sub = Sub(self.network, self)
        self.sub.subscribe(b"")
        self.listener = Listener(self.network, self.name, self.endpoint, lambda topic: None)
        self.network.listeners[self.endpoint] = self.listener
        self.client = ProxyClient(self.name, self._received, self._announce_until_echo, lambda: None, lambda: None)
        self.network.later(lambda: self.proxy.join(self.client))

    def _received(self, frame: bytes) -> None:
        message = decode(frame)
        match message:
            case Welcome():
                if not self.client.is_heard:
                    self.proxy.follow(self.client, message.endpoint)
            case Announce(info):
                if info.id == self.id:
                    self.has_echo = True
                elif info.id not in self.known:
                    self.known[info.id] = info.endpoint
                    self.sub.connect(info.endpoint)
                    self._announce()
            case Farewell(id):
                endpoint = self.known.pop(id, None)
                if endpoint is not None:
                    self.sub.disconnect(endpoint)

    def _announce_until_echo(self) -> None:
        if self.is_alive and not self.has_echo:
            self._announce()
            self.network.later(self._announce_until_echo, least=0.1, most=0.2)

    def _announce(self) -> None:
        self.proxy.publish(self.client, encode(Announce(PeerInfo(self.id, self.endpoint))))

    def leave(self) -> None:
        self.proxy.publish(self.client, encode(Farewell(self.id, self.endpoint)))
        self.network.later(self.kill, least=0.03, most=0.05)

    def kill(self) -> None:
        self.is_alive = False
        self.listener.close()
        self.sub.close()
        self.proxy.leave(self.client)
