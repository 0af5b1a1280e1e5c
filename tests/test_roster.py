"""The rules of the roster, one by one: hints, proof, the end of a link, bounds."""

from __future__ import annotations

from collections import Counter
from math import inf
from uuid import UUID

import pytest
from attrs import evolve

from zdisco._core.actions import (
    Action,
    ConnectPeer,
    DisconnectPeer,
    DrainPeer,
    Drop,
    Dropped,
    Output,
    ProbePeer,
    RevivePeer,
    SendData,
    ShutPeer,
    SubscribeTopic,
    UnsubscribeTopic,
)
from zdisco._core.config import PeerConfig
from zdisco._core.envelope import (
    ALL,
    ConfirmBody,
    ControlFrame,
    FarewellBody,
    Inbox,
    Kind,
    LinkBody,
    Marker,
    PongBody,
    inbox,
    marker,
    split,
)
from zdisco._core.events import Event, PeerGone, PeerJoined, PeerRecovered, PeerSuspected, PeerUpdated
from zdisco._core.model import Cause, LinkState, PeerInfo, Probe, ReconnectStop
from zdisco._core.roster import EPOCHS, Roster
from zdisco._core.wire import Announce, Farewell

ME, BOB, EVE = UUID(int=1), UUID(int=2), UUID(int=3)
SESSION, BOBS, OTHER = b"mine", b"bob1", b"bob2"
HERE, THERE = "tcp://127.0.0.1:40002", "tcp://127.0.0.1:40003"
KEY = BOB, BOBS


def announce(
    id: UUID = BOB, session: bytes = BOBS, endpoint: str = HERE, incarnation: int = 10, revision: int = 0
) -> Announce:
    return Announce(PeerInfo(id, endpoint, incarnation=incarnation, revision=revision), session)


def classic(id: UUID = BOB, endpoint: str = HERE) -> Announce:
    return Announce(PeerInfo(id, endpoint))


def roster(config: PeerConfig | None = None, *, is_open: bool = True) -> Roster:
    # Beats and pings have tests of their own.
    quiet = evolve(config or PeerConfig(), beat_interval=1e5, beat_timeout=1e6, ping_interval=1e6)
    made = Roster(ME, SESSION, quiet, lambda: 0.5)
    if is_open:
        made.open(0.0)
    return made


def joined(config: PeerConfig | None = None, of: Announce | None = None) -> Roster:
    """A roster in which one peer has joined at time 0."""
    made, of = roster(config), of or announce()
    assert prove(made, of) == [PeerJoined(of.info)]
    return made


def prove(made: Roster, of: Announce, now: float = 0.0, body: LinkBody | None = None) -> list[Output]:
    """All that it takes to join; returns the events."""
    outputs = made.announced(of, of.info.endpoint, now)[1] + made.link_up(of.info.endpoint, now)
    outputs += made.link_heard((of.info.id, of.session), body or LinkBody(1, 0, 0), now)
    outputs += made.subscribed(Marker(of.info.id, of.session, 1), now)
    return told(outputs)


def told(outputs: list[Output]) -> list[Output]:
    return [output for output in outputs if isinstance(output, Event) and not isinstance(output, Action)]


def drops(outputs: list[Output]) -> list[Drop]:
    return [output.drop for output in outputs if isinstance(output, Dropped)]


def links(outputs: list[Output]) -> list[LinkBody]:
    """The link messages among what is sent."""
    frames = [split(output.frame) for output in outputs if isinstance(output, SendData)]
    return [LinkBody.decode(f.body) for f in frames if isinstance(f, ControlFrame) and f.kind is Kind.LINK]


def state(made: Roster) -> LinkState:
    (link,) = made.links
    return link.state


def run(made: Roster, until: float) -> list[Output]:
    """Tick at each deadline, as a shell that is never late."""
    outputs: list[Output] = []
    while (at := made.deadline) <= until:
        outputs += made.tick(at)
    return outputs


# Joined


def test_the_first_subscriptions_are_all_inbox_and_marker_in_the_order_of_their_bytes() -> None:
    topics = [output.topic for output in roster().subscriptions() if isinstance(output, SubscribeTopic)]
    assert topics == [ALL, inbox(ME), marker(ME, SESSION, 1)] == sorted(topics)


def test_a_peer_joins_when_link_message_and_marker_are_there_in_either_order() -> None:
    for order in (0, 1):
        made = roster()
        assert made.announced(announce(), HERE, 0.0) == (True, [ConnectPeer(HERE)])
        made.link_up(HERE, 0.0)
        steps = [
            lambda made=made: made.link_heard(KEY, LinkBody(4, 0, 0), 0.0),
            lambda made=made: made.subscribed(Marker(BOB, BOBS, 4), 0.0),
        ]
        assert not told(steps[order]())
        assert not made.joined
        assert told(steps[1 - order]()) == [PeerJoined(announce().info)]
        assert dict(made.joined) == {BOB: announce().info}


def test_an_older_marker_than_the_link_message_names_does_not_prove() -> None:
    made = roster()
    assert not prove(made, announce(), body=LinkBody(2, 0, 0))
    assert not told(made.subscribed(Marker(BOB, OTHER, 2), 0.0)), "the marker of another life"
    assert told(made.subscribed(Marker(BOB, BOBS, 2), 0.0)) == [PeerJoined(announce().info)]


def test_a_link_message_leaves_only_while_our_connection_is_up() -> None:
    made = roster()
    made.announced(announce(), HERE, 0.0)
    assert not links(made.subscribed(Inbox(BOB), 0.0))
    assert links(made.link_up(HERE, 0.0)) == [LinkBody(1, 0, 0, answer_me=True)]
    assert links(made.subscribed(Inbox(BOB), 0.0)) == [LinkBody(1, 0, 0, answer_me=True)]


def test_exactly_those_who_ask_are_answered() -> None:
    made = joined()
    assert links(made.link_heard(KEY, LinkBody(1, 0, 0, answer_me=True), 1.0)) == [LinkBody(1, 0, 0)]
    assert not links(made.link_heard(KEY, LinkBody(1, 0, 0), 1.0))


def test_a_link_message_without_answer_is_repeated_ever_more_slowly_until_the_answer() -> None:
    made = roster()
    made.announced(announce(), HERE, 0.0)
    made.link_up(HERE, 0.0)
    times = []
    while (at := made.deadline) < 3.0:
        times += [at] * len(links(made.tick(at)))
    assert times == pytest.approx([0.01, 0.03, 0.07, 0.15, 0.31, 0.63, 1.27, 2.27])
    made.link_heard(KEY, LinkBody(1, 0, 0), 3.0)
    assert not links(run(made, 4.9))


def test_on_a_new_connection_the_link_message_is_repeated_soon_again() -> None:
    made = roster()
    made.announced(announce(), HERE, 0.0)
    made.link_up(HERE, 0.0)
    assert len(links(run(made, 2.5))) == 8, "by now it is repeated every second"
    made.link_down(HERE, 3.0)
    assert links(made.link_up(HERE, 3.1))
    assert not links(run(made, 3.105))
    assert len(links(run(made, 3.115))) == 1
    assert len(links(run(made, 3.135))) == 1


def test_markers_and_confirmations_that_come_out_of_order_take_nothing_back() -> None:
    made = roster()
    made.announced(announce(), HERE, 0.0)
    made.next_marker()
    made.link_up(HERE, 0.0)
    for counter in (2, 1):
        made.confirm_heard(KEY, ConfirmBody(counter), 0.0)
    for counter in (3, 2):
        made.subscribed(Marker(BOB, BOBS, counter), 0.0)
    assert told(made.link_heard(KEY, LinkBody(3, 0, 0), 0.0)) == [PeerJoined(announce().info)]


def test_of_the_markers_of_a_stranger_the_highest_is_remembered() -> None:
    made = roster()
    for counter in (3, 2):
        made.subscribed(Marker(BOB, BOBS, counter), 0.0)
    made.announced(announce(), HERE, 0.0)
    made.link_up(HERE, 0.0)
    assert told(made.link_heard(KEY, LinkBody(3, 0, 0), 0.0)) == [PeerJoined(announce().info)]


