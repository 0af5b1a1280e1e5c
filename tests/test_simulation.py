"""Several cores on a network that loses, repeats, reorders, cuts and kills: do they end up agreeing?

Each law takes the seed of everything from hypothesis, so a failure replays. That nobody joins
twice, that events come in pairs and that joined means deliverable is asserted by the network at
each event, see ``simulation.py``.
"""

from __future__ import annotations

from random import Random

import pytest
from attrs import define, evolve, field
from hypothesis import example, given, settings
from hypothesis import strategies as st

from effort import LONG
from simulation import WELL_KNOWN, FakePeer, FakeProxy, Network
from zdisco._core.actions import Drop
from zdisco._core.config import PeerConfig
from zdisco._core.events import PeerGone, PeerJoined, PeerSuspected, PeerUpdated, ProxyFound, ProxyLost
from zdisco._core.model import Cause, LinkState, PeerId, PeerInfo
from zdisco._core.wire import Announce, DiscoveryMessage, Farewell, Welcome, encode

BEACONS = 85.0
"""Long enough for two beacons of everybody."""

SEEDS = st.integers(0, 2**32 - 1)


def is_complete(network: Network) -> bool:
    """Whether everybody alive has joined with everybody else alive, and with nobody who is not."""
    return all(
        peer.core.joined.keys() == {other.id for other in network.alive if other is not peer} for peer in network.alive
    )


def assert_agreement(network: Network) -> None:
    ids = {peer.id: peer.name for peer in network.alive}
    for peer in network.alive:
        assert {ids.get(id, "nobody") for id in peer.core.joined} == set(ids.values()) - {peer.name}, peer.name
        assert set(peer.stays) == set(ids) - {peer.id}
        assert set(peer.stays.values()) <= {LinkState.JOINED}
        for other in network.alive:
            if other is not peer:
                connection = peer.sub.sockets[other.endpoint].connection
                assert connection is not None
                assert set(peer.sub.topics) == set(connection.in_force)
        assert len(peer.sub.sockets) == len(ids) - 1 + sum(classic.is_alive for classic in network.classics)


def knows(peer: FakePeer, other: FakePeer) -> bool:
    return peer is other or peer.core.joined.get(other.id) == other.core.info


def count(peer: FakePeer, kind: type) -> int:
    return sum(isinstance(event, kind) for event in peer.events)


@pytest.mark.parametrize("size", [2, 3, 12])
def test_peers_that_start_together_all_join_within_a_quarter_of_a_second(size: int) -> None:
    network = Network(size)
    network.proxy()
    for number in range(size):
        network.peer(f"peer{number}", topics=[b"a", b"b"])
    network.run_until(lambda: is_complete(network), 0.25)
    network.run(BEACONS)
    assert_agreement(network)
    for peer in network.peers:
        assert count(peer, PeerJoined) == size - 1
        assert count(peer, PeerSuspected) == 0


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_newcomer_is_answered_though_most_messages_get_lost(seed: int) -> None:
    network = Network(seed, loss=0.6, repeats=0.3)
    network.proxy(greets_all=True)
    for number in range(4):
        network.peer(f"peer{number}")
        network.run(0.2)
    network.run(4 * BEACONS)
    network.loss = 0.0
    network.run(BEACONS)
    assert_agreement(network)


