"""Messages of the application: numbering what we publish, routing what we receive.

Rule 1: what is known of a stream of messages is found by one look-up on the raw prefix of its
frames. The prefix holds topic, sender and session, so what it leads to is right by itself; it is
forgotten whenever the roster or a subscription changes.

Rule 2: a prefix is subscribed once, however many streams use it: libzmq forwards every repeat.

Rule 3: a stream is registered here before libzmq subscribes, so no message comes too early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attrs import define, field

from ._core.actions import Drop
from ._core.envelope import (
    HEADER,
    NUMBER,
    PREFIX_SIZE,
    ControlFrame,
    DataFrame,
    ForeignFrame,
    Kind,
    check_topic,
    data_frame,
    data_prefix,
    split,
)
from ._core.errors import MalformedMessage
from ._core.model import Message, PeerId, PeerInfo
from ._streams import Stream

_ROUTES = 65_536
"""Prefixes kept at the most; all are found again at no more than the cost of one message."""


class MessageStream(Stream[Message]):
    """The messages of one subscription."""

    def __init__(self, prefix: bytes, capacity: int) -> None:
        super().__init__(capacity)
        self._prefix = prefix

    def _matches(self, topic: bytes) -> bool:
        """Whether a frame of this topic, NUL included, belongs to the subscription."""
        return topic.startswith(self._prefix)

    def _append(self, message: Message) -> None:
        """Add a message; `_settle` must follow in the same step."""
        self._queue.append(message)


@define
class _Outgoing:
    """One topic that we publish."""

    prefix: bytes
    sequence: int = 0


@define(eq=False)
class Publications:
    """The topics that we publish and their sequence numbers, which start at 1.

    Beyond the limit the topic that was new longest ago is forgotten.
    """

    _id: PeerId
    _session: bytes
    _limit: int
    _stream: int = 0
    _topics: dict[str, _Outgoing] = field(factory=dict)

    def frame(self, topic: str, payload: bytes) -> bytes:
        """The frame of the next message of a topic; call `count` when it was sent.

        Raises:
            TypeError: If the topic is not text.
            ValueError: If it is none, see `check_topic`.
        """
        try:
            outgoing = self._topics.get(topic)
        except TypeError:  # it is not even hashable; `check_topic` says what it is
            outgoing = None
        if outgoing is None:
            outgoing = self._add(topic, check_topic(topic))
        return data_frame(outgoing.prefix, Kind.DATA, outgoing.sequence + 1, payload)

    def count(self, topic: str) -> None:
        """The last frame of this topic was sent."""
        self._topics[topic].sequence += 1

    def _add(self, topic: str, raw: bytes) -> _Outgoing:
        if len(self._topics) >= self._limit:
            del self._topics[next(iter(self._topics))]
            # A topic that comes back begins at 1 again, in a stream of its own.
            self._stream = (self._stream + 1) & 0xFFFFFFFF
        outgoing = self._topics[topic] = _Outgoing(data_prefix(raw, self._id, self._session, self._stream))
        return outgoing


@define
class _Route:
    """Where the frames with one raw prefix go."""

    topic: str
    sender: PeerInfo | None
    streams: tuple[MessageStream, ...]


@define(eq=False)
class Subscriptions:
    """The streams of all subscriptions and the ways to them.

    Args:
        sender: Says whose frames carry an id and session; ``None`` if nobody in the roster.
        control: Called with each control frame.
        dropped: Called with the reason of what goes nowhere, a detail, and how many.
    """

    _sender: Callable[[bytes], PeerInfo | None]
    _control: Callable[[ControlFrame], None]
    _dropped: Callable[[Drop, str, int], None]
    _streams: list[MessageStream] = field(factory=list)
    _users: dict[bytes, int] = field(factory=dict)
    _routes: dict[bytes, _Route] = field(factory=dict)

    def __iter__(self) -> Iterator[MessageStream]:
        return iter(self._streams)

    def add(self, stream: MessageStream, prefix: bytes) -> bool:
        """Register a stream; returns whether its prefix is to be subscribed now."""
        self._streams.append(stream)
        self._routes.clear()
        self._users[prefix] = self._users.get(prefix, 0) + 1
        return self._users[prefix] == 1

    def remove(self, stream: MessageStream, prefix: bytes) -> bool:
        """Forget a stream; returns whether its prefix is to be unsubscribed now."""
        self._streams.remove(stream)
        self._routes.clear()
        self._users[prefix] -= 1
        if self._users[prefix]:
            return False
        del self._users[prefix]
        return True

    def forget_routes(self) -> None:
        """The roster has changed."""
        self._routes.clear()

    def deliver(self, frames: Sequence[bytes]) -> None:
        """Hand frames to the streams that want them, and control frames to ``control``."""
        touched: set[MessageStream] = set()
        routes = self._routes
        for frame in frames:
            end = frame.find(b"\0") + 1
            prefix = frame[: end + PREFIX_SIZE]
            # What is cut off behind the prefix has neither kind nor number; `split` says what it is.
            route = routes.get(prefix) if len(frame) >= end + HEADER.size else None
            if route is None:
                route = self._find(frame, prefix)
                if route is None:
                    continue
            kind = frame[end + PREFIX_SIZE]
            if kind == Kind.DATA:
                message = Message(route.sender, route.topic, frame[end + PREFIX_SIZE + NUMBER.size :])
                for stream in route.streams:
                    stream._append(message)
                touched.update(route.streams)
            elif kind != Kind.TAIL:  # which only says that a topic rests; it carries nothing for the reader
                self._dropped(Drop.MALFORMED_CONTROL, f"data frame of kind {kind}", 1)
        for stream in touched:
            if lost := stream._settle():
                self._dropped(Drop.STREAM_FULL, f"{lost} messages", lost)

    def _find(self, frame: bytes, prefix: bytes) -> _Route | None:
        """The route of a frame that is the first of its kind; a frame that has none is dealt with here."""
        try:
            parts = split(frame)
        except MalformedMessage as error:
            self._dropped(Drop.MALFORMED_CONTROL, error.reason, 1)
            return None
        match parts:
            case ControlFrame():
                self._control(parts)
            case ForeignFrame():
                self._deliver_foreign(parts)
            case DataFrame():
                return self._route(parts, prefix)
        return None

    def _route(self, frame: DataFrame, prefix: bytes) -> _Route | None:
        sender = self._sender(frame.sender + frame.session)
        if sender is None:
            self._dropped(Drop.UNKNOWN_SENDER, frame.sender.hex(), 1)
            return None
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
        route = _Route(_text(frame.topic), sender, self._matching(frame.topic + b"\0"))
        self._routes[prefix] = route
        return route

    def _deliver_foreign(self, frame: ForeignFrame) -> None:
        message = Message(None, _text(frame.topic), frame.payload)
        for stream in self._matching(frame.payload):
            if lost := stream._push([message]):
                self._dropped(Drop.STREAM_FULL, f"{lost} messages", lost)

    def _matching(self, topic: bytes) -> tuple[MessageStream, ...]:
        return tuple(stream for stream in self._streams if stream._matches(topic))


def _text(topic: bytes) -> str:
    # A classic program may publish any bytes; nothing of them is lost this way.
    return topic.decode(errors="surrogateescape")
