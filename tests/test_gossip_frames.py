"""Gossip messages: the vectors of real nodes, golden bytes, laws for any input."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

import zproto
from zdisco._core.errors import MalformedMessage
from zdisco._core.gossip import frames
from zdisco._core.gossip.frames import (
    BATCH_SIZE,
    BUCKETS,
    COUNTER_LIMIT,
    FRAME_LIMIT,
    KEY_LIMIT,
    LONGEST_LIFE,
    VALUE_LIMIT,
    Entry,
    GossipMessage,
    Greeting,
    Hello,
    Invalid,
    Ping,
    Pong,
    Publish,
    Renewal,
    Summary,
    Sums,
    Trailer,
    Tuples,
    Version,
    Wants,
    batches,
    decode,
    digest_of,
    encode,
    summaries,
    want_batches,
)

DATA = json.loads((Path(__file__).parent / "data" / "zgossip.json").read_text("utf-8"))
VECTORS: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in DATA["vectors"]}
DEADLY = sorted(name for name, vector in VECTORS.items() if vector["fields"].get("malformed"))
HARMLESS = sorted(VECTORS.keys() - set(DEADLY))

ID = UUID("597f7602-108a-4c59-bc96-ae7eb4c5a0e4")
OWNER = bytes(range(16))
VERSION = Version(0x0102030405060708, OWNER)
HEAD = {Hello: b"\xaa\xa0\x01\x01", Ping: b"\xaa\xa0\x03\x01", Pong: b"\xaa\xa0\x04\x01"}


def vector(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["hex"])


def recorded(fields: dict[str, Any]) -> GossipMessage:
    match fields["message"]:
        case "HELLO":
            return Hello()
        case "PUBLISH":
            return Publish(fields["key"].encode(), fields["value"].encode(), fields["ttl"])
        case "PING":
            return Ping()
        case "PONG":
            return Pong()
        case _:
            return Invalid()


# -- real nodes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HARMLESS)
def test_a_vector_decodes_as_recorded(name: str) -> None:
    assert decode(vector(name)) == recorded(VECTORS[name]["fields"])


@pytest.mark.parametrize("name", HARMLESS)
def test_a_vector_is_made_byte_by_byte_but_for_what_follows_its_end(name: str) -> None:
    trailing = bytes.fromhex(VECTORS[name]["fields"].get("trailing_hex", ""))
    assert encode(recorded(VECTORS[name]["fields"])) + trailing == vector(name)


@pytest.mark.parametrize("name", DEADLY)
def test_what_ends_a_real_node_is_malformed(name: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode(vector(name))
    assert caught.value.size == VECTORS[name]["length"]


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_the_strict_reading_ends_at_what_ended_real_nodes_and_at_nothing_else(name: str) -> None:
    is_deadly = False
    try:
        zproto.read(vector(name))
    except zproto.DeadlyFrameError:
        is_deadly = True
    assert is_deadly == ("alive False" in VECTORS[name]["replay"])


def test_there_are_vectors_of_both_kinds() -> None:
    assert (len(HARMLESS), len(DEADLY)) == (14, 13)


# -- our own bytes ------------------------------------------------------------------------------

NUMBER = "0102030405060708"
GOLDEN: list[tuple[Trailer, str]] = [
    (Greeting(ID, 0x1112131415161718, 0x21222324), f"01 {ID.hex} 1112131415161718 21222324"),
    (Tuples(()), "02"),
    (Tuples((Entry(b"k", VERSION, b"vw", 5),)), f"02 00 01 6b {NUMBER} {OWNER.hex()} 00000005 00000002 7677"),
    (Tuples((Entry(b"k", VERSION, None, 5),)), f"02 01 01 6b {NUMBER} {OWNER.hex()} 00000005"),
    (Tuples((Entry(b"", VERSION, b""),)), f"02 00 00 {NUMBER} {OWNER.hex()} 00000000 00000000"),
    (Tuples((Renewal(b"k", VERSION, 0xAB, 5),)), f"02 02 01 6b {NUMBER} {OWNER.hex()} 00000005 00000000000000ab"),
    (
        Tuples((Entry(b"k", VERSION, b"vw", 5, (0xAB, 0xCD)), Entry(b"k", VERSION, None, 5, (0xEF,)))),
        f"02 04 01 6b {NUMBER} {OWNER.hex()} 00000005 02 00000000000000ab 00000000000000cd 00000002 7677"
        f"05 01 6b {NUMBER} {OWNER.hex()} 00000005 01 00000000000000ef",
    ),
    (Sums(tuple(range(BUCKETS))), "03" + "".join(f"{number:016x}" for number in range(BUCKETS))),
    (
        Summary(frozenset({0, 9, 255}), ((b"k", VERSION),)),
        f"04 80{'00' * 29}0201 00 00 01 6b {NUMBER} {OWNER.hex()}",
    ),
    (Summary(frozenset({1}), (), b"a", b"bc"), f"04 {'00' * 31}02 01 61 02 6263"),
    (Wants((b"k", b"", b"lm")), "05 01 6b 00 02 6c6d"),
]


@pytest.mark.parametrize("kind", [Hello, Ping, Pong])
@pytest.mark.parametrize(("trailer", "body"), GOLDEN, ids=lambda value: type(value).__name__)
def test_a_trailer_is_golden(kind: type[Hello | Ping | Pong], trailer: Trailer, body: str) -> None:
    frame = HEAD[kind] + b"ZD\x01" + bytes.fromhex(body)
    assert encode(kind(trailer)) == frame
    assert decode(frame) == kind(trailer)


def test_a_digest_is_golden() -> None:
    assert digest_of(b"value") == 0x30F37451E49B6B19


@pytest.mark.parametrize("tail", [b"Z", b"Zd\x01\x01", b"ZD", b"ZD\x02\x01", b"ZD\x00", b"\0ZD\x01\x06", b"\xff" * 9])
@pytest.mark.parametrize("kind", [Hello, Ping, Pong])
def test_what_is_no_trailer_of_version_1_is_overlooked(kind: type[Hello | Ping | Pong], tail: bytes) -> None:
    assert decode(HEAD[kind] + tail) == kind()


@pytest.mark.parametrize(
    "frame", [encode(Invalid()), encode(Publish(b"k", b"v", 7)), zproto.publish(b"k", b"v", 2**32 - 1)]
)
@pytest.mark.parametrize("tail", [b"ZD\x01\x01", b"ZD\x01\x09", b"\xaa\xa0\x02\x01", bytes(40)])
def test_what_follows_a_publish_or_an_invalid_is_overlooked(frame: bytes, tail: bytes) -> None:
    assert decode(frame + tail) == decode(frame)


@pytest.mark.parametrize("kind", [0, 6, 255])
def test_an_unknown_trailer_of_version_1_is_malformed(kind: int) -> None:
    with pytest.raises(MalformedMessage, match="unknown trailer"):
        decode(HEAD[Ping] + b"ZD\x01" + bytes([kind]))


@pytest.mark.parametrize("flags", [3, 6, 8, 0x80, 0xFF])
def test_an_entry_of_unknown_flags_is_malformed(flags: int) -> None:
    frame = bytearray(encode(Ping(Tuples((Entry(b"k", VERSION, b"v"),)))))
    frame[8] = flags
    with pytest.raises(MalformedMessage, match="unknown flags"):
        decode(bytes(frame))


def test_former_values_are_one_to_four() -> None:
    entry = Entry(b"k", VERSION, b"v", 0, (1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match="at most 4"):
        encode(Ping(Tuples((entry,))))
    frame = bytearray(encode(Ping(Tuples((evolve(entry, former=(1, 2, 3, 4)),)))))
    at = frame.index(b"\x04" + bytes(7) + b"\x01")
    for count in (0, 5, 255):
        frame[at] = count
        with pytest.raises(MalformedMessage, match="no former value"):
            decode(bytes(frame))


@pytest.mark.parametrize(("trailer", "body"), GOLDEN, ids=lambda value: type(value).__name__)
def test_a_trailer_that_is_cut_off_is_another_one_or_malformed(trailer: Trailer, body: str) -> None:
    frame = encode(Ping(trailer))
    for size in range(7, len(frame)):
        try:
            found = decode(frame[:size])
        except MalformedMessage:
            continue
        assert isinstance(found, Ping)
        assert isinstance(found.trailer, Tuples | Summary | Wants)
        assert encode(found) == frame[:size]


# -- NUL ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        (b"a\0b", b"c\0d", Publish(b"a", b"c")),
        (b"\0", b"\0\0", Publish(b"", b"")),
        (b"ab\0", b"cd\0", Publish(b"ab", b"cd")),
    ],
)
def test_key_and_value_of_a_publish_end_at_the_first_nul_as_at_a_real_node(
    key: bytes, value: bytes, read: Publish
) -> None:
    frame = zproto.publish(key, value)
    assert decode(frame) == read
    assert zproto.read(frame)[1:] == (read.key, read.value)


@pytest.mark.parametrize(
    "trailer",
    [
        Tuples((Entry(b"k?", VERSION, b"v"),)),
        Tuples((Entry(b"k", VERSION, b"v?"),)),
        Tuples((Entry(b"k?", VERSION, None),)),
        Tuples((Renewal(b"k?", VERSION, 0),)),
        Summary(frozenset(), ((b"k?", VERSION),)),
        Summary(frozenset(), (), b"?"),
        Summary(frozenset(), (), b"", b"?"),
        Wants((b"k?",)),
    ],
)
def test_a_nul_in_a_trailer_is_malformed_and_never_made(trailer: Trailer) -> None:
    frame = encode(Pong(trailer))
    assert decode(frame) == Pong(trailer)
    with pytest.raises(MalformedMessage, match="NUL"):
        decode(frame.replace(b"?", b"\0"))


@pytest.mark.parametrize(
    "message",
    [
        Publish(b"k\0", b"v"),
        Publish(b"k", b"\0"),
        Ping(Tuples((Entry(b"k\0", VERSION, b"v"),))),
        Ping(Tuples((Entry(b"k", VERSION, b"v\0"),))),
        Ping(Tuples((Renewal(b"k\0", VERSION, 0),))),
        Ping(Summary(frozenset(), ((b"\0", VERSION),))),
        Ping(Summary(frozenset(), (), b"\0")),
        Ping(Wants((b"\0",))),
    ],
)
def test_encode_refuses_a_nul(message: GossipMessage) -> None:
    with pytest.raises(ValueError, match="no NUL"):
        encode(message)


# -- limits -------------------------------------------------------------------------------------


def test_the_largest_key_and_value_are_within_the_limits_of_a_frame() -> None:
    key, value = b"k" * KEY_LIMIT, b"v" * VALUE_LIMIT
    messages: list[GossipMessage] = [
        Publish(key, value, LONGEST_LIFE),
        Pong(Tuples((Entry(key, Version(COUNTER_LIMIT, OWNER), value, LONGEST_LIFE),))),
    ]
    for message in messages:
        frame = encode(message)
        assert decode(frame) == message
        assert len(frame) <= FRAME_LIMIT
        assert zproto.read(frame)


@pytest.mark.parametrize("size", [VALUE_LIMIT + 1, 2**31 - 1, 2**32 - 1])
def test_a_value_beyond_the_limit_is_malformed_before_it_is_read(size: int) -> None:
    value = struct.pack(">I", size) + b"v" * 9
    entry = encode(Ping(Tuples((Entry(b"k", VERSION, b""),))))[:-4]
    for frame in (b"\xaa\xa0\x02\x01\x01k" + value, entry + value):
        with pytest.raises(MalformedMessage, match="more than 1048576 bytes"):
            decode(frame)


@pytest.mark.parametrize("counter", [0, COUNTER_LIMIT + 1, 2**64 - 1])
def test_a_counter_out_of_range_is_malformed(counter: int) -> None:
    for trailer in (Tuples((Entry(b"k", VERSION, None),)), Summary(frozenset(), ((b"k", VERSION),))):
        frame = encode(Ping(trailer)).replace(VERSION.counter.to_bytes(8), counter.to_bytes(8))
        with pytest.raises(MalformedMessage, match="counter"):
            decode(frame)


@pytest.mark.parametrize(
    "message",
    [
        Publish(b"k" * (KEY_LIMIT + 1), b"v"),
        Publish(b"k", b"v" * (VALUE_LIMIT + 1)),
        Publish(b"k", b"v", -1),
        Publish(b"k", b"v", LONGEST_LIFE + 1),
        Ping(Greeting(ID, -1, 0)),
        Ping(Greeting(ID, 2**64, 0)),
        Ping(Greeting(ID, 0, 2**32)),
        Ping(Sums((0,))),
        Ping(Sums((0,) * (BUCKETS + 1))),
        Ping(Sums((2**64,) * BUCKETS)),
        Ping(Summary(frozenset({BUCKETS}), ())),
        Ping(Summary(frozenset({-1}), ())),
        Ping(Summary(frozenset(), (), b"k" * (KEY_LIMIT + 1))),
        Ping(Tuples((Entry(b"k", Version(0, OWNER), b"v"),))),
        Ping(Tuples((Entry(b"k", Version(COUNTER_LIMIT + 1, OWNER), b"v"),))),
        Ping(Tuples((Entry(b"k", Version(1, OWNER[:15]), b"v"),))),
        Ping(Tuples((Entry(b"k", VERSION, b"v", -1),))),
        Ping(Tuples((Entry(b"k", VERSION, None, LONGEST_LIFE + 1),))),
        Ping(Tuples((Renewal(b"k", VERSION, 2**64),))),
    ],
    ids=lambda message: repr(message)[:60],
)
def test_encode_refuses_what_no_node_would_accept(message: GossipMessage) -> None:
    with pytest.raises(ValueError, match=r"range|limit|at most|counter from|negative|no NUL"):
        encode(message)


# -- laws ---------------------------------------------------------------------------------------

lives = st.integers(0, LONGEST_LIFE) | st.sampled_from([0, 1, LONGEST_LIFE])
texts = st.binary(max_size=8).map(lambda raw: raw.replace(b"\0", b"0"))
keys = texts | st.just(b"k" * KEY_LIMIT)
owners = st.binary(min_size=16, max_size=16)
versions = st.builds(Version, st.integers(1, COUNTER_LIMIT) | st.sampled_from([1, COUNTER_LIMIT]), owners)
formers = st.lists(st.integers(0, 2**64 - 1), max_size=4).map(tuple)
entries = st.builds(Entry, keys, versions, texts | st.none(), lives, formers) | st.builds(
    Renewal, keys, versions, st.integers(0, 2**64 - 1), lives
)
trailers = st.one_of(
    st.builds(Greeting, st.uuids(), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)),
    st.builds(Tuples, st.lists(entries, max_size=4).map(tuple)),
    st.builds(Sums, st.lists(st.integers(0, 2**64 - 1), min_size=BUCKETS, max_size=BUCKETS).map(tuple)),
    st.builds(
        Summary,
        st.frozensets(st.integers(0, BUCKETS - 1)),
        st.lists(st.tuples(keys, versions), max_size=4).map(tuple),
        keys,
        keys,
    ),
    st.builds(Wants, st.lists(keys, max_size=6).map(tuple)),
)
messages = st.one_of(
    st.builds(Publish, keys, texts, lives),
    st.builds(Hello, trailers | st.none()),
    st.builds(Ping, trailers | st.none()),
    st.builds(Pong, trailers | st.none()),
    st.just(Invalid()),
)


@given(messages)
def test_decode_undoes_encode(message: GossipMessage) -> None:
    frame = encode(message)
    assert decode(frame) == message
    assert encode(decode(frame)) == frame


NUMBERS = {Hello: zproto.HELLO, Publish: zproto.PUBLISH, Ping: zproto.PING, Pong: zproto.PONG, Invalid: zproto.INVALID}


@given(messages)
def test_a_real_node_takes_every_frame_for_what_it_is(message: GossipMessage) -> None:
    said = (message.key, message.value) if isinstance(message, Publish) else (b"", b"")
    assert zproto.read(encode(message)) == (NUMBERS[type(message)], *said)


def is_value_or_malformed(frame: bytes) -> None:
    try:
        message = decode(frame)
    except MalformedMessage:
        return
    # A real node lives on as well, and nothing is lost when it is passed on.
    assert zproto.read(frame)[0] == NUMBERS[type(message)]
    assert decode(encode(message)) == message


@given(st.binary(max_size=600))
def test_any_bytes_decode_or_are_malformed(frame: bytes) -> None:
    is_value_or_malformed(frame)


@given(st.sampled_from([1, 2, 3, 4, 5, 0, 6]), st.binary(max_size=120))
def test_any_body_decodes_or_is_malformed(number: int, body: bytes) -> None:
    is_value_or_malformed(b"\xaa\xa0" + bytes([number, 1]) + body)


@given(st.sampled_from([1, 3, 4]), st.integers(0, 7), st.binary(max_size=200))
def test_any_trailer_decodes_or_is_malformed(number: int, kind: int, body: bytes) -> None:
    is_value_or_malformed(b"\xaa\xa0" + bytes([number, 1]) + b"ZD\x01" + bytes([kind]) + body)


@given(messages, st.data())
def test_a_damaged_frame_decodes_or_is_malformed(message: GossipMessage, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    is_value_or_malformed(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    is_value_or_malformed(bytes(frame))


@given(st.binary(max_size=40))
@example(zproto.publish(b"k\0x", b"v\0y"))
def test_whatever_a_real_node_reads_decode_reads_alike(body: bytes) -> None:
    for frame in (body, b"\xaa\xa0\x02\x01" + body):
        try:
            number, key, value = zproto.read(frame)
        except zproto.DeadlyFrameError:
            with pytest.raises(MalformedMessage):
                decode(frame)
            continue
        if number == zproto.PUBLISH:
            message = decode(frame)
            assert isinstance(message, Publish)
            assert (message.key, message.value) == (key, value)


# -- batches ------------------------------------------------------------------------------------

sized_entries = st.builds(
    lambda key, size, is_deleted: Entry(key, VERSION, None if is_deleted else b"v" * size),
    keys,
    st.sampled_from([0, 10, 1_000, BATCH_SIZE // 2, BATCH_SIZE, 3 * BATCH_SIZE]),
    st.booleans(),
)


@given(st.lists(sized_entries | st.builds(Renewal, keys, versions, st.just(7)), max_size=30))
def test_batches_hold_every_entry_in_order_and_none_is_larger_than_it_must_be(
    given_entries: list[Entry | Renewal],
) -> None:
    made = list(batches(given_entries))
    assert [entry for batch in made for entry in batch.entries] == given_entries
    sizes = [len(encode(Ping(batch))) for batch in made]
    for batch, size in zip(made, sizes, strict=True):
        assert batch.entries
        assert size <= BATCH_SIZE + 8 or len(batch.entries) == 1
    # Two that follow each other would not have fitted into one.
    for batch, following in pairwise(made):
        both = Tuples(batch.entries + following.entries[:1])
        assert len(encode(Ping(both))) > BATCH_SIZE - 4 * len(both.entries)


@given(st.lists(keys, max_size=300))
def test_wants_hold_every_key_in_order(wanted: list[bytes]) -> None:
    made = list(want_batches(wanted))
    assert [key for wants in made for key in wants.keys] == wanted
    assert all(len(encode(Ping(wants))) <= BATCH_SIZE + 8 for wants in made)


def test_no_batch_is_made_of_nothing() -> None:
    assert not list(batches(()))
    assert not list(want_batches(()))
    assert not list(summaries({}))


parts = st.dictionaries(
    st.integers(0, BUCKETS - 1),
    st.builds(
        lambda count, size: [(b"%05d" % number + b"x" * size, VERSION) for number in range(count)],
        st.sampled_from([0, 1, 7, 400, 1_500]),
        st.sampled_from([0, 50, KEY_LIMIT - 5]),
    ),
    max_size=6,
)


@given(parts)
def test_summaries_cover_each_key_of_each_part_once(known: dict[int, list[tuple[bytes, Version]]]) -> None:
    made = list(summaries(known))
    for bucket, versions in known.items():
        covering = [summary for summary in made if bucket in summary.buckets]
        for key, _ in versions:
            assert [(key, VERSION) in summary.versions for summary in covering if summary.covers(key)] == [True]
        # Keys that only the other one has lie before, between and behind ours.
        for key in (b"", b"0", b"00003!", b"zzz"):
            assert sum(summary.covers(key) for summary in covering) == 1
    assert sum(len(summary.versions) for summary in made) == sum(map(len, known.values()))
    assert all(len(encode(Ping(summary))) <= BATCH_SIZE + 1_024 for summary in made)


def test_a_part_that_fits_into_no_frame_is_told_in_several() -> None:
    versions = [(b"%06d" % number + b"x" * (KEY_LIMIT - 6), VERSION) for number in range(5_000)]
    made = list(summaries({7: versions[::-1]}))
    assert len(made) > 1
    assert all(summary.buckets == {7} for summary in made)
    assert [known for summary in made for known in summary.versions] == versions
    assert (made[0].first, made[-1].end) == (b"", b"")
    assert [summary.end for summary in made[:-1]] == [summary.first for summary in made[1:]]


def test_the_limits_are_those_that_are_published() -> None:
    assert (frames.KEY_LIMIT, frames.VALUE_LIMIT, frames.FRAME_LIMIT) == (255, 2**20, 2**20 + 2**16)
