"""A gossip network that does not exist: cores, models of real zgossip nodes, a seeded random number, and a clock
turned by hand.

What it keeps of the real one, and what the laws of ``test_gossip_simulation.py`` rest on:

* A connection is first in, first out, and loses nothing while it lasts. When it breaks, what is on
  its way is lost; what was there and not read yet is read. The client hears of the end a little
  later and connects anew; the server hears of it only when it sends.
* Who is stalled reads nothing and has no clock; what comes waits. Then it reads all at once.
* A real node does what was recorded of CZMQ's: see `Real`.
* All else, also what a node is told of its connections, comes late by a random time.

A world is made of its seed alone: the same seed gives the same frames at the same times.
"""

from __future__ import annotations

import heapq
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from math import inf
from random import Random
from uuid import UUID

from attrs import define, field

from zdisco._core.actions import Drop, Dropped
from zdisco._core.config import GossipConfig
from zdisco._core.gossip.model import Change, Delivery, to_bytes
from zdisco._core.gossip.node import Node, Outcome, ReconnectRemote, SendGossip
from zdisco._core.gossip.talk import Link

WALL = 1_750_000_000.0
"""Wall-clock seconds at time 0 of a world."""
EXPIRY = 1.0
"""Seconds of silence after which a real node forgets a client, by default."""


class Shape(Enum):
    """How the nodes of a network are connected."""

    LINE = "line"
    STAR = "star"
    RING = "ring"
    RANDOM = "random"


def edges(shape: Shape, size: int, random: Random) -> list[tuple[int, int]]:
    """Who connects to whom; nobody is left alone."""
    match shape:
        case Shape.LINE:
            return [(number, number + 1) for number in range(size - 1)]
        case Shape.STAR:
            return [(number, 0) for number in range(1, size)]
        case Shape.RING:
            return [(number, (number + 1) % size) for number in range(size if size > 2 else 1)]
        case Shape.RANDOM:
            pairs = [(number, random.randrange(number)) for number in range(1, size)]
            # About four connections for each node.
            for _ in range(size):
                one, other = random.randrange(size), random.randrange(size)
                if one != other and (one, other) not in pairs and (other, one) not in pairs:
                    pairs.append((one, other))
            return [pair if random.random() < 0.5 else pair[::-1] for pair in pairs]


