"""Routing what we receive, and what becomes of it in a stream: without a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdisco import _messages
from zdisco._core.actions import Drop
from zdisco._core.counts import Counts
from zdisco._core.envelope import (
    ConfirmBody,
    ControlFrame,
    Kind,
    NumbersBody,
    RetainedBody,
    TopicNumber,
    data_frame,
    data_prefix,
    pack_frame,
)
from zdisco._core.events import MessagesLost
from zdisco._core.interests import Interests
from zdisco._core.model import Message, PeerInfo, StreamOverflow
from zdisco._messages import MessageStream, Received, Subscriptions

ID = UUID(int=7)
SESSION = b"1234"
SENDER = PeerInfo(ID, "tcp://127.0.0.1:40001")


class Reader:
    """Subscriptions to one peer, and what was told beside its messages."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.control: list[ControlFrame] = []
        self.drops: dict[Drop, int] = {}
        self.losses: list[MessagesLost] = []
        self.interests = Interests(UUID(int=1), b"mine")
        self.counts = Counts(ID, SESSION, self.interests, 100)
        self.subscriptions = Subscriptions(
            self._sender, self.control.append, self._dropped, self.losses.append, lambda: 0.0
        )

    def subscribe(self, prefix: bytes = b"", capacity: int = 100, **options: Any) -> MessageStream[Received]:
        """A subscription that tells its losses where they happened; `confirm` puts it in force."""
        stream: MessageStream[Received] = MessageStream(prefix, capacity, **{"tells": True, **options})
        interest, _ = self.interests.add(prefix)
        self.subscriptions.add(stream, interest)
        return stream

    def confirm(self, *numbers: TopicNumber, retained: tuple[bytes, ...] = (), of: int | None = None) -> None:
        """The peer confirms our newest marker, and lists what it has."""
        self.interests.next_marker()
        for frame in retained:
            self.counts.retained(RetainedBody(9, frame))
            self.subscriptions.retained(frame)
        bodies = list(NumbersBody.split(9, numbers))
        for body in bodies:
            self.counts.numbers(NumbersBody.decode(body.encode()))
        pieces = len(bodies) + len(retained)
        for loss in self.counts.confirm(ConfirmBody(of or self.interests.marker, 0, 9, pieces)):
            self.subscriptions.lost(SENDER, loss)
        self.subscriptions.deliver([])

    def _sender(self, key: bytes) -> tuple[PeerInfo, Counts] | None:
        self.asked.append(key)
        return (SENDER, self.counts) if key == ID.bytes + SESSION else None

    def _dropped(self, drop: Drop, detail: str, count: int) -> None:
        self.drops[drop] = self.drops.get(drop, 0) + count


def frame(topic: bytes, sequence: int, kind: int = Kind.DATA) -> bytes:
    made = data_frame(data_prefix(topic, ID, SESSION, 0), Kind.DATA, sequence, b"%d" % sequence)
    at = len(topic) + 27
    return made[:at] + bytes([kind]) + made[at + 1 :]


def pack(topic: bytes, first: int, count: int) -> bytes:
    numbers = range(first, first + count)
    return pack_frame(data_prefix(topic, ID, SESSION, 0), first, [b"%d" % number for number in numbers])


def shown(stream: MessageStream[Received]) -> list[int]:
    """What a reader gets, in order: the numbers of messages; how many are missing, below zero."""
    return [int(item.payload) if isinstance(item, Message) else -item.count for item in stream._take_all()]


def joined() -> tuple[Reader, MessageStream[Received]]:
    reader = Reader()
    stream = reader.subscribe()
    reader.confirm()
    return reader, stream


def test_the_sender_of_a_topic_is_looked_up_once_until_the_roster_changes() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([frame(b"t", 1), frame(b"t", 2)])
    reader.subscriptions.deliver([frame(b"t", 3)])
    assert len(reader.asked) == 1
    reader.subscriptions.forget_routes()
    reader.subscriptions.deliver([frame(b"t", 4)])
    assert len(reader.asked) == 2
    assert shown(stream) == [1, 2, 3, 4]


def test_the_routes_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_messages, "_ROUTES", 2)
    reader, stream = joined()
    for topic in (b"a", b"b", b"c"):
        reader.subscriptions.deliver([frame(topic, 1)])
        assert len(reader.subscriptions._routes) <= 2
    assert shown(stream) == [1, 1, 1]


def test_a_kind_that_we_do_not_know_is_counted_whether_or_not_its_stream_is_known() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([frame(b"t", 1, kind=9), frame(b"t", 1), frame(b"t", 2, kind=9)])
    assert shown(stream) == [1]
    assert reader.drops == {Drop.MALFORMED_CONTROL: 2}