@given(seed=SEEDS, proxy_dies=st.booleans())
@settings(max_examples=10, deadline=None)
def test_changes_are_told_once_in_their_order_and_the_last_is_known_to_all(seed: int, proxy_dies: bool) -> None:
    network = Network(seed, repeats=0.3)
    proxy = network.proxy()
    peers = [network.peer(f"peer{number}") for number in range(4)]
    network.run_until(lambda: is_complete(network), 1.0)
    network.loss = 0.5
    if proxy_dies:
        proxy.die()
    random = Random(seed)
    for number in range(30):
        random.choice(peers).update(str(number))
        if random.random() < 0.3:
            # So short that nobody is given up: who is would come back with the next beacon only.
            one, other = random.sample(peers, 2)
            network.cut(one, other, random.choice([0.0, 0.3]))
        network.run(random.choice([0.0, 0.01, 0.3]))
    # Far less than it takes to the next beacon.
    network.run_until(lambda: all(knows(peer, other) for peer in peers for other in peers), 10.0)
    for peer in peers:
        for other in peers:
            if other is not peer:
                told = [event for event in peer.events if isinstance(event, PeerUpdated) and event.peer.id == other.id]
                revisions = [event.peer.revision for event in told]
                assert revisions == sorted(set(revisions))
                assert all(event.was.revision < event.peer.revision for event in told)


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_farewell_ends_each_stay_with_its_cause_and_nobody_comes_back(seed: int) -> None:
    network = Network(seed, repeats=0.2)
    proxy = network.proxy()
    peers = [network.peer(f"peer{number}") for number in range(4)]
    network.run_until(lambda: is_complete(network), 1.0)
    announces = [frame for frame in proxy.forwarded if frame[:1] == b"C"]
    leaver = peers[0]
    leaver.leave()
    network.run_until(lambda: not any(leaver.id in peer.stays for peer in peers[1:]), 1.0)
    # The proxy's queue was long.
    for frame in announces:
        proxy.inject(frame)
    network.run(BEACONS)
    assert_agreement(network)
    for peer in peers[1:]:
        assert [event.cause for event in peer.events if isinstance(event, PeerGone)] == [Cause.FAREWELL]
        assert Drop.TOMBSTONED in peer.drops


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_killed_process_is_refused_at_once_and_its_old_announce_revives_nobody(seed: int) -> None:
    network = Network(seed)
    proxy = network.proxy()
    peers = [network.peer(f"peer{number}") for number in range(4)]
    network.run_until(lambda: is_complete(network), 1.0)
    announces = [frame for frame in proxy.forwarded if frame[:1] == b"C"]
    peers[0].kill()
    network.run_until(lambda: is_complete(network), 1.0)
    for frame in announces:
        proxy.inject(frame)
    network.run(BEACONS)
    assert_agreement(network)
    for peer in peers[1:]:
        assert [event.cause for event in peer.events if isinstance(event, PeerGone)] == [Cause.REFUSED]
        assert count(peer, PeerJoined) == 3


