"""Frames that no node would send, to the core of a gossip node that speaks with others of both kinds.

``python -m bench fuzz 1000000`` sends so many at random, and prints what became of them and whether memory
grows. Each run of one number and one seed is the same run.

Guided by coverage, with atheris, which is no dependency of anything here::

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris -e .
    mkdir -p /tmp/corpus && /tmp/fuzz/bin/python - /tmp/corpus -max_total_time=600 -max_len=4096 <<END
    import atheris, sys
    with atheris.instrument_imports(include=["zdisco._core.gossip"]):
        from bench.fuzz_gossip import run_input
    atheris.Setup(sys.argv, run_input)
    atheris.Fuzz()
    END

An input of atheris is a list of steps of one node, see `steps_in`; a finding is an exception, and is
left in a file that the same command takes in the place of the directory.
"""

from __future__ import annotations

import gc
import resource
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from random import Random
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from uuid import UUID

from attrs import define, field

from zdisco._core.actions import Drop, Dropped
from zdisco._core.config import GossipConfig
from zdisco._core.errors import MalformedMessage
from zdisco._core.gossip.frames import (
    BUCKETS,
    COUNTER_LIMIT,
    FRAME_LIMIT,
    LONGEST_LIFE,
    Entry,
    GossipMessage,
    Greeting,
    Hello,
    Invalid,
    Ping,
    Pong,
    Publish,
    Renewal,
    Summary,
    Sums,
    Trailer,
    Tuples,
    Version,
    Wants,
    decode,
    digest_of,
    encode,
)
from zdisco._core.gossip.model import Delivery
from zdisco._core.gossip.node import Node, Outcome, SendGossip
from zdisco._core.gossip.talk import Link

ID, OTHER, THIRD = (UUID(int=number) for number in (0xA, 0xB, 0xC))
"""The node, one that it is connected to, and one that it has never met."""
KEYS = (*(b"%d" % number for number in range(120)), b"", b"k" * 255)
VALUES = (b"", b"v", b"w", b"x" * 300)
REMOTES = (1, 2, 3, 4)
"""One of our kind, a real one, one that has not answered yet, one that nobody knows."""
CLIENTS = (b"ours", b"real", b"self", *(b"client %d" % number for number in range(20)))
LINKS: tuple[Link, ...] = (*REMOTES, *CLIENTS)

CONFIG = GossipConfig(
    max_tuples=80, max_tombstones=30, max_clients=12, client_timeout=3.0, tombstone_time=5.0, digest_interval=2.0
)
"""Bounds that are met all the time."""
MOST_OBJECTS = 60_000
"""What a node of these bounds may consist of."""

_NO_STATE = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)


def accept(_: bytes) -> None:
    """Judge no frame."""


class Step(Enum):
    """What happens to a node."""

    FRAME = 0
    TIME = 1
    UP = 2
    DOWN = 3
    UNREACHABLE = 4
    FULL = 5
    USER = 6