@define(eq=False)
class World:
    """The clock, what is going to happen, and who is there."""

    seed: int
    config: GossipConfig = field(factory=GossipConfig)
    """That of all nodes."""
    loss: float = 0.0
    """How many of the frames between our nodes vanish without a word."""
    full: float = 0.0
    """How many of the frames of our nodes find a full queue."""
    latency: float = 0.01
    """Seconds that a frame takes at most."""
    skew: float = 0.0
    """Seconds by which wall clocks are wrong at most."""
    now: float = 0.0
    random: Random = field(init=False)
    members: dict[str, Member] = field(factory=dict)
    wires: list[Wire] = field(factory=list)
    sent: Counter[str] = field(factory=Counter)
    """Frames by what they are, as far as our nodes sent them."""
    sent_bytes: int = 0
    changes: int = 0
    """Grows with each change of what somebody holds."""
    deaths: list[str] = field(factory=list)
    """What real nodes were killed by."""
    trace: Callable[[float, str, str, bytes], None] | None = None
    """Called with each frame as it is sent: when, by whom, to whom."""
    _held: dict[tuple[str, str], float] = field(factory=dict)
    _parted: dict[tuple[str, str], float] = field(factory=dict)
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(factory=list)
    _serial: int = 0

    def __attrs_post_init__(self) -> None:
        self.random = Random(self.seed)

    # Time

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._agenda, (max(when, self.now), self._serial, what))

    def delay(self, most: float) -> float:
        # Mostly short, sometimes long: that is where the races are.
        return most * (0.02 + 0.98 * self.random.random() ** 3)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            self._step()
        self.now = end

    def run_until(self, is_so: Callable[[], bool], limit: float) -> float:
        """Run until it is so, which only a change of what somebody holds can make it; returns the seconds that took."""
        began, seen = self.now, -1
        while seen == self.changes or not is_so():
            seen = self.changes
            assert self._agenda[0][0] <= began + limit, f"not so within {limit} s\n{self.differences()}"
            self._step()
        return self.now - began

    def _step(self) -> None:
        self.now, _, what = heapq.heappop(self._agenda)
        what()

    # Who is there

    def ours(self, name: str) -> Ours:
        """One of our nodes."""
        member = Ours(self, name)
        self.members[name] = member
        return member

    def real(self, name: str, expiry: float | None = EXPIRY) -> Real:
        """A real node; it forgets clients that were silent for so long."""
        member = Real(self, name, expiry)
        self.members[name] = member
        return member

    def connect(self, client: Member, server: Member) -> Wire:
        """Let one connect to another, and again whenever that breaks."""
        wire = Wire(self, client, len(client.wires), server)
        client.wires.append(wire)
        self.wires.append(wire)
        self.at(self.now + self.delay(self.latency), wire.attempt)
        return wire

    def network(self, shape: Shape, size: int, kind: Callable[[int], bool] = lambda number: False) -> list[Member]:
        """Make nodes of that shape; ``kind`` says which are real."""
        made: list[Member] = [
            self.real(f"real{number}") if kind(number) else self.ours(f"node{number}") for number in range(size)
        ]
        for client, server in edges(shape, size, self.random):
            self.connect(made[client], made[server])
        return made

    def alive(self) -> list[Member]:
        return [member for member in self.members.values() if member.is_alive]

    def nodes(self) -> list[Ours]:
        """Those of ours that live."""
        return [member for member in self.alive() if isinstance(member, Ours)]

    def reals(self) -> list[Real]:
        return [member for member in self.alive() if isinstance(member, Real)]

    # What goes wrong

    def hold(self, one: Member, other: Member, seconds: float) -> None:
        """Let nothing pass between two for so long, and no connection end by that."""
        self._held[_pair(one, other)] = self.now + seconds

    def held(self, one: Member, other: Member) -> float:
        """Until when nothing passes between two."""
        return self._held.get(_pair(one, other), 0.0)

    def part(self, one: Member, other: Member, seconds: float) -> None:
        """End the connections of two, and keep them apart for so long."""
        self._parted[_pair(one, other)] = self.now + seconds
        for wire in self.wires:
            if {wire.client, wire.server} == {one, other}:
                wire.cut()

    def partition(self, groups: Sequence[Iterable[Member]], seconds: float) -> None:
        """Keep groups apart from each other for so long."""
        group_of = {member.name: number for number, group in enumerate(groups) for member in group}
        for wire in self.wires:
            if group_of.get(wire.client.name) != group_of.get(wire.server.name):
                self.part(wire.client, wire.server, seconds)

    def can_connect(self, one: Member, other: Member) -> bool:
        pair = _pair(one, other)
        return max(self._parted.get(pair, 0.0), self._held.get(pair, 0.0)) <= self.now

    # What is checked

    def is_settled(self) -> bool:
        """Whether all of our nodes hold the same, and all real ones that and perhaps more."""
        nodes = self.nodes()
        first = dict(nodes[0].tuples)
        if any(dict(node.tuples) != first for node in nodes[1:]):
            return False
        return all(real.table.get(key) == value for real in self.reals() for key, value in first.items())

    def differences(self) -> str:
        """What does not agree, for who looks for a fault."""
        keys = sorted({key for member in self.alive() for key in member.tuples})
        lines = []
        for key in keys:
            values = [(member.name, member.tuples.get(key)) for member in self.alive()]
            if len({value for _, value in values}) > 1:
                lines.append(f"{key!r}: " + ", ".join(f"{name} {value!r}" for name, value in values))
        return f"seed {self.seed}, time {self.now:.3f}\n" + "\n".join(lines[:10])

    def check(self) -> None:
        """All that holds at any time."""
        assert not self.deaths, self.deaths
        for node in self.nodes():
            assert node.view == dict(node.tuples), f"{node.name} delivered something else than it holds"
            classics = node.node._classics
            assert {(link, key) for link, keys in classics._awaited.items() for key in keys} == {
                (link, key) for key, round in classics._rounds.items() for link in round.awaited
            }
            assert all(classics._told[key].link == link for link, keys in classics._tellers.items() for key in keys)
            assert classics._held.keys() == classics._awaited.keys() == classics._tellers.keys()

    def count(self, receiver: Member, frame: bytes) -> None:
        kind = kind_of(frame)
        self.sent[kind] += 1
        self.sent_bytes += len(frame)
        assert isinstance(receiver, Ours) or kind not in ("Tuples", "Sums", "Summary", "Wants"), "meant for ours only"


