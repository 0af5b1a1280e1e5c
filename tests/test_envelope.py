"""Data-channel frames: golden bytes, laws for any input."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zdisco._core import envelope
from zdisco._core.envelope import (
    ALL,
    PACK_LIMIT,
    ConfirmBody,
    ControlFrame,
    DataFrame,
    FarewellBody,
    ForeignFrame,
    Inbox,
    Kind,
    LinkBody,
    Marker,
    NumbersBody,
    PingBody,
    PongBody,
    Question,
    ReplyBody,
    RequestBody,
    RetainedBody,
    Scope,
    Status,
    SuspectBody,
    TopicNumber,
    check_name,
    check_topic,
    control_frame,
    data_frame,
    data_prefix,
    direct_topic,
    group_topic,
    inbox,
    marker,
    pack_frame,
    parse_subscription,
    split,
    unpack,
)
from zdisco._core.errors import MalformedMessage

ID = UUID("00112233-4455-6677-8899-aabbccddeeff")
SESSION = b"\x01\x02\xab\xcd"
HEADER_OF_STREAM = "da0100112233445566778899aabbccddeeff0102abcd00000005"

ids = st.uuids()
holding_zero = st.binary(min_size=15, max_size=15).flatmap(
    lambda rest: st.integers(0, 15).map(lambda at: UUID(bytes=rest[:at] + b"\0" + rest[at:]))
)
sessions = st.binary(min_size=4, max_size=4)
u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
topics = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
payloads = st.binary(max_size=80)


# -- golden bytes -------------------------------------------------------------------------------


def test_a_data_frame_is_golden() -> None:
    prefix = data_prefix(b"eur", ID, SESSION, 5)
    assert prefix.hex() == "65757200" + HEADER_OF_STREAM
    assert data_frame(prefix, Kind.DATA, 258, b"1.08").hex() == prefix.hex() + "000000000000000102312e3038"
    assert data_frame(prefix, Kind.TAIL, 1, b"").hex() == prefix.hex() + "010000000000000001"


def test_a_control_frame_is_golden() -> None:
    header = HEADER_OF_STREAM[:-8] + "00000000"
    assert control_frame(ALL, Kind.FAREWELL, ID, SESSION, b"x").hex() == "fe" + header + "04" + "00" * 8 + "78"
    to_one = control_frame(inbox(ID), Kind.LINK, ID, SESSION, b"")
    assert to_one.hex() == "ff00112233445566778899aabbccddeeff" + header + "02" + "00" * 8


def test_control_topics_are_golden() -> None:
    assert inbox(ID).hex() == "ff00112233445566778899aabbccddeeff"
    assert marker(ID, SESSION, 258).hex() == "ff00112233445566778899aabbccddeeff0102abcd00000102"
    assert len(inbox(ID)) == 17
    assert len(marker(ID, SESSION, 1)) == 25


def test_bodies_are_golden() -> None:
    assert LinkBody(258, 3, 4, answer_me=True).encode().hex() == "010000010200030004"
    assert LinkBody(0, 65535, 0, stranger=True).encode().hex() == "0200000000ffff0000"
    assert ConfirmBody(258, 257, 5, 2).encode().hex() == "00000102000001010000000500000002"
    numbers = NumbersBody(5, (TopicNumber(b"eur", 1, 258),))
    assert numbers.encode().hex() == "000000050003657572000000010000000000000102"
    assert RetainedBody(5, b"frame").encode() == b"\0\0\0\x05frame"
    assert FarewellBody(258).encode().hex() == "0000000000000102"


def test_golden_bodies_of_pings_and_suspicions() -> None:
    life = ID.hex + SESSION.hex()
    assert PingBody(258).encode().hex() == "00000102" + "00"
    assert PingBody(258, Question.OTHER, (ID, SESSION)).encode().hex() == "00000102" + "01" + life
    assert PingBody(258, Question.TELL, (ID, SESSION)).encode().hex() == "00000102" + "02" + life
    assert PongBody(258, is_silent=True).encode().hex() == "00000102" + "01"
    assert SuspectBody(ID, SESSION).encode().hex() == life
    with pytest.raises(MalformedMessage, match="question 3"):
        PingBody.decode(bytes(4) + b"\x03" + bytes(20))


def test_the_header_is_35_bytes_of_which_26_belong_to_the_stream() -> None:
    assert envelope.HEADER.size == 35 == envelope.PREFIX_SIZE + envelope.NUMBER.size


# -- topics -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("topic", "encoded"), [("", b""), ("eur", b"eur"), ("é\n", b"\xc3\xa9\n")])
def test_a_topic_is_utf_8_and_may_be_empty(topic: str, encoded: bytes) -> None:
    assert check_topic(topic) == encoded


@pytest.mark.parametrize("topic", [b"eur", None, 7])
def test_a_topic_that_is_not_text_is_a_type_error(topic: Any) -> None:
    with pytest.raises(TypeError, match="a topic is text"):
        check_topic(topic)


@pytest.mark.parametrize("topic", ["\0", "a\0b", "\ud800"])
def test_a_topic_that_a_frame_cannot_hold_is_a_value_error(topic: str) -> None:
    with pytest.raises(ValueError, match="holds a"):
        check_topic(topic)


@pytest.mark.parametrize("topic", ["a" * 1024, "é" * 512])
def test_a_topic_has_at_most_1024_bytes(topic: str) -> None:
    assert check_topic(topic) == topic.encode()
    with pytest.raises(ValueError, match="at most 1024 bytes of UTF-8, not 1025"):
        check_topic(topic + "a")


@given(topics)
def test_no_ordinary_topic_begins_like_a_control_topic(topic: str) -> None:
    assert check_topic(topic)[:1] < ALL


# -- subscriptions ------------------------------------------------------------------------------


@given(ids | holding_zero, sessions, u32)
def test_parse_subscription_undoes_inbox_and_marker(id: UUID, session: bytes, counter: int) -> None:
    assert parse_subscription(inbox(id)) == Inbox(id)
    assert parse_subscription(marker(id, session, counter)) == Marker(id, session, counter)


@given(ids, sessions, u32, st.sampled_from(Scope), st.lists(st.binary(max_size=9), max_size=5))
def test_a_marker_names_prefixes(id: UUID, session: bytes, counter: int, scope: Scope, prefixes: list[bytes]) -> None:
    topic = marker(id, session, counter, scope, *prefixes)
    assert parse_subscription(topic) == Marker(id, session, counter, scope, tuple(prefixes))
    if prefixes and prefixes[-1]:
        with pytest.raises(MalformedMessage, match="cut off"):
            parse_subscription(topic[:-1])


@pytest.mark.parametrize("scope", [3, 255])
def test_a_marker_of_an_unknown_scope_is_malformed(scope: int) -> None:
    with pytest.raises(MalformedMessage, match=f"scope {scope}"):
        parse_subscription(marker(ID, SESSION, 1) + bytes([scope]))


@given(ids, sessions, u32, topics)
def test_the_marker_comes_after_all_other_subscriptions(id: UUID, session: bytes, counter: int, topic: str) -> None:
    # A SUB replays them in byte order: that the last one is in force must say so of all.
    in_order = sorted([marker(id, session, counter), inbox(id), ALL, check_topic(topic)])
    assert in_order[2:] == [inbox(id), marker(id, session, counter)]


@pytest.mark.parametrize("topic", [b"", b"eur", b"eur\0", ALL, ALL + b"later", b"\xfd", b"\x80"])
def test_other_subscriptions_say_nothing_about_a_peer(topic: bytes) -> None:
    assert parse_subscription(topic) is None


@pytest.mark.parametrize("size", sorted({*range(30)} - {16, 24, 25, 27, 29}))
def test_a_subscription_that_is_nearly_an_inbox_is_malformed(size: int) -> None:
    with pytest.raises(MalformedMessage):
        parse_subscription(b"\xff" + bytes(size))


# -- frames -------------------------------------------------------------------------------------


@given(topics, ids | holding_zero, sessions, u32, st.sampled_from([Kind.DATA, Kind.TAIL]), u64, payloads)
def test_split_undoes_data_frame(
    topic: str, sender: UUID, session: bytes, stream: int, kind: Kind, sequence: int, payload: bytes
) -> None:
    encoded = check_topic(topic)
    frame = data_frame(data_prefix(encoded, sender, session, stream), kind, sequence, payload)
    assert split(frame) == DataFrame(encoded, sender.bytes, session, stream, kind, sequence, payload)


@given(ids | holding_zero, st.sampled_from(Kind), ids | holding_zero, sessions, payloads)
@example(UUID(int=0), Kind.LINK, ID, SESSION, b"x")
def test_split_undoes_control_frame_also_where_an_id_holds_a_zero_byte(
    receiver: UUID, kind: Kind, sender: UUID, session: bytes, body: bytes
) -> None:
    to_one = control_frame(inbox(receiver), kind, sender, session, body)
    assert split(to_one) == ControlFrame(receiver.bytes, sender.bytes, session, kind, body)
    to_all = control_frame(ALL, kind, sender, session, body)
    assert split(to_all) == ControlFrame(None, sender.bytes, session, kind, body)


def test_an_inbox_that_looks_like_a_data_frame_inside_is_still_a_control_frame() -> None:
    # NUL and magic within the id: a search for the NUL would find a header there.
    receiver = UUID(bytes=b"\0\xda\x01" + bytes(13))
    frame = control_frame(inbox(receiver), Kind.CONFIRM, ID, SESSION, b"x" * 60)
    assert split(frame) == ControlFrame(receiver.bytes, ID.bytes, SESSION, Kind.CONFIRM, b"x" * 60)


@pytest.mark.parametrize(
    ("frame", "topic"),
    [
        (b"", b""),
        (b"\0", b""),
        (b"eur", b"eur"),
        (b"eur\x001.08", b"eur"),
        (b"\xfd\x80", b"\xfd\x80"),
        (bytes(512), b""),
        (b"eur\0\xda\x02" + bytes(60), b"eur"),
        (data_prefix(b"eur", ID, SESSION, 5) + bytes(8), b"eur"),
    ],
)
def test_a_frame_without_our_whole_header_is_foreign(frame: bytes, topic: bytes) -> None:
    assert split(frame) == ForeignFrame(topic, frame)


@pytest.mark.parametrize("kind", [*(kind for kind in Kind if kind not in (Kind.DATA, Kind.TAIL, Kind.PACK)), 11, 255])
def test_a_data_frame_of_another_kind_is_malformed(kind: Any) -> None:
    with pytest.raises(MalformedMessage, match=f"kind {int(kind)}"):
        split(data_frame(data_prefix(b"eur", ID, SESSION, 5), kind, 1, b""))


def test_the_bytes_of_a_pack() -> None:
    frame = pack_frame(data_prefix(b"eur", ID, SESSION, 5), 7, [b"", b"1.08"])
    expected = b"eur\0".hex() + HEADER_OF_STREAM + "08" + "0000000000000007" + "0002" + "0000" + "0004" + "312e3038"
    assert frame.hex() == expected


@given(st.lists(payloads, min_size=1, max_size=20), u64)
@example([b"12", b"34", b"56"], 1)
@example([b"", b""], 1)
def test_what_was_packed_is_unpacked(packed: list[bytes], first: int) -> None:
    frame = pack_frame(data_prefix(b"eur", ID, SESSION, 5), first, packed)
    parts = split(frame)
    assert isinstance(parts, DataFrame)
    assert (parts.kind, parts.sequence) == (Kind.PACK, first)
    assert list(unpack(frame, len(frame) - len(parts.payload))) == packed
    for size in range(len(frame) - len(parts.payload), len(frame)):
        with pytest.raises(MalformedMessage):
            unpack(frame[:size], len(frame) - len(parts.payload))
    with pytest.raises(MalformedMessage):
        unpack(frame + b"x", len(frame) - len(parts.payload))


def test_a_pack_has_a_bound() -> None:
    whole = pack_frame(data_prefix(b"eur", ID, SESSION, 5), 1, [b""] * PACK_LIMIT)
    at = len(b"eur\0") + envelope.HEADER.size
    assert len(unpack(whole, at)) == PACK_LIMIT
    with pytest.raises(MalformedMessage, match="257 messages"):
        unpack(pack_frame(data_prefix(b"eur", ID, SESSION, 5), 1, [b""] * (PACK_LIMIT + 1)), at)


@given(st.binary(max_size=60))
@example(b"\0\0")
def test_any_pack_has_messages_that_fill_it_or_is_malformed(body: bytes) -> None:
    with suppress(MalformedMessage):
        packed = unpack(body, 0)
        assert packed
        assert 2 + sum(2 + len(payload) for payload in packed) == len(body)


@pytest.mark.parametrize("topic", [ALL, inbox(ID)])
def test_a_control_frame_that_is_not_whole_is_malformed(topic: bytes) -> None:
    frame = control_frame(topic, Kind.LINK, ID, SESSION, b"")
    for size in range(1, len(frame)):
        with pytest.raises(MalformedMessage, match="cut off"):
            split(frame[:size])
    for wrong in (b"\0\x01", b"\xda\x02"):
        with pytest.raises(MalformedMessage, match="without our header"):
            split(topic + wrong + frame[len(topic) + 2 :])
    kind_at = len(topic) + envelope.PREFIX_SIZE
    for kind in (len(Kind), 255):
        with pytest.raises(MalformedMessage, match=f"kind {kind}"):
            split(frame[:kind_at] + bytes([kind]) + frame[kind_at + 1 :])


@pytest.mark.parametrize("topic", [b"", b"eur", ALL + b"x", b"\xff", inbox(ID)[:-1], marker(ID, SESSION, 1)])
def test_a_control_frame_on_another_topic_is_a_bug_of_ours(topic: bytes) -> None:
    with pytest.raises(AssertionError):
        control_frame(topic, Kind.LINK, ID, SESSION, b"")


# -- bodies -------------------------------------------------------------------------------------


lives = st.tuples(st.uuids(), st.binary(min_size=4, max_size=4))
bodies = st.one_of(
    st.builds(LinkBody, u32, u16, u16, st.booleans(), st.booleans()),
    st.builds(ConfirmBody, u32),
    st.builds(FarewellBody, st.integers(0, 2**63 - 1)),
    st.builds(PingBody, u32),
    st.builds(PingBody, u32, st.sampled_from([Question.OTHER, Question.TELL]), lives),
    st.builds(PongBody, u32, st.booleans()),
    st.builds(SuspectBody, st.uuids(), st.binary(min_size=4, max_size=4)),
)


@given(bodies, st.binary(max_size=20))
def test_decode_undoes_encode_and_ignores_what_a_later_version_adds(
    body: LinkBody | ConfirmBody | FarewellBody | PingBody | PongBody | SuspectBody, more: bytes
) -> None:
    assert type(body).decode(body.encode() + more) == body
    for size in range(len(body.encode())):
        with pytest.raises(MalformedMessage):
            type(body).decode(body.encode()[:size])


numbered = st.one_of(
    st.builds(RequestBody, u64, topics, payloads),
    st.builds(ReplyBody, u64, st.sampled_from(Status), payloads),
)


@given(numbered)
def test_decode_undoes_encode_of_requests_and_replies(body: RequestBody | ReplyBody) -> None:
    assert type(body).decode(body.encode()) == body
    for size in range(len(body.encode()) - len(body.payload)):
        with pytest.raises(MalformedMessage):
            type(body).decode(body.encode()[:size])


@given(st.binary(max_size=30))
def test_any_body_is_a_request_or_a_reply_or_malformed(body: bytes) -> None:
    for layout in (RequestBody, ReplyBody):
        with suppress(MalformedMessage):
            assert layout.decode(body).encode() == body


def test_golden_bodies_of_requests_and_replies() -> None:
    assert RequestBody(258, "é", b"x").encode().hex() == "0000000000000102" + "0002" + "c3a9" + "78"
    assert ReplyBody(258, Status.FAILED, b"x").encode().hex() == "0000000000000102" + "01" + "78"


def test_a_service_that_is_no_text_and_a_status_that_we_do_not_know_are_malformed() -> None:
    with pytest.raises(MalformedMessage, match="no text"):
        RequestBody.decode(bytes(8) + b"\0\x01\xff")
    with pytest.raises(MalformedMessage, match="status 3"):
        ReplyBody.decode(bytes(8) + b"\x03")


@pytest.mark.parametrize(
    ("name", "error"), [("", "not empty"), ("a\0", "NUL"), ("\udcff", "surrogate"), ("x" * 1025, "1024")]
)
def test_names_of_groups_and_services_are_checked_like_topics(name: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        check_name("service", name)
    with pytest.raises(ValueError, match=error):
        group_topic(name)


def test_the_topic_of_a_group_is_none_that_a_user_could_name() -> None:
    assert group_topic("é") == b"\xfd\xc3\xa9"
    assert direct_topic(ID) == b"\xfc00112233445566778899aabbccddeeff"
    with pytest.raises(UnicodeDecodeError):
        group_topic("room").decode()


def test_unknown_flags_of_a_link_are_ignored() -> None:
    assert LinkBody.decode(b"\xfc" + bytes(8)) == LinkBody(0, 0, 0)


def test_an_incarnation_that_no_announce_can_say_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        FarewellBody.decode(b"\x80" + bytes(7))


# -- laws for any input -------------------------------------------------------------------------


def is_frame_or_malformed(frame: bytes) -> None:
    try:
        found = split(frame)
    except MalformedMessage:
        return
    match found:
        case DataFrame():
            prefix = data_prefix(found.topic, UUID(bytes=found.sender), found.session, found.stream)
            assert data_frame(prefix, found.kind, found.sequence, found.payload) == frame
        case ControlFrame():
            assert frame[:1] >= ALL
            assert frame.endswith(found.body)
        case ForeignFrame():
            assert frame.startswith(found.topic)
            assert found.payload == frame


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_malformed(frame: bytes) -> None:
    is_frame_or_malformed(frame)


@given(st.sampled_from([b"\xfe", b"\xff", b"eur\0", b"\0"]), st.binary(max_size=80))
def test_any_bytes_after_a_topic_are_a_frame_or_malformed(topic: bytes, rest: bytes) -> None:
    is_frame_or_malformed(topic + rest)
    is_frame_or_malformed(topic + envelope.MAGIC + rest)


@given(st.binary(max_size=30))
def test_any_body_decodes_or_is_malformed(body: bytes) -> None:
    for layout in (LinkBody, ConfirmBody, FarewellBody, PingBody, PongBody, SuspectBody):
        with suppress(MalformedMessage):
            assert body.startswith(layout.decode(body).encode()[1:], 1)


@given(st.binary(max_size=40))
def test_any_subscription_parses_or_is_malformed(topic: bytes) -> None:
    for candidate in (topic, b"\xff" + topic):
        with suppress(MalformedMessage):
            found = parse_subscription(candidate)
            assert (found is None) == (candidate[:1] != b"\xff")


@given(st.data())
def test_a_damaged_frame_is_a_frame_or_malformed(data: st.DataObject) -> None:
    topic = data.draw(st.sampled_from([ALL, inbox(ID), b"eur"]))
    if topic == b"eur":
        frame = bytearray(data_frame(data_prefix(topic, ID, SESSION, 5), Kind.DATA, 1, b"payload"))
    else:
        frame = bytearray(control_frame(topic, Kind.LINK, ID, SESSION, b"body"))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    is_frame_or_malformed(bytes(frame))
    is_frame_or_malformed(bytes(frame[: data.draw(st.integers(0, len(frame)))]))


numbers = st.builds(TopicNumber, st.binary(max_size=30), u32, u64)


@given(u32, st.lists(numbers, max_size=10), st.integers(1, 200))
def test_numbers_are_split_into_bodies_and_read_again(serial: int, wanted: list[TopicNumber], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "NUMBERS_LIMIT", limit)
        bodies = [NumbersBody.decode(body.encode()) for body in NumbersBody.split(serial, wanted)]
    assert [number for body in bodies for number in body.numbers] == wanted
    assert all(body.serial == serial and body.numbers for body in bodies)


@given(st.binary(max_size=60))
def test_any_bytes_are_numbers_or_malformed(body: bytes) -> None:
    try:
        decoded = NumbersBody.decode(body)
    except MalformedMessage:
        return
    assert decoded.encode() == body


@given(u32, st.binary(max_size=60))
def test_a_retained_frame_is_read_again(serial: int, frame: bytes) -> None:
    assert RetainedBody.decode(RetainedBody(serial, frame).encode()) == RetainedBody(serial, frame)