def test_nobody_gets_a_link_message_before_we_are_open() -> None:
    made = roster(is_open=False)
    made.announced(announce(), HERE, 0.0)
    outputs = made.link_up(HERE, 0.0) + made.subscribed(Inbox(BOB), 0.0) + made.subscribed(Inbox(EVE), 0.0)
    outputs += made.link_heard(KEY, LinkBody(1, 0, 0, answer_me=True), 0.0)
    assert not links(outputs)
    assert links(made.open(1.0)) == [LinkBody(1, 0, 0), LinkBody(1, 0, 0, answer_me=True, stranger=True)]


def test_a_stranger_that_was_announced_before_we_opened_is_no_stranger() -> None:
    made = roster(is_open=False)
    made.subscribed(Inbox(BOB), 0.0)
    made.announced(announce(), HERE, 0.0)
    assert not links(made.open(0.0))


def test_who_takes_us_for_a_stranger_proves_nothing() -> None:
    made = roster()
    assert not prove(made, announce(), body=LinkBody(1, 0, 0, stranger=True))
    assert told(made.link_heard(KEY, LinkBody(1, 0, 0), 0.0)) == [PeerJoined(announce().info)]


def test_a_link_message_of_somebody_unknown_is_counted() -> None:
    assert drops(roster().link_heard(KEY, LinkBody(1, 0, 0), 0.0)) == [Drop.UNKNOWN_SENDER]


# A link that breaks


def test_a_broken_link_is_suspect_then_recovers_or_is_given_up() -> None:
    for recovers in (True, False):
        made = joined()
        made.link_down(HERE, 1.0)
        assert not told(run(made, 1.19))
        assert told(run(made, 1.21)) == [PeerSuspected(announce().info)]
        assert not made.joined
        if recovers:
            outputs = made.link_up(HERE, 2.0) + made.link_heard(KEY, LinkBody(1, 0, 1), 2.0)
            assert told(outputs) == [PeerRecovered(announce().info)]
            assert BOB in made.joined
        else:
            assert DrainPeer(HERE, BOB.bytes + BOBS) in run(made, 6.1)
            assert made.drained(HERE, 6.2) == [ShutPeer(BOB), PeerGone(announce().info, Cause.UNREACHABLE)]


def until_suspect(made: Roster, now: float) -> float:
    """Break the link, and let it recover as soon as it is suspect; returns how long that took."""
    made.link_down(HERE, now)
    epoch = made.links[0].epoch
    at = now
    while not told(made.tick(at)):
        at = made.deadline
    made.link_up(HERE, at)
    assert told(made.link_heard(KEY, LinkBody(1, 0, epoch), at)) == [PeerRecovered(announce().info)]
    return at - now


def test_a_link_that_breaks_again_and_again_is_suspect_ever_later_until_it_was_quiet() -> None:
    made = joined(PeerConfig(reconnect_stop=0))
    taken = [until_suspect(made, 10.0 * number) for number in range(1, 7)]
    assert taken == pytest.approx([0.2, 0.4, 0.8, 1.6, 2.5, 2.5])
    # Two times of quiet are two doublings less.
    assert until_suspect(made, 60.0 + taken[-1] + 2.5 * 60.0) == pytest.approx(2.5)
    assert until_suspect(made, 2000.0) == pytest.approx(0.2)


def test_a_link_that_comes_back_at_once_is_no_event() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.link_up(HERE, 1.1)
    assert not told(made.link_heard(KEY, LinkBody(1, 0, 1), 1.15))
    assert not told(run(made, 20.0))


def test_a_link_message_that_waited_since_an_older_connection_proves_nothing() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    run(made, 1.5)
    made.link_up(HERE, 2.0)
    assert not told(made.link_heard(KEY, LinkBody(1, 0, 0), 2.0))
    assert state(made) is LinkState.SUSPECT
    made.link_down(HERE, 3.0)
    assert not told(made.link_heard(KEY, LinkBody(1, 0, 2), 3.0)), "down, it cannot have come on a connection"
    made.link_up(HERE, 4.0)
    assert told(made.link_heard(KEY, LinkBody(1, 0, 2), 4.0)) == [PeerRecovered(announce().info)]


def test_a_new_connection_gets_a_new_marker_and_says_so() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    outputs = made.link_up(HERE, 1.1)
    assert outputs[:2] == [SubscribeTopic(marker(ME, SESSION, 2)), UnsubscribeTopic(marker(ME, SESSION, 1))]
    assert links(outputs) == [LinkBody(2, 1, 0, answer_me=True)]


def test_a_peer_that_connected_anew_is_suspect_until_its_new_marker_comes() -> None:
    made = joined()
    made.link_heard(KEY, LinkBody(2, 1, 0), 1.0)
    assert told(run(made, 1.3)) == [PeerSuspected(announce().info)]
    assert told(made.subscribed(Marker(BOB, BOBS, 2), 1.4)) == [PeerRecovered(announce().info)]


def test_link_messages_without_their_marker_do_not_put_the_judgement_off() -> None:
    made = joined()
    outputs: list[tuple[float, Output]] = []
    for step in range(51):
        now = step / 10
        outputs += [(now, output) for output in made.tick(now) + made.link_heard(KEY, LinkBody(2, 1, 0), now)]
    assert outputs == [(0.2, PeerSuspected(announce().info)), (5.0, DrainPeer(HERE, BOB.bytes + BOBS))]


@pytest.mark.parametrize("at_the_same_endpoint", [True, False])
def test_what_proved_a_link_that_was_given_up_does_not_prove_the_next(at_the_same_endpoint: bool) -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.probed(HERE, Probe.REFUSED, 1.0)
    made.drained(HERE, 1.0)
    again = announce() if at_the_same_endpoint else announce(endpoint=THERE)
    made.announced(again, again.info.endpoint, 2.0)
    outputs = made.link_up(again.info.endpoint, 2.0)
    assert SubscribeTopic(marker(ME, SESSION, 2)) in outputs
    assert not told(made.link_heard(KEY, LinkBody(1, 0, 0), 2.0))
    assert not told(made.link_heard(KEY, LinkBody(1, 0, 1), 2.0))
    assert told(made.link_heard(KEY, LinkBody(1, 0, 2), 2.0)) == [PeerJoined(again.info)]


def test_a_successor_at_the_same_endpoint_gets_a_new_marker() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.probed(HERE, Probe.REFUSED, 1.0)
    made.drained(HERE, 1.0)
    made.announced(announce(EVE, OTHER), HERE, 2.0)
    assert SubscribeTopic(marker(ME, SESSION, 2)) in made.link_up(HERE, 2.0)


@pytest.mark.parametrize("successor", [announce(), announce(EVE, OTHER)])
def test_who_follows_a_link_that_was_up_and_confirmed_nothing_gets_a_new_marker(successor: Announce) -> None:
    made = roster()
    made.announced(announce(), HERE, 0.0)
    made.link_up(HERE, 0.0)
    assert DrainPeer(HERE, BOB.bytes + BOBS) in run(made, 75.0)
    made.drained(HERE, 75.0)
    key = successor.info.id, successor.session
    made.announced(successor, HERE, 76.0)
    made.subscribed(Marker(*key, 1), 76.0)
    assert SubscribeTopic(marker(ME, SESSION, 2)) in made.link_up(HERE, 76.0)
    assert not told(made.link_heard(key, LinkBody(1, 0, 0), 76.0)), "it waited since the connection before"
    assert told(made.link_heard(key, LinkBody(1, 0, 1), 76.0)) == [PeerJoined(successor.info)]


