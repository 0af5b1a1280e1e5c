"""What a publisher keeps of its topics, and what a subscriber is told of them: without a network."""

from __future__ import annotations

from math import inf
from uuid import UUID

import pytest
from attrs import evolve

from zdisco._core.config import PeerConfig
from zdisco._core.envelope import (
    MARKER_LIMIT,
    ConfirmBody,
    DataFrame,
    Kind,
    Marker,
    NumbersBody,
    RetainedBody,
    Scope,
    parse_subscription,
    split,
)
from zdisco._core.interests import Interests
from zdisco._core.publications import Publications

ID, OTHER = UUID(int=7), UUID(int=8)
SESSION = b"1234"
CONFIG = PeerConfig(tail_delay=0.1, tail_interval=0.5)


def publications(config: PeerConfig = CONFIG) -> Publications:
    return Publications(ID, SESSION, config)


def publish(made: Publications, topic: str, payload: bytes = b"x", now: float = 0.0) -> DataFrame:
    """Publish as the shell does."""
    publication = made.topics.get(topic) or made.add(topic)[0]
    if not publication.is_active:
        made.activate(publication, now)
    frame = split(publication.frame(payload))
    publication.sent += 1
    assert isinstance(frame, DataFrame)
    return frame


def read(frame: bytes) -> DataFrame:
    parts = split(frame)
    assert isinstance(parts, DataFrame)
    return parts


def tails(frames: list[bytes]) -> list[tuple[bytes, int]]:
    """Topic and number of each; all of them are TAIL frames."""
    parts = [read(frame) for frame in frames]
    assert all(part.kind is Kind.TAIL for part in parts)
    return [(part.topic, part.sequence) for part in parts]


# Numbers


def test_messages_of_a_topic_are_numbered_from_one() -> None:
    made = publications()
    assert [publish(made, topic).sequence for topic in ("a", "b", "a")] == [1, 1, 2]


def test_a_topic_that_had_to_go_is_closed_and_comes_back_in_another_stream() -> None:
    made = publications(evolve(CONFIG, max_topics=1))
    was = publish(made, "a")
    publish(made, "a")
    _, frames = made.add("b")
    assert tails(frames) == [(b"a", 2)]
    assert made.add("a")[1] == [], "nothing was published on b"
    again = publish(made, "a")
    assert (was.stream, was.sequence) != (again.stream, again.sequence)
    assert again.sequence == 1
    assert tails(made.close()) == [(b"a", 1)], "what is gone is not closed again"


@pytest.mark.parametrize("topic", ["a\0b", "x" * 1025])
def test_what_is_no_topic_is_refused_and_leaves_nothing(topic: str) -> None:
    made = publications()
    with pytest.raises(ValueError, match="topic"):
        made.add(topic)
    assert not made.topics


# Rest


def test_a_topic_that_rests_is_closed_ever_more_rarely_for_ever() -> None:
    made = publications()
    publish(made, "t")
    seen = []
    for _ in range(8):
        at = made.deadline
        assert at is not None
        seen += [(round(at, 6), *tail) for tail in tails(made.tick(at))]
    times = [at for at, _, _ in seen]
    assert {(topic, number) for _, topic, number in seen} == {(b"t", 1)}
    # One look finds the number new, the next finds it unchanged.
    assert times == [0.2, 0.4, 0.8, 1.3, 1.8, 2.3, 2.8]


def test_a_topic_that_is_published_all_the_time_is_not_closed() -> None:
    made = publications()
    for step in range(10):
        publish(made, "t", now=step * 0.1)
        assert made.tick(step * 0.1) == []
    assert tails(made.tick(1.0)) == [(b"t", 10)]


def test_a_message_after_a_rest_ends_it() -> None:
    made = publications()
    publish(made, "t")
    made.tick(0.1)
    assert tails(made.tick(0.2)) == [(b"t", 1)]
    publish(made, "t", now=0.3)
    assert made.tick(0.4) == []
    assert tails(made.tick(0.5)) == [(b"t", 2)]
    assert tails(made.tick(0.7)) == [(b"t", 2)], "the delays begin anew"


def test_who_leaves_closes_what_was_not_closed_yet_and_nothing_later() -> None:
    made = publications()
    publish(made, "rests")
    made.tick(0.1)
    made.tick(0.2)
    publish(made, "new", now=0.2)
    assert tails(made.close()) == [(b"new", 1)]
    assert made.deadline == inf
    assert made.tick(100.0) == []


# What a marker asks for