def test_frames_of_others_between_those_of_one_topic_change_nothing() -> None:
    reader, stream = joined()
    strange = data_frame(data_prefix(b"t", UUID(int=8), SESSION, 0), Kind.DATA, 1, b"1")
    reader.subscriptions.deliver([frame(b"t", 1), strange, frame(b"t", 2), frame(b"u", 1), frame(b"t", 3), b"\xfe"])
    assert shown(stream) == [1, 2, 1, 3]
    assert reader.drops == {Drop.UNKNOWN_SENDER: 1, Drop.MALFORMED_CONTROL: 1}


def test_foreign_frames_come_whole_and_without_a_sender_and_their_loss_is_counted() -> None:
    reader = Reader()
    stream = reader.subscribe(capacity=1)
    reader.subscriptions.deliver([b"classic\0one", b"classic\0two"])
    assert stream._take_all() == [MessagesLost(None, "classic", 1), Message(None, "classic", b"classic\0two")]
    assert reader.drops == {Drop.STREAM_FULL: 1}
    assert (stream.dropped, stream.lost) == (1, 0)


# What is lost on the way


def test_a_number_that_jumps_is_a_loss_where_it_happened_and_an_event() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([frame(b"t", 1), frame(b"t", 4), frame(b"t", 5)])
    assert shown(stream) == [1, -2, 4, 5]
    assert reader.losses == [MessagesLost(SENDER, "t", 2)]
    assert (stream.dropped, stream.lost) == (0, 2)


def test_a_topic_that_nobody_listed_begins_at_one() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([frame(b"t", 3)])
    assert shown(stream) == [-2, 3]


def test_a_topic_that_was_listed_begins_after_the_number_in_the_list() -> None:
    reader = Reader()
    stream = reader.subscribe()
    reader.confirm(TopicNumber(b"t", 0, 5))
    reader.subscriptions.deliver([frame(b"t", 6), frame(b"t", 8)])
    assert shown(stream) == [6, -1, 8]


def test_what_comes_before_the_confirmation_begins_where_it_is_seen() -> None:
    reader = Reader()
    stream = reader.subscribe()
    reader.subscriptions.deliver([frame(b"t", 5), frame(b"t", 7)])
    reader.confirm(TopicNumber(b"t", 0, 8))
    reader.subscriptions.deliver([frame(b"t", 10)])
    # 6 and 8 were published before the subscription was in force.
    assert shown(stream) == [5, 7, -1, 10]
    assert stream.lost == 1


def test_a_tail_tells_of_a_lost_end_once() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([frame(b"t", 1), frame(b"t", 3, Kind.TAIL), frame(b"t", 3, Kind.TAIL), frame(b"t", 4)])
    assert shown(stream) == [1, -2, 4]


def test_a_tail_tells_of_a_topic_of_which_nothing_came() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([frame(b"t", 3, Kind.TAIL)])
    assert shown(stream) == [-3]


def test_a_number_that_goes_back_is_counted_and_the_message_delivered() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([frame(b"t", 1), frame(b"t", 9), frame(b"t", 2), frame(b"t", 3)])
    assert shown(stream) == [1, -7, 9, 2, 3]
    assert reader.drops == {Drop.STALE_NUMBER: 1}


# Packs


def test_the_messages_of_a_pack_come_as_if_each_had_a_frame() -> None:
    reader, stream = joined()
    other = reader.subscribe(b"t", tells=False)
    reader.confirm()
    frames = [pack(b"t", 1, 3), frame(b"t", 4), pack(b"t", 5, 1), pack(b"u", 1, 2), pack(b"t", 6, 2)]
    assert reader.subscriptions.deliver(frames) == (5, 9)
    assert shown(stream) == [1, 2, 3, 4, 5, 1, 2, 6, 7]
    assert shown(other) == [1, 2, 3, 4, 5, 6, 7]
    assert not reader.losses
    assert not reader.drops


def test_a_pack_that_is_missing_is_a_loss_of_all_of_its_messages() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([pack(b"t", 1, 3), pack(b"t", 10, 2), frame(b"t", 14), frame(b"t", 15, Kind.TAIL)])
    assert shown(stream) == [1, 2, 3, -6, 10, 11, -2, 14, -1]
    assert [loss.count for loss in reader.losses] == [6, 2, 1]


