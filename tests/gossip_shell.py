"""A gossip node's core in the hands of a test: it does what a shell does, and judges each frame.

Every frame of the core must be one that a real node lives on after, see `zproto`, and no longer than
our own sockets take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from uuid import UUID

from attrs import define, field

import zproto
from zdisco._core.actions import Drop, Dropped
from zdisco._core.config import GossipConfig
from zdisco._core.gossip.frames import (
    FRAME_LIMIT,
    Entry,
    GossipMessage,
    Greeting,
    Hello,
    Ping,
    Pong,
    Publish,
    Renewal,
    Trailer,
    Tuples,
    Version,
    decode,
    encode,
)
from zdisco._core.gossip.model import Delivery
from zdisco._core.gossip.node import Node, Outcome, ReconnectRemote, SendGossip
from zdisco._core.gossip.talk import Link

EPOCH = 1_700_000_000.0
OURS = UUID(int=0xA0)
"""Id of the node that is tested."""
OTHER = UUID(int=0xB0)
"""Id of another one of our kind."""
LATER = Version(2**42, OTHER.bytes)
"""Later than anything that is written in this century."""


@define(eq=False)
class Shell:
    """One core with what it asked for."""

    config: GossipConfig = field(factory=GossipConfig)
    id: UUID = OURS
    node: Node = field(init=False)
    now: float = 0.0
    epoch: float = EPOCH
    """Its wall clock at that time 0; may be set."""
    sent: list[tuple[Link, GossipMessage]] = field(factory=list)
    """What was sent and not taken yet."""
    sent_frames: int = 0
    sent_bytes: int = 0
    """How much was sent in all."""
    deliveries: list[Delivery] = field(factory=list)
    drops: Counter[Drop] = field(factory=Counter)
    reconnected: list[int] = field(factory=list)
    full: set[Link] = field(factory=set)
    """Those whose queue has no room."""
    gone: set[Link] = field(factory=set)
    """Clients whose connection has ended."""

    def __attrs_post_init__(self) -> None:
        self.node = Node(self.id, self.config, lambda: self.epoch + self.now)

    def feed(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case SendGossip(link, frame):
                    self._send(link, frame)
                case ReconnectRemote(link):
                    self.reconnected.append(link)
                case Delivery():
                    self.deliveries.append(outcome)
                case Dropped(drop):
                    self.drops[drop] += 1

    def _send(self, link: Link, frame: bytes) -> None:
        zproto.read(frame)
        assert len(frame) <= FRAME_LIMIT
        if link in self.full:
            self.feed(self.node.full(link, frame, self.now))
        elif isinstance(link, bytes) and link in self.gone:
            self.feed(self.node.unreachable(link, self.now))
        else:
            self.sent_frames += 1
            self.sent_bytes += len(frame)
            self.sent.append((link, decode(frame)))

    # Time

    def until(self, at: float) -> None:
        """Let time pass as a shell that is never late."""
        for _ in range(100_000):
            if self.node.next > at:
                break
            self.now = max(self.now, self.node.next)
            self.feed(self.node.due(self.now))
        else:
            raise AssertionError("the node is always due")
        self.now = at

    def wait(self, seconds: float) -> None:
        self.until(self.now + seconds)

    def stall(self, seconds: float) -> None:
        """Run late: nothing happens for so long, then all that was due."""
        self.now += seconds
        self.wait(0.0)

    # What the user does

    def publish(self, key: bytes, value: bytes, ttl: float | None = None) -> None:
        self.feed(self.node.publish(key, value, ttl, self.now))

    def unpublish(self, key: bytes) -> None:
        self.feed(self.node.unpublish(key, self.now))

    def leave(self) -> None:
        self.feed(self.node.leave(self.now))

    # What others do

    def up(self, link: int = 1) -> list[GossipMessage]:
        """A connection to a remote is there; returns what it is told."""
        self.feed(self.node.up(link, self.now))
        return self.said(link)

    def hear(self, link: Link, *messages: GossipMessage) -> list[GossipMessage]:
        """All that comes in one step from one; returns what it is told."""
        return self.hear_frames(link, *map(encode, messages))

    def hear_frames(self, link: Link, *frames: bytes) -> list[GossipMessage]:
        self.feed(self.node.received([(link, frame) for frame in frames], self.now))
        return self.said(link)

    def said(self, link: Link) -> list[GossipMessage]:
        """What this one was told and is not taken yet."""
        told = [message for to, message in self.sent if to == link]
        self.sent = [(to, message) for to, message in self.sent if to != link]
        return told

    def full_for(self, link: Link, *messages: GossipMessage) -> None:
        for message in messages:
            self.feed(self.node.full(link, encode(message), self.now))

    def befriend(self, link: Link, id: UUID = OTHER) -> None:
        """One of our kind is there, which holds nothing."""
        if isinstance(link, int):
            self.up(link)
            self.hear(link, Pong(Greeting(id, 0, 0)))
        else:
            self.hear(link, Hello(Greeting(id, 0, 0)))
        self.said(link)

    def welcome(self, link: Link, *tuples: Publish) -> None:
        """A real node is there, which holds these tuples, and has been told ours."""
        if isinstance(link, int):
            self.up(link)
            self.hear(link, *tuples, Pong())
        else:
            self.hear(link, Hello(), *tuples)
            self.wait(self.config.settle_time)
        self.said(link)

    @property
    def tuples(self) -> dict[bytes, bytes]:
        return dict(self.node.tuples)


@define(eq=False)
class Net:
    """Nodes of ours that are connected by links on which each frame takes the same time."""

    shells: list[Shell]
    delay: float = 0.01
    entries: int = 0
    """Frames that carried tuples."""
    tuples: int = 0
    """How many they carried."""
    _wires: dict[tuple[int, Link], tuple[int, Link]] = field(init=False, factory=dict)

    @classmethod
    def ring(cls, size: int, config: GossipConfig) -> Net:
        net = cls([Shell(config, UUID(int=number + 1)) for number in range(size)])
        for number in range(size):
            net.connect(number, (number + 1) % size)
        return net

    def connect(self, client: int, server: int) -> None:
        number, routing_id = len(self._wires), b"client %d" % len(self._wires)
        self._wires[client, number] = server, routing_id
        self._wires[server, routing_id] = client, number
        shell = self.shells[client]
        shell.feed(shell.node.up(number, shell.now))

    def run(self, seconds: float) -> None:
        end = self.shells[0].now + seconds
        while self.shells[0].now < end:
            sent = [(number, *one) for number, shell in enumerate(self.shells) for one in shell.sent]
            for shell in self.shells:
                shell.sent.clear()
                shell.wait(self.delay)
            for number, link, message in sent:
                if (number, link) not in self._wires:
                    continue  # to somebody outside
                told = len(entries_in([message]))
                self.entries += bool(told)
                self.tuples += told
                other, back = self._wires[number, link]
                shell = self.shells[other]
                shell.feed(shell.node.received([(back, encode(message))], shell.now))

    def are_equal(self) -> bool:
        """Whether all hold the same."""
        first = self.shells[0].tuples
        return all(shell.tuples == first for shell in self.shells)


def carried(link: Link, trailer: Trailer) -> Ping | Pong:
    """What brings a trailer from one of our kind."""
    return Pong(trailer) if isinstance(link, int) else Ping(trailer)


def tuples(*entries: Entry | Renewal) -> Tuples:
    return Tuples(entries)


def entries_in(messages: Iterable[GossipMessage]) -> list[Entry | Renewal]:
    """All entries that are told in these messages."""
    return [
        entry
        for message in messages
        if isinstance(message, Ping | Pong) and isinstance(message.trailer, Tuples)
        for entry in message.trailer.entries
    ]