def confirmation(
    made: Publications, scope: Scope = Scope.COMPLETE, *prefixes: bytes, counter: int = 5, before: int = 0
) -> tuple[ConfirmBody, dict[bytes, int], list[bytes]]:
    """The confirmation, the numbers and the payloads of the values that come with it."""
    numbers: dict[bytes, int] = {}
    values: list[bytes] = []
    serials = set()
    *pieces, (last, body) = made.confirmation(Marker(OTHER, b"them", counter, scope, prefixes), before)
    for kind, piece in pieces:
        if kind is Kind.NUMBERS:
            read_numbers = NumbersBody.decode(piece)
            numbers |= {number.topic: number.sequence for number in read_numbers.numbers}
            serials.add(read_numbers.serial)
        else:
            assert kind is Kind.RETAINED
            retained = RetainedBody.decode(piece)
            values.append(read(retained.frame).payload)
            serials.add(retained.serial)
    assert last is Kind.CONFIRM
    confirm = ConfirmBody.decode(body)
    assert confirm.pieces == len(pieces)
    assert serials <= {confirm.serial}
    return confirm, numbers, values


def test_a_confirmation_lists_what_the_marker_names() -> None:
    made = publications()
    for topic in ("a", "ab", "ab", "b"):
        publish(made, topic)
    assert confirmation(made)[1] == {}
    assert confirmation(made, Scope.COMPLETE, b"a")[1] == {b"a": 1, b"ab": 2}
    assert confirmation(made, Scope.COMPLETE, b"a\0")[1] == {b"a": 1}
    assert confirmation(made, Scope.COMPLETE, b"")[1] == {b"a": 1, b"ab": 2, b"b": 1}
    assert confirmation(made, Scope.UNNAMED)[1] == {b"a": 1, b"ab": 2, b"b": 1}


def test_what_is_new_is_enough_for_who_has_the_rest() -> None:
    made = publications()
    publish(made, "a")
    publish(made, "b")
    confirm, numbers, _ = confirmation(made, Scope.NEW, b"b", counter=5, before=4)
    assert (confirm.base, numbers) == (4, {b"b": 1})
    for before in (0, 3, 5):
        confirm, numbers, _ = confirmation(made, Scope.NEW, b"b", counter=5, before=before)
        assert (confirm.base, numbers) == (0, {b"a": 1, b"b": 1})


def test_no_two_confirmations_have_the_same_serial() -> None:
    made = publications()
    assert confirmation(made)[0].serial != confirmation(made)[0].serial


def test_the_last_values_of_what_the_marker_names_come_with_the_confirmation() -> None:
    made = publications(evolve(CONFIG, max_retained=2))
    for topic in ("a", "b", "c"):
        publish(made, topic)
        publication = made.topics[topic]
        assert made.retain(publication, publication.frame(topic.encode())) == (topic == "c")
    assert confirmation(made, Scope.UNNAMED)[2] == [b"b", b"c"], "the oldest had to go"
    assert confirmation(made, Scope.COMPLETE, b"b")[2] == [b"b"]
    made.retain(made.topics["b"], made.topics["b"].frame(b"newer"))
    assert confirmation(made, Scope.UNNAMED)[2] == [b"c", b"newer"]
    assert made.release("b")
    assert not made.release("b")
    assert not made.release("unknown")
    assert confirmation(made, Scope.UNNAMED)[2] == [b"c"]


# Markers


def named(interests: Interests) -> tuple[Scope, set[bytes]]:
    topic, _ = interests.next_marker()
    marker = parse_subscription(topic)
    assert isinstance(marker, Marker)
    assert marker.counter == interests.marker
    return marker.scope, set(marker.prefixes)


def test_a_marker_names_what_is_new_and_one_that_repeats_names_all() -> None:
    interests = Interests(ID, SESSION)
    assert named(interests) == (Scope.COMPLETE, set())
    first, is_new = interests.add(b"a")
    assert is_new
    assert first.since == interests.marker + 1
    assert named(interests) == (Scope.COMPLETE, {b"a"})
    second, _ = interests.add(b"b")
    again, is_new = interests.add(b"a")
    assert not is_new
    assert named(interests) == (Scope.COMPLETE, {b"a", b"b"})
    third, _ = interests.add(b"c")
    assert named(interests) == (Scope.NEW, {b"c"})
    assert named(interests) == (Scope.COMPLETE, {b"a", b"b", b"c"})
    assert not interests.remove(first)
    assert interests.remove(again)
    assert interests.remove(second)
    assert interests.remove(third)
    assert set(interests.take_gone()) == {b"a", b"b", b"c"}
    assert interests.take_gone() == ()
    assert named(interests) == (Scope.COMPLETE, set())


def test_a_marker_does_not_grow_without_end() -> None:
    interests = Interests(ID, SESSION)
    for number in range(MARKER_LIMIT):
        interests.add(b"%d" % number)
    assert named(interests) == (Scope.UNNAMED, set())
    interests.add(b"one more")
    assert named(interests) == (Scope.NEW, {b"one more"})
    assert named(interests) == (Scope.UNNAMED, set())


def test_a_subscription_that_went_before_its_marker_is_not_named() -> None:
    interests = Interests(ID, SESSION)
    interests.add(b"a")
    gone, _ = interests.add(b"b")
    interests.remove(gone)
    assert named(interests) == (Scope.COMPLETE, {b"a"})