def test_a_peer_whose_own_connection_never_broke_joins_again_without_a_new_marker() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    assert told(run(made, 7.0)) == [PeerSuspected(announce().info)]
    made.drained(HERE, 7.0)
    made.announced(announce(), HERE, 8.0)
    made.link_up(HERE, 8.0)
    assert told(made.link_heard(KEY, LinkBody(1, 0, 2), 8.0)) == [PeerJoined(announce().info)]


def test_a_peer_that_joined_long_ago_recovers_however_many_came_and_went_since() -> None:
    made = joined(PeerConfig(max_strangers=3))
    for number in range(100, 110):
        other = announce(UUID(int=number), OTHER, THERE)
        prove(made, other, 1.0)
        made.link_down(THERE, 1.0)
        made.probed(THERE, Probe.REFUSED, 1.0)
        made.drained(THERE, 1.0)
    made.link_down(HERE, 2.0)
    assert told(run(made, 2.3)) == [PeerSuspected(announce().info)]
    made.link_up(HERE, 2.4)
    assert told(made.link_heard(KEY, LinkBody(1, 0, 1), 2.4)) == [PeerRecovered(announce().info)]


def test_the_number_of_a_connection_never_says_again_that_it_is_the_first() -> None:
    made = joined()
    made.links[0].epoch = EPOCHS - 1
    made.link_down(HERE, 1.0)
    assert made.links[0].epoch == 1
    assert SubscribeTopic(marker(ME, SESSION, 2)) in made.link_up(HERE, 1.1)


def test_one_new_marker_serves_all_links_that_broke_before_it() -> None:
    made = joined()
    prove(made, announce(EVE, OTHER, THERE))
    made.link_down(HERE, 1.0)
    made.link_down(THERE, 1.0)
    assert links(made.link_up(HERE, 1.1)) == [LinkBody(2, 1, 0, answer_me=True)]
    outputs = made.link_up(THERE, 1.2)
    assert links(outputs) == [LinkBody(2, 1, 0, answer_me=True)]
    assert SubscribeTopic(marker(ME, SESSION, 3)) not in outputs


def test_what_was_subscribed_before_we_were_told_of_the_connection_is_confirmed_before_the_peer_joins() -> None:
    made = roster()
    made.announced(announce(), HERE, 0.0)
    made.next_marker()
    assert not prove(made, announce(), body=LinkBody(1, 0, 0))
    assert not told(made.confirm_heard(KEY, ConfirmBody(1), 0.1))
    assert told(made.confirm_heard(KEY, ConfirmBody(2), 0.1)) == [PeerJoined(announce().info)]


def test_a_confirmation_that_was_lost_is_asked_for_again_by_one_marker_for_all() -> None:
    made = roster()
    both = announce(), announce(EVE, OTHER, THERE)
    for one in both:
        made.announced(one, one.info.endpoint, 0.0)
    made.next_marker()
    assert not [event for one in both for event in prove(made, one)]
    outputs = run(made, 1.1)
    assert outputs == [SubscribeTopic(marker(ME, SESSION, 3)), UnsubscribeTopic(marker(ME, SESSION, 2))]
    assert told(made.confirm_heard(KEY, ConfirmBody(3), 1.1)) == [PeerJoined(announce().info)]
    assert run(made, 2.1) == [SubscribeTopic(marker(ME, SESSION, 4)), UnsubscribeTopic(marker(ME, SESSION, 3))]


# Who is given up, and when


def test_a_refused_probe_ends_a_broken_link_after_it_was_drained() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    assert made.tick(1.0) == [], "libzmq has not told yet whether it tries again"
    made.link_retried(HERE)
    assert made.tick(1.0) == [ProbePeer(HERE)]
    assert made.probed(HERE, Probe.REFUSED, 1.0) == [DrainPeer(HERE, BOB.bytes + BOBS)]
    assert not made.probed(HERE, Probe.REFUSED, 1.0)
    assert not told(run(made, 60.0)), "nothing is told before it is drained"
    assert made.drained(HERE, 1.1) == [PeerGone(announce().info, Cause.REFUSED)]
    assert not made.links
    assert made.deadline == inf


def test_a_farewell_through_the_proxy_does_not_change_why_a_peer_is_drained() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    assert made.probed(HERE, Probe.REFUSED, 1.0) == [DrainPeer(HERE, BOB.bytes + BOBS)]
    assert made.farewell(Farewell(BOB, HERE, 10, BOBS), 1.0) == []
    assert made.drained(HERE, 1.1) == [PeerGone(announce().info, Cause.REFUSED)]
    assert made.announced(announce(), HERE, 2.0) == (True, [ConnectPeer(HERE)])


def test_a_refused_probe_of_a_link_that_is_up_again_means_nothing() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.link_up(HERE, 1.1)
    assert not made.probed(HERE, Probe.REFUSED, 1.2)


def test_what_a_joined_peer_had_sent_is_read_whoever_else_claims_its_endpoint() -> None:
    made = roster()
    made.announced(announce(EVE, OTHER), HERE, 0.0)
    prove(made, announce())
    made.announced(announce(UUID(int=9), OTHER), HERE, 0.5)
    made.link_down(HERE, 1.0)
    assert made.probed(HERE, Probe.REFUSED, 1.0) == [DrainPeer(HERE, BOB.bytes + BOBS)]
    found = made.sender(BOB.bytes + BOBS)
    assert found is not None
    assert found[0] == announce().info
    assert not made.direct_farewell(KEY, FarewellBody(10), 1.0)
    assert made.drained(HERE, 1.0) == [PeerGone(announce().info, Cause.FAREWELL)]
    assert not made.links


def test_one_drain_serves_all_who_are_given_up_at_an_endpoint() -> None:
    made = joined()
    prove(made, announce(EVE, OTHER, THERE))
    made.link_down(HERE, 1.0)
    made.link_down(THERE, 1.0)
    made.announced(announce(EVE, OTHER), HERE, 1.0)
    given_up = run(made, 1.0 + made.config.suspect_timeout)
    assert [output for output in given_up if isinstance(output, DrainPeer)] == [DrainPeer(HERE, BOB.bytes + BOBS)]
    gone = made.drained(HERE, 6.0)
    assert [event.cause for event in gone if isinstance(event, PeerGone)] == [Cause.UNREACHABLE] * 2


@pytest.mark.parametrize("what", ["refused", "rejected"])
def test_what_answers_where_a_peer_was_only_announced_ends_no_stay(what: str) -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.announced(announce(revision=1, endpoint=THERE), THERE, 1.0)  # maybe not by itself
    made.link_down(THERE, 1.1)
    outputs = made.link_rejected(THERE, 1.1) if what == "rejected" else made.probed(THERE, Probe.REFUSED, 1.1)
    assert outputs == []
    assert ConnectPeer(HERE) in made.announced(announce(revision=2), HERE, 1.2)[1]
    assert prove(made, announce(revision=2), 1.3, LinkBody(2, 2, 0)) == []
    assert state(made) is LinkState.JOINED


def test_who_connects_to_us_anew_is_sent_something_over_our_connection_which_may_be_dead() -> None:
    made = joined()
    made.confirm_heard(KEY, ConfirmBody(made.marker), 0.0)
    assert run(made, 5.0) == []
    for at in (5.0, 5.1):
        made.subscribed(Inbox(BOB), at)
    assert [type(output) for output in run(made, 9.0)] == [SubscribeTopic, UnsubscribeTopic], "once"
    made.link_down(HERE, 9.0)
    made.subscribed(Inbox(BOB), 9.0)
    assert SubscribeTopic not in {type(output) for output in run(made, 9.9)}, "that one has ended"


def test_who_has_joined_at_another_endpoint_is_refused_there() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    assert prove(made, announce(revision=1, endpoint=THERE), 1.1, LinkBody(1, 1, 1)) == [
        PeerUpdated(announce(revision=1, endpoint=THERE).info, announce().info)
    ]
    made.link_down(THERE, 2.0)
    assert made.probed(THERE, Probe.REFUSED, 2.0) == [DrainPeer(THERE, BOB.bytes + BOBS)]


