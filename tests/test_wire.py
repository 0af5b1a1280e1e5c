"""Discovery messages: the classic vectors, golden bytes, laws for any input."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zdisco._core import wire
from zdisco._core.errors import AnnounceTooLarge, InvalidEndpoint, MalformedMessage
from zdisco._core.model import NO_SESSION, PeerInfo
from zdisco._core.wire import Announce, Farewell, Welcome, decode, encode

DATA = json.loads((Path(__file__).parent / "data" / "vectors.json").read_text("utf-8"))
VECTORS: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in DATA["vectors"]}

# The C++ peer accepts some of these by accident; each has no id or no endpoint that we could use.
REFUSED = {
    "classic_unknown_H": "unknown command",
    "classic_C_short_uuid": "id is not the text",
    "classic_C_empty_uuid": "id is not the text",
    "classic_C_empty_endpoint": "endpoint is empty",
    "classic_bad_short_1": "shorter than 295",
    "classic_bad_empty": "shorter than 295",
    "classic_bad_cmd_uuid_only": "shorter than 295",
    "classic_bad_unpadded": "shorter than 295",
    "classic_bad_uuid_no_nul": "no NUL in id",
    "classic_bad_endpoint_no_nul": "no NUL in endpoint",
}

ID = UUID("597f7602-108a-4c59-bc96-ae7eb4c5a0e4")
OTHER = UUID("00000000-0000-4000-8000-000000000001")
ENDPOINT = "tcp://127.0.0.1:42133"
SESSION = b"\x01\x02\xab\xcd"


def vector(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["hex"])


CLASSIC_C = vector("classic_canonical_C")


def extended(body: bytes, *, flags: int = 0, version: int = 1, classic: bytes = CLASSIC_C) -> bytes:
    return classic + b"ZD" + bytes([version, flags]) + struct.pack(">I", len(body)) + body


def announced(**fields: object) -> Announce:
    message = decode(extended(json.dumps(fields).encode()))
    assert isinstance(message, Announce)
    return message


# -- the classic programs -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(VECTORS.keys() - REFUSED.keys()))
def test_a_classic_vector_decodes_as_recorded(name: str) -> None:
    fields = VECTORS[name]["fields"]
    peer_id, endpoint = UUID(fields["uuid"]), fields["endpoint"]
    expected = {
        "W": Welcome(peer_id, endpoint),
        "C": Announce(PeerInfo(peer_id, endpoint)),
        "D": Farewell(peer_id, endpoint),
    }
    assert decode(vector(name)) == expected[fields["command"]]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_classic_vector_without_a_usable_identity_is_refused(name: str) -> None:
    with pytest.raises(MalformedMessage, match=REFUSED[name]) as caught:
        decode(vector(name))
    assert caught.value.size == VECTORS[name]["length"]


def test_every_vector_recorded_as_malformed_is_among_the_refused() -> None:
    malformed = {name for name, recorded in VECTORS.items() if recorded["fields"].get("malformed")}
    assert malformed
    assert malformed <= REFUSED.keys() <= VECTORS.keys()


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (Welcome(ID, ENDPOINT), "classic_canonical_W"),
        (Announce(PeerInfo(ID, ENDPOINT)), "classic_canonical_C"),
        (Farewell(ID, ENDPOINT), "classic_canonical_D"),
    ],
)
def test_a_message_that_says_nothing_more_is_the_classic_one_byte_by_byte(message: Any, name: str) -> None:
    assert encode(message) == vector(name)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (Welcome(ID, ENDPOINT, frozenset({"directory"})), "classic_canonical_W"),
        (Announce(PeerInfo(ID, ENDPOINT, name="alice"), SESSION), "classic_canonical_C"),
        (Farewell(ID, ENDPOINT, 7, SESSION), "classic_canonical_D"),
    ],
)
def test_an_extended_message_begins_with_the_classic_one(message: Any, name: str) -> None:
    frame = encode(message)
    assert len(frame) > wire.CLASSIC_SIZE
    assert frame[: wire.CLASSIC_SIZE] == vector(name)


def test_the_layout_is_the_recorded_one() -> None:
    layout = DATA["classic_layout"]
    assert layout["size"] == wire.CLASSIC_SIZE
    assert layout["endpoint"][1] == wire.ENDPOINT_LIMIT + 1
    longest = "tcp://" + "h" * (wire.ENDPOINT_LIMIT - 6)
    frame = encode(Welcome(ID, longest))
    assert frame[layout["endpoint"][0] :] == longest.encode() + b"\0"
    assert frame[slice(1, 38)] == str(ID).encode() + b"\0"


# -- our own bytes ------------------------------------------------------------------------------


def test_the_extension_of_a_full_announce_is_golden() -> None:
    info = PeerInfo(
        ID,
        ENDPOINT,
        name="Zoë",
        headers={"role": "robot", "a": "1"},
        groups=frozenset({"b", "a"}),
        services=frozenset({"http"}),
        names={"b": ["ipc:///run/b"], "a": ["tcp://*:6000", "tcp://192.0.2.7:6000"]},
        cluster="lab",
        incarnation=1_700_000_000_000,
        revision=3,
        host="box",
        pid=4242,
    )
    message = Announce(info, SESSION, frozenset({"y", "x"}), "k", again=True, informed_by=frozenset({ID, OTHER}))
    body = (
        '{"name":"Zoë","headers":{"a":"1","role":"robot"},"groups":["a","b"],"services":["http"],'
        '"names":{"a":["tcp://*:6000","tcp://192.0.2.7:6000"],"b":["ipc:///run/b"]},'
        '"cluster":"lab","incarnation":1700000000000,"revision":3,"session":"0102abcd","host":"box","pid":4242,'
        '"key":"k","capabilities":["x","y"],'
        f'"informed_by":["{OTHER}","{ID}"]}}'
    ).encode()
    assert encode(message) == extended(body, flags=3)
    assert decode(encode(message)) == message
    assert message.informed
    assert not message.is_classic


@pytest.mark.parametrize(
    ("message", "extension"),
    [
        (Welcome(ID, ENDPOINT, frozenset({"directory"})), b'ZD\1\0\0\0\0\x1e{"capabilities":["directory"]}'),
        (Farewell(ID, ENDPOINT, 7, SESSION), b'ZD\1\0\0\0\0\x26{"incarnation":7,"session":"0102abcd"}'),
        (Announce(PeerInfo(ID, ENDPOINT), again=True), b"ZD\1\1\0\0\0\x02{}"),
        (Announce(PeerInfo(ID, ENDPOINT, name="x")), b'ZD\1\0\0\0\0\x0c{"name":"x"}'),
    ],
)
def test_a_small_extension_is_golden(message: Any, extension: bytes) -> None:
    assert encode(message)[wire.CLASSIC_SIZE :] == extension
    assert decode(encode(message)) == message


def test_a_set_is_written_in_order() -> None:
    capabilities = frozenset("hgfedcba")
    frame = encode(Welcome(ID, ENDPOINT, capabilities))
    assert frame.endswith(b'{"capabilities":["a","b","c","d","e","f","g","h"]}')


def test_only_a_message_with_a_session_is_not_classic() -> None:
    assert Announce(PeerInfo(ID, ENDPOINT)).is_classic
    assert Farewell(ID, ENDPOINT).is_classic
    assert not Farewell(ID, ENDPOINT, session=SESSION).is_classic
    assert not Announce(PeerInfo(ID, ENDPOINT)).informed


def test_unknown_keys_flags_and_trailing_bytes_stay_out_of_the_way() -> None:
    body = b'{"name":"x","later":{"deep":[1.5,null,{"a":true}]}}'
    assert decode(extended(body, flags=0xFC) + b"more") == Announce(PeerInfo(ID, ENDPOINT, name="x"))


def test_a_welcome_and_a_farewell_ignore_the_keys_of_an_announce() -> None:
    body = b'{"name":7,"capabilities":[],"pid":-1}'
    assert decode(extended(body, classic=vector("classic_canonical_W"))) == Welcome(ID, ENDPOINT)
    assert decode(extended(body, classic=vector("classic_canonical_D"))) == Farewell(ID, ENDPOINT)


@pytest.mark.parametrize(
    "tail", [b"Z", b"zd\1\0\0\0\0\x02{}", b"EXT1", b"ZD\0", b"ZD\2\0\xff", b"\0ZD\1", b"\xff" * 70000]
)
def test_what_is_not_an_extension_of_version_1_is_read_as_classic(tail: bytes) -> None:
    assert decode(CLASSIC_C + tail) == Announce(PeerInfo(ID, ENDPOINT))


@pytest.mark.parametrize("size", range(2, 10))
def test_an_extension_that_is_cut_off_is_malformed(size: int) -> None:
    frame = extended(b"{}")
    assert decode(frame) == Announce(PeerInfo(ID, ENDPOINT))
    with pytest.raises(MalformedMessage, match="cut off"):
        decode(frame[: wire.CLASSIC_SIZE + size])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"name"',
        b"{} {}",
        b"\xff\xfe{\0}\0",
        b"\xef\xbb\xbf{}",
        '{"name":"x"}'.encode("utf-16-le"),
        b'{"name":"\xff"}',
        b'{"name":"\xed\xa0\x80"}',
        b'{"name":"a\nb"}',
        b'{"later":NaN}',
        b'{"later":-Infinity}',
        b'{"name":"a","name":"a"}',
        b'{"headers":{"a":"1","a":"2"}}',
        b'{"later":{"a":1,"a":2}}',
        b'{"later":' + b"[" * 30000 + b"]" * 30000 + b"}",
        b'{"later":' + b'{"a":' * 10000 + b"1" + b"}" * 10000 + b"}",
        b'{"pid":' + b"9" * 5000 + b"}",
        b'{"later":' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_not_one_object_of_plain_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(extended(body))


NOT_TEXT: list[object] = [1, None, True, [], {}, "\ud800"]
NOT_TEXTS: list[object] = ["a", {}, None, [1], ["\udfff"]]
NOT_A_COUNTER: list[object] = [-1, True, False, 1.0, 1e999, "1", None, [], 2**63, 2**200]
NO_ENDPOINTS = [
    *("", "nonsense", "tcp://192.0.2.7", "tcp://192.0.2.7:*", "tcp://192.0.2.7:0", "tcp://0.0.0.0:1", "tcp://[::]:1"),
    *("tcp://*:01", "tcp://*:65536", "tcp://224.0.0.1:1", "tcp://192.0.2.7;192.0.2.8:1", "tcp://192.0.2.7:1\n"),
    *("inproc://a", "ipc://a", "ipc://*", "ipc:///a\0b", "ipc:///a\x1b[2J", "ipc:///\ud800", "ipc:///" + "x" * 107),
    *("pgm://eth0;239.0.0.1:5", "udp://192.0.2.7:1", "vmci://1:1", "ws://192.0.2.7:1", "TCP://192.0.2.7:1"),
]
WRONG_VALUES: dict[str, list[object]] = {
    **dict.fromkeys(("name", "cluster", "host", "key"), NOT_TEXT),
    **dict.fromkeys(("groups", "services", "capabilities"), NOT_TEXTS),
    **dict.fromkeys(("incarnation", "revision"), NOT_A_COUNTER),
    "pid": [-1, True, 1.0, "1", None, 2**32 + 1],
    "names": [
        *(
            [],
            "a",
            None,
            {"a": "tcp://192.0.2.7:1"},
            {"a": []},
            {"a": None},
            {"a": [1]},
            {"a": [["tcp://192.0.2.7:1"]]},
        ),
        *({name: ["tcp://192.0.2.7:1"]} for name in ("", "a\0b", "\ud800", "x" * 256, "é" * 128)),
        *({"a": ["tcp://192.0.2.7:1", endpoint]} for endpoint in NO_ENDPOINTS),
    ],
    "headers": [[], {"a": 1}, {"a": None}, {"\ud800": "a"}, {"a": "\ud800"}],
    "session": ["", "0" * 8, "abc", "0102abcde", "0102 abc", "0102abcg", "٠١٢٣٤٥٦٧", 1, None],
    "informed_by": [str(ID), {}, [1], ["p1"], [str(ID).upper()], [ID.hex], ["{" + ID.hex + "}"]],
}


@pytest.mark.parametrize("fields", [{key: value} for key, values in WRONG_VALUES.items() for value in values], ids=repr)
def test_a_field_of_the_wrong_type_or_range_is_malformed(fields: dict[str, object]) -> None:
    # 1e999 is legal JSON, and infinite only once it is read.
    body = json.dumps(fields).replace("Infinity", "1e999").encode()
    with pytest.raises(MalformedMessage):
        decode(extended(body))


def test_the_longest_names_are_in_range() -> None:
    names = {"é" * 127 + "x": ("tcp://" + "a" * 63 + ".example:1", "ipc:///" + "x" * 106)}
    assert announced(names={name: list(endpoints) for name, endpoints in names.items()}).info.names == names


def test_the_largest_numbers_are_in_range() -> None:
    info = announced(incarnation=2**63 - 1, revision=2**63 - 1, pid=2**32).info
    assert (info.incarnation, info.revision, info.pid) == (2**63 - 1, 2**63 - 1, 2**32)


def test_a_session_is_read_in_either_case() -> None:
    assert announced(session="0102ABcd").session == SESSION


@pytest.mark.parametrize(
    "field",
    [
        str(ID).upper().encode(),
        ID.hex.encode(),
        b"{" + str(ID)[1:35].encode() + b"}",
        b"urn:uuid:" + str(ID)[:27].encode(),
        b"597f7602-108a-4c59-bc96ae7e-b4c5a0e4",
        b"597f7602-108a-4c59-bc96-ae7eb4c5a0_4",
        b"597f7602-108a-4c59-bc96-ae7eb4c5a0g4",
        "597f7602-108a-4c59-bc96-ae7eb4c5a\u0660".encode(),
        b"\xff" * 36,
    ],
)
def test_an_id_has_one_spelling(field: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(b"C" + field.ljust(37, b"\0") + CLASSIC_C[38:])


@pytest.mark.parametrize(
    "endpoint", [b"\xff", b"tcp://\n", b"tcp://\x7f", b"tcp://\x1b[2J", b"\xe2\x80\xae", b"\xed\xa0\x80"]
)
def test_an_endpoint_that_cannot_be_printed_is_malformed(endpoint: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(CLASSIC_C[:38] + endpoint.ljust(257, b"\0"))


def test_a_length_beyond_the_limit_is_malformed() -> None:
    largest = b'{"name":"' + b"x" * (wire.EXTENSION_LIMIT - 11) + b'"}'
    assert isinstance(decode(extended(largest)), Announce)
    with pytest.raises(MalformedMessage, match="longer than 65536"):
        decode(extended(largest + b" "))


# -- what encode refuses ------------------------------------------------------------------------


def test_the_limit_of_an_extension_counts_bytes_and_not_characters() -> None:
    room = wire.EXTENSION_LIMIT - len('{"name":""}')
    name = "é" * (room // 2) + "x" * (room % 2)
    largest = Announce(PeerInfo(ID, ENDPOINT, name=name))
    assert decode(encode(largest)) == largest
    with pytest.raises(AnnounceTooLarge) as caught:
        encode(Announce(PeerInfo(ID, ENDPOINT, name=name + "x")))
    assert (caught.value.size, caught.value.limit) == (wire.EXTENSION_LIMIT + 1, wire.EXTENSION_LIMIT)


@pytest.mark.parametrize("endpoint", ["", "tcp://" + "h" * 251, "tcp://" + "é" * 126, "tcp://a\0b", "tcp://\ud800"])
def test_an_endpoint_that_does_not_fit_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidEndpoint):
        encode(Farewell(ID, endpoint))


@pytest.mark.parametrize(
    "message",
    [
        Announce(PeerInfo(ID, ENDPOINT, incarnation=-1)),
        Announce(PeerInfo(ID, ENDPOINT, revision=2**63)),
        Announce(PeerInfo(ID, ENDPOINT, pid=True)),
        Announce(PeerInfo(ID, ENDPOINT, name="\ud800")),
        Announce(PeerInfo(ID, ENDPOINT, name=7)),  # type: ignore[arg-type]
        Announce(PeerInfo(ID, ENDPOINT, headers={"a": 1})),  # type: ignore[dict-item]
        Announce(PeerInfo(ID, ENDPOINT, names={"": ["tcp://192.0.2.7:1"]})),
        Announce(PeerInfo(ID, ENDPOINT, names={"a": []})),
        Announce(PeerInfo(ID, ENDPOINT, names={"a": ["tcp://0.0.0.0:1"]})),
        Announce(PeerInfo(ID, ENDPOINT), session=b"abc"),
        Farewell(ID, ENDPOINT, session=b"abcde"),
        Farewell(ID, ENDPOINT, incarnation=-1),
        Welcome(ID, ENDPOINT, frozenset({"\udfff"})),
    ],
)
def test_encode_refuses_what_no_peer_would_accept(message: Any) -> None:
    with pytest.raises(ValueError, match=r"is not|holds"):
        encode(message)


# -- laws ---------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.frozensets(texts, max_size=4)
counters = st.integers(0, 2**63 - 1)
sessions = st.binary(min_size=4, max_size=4)
printable = st.characters(codec="utf-8", exclude_categories=("C", "Z"))
endpoints = st.text(printable, min_size=1, max_size=60).filter(str.isprintable)
registered = st.lists(
    st.sampled_from(["tcp://*:1", "tcp://192.0.2.7:65535", "tcp://[2001:db8::1]:1", "tcp://robot.local:1", "ipc://@x"])
    | texts.filter(str.isprintable).map("ipc:///x".__add__),
    min_size=1,
    max_size=3,
)
infos = st.builds(
    PeerInfo,
    st.uuids(),
    endpoints,
    name=texts,
    headers=st.dictionaries(texts, texts, max_size=4),
    groups=names,
    services=names,
    names=st.dictionaries(texts.filter(lambda text: text and "\0" not in text), registered, max_size=3),
    cluster=texts,
    incarnation=counters,
    revision=counters,
    host=texts,
    pid=st.integers(0, 2**32),
)
messages = st.one_of(
    st.builds(Welcome, st.uuids(), endpoints, names),
    st.builds(Farewell, st.uuids(), endpoints, counters, sessions),
    st.builds(
        Announce,
        infos,
        sessions,
        names,
        key=texts,
        again=st.booleans(),
        informed_by=st.frozensets(st.uuids(), max_size=4),
    ),
)


@given(messages)
def test_decode_undoes_encode(message: wire.DiscoveryMessage) -> None:
    frame = encode(message)
    assert decode(frame) == message
    assert encode(decode(frame)) == frame


def is_value_or_malformed(frame: bytes) -> None:
    try:
        message = decode(frame)
    except MalformedMessage:
        return
    # What decode lets in can be sent on, and nothing is lost on the way.
    assert decode(encode(message)) == message


@given(st.binary(max_size=600))
def test_any_bytes_decode_or_are_malformed(frame: bytes) -> None:
    is_value_or_malformed(frame)


@given(st.sampled_from([b"C", b"D", b"W"]), st.binary(max_size=120), st.integers(0, 255))
def test_any_extension_decodes_or_is_malformed(command: bytes, body: bytes, flags: int) -> None:
    is_value_or_malformed(extended(body, flags=flags, classic=command + CLASSIC_C[1:]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    *("name", "headers", "groups", "services", "names", "cluster", "incarnation", "revision"),
    *("session", "host", "pid", "key", "capabilities", "informed_by"),
]


@given(st.sampled_from([b"C", b"D", b"W"]), st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4))
@example(b"C", {"names": {"a": ["tcp://*:1"]}})
def test_any_json_decodes_or_is_malformed(command: bytes, fields: dict[str, object]) -> None:
    is_value_or_malformed(extended(json.dumps(fields).encode(), classic=command + CLASSIC_C[1:]))


@given(messages, st.data())
def test_a_damaged_frame_decodes_or_is_malformed(message: wire.DiscoveryMessage, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    is_value_or_malformed(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    is_value_or_malformed(bytes(frame))


@given(messages, st.binary(max_size=257))
def test_bytes_after_the_nul_of_the_endpoint_are_ignored(message: wire.DiscoveryMessage, filler: bytes) -> None:
    frame = encode(message)
    end = frame.index(b"\0", 38) + 1
    residue = filler.ljust(wire.CLASSIC_SIZE, b"\xff")[: wire.CLASSIC_SIZE - end]
    assert decode(frame[:end] + residue + frame[wire.CLASSIC_SIZE :]) == message


def test_a_session_of_zeros_is_no_session() -> None:
    assert bytes(4) == NO_SESSION
    assert encode(Farewell(ID, ENDPOINT, session=NO_SESSION)) == vector("classic_canonical_D")