@given(seed=SEEDS, same_relay=st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_death_and_the_return_of_the_proxy_let_nobody_join_twice(seed: int, same_relay: bool) -> None:
    network = Network(seed)
    proxy = network.proxy()
    peers = [network.peer(f"peer{number}") for number in range(3)]
    network.run_until(lambda: is_complete(network) and all(peer.core.is_found for peer in peers), 1.0)
    proxy.die()
    network.run(10.0)
    late = network.peer("late")
    network.run(10.0)
    assert not late.core.joined
    proxy.restart(relay=proxy.relay if same_relay else None)
    network.run_until(lambda: is_complete(network), 5.0)
    network.run(BEACONS)
    assert_agreement(network)
    for peer in peers:
        assert count(peer, PeerJoined) == 3
        assert count(peer, PeerGone) == 0
        assert (count(peer, ProxyFound), count(peer, ProxyLost)) == (2, 1)


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_peer_of_several_proxies_joins_once(seed: int) -> None:
    network = Network(seed, loss=0.2)
    others = [WELL_KNOWN, "tcp://127.0.0.1:5556"]
    proxies = [network.proxy(endpoint) for endpoint in others]
    peers = [network.peer(f"peer{number}", proxies=others) for number in range(3)]
    network.run(5.0)
    proxies[0].die()
    network.run(5.0)
    network.loss = 0.0
    network.run(BEACONS)
    assert_agreement(network)
    assert all(count(peer, PeerJoined) == 2 for peer in peers)


@given(seed=SEEDS, seconds=st.sampled_from([0.0, 0.3, 2.5, 12.0]))
@settings(max_examples=30, deadline=None)
def test_a_peer_cut_off_by_the_network_is_found_again_without_a_restart(seed: int, seconds: float) -> None:
    network = Network(seed)
    network.proxy()
    one, other, third = [network.peer(name, topics=[b"x"]) for name in ("one", "other", "third")]
    network.run_until(lambda: is_complete(network), 1.0)
    network.cut(one, other, seconds)
    network.run(seconds + BEACONS)
    assert_agreement(network)
    assert count(third, PeerSuspected) == 0
    causes = [event.cause for event in one.events if isinstance(event, PeerGone)]
    assert causes == ([Cause.UNREACHABLE] if seconds > 6 else [])
    if seconds == 2.5:
        assert count(one, PeerSuspected) == 1


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_peer_that_we_gave_up_and_that_still_hears_us_is_shut_out_and_found_again(seed: int) -> None:
    network = Network(seed)
    network.proxy()
    one, other = [network.peer(name, topics=[b"x"]) for name in ("one", "other")]
    network.run_until(lambda: is_complete(network), 1.0)
    network.cut_one_way(one, other, 12.0)
    network.run(11.0)
    assert one.listener.shuts == 1
    assert [event.cause for event in one.events if isinstance(event, PeerGone)] == [Cause.UNREACHABLE]
    network.run(BEACONS)
    assert_agreement(network)
    assert (count(one, PeerJoined), count(other, PeerGone)) == (2, 1)


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_process_that_restarts_under_its_id_replaces_itself(seed: int) -> None:
    network = Network(seed)
    network.proxy()
    peers = [network.peer(f"peer{number}", topics=[b"x"]) for number in range(3)]
    network.run_until(lambda: is_complete(network), 1.0)
    old = peers[0]
    old.kill()
    again = network.random.choice([None, old.endpoint])
    network.peer("again", id=old.id, endpoint=again, topics=[b"y"])
    network.run(BEACONS)
    assert_agreement(network)
    for peer in peers[1:]:
        told = [event for event in peer.events if isinstance(event, PeerJoined | PeerGone) and event.peer.id == old.id]
        assert [type(event) for event in told] == [PeerJoined, PeerGone, PeerJoined]
        assert told[2].peer.name == "again"


@given(seed=SEEDS, greets_all=st.booleans())
@settings(max_examples=20, deadline=None)
def test_classic_peers_are_joined_and_leave_with_a_farewell(seed: int, greets_all: bool) -> None:
    network = Network(seed, repeats=0.1)
    network.proxy(greets_all=greets_all)
    peers = [network.peer(f"peer{number}") for number in range(2)]
    classics = [network.classic(f"classic{number}") for number in range(2)]
    peers.append(network.peer("late"))
    network.run(10.0)
    everybody = {peer.id for peer in peers} | {classic.id for classic in classics}
    for peer in peers:
        assert set(peer.stays) == everybody - {peer.id}
    for classic in classics:
        assert set(classic.known) == everybody - {classic.id}
    classics[0].leave()
    network.run(5.0)
    classics[1].kill()
    peers[0].leave()
    network.run(5.0)
    for peer in peers[1:]:
        gone = {event.peer.id: event.cause for event in peer.events if isinstance(event, PeerGone)}
        assert gone == {
            classics[0].id: Cause.FAREWELL,
            classics[1].id: Cause.REFUSED,
            peers[0].id: Cause.FAREWELL,
        }


@define
class Chaos:
    """What may happen to a network, chosen by a seed."""

    network: Network
    proxy: FakeProxy
    most: int = 6
    """Peers that live at the same time."""
    random: Random = field(init=False)
    names: int = 0
    said_farewell: set[bytes] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        self.random = Random(self.network.seed ^ 0x5EED)

    def step(self) -> None:
        what = self.random.choice(
            [
                self.start,
                self.start,
                self.restart,
                self.kill,
                self.leave,
                self.cut,
                self.cut,
                self.cut_one_way,
                self.stall,
                self.subscribe,
                self.turn_proxy,
                self.forge,
                self.repeat_history,
            ]
        )
        what()
        self.network.run(self.random.choice([0.001, 0.01, 0.05, 0.3, 2.0, 7.0]))

    def some(self, least: int = 1) -> list[FakePeer]:
        alive = self.network.alive
        return self.random.sample(alive, least) if len(alive) >= least else []

    def start(self) -> None:
        if len(self.network.alive) < self.most:
            self.names += 1
            self.network.peer(f"peer{self.names}", topics=[b"x"], open_after=self.random.choice([0.0, 0.0, 0.4]))

    def restart(self) -> None:
        dead = [peer for peer in self.network.peers if not peer.is_alive]
        if dead and not any(peer.is_alive and peer.id == dead[-1].id for peer in self.network.peers):
            old = dead[-1]
            is_free = old.endpoint not in self.network.listeners and self.random.random() < 0.5
            self.names += 1
            self.network.peer(
                f"again{self.names}", id=old.id, endpoint=old.endpoint if is_free else None, topics=[b"y", b"z"]
            )

    def kill(self) -> None:
        for peer in self.some():
            peer.kill()

    def leave(self) -> None:
        for peer in self.some():
            if not peer.is_stalled:
                self.said_farewell.add(peer.id.bytes + peer.core.me.session)
                peer.leave()

    def cut(self) -> None:
        for one, other in [self.some(2)] if self.some(2) else []:
            self.network.cut(one, other, self.random.choice([0.0, 0.0, 0.5, 4.0, 9.0]))

    def cut_one_way(self) -> None:
        for one, other in [self.some(2)] if self.some(2) else []:
            self.network.cut_one_way(one, other, self.random.choice([0.0, 0.0, 6.5]))

    def part(self) -> None:
        """The network parts in two, in silence."""
        some = self.some(self.random.randint(1, 5))
        rest = [peer for peer in self.network.alive if peer not in some]
        seconds = self.random.choice([1.0, 4.0, 20.0])
        for one in some:
            for other in rest:
                self.network.hold(one, other, seconds)

    def stall(self) -> None:
        for peer in self.some():
            peer.stall(self.random.choice([0.1, 1.0, 8.0]))

    def subscribe(self) -> None:
        for peer in self.some():
            if peer.is_open and not peer.is_stalled:
                self.names += 1
                peer.subscribe(b"later%d" % self.names)

    def turn_proxy(self) -> None:
        if self.proxy.is_alive:
            self.proxy.die()
        else:
            self.proxy.restart()

    def forge(self) -> None:
        """What anybody on the bus may say; its victim hears it, or it could not refute it."""
        for peer in self.some():
            if not (self.proxy.is_alive and peer.clients[WELL_KNOWN].hears):
                continue
            self.proxy.inject(encode(self.random.choice(self.lies(peer))))
            self.network.run(0.05)

    def lies(self, peer: FakePeer) -> list[DiscoveryMessage]:
        info, session = peer.core.info, peer.core.me.session
        somebody, nowhere, other = self.network.new_id(), self.network.new_endpoint(), self.random.randbytes(4)
        return [
            Farewell(info.id, info.endpoint),
            Farewell(info.id, info.endpoint, info.incarnation, session),
            Farewell(info.id, info.endpoint, info.incarnation + 5, session),
            Welcome(somebody, nowhere),
            Announce(PeerInfo(somebody, info.endpoint, incarnation=1), other),
            Announce(PeerInfo(somebody, info.endpoint)),
            Announce(PeerInfo(info.id, info.endpoint)),
            Announce(PeerInfo(info.id, nowhere, incarnation=info.incarnation + 1), other),
            Announce(PeerInfo(info.id, nowhere, incarnation=info.incarnation + 1), session),
            Announce(evolve(info, revision=info.revision + 1, name="liar"), session),
        ]

    def repeat_history(self) -> None:
        """A message that waited somewhere for long."""
        if self.proxy.forwarded:
            frame = self.random.choice(self.proxy.forwarded)
            if frame[:1] == b"C":
                self.proxy.inject(frame)

    def calm(self) -> None:
        self.network.loss = self.network.repeats = 0.0
        self.network.cut_off.clear()
        self.network.held.clear()
        if not self.proxy.is_alive:
            self.proxy.restart()


def live_through(seed: int, steps: int, config: PeerConfig | None = None) -> tuple[Network, Chaos]:
    network = Network(seed, loss=0.1, repeats=0.1, config=PeerConfig())
    chaos = Chaos(network, network.proxy(greets_all=seed % 2 == 0))
    chaos.start()
    chaos.start()
    for _ in range(steps):
        chaos.step()
    chaos.calm()
    network.run(2 * BEACONS)
    return network, chaos


@given(seed=SEEDS, steps=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_rosters_agree_once_the_network_is_quiet_whatever_happened_before(seed: int, steps: int) -> None:
    network, chaos = live_through(seed, steps)
    assert_agreement(network)
    for peer in network.alive:
        assert not chaos.said_farewell & {link.sender for link in peer.core.roster.links}
        assert not peer.entered, "somebody never confirmed a subscription"


# One id, two processes


def incarnations(network: Network, id: PeerId) -> set[int]:
    return {peer.core.info.incarnation for peer in network.peers if peer.id == id}


@given(seed=SEEDS, apart=st.sampled_from([0.0, 0.001, 0.5, 40.0]), is_clock_back=st.booleans(), loss=st.booleans())
@settings(max_examples=8, deadline=None)
def test_of_two_processes_with_one_id_the_later_gives_way_for_good(
    seed: int, apart: float, is_clock_back: bool, loss: bool
) -> None:
    network = Network(seed, loss=0.3 if loss else 0.0)
    network.proxy()
    id = network.new_id()
    first = network.peer("first", id=id)
    others = [network.peer(f"other{number}") for number in range(3)]
    network.run(apart)
    # Where clocks differ, "later" is what these say.
    second = network.peer("second", id=id, incarnation=first.core.me.started - 7 if is_clock_back else None)
    earlier, later = sorted((first, second), key=lambda peer: (peer.core.me.started, peer.core.me.session))
    network.run_until(lambda: later.has_left, 2 * BEACONS if loss else 5.0)
    network.loss = 0.0
    network.run(BEACONS)
    assert not earlier.has_left
    assert_agreement(network)
    before = incarnations(network, id)
    network.run(BEACONS)
    assert incarnations(network, id) == before, "nobody refutes without end"
    for peer in others:
        stays = [event for event in peer.events if isinstance(event, PeerJoined) and event.peer.id == id]
        assert 1 <= len(stays) <= 3


PEERS, SECONDS = (50, 3600.0) if LONG else (12, 300.0)


@pytest.mark.timeout(3600 if LONG else 120)
@given(seed=SEEDS)
# Found peers that held each other for recovered before what they had subscribed meanwhile was in force.
@example(seed=35)
@example(seed=60)
@settings(max_examples=1, deadline=None)
def test_many_peers_agree_after_a_long_time_in_which_everything_fails(seed: int) -> None:
    network = Network(seed, loss=0.05, repeats=0.05, config=PeerConfig())
    chaos = Chaos(network, network.proxy(), most=PEERS)
    began = network.now
    while network.now < began + SECONDS:
        chaos.random.choice([chaos.step, chaos.start, chaos.start, chaos.part])()
        network.run(chaos.random.choice([0.0, 1.0, 10.0]))
    chaos.calm()
    network.run(2 * BEACONS * max(1.0, PEERS / 8))
    assert len(network.alive) > PEERS / 3
    assert_agreement(network)


@given(seed=SEEDS, is_named=st.booleans())
@settings(max_examples=8, deadline=None)
def test_who_only_claims_our_id_on_the_proxy_ends_nobody(seed: int, is_named: bool) -> None:
    network = Network(seed)
    proxy = network.proxy()
    victim, other = network.peer("victim"), network.peer("other")
    network.run_until(lambda: is_complete(network), 1.0)
    # An endpoint where nobody is, or that of a peer that runs.
    endpoint = other.endpoint if is_named else network.new_endpoint()
    for number in range(10):
        forged = PeerInfo(victim.id, endpoint, incarnation=number * 10**12)
        proxy.inject(encode(Announce(forged, b"liar", started=1)))
        network.run(2.0)
    network.run(BEACONS)
    assert not victim.has_left
    assert_agreement(network)


@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_an_id_comes_back_after_a_crash_though_the_clock_went_back(seed: int) -> None:
    network = Network(seed)
    network.proxy()
    id = network.new_id()
    first, other = network.peer("first", id=id), network.peer("other")
    network.run_until(lambda: is_complete(network), 1.0)
    first.kill()
    network.run(network.random.choice([0.0, 0.01, 1.0]))
    second = network.peer("second", id=id, incarnation=5)
    network.run(BEACONS)
    assert not second.has_left
    assert_agreement(network)
    assert [type(event) for event in other.events if isinstance(event, PeerJoined | PeerGone)] == [
        PeerJoined,
        PeerGone,
        PeerJoined,
    ]
