"""The two tables of what a gossip node and one other say to each other, walked."""

from __future__ import annotations

from itertools import product

import pytest

from zdisco._core.gossip.talk import CLIENT, REMOTE, ClientSignal, RemoteSignal, Talk, TalkState

EVIDENCE: dict[TalkState, set[RemoteSignal | ClientSignal]] = {
    TalkState.OURS: {RemoteSignal.GREETED, ClientSignal.GREETED},
    TalkState.OURSELVES: {RemoteSignal.MIRRORED, ClientSignal.MIRRORED},
    TalkState.CLASSIC: {RemoteSignal.PONG, ClientSignal.HELLO, ClientSignal.PUBLISH},
    TalkState.GREETING: {RemoteSignal.UP, RemoteSignal.INVALID},
}
"""What alone makes us believe that one is what a state says."""

ENDS = {RemoteSignal.DOWN, ClientSignal.GONE}
ROWS: list[tuple[tuple[TalkState, RemoteSignal | ClientSignal], TalkState]] = [*REMOTE.items(), *CLIENT.items()]


def test_every_state_answers_every_signal() -> None:
    assert set(REMOTE) == set(product(TalkState, RemoteSignal))
    # A client speaks first, so nobody waits for its answer.
    assert set(CLIENT) == set(product(set(TalkState) - {TalkState.GREETING}, ClientSignal))


def test_no_client_gets_into_a_state_that_answers_nothing() -> None:
    assert TalkState.GREETING not in CLIENT.values()


@pytest.mark.parametrize("state", TalkState)
def test_each_new_connection_to_a_remote_begins_with_a_greeting(state: TalkState) -> None:
    assert REMOTE[state, RemoteSignal.UP] is TalkState.GREETING


def test_each_end_leads_to_away() -> None:
    assert {after for (_, signal), after in ROWS if signal in ENDS} == {TalkState.AWAY}


@pytest.mark.parametrize("state", EVIDENCE)
def test_nothing_but_its_evidence_leads_to_a_state(state: TalkState) -> None:
    leading = {signal for (before, signal), after in ROWS if after is state and before is not state}
    assert leading == EVIDENCE[state]


@pytest.mark.parametrize("signal", [signal for signal in [*RemoteSignal, *ClientSignal] if signal not in ENDS])
def test_evidence_counts_in_every_state_but_where_the_connection_has_ended(
    signal: RemoteSignal | ClientSignal,
) -> None:
    (shown,) = (state for state, signals in EVIDENCE.items() if signal in signals)
    for (before, other), after in ROWS:
        if other is signal:
            is_late = before is TalkState.AWAY and signal in set(RemoteSignal) - {RemoteSignal.UP}
            assert after is (TalkState.AWAY if is_late else shown)


@pytest.mark.parametrize("signal", [signal for signal in RemoteSignal if signal is not RemoteSignal.UP])
def test_only_a_new_connection_leads_out_of_away_at_a_remote(signal: RemoteSignal) -> None:
    assert REMOTE[TalkState.AWAY, signal] is TalkState.AWAY


@pytest.mark.parametrize("state", [state for state in TalkState if state is not TalkState.AWAY])
def test_who_does_not_know_us_is_greeted_anew(state: TalkState) -> None:
    assert REMOTE[state, RemoteSignal.INVALID] is TalkState.GREETING


def test_a_talk_takes_one_row_for_each_signal() -> None:
    for (state, signal), after in ROWS:
        talk = Talk(1 if isinstance(signal, RemoteSignal) else b"id", state)
        talk.signal(signal)
        assert talk.state is after
