"""Numbering what we publish, routing what we receive: without a network."""

from __future__ import annotations

from uuid import UUID

import pytest

from zdisco import _messages
from zdisco._core.actions import Drop
from zdisco._core.envelope import ControlFrame, DataFrame, Frame, Kind, data_frame, data_prefix, split
from zdisco._core.model import Message, PeerInfo
from zdisco._messages import MessageStream, Publications, Subscriptions

ID = UUID(int=7)
SESSION = b"1234"
SENDER = PeerInfo(ID, "tcp://127.0.0.1:40001")


class Reader:
    """One subscription to everything, and what was told beside its messages."""

    def __init__(self, capacity: int = 100) -> None:
        self.asked: list[bytes] = []
        self.control: list[ControlFrame] = []
        self.drops: dict[Drop, int] = {}
        self.stream = MessageStream(b"", capacity)
        self.subscriptions = Subscriptions(self._sender, self.control.append, self._dropped)
        self.subscriptions.add(self.stream, b"")

    def _sender(self, key: bytes) -> PeerInfo | None:
        self.asked.append(key)
        return SENDER if key == ID.bytes + SESSION else None

    def _dropped(self, drop: Drop, detail: str, count: int) -> None:
        self.drops[drop] = self.drops.get(drop, 0) + count

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.stream._queue]


def frame(topic: bytes, payload: bytes = b"", kind: int = Kind.DATA) -> bytes:
    made = data_frame(data_prefix(topic, ID, SESSION, 0), Kind.DATA, 1, payload)
    at = len(made) - len(payload) - 9
    return made[:at] + bytes([kind]) + made[at + 1 :]


def publish(publications: Publications, topic: str) -> Frame:
    made = publications.frame(topic, b"x")
    assert publications.frame(topic, b"x") == made, "what was not sent takes no number"
    publications.count(topic)
    return split(made)


def test_messages_of_a_topic_are_numbered_from_one() -> None:
    publications = Publications(ID, SESSION, limit=2)
    parts = [publish(publications, topic) for topic in ("a", "b", "a")]
    assert [(part.stream, part.sequence) for part in parts if isinstance(part, DataFrame)] == [(0, 1), (0, 1), (0, 2)]


def test_a_topic_that_was_forgotten_begins_again_in_another_stream() -> None:
    publications = Publications(ID, SESSION, limit=1)
    parts = [publish(publications, topic) for topic in ("a", "b", "a")]
    numbers = [(part.stream, part.sequence) for part in parts if isinstance(part, DataFrame)]
    assert [sequence for _, sequence in numbers] == [1, 1, 1]
    assert numbers[0][0] != numbers[2][0]


def test_a_message_that_cannot_be_made_takes_no_number() -> None:
    publications = Publications(ID, SESSION, limit=1)
    with pytest.raises(TypeError):
        publications.frame("a", None)  # type: ignore[arg-type]
    part = split(publications.frame("a", b""))
    assert isinstance(part, DataFrame)
    assert part.sequence == 1


def test_the_sender_of_a_topic_is_looked_up_once_until_the_roster_changes() -> None:
    reader = Reader()
    reader.subscriptions.deliver([frame(b"t", b"1"), frame(b"t", b"2")])
    reader.subscriptions.deliver([frame(b"t", b"3")])
    assert len(reader.asked) == 1
    reader.subscriptions.forget_routes()
    reader.subscriptions.deliver([frame(b"t", b"4")])
    assert len(reader.asked) == 2
    assert reader.payloads == [b"1", b"2", b"3", b"4"]


def test_the_routes_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_messages, "_ROUTES", 2)
    reader = Reader()
    for topic in (b"a", b"b", b"c"):
        reader.subscriptions.deliver([frame(topic, topic)])
        assert len(reader.subscriptions._routes) <= 2
    assert reader.payloads == [b"a", b"b", b"c"]


def test_a_tail_is_no_message_and_no_fault_whether_or_not_its_stream_is_known() -> None:
    reader = Reader()
    reader.subscriptions.deliver([frame(b"t", kind=Kind.TAIL), frame(b"t", b"1"), frame(b"t", kind=Kind.TAIL)])
    reader.subscriptions.deliver([frame(b"t", kind=Kind.TAIL)])
    assert reader.payloads == [b"1"]
    assert reader.drops == {}


def test_a_kind_that_we_do_not_know_is_counted_whether_or_not_its_stream_is_known() -> None:
    reader = Reader()
    reader.subscriptions.deliver([frame(b"t", kind=9), frame(b"t", b"1"), frame(b"t", kind=9)])
    assert reader.payloads == [b"1"]
    assert reader.drops == {Drop.MALFORMED_CONTROL: 2}


def test_foreign_frames_come_whole_and_without_a_sender_and_their_loss_is_counted() -> None:
    reader = Reader(capacity=1)
    reader.subscriptions.deliver([b"classic\0one", b"classic\0two"])
    assert list(reader.stream._queue) == [Message(None, "classic", b"classic\0two")]
    assert reader.drops == {Drop.STREAM_FULL: 1}
    assert reader.stream.dropped == 1


def test_the_loss_of_messages_is_counted() -> None:
    reader = Reader(capacity=2)
    reader.subscriptions.deliver([frame(b"t", b"%d" % number) for number in range(5)])
    assert reader.payloads == [b"3", b"4"]
    assert reader.drops == {Drop.STREAM_FULL: 3}
