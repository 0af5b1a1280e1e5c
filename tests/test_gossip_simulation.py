"""Laws of whole gossip networks that do not exist: loss, partitions, stalls, deaths and restarts, on a clock turned by
hand; see ``gossip_world.py``.

What they promise, in seconds and messages:

* What changes reaches everybody within the time that frames take. What was lost on the way is there
  within `FOUND` after the last loss.
* A tuple with a time to live is gone everywhere within that time after its owner's last sign, plus
  the time that the sign took to get there.
* A change makes at most two messages for each connection, less one for each node but its writer:
  ``2 * connections - nodes + 1``; where there are no cycles, one for each connection. A connection
  that comes up costs at most `GREETINGS`, and then two in each ``greeting_interval``. Comparing two
  stores takes one message, and one for each ``BATCH_SIZE`` bytes of what differs, each way.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from effort import LONG
from gossip_world import Member, Ours, Shape, World
from zdisco._core.config import GossipConfig
from zdisco._core.gossip.frames import BATCH_SIZE, Tuples, decode
from zdisco._core.gossip.model import Change

SEEDS = st.integers(0, 2**32 - 1)
CONFIG = GossipConfig()
GREETINGS = 6
"""HELLO, two PING, and the answers to them."""
RECONNECT = 2.5
"""Seconds after which a connection is there again at the latest, once that is possible."""
FOUND = CONFIG.digest_interval + 2 * CONFIG.greeting_interval
"""Seconds after which what was lost is found, with the time that it takes to get everywhere."""
SILENT = CONFIG.silence_timeout + 2 * CONFIG.greeting_interval + RECONNECT
"""Seconds after which a connection over which nothing passes is made anew."""
CROSSING = 0.025
"""Seconds from one node to the next at most: a frame's way, a late wake-up, a late timer."""


def values_of(world: World, key: bytes) -> set[bytes | None]:
    """What our nodes hold."""
    return {node.tuples.get(key) for node in world.nodes()}


def entries_in(frame: bytes) -> int:
    """How many tuples one of ours tells another in a frame."""
    trailer = getattr(decode(frame), "trailer", None)
    return len(trailer.entries) if isinstance(trailer, Tuples) else 0


# Messages


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize("size", [2, 16, 64])
def test_a_change_makes_no_more_messages_than_is_stated(shape: Shape, size: int) -> None:
    world = World(seed=size)
    nodes = world.network(shape, size)
    connections = len(world.wires)
    world.run(1.0)
    assert world.sent.keys() == {"Greeting"}, "equal stores have nothing to compare"
    assert world.sent["Greeting"] <= GREETINGS * connections
    for number in range(10):
        world.sent.clear()
        writer = world.random.choice(nodes)
        assert isinstance(writer, Ours)
        writer.publish(b"key", b"%d" % number, ttl=1000.0 if number % 2 else None)
        world.run_until(world.is_settled, size * CROSSING)
        world.run(size * CROSSING)
        made = world.sent["Tuples"]
        assert connections <= made <= 2 * connections - size + 1
        if shape in (Shape.LINE, Shape.STAR):
            assert made == connections
    world.check()


def test_a_network_at_rest_says_two_messages_for_each_connection_and_interval() -> None:
    world = World(seed=1)
    nodes = world.network(Shape.RANDOM, 16)
    for node in nodes:
        assert isinstance(node, Ours)
        for number in range(20):
            node.publish(f"{node.name}.{number}".encode(), b"value")
    world.run(60.0)
    assert world.is_settled()
    world.sent.clear()
    world.sent_bytes = 0
    world.run(100 * CONFIG.greeting_interval)
    assert set(world.sent) == {"Greeting"}
    assert world.sent["Greeting"] <= 2 * 101 * len(world.wires)
    assert world.sent_bytes / world.sent["Greeting"] <= 64


def test_a_refresh_takes_as_many_messages_as_a_change_and_does_not_carry_the_value() -> None:
    world = World(seed=2)
    nodes = world.network(Shape.RING, 8)
    owner = nodes[0]
    assert isinstance(owner, Ours)
    owner.publish(b"key", bytes(range(1, 251)) * 40, ttl=30.0)
    world.run(1.0)
    world.sent.clear()
    world.sent_bytes = 0
    world.run(99.0)
    assert world.is_settled()
    assert 0 < world.sent["Tuples"] <= 10 * (2 * len(world.wires) - len(nodes) + 1)
    assert world.sent_bytes < 64 * world.sent.total()


