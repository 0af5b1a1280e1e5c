"""The table of a relay, walked, and held against what its states say."""

from __future__ import annotations

from itertools import product
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdisco._core.relay import TRANSITIONS, Relay, RelaySignal, RelayState

PROXY = "tcp://127.0.0.1:5555"


def test_every_state_answers_every_signal() -> None:
    assert set(TRANSITIONS) == set(product(RelayState, RelaySignal))


def test_every_state_can_be_reached() -> None:
    reached, grew = {RelayState.AWAY}, True
    while grew:
        following = {TRANSITIONS[state, signal] for state in reached for signal in RelaySignal}
        grew = not following <= reached
        reached |= following
    assert reached == set(RelayState)


@given(st.lists(st.sampled_from(RelaySignal)))
def test_the_state_says_what_goes_through(signals: list[RelaySignal]) -> None:
    relay = Relay(PROXY)
    heard = hears = came_back = False
    for signal in signals:
        relay.signal(signal)
        match signal:
            case RelaySignal.WELCOME:
                heard, came_back = True, False
            case RelaySignal.LOST:
                heard = came_back = False
            case RelaySignal.RELAY_UP:
                hears, came_back = True, False
            case RelaySignal.RELAY_DOWN:
                hears = came_back = False
            case RelaySignal.ECHO:
                came_back = heard and hears
        assert relay.is_heard == heard
        assert relay.hears_us == hears
        assert relay.echoes == (heard and hears)
        assert (relay.state is RelayState.FOUND) == came_back


@pytest.mark.parametrize("state", RelayState)
def test_only_an_echo_finds_a_proxy(state: RelayState) -> None:
    finders = {signal for signal in RelaySignal if TRANSITIONS[state, signal] is RelayState.FOUND}
    assert finders <= {RelaySignal.ECHO}


def test_a_sighting_says_what_was_seen() -> None:
    relay = Relay(PROXY, RelayState.DEAF, UUID(int=7), "tcp://127.0.0.1:40001", announced=3)
    sighting = relay.sighting(connected=True, refused=2)
    assert (sighting.endpoint, sighting.connected, sighting.refused) == (PROXY, True, 2)
    assert (sighting.relay, sighting.subscribed, sighting.announced) == ("tcp://127.0.0.1:40001", True, 3)