def test_a_connection_is_not_made_anew_while_it_is_drained() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.probed(HERE, Probe.REFUSED, 1.0)
    made.announced(announce(EVE, OTHER), HERE, 1.0)
    made.link_down(HERE, 1.0)
    assert made.tick(1.1) == []
    made.link_down(HERE, 1.2)
    assert ConnectPeer(HERE) in made.drained(HERE, 1.25)
    assert made.tick(1.3) == []


@pytest.mark.parametrize("probe", [Probe.ACCEPTED, Probe.UNDECIDED])
def test_what_a_probe_does_not_decide_is_probed_again_after_the_published_delays(probe: Probe) -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.link_retried(HERE)
    times = []
    for _ in range(6):
        times.append(made.deadline)
        assert made.tick(made.deadline) == [ProbePeer(HERE)]
        assert not made.probed(HERE, probe, times[-1])
    assert times[:5] == pytest.approx([1.0, 1.002, 1.005, 1.010, 1.020])
    assert times[5] == pytest.approx(1.120)


def test_a_connection_that_libzmq_gave_up_in_silence_is_revived_and_probed() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    assert made.tick(1.1) == [RevivePeer(HERE), ProbePeer(HERE)]
    made = joined(PeerConfig(reconnect_stop=0))
    made.link_down(HERE, 1.0)
    assert made.tick(1.1) == [RevivePeer(HERE)]
    made.link_down(HERE, 1.2)
    made.link_retried(HERE)
    assert RevivePeer(HERE) not in run(made, 3.0)


def test_reconnect_stop_0_never_probes_and_never_disconnects() -> None:
    made = joined(PeerConfig(reconnect_stop=ReconnectStop.NEVER))
    made.link_down(HERE, 1.0)
    made.link_retried(HERE)
    outputs = run(made, 100.0) + made.probed(HERE, Probe.REFUSED, 2.0) + made.link_rejected(HERE, 2.0)
    assert outputs == [
        PeerSuspected(announce().info),
        ShutPeer(BOB),
        PeerGone(announce().info, Cause.UNREACHABLE),
    ]
    made.link_up(HERE, 200.0)
    assert told(made.link_heard(KEY, LinkBody(1, 0, 1), 200.0)) == [PeerJoined(announce().info)]


@pytest.mark.parametrize("stop", [0, 2])
def test_who_is_never_given_up_is_connected_anew_also_after_the_end_of_its_stay(stop: int) -> None:
    made = joined(PeerConfig(reconnect_stop=stop))
    made.confirm_heard(KEY, ConfirmBody(1), 0.0)
    made.link_down(HERE, 1.0)
    run(made, 5.95)
    made.link_down(HERE, 5.95)
    assert run(made, 7.0) == [ShutPeer(BOB), PeerGone(announce().info, Cause.UNREACHABLE), RevivePeer(HERE)]
    (link,) = made.links
    assert (link.epoch, link.confirmed, link.seen) == (1, 1, 1), "what the connection taught is not forgotten"


def test_reconnect_stop_1_stops_when_refused_and_not_when_the_handshake_fails() -> None:
    made = joined(PeerConfig(reconnect_stop=1))
    made.link_down(HERE, 1.0)
    assert not made.link_rejected(HERE, 1.0)
    assert made.probed(HERE, Probe.REFUSED, 1.0)


def test_reconnect_stop_2_stops_when_the_handshake_fails_and_not_when_refused() -> None:
    made = joined(PeerConfig(reconnect_stop=2))
    made.link_down(HERE, 1.0)
    made.link_retried(HERE)
    assert ProbePeer(HERE) not in run(made, 1.05)
    assert not made.probed(HERE, Probe.REFUSED, 1.0)
    assert made.link_rejected(HERE, 1.0) == [DrainPeer(HERE, BOB.bytes + BOBS)]
    assert made.drained(HERE, 1.0) == [ShutPeer(BOB), PeerGone(announce().info, Cause.REJECTED)]


def test_whose_process_is_dead_is_not_shut_out() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.probed(HERE, Probe.REFUSED, 1.0)
    assert made.drained(HERE, 1.0) == [PeerGone(announce().info, Cause.REFUSED)]


def test_a_peer_whose_other_life_is_linked_is_not_shut_out() -> None:
    made = joined()
    made.announced(announce(session=OTHER, incarnation=11, endpoint=THERE), THERE, 1.0)
    made.link_down(HERE, 1.0)
    assert DrainPeer(HERE, BOB.bytes + BOBS) in run(made, 6.0)
    assert made.drained(HERE, 6.0) == [PeerGone(announce().info, Cause.UNREACHABLE)]


def test_an_announced_peer_that_never_links_goes_without_an_event() -> None:
    made = roster()
    made.announced(announce(), HERE, 0.0)
    made.announced(announce(), HERE, 30.0)
    assert run(made, 104.9) == [], "it is tried for announced_timeout after its last announce"
    assert run(made, 105.1) == [DrainPeer(HERE, BOB.bytes + BOBS)]
    assert not told(made.drained(HERE, 105.1))
    assert not made.links


def test_after_a_stall_of_ours_nobody_is_judged_before_what_waits_was_read() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    assert not told(made.tick(60.0)), "due long ago, when we did not run"
    made.link_up(HERE, 60.0)
    made.link_heard(KEY, LinkBody(1, 0, 1), 60.0)
    assert not told(run(made, 100.0))
    made.link_down(HERE, 101.0)
    assert told(made.tick(160.0)) == []
    assert told(run(made, 170.0)) == [PeerSuspected(announce().info)], "judged in the end"
    assert made.links[0].verdict is not None


@pytest.mark.parametrize("every", [0.5, 1.1])
def test_whoever_is_always_late_judges_all_the_same(every: float) -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.link_retried(HERE)
    outputs = [output for step in range(1, 20) for output in made.tick(1.05 + step * every)]
    assert told(outputs) == [PeerSuspected(announce().info)]
    assert DrainPeer(HERE, BOB.bytes + BOBS) in outputs


def test_after_a_stall_of_ours_no_connection_is_made_anew_before_what_waits_was_read() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    assert made.tick(60.0) == []
    made.link_retried(HERE)
    assert RevivePeer(HERE) not in run(made, 70.0)


def test_after_a_stall_of_ours_a_farewell_is_not_forgotten_before_what_waits_was_read() -> None:
    made = joined()
    made.confirm_heard(KEY, ConfirmBody(1), 0.0)
    made.farewell(Farewell(BOB, HERE, 10, BOBS), 1.0)
    assert made.tick(60.0) == []
    assert made.link_down(HERE, 60.0) == [DrainPeer(HERE, BOB.bytes + BOBS)]
    assert made.drained(HERE, 60.0) == [PeerGone(announce().info, Cause.FAREWELL)]


def test_a_link_that_comes_up_again_and_again_without_proof_is_given_up_in_time() -> None:
    made = joined()
    made.link_down(HERE, 0.0)
    outputs: list[Output] = []
    for second in range(1, 5):
        outputs += run(made, second)
        made.link_up(HERE, second)
        made.link_down(HERE, second + 0.5)
    assert DrainPeer(HERE, BOB.bytes + BOBS) not in outputs + run(made, 4.9)
    assert DrainPeer(HERE, BOB.bytes + BOBS) in run(made, 5.0)
    assert made.drained(HERE, 5.0) == [ShutPeer(BOB), PeerGone(announce().info, Cause.UNREACHABLE)]


def test_a_link_that_breaks_before_it_joined_is_kept_as_long_as_any_announced_one() -> None:
    made = roster()
    made.announced(announce(), HERE, 0.0)
    made.link_up(HERE, 0.0)
    made.link_down(HERE, 1.0)
    assert run(made, 74.9) == [RevivePeer(HERE), ProbePeer(HERE)]
    assert run(made, 75.0) == [DrainPeer(HERE, BOB.bytes + BOBS)]