def test_a_first_pack_that_comes_late_is_missed_from_the_first_number_on() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([pack(b"t", 4, 2)])
    assert shown(stream) == [-3, 4, 5]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_pack_that_is_none_is_counted_and_its_messages_told_lost(is_first: bool) -> None:
    reader, stream = joined()
    whole = pack(b"t", 3, 2)
    before = [] if is_first else [pack(b"t", 1, 2)]
    assert reader.subscriptions.deliver([*before, whole[:-1], pack(b"t", 5, 1)])[1] == (2 if is_first else 4)
    assert shown(stream) == ([-4, 5] if is_first else [1, 2, -2, 5])
    assert reader.drops == {Drop.MALFORMED_CONTROL: 1}


def test_no_more_packs_are_taken_than_a_turn_has_room_for() -> None:
    reader, stream = joined()
    frames = [pack(b"t", 1, 3), frame(b"t", 4), pack(b"t", 5, 5), pack(b"t", 10, 2), frame(b"t", 12)]
    taken, messages = reader.subscriptions.deliver(frames, 6)
    assert (taken, messages, shown(stream)) == (3, 9, list(range(1, 10)))
    assert reader.subscriptions.deliver(frames[taken:], 6) == (2, 3)
    assert shown(stream) == [10, 11, 12]


def test_a_slow_reader_loses_the_oldest_messages_of_packs() -> None:
    reader = Reader()
    stream = reader.subscribe(capacity=4)
    reader.confirm()
    reader.subscriptions.deliver([pack(b"t", 1, 3), pack(b"t", 4, 3)])
    assert (stream.dropped, shown(stream)) == (2, [-2, 3, 4, 5, 6])
    assert reader.drops == {Drop.STREAM_FULL: 2}


def test_overlapping_subscriptions_get_each_message_once_and_each_loss_that_is_theirs() -> None:
    reader, everything = joined()
    reader.subscriptions.deliver([frame(b"ab", 1)])
    narrow = reader.subscribe(b"a")
    reader.subscriptions.deliver([frame(b"ab", 3)])
    reader.confirm(TopicNumber(b"ab", 0, 4))
    other = reader.subscribe(b"b")
    reader.confirm(TopicNumber(b"ab", 0, 4))
    reader.subscriptions.deliver([frame(b"ab", 6)])
    assert shown(everything) == [1, -1, 3, -1, -1, 6]
    assert shown(narrow) == [3, -1, 6]
    assert shown(other) == []
    assert [loss.count for loss in reader.losses] == [1, 1, 1]


def test_a_confirmation_of_which_a_piece_is_missing_counts_for_nothing() -> None:
    reader = Reader()
    stream = reader.subscribe()
    reader.interests.next_marker()
    reader.counts.confirm(ConfirmBody(2, 0, 9, 1))
    assert reader.counts.confirmed == 0
    reader.subscriptions.deliver([frame(b"t", 5)])
    assert shown(stream) == [5], "nobody knows where it began"


def test_pieces_of_a_confirmation_that_was_cut_short_are_not_taken_for_those_of_the_next() -> None:
    reader = Reader()
    reader.subscribe()
    reader.interests.next_marker()
    reader.counts.numbers(NumbersBody(1, (TopicNumber(b"t", 0, 1),)))
    reader.counts.numbers(NumbersBody(2, (TopicNumber(b"t", 0, 2),)))
    reader.counts.confirm(ConfirmBody(2, 0, 2, 1))
    assert reader.counts.confirmed == 2


def test_a_confirmation_of_what_is_new_needs_the_ones_before() -> None:
    reader, _ = joined()
    for _ in range(3):
        reader.interests.next_marker()
    reader.counts.confirm(ConfirmBody(5, 4, 0, 0))
    assert reader.counts.confirmed == 2
    reader.counts.confirm(ConfirmBody(3, 2, 0, 0))
    assert reader.counts.confirmed == 3


def test_a_topic_that_nothing_covers_any_more_is_forgotten_and_begins_anew() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([frame(b"t", 1)])
    reader.interests.remove(reader.subscriptions.remove(stream))
    reader.subscriptions.deliver([frame(b"t", 2)])
    reader.counts.forget(reader.interests.take_gone())
    assert len(reader.counts) == 0
    again = reader.subscribe()
    reader.confirm(TopicNumber(b"t", 0, 7))
    reader.subscriptions.deliver([frame(b"t", 8)])
    assert shown(again) == [8]


def crowded() -> tuple[Reader, MessageStream[Received]]:
    """A table of two topics that has seen three."""
    reader = Reader()
    reader.counts = Counts(ID, SESSION, reader.interests, 2)
    stream = reader.subscribe()
    reader.confirm()
    reader.subscriptions.deliver([frame(topic, 1) for topic in (b"a", b"b", b"c")])
    return reader, stream


