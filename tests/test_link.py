"""The table of a link, walked: every state answers every signal."""

from __future__ import annotations

from itertools import product
from uuid import UUID

import pytest

from zdisco._core.counts import Counts
from zdisco._core.events import PeerEvent, PeerGone, PeerJoined, PeerRecovered, PeerSuspected
from zdisco._core.interests import Interests
from zdisco._core.link import CAUSES, FINAL, TRANSITIONS, Link, Signal, told
from zdisco._core.links import Links
from zdisco._core.model import Cause, LinkState, PeerInfo
from zdisco._core.wire import Announce

PEER = PeerInfo(UUID(int=1), "tcp://127.0.0.1:40001", name="alice")
ENDS = tuple(CAUSES)


def counts() -> Counts:
    return Counts(PEER.id, b"sess", Interests(UUID(int=2), b"mine"), 10)


def link(state: LinkState, session: bytes = b"sess") -> Link:
    return Link(Announce(PEER, session), PEER.endpoint, None, counts(), 0.0, state=state)


def test_every_state_answers_every_signal() -> None:
    assert set(TRANSITIONS) == set(product(LinkState, Signal))


@pytest.mark.parametrize("signal", Signal)
def test_nothing_leads_out_of_gone(signal: Signal) -> None:
    assert TRANSITIONS[LinkState.GONE, signal] is LinkState.GONE


@pytest.mark.parametrize("signal", Signal)
def test_nothing_leads_back_to_announced(signal: Signal) -> None:
    came_from = {state for state in LinkState if TRANSITIONS[state, signal] is LinkState.ANNOUNCED}
    assert came_from <= {LinkState.ANNOUNCED}


@pytest.mark.parametrize("state", LinkState)
@pytest.mark.parametrize("signal", ENDS)
def test_each_signal_with_a_cause_ends_the_link(state: LinkState, signal: Signal) -> None:
    assert TRANSITIONS[state, signal] is LinkState.GONE


def test_each_cause_has_one_signal() -> None:
    assert sorted(cause.name for cause in CAUSES.values()) == sorted(cause.name for cause in Cause)


def test_only_a_farewell_and_a_replacement_are_final() -> None:
    assert {CAUSES[signal] for signal in FINAL} == {Cause.FAREWELL, Cause.REPLACED}


@pytest.mark.parametrize(
    ("state", "signal", "event"),
    [
        (LinkState.ANNOUNCED, Signal.PROVED, PeerJoined(PEER)),
        (LinkState.ANNOUNCED, Signal.SILENT, None),
        *((LinkState.ANNOUNCED, signal, None) for signal in ENDS),
        (LinkState.JOINED, Signal.PROVED, None),
        (LinkState.JOINED, Signal.SILENT, PeerSuspected(PEER)),
        *((LinkState.JOINED, signal, PeerGone(PEER, CAUSES[signal])) for signal in ENDS),
        (LinkState.SUSPECT, Signal.PROVED, PeerRecovered(PEER)),
        (LinkState.SUSPECT, Signal.SILENT, None),
        *((LinkState.SUSPECT, signal, PeerGone(PEER, CAUSES[signal])) for signal in ENDS),
        *((LinkState.GONE, signal, None) for signal in Signal),
    ],
)
def test_the_user_is_told_of_each_change_once(state: LinkState, signal: Signal, event: PeerEvent | None) -> None:
    there = link(state)
    assert there.signal(signal, 0.0) == event
    assert there.state is TRANSITIONS[state, signal]
    assert told(state, there.state, PEER, signal) == event


def test_a_link_is_one_life_of_one_process() -> None:
    one, other = link(LinkState.JOINED, b"one!"), link(LinkState.JOINED, b"two!")
    assert one.key != other.key
    assert one.sender == PEER.id.bytes + b"one!"
    assert one.peer is PEER


def test_the_frames_of_a_classic_peer_name_no_sender() -> None:
    assert Link(Announce(PEER), PEER.endpoint, None, counts(), 0.0).sender == b""


def test_of_those_who_wait_for_a_connection_whoever_had_joined_comes_first() -> None:
    links = Links()
    states = (LinkState.ANNOUNCED, LinkState.JOINED, LinkState.ANNOUNCED, LinkState.SUSPECT)
    for number, state in enumerate(states):
        made = link(state, b"ses%d" % number)
        made.down_since = 1.0
        links.add(made)
    waiting = [there.announce.session for there in links.waiting_at(PEER.endpoint)]
    assert waiting == [b"ses1", b"ses3", b"ses0", b"ses2"]