def kind_of(frame: bytes) -> str:
    """What a frame of ours is: the name of its trailer, if it has one."""
    if frame[4:7] == b"ZD\x01" and frame[2] in (1, 3, 4):
        return ("Greeting", "Tuples", "Sums", "Summary", "Wants")[frame[7] - 1]
    return ("Hello", "Publish", "Ping", "Pong", "Invalid")[frame[2] - 1]


def _pair(one: Member, other: Member) -> tuple[str, str]:
    return (one.name, other.name) if one.name < other.name else (other.name, one.name)


@define(eq=False)
class Wire:
    """What a node that connects keeps of one endpoint: it connects, and again when the connection ends."""

    world: World
    client: Member
    number: int
    server: Member
    connection: Connection | None = None
    is_given_up: bool = False
    _attempts: int = 0

    def attempt(self) -> None:
        if self.is_given_up or self.connection is not None or not self.client.is_alive:
            return
        world = self.world
        if not self.server.is_alive or not world.can_connect(self.client, self.server):
            self.try_again()
            return
        self._attempts = 0
        self.connection = Connection(world, self, self.server.accept())
        self.server.accepted[self.connection.id] = self.connection
        connection = self.connection
        world.at(world.now + world.delay(world.latency), lambda: self._tell_up(connection))

    def _tell_up(self, connection: Connection) -> None:
        if connection.is_up:
            self.client.arrived(_Up(self.number))

    def try_again(self) -> None:
        self._attempts = min(self._attempts + 1, 5)
        interval: float = min(0.1 * 2 ** (self._attempts - 1), 1.0)
        self.world.at(self.world.now + interval * (1 + self.world.random.random()), self.attempt)

    def cut(self) -> None:
        """End the connection."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        connection.is_up = False
        self.server.accepted.pop(connection.id, None)
        if self.client.is_alive:
            self.world.at(self.world.now + self.world.delay(0.005), lambda: self.client.arrived(_Down(self.number)))
            self.try_again()


@define(eq=False)
class Connection:
    """One connection, from its handshake to its end."""

    world: World
    wire: Wire
    id: bytes
    """What the server calls it."""
    is_up: bool = True
    _outward: float = 0.0
    _inward: float = 0.0

    def to_server(self, frame: bytes) -> None:
        self._outward = self._arrival(self._outward)
        self.world.at(self._outward, lambda: self._arrive(self.wire.server, self.id, frame))

    def to_client(self, frame: bytes) -> None:
        self._inward = self._arrival(self._inward)
        self.world.at(self._inward, lambda: self._arrive(self.wire.client, self.wire.number, frame))

    def _arrival(self, last: float) -> float:
        world = self.world
        free = max(world.now, world.held(self.wire.client, self.wire.server))
        return max(last, free + world.delay(world.latency))

    def _arrive(self, receiver: Member, link: Link, frame: bytes) -> None:
        if self.is_up and receiver.is_alive:
            receiver.arrived(_Frame(link, frame))


@define
class _Up:
    link: int


@define
class _Down:
    link: int


@define
class _Frame:
    link: Link
    frame: bytes


_Input = _Up | _Down | _Frame


@define(eq=False)
class Member:
    """A process with one node."""

    world: World
    name: str
    is_alive: bool = field(init=False, default=True)
    wires: list[Wire] = field(init=False, factory=list)
    """By number."""
    accepted: dict[bytes, Connection] = field(init=False, factory=dict)
    busy_until: float = field(init=False, default=0.0)
    _inputs: list[_Input] = field(init=False, factory=list)
    _wakes: bool = field(init=False, default=False)
    _connections: int = field(init=False, default=0)

    @property
    def tuples(self) -> dict[bytes, bytes]:
        raise NotImplementedError

    @property
    def is_busy(self) -> bool:
        """Whether it is stalled."""
        return self.busy_until > self.world.now

    def accept(self) -> bytes:
        """The routing id of a new connection."""
        self._connections += 1
        return b"\0" + struct.pack(">I", self._connections)

    def arrived(self, what: _Input) -> None:
        if not self.is_alive:
            return
        self._inputs.append(what)
        if not self._wakes:
            self._wakes = True
            self.world.at(self._free_at(), self._wake)

    def _free_at(self) -> float:
        return max(self.world.now, self.busy_until) + self.world.delay(0.002)

    def _wake(self) -> None:
        if self.busy_until > self.world.now:
            self.world.at(self._free_at(), self._wake)
            return
        self._wakes = False
        inputs, self._inputs = self._inputs, []
        if self.is_alive:
            self.take(inputs)

    def take(self, inputs: list[_Input]) -> None:
        raise NotImplementedError

    def stall(self, seconds: float) -> None:
        """Let it do nothing for so long."""
        self.busy_until = self.world.now + seconds

    def kill(self) -> None:
        """End it; nothing that it has not sent yet is sent."""
        self.world.changes += 1
        self.is_alive = False
        self._inputs = []
        for wire in self.wires:
            wire.cut()
        for connection in list(self.accepted.values()):
            connection.wire.cut()

    def restart(self) -> None:
        """Start another process in its place, which knows nothing."""
        assert not self.is_alive
        self.world.changes += 1
        self.is_alive = True
        self.busy_until = 0.0
        self.begin()
        for wire in self.wires:
            self.world.at(self.world.now + self.world.delay(self.world.latency), wire.attempt)

    def begin(self) -> None:
        raise NotImplementedError


@define(eq=False)
class Ours(Member):
    """One core, and what the shell does for it; it checks each delivery as it comes."""

    node: Node = field(init=False)
    deliveries: list[Delivery] = field(init=False, factory=list)
    view: dict[bytes, bytes] = field(init=False, factory=dict)
    """What who reads the deliveries knows."""
    drops: Counter[Drop] = field(init=False, factory=Counter)
    reconnects: int = field(init=False, default=0)
    skew: float = field(init=False, default=0.0)
    """Seconds by which its wall clock is wrong, which may be set at any time."""
    _offset: float = field(init=False, default=0.0)
    _due_at: float = field(init=False, default=inf)

    def __attrs_post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        random = self.world.random
        # Each process has a clock of its own, which begins anywhere, and may be wrong.
        self._offset = random.uniform(0, 10_000)
        self.skew = random.uniform(-self.world.skew, self.world.skew)
        id = UUID(int=random.getrandbits(128), version=4)
        self.node = Node(id, self.world.config, lambda: WALL + self.skew + self.world.now)
        self.view = {}
        self._due_at = inf

    @property
    def clock(self) -> float:
        return self.world.now + self._offset

    @property
    def tuples(self) -> dict[bytes, bytes]:
        return dict(self.node.tuples)

    # What the user does

    def publish(self, key: bytes, value: bytes, ttl: float | None = None) -> None:
        self._act(self.node.publish(key, value, ttl, self.clock))

    def unpublish(self, key: bytes) -> None:
        self._act(self.node.unpublish(key, self.clock))

    def leave(self) -> None:
        self._act(self.node.leave(self.clock))

    # What the shell does

    def take(self, inputs: list[_Input]) -> None:
        frames: list[tuple[Link, bytes]] = []
        for one in inputs:
            if isinstance(one, _Frame):
                frames.append((one.link, one.frame))
                continue
            self._act(self.node.received(frames, self.clock))
            frames = []
            if isinstance(one, _Up):
                self._act(self.node.up(one.link, self.clock))
            else:
                self._act(self.node.down(one.link, self.clock))
        if frames:
            self._act(self.node.received(frames, self.clock))

    def _act(self, outcomes: Iterable[Outcome]) -> None:
        """Do what the core asked for, with what follows from that behind it."""
        todo = deque(outcomes)
        while todo:
            match todo.popleft():
                case SendGossip(link, frame):
                    todo.extend(self._send(link, frame))
                case ReconnectRemote(link):
                    self.reconnects += 1
                    self.wires[link].cut()
                case Delivery() as delivery:
                    self._deliver(delivery)
                case Dropped(drop):
                    self.drops[drop] += 1
        self._set_clock()

    def _send(self, link: Link, frame: bytes) -> list[Outcome]:
        world = self.world
        connection = self.wires[link].connection if isinstance(link, int) else self.accepted.get(link)
        if connection is None:
            # Whoever connected hears of the end by itself.
            return [] if isinstance(link, int) else self.node.unreachable(link, self.clock)
        is_remote = isinstance(link, int)
        receiver = connection.wire.server if is_remote else connection.wire.client
        if world.full and world.random.random() < world.full:
            return self.node.full(link, frame, self.clock)
        world.count(receiver, frame)
        if world.trace is not None:
            world.trace(world.now, self.name, receiver.name, frame)
        if world.loss and isinstance(receiver, Ours) and world.random.random() < world.loss:
            return []
        (connection.to_server if is_remote else connection.to_client)(frame)
        return []

    def _deliver(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.world.changes += 1
        key = to_bytes(delivery.key)
        value = None if delivery.value is None else to_bytes(delivery.value)
        match delivery.change:
            case Change.NEW:
                assert key not in self.view
            case Change.CHANGED:
                assert self.view[key] != value
            case Change.REMOVED | Change.EXPIRED:
                assert value is None
                del self.view[key]
                return
        assert value is not None
        self.view[key] = value

    def _set_clock(self) -> None:
        next = self.node.next
        if next < self._due_at:
            self._due_at = next
            self._wait(next)

    def _wait(self, until: float) -> None:
        world = self.world
        at = max(until - self._offset, self.busy_until, world.now) + world.delay(0.002)
        node = self.node
        world.at(at, lambda: self._due(node, until))

    def _due(self, node: Node, at: float) -> None:
        if not self.is_alive or node is not self.node or self._due_at != at:
            return
        if self.busy_until > self.world.now:
            self._wait(at)
            return
        self._due_at = inf
        next = node.next
        if next <= self.clock:
            outcomes = node.due(self.clock)
            assert node.next > self.clock, "what was due is due again at once"
            self._act(outcomes)
        self._set_clock()


@define(eq=False)
class _Client:
    """What a real node knows of one that connected to it."""

    heard: float
    is_connected: bool = False


@define(eq=False)
class Real(Member):
    """A model of CZMQ's zgossip node, as 4.2.1 was seen to be.

    It takes whatever it is sent, keeps no versions and deletes nothing. Each change goes to all of its
    clients and then to all of its remotes, the one that it came from included; what changes
    nothing goes nowhere. Anything malformed ends it.
    """

    expiry: float | None = None
    table: dict[bytes, bytes] = field(init=False, factory=dict)
    deliveries: list[tuple[bytes, bytes]] = field(init=False, factory=list)
    sent: int = field(init=False, default=0)
    """Frames."""
    dumps: int = field(init=False, default=0)
    """How often it told all of its tuples."""
    invalids: int = field(init=False, default=0)
    _clients: dict[bytes, _Client] = field(init=False, factory=dict)
    _up: list[bool] = field(init=False, factory=list)
    _ttl: int = field(init=False, default=0)
    """That of the last PUBLISH that came to its ROUTER; it is on all that this sends."""
    _early: dict[int, bytes] = field(init=False, factory=dict)
    """What was left in the pipe of a connection that had broken."""

    @property
    def tuples(self) -> dict[bytes, bytes]:
        return self.table

    def begin(self) -> None:
        self.table, self._clients, self._ttl, self._early = {}, {}, 0, {}

    def publish(self, key: bytes, value: bytes) -> None:
        """What its application does."""
        if self.is_alive:
            self._change(key, value)

    def take(self, inputs: list[_Input]) -> None:
        # Timers come first, also after it was held up.
        self._expire()
        for one in inputs:
            match one:
                case _Up(link):
                    self._came_up(link)
                case _Down():
                    pass
                case _Frame(link, frame):
                    self._receive(link, frame)
            if not self.is_alive:
                return

    def _expire(self) -> None:
        if self.expiry is not None:
            since = self.world.now - self.expiry
            self._clients = {id: client for id, client in self._clients.items() if client.heard > since}

    def _receive(self, link: Link, frame: bytes) -> None:
        try:
            number, fields = _read(frame)
        except (ValueError, struct.error, IndexError) as error:
            self.world.deaths.append(f"{self.name} got {frame[:40]!r}: {error}")
            self.kill()
            return
        if isinstance(link, int):
            self._from_server(link, number, fields)
        else:
            self._from_client(link, number, fields)

    def _from_client(self, id: bytes, number: int, fields: tuple[bytes, bytes, int] | None) -> None:
        client = self._clients.setdefault(id, _Client(self.world.now))
        client.heard = self.world.now
        match number:
            case 1 if not client.is_connected:
                client.is_connected = True
                self._dump(lambda frame: self._to_client(id, frame))
            case 2 if client.is_connected:
                assert fields is not None
                key, value, self._ttl = fields
                self._change(key, value)
            case 3:
                self._to_client(id, _frame(4))
            case _:
                self._refuse(id)

    def _refuse(self, id: bytes) -> None:
        self.invalids += 1
        del self._clients[id]
        self._to_client(id, _frame(5))

    def _from_server(self, link: int, number: int, fields: tuple[bytes, bytes, int] | None) -> None:
        if number == 5:
            self._to_server(link, _frame(1))
        elif fields is not None:
            self._change(*fields[:2])

    def _came_up(self, link: int) -> None:
        early = self._early.pop(link, None)
        if early is not None:
            self._to_server(link, early)
        self._to_server(link, _frame(1))
        self._dump(lambda frame: self._to_server(link, frame), ttl=0)

    def _dump(self, send: Callable[[bytes], None], ttl: int | None = None) -> None:
        self.dumps += 1
        keys = list(self.table)
        self.world.random.shuffle(keys)  # those of a hash table
        for key in keys:
            send(_publish(key, self.table[key], self._ttl if ttl is None else ttl))

    def _change(self, key: bytes, value: bytes) -> None:
        if self.table.get(key) == value:
            return
        self.table[key] = value
        self.deliveries.append((key, value))
        self.world.changes += 1
        self._expire()
        for id, client in list(self._clients.items()):
            if client.is_connected:
                self._to_client(id, _publish(key, value, self._ttl))
            else:
                self._refuse(id)
        for wire in self.wires:
            self._to_server(wire.number, _publish(key, value, 0))

    def _to_client(self, id: bytes, frame: bytes) -> None:
        connection = self.accepted.get(id)
        if connection is not None:
            self._count(connection.wire.client, frame)
            connection.to_client(frame)

    def _to_server(self, link: int, frame: bytes) -> None:
        connection = self.wires[link].connection
        if connection is not None:
            self._count(connection.wire.server, frame)
            connection.to_server(frame)
        elif frame[2] == 2 and self.world.random.random() < 0.2:
            self._early.setdefault(link, frame)

    def _count(self, receiver: Member, frame: bytes) -> None:
        self.sent += 1
        if self.world.trace is not None:
            self.world.trace(self.world.now, self.name, receiver.name, frame)


def _frame(number: int) -> bytes:
    return bytes([0xAA, 0xA0, number, 1])


def _publish(key: bytes, value: bytes, ttl: int) -> bytes:
    return _frame(2) + bytes([len(key)]) + key + struct.pack(">I", len(value)) + value + struct.pack(">I", ttl)


def _read(frame: bytes) -> tuple[int, tuple[bytes, bytes, int] | None]:
    """Number and fields of a frame, as CZMQ reads it; raises ValueError where that gives up."""
    if len(frame) < 4 or frame[:2] != b"\xaa\xa0" or frame[3] != 1 or not 1 <= frame[2] <= 5:
        raise ValueError("no message")
    if frame[2] != 2:
        return frame[2], None
    parts = _parts(frame)
    key, value = next(parts), next(parts)
    (ttl,) = struct.unpack(">I", next(parts))
    return 2, (key.split(b"\0")[0], value.split(b"\0")[0], ttl)


def _parts(frame: bytes) -> Iterator[bytes]:
    at = 5 + frame[4]
    yield _cut(frame, 5, at)
    (size,) = struct.unpack_from(">I", frame, at)
    yield _cut(frame, at + 4, at + 4 + size)
    yield _cut(frame, at + 4 + size, at + 8 + size)


def _cut(frame: bytes, start: int, end: int) -> bytes:
    if end > len(frame):
        raise ValueError("cut off")
    return frame[start:end]