def test_what_is_due_together_with_the_end_of_a_link_does_not_bring_it_back() -> None:
    made = joined(PeerConfig(suspect_after=1.0, suspect_timeout=1.0, zombie_after=1.0))
    made.link_down(HERE, 1.0)
    assert made.tick(2.0) == [PeerSuspected(announce().info), DrainPeer(HERE, BOB.bytes + BOBS)]


def test_what_is_due_together_with_the_end_of_a_link_is_harmless() -> None:
    made = joined(PeerConfig(suspect_after=1.0, suspect_timeout=1.0, farewell_memory=1.0, zombie_after=1.0))
    made.announced(announce(EVE, OTHER), HERE, 0.0)
    made.link_down(HERE, 1.0)
    made.farewell(Farewell(EVE, HERE, 10, OTHER), 1.0)
    made.tick(2.0)
    assert all(link.verdict is not None or link.state is not LinkState.JOINED for link in made.links)


# Farewells


def test_a_direct_farewell_ends_the_stay_at_once() -> None:
    made = joined()
    assert made.direct_farewell(KEY, FarewellBody(10), 1.0) == [
        DisconnectPeer(HERE),
        PeerGone(announce().info, Cause.FAREWELL),
    ]
    assert not made.direct_farewell(KEY, FarewellBody(10), 1.0)
    assert made.deadline == inf


def test_a_direct_farewell_that_is_read_while_draining_is_the_cause() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.probed(HERE, Probe.REFUSED, 1.0)
    assert not made.direct_farewell(KEY, FarewellBody(10), 1.0)
    assert made.drained(HERE, 1.0) == [PeerGone(announce().info, Cause.FAREWELL)]


def test_a_farewell_through_the_proxy_waits_for_the_end_of_the_link() -> None:
    made = joined()
    assert not made.farewell(Farewell(BOB, HERE, 10, BOBS), 1.0)
    assert BOB in made.joined
    made.link_down(HERE, 3.9)
    assert made.drained(HERE, 3.9) == [PeerGone(announce().info, Cause.FAREWELL)]


def test_what_a_peer_had_sent_before_its_farewell_is_read_whoever_else_claims_its_endpoint() -> None:
    made = joined()
    made.announced(announce(EVE, OTHER), HERE, 0.5)
    made.farewell(Farewell(BOB, HERE, 10, BOBS), 1.0)
    assert made.link_down(HERE, 1.1) == [DrainPeer(HERE, BOB.bytes + BOBS)]
    assert made.drained(HERE, 1.1) == [PeerGone(announce().info, Cause.FAREWELL), ConnectPeer(HERE)]


def test_a_farewell_that_nothing_confirms_is_forgotten_after_3_seconds() -> None:
    made = joined()
    made.confirm_heard(KEY, ConfirmBody(1), 0.0)
    made.farewell(Farewell(BOB, HERE, 10, BOBS), 1.0)
    assert run(made, 3.9) == []
    assert drops(run(made, 4.1)) == [Drop.UNCONFIRMED_FAREWELL]
    made.link_down(HERE, 4.2)
    made.probed(HERE, Probe.REFUSED, 4.2)
    assert made.drained(HERE, 4.2) == [PeerGone(announce().info, Cause.REFUSED)]


def test_a_farewell_of_a_peer_whose_link_is_broken_is_believed() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    assert made.farewell(Farewell(BOB, HERE, 10, BOBS), 1.0) == [DrainPeer(HERE, BOB.bytes + BOBS)]
    assert made.drained(HERE, 1.0) == [PeerGone(announce().info, Cause.FAREWELL)]


def test_a_farewell_of_a_peer_that_was_never_connected_ends_nothing() -> None:
    made = roster()
    made.announced(announce(), HERE, 0.0)
    assert made.farewell(Farewell(BOB, HERE, 10, BOBS), 1.0) == []
    assert prove(made, announce(), 2.0) == [PeerJoined(announce().info)]


@pytest.mark.parametrize(
    "farewell",
    [
        Farewell(BOB, HERE, 9, BOBS),
        Farewell(BOB, HERE, 11, BOBS),
        Farewell(BOB, HERE, 10, OTHER),
        Farewell(EVE, HERE, 10, BOBS),
    ],
)
@pytest.mark.parametrize("is_down", [False, True])
def test_a_farewell_of_another_life_is_none_of_this_one(farewell: Farewell, is_down: bool) -> None:
    made = joined()
    if is_down:
        made.link_down(HERE, 0.9)
    made.farewell(farewell, 1.0)
    made.link_down(HERE, 1.1)
    assert not made.links[0].is_given_up


def test_a_peer_that_refutes_its_farewell_by_a_higher_incarnation_is_believed() -> None:
    made = joined()
    made.farewell(Farewell(BOB, HERE, 10, BOBS), 1.0)
    made.announced(announce(incarnation=11), HERE, 1.5)
    made.link_down(HERE, 2.0)
    assert made.links[0].verdict is None


def test_the_incarnation_that_refutes_a_believed_farewell_is_not_buried_with_it() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.farewell(Farewell(BOB, HERE), 1.0)
    made.announced(announce(incarnation=11), HERE, 1.0)
    made.drained(HERE, 1.1)
    assert made.is_tombstoned(announce())
    assert not made.is_tombstoned(announce(incarnation=11))


def test_what_a_peer_announces_while_it_is_drained_counts_when_it_is() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.farewell(Farewell(BOB, HERE), 1.0)
    refuted = announce(incarnation=11, endpoint=THERE)
    for late in (refuted, announce()):
        assert not told(made.announced(late, late.info.endpoint, 1.0)[1])
    outputs = made.drained(HERE, 1.1)
    assert outputs == [PeerGone(announce().info, Cause.FAREWELL), ConnectPeer(THERE)]
    assert [link.announce for link in made.links] == [refuted]


def test_an_announce_of_who_has_left_revives_nobody_until_it_says_more() -> None:
    made = joined()
    made.direct_farewell(KEY, FarewellBody(10), 1.0)
    for late in (announce(), announce(incarnation=9, endpoint=THERE), classic()):
        is_new, outputs = made.announced(late, late.info.endpoint, 2.0)
        assert (is_new, drops(outputs)) == (False, [Drop.TOMBSTONED])
    assert made.announced(announce(incarnation=11), HERE, 2.0)[0]


@pytest.mark.parametrize("incarnation", [9, 10, 11])
def test_another_life_of_who_has_left_joins_whatever_its_clock_says(incarnation: int) -> None:
    made = joined()
    made.direct_farewell(KEY, FarewellBody(10), 1.0)
    again = announce(session=OTHER, incarnation=incarnation)
    assert prove(made, again, 2.0, LinkBody(1, 0, 1)) == [PeerJoined(again.info)]


def test_the_tombstone_names_the_incarnation_that_said_farewell_itself() -> None:
    made = joined()
    made.announced(announce(incarnation=2**63 - 1), HERE, 0.5)
    made.direct_farewell(KEY, FarewellBody(10), 1.0)
    assert made.is_tombstoned(announce())
    assert made.announced(announce(session=OTHER, incarnation=11), HERE, 2.0)[0]


def test_the_farewell_of_an_older_life_does_not_take_back_that_of_a_newer() -> None:
    made = roster()
    made.announced(announce(), HERE, 0.0)
    newer = announce(session=OTHER, endpoint=THERE, incarnation=11)
    assert prove(made, newer) == [PeerJoined(newer.info)]
    made.direct_farewell((BOB, OTHER), FarewellBody(11), 1.0)
    assert prove(made, announce(), 2.0) == [PeerJoined(announce().info)]
    made.direct_farewell(KEY, FarewellBody(10), 3.0)
    assert made.is_tombstoned(newer)


def test_who_never_joined_leaves_no_tombstone_in_the_name_of_another() -> None:
    made = joined()
    forged = announce(session=OTHER, endpoint=THERE, incarnation=2**63 - 1)
    made.announced(forged, THERE, 1.0)
    made.link_up(THERE, 1.0)
    made.link_down(THERE, 1.0)
    made.farewell(Farewell(BOB, THERE, 2**63 - 1, OTHER), 1.0)
    made.drained(THERE, 1.1)
    assert [link.key for link in made.links] == [KEY]
    assert not made.is_tombstoned(announce())