def test_a_topic_that_had_to_go_from_the_table_is_not_taken_for_a_new_one() -> None:
    reader, stream = crowded()
    reader.subscriptions.forget_routes()
    reader.subscriptions.deliver([frame(b"a", 5)])
    assert shown(stream) == [1, 1, 1, 5]
    assert not reader.losses


def test_a_list_without_end_is_cut_off_and_counts_as_one_that_lacks_topics() -> None:
    reader = Reader()
    reader.counts = Counts(ID, SESSION, reader.interests, 3)
    stream = reader.subscribe(b"t")
    endless = [TopicNumber(b"t%d" % number, 0, 5) for number in range(9)]
    for _ in range(100):
        reader.counts.numbers(NumbersBody(9, (TopicNumber(b"unwanted", 0, 1), *endless)))
    assert len(reader.counts._pieces.numbers) == 3
    reader.counts._pieces.count = 0
    reader.confirm(*endless)
    assert len(reader.counts) == 3
    reader.subscriptions.deliver([frame(b"t8", 6), frame(b"t0", 6)])
    assert shown(stream) == [6, 6]
    assert not reader.losses


def test_each_message_comes_once_whatever_else_is_subscribed() -> None:
    reader = Reader()
    exact = reader.subscribe(b"t\0")
    for longer in (b"t\0 and", b"t\0 and more", b"quite another"):
        reader.subscribe(longer)
    reader.confirm()
    reader.subscriptions.deliver([frame(b"t", 1), frame(b"t", 3)])
    assert shown(exact) == [1, -1, 3]


def test_a_marker_that_we_have_not_reached_was_one_of_an_earlier_life() -> None:
    reader = Reader()
    reader.counts.confirm(ConfirmBody(reader.interests.marker + 1))
    assert reader.counts.confirmed == 0
    reader.counts.confirm(ConfirmBody(reader.interests.marker))
    assert reader.counts.confirmed == reader.interests.marker


def test_a_topic_that_had_to_go_from_the_table_and_is_in_use_gets_no_second_count() -> None:
    reader, stream = crowded()
    reader.confirm(*(TopicNumber(topic, 0, 1) for topic in (b"a", b"b", b"c")))
    reader.subscriptions.deliver([frame(b"a", number) for number in range(2, 30)])
    reader.subscriptions.forget_routes()
    reader.subscriptions.deliver([frame(b"a", 30)])
    assert len(shown(stream)) == 32
    assert not reader.losses


# What a slow reader loses

POLICIES: list[tuple[StreamOverflow, list[int]]] = [
    (StreamOverflow.DROP_OLDEST, [-4, 5, 6, 7]),
    (StreamOverflow.DROP_NEWEST, [1, 2, 3, -4]),
    (StreamOverflow.PAUSE, [1, 2, 3, -4]),
]


@pytest.mark.parametrize(("overflow", "expected"), POLICIES)
def test_a_slow_reader_loses_what_it_chose_and_is_told_where(overflow: StreamOverflow, expected: list[int]) -> None:
    reader = Reader()
    stream = reader.subscribe(capacity=3, overflow=overflow)
    reader.confirm()
    reader.subscriptions.deliver([frame(b"t", number) for number in range(1, 8)])
    got: list[int] = []
    while stream._queue or stream._has_note():
        got += [int(i.payload) if isinstance(i, Message) else -i.count for i in _take_one(stream)]
    assert got == expected
    assert reader.drops == {Drop.STREAM_FULL: 4}
    assert (stream.dropped, stream.lost) == (4, 0)
    assert not reader.losses, "it is a matter of this stream alone"


def _take_one(stream: MessageStream[Received]) -> list[Received]:
    return [stream._take_note() if stream._has_note() else stream._queue.popleft()]


def test_a_paused_stream_takes_nothing_until_all_was_read() -> None:
    reader = Reader()
    stream = reader.subscribe(capacity=2, overflow=StreamOverflow.PAUSE)
    reader.confirm()
    deliver: Callable[..., object] = lambda *numbers: reader.subscriptions.deliver([frame(b"t", n) for n in numbers])  # noqa: E731
    deliver(1, 2, 3)
    got = _take_one(stream)
    deliver(4)
    got += _take_one(stream)
    deliver(5, 6)
    got += stream._take_all()
    deliver(7)
    got += stream._take_all()
    assert [int(item.payload) if isinstance(item, Message) else -item.count for item in got] == [1, 2, -2, 5, 6, 7]