@given(seed=SEEDS)
@settings(max_examples=2, deadline=None)
def test_a_large_store_is_not_sent_again_to_a_node_that_has_it(seed: int) -> None:
    world = World(seed)
    one, other = world.ours("one"), world.ours("other")
    for number in range(10_000):
        one.publish(b"key %d" % number, b"value " * 5)
    wire = world.connect(one, other)
    world.run_until(world.is_settled, 5.0)
    whole = sum(len(key) + len(value) for key, value in one.tuples.items())
    world.part(one, other, 10.0)
    other.publish(b"key 4711", b"changed")
    world.run(5.0)
    world.sent.clear()
    world.sent_bytes = 0
    world.run_until(world.is_settled, 5.0 + RECONNECT)
    world.run(60.0)
    assert wire.connection is not None
    # 2 KiB of sums, then all versions of one part of 256, then the tuple.
    assert world.sent_bytes < 8_000 < whole / 40
    assert (world.sent["Sums"], world.sent["Summary"], world.sent["Wants"], world.sent["Tuples"]) == (1, 1, 1, 1)


def test_a_comparison_takes_one_message_for_each_batch_of_what_differs() -> None:
    world = World(seed=3)
    one, other = world.ours("one"), world.ours("other")
    for number in range(3_000):
        one.publish(b"one %d" % number, b"v" * 100)
        other.publish(b"other %d" % number, b"v" * 100)
    world.connect(one, other)
    world.run_until(world.is_settled, 10.0)
    world.run(60.0)
    versions = 3_000 * (len("other 1000") + 25)
    tuples = 3_000 * (len("other 1000") + 38 + 100)
    assert world.sent["Sums"] == 1
    assert world.sent["Summary"] <= versions / BATCH_SIZE + 1
    # Each part is answered by itself.
    assert world.sent["Wants"] <= world.sent["Summary"]
    assert world.sent["Tuples"] <= 2 * (tuples / BATCH_SIZE + 1 + world.sent["Summary"])


# What one node does reaches all


@given(seed=SEEDS, shape=st.sampled_from(Shape))
@settings(max_examples=15, deadline=None)
def test_of_what_many_write_at_the_same_time_one_value_stays_everywhere(seed: int, shape: Shape) -> None:
    world = World(seed, skew=100.0)
    nodes = world.network(shape, 12)
    world.run(1.0)
    written = set()
    for number in range(3):
        for node in world.random.sample(nodes, 5):
            assert isinstance(node, Ours)
            value = f"{node.name} {number}".encode()
            written.add(value)
            node.publish(b"key", value)
        world.run(world.random.choice([0.0, 0.005, 0.05]))
    world.sent.clear()
    world.run_until(world.is_settled, 12 * CROSSING)
    world.run(1.0)
    assert values_of(world, b"key") <= written
    assert len(values_of(world, b"key")) == 1
    world.check()