def test_a_farewell_without_a_session_buries_classic_peers_only() -> None:
    made = roster()
    made.announced(classic(endpoint=THERE), THERE, 0.0)
    made.link_up(THERE, 0.0)
    made.farewell(Farewell(BOB, THERE), 1.0)
    made.drained(THERE, 1.0)
    assert made.is_tombstoned(classic())
    assert not made.is_tombstoned(announce(incarnation=0))


@pytest.mark.parametrize("cause", [Cause.REFUSED, Cause.UNREACHABLE])
def test_who_was_refused_or_unreachable_is_tried_again_when_the_same_incarnation_announces(cause: Cause) -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    if cause is Cause.REFUSED:
        made.probed(HERE, Probe.REFUSED, 1.0)
    else:
        run(made, 6.1)
    assert told(made.drained(HERE, 7.0)) == [PeerGone(announce().info, cause)]
    assert made.announced(announce(), HERE, 8.0) == (True, [ConnectPeer(HERE)])
    assert not told(made.link_up(HERE, 8.0)), "no event before the handshake is done"


# Moving and replacing


def test_an_announce_does_not_move_a_peer_whose_link_is_up() -> None:
    made = joined()
    assert drops(made.announced(announce(endpoint=THERE, revision=1), THERE, 1.0)[1]) == [Drop.MOVED_ENDPOINT]
    assert made.joined[BOB] == announce().info


def frames(outputs: list[Output], kind: Kind) -> list[ControlFrame]:
    found = [split(output.frame) for output in outputs if isinstance(output, SendData)]
    return [frame for frame in found if isinstance(frame, ControlFrame) and frame.kind is kind]


def test_an_announce_that_would_move_a_peer_pings_it_and_the_next_one_moves_it_if_it_is_silent() -> None:
    made = joined()
    moved = announce(endpoint=THERE, revision=1)
    outputs = made.announced(moved, THERE, 1.0)[1]
    assert [frame.inbox for frame in frames(outputs, Kind.PING)] == [BOB.bytes]
    assert told(run(made, 1.0 + made.config.indirect_ping_timeout)) == [PeerSuspected(announce().info)]
    outputs = made.announced(moved, THERE, 1.5)[1]
    assert [output for output in outputs if isinstance(output, ConnectPeer | DisconnectPeer)] == [
        DisconnectPeer(HERE),
        ConnectPeer(THERE),
    ]
    assert told(outputs) == [PeerUpdated(moved.info, announce().info)]
    outputs = made.link_up(THERE, 1.6)
    (link,) = made.links
    outputs += made.link_heard(KEY, LinkBody(1, 0, link.epoch), 1.6)
    outputs += made.confirm_heard(KEY, ConfirmBody(made.marker, 0), 1.6)
    assert told(outputs) == [PeerRecovered(moved.info)]


def silent(made: Roster, now: float) -> float:
    """Let the peer be found silent; returns when."""
    made.announced(announce(endpoint=THERE, revision=1), THERE, now)
    at = now + made.config.indirect_ping_timeout
    assert PeerSuspected(announce().info) in told(run(made, at))
    return at


def test_who_said_where_a_silent_peer_is_does_not_keep_it_there() -> None:
    made = joined()
    at = silent(made, 1.0)
    made.announced(announce(endpoint=THERE, revision=1), THERE, at)
    made.link_up(THERE, at + 0.1)
    assert made.links[0].endpoint == THERE
    # Something accepts connections there, and proves nothing; the peer itself announces again.
    true = announce(revision=2)
    assert ConnectPeer(HERE) in made.announced(true, HERE, at + 0.2)[1]
    assert made.links[0].endpoint == HERE


def test_a_silent_peer_that_answers_recovers_when_what_either_subscribed_meanwhile_is_in_force() -> None:
    made = joined()
    at = silent(made, 1.0)
    made.subscribe(b"later")
    made.next_marker()
    (link,), ours = made.links, made.marker
    assert made.unconfirmed(ours) == 0, "nobody waits for a peer that is silent"
    assert link.pinged is not None
    outputs = made.pong_heard(KEY, PongBody(link.pinged[0]), at + 0.1)
    assert not told(outputs)
    assert links(outputs) == [LinkBody(ours, 0, 0, answer_me=True)]
    # It has subscribed to something, too: its marker is 2 now.
    assert not told(made.link_heard(KEY, LinkBody(2, 0, 0), at + 0.2))
    assert not told(made.confirm_heard(KEY, ConfirmBody(ours), at + 0.2))
    assert told(made.subscribed(Marker(BOB, BOBS, 2), at + 0.3)) == [PeerRecovered(announce().info)]


def test_a_silent_peer_that_announces_a_change_is_connected_anew() -> None:
    made = joined()
    at = silent(made, 1.0)
    named = announce(revision=1)
    assert made.connected_endpoint(named) is None, "its name may lead elsewhere now"
    assert RevivePeer(HERE) in made.announced(named, HERE, at)[1]
    assert RevivePeer(HERE) not in made.announced(named, HERE, at)[1], "once"


def test_a_farewell_in_the_name_of_a_peer_that_moves_ends_nothing() -> None:
    made = joined()
    made.announced(announce(EVE, OTHER), HERE, 0.5)
    made.link_up(HERE, 0.5)
    made.farewell(Farewell(BOB, HERE, 10, BOBS), 0.9)
    at = silent(made, 1.0)
    made.announced(announce(endpoint=THERE, incarnation=11), THERE, at)
    assert [link.endpoint for link in made.links if link.peer.id == BOB] == [THERE]
    assert not made.is_tombstoned(announce(incarnation=11))


def test_a_peer_that_answers_is_not_moved() -> None:
    made = joined()
    moved = announce(endpoint=THERE, revision=1)
    made.announced(moved, THERE, 1.0)
    made.heard(KEY, 1.1)
    assert told(run(made, 2.0)) == []
    assert drops(made.announced(moved, THERE, 2.0)[1]) == [Drop.MOVED_ENDPOINT]


def test_when_our_host_has_moved_all_connections_are_made_anew() -> None:
    made = joined()
    prove(made, announce(EVE, OTHER, THERE))
    outputs = made.moved(1.0)
    assert [output for output in outputs if isinstance(output, RevivePeer)] == [RevivePeer(HERE), RevivePeer(THERE)]
    assert [link.down_since for link in made.links] == [1.0, 1.0]
    assert told(run(made, 1.0 + made.config.suspect_after)) == [
        PeerSuspected(announce().info),
        PeerSuspected(announce(EVE, OTHER, THERE).info),
    ]


def test_a_peer_whose_link_is_down_is_followed_to_its_new_endpoint() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    moved = announce(endpoint=THERE, revision=1)
    outputs = made.announced(moved, THERE, 1.0)[1]
    assert outputs[:2] == [DisconnectPeer(HERE), ConnectPeer(THERE)]
    made.link_up(THERE, 1.1)
    made.link_heard(KEY, LinkBody(1, 0, 1), 1.1)
    assert made.joined[BOB] == moved.info


@pytest.mark.parametrize("is_retried", [False, True])
def test_what_was_to_be_done_at_its_old_endpoint_does_not_follow_a_peer_to_the_new(is_retried: bool) -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    if is_retried:
        made.link_retried(HERE)
    made.announced(announce(endpoint=THERE), THERE, 1.0)
    assert run(made, 2.0) == [PeerSuspected(announce(endpoint=THERE).info)]


def test_a_newer_revision_updates_and_an_older_one_is_dropped() -> None:
    made = joined()
    newer = announce(revision=2)
    assert made.announced(newer, HERE, 1.0)[1] == [PeerUpdated(newer.info, announce().info)]
    assert made.announced(announce(revision=1), HERE, 1.0)[1] == []
    assert made.joined[BOB] == newer.info
    assert drops(made.announced(announce(revision=3, incarnation=9), HERE, 1.0)[1]) == [Drop.STALE_ANNOUNCE]
    assert made.announced(newer, HERE, 1.0)[1] == []


