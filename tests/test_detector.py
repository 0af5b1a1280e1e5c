"""Beats, pings and suspicions: what one peer does, step by step, and what becomes of it among several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simulation
from simulation import FakePeer, Network
from zdisco._core.actions import Drop, Dropped, SendData
from zdisco._core.config import PeerConfig
from zdisco._core.counts import Counts
from zdisco._core.detector import Detector, Finding, Heard, Silent
from zdisco._core.envelope import (
    ALL,
    ControlFrame,
    Kind,
    PingBody,
    PongBody,
    Question,
    SuspectBody,
    control_frame,
    inbox,
    split,
)
from zdisco._core.events import Event, PeerGone, PeerJoined, PeerRecovered, PeerSuspected
from zdisco._core.interests import Interests
from zdisco._core.link import Link, LinkKey, Signal
from zdisco._core.links import Links
from zdisco._core.model import NO_SESSION, Cause, PeerInfo
from zdisco._core.wire import Announce

ME = UUID(int=50)
CONFIG = PeerConfig()
FOUND_WITHIN = CONFIG.beat_timeout + CONFIG.indirect_ping_timeout + CONFIG.ping_timeout
ASKED = CONFIG.beat_interval / 2 + CONFIG.beat_timeout + 0.05
"""When somebody of whom nothing was ever heard has been pinged; the first beat comes after half an interval here."""
BEFORE_NEXT = ASKED + CONFIG.beat_timeout - 0.1
"""Just before that one would be pinged again."""


class Ring:
    """A detector among peers with these numbers as ids, and what it sends."""

    def __init__(self, *others: int, config: PeerConfig = CONFIG) -> None:
        self.links = Links()
        self.detector = Detector((ME, b"mine"), self.links, config, lambda: 0.5)
        self.interests = Interests(ME, b"mine")
        self.now = 0.0
        for number in others:
            self.join(number)

    def join(self, number: int, session: bytes = b"live") -> Link:
        id = UUID(int=number)
        info = PeerInfo(id, f"tcp://127.0.0.1:{number}", incarnation=1)
        link = Link(Announce(info, session), info.endpoint, None, Counts(id, session, self.interests, 10), 0.0)
        self.links.add(link)
        self.detector.found(self.now)
        self.signal(link, Signal.PROVED)
        self.detector.verified(self.now)
        return link

    def signal(self, link: Link, signal: Signal) -> None:
        link.signal(signal, self.now)
        self.detector.changed(link)

    def link(self, number: int) -> Link:
        (link,) = self.links.of(UUID(int=number))
        return link

    def hear(self, number: int) -> list[Finding]:
        """A control frame of a peer is read, as the roster does it."""
        self.link(number).counts.heard_at = self.now
        return self.detector.heard(key(number), self.now)

    def run(self, until: float, *beating: int) -> list[Finding]:
        """Tick at each deadline, while these peers are heard all the time."""
        findings: list[Finding] = []
        while (at := self.detector.deadline) <= until:
            self.now = at
            for number in beating:
                findings += self.hear(number)
            findings += self.detector.tick(at)
        self.now = until
        return findings


def key(number: int) -> LinkKey:
    return UUID(int=number), b"live"


def sent(findings: Iterable[Finding]) -> list[tuple[Kind, int]]:
    """The kinds of the frames, and the number of whom they are for; 0: all."""
    frames = [split(finding.frame) for finding in findings if isinstance(finding, SendData)]
    return [(frame.kind, int.from_bytes(frame.inbox or b"")) for frame in frames if isinstance(frame, ControlFrame)]


def bodies(findings: Iterable[Finding], kind: Kind) -> list[bytes]:
    frames = [split(finding.frame) for finding in findings if isinstance(finding, SendData)]
    return [frame.body for frame in frames if isinstance(frame, ControlFrame) and frame.kind is kind]


def pings(findings: Iterable[Finding]) -> list[tuple[int, PingBody]]:
    """Who is pinged, and with what."""
    bodies_of = bodies(findings, Kind.PING)
    return list(
        zip([to for kind, to in sent(findings) if kind is Kind.PING], map(PingBody.decode, bodies_of), strict=True)
    )


def silent(findings: Iterable[Finding]) -> list[int]:
    return [finding.key[0].int for finding in findings if isinstance(finding, Silent)]


@pytest.mark.parametrize(
    ("others", "after", "before"),
    [((40, 60), 60, 40), ((10, 20), 10, 20), ((60, 70), 60, 70), ((60,), 60, 60)],
)
def test_beats_go_to_the_next_in_the_ring_and_the_one_before_is_listened_for(
    others: tuple[int, ...], after: int, before: int
) -> None:
    ring = Ring(*others)
    findings = ring.run(3.0, *(number for number in others if number != before))
    assert {to for kind, to in sent(findings) if kind is Kind.BEAT} == {after}
    assert before in {to for kind, to in sent(findings) if kind is Kind.PING}


def test_who_is_alone_sends_nothing_and_who_was_left_alone_stops() -> None:
    ring = Ring()
    assert ring.run(60.0) == []
    link = ring.join(60)
    assert sent(ring.run(61.5, 60)) == [(Kind.BEAT, 60)] * 2
    ring.signal(link, Signal.REFUSED)
    ring.links.remove(link)
    assert ring.detector.deadline == inf


def test_a_classic_peer_is_no_part_of_the_ring() -> None:
    ring = Ring()
    ring.join(60, NO_SESSION)
    assert ring.detector.deadline == inf


def test_who_is_heard_is_not_asked() -> None:
    ring = Ring(40, 60, 70)
    kinds = Counter(kind for kind, _ in sent(ring.run(4.0, 40)))
    assert kinds[Kind.BEAT] >= 4.0 // (1.15 * CONFIG.beat_interval)
    assert kinds[Kind.PING] == 0


def test_messages_count_as_beats() -> None:
    ring = Ring(40, 60, 70)
    for step in range(40):
        ring.link(40).counts.heard_at = ring.now
        assert (Kind.PING, 40) not in sent(ring.run(step / 10))


def test_who_hears_a_beat_sends_its_own_at_once_unless_it_just_did() -> None:
    ring = Ring(40, 60, 70)
    ring.run(CONFIG.beat_interval, 60, 70)
    last = ring.now = ring.detector.deadline
    assert (Kind.BEAT, 60) in sent(ring.detector.tick(last))
    ring.now = last + CONFIG.beat_interval / 2 - 0.01
    assert ring.hear(40) == [], "it just did"
    ring.now = last + CONFIG.beat_interval / 2 + 0.01
    assert sent(ring.hear(60)) == [], "that is not the one before us"
    assert sent(ring.hear(40)) == [(Kind.BEAT, 60)]
    assert ring.hear(40) == []


def test_a_wave_ends_at_the_first_of_the_ring() -> None:
    ring = Ring(60, 70)
    ring.run(CONFIG.beat_interval, 60, 70)
    last = ring.now = ring.detector.deadline
    assert (Kind.BEAT, 60) in sent(ring.detector.tick(last))
    ring.now = last + 0.9 * CONFIG.beat_interval
    assert sent(ring.hear(70)) == []
    assert ring.detector.deadline == last + CONFIG.beat_interval, "nor does it wait for anybody"


def test_who_hears_no_beat_sends_its_own_a_bit_later_than_the_first_of_the_ring_would() -> None:
    ring = Ring(40, 60)
    ring.run(CONFIG.beat_interval, 60)
    last = ring.now = ring.detector.deadline
    ring.detector.tick(last)
    assert ring.hear(40) == [], "it just did"
    assert ring.detector.deadline == last + 1.15 * CONFIG.beat_interval


def test_who_is_silent_is_pinged_directly_and_by_two_others_then_told_to_all() -> None:
    ring = Ring(10, 40, 60, 70, 80)
    # Only from the first beat on somebody is listened for.
    began = ring.detector.deadline
    others = (10, 60, 70, 80)
    assert Kind.PING not in {kind for kind, _ in sent(ring.run(began + CONFIG.beat_timeout - 0.01, *others))}
    asked = ring.run(began + CONFIG.beat_timeout, *others)
    assert PingBody(1) in [body for to, body in pings(asked) if to == 40]
    helpers = {to for to, body in pings(asked) if body.other == key(40)}
    assert len(helpers) == CONFIG.indirect_pings
    (serial,) = {body.serial for _, body in pings(asked) if body.other == key(40)}
    for helper in helpers:
        ring.detector.pong(key(helper), PongBody(serial, is_silent=True), ring.now)
    found = ring.run(began + CONFIG.beat_timeout + CONFIG.indirect_ping_timeout, *others)
    assert silent(found) == [40]
    assert bodies(found, Kind.SUSPECT) == [SuspectBody(*key(40)).encode()]
    assert (Kind.SUSPECT, 0) in sent(found)
    assert [to for to, body in pings(found) if body.question is Question.YOU] == [10], "whoever was asked has answered"


def test_who_comes_before_the_silent_one_is_asked_about_too_since_nobody_else_listens_for_it() -> None:
    ring = Ring(10, 20, 40, 60, 70)
    asked = Counter(body.other for _, body in pings(ring.run(ASKED, 10, 60, 70)))
    assert asked == {None: 2, key(40): CONFIG.indirect_pings, key(20): CONFIG.indirect_pings}
    assert sorted(silent(ring.run(ASKED + CONFIG.indirect_ping_timeout, 10, 60, 70))) == [20, 40]


def test_whoever_sends_us_beats_is_listened_for_too() -> None:
    ring = Ring(10, 40, 60, 70)
    assert ring.detector.beat(key(70), 0.0) == []
    ring.hear(70)
    heard = ring.run(CONFIG.beat_timeout - 0.01, 10, 40, 60)
    assert Kind.PING not in {kind for kind, _ in sent(heard)}
    findings = ring.run(CONFIG.beat_timeout, 10, 40, 60)
    assert {body.other or to for to, body in pings(findings)} == {70, key(70)}
    assert silent(ring.run(CONFIG.beat_timeout + CONFIG.indirect_ping_timeout, 10, 40, 60)) == [70]


def test_who_sends_its_beats_to_another_now_costs_one_question() -> None:
    ring = Ring(40, 60, 70)
    ring.run(0.5, 40, 60, 70)
    ring.join(45)
    asked = ring.run(0.6 + CONFIG.beat_timeout, 45, 60, 70)
    assert {body.other or to for to, body in pings(asked)} == {40, key(40)}
    ring.hear(40)
    before_a_ping_at_random = CONFIG.ping_interval - 0.1
    assert Kind.PING not in {kind for kind, _ in sent(ring.run(before_a_ping_at_random, 45, 60, 70))}


def test_who_has_gone_is_not_listened_for() -> None:
    ring = Ring(40, 60)
    ring.run(0.5, 40, 60)
    link = ring.link(40)
    ring.signal(link, Signal.REFUSED)
    ring.links.remove(link)
    ring.detector.beat(key(40), 0.6)
    assert key(40) not in {body.other for _, body in pings(ring.run(5.0, 60))}


def test_who_answers_in_time_is_not_suspect() -> None:
    ring = Ring(40, 60, 70)
    asked = ring.run(ASKED, 60, 70)
    assert (Kind.PING, 40) in sent(asked)
    ring.hear(40)
    assert silent(ring.run(BEFORE_NEXT, 60, 70)) == []


def test_a_message_in_time_is_an_answer_too() -> None:
    ring = Ring(40, 60, 70)
    assert (Kind.PING, 40) in sent(ring.run(ASKED, 60, 70))
    ring.link(40).counts.heard_at = ring.now
    findings = ring.run(BEFORE_NEXT, 60, 70)
    assert Heard(key(40)) in findings
    assert silent(findings) == []


def test_whom_only_others_hear_is_suspect_much_later_and_nobody_is_told() -> None:
    ring = Ring(40, 60, 70)
    asked = ring.run(ASKED, 60, 70)
    serial = PingBody.decode(bodies(asked, Kind.PING)[0]).serial
    ring.detector.pong(key(60), PongBody(serial), ring.now)
    ring.detector.pong(key(70), PongBody(serial, is_silent=True), ring.now)
    assert silent(ring.run(ASKED + CONFIG.suspect_timeout - 0.1, 60, 70)) == []
    findings = ring.run(ASKED + CONFIG.suspect_timeout + CONFIG.beat_timeout, 60, 70)
    assert silent(findings) == [40]
    assert bodies(findings, Kind.SUSPECT) == []


def test_a_pong_of_somebody_who_was_not_asked_means_nothing() -> None:
    ring = Ring(10, 40, 60, 70)
    asked = ring.run(ASKED, 10, 60, 70)
    helpers = {to: body.serial for to, body in pings(asked) if body.other == key(40)}
    (stranger,) = {10, 60, 70} - helpers.keys()
    ring.detector.pong(key(stranger), PongBody(min(helpers.values())), ring.now)
    assert silent(ring.run(BEFORE_NEXT, 10, 60, 70)) == [40]


def test_if_whoever_was_asked_is_silent_too_all_are_pinged() -> None:
    ring = Ring(10, 20, 30, 40)
    findings = ring.run(3.0)
    assert {to for kind, to in sent(findings) if kind is Kind.PING} == {10, 20, 30, 40}
    assert sorted(silent(findings)) == [10, 20, 30, 40]
    assert len(bodies(findings, Kind.SUSPECT)) == 4


def test_a_ping_is_answered_at_once_and_one_for_another_when_that_one_is_heard() -> None:
    ring = Ring(40, 60)
    assert bodies(ring.detector.ping(key(60), PingBody(7), 0.0), Kind.PONG) == [PongBody(7).encode()]
    assert sent(ring.detector.ping(key(60), PingBody(8, Question.OTHER, key(40)), 0.0)) == [(Kind.PING, 40)]
    findings = ring.hear(40)
    assert (sent(findings), bodies(findings, Kind.PONG)) == ([(Kind.PONG, 60)], [PongBody(8).encode()])
    assert ring.hear(40) == [], "once"


def test_whom_others_ask_for_tells_that_it_runs_to_them_and_to_whoever_lacks_it() -> None:
    ring = Ring(40, 60)
    asked = ring.detector.ping(key(60), PingBody(8, Question.OTHER, key(40)), 0.0)
    assert [PingBody.decode(body) for body in bodies(asked, Kind.PING)] == [PingBody(1, Question.TELL, key(60))]
    findings = ring.detector.ping(key(60), PingBody(3, Question.TELL, key(40)), 0.0)
    assert sent(findings) == [(Kind.PONG, 60), (Kind.PONG, 40)]
    assert bodies(findings, Kind.PONG) == [PongBody(3).encode(), PongBody(0).encode()]
    assert sent(ring.detector.ping(key(60), PingBody(3, Question.TELL, key(99)), 0.0)) == [(Kind.PONG, 60)]


def test_who_asks_about_a_silent_or_an_unknown_peer_is_told_so() -> None:
    ring = Ring(40, 60)
    ring.detector.ping(key(60), PingBody(8, Question.OTHER, key(40)), 0.0)
    findings = ring.run(CONFIG.ping_timeout)
    assert bodies(findings, Kind.PONG) == [PongBody(8, is_silent=True).encode()]
    unknown = ring.detector.ping(key(60), PingBody(9, Question.OTHER, key(99)), 0.0)
    assert bodies(unknown, Kind.PONG) == [PongBody(9, is_silent=True).encode()]


def test_pings_for_others_have_a_bound() -> None:
    ring = Ring(40, 60, config=PeerConfig(max_probes=3))
    for serial in range(3):
        assert sent(ring.detector.ping(key(60), PingBody(serial, Question.OTHER, key(40)), 0.0)) == [(Kind.PING, 40)]
    assert ring.detector.ping(key(60), PingBody(4, Question.OTHER, key(40)), 0.0) == [
        Dropped(Drop.TABLE_FULL, "pings for others")
    ]
    assert len(bodies(ring.hear(40), Kind.PONG)) == 3


def test_who_is_told_that_a_peer_is_silent_pings_it_and_tells_nobody() -> None:
    ring = Ring(40, 60, 70)
    assert sent(ring.detector.told(key(70), 0.0)) == [(Kind.PING, 70)]
    assert ring.detector.told(key(70), 0.0) == [], "it is being looked at"
    findings = ring.run(CONFIG.ping_timeout, 40)
    assert silent(findings) == [70]
    assert bodies(findings, Kind.SUSPECT) == []
    assert ring.detector.told(key(99), 0.0) == []


def test_who_is_told_to_be_silent_says_to_all_that_it_runs_but_not_again_and_again() -> None:
    ring = Ring(40, 60)
    assert sent(ring.detector.told((ME, b"mine"), 1.0)) == [(Kind.BEAT, 0)]
    assert ring.detector.told((ME, b"mine"), 1.1) == []
    assert sent(ring.detector.told((ME, b"mine"), 1.0 + CONFIG.beat_interval)) == [(Kind.BEAT, 0)]
    assert ring.detector.told((ME, b"else"), 9.0) == [], "another life of ours"


def test_after_a_stall_what_waits_is_read_first() -> None:
    ring = Ring(40, 60)
    ring.run(0.3, 40)
    assert (Kind.PING, 40) not in sent(ring.detector.tick(10.0))
    ring.now = 10.0
    ring.hear(40)
    assert (Kind.PING, 40) not in sent(ring.run(11.0, 60))


def test_who_is_late_with_its_own_beats_has_more_patience_until_it_is_not() -> None:
    ring = Ring(40, 60, 70)
    ring.run(0.3, 40, 60, 70)
    for stall in range(1, 4):
        ring.now = stall * 2.0
        ring.hear(40)
        ring.detector.tick(ring.now)
    late = ring.run(ring.now + 2 * CONFIG.beat_timeout - 0.1, 60, 70)
    assert (Kind.PING, 40) not in sent(late)
    ring.run(10.0, 40, 60, 70)
    began = ring.now
    assert (Kind.PING, 40) in sent(ring.run(began + CONFIG.beat_timeout + 0.5, 60, 70))


def test_who_was_suspect_and_recovered_is_waited_for_longer_for_a_while() -> None:
    ring = Ring(40, 60)
    ring.run(1.0, 40, 60)
    ring.hear(40)
    link = ring.link(40)
    link.flaps, link.flapped_at = 1, ring.now
    assert (Kind.PING, 40) not in sent(ring.run(1.0 + 2 * CONFIG.beat_timeout - 0.1, 60))
    assert (Kind.PING, 40) in sent(ring.run(1.0 + 2 * CONFIG.beat_timeout + 0.1, 60))
    ring.run(6.0 + CONFIG.flap_memory, 40, 60)
    ring.hear(40)
    began = ring.now
    assert (Kind.PING, 40) in sent(ring.run(began + CONFIG.beat_timeout + 0.1, 60))


def test_while_many_join_all_are_waited_for_longer() -> None:
    ring = Ring(40, 60, *range(100, 120))
    others = (60, *range(100, 120))
    assert (Kind.PING, 40) not in sent(ring.run(2 * CONFIG.beat_timeout, *others))
    ring.run(60.0, 40, *others)
    ring.hear(40)
    assert (Kind.PING, 40) in sent(ring.run(60.1 + CONFIG.beat_timeout, *others))


def test_while_a_crowd_starts_nobody_is_doubted() -> None:
    ring = Ring(40, *range(100, 140))
    assert {kind for kind, _ in sent(ring.run(10.0))} == {Kind.BEAT}
    assert ring.detector.told(key(40), ring.now) == []
    assert (Kind.PING, 40) in sent(ring.run(60.0)), "it has been long enough"


def test_who_announces_new_peers_without_end_does_not_keep_hangs_from_being_found() -> None:
    ring = Ring(40, 60)
    for _ in range(30):
        ring.detector.found(ring.now)
    found: list[Finding] = []
    while ring.now < 200.0 and not silent(found):
        ring.detector.found(ring.now)
        found += ring.run(ring.now + 0.1, 60)
    assert 120.0 < ring.now < 150.0
    assert silent(found) == [40]
    # Nor does a short pause let it begin anew.
    ring.run(ring.now + 5.0, 60)
    for _ in range(100):
        ring.detector.found(ring.now)
    assert sent(ring.detector.told(key(60), ring.now)) == [(Kind.PING, 60)]


def test_a_peer_is_pinged_at_random_now_and_then() -> None:
    # Half of the interval and as much again, as the random number is always the same.
    pings = [to for kind, to in sent(Ring(40, 60, 70).run(61.0, 40, 60, 70)) if kind is Kind.PING]
    assert len(pings) == 60.0 / CONFIG.ping_interval


def test_each_is_pinged_at_random_once_before_anybody_again() -> None:
    pings = [to for kind, to in sent(Ring(40, 60, 70).run(61.0, 40, 60, 70)) if kind is Kind.PING]
    rounds = [pings[at : at + 3] for at in range(0, len(pings), 3)]
    assert [sorted(one) for one in rounds] == [[40, 60, 70]] * 4


def test_the_round_trip_is_known_though_something_else_is_heard_before_the_answer() -> None:
    ring = Ring(40, 60)
    pings = [split(one.frame) for one in ring.run(6.0, 40, 60) if isinstance(one, SendData)]
    (ping,) = [frame for frame in pings if isinstance(frame, ControlFrame) and frame.kind is Kind.PING]
    target = int.from_bytes(ping.inbox or b"")
    serial, at = PingBody.decode(ping.body).serial, ring.link(target).pinged
    assert at is not None
    ring.now = at[1] + 0.01
    ring.hear(target)
    ring.detector.pong(key(target), PongBody(serial), at[1] + 0.03)
    assert ring.link(target).round_trip == pytest.approx(0.03)
    ring.detector.pong(key(target), PongBody(serial - 1), at[1] + 0.05)
    assert ring.link(target).round_trip == pytest.approx(0.03)


def test_who_leaves_asks_and_answers_nothing_more() -> None:
    ring = Ring(40, 60)
    ring.detector.ping(key(60), PingBody(8, Question.OTHER, key(40)), 0.0)
    ring.run(1.5)
    ring.detector.close()
    assert ring.detector.deadline == inf


# Among several


def kinds_sent(network: Network, monkeypatch: pytest.MonkeyPatch) -> Counter[Kind]:
    seen: Counter[Kind] = Counter()
    publish = simulation.Listener.publish

    def counted(listener: simulation.Listener, frame: bytes) -> None:
        parts = split(frame)
        assert isinstance(parts, ControlFrame)
        seen[parts.kind] += 1
        publish(listener, frame)

    monkeypatch.setattr(simulation.Listener, "publish", counted)
    return seen


def mesh(seed: int, size: int) -> tuple[Network, list[FakePeer]]:
    network = Network(seed, config=CONFIG)
    network.proxy()
    peers = [network.peer(f"peer{number}") for number in range(size)]
    network.run_until(lambda: all(len(peer.core.joined) == size - 1 for peer in peers), 2.0)
    network.run(5.0)
    for peer in peers:
        peer.events.clear()
    return network, peers


def about(peer: FakePeer, *others: FakePeer) -> list[Event]:
    """What was told about the links to others."""
    kinds = (PeerJoined, PeerSuspected, PeerRecovered, PeerGone)
    ids = [other.id for other in others]
    return [event for event in peer.events if isinstance(event, kinds) and event.peer.id in ids]


@pytest.mark.parametrize("size", [2, 5, 20])
def test_the_frames_of_each_idle_peer_do_not_grow_with_their_number(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = mesh(size, size)
    seen = kinds_sent(network, monkeypatch)
    network.run(100.0)
    assert seen[Kind.BEAT] == pytest.approx(size * 100.0 / CONFIG.beat_interval, rel=0.02)
    assert 10 * size <= seen[Kind.PING] <= 40 * size
    assert abs(seen[Kind.PONG] - seen[Kind.PING]) <= size
    assert seen.keys() == {Kind.BEAT, Kind.PING, Kind.PONG}


def test_where_peers_came_one_after_another_they_are_as_quiet_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    network, peers = mesh(1, 4)
    for number in range(12):
        network.peer(f"late{number}")
        network.run(1.5)
    network.run(30.0)
    size = len(network.alive)
    assert [len(peer.core.joined) for peer in network.alive] == [size - 1] * size == [15] * 16
    seen = kinds_sent(network, monkeypatch)
    network.run(100.0)
    assert seen[Kind.BEAT] == pytest.approx(size * 100.0 / CONFIG.beat_interval, rel=0.02)
    assert seen[Kind.PING] + seen[Kind.PONG] <= 2 * size * 100.0 / CONFIG.ping_interval * 1.2
    assert seen.keys() == {Kind.BEAT, Kind.PING, Kind.PONG}
    assert not any(isinstance(event, PeerSuspected) for peer in peers for event in peer.events)


SEEDS = st.integers(0, 2**32 - 1)


@given(seed=SEEDS, size=st.integers(2, 9), stopped=st.integers(1, 3), seconds=st.sampled_from([3.0, 4.5]))
@settings(max_examples=15, deadline=None)
def test_who_is_stopped_is_suspect_to_all_in_its_time_and_recovers(
    seed: int, size: int, stopped: int, seconds: float
) -> None:
    network, peers = mesh(seed, size)
    victims, others = peers[:stopped], peers[stopped:]
    for victim in victims:
        victim.stall(seconds)
    network.run(FOUND_WITHIN + 0.2)
    # Of three in a row the first is looked for when the others were found.
    if len(victims) < 3:
        for peer in others:
            for victim in victims:
                assert [type(event) for event in about(peer, victim)] == [PeerSuspected]
    network.run(seconds + 5.0)
    for peer in others:
        for victim in victims:
            assert [type(event) for event in about(peer, victim)] in ([PeerSuspected, PeerRecovered], [])
        assert about(peer, *others) == []
    for victim in victims:
        assert about(victim, *others) == [], "a stall of its own"


def suspected_within(network: Network, victim: FakePeer, others: list[FakePeer]) -> float:
    """Seconds until all of them have told the victim suspect."""
    began = network.now
    victim.stall(60.0)
    network.run_until(lambda: all(victim.id not in peer.core.joined for peer in others), 30.0)
    return network.now - began


@given(seed=SEEDS, size=st.integers(3, 7), at=st.integers(0, 6))
@settings(max_examples=15, deadline=None)
def test_who_hangs_is_found_in_time_also_where_the_next_one_has_no_link_to_it(seed: int, size: int, at: int) -> None:
    network, peers = mesh(seed, size)
    ring = sorted(peers, key=lambda peer: peer.id.int)
    victim, after = ring[at % size], ring[(at + 1) % size]
    network.cut(victim, after, 60.0)
    network.run(3.0)
    others = [peer for peer in peers if peer not in (victim, after)]
    assert suspected_within(network, victim, others) <= FOUND_WITHIN + 0.2


@given(seed=SEEDS, size=st.integers(2, 7), at=st.integers(0, 6))
@settings(max_examples=15, deadline=None)
def test_who_hangs_is_found_in_time_also_where_a_newcomer_comes_next(seed: int, size: int, at: int) -> None:
    network, peers = mesh(seed, size)
    ring = sorted(peers, key=lambda peer: peer.id.int)
    victim = ring[at % size]
    victim.stall(60.0)
    began = network.now
    network.run(0.3)
    network.peer("newcomer", id=UUID(int=victim.id.int + 1))
    others = [peer for peer in peers if peer is not victim]
    network.run_until(lambda: all(victim.id not in peer.core.joined for peer in others), 30.0)
    assert network.now - began <= FOUND_WITHIN + 0.2


@given(seed=SEEDS, size=st.integers(3, 9), part=st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_where_the_network_parts_each_side_finds_the_other_and_joins_again(seed: int, size: int, part: int) -> None:
    network, peers = mesh(seed, size)
    part = min(part, size - 1)
    sides = peers[:part], peers[part:]
    for one in sides[0]:
        for other in sides[1]:
            network.hold(one, other, 12.0)
    network.run(12.0)
    for here, there in (sides, sides[::-1]):
        for peer in here:
            assert [type(event) for event in about(peer, *here)] == []
            for other in there:
                events = about(peer, other)
                assert [type(event) for event in events] == [PeerSuspected, PeerGone]
                assert isinstance(events[-1], PeerGone)
                assert events[-1].cause is Cause.UNREACHABLE
    network.run(CONFIG.beacon_interval * (1 + CONFIG.beacon_jitter) + 2.0)
    for peer in peers:
        assert len(peer.core.joined) == size - 1


@given(seed=SEEDS)
@settings(max_examples=6, deadline=None)
def test_a_lie_about_a_peer_costs_a_ping_and_no_more(seed: int) -> None:
    network, peers = mesh(seed, 5)
    liar, victim = peers[:2]
    for _ in range(20):
        body = SuspectBody(victim.id, victim.core.me.session).encode()
        liar.listener.publish(control_frame(ALL, Kind.SUSPECT, liar.id, liar.core.me.session, body))
        network.run(0.3)
    assert all(not about(peer, *peers) for peer in peers)


@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_who_only_reads_slowly_what_one_says_is_not_suspect(seed: int) -> None:
    network = Network(seed, config=CONFIG)
    network.proxy()
    # It has more patience with the one that it hears so late, which is another matter.
    slow = network.peer("slow", config=PeerConfig(suspect_timeout=1000.0))
    one, *others = [network.peer(f"peer{number}") for number in range(4)]
    network.run(5.0)
    network.hold_one_way(one, slow, 60.0)
    network.run(60.0)
    for peer in (one, *others):
        assert [type(event) for event in about(peer, slow)] == [PeerJoined]


@given(seed=SEEDS)
@settings(max_examples=6, deadline=None)
def test_two_that_do_not_hear_each_other_but_all_others_are_suspect_to_each_other_alone(seed: int) -> None:
    network, peers = mesh(seed, 5)
    one, other = peers[:2]
    network.hold(one, other, 60.0)
    network.run(60.0)
    for peer in peers[2:]:
        assert about(peer, *peers) == []
    for peer in (one, other):
        assert about(peer, *peers[2:]) == []


def test_nobody_answers_for_who_is_not_there() -> None:
    network, (one, other) = mesh(1, 2)
    stranger = UUID(int=99)
    other.listener.publish(control_frame(inbox(one.id), Kind.PING, stranger, b"else", PingBody(1).encode()))
    network.run(1.0)
    assert Drop.UNKNOWN_SENDER in one.drops
