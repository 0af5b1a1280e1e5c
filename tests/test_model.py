"""The nouns: what is frozen, what is a copy, what is equal."""

from __future__ import annotations

import copy
import pickle
from uuid import UUID

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError

from zdisco import (
    AnnounceTooLarge,
    BindError,
    ClosedError,
    DiscoveryTimeout,
    FarewellTimeout,
    InvalidEndpoint,
    InvalidHosts,
    MalformedMessage,
    PeerGone,
    PeerJoined,
    ProxySighting,
    UnknownName,
    ZdiscoError,
    ZPLError,
)
from zdisco._core.model import Cause, Message, PeerInfo, ReconnectStop

INFO = PeerInfo(
    UUID(int=1),
    "tcp://127.0.0.1:1",
    headers={"role": "robot"},
    groups=["a", "b"],
    names={"clock": ["tcp://127.0.0.1:2"]},
)


def test_what_a_peer_says_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        INFO.name = "mallory"  # type: ignore[misc]
    with pytest.raises(TypeError):
        INFO.headers["role"] = "king"  # type: ignore[index]
    with pytest.raises(TypeError):
        INFO.names["clock"] = ()  # type: ignore[index]


def test_the_headers_are_a_copy_of_what_was_given() -> None:
    given = {"role": "robot"}
    info = PeerInfo(UUID(int=1), "tcp://127.0.0.1:1", headers=given)
    given["role"] = "king"
    assert info.headers["role"] == "robot"


def test_groups_and_services_are_sets_whatever_was_given() -> None:
    assert INFO.groups == frozenset({"a", "b"})
    assert evolve(INFO, services=iter(["x"])).services == frozenset({"x"})


def test_the_names_are_a_copy_of_what_was_given() -> None:
    given = {"clock": ["tcp://127.0.0.1:2"]}
    info = PeerInfo(UUID(int=1), "tcp://127.0.0.1:1", names=given)
    given["clock"].append("tcp://127.0.0.1:3")
    given["other"] = ["tcp://127.0.0.1:4"]
    assert info.names == {"clock": ("tcp://127.0.0.1:2",)}


def test_equal_peers_are_one_key() -> None:
    assert {INFO: 1}[evolve(INFO)] == 1
    assert evolve(INFO, headers={}) != INFO
    assert evolve(INFO, names={}) != INFO


def test_a_classic_peer_says_only_its_id_and_endpoint() -> None:
    info = PeerInfo(UUID(int=1), "tcp://127.0.0.1:1")
    assert (info.name, info.cluster) == ("", "")
    assert not any((info.headers, info.groups, info.services, info.names))
    assert (info.incarnation, info.revision, info.host, info.pid) == (0, 0, "", 0)


def test_the_flags_have_the_numbers_of_the_option() -> None:
    assert (ReconnectStop.NEVER, ReconnectStop.CONN_REFUSED, ReconnectStop.HANDSHAKE_FAILED) == (0, 1, 2)


def test_the_causes_are_the_published_ones() -> None:
    assert {cause.name for cause in Cause} == {"FAREWELL", "REFUSED", "UNREACHABLE", "REJECTED", "REPLACED"}


def test_a_message_keeps_no_more_than_its_three_fields() -> None:
    message = Message(INFO, "prices.eur", b"1.08")
    assert (message.sender, message.topic, message.payload) == (INFO, "prices.eur", b"1.08")
    with pytest.raises(AttributeError):
        message.extra = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "value", [INFO, PeerJoined(INFO), PeerGone(INFO, Cause.REFUSED), Message(INFO, "t", b"1"), ReconnectStop.NEVER]
)
def test_what_users_are_given_can_be_copied_and_sent_to_another_process(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value


@pytest.mark.parametrize(
    "error",
    [
        ClosedError("peer"),
        DiscoveryTimeout(1.5, (ProxySighting("tcp://127.0.0.1:5555"),)),
        FarewellTimeout(1.5, ("tcp://127.0.0.1:5555",)),
        BindError("tcp://127.0.0.1:5555", 98, "address in use"),
        InvalidEndpoint("nowhere", "not of the form tcp://host:port"),
        InvalidHosts("hosts.zpl", "no such file or directory"),
        UnknownName("clock", 1.5),
        AnnounceTooLarge(70_000, 65_536),
        ZPLError("one.zpl", 3, 5, "the quote is not closed"),
        MalformedMessage("no command", 3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_can_be_sent_to_another_process(error: ZdiscoError) -> None:
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert vars(copied) == vars(error)
    assert getattr(copied, "errno", None) == getattr(error, "errno", None)