@pytest.mark.parametrize("incarnation", [10, 11])
def test_whatever_changes_in_what_is_known_of_a_joined_peer_is_told(incarnation: int) -> None:
    made = joined(of=announce(revision=incarnation - 10))
    was = made.joined[BOB]
    other = Announce(PeerInfo(BOB, HERE, name="x", incarnation=incarnation), BOBS)
    assert made.announced(other, HERE, 1.0)[1] == [PeerUpdated(other.info, was)]
    assert made.joined[BOB] == other.info


def test_a_higher_incarnation_alone_is_no_update() -> None:
    made = joined()
    assert made.announced(announce(incarnation=11), HERE, 1.0)[1] == []
    assert made.joined[BOB].incarnation == 11


def test_a_higher_incarnation_replaces_only_when_its_link_is_proved_and_after_the_old_one_is_gone() -> None:
    made = joined()
    new = announce(session=OTHER, incarnation=11, endpoint=THERE)
    made.announced(new, THERE, 1.0)
    made.link_up(THERE, 1.0)
    made.link_heard((BOB, OTHER), LinkBody(1, 0, 0), 1.0)
    assert made.joined[BOB] == announce().info, "an announce and a link message prove nothing yet"
    outputs = made.subscribed(Marker(BOB, OTHER, 1), 1.0)
    assert [output for output in outputs if not isinstance(output, SendData)] == [DrainPeer(HERE, BOB.bytes + BOBS)]
    assert made.drained(HERE, 1.1) == [PeerGone(announce().info, Cause.REPLACED), PeerJoined(new.info)]
    assert made.joined[BOB] == new.info
    assert made.is_tombstoned(announce())
    assert not made.is_tombstoned(new)


def test_a_lower_incarnation_replaces_nobody() -> None:
    made = joined()
    old = announce(session=OTHER, incarnation=9, endpoint=THERE)
    assert drops(made.announced(old, THERE, 1.0)[1]) == [Drop.STALE_ANNOUNCE]
    assert made.joined[BOB] == announce().info


def test_a_higher_incarnation_that_never_joined_keeps_nobody_out() -> None:
    made = roster()
    assert made.announced(announce(session=OTHER, endpoint=THERE, incarnation=99), THERE, 0.0)[0]
    assert made.announced(announce(), HERE, 1.0) == (True, [ConnectPeer(HERE)])
    assert prove(made, announce(), 1.0) == [PeerJoined(announce().info)]


def test_another_id_at_the_endpoint_replaces_when_its_link_is_proved() -> None:
    made = joined()
    eve = announce(EVE, OTHER)
    assert made.announced(eve, HERE, 1.0)[0]
    assert told(made.link_heard((EVE, OTHER), LinkBody(1, 0, 0), 1.0)) == []
    outputs = made.subscribed(Marker(EVE, OTHER, 1), 1.0)
    assert told(outputs) == [PeerGone(announce().info, Cause.REPLACED), PeerJoined(eve.info)]
    assert DisconnectPeer(HERE) not in outputs
    assert ConnectPeer(HERE) not in outputs
    assert ShutPeer(BOB) in outputs, "nobody else subscribes to its inbox"


def test_two_that_were_announced_while_a_third_was_drained_share_one_new_connection() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.probed(HERE, Probe.REFUSED, 1.0)
    for id in (EVE, UUID(int=9)):
        assert made.announced(announce(id, OTHER), HERE, 1.0) == (True, [])
    outputs = made.drained(HERE, 1.1)
    assert outputs == [PeerGone(announce().info, Cause.REFUSED), ConnectPeer(HERE)]
    assert [link.down_since for link in made.links] == [1.0, 1.0]


# Classic peers


def test_a_classic_peer_joins_with_the_handshake_and_leaves_with_its_farewell() -> None:
    made = roster()
    made.announced(classic(), HERE, 0.0)
    assert made.link_up(HERE, 0.0) == [PeerJoined(classic().info)]
    assert made.farewell(Farewell(BOB, HERE), 1.0) == [DrainPeer(HERE, b"")]
    assert made.drained(HERE, 1.0) == [PeerGone(classic().info, Cause.FAREWELL)]
    for late in (classic(), classic(endpoint=THERE)):
        assert drops(made.announced(late, late.info.endpoint, 2.0)[1]) == [Drop.TOMBSTONED]


def test_a_classic_announce_replaces_no_zdisco_peer() -> None:
    for forged in (classic(), classic(EVE)):
        made = joined()
        made.announced(forged, HERE, 1.0)
        made.link_down(HERE, 2.0)
        assert not told(made.link_up(HERE, 2.1))
        assert told(made.link_heard(KEY, LinkBody(1, 0, 1), 2.1)) == []
        assert dict(made.joined) == {BOB: announce().info}


def test_of_two_classic_peers_at_one_endpoint_the_later_is_there() -> None:
    made = roster()
    made.announced(classic(), HERE, 0.0)
    made.link_up(HERE, 0.0)
    made.announced(classic(EVE), HERE, 1.0)
    made.link_down(HERE, 2.0)
    outputs = made.link_up(HERE, 2.1)
    assert told(outputs) == [PeerGone(classic().info, Cause.REPLACED), PeerJoined(classic(EVE).info)]


def test_an_unreachable_classic_peer_is_tried_again_every_beacon_interval() -> None:
    made = gone_classic()
    for at in (36.0, 141.0):
        assert not run(made, at - 0.1)
        assert run(made, at + 0.1) == [ConnectPeer(HERE)]
        assert run(made, at + 75.1) == [DrainPeer(HERE, b"")]
        made.drained(HERE, at + 75.0)
    assert run(made, 247.0) == [ConnectPeer(HERE)]
    assert made.farewell(Farewell(BOB, HERE), 248.0) == [DrainPeer(HERE, b"")]
    assert not told(made.link_up(HERE, 248.0)), "it joins nobody while it is drained"


def gone_classic(config: PeerConfig | None = None) -> Roster:
    """A roster in which a classic peer became unreachable at second 6."""
    made = roster(config)
    made.announced(classic(), HERE, 0.0)
    made.link_up(HERE, 0.0)
    made.link_down(HERE, 1.0)
    made.link_retried(HERE)
    while (at := made.deadline) <= 6.0:
        if ProbePeer(HERE) in made.tick(at):
            made.probed(HERE, Probe.UNDECIDED, at)
    assert made.drained(HERE, 6.0) == [PeerGone(classic().info, Cause.UNREACHABLE)]
    return made


def test_a_classic_peer_that_said_farewell_is_not_tried_again() -> None:
    made = gone_classic()
    assert made.farewell(Farewell(BOB, HERE), 7.0) == []
    assert run(made, 100.0) == []


def test_a_classic_peer_that_never_joined_has_no_farewell_to_wait_for() -> None:
    made = roster()
    made.announced(classic(), HERE, 0.0)
    assert made.probed(HERE, Probe.REFUSED, 0.0) == [DrainPeer(HERE, b"")]
    made = roster()
    made.announced(classic(), HERE, 0.0)
    made.link_up(HERE, 0.0)
    made.link_down(HERE, 1.0)
    assert made.probed(HERE, Probe.REFUSED, 1.0) == [], "its farewell may come yet"


def test_a_classic_peer_that_never_was_there_is_not_tried_again() -> None:
    made = roster()
    made.announced(classic(), HERE, 0.0)
    assert run(made, 75.1) == [DrainPeer(HERE, b"")]
    made.drained(HERE, 75.1)
    assert made.deadline == inf


