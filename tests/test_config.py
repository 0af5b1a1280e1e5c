"""Every number of a peer, and of a gossip node, is checked where it is given."""

from __future__ import annotations

import math

import pytest
from attrs import evolve, fields
from attrs.exceptions import FrozenInstanceError

from zdisco._core.config import GossipConfig, PeerConfig
from zdisco._core.model import Overflow, ReconnectStop

SECONDS = [field.name for field in fields(PeerConfig) if field.type in ("float", float)]
COUNTS = [field.name for field in fields(PeerConfig) if field.type in ("int", int) and field.name != "pack_size"]
MAY_BE_ZERO = {"farewell_timeout", "answer_delay_per_peer", "answer_delay_max", "linger", "beacon_jitter"}


def config(**values: object) -> PeerConfig:
    """What a caller without a type checker can write."""
    return PeerConfig(**values)  # type: ignore[arg-type]


def test_every_field_is_checked() -> None:
    assert {*SECONDS, *COUNTS, "overflow", "pack_size", "reconnect_stop", "probe_delays"} == {
        field.name for field in fields(PeerConfig)
    }


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [-1.0, math.inf, -math.inf, math.nan, 1e7])
def test_a_time_that_is_none_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        config(**{name: value})


@pytest.mark.parametrize("name", SECONDS)
def test_only_what_can_be_left_out_may_be_zero(name: str) -> None:
    if name in MAY_BE_ZERO:
        assert getattr(config(**{name: 0}), name) == 0
    else:
        with pytest.raises(ValueError, match=name):
            config(**{name: 0})


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", ["1", None, True, False])
def test_a_time_is_a_number(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        config(**{name: value})


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_a_count_is_at_least_one_and_fits_an_option_of_libzmq(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        config(**{name: value})
    assert getattr(config(**{name: 1}), name) == 1


def test_two_beats_may_be_missed_before_a_peer_is_doubted() -> None:
    assert config(beat_interval=1.0, beat_timeout=1.6).beat_timeout == 1.6
    with pytest.raises(ValueError, match=r"beat_timeout must be more than 1\.5 times beat_interval, not 1\.5 and 1\.0"):
        config(beat_interval=1.0, beat_timeout=1.5)


def test_the_sizes_in_a_pack_have_two_bytes() -> None:
    assert [config(pack_size=value).pack_size for value in (0, 65_535)] == [0, 65_535]
    for value in (-1, 65_536):
        with pytest.raises(ValueError, match="pack_size"):
            config(pack_size=value)


@pytest.mark.parametrize("name", [*COUNTS, "pack_size", "reconnect_stop"])
@pytest.mark.parametrize("value", [1.5, "1", None, True])
def test_a_count_is_a_whole_number(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        config(**{name: value})


def test_probe_delays_are_times_of_which_any_may_be_zero() -> None:
    assert PeerConfig(probe_delays=[0, 1]).probe_delays == (0, 1)
    with pytest.raises(ValueError, match="probe_delays"):
        PeerConfig(probe_delays=(0.0, -1.0))
    with pytest.raises(TypeError, match="probe_delays"):
        config(probe_delays="12")
    with pytest.raises(TypeError, match="probe_delays"):
        config(probe_delays=1.0)


@pytest.mark.parametrize("value", range(4))
def test_reconnect_stop_takes_the_flags_of_the_option(value: int) -> None:
    flags = PeerConfig(reconnect_stop=value).reconnect_stop
    assert isinstance(flags, ReconnectStop)
    assert (ReconnectStop.CONN_REFUSED in flags, ReconnectStop.HANDSHAKE_FAILED in flags) == (
        bool(value & 1),
        bool(value & 2),
    )


@pytest.mark.parametrize("value", [-1, 4])
def test_other_flags_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="reconnect_stop"):
        PeerConfig(reconnect_stop=value)


@pytest.mark.parametrize("value", ["drop", Overflow.DROP, "wait", Overflow.WAIT])
def test_overflow_takes_the_text_or_the_enum(value: object) -> None:
    assert config(overflow=value).overflow is Overflow(value)


@pytest.mark.parametrize(
    ("value", "error"), [("block", ValueError), ("", ValueError), (None, TypeError), (1, TypeError)]
)
def test_another_overflow_is_refused_by_name(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="overflow"):
        config(overflow=value)


def test_a_beacon_jitter_of_the_whole_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="beacon_jitter"):
        PeerConfig(beacon_jitter=1.0)


def test_a_config_is_changed_by_making_another() -> None:
    ours = PeerConfig()
    with pytest.raises(FrozenInstanceError):
        ours.linger = 1.0  # type: ignore[misc]
    assert evolve(ours, linger=1.0).linger == 1.0
    assert ours == PeerConfig()


# Gossip nodes

GOSSIP_SECONDS = [field.name for field in fields(GossipConfig) if field.type in ("float", float)]
GOSSIP_COUNTS = [field.name for field in fields(GossipConfig) if field.type in ("int", int)]


def gossip(**values: object) -> GossipConfig:
    """What a caller without a type checker can write."""
    return GossipConfig(**values)  # type: ignore[arg-type]


def test_every_field_of_a_gossip_node_is_checked() -> None:
    assert {*GOSSIP_SECONDS, *GOSSIP_COUNTS} == {field.name for field in fields(GossipConfig)}


@pytest.mark.parametrize("name", GOSSIP_SECONDS)
def test_a_time_of_a_gossip_node_that_is_none_is_refused_by_name(name: str) -> None:
    for value in (-1.0, math.inf, math.nan, 1e7):
        with pytest.raises(ValueError, match=name):
            gossip(**{name: value})
    for wrong in ("1", None, True):
        with pytest.raises(TypeError, match=name):
            gossip(**{name: wrong})
    if name in ("client_timeout", "linger"):
        assert getattr(gossip(**{name: 0}), name) == 0
    else:
        with pytest.raises(ValueError, match=name):
            gossip(**{name: 0})


@pytest.mark.parametrize("name", GOSSIP_COUNTS)
def test_a_count_of_a_gossip_node_is_at_least_one(name: str) -> None:
    for value in (0, -1, 2**31):
        with pytest.raises(ValueError, match=name):
            gossip(**{name: value})
    for wrong in (1.5, "1", None, True):
        with pytest.raises(TypeError, match=name):
            gossip(**{name: wrong})
    assert getattr(gossip(**{name: 1}), name) == 1