@define(eq=False)
class Target:
    """A node with neighbours, and what became of what it was sent.

    Args:
        judge: Called with each frame that it sends; raises if it must not.
        tuples: How many it has published before anything comes.
    """

    judge: Callable[[bytes], object] = accept
    tuples: int = 20
    node: Node = field(init=False)
    now: float = 0.0
    frames: int = 0
    rejected: int = 0
    """How many of them are no messages."""
    sent: int = 0
    sent_bytes: int = 0
    deliveries: int = 0
    drops: Counter[Drop] = field(factory=Counter)
    full: bool = False
    """Whether nobody has room at the moment."""

    def __attrs_post_init__(self) -> None:
        self.node = Node(ID, CONFIG, lambda: 1_700_000_000.0 + self.now)
        for number in range(self.tuples):
            ttl = (None, 2.0)[number % 2]
            self.feed(self.node.publish(b"%d" % number, b"v", ttl, self.now))
        self.meet()

    def meet(self) -> None:
        """Have neighbours of both kinds, in both roles."""
        for link in (1, 2, 3):
            self.feed(self.node.up(link, self.now))
        self.deliver(1, encode(Pong(Greeting(OTHER, 1, 1))))
        self.deliver(2, encode(Publish(b"1", b"w")), encode(Pong()))
        self.deliver(b"ours", encode(Hello(Greeting(OTHER, 1, 1))))
        self.deliver(b"real", encode(Hello()), encode(Publish(b"2", b"w")))
        self.deliver(b"self", encode(Hello(Greeting(ID, 1, 1))))
        self.pass_time(0.1)

    def feed(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case SendGossip(link, frame):
                    self._send(link, frame)
                case Dropped(drop):
                    self.drops[drop] += 1
                case Delivery():
                    self.deliveries += 1

    def _send(self, link: Link, frame: bytes) -> None:
        assert len(frame) <= FRAME_LIMIT
        self.judge(frame)
        self.sent += 1
        self.sent_bytes += len(frame)
        if self.full:
            self.feed(self.node.full(link, frame, self.now))

    def deliver(self, link: Link, *frames: bytes) -> None:
        """Let frames come in one input, whatever they are."""
        for frame in frames:
            self.frames += 1
            try:
                decode(frame)
            except MalformedMessage:
                self.rejected += 1
        self.feed(self.node.received([(link, frame) for frame in frames], self.now))

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(10_000):
            if self.node.next > end:
                break
            self.now = max(self.now, self.node.next)
            self.feed(self.node.due(self.now))
        else:
            raise AssertionError("the node is always due")
        self.now = end

    def take(self, step: Step, link: Link, frame: bytes) -> None:
        """Do one step, of which only some look at the link or the frame."""
        number = frame[0] if frame else 0
        match step:
            case Step.FRAME:
                self.deliver(link, frame)
            case Step.TIME:
                self.pass_time(number / 500)
            case Step.UP if isinstance(link, int):
                self.feed(self.node.up(link, self.now))
            case Step.DOWN if isinstance(link, int):
                self.feed(self.node.down(link, self.now))
            case Step.UNREACHABLE if isinstance(link, bytes):
                self.feed(self.node.unreachable(link, self.now))
            case Step.FULL:
                self.full = number % 8 == 0
            case Step.USER:
                self._use(number)

    def _use(self, number: int) -> None:
        key, value = KEYS[number % len(KEYS)], VALUES[number % len(VALUES)]
        if number % 3:
            self.feed(self.node.publish(key, value, (None, 1.0)[number % 2], self.now))
        else:
            self.feed(self.node.unpublish(key, self.now))

    def check(self) -> None:
        """Raise if anything has left its bounds, or was not counted."""
        node, status = self.node, self.node.status
        assert status.tuples == len(node.tuples) <= CONFIG.max_tuples
        assert status.tombstones <= CONFIG.max_tombstones
        assert status.clients <= CONFIG.max_clients
        assert status.remotes <= len(REMOTES)
        assert self.drops[Drop.MALFORMED_GOSSIP] == self.rejected


def reachable(root: object) -> int:
    """How many objects hang together with one, classes and functions apart."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        for one in gc.get_referents(waiting.pop()):
            if id(one) not in seen and not isinstance(one, _NO_STATE):
                seen.add(id(one))
                waiting.append(one)
    return len(seen)


# At random


@define(eq=False)
class Frames:
    """Frames at random: messages that make sense, and what is left of such when they were damaged."""

    random: Random
    _count: int = 0

    def frame(self) -> bytes:
        frame = encode(self._message())
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 5))):
            frame = self._damaged(frame)
        return frame

    def _damaged(self, frame: bytes) -> bytes:
        random = self.random
        at = random.randrange(len(frame) + 1)
        match random.randrange(6):
            case 0:
                return frame[:at]
            case 1:
                return frame[:at] + random.randbytes(random.randrange(1, 9)) + frame[at:]
            case 2:
                return frame[:at] + frame[at + random.randrange(1, 9) :]
            case 3:
                return frame[:at] + encode(self._message())[random.randrange(9) :]
            case 4:
                return frame[:at] + bytes([random.choice((0, 1, 2, 0x7F, 0x80, 0xFF))]) + frame[at + 1 :]
            case _:
                return frame[:at] + bytes([random.randrange(256)]) + frame[at + 1 :]

    def _message(self) -> GossipMessage:
        random = self.random
        trailer = self._trailer() if random.random() < 0.8 else None
        kinds = (Hello(trailer), Ping(trailer), Pong(trailer), Invalid())
        if random.random() < 0.3:
            return Publish(random.choice(KEYS), random.choice(VALUES), random.choice((0, 1, LONGEST_LIFE)))
        return random.choices(kinds, (2, 8, 8, 1))[0]

    def _trailer(self) -> Trailer:
        random = self.random
        keys = random.choices(KEYS, k=random.randrange(6))
        match random.randrange(8):
            case 0:
                return Greeting(random.choice((ID, OTHER, THIRD)), random.getrandbits(64), random.getrandbits(32))
            case 1:
                return Sums(tuple(random.getrandbits(64) for _ in range(BUCKETS)))
            case 2:
                buckets = frozenset(random.sample(range(BUCKETS), random.choice((0, 3, BUCKETS))))
                ends = random.choice(((b"", b""), (b"2", b"5"), (b"5", b"2")))
                return Summary(buckets, tuple((key, self._version(key)) for key in keys), *ends)
            case 3:
                return Wants(tuple(keys) * random.choice((1, 1, 50)))
            case _:
                return Tuples(tuple(map(self._entry, keys)))

    def _entry(self, key: bytes) -> Entry | Renewal:
        random = self.random
        life = random.choice((0, 1, 50, 3_000, LONGEST_LIFE))
        if random.random() < 0.2:
            return Renewal(key, self._version(key), digest_of(random.choice(VALUES)), life)
        return Entry(key, self._version(key), random.choice((None, *VALUES)), life)

    def _version(self, key: bytes) -> Version:
        # Mostly later than what was, or soon nothing would change any more.
        self._count += 1
        counters = [1, self._count, 2**41 + self._count]
        if key == KEYS[-1]:
            counters.append(COUNTER_LIMIT)
        return Version(self.random.choice(counters), self.random.choice((ID.bytes, OTHER.bytes, b"\xff" * 16)))


def send(target: Target, random: Random, frames: int) -> None:
    """Let so many frames come at random, with now and then something else in between."""
    made = Frames(random)
    end = target.frames + frames
    while target.frames < end:
        link = random.choice(LINKS)
        if random.random() < 0.8:
            target.deliver(link, *(made.frame() for _ in range(random.choice((1, 1, 1, 4)))))
        else:
            target.take(random.choice(list(Step)), link, random.randbytes(1))
        if random.random() < 0.002:
            target.check()
            assert reachable(target.node) <= MOST_OBJECTS
            target.meet()
    target.check()


def measure(frames: int, seed: int = 1) -> None:
    """Send so many frames, and print what became of them, and of the memory."""
    target, random, began = Target(), Random(seed), time.monotonic()
    send(target, random, frames // 2)
    # What is there now is not traced: a quarter later most of it has been replaced by what is.
    tracemalloc.start()
    send(target, random, frames // 4)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    objects = reachable(target.node)
    send(target, random, frames - frames // 2 - frames // 4)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
    print(f"\n{target.frames:,} frames to one gossip node in {time.monotonic() - began:,.0f} s, seed {seed}")
    print(f"no messages, and counted as such: {target.rejected:,}")
    print(f"answered with {target.sent:,} frames of {target.sent_bytes:,} bytes, {target.deliveries:,} deliveries")
    print("dropped: " + ", ".join(f"{drop.value} {count:,}" for drop, count in target.drops.most_common()))
    print(f"the node: {objects:,} objects after three quarters, {reachable(target.node):,} at the end")
    print(f"memory in the last quarter: {(after - before) / 1024:,.0f} KiB allocated, {grown:,} KiB resident at most")


# Guided by coverage


def steps_in(data: bytes) -> Iterator[tuple[Step, Link, bytes]]:
    """An input as steps: what (1 byte), with whom (1), how it begins (1), size (2), bytes."""
    at = 0
    while at + 5 <= len(data):
        what, whom, beginning = data[at : at + 3]
        size = int.from_bytes(data[at + 3 : at + 5])
        body = data[at + 5 : at + 5 + size]
        at += 5 + size
        # Most are frames.
        step = Step(what % len(Step)) if what < 64 else Step.FRAME
        yield step, LINKS[whom % len(LINKS)], _beginnings[beginning % len(_beginnings)] + body


_beginnings = (
    b"",
    *(b"\xaa\xa0" + bytes([number, 1]) for number in range(1, 6)),
    *(b"\xaa\xa0" + bytes([number, 1]) + b"ZD\x01" + bytes([kind]) for number in (1, 3, 4) for kind in range(1, 6)),
)


def run_input(data: bytes) -> None:
    """Take one input: a new node goes through its steps."""
    target = Target(tuples=3)
    for step, link, frame in steps_in(data):
        target.take(step, link, frame)
    target.pass_time(0.2)
    target.check()