def test_a_classic_peer_is_not_tried_again_when_we_leave_or_where_there_is_no_room() -> None:
    made = gone_classic(PeerConfig(max_peers=1))
    prove(made, announce(EVE, OTHER, THERE), 7.0)
    made.confirm_heard((EVE, OTHER), ConfirmBody(1), 7.0)
    assert run(made, 100.0) == [Dropped(Drop.TABLE_FULL, "links")]
    made = gone_classic()
    made.close()
    assert run(made, 100.0) == []


# Our own subscriptions


def test_a_subscription_is_confirmed_by_each_peer_that_relies_on_it() -> None:
    made = joined()
    made.link_heard(KEY, LinkBody(1, 0, 0, answer_me=True), 0.0)
    assert made.next_marker() == [
        SubscribeTopic(marker(ME, SESSION, 2)),
        UnsubscribeTopic(marker(ME, SESSION, 1)),
    ]
    assert made.unconfirmed(2) == 1
    made.confirm_heard(KEY, ConfirmBody(1), 0.0)
    assert made.unconfirmed(2) == 1
    made.confirm_heard(KEY, ConfirmBody(2), 0.0)
    assert made.unconfirmed(2) == 0


def test_nobody_waits_for_a_peer_whose_link_broke() -> None:
    made = joined()
    made.next_marker()
    assert made.unconfirmed(2) == 1
    made.link_down(HERE, 1.0)
    assert made.unconfirmed(2) == 0


def test_nobody_waits_for_who_claims_the_endpoint_of_a_joined_peer() -> None:
    made = joined()
    made.announced(announce(EVE, OTHER), HERE, 1.0)
    made.next_marker()
    assert made.unconfirmed(made.marker) == 1
    made.confirm_heard(KEY, ConfirmBody(made.marker), 1.0)
    assert made.unconfirmed(made.marker) == 0


def test_who_comes_to_an_endpoint_that_is_connected_gets_a_new_marker() -> None:
    made = joined()
    outputs = made.announced(announce(EVE, OTHER), HERE, 1.0)[1]
    assert outputs[:2] == [SubscribeTopic(marker(ME, SESSION, 2)), UnsubscribeTopic(marker(ME, SESSION, 1))]
    assert links(outputs) == [LinkBody(2, 0, 0, answer_me=True)]


def test_who_moves_to_an_endpoint_that_is_connected_gets_a_new_marker() -> None:
    made = joined()
    prove(made, announce(EVE, OTHER, THERE))
    made.link_down(HERE, 1.0)
    outputs = made.announced(announce(endpoint=THERE), THERE, 1.0)[1]
    assert links(outputs) == [LinkBody(2, 1, 0, answer_me=True)]


def test_nobody_waits_for_a_suspect_peer() -> None:
    made = joined()
    made.link_heard(KEY, LinkBody(2, 1, 0), 1.0)
    made.next_marker()
    assert made.unconfirmed(2) == 1
    assert told(run(made, 1.3)) == [PeerSuspected(announce().info)]
    assert made.unconfirmed(2) == 0


def test_every_marker_is_confirmed() -> None:
    (output,) = roster().subscribed(Marker(BOB, BOBS, 7), 0.0)
    assert isinstance(output, SendData)
    frame = split(output.frame)
    assert isinstance(frame, ControlFrame)
    body = ConfirmBody.decode(frame.body)
    assert (frame.inbox, frame.kind, body.marker, body.pieces) == (BOB.bytes, Kind.CONFIRM, 7, 0)


def test_the_sender_of_a_frame_is_known_by_id_and_session() -> None:
    made = joined()
    found = made.sender(BOB.bytes + BOBS)
    assert found is not None
    assert found[0] == announce().info
    assert made.sender(BOB.bytes + OTHER) is None
    assert made.sender(EVE.bytes + BOBS) is None


# Bounds


def test_the_links_of_one_id_are_bounded_and_make_room_for_the_latest() -> None:
    made = roster(PeerConfig(max_links_per_id=2))
    for number in range(5):
        made.announced(announce(session=b"ses%d" % number), HERE, 0.0)
    assert [link.announce.session for link in made.links] == [b"ses3", b"ses4"]


def test_the_links_at_one_endpoint_are_bounded_and_make_room_for_the_latest() -> None:
    made = joined(PeerConfig(max_links_per_id=3))
    for number in range(100, 110):
        made.announced(announce(UUID(int=number), OTHER), HERE, 0.0)
    assert [link.peer.id.int for link in made.links] == [BOB.int, 108, 109]


def test_nobody_moves_to_an_endpoint_that_is_full() -> None:
    made = roster(PeerConfig(max_links_per_id=1))
    made.announced(announce(), HERE, 0.0)
    made.announced(announce(EVE, OTHER), THERE, 0.0)
    assert drops(made.announced(announce(EVE, OTHER), HERE, 1.0)[1]) == [Drop.TABLE_FULL]
    assert len(made) == 2


def test_no_flood_of_announces_pushes_a_joined_peer_out() -> None:
    made = joined(PeerConfig(max_peers=3))
    for number in range(100, 120):
        made.announced(announce(UUID(int=number), OTHER, f"tcp://127.0.0.1:{40000 + number}"), "tcp://x", 1.0)
    assert len(made) == 3
    assert BOB in made.joined


def test_a_table_full_of_joined_peers_takes_no_more() -> None:
    made = joined(PeerConfig(max_peers=1))
    is_new, outputs = made.announced(announce(EVE, OTHER, THERE), THERE, 1.0)
    assert (is_new, drops(outputs)) == (False, [Drop.TABLE_FULL])


def test_tombstones_strangers_markers_and_epochs_are_bounded() -> None:
    made = roster(PeerConfig(max_tombstones=3, max_strangers=3))
    forgotten: Counter[Drop] = Counter()
    for number in range(100, 110):
        id = UUID(int=number)
        forgotten.update(drops(made.subscribed(Marker(id, OTHER, 1), 0.0)))
        prove(made, announce(id, OTHER), body=LinkBody(1, 0, 2 * (number - 100)))
        made.link_down(HERE, 0.1)
        made.farewell(Farewell(id, HERE, 10, OTHER), 0.2)
        forgotten.update(drops(made.drained(HERE, 0.3)))
    made.close()
    refused = [drops(made.subscribed(Inbox(UUID(int=number)), 1.0)) for number in range(200, 210)]
    assert refused == [[]] * 3 + [[Drop.TABLE_FULL]] * 7
    # One of the epochs is that of the endpoint, which all had.
    assert forgotten == {Drop.FORGOTTEN: 7 + 8 + 7}
    assert [len(table) for table in (made._tombstones, made._strangers, made._epochs)] == [3, 3, 3]
    assert len(made._markers) == 3, "a link remembers its own"
    assert made.is_tombstoned(announce(UUID(int=109), OTHER))
    assert not made.is_tombstoned(announce(UUID(int=100), OTHER)), "the oldest went"


def test_a_peer_that_was_never_connected_takes_no_room_among_the_epochs() -> None:
    made = joined()
    made.link_down(HERE, 1.0)
    made.probed(HERE, Probe.REFUSED, 1.0)
    made.drained(HERE, 1.0)
    known = dict(made._epochs)
    assert known.keys() == {KEY, HERE}
    made.announced(announce(EVE, OTHER, THERE), THERE, 2.0)
    made.probed(THERE, Probe.REFUSED, 2.0)
    made.drained(THERE, 2.0)
    assert made._epochs == known


def test_the_joined_peers_cannot_be_changed_from_outside() -> None:
    made = joined()
    with pytest.raises(TypeError):
        made.joined[EVE] = announce().info  # type: ignore[index]
    assert made.joined == {BOB: announce().info}


def test_one_marker_is_repeated_until_all_who_joined_without_it_have_confirmed_one() -> None:
    made = joined()
    prove(made, announce(EVE, OTHER, THERE))
    before = made.marker
    run(made, 3.5)
    assert made.marker == before + 3
    for key in (KEY, (EVE, OTHER)):
        made.confirm_heard(key, ConfirmBody(made.marker), 3.5)
    run(made, 60.0)
    assert made.marker == before + 3