@given(seed=SEEDS, shape=st.sampled_from(Shape), ttl=st.sampled_from([0.3, 2.0, 20.0]), leaves=st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_tuple_lives_as_long_as_its_owner_and_is_then_gone_in_time(
    seed: int, shape: Shape, ttl: float, leaves: bool
) -> None:
    world = World(seed, skew=1000.0)
    nodes = world.network(shape, 12)
    owner = world.random.choice(nodes)
    assert isinstance(owner, Ours)
    world.run(1.0)
    owner.publish(b"key", b"value", ttl=ttl)
    world.run(12 * CROSSING)
    for _ in range(10):
        world.run(ttl * world.random.random())
        assert values_of(world, b"key") == {b"value"}
    assert sum(len(node.deliveries) for node in world.nodes()) == 12
    if leaves:
        owner.leave()
        # For some it is the end of its time, where that comes first.
        limit = 12 * CROSSING
    else:
        owner.kill()
        limit = ttl + 12 * CROSSING
    world.run_until(lambda: values_of(world, b"key") == {None}, limit)
    world.run(3 * ttl + FOUND)
    assert values_of(world, b"key") == {None}
    for node in world.nodes():
        assert [delivery.change for delivery in node.deliveries][1:] in ([Change.REMOVED], [Change.EXPIRED])
    if not owner.is_alive:
        owner.restart()
        world.run(RECONNECT)
        assert values_of(world, b"key") == {None}


@given(seed=SEEDS, away=st.sampled_from([1.0, 30.0, 500.0]), way=st.sampled_from(["parted", "stalled", "held"]))
@settings(max_examples=20, deadline=None)
def test_what_was_deleted_is_gone_for_those_too_who_were_away(seed: int, away: float, way: str) -> None:
    world = World(seed, skew=1000.0)
    nodes = world.network(world.random.choice(list(Shape)), 10)
    missing = world.random.sample(nodes, 3)
    world.run(1.0)
    for node in nodes:
        assert isinstance(node, Ours)
        for number in range(3):
            node.publish(f"{node.name} {number}".encode(), b"value")
    world.run(1.0)
    for node in missing:
        match way:
            case "parted":
                world.partition([[node], [other for other in nodes if other is not node]], away)
            case "stalled":
                node.stall(away)
            case "held":
                for other in nodes:
                    world.hold(node, other, away)
    world.run(0.1)
    rest = [node for node in nodes if node not in missing]
    for node in rest:
        assert isinstance(node, Ours)
        for other in nodes:
            # What is gone already is no news; who was cut off from the rest deletes it for himself.
            node.unpublish(f"{other.name} 1".encode())
    world.run(away)
    world.run(SILENT + RECONNECT)
    assert world.is_settled(), world.differences()
    world.run(FOUND)
    left = {f"{node.name} {number}".encode() for node in nodes for number in (0, 2)}
    assert all(set(node.tuples) == left for node in nodes)
    world.check()


@given(seed=SEEDS, shape=st.sampled_from(Shape))
@example(seed=3_056_195_667, shape=Shape.RANDOM)
@settings(max_examples=10, deadline=None)
def test_a_node_that_was_restarted_gets_everything_and_its_neighbours_nothing_again(seed: int, shape: Shape) -> None:
    world = World(seed)
    nodes = world.network(shape, 10)
    for node in nodes:
        assert isinstance(node, Ours)
        for number in range(20):
            node.publish(f"{node.name} {number}".encode(), b"value %d" % number)
    world.run_until(world.is_settled, RECONNECT)
    world.run(1.0)  # what others have had another way is still coming
    victim = world.random.choice(nodes)
    assert isinstance(victim, Ours)
    victim.kill()
    world.run(world.random.choice([0.0, 1.0, 20.0]))
    told = {node.name: len(node.deliveries) for node in world.nodes()}
    carried: Counter[str] = Counter()
    world.trace = lambda at, sender, receiver, frame: carried.update({receiver: entries_in(frame)})
    victim.restart()
    world.run_until(world.is_settled, RECONNECT + 1.0)
    world.run(FOUND)
    assert len(victim.tuples) == 200
    assert told == {node.name: len(node.deliveries) for node in world.nodes() if node is not victim}
    # Each of its neighbours may send all that it has before another one has.
    neighbours = sum(victim in (wire.client, wire.server) for wire in world.wires)
    assert 200 <= carried.pop(victim.name) <= 200 * neighbours
    assert carried.total() <= 200 * (neighbours - 1)
    world.check()


# Everything fails


class Chaos:
    """All that can happen to a network, one thing after the other."""

    def __init__(self, world: World, members: list[Member], ttls: tuple[float, ...] = (1.0, 5.0)) -> None:
        self.world = world
        self.members = members
        self.ttls = [None, None, *ttls]
        self.random = Random(world.seed)
        self.keys = [b"key %d" % number for number in range(8)]
        self.written: dict[bytes, set[bytes]] = {key: set() for key in self.keys}
        self._number = 0

    def run(self, seconds: float) -> None:
        end = self.world.now + seconds
        while self.world.now < end:
            self.world.run(2.0 * self.random.random() ** 3)
            does = self.random.choices(
                [
                    self._write,
                    self._delete,
                    self._stall,
                    self._die,
                    self._part,
                    self._hold,
                    self._partition,
                    self._set_clock,
                ],
                [45, 15, 8, 16, 6, 4, 3, 3],
            )
            does[0]()
            self.world.check()

    def calm(self) -> None:
        """Nothing fails any more."""
        self.world.loss = self.world.full = 0.0
        for member in self.members:
            if not member.is_alive:
                member.restart()

    def _one(self) -> Member:
        return self.random.choice(self.members)

    def _write(self) -> None:
        member, key = self._one(), self.random.choice(self.keys)
        if not member.is_alive or member.is_busy:
            return
        self._number += 1
        value = f"{member.name} {self._number}".encode()
        self.written[key].add(value)
        if isinstance(member, Ours):
            member.publish(key, value, self.random.choice(self.ttls))

    def _delete(self) -> None:
        member = self._one()
        if isinstance(member, Ours) and member.is_alive and not member.is_busy:
            member.unpublish(self.random.choice(self.keys))

    def _stall(self) -> None:
        self._one().stall(self.random.choice([0.1, 1.0, 5.0]))

    def _die(self) -> None:
        member = self._one()
        if not member.is_alive:
            member.restart()
        elif len(self.world.alive()) > len(self.members) / 2:
            member.kill()

    def _part(self) -> None:
        wire = self.random.choice(self.world.wires)
        self.world.part(wire.client, wire.server, self.random.choice([0.0, 3.0, 10.0]))

    def _hold(self) -> None:
        wire = self.random.choice(self.world.wires)
        self.world.hold(wire.client, wire.server, self.random.choice([0.5, 3.0, 20.0]))

    def _partition(self) -> None:
        one = [member for member in self.members if self.random.random() < 0.5]
        self.world.partition(
            [one, [member for member in self.members if member not in one]], self.random.choice([1, 10])
        )

    def _set_clock(self) -> None:
        member = self._one()
        if isinstance(member, Ours):
            member.skew = self.random.uniform(-self.world.skew, self.world.skew)


def assert_it_settles(chaos: Chaos) -> None:
    """Within the stated time all hold the same, which somebody wrote, and that stays so."""
    world = chaos.world
    chaos.calm()
    # What was held up is over after that; only then the last frames may be lost.
    world.run_until(world.is_settled, SILENT + FOUND)
    world.run(20.0)
    assert world.is_settled(), world.differences()
    world.check()
    for key, value in world.nodes()[0].tuples.items():
        assert value in chaos.written[key]


@given(seed=SEEDS, loss=st.sampled_from([0.0, 0.0, 0.2]), full=st.sampled_from([0.0, 0.0, 0.2]))
@settings(max_examples=10, deadline=None)
def test_a_small_network_settles_whatever_happened_to_it(seed: int, loss: float, full: float) -> None:
    world = World(seed, latency=0.02, loss=loss, full=full, skew=3600.0)
    members = world.network(world.random.choice(list(Shape)), world.random.randint(10, 20))
    chaos = Chaos(world, members)
    chaos.run(30.0)
    assert_it_settles(chaos)


@pytest.mark.timeout(600 if LONG else 60)
@pytest.mark.parametrize("shape", Shape)
def test_200_nodes_settle_whatever_happened_to_them(shape: Shape) -> None:
    world = World(seed=200, latency=0.02, loss=0.05, full=0.05, skew=3600.0)
    chaos = Chaos(world, world.network(shape, 200), ttls=(20.0, 60.0))
    chaos.run(300.0 if LONG else 60.0)
    assert_it_settles(chaos)


def test_a_seed_gives_the_same_frames_at_the_same_times_again() -> None:
    def trace() -> list[tuple[float, str, str, bytes]]:
        sent: list[tuple[float, str, str, bytes]] = []
        world = World(seed=7, loss=0.1, full=0.1, trace=lambda *one: sent.append(one))
        chaos = Chaos(world, world.network(Shape.RANDOM, 10))
        chaos.run(10.0)
        assert_it_settles(chaos)
        return sent

    first = trace()
    assert len(first) > 1000
    assert first == trace()