def test_a_stream_that_drops_the_newest_takes_what_there_is_room_for() -> None:
    reader = Reader()
    stream = reader.subscribe(capacity=2, overflow=StreamOverflow.DROP_NEWEST)
    reader.confirm()
    reader.subscriptions.deliver([frame(b"t", n) for n in (1, 2, 3)])
    got = _take_one(stream)
    reader.subscriptions.deliver([frame(b"t", n) for n in (4, 5)])
    got += stream._take_all()
    assert [int(item.payload) if isinstance(item, Message) else -item.count for item in got] == [1, 2, -1, 4]
    assert [-item.count for item in stream._take_all() if isinstance(item, MessagesLost)] == [-1]


@given(
    st.lists(st.one_of(st.integers(1, 3), st.none(), st.just("lost")), max_size=60),
    st.sampled_from(StreamOverflow),
    st.booleans(),
)
def test_received_and_told_is_what_was_published(steps: list[Any], overflow: StreamOverflow, tells: bool) -> None:
    reader = Reader()
    stream = reader.subscribe(capacity=3, overflow=overflow, tells=tells)
    reader.confirm()
    sequence, got = 0, []
    for step in steps:
        if step is None:
            got += stream._take_all()
        elif step == "lost":
            sequence += 1
        else:
            reader.subscriptions.deliver([frame(b"t", sequence + n) for n in range(1, step + 1)])
            sequence += step
    reader.subscriptions.deliver([frame(b"t", sequence, Kind.TAIL)])
    for _ in range(3):
        got += stream._take_all()
    numbers = [int(item.payload) for item in got if isinstance(item, Message)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + stream.lost + stream.dropped == sequence
    if tells:
        assert len(numbers) + sum(item.count for item in got if isinstance(item, MessagesLost)) == sequence


# Last values


def test_a_later_subscriber_gets_the_last_value_and_who_was_there_does_not() -> None:
    reader, first = joined()
    reader.subscriptions.deliver([frame(b"t", 1), frame(b"t", 2)])
    second = reader.subscribe(b"t")
    reader.confirm(TopicNumber(b"t", 0, 2), retained=(frame(b"t", 2),))
    reader.subscriptions.deliver([frame(b"t", 3)])
    assert shown(first) == [1, 2, 3]
    assert shown(second) == [2, 3]


def test_a_value_that_came_as_a_message_meanwhile_is_not_given_again() -> None:
    reader = Reader()
    stream = reader.subscribe()
    reader.subscriptions.deliver([frame(b"t", 5)])
    reader.confirm(TopicNumber(b"t", 0, 5), retained=(frame(b"t", 5),))
    assert shown(stream) == [5]


def test_a_value_that_was_lost_as_a_message_meanwhile_is_given() -> None:
    reader, first = joined()
    reader.subscriptions.deliver([frame(b"t", 1)])
    second = reader.subscribe(b"t")
    reader.subscriptions.deliver([frame(b"t", 2), frame(b"t", 3, Kind.TAIL)])
    reader.confirm(TopicNumber(b"t", 0, 3), retained=(frame(b"t", 3),))
    assert shown(second) == [2, 3]
    assert shown(first) == [1, 2, -1]


def test_who_misses_the_last_value_gets_it_in_place_of_the_message() -> None:
    reader, stream = joined()
    reader.subscriptions.deliver([frame(b"t", 1)])
    reader.confirm(TopicNumber(b"t", 0, 4), retained=(frame(b"t", 4),))
    assert shown(stream) == [1, -2, 4]


def test_an_older_value_is_followed_by_what_was_published_without_being_kept() -> None:
    reader = Reader()
    stream = reader.subscribe()
    reader.confirm(TopicNumber(b"t", 0, 6), retained=(frame(b"t", 4),))
    reader.subscriptions.deliver([frame(b"t", 7)])
    assert shown(stream) == [4, 7]
    assert not reader.losses


def test_a_confirmation_that_is_repeated_does_not_give_a_value_twice() -> None:
    reader = Reader()
    stream = reader.subscribe()
    value = frame(b"t", 4)
    reader.counts.retained(RetainedBody(1, value))
    reader.subscriptions.retained(value)
    reader.confirm(TopicNumber(b"t", 0, 4), retained=(value,))
    assert shown(stream) == [4]


def test_a_value_that_is_followed_by_messages_that_are_not_kept_is_given_all_the_same() -> None:
    reader, first = joined()
    reader.subscriptions.deliver([frame(b"t", number) for number in range(1, 7)])
    second = reader.subscribe(b"t")
    reader.subscriptions.deliver([frame(b"t", 7)])
    reader.confirm(TopicNumber(b"t", 0, 7), retained=(frame(b"t", 5),))
    assert sorted(shown(second)) == [5, 7]
    assert shown(first) == [1, 2, 3, 4, 5, 6, 7]
