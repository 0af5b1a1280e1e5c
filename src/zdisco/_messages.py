"""Messages of the application on their way in: from frames to the streams that want them.

Rule 1: what is known of the messages of a topic is found by one look-up on the raw prefix of their
frames. The prefix holds topic, sender and session, so what it leads to is right by itself; it is
forgotten whenever the roster or a subscription changes.

Rule 2: nothing is done for a single message but to look it up, count it, make it and append it.
The streams that were touched are settled once for a batch of frames.

Rule 3: a stream is registered here before libzmq subscribes, so no message comes too early. What
was lost before its subscription was in force at the sender is not its loss.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from operator import length_hint
from typing import Generic, Self, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

from attrs import define, field

from ._channels import Lead
from ._core.actions import Drop
from ._core.counts import UNKNOWN, Count, Counts, Loss
from ._core.envelope import (
    DIRECT,
    GROUP,
    NUMBER,
    PREFIX_SIZE,
    ControlFrame,
    DataFrame,
    ForeignFrame,
    Kind,
    is_private,
    split,
    unpack,
)
from ._core.errors import MalformedMessage
from ._core.events import MessagesLost
from ._core.interests import Interest
from ._core.model import Message, PeerInfo, StreamOverflow
from ._core.prefixes import Prefixes
from ._streams import TURN, Mailbox, Stream

Received: TypeAlias = Message | MessagesLost
M = TypeVar("M")
"""What a stream yields: `Message`, or `Received` if it tells its losses, too."""

_ROUTES = 65_536
"""Prefixes kept at the most; all are found again at no more than the cost of one message."""
_DATA, _TAIL, _PACK = int(Kind.DATA), int(Kind.TAIL), int(Kind.PACK)
_NO_PREFIX = b"\xff"
"""No data frame begins like this."""


class MessageStream(Stream[M]):
    """The messages of one subscription.

    Args:
        prefix: What the topics begin with; with its NUL, the whole topic.
        capacity: Messages that may wait.
        overflow: What goes when more come.
        tells: Whether each loss is an item of the stream, where it happened.
        accepts: Says whether a topic is wanted, beyond its prefix.
    """

    def __init__(
        self,
        prefix: bytes,
        capacity: int,
        overflow: StreamOverflow = StreamOverflow.DROP_OLDEST,
        *,
        tells: bool = False,
        accepts: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(capacity)
        self.lost = 0
        """How many messages were lost on the way, since the subscription was in force at their sender."""
        self._prefix = prefix
        self._overflow = overflow
        self._tells = tells
        self._accepts = accepts
        self._interest: Interest | None = None
        self._first: WeakKeyDictionary[Count, int] = WeakKeyDictionary()
        """The first number of a topic that came before the subscription was in force at its sender."""
        # A count goes with the peer that it is about.
        self._given: WeakKeyDictionary[Count, int] = WeakKeyDictionary()
        self._is_paused = False
        self._pop = self._queue.popleft
        self._lead: Lead | None = None
        self._missed: dict[tuple[PeerInfo | None, str], int] = {}
        # Without a bound for what is old, what comes goes straight to the reader's queue.
        self._incoming: deque[Received] = (
            cast("deque[Received]", self._queue) if overflow is StreamOverflow.DROP_OLDEST else deque()
        )

    async def __anext__(self) -> M:
        """Wait for the next message. Cancellation: safe; no message is lost."""
        if self._taken < TURN:
            self._taken += 1
            # What was missed may have to be told first.
            if not self._missed:
                try:
                    return self._pop()
                except IndexError:
                    pass
        await self._ready()
        return self._take_note() if self._has_note() else self._pop()

    async def _wait(self) -> None:
        lead = self._lead
        if lead is None or not lead.is_free:
            await self._arrival.wait()
            return
        self._wake = partial(self._wake_all, lead)
        try:
            await lead.read(self._has_come)
        finally:
            self._wake = self._arrival.tell

    def _wake_all(self, lead: Lead) -> None:
        self._arrival.tell()
        lead.wake()

    def _has_come(self) -> bool:
        return bool(self._queue) or self._is_closed or self._has_note()

    async def aclose(self) -> None:
        """Close the stream; what waits in it is dropped. Idempotent. Cancellation: safe; it is closed all the same."""
        await super().aclose()
        self._missed.clear()

    def batches(self) -> Batches[M]:
        """All that waits at once, as lists, for ``async for``: the cheapest way to read many messages.

        Cancellation: safe; no message is lost.
        """
        return Batches(self)

    def _wants(self, raw: bytes, topic: str) -> bool:
        """Whether a topic belongs to the subscription, whose prefix it has."""
        if not self._prefix and is_private(raw):
            return False
        return self._accepts is None or self._accepts(topic)

    def _is_in_force(self, confirmed: int) -> bool:
        return self._interest is not None and self._interest.since <= confirmed

    def _lose(self, loss: MessagesLost) -> None:
        """Messages were lost on the way; `_settle` must follow in the same step."""
        self.lost += loss.count
        if self._tells:
            self._incoming.append(loss)

    def _settle(self) -> int:
        if self._incoming is self._queue:
            excess = [self._queue.popleft() for _ in range(len(self._queue) - self._capacity)]
        else:
            excess = self._take_in()
        dropped = 0
        for item in cast("list[Received]", excess):
            dropped += isinstance(item, Message)
            if self._tells:
                self._miss(item)
        self.dropped += dropped
        self._wake()
        return dropped

    def _take_in(self) -> list[M]:
        """Move what came to the reader's queue as far as there is room; returns the rest."""
        incoming = cast("deque[M]", self._incoming)
        room = self._capacity - len(self._queue)
        if self._is_paused and self._queue:
            room = 0
        taken = [incoming.popleft() for _ in range(min(room, len(incoming)))]
        if taken:
            # What was dropped came before these.
            self._queue.extend(cast("list[M]", self._take_missed()))
            self._queue.extend(taken)
        rest = list(incoming)
        incoming.clear()
        self._is_paused = self._overflow is StreamOverflow.PAUSE and bool(rest or (self._is_paused and self._queue))
        return rest

    def _miss(self, item: Received) -> None:
        count = item.count if isinstance(item, MessagesLost) else 1
        key = item.sender, item.topic
        self._missed[key] = self._missed.get(key, 0) + count

    def _take_missed(self) -> list[MessagesLost]:
        missed, self._missed = self._missed, {}
        return [MessagesLost(sender, topic, count) for (sender, topic), count in missed.items()]

    def _has_note(self) -> bool:
        return bool(self._missed) and (self._incoming is self._queue or not self._queue)

    def _take_note(self) -> M:
        (sender, topic), count = next(iter(self._missed.items()))
        del self._missed[sender, topic]
        return cast("M", MessagesLost(sender, topic, count))

    def _take_all(self) -> list[M]:
        items = cast("list[M]", self._take_missed()) if self._has_note() else []
        items.extend(self._queue)
        self._queue.clear()
        return items


class InboxStream(MessageStream[Message]):
    """The messages to us alone, on their way to whoever reads them."""

    def __init__(self, prefix: bytes, mailbox: Mailbox[Message]) -> None:
        super().__init__(prefix, capacity=1)
        self._mailbox = mailbox

    def _settle(self) -> int:
        messages = list(self._queue)
        self._queue.clear()
        return self._mailbox.push(messages)


class Batches(Generic[M]):
    """Lists of what waited in a stream."""

    def __init__(self, stream: MessageStream[M]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[M]:
        """Wait for something, and take all that is there.

        Cancellation: safe; no message is lost.
        """
        await self._stream._ready()
        return self._stream._take_all()


@define(eq=False)
class _Route:
    """Where the frames with one raw prefix go."""

    topic: str
    sender: PeerInfo
    counts: Counts
    count: Count
    streams: tuple[MessageStream[Received], ...]
    append: Callable[[Message], None]
    """Puts a message into all of these."""
    batch: int = 0
    """The batch in which they were last noted to be settled."""


@define(eq=False)
class Subscriptions:
    """The streams of all subscriptions and the ways to them.

    Args:
        sender: Says whose frames name an id and session; ``None`` if nobody in the roster.
        control: Called with each control frame.
        dropped: Called with the reason of what goes nowhere, a detail, and how many.
        tell: Called with each loss that concerns a stream.
        clock: The time of the event loop.
    """

    _sender: Callable[[bytes], tuple[PeerInfo, Counts] | None]
    _control: Callable[[ControlFrame], None]
    _dropped: Callable[[Drop, str, int], None]
    _tell: Callable[[MessagesLost], None]
    _clock: Callable[[], float]
    _streams: Prefixes[MessageStream[Received]] = field(factory=Prefixes)
    _routes: dict[bytes, _Route] = field(factory=dict)
    _touched: dict[MessageStream[Received], None] = field(factory=dict)
    """Streams to settle at the end of the batch."""
    _batch: int = 0
    _more: int = 0
    """How many messages more than frames the batch has."""
    _now: float = 0.0
    """When it came."""

    def __iter__(self) -> Iterator[MessageStream[Received]]:
        return iter(self._streams.values)

    def add(self, stream: MessageStream[Received], interest: Interest) -> None:
        """Register a stream."""
        stream._interest = interest
        self._streams.add(interest.prefix, stream)
        self._routes.clear()

    def remove(self, stream: MessageStream[Received]) -> Interest:
        """Forget a stream; returns its subscription."""
        interest, stream._interest = stream._interest, None
        assert interest is not None, "it was registered"
        self._streams.remove(interest.prefix, stream)
        self._routes.clear()
        return interest

    def forget_routes(self) -> None:
        """The roster has changed."""
        self._routes.clear()

    def deliver(self, frames: Sequence[bytes], most: int = sys.maxsize) -> tuple[int, int]:
        """Hand frames to the streams that want them, and control frames to ``control``.

        Args:
            frames: As they arrived.
            most: Messages after which no more packs are taken, and what follows them.

        Returns:
            How many frames were taken, and how many messages they held, whoever wanted them. A
            control frame counts as one message.
        """
        self._batch = batch = self._batch + 1
        self._more, self._now = 0, self._clock()
        left = iter(frames)
        numbers, find = NUMBER.unpack_from, self._routes.get
        last, at, body = _NO_PREFIX, 0, 0
        route: _Route | None = None
        for frame in left:
            if not frame.startswith(last):
                at = frame.find(b"\0") + 1 + PREFIX_SIZE
                body = at + NUMBER.size
                last = frame[:at]
                route = find(last)
                if route is not None:
                    sender, topic, count, append = route.sender, route.topic, route.count, route.append
                    if route.batch != batch:
                        self._touch(route)
            if route is None or len(frame) < body:
                # What is cut off behind the prefix has neither kind nor number; it is no frame of ours.
                route, last = None, _NO_PREFIX
                self._deliver_first(frame)
                continue
            kind, sequence = numbers(frame, at)
            if kind:
                self._deliver_other(route, kind, sequence, frame, body)
                if len(frames) - length_hint(left) + self._more >= most:
                    break
                continue
            if sequence != count.last + 1:
                self._jumped(route, sequence)
            count.last = sequence
            append(Message(sender, topic, frame[body:]))
        self._settle()
        taken = len(frames) - length_hint(left)
        return taken, taken + self._more

    def _touch(self, route: _Route) -> None:
        """Something for these streams comes in this batch."""
        route.batch = self._batch
        route.counts.heard_at = self._now
        for stream in route.streams:
            self._touched[stream] = None

    def _settle(self) -> None:
        touched = list(self._touched)
        self._touched.clear()
        for stream in touched:
            if dropped := stream._settle():
                self._dropped(Drop.STREAM_FULL, f"{dropped} messages", dropped)

    def _deliver_first(self, frame: bytes) -> None:
        """A control frame, a foreign one, or the first with its prefix."""
        try:
            parts = split(frame)
        except MalformedMessage as error:
            self._dropped(Drop.MALFORMED_CONTROL, error.reason, 1)
            return
        match parts:
            case ControlFrame():
                self._control(parts)
            case ForeignFrame():
                self._deliver_foreign(parts)
            case DataFrame():
                # A TAIL comes after the message of its number.
                first = parts.sequence + (parts.kind is Kind.TAIL)
                if (route := self._find(frame, parts, first)) is not None:
                    self._deliver_data(route, frame, parts)

    def _deliver_data(self, route: _Route, frame: bytes, parts: DataFrame) -> None:
        if parts.kind is not Kind.DATA:
            self._deliver_other(route, parts.kind, parts.sequence, frame, len(frame) - len(parts.payload))
        else:
            self._hand_over(route, parts.sequence, [parts.payload])

    def _deliver_other(self, route: _Route, kind: int, sequence: int, frame: bytes, body: int) -> None:
        if kind == _PACK:
            try:
                payloads = unpack(frame, body)
            except MalformedMessage as error:
                self._dropped(Drop.MALFORMED_CONTROL, error.reason, 1)
                return
            self._more += len(payloads) - 1
            self._hand_over(route, sequence, payloads)
        elif kind != _TAIL:
            self._dropped(Drop.MALFORMED_CONTROL, f"data frame of kind {kind}", 1)
        elif lost := route.count.close(sequence):
            self._tell_loss(route.sender, route.topic, lost, route.streams, route.counts.confirmed)

    def _hand_over(self, route: _Route, first: int, payloads: Sequence[bytes]) -> None:
        """Messages with numbers in a row, beginning with this one."""
        if first != route.count.last + 1:
            self._jumped(route, first)
        route.count.last = first + len(payloads) - 1
        messages = list(map(Message, repeat(route.sender), repeat(route.topic), payloads))
        for stream in route.streams:
            stream._incoming.extend(messages)
            self._touched[stream] = None

    def _find(self, frame: bytes, parts: DataFrame, first: int) -> _Route | None:
        prefix = frame[: len(parts.topic) + 1 + PREFIX_SIZE]
        if (route := self._routes.get(prefix)) is not None:
            return route
        found = self._sender(parts.sender + parts.session)
        if found is None:
            self._dropped(Drop.UNKNOWN_SENDER, parts.sender.hex(), 1)
            return None
        sender, counts = found
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
        topic, streams = self._matching(parts.topic)
        # What nobody wants is still on its way after an unsubscription, and is not counted.
        evicted = counts.evicted
        count = counts.count(prefix, parts.topic) if streams else Count(parts.topic, UNKNOWN)
        if counts.evicted > evicted:
            self._dropped(Drop.FORGOTTEN, "a topic", counts.evicted - evicted)
        for stream in streams:
            # A new subscription has cleared the routes, so its first message comes by here.
            if not stream._is_in_force(counts.confirmed):
                stream._first.setdefault(count, first)
        route = self._routes[prefix] = _Route(topic, sender, counts, count, streams, _appending(streams))
        return route

    def _matching(self, raw: bytes) -> tuple[str, tuple[MessageStream[Received], ...]]:
        """The topic as text, and the streams that want it."""
        topic = "" if raw[:1] == DIRECT else _text(raw[1:] if raw[:1] == GROUP else raw)
        streams = self._streams.matching(raw + b"\0")
        return topic, tuple(stream for stream in streams if stream._wants(raw, topic))

    def _deliver_foreign(self, frame: ForeignFrame) -> None:
        topic = _text(frame.topic)
        message = Message(None, topic, frame.payload)
        for stream in self._streams.matching(frame.payload):
            # What has no header of ours is no message of a group or to one peer, whatever it begins with.
            if not is_private(stream._prefix) and stream._wants(b"", topic):
                stream._incoming.append(message)
                self._touched[stream] = None

    # Losses

    def _jumped(self, route: _Route, sequence: int) -> None:
        """The number of a message does not follow the one before."""
        if lost := route.count.jump(sequence):
            self._tell_loss(route.sender, route.topic, lost, route.streams, route.counts.confirmed)
        elif route.count.last != UNKNOWN:
            self._dropped(Drop.STALE_NUMBER, route.topic, 1)

    def lost(self, sender: PeerInfo, loss: Loss) -> None:
        """The list of a confirmation tells of messages that did not arrive."""
        topic, streams = self._matching(loss.topic)
        self._tell_loss(sender, topic, loss.count, streams, loss.confirmed)

    def _tell_loss(
        self, sender: PeerInfo, topic: str, count: int, streams: Sequence[MessageStream[Received]], confirmed: int
    ) -> None:
        concerned = [stream for stream in streams if stream._is_in_force(confirmed)]
        if not concerned:
            return
        loss = MessagesLost(sender, topic, count)
        for stream in concerned:
            stream._lose(loss)
            self._touched[stream] = None
        self._tell(loss)

    # Last values

    def retained(self, frame: bytes) -> None:
        """A publisher sends the last value of a topic to whom it may concern, before it confirms a subscription.

        Who was not subscribed before gets it, unless it came as a message meanwhile. To who misses
        it, it is that message.
        """
        parts = split(frame)
        assert isinstance(parts, DataFrame), "the core has looked at it"
        route = self._find(frame, parts, parts.sequence + 1)
        if route is None or not route.streams:
            return
        count, sequence = route.count, parts.sequence
        if count.last != UNKNOWN and sequence > count.last:
            self._hand_over(route, sequence, [parts.payload])
            for stream in route.streams:
                stream._given[count] = sequence
            return
        waiting = [
            stream
            for stream in route.streams
            if not stream._is_in_force(route.counts.confirmed)
            and not stream._first.get(count, sequence + 1) <= sequence <= count.received
            and stream._given.get(count, 0) < sequence
        ]
        for stream in waiting:
            stream._given[count] = sequence
            stream._incoming.append(Message(route.sender, route.topic, parts.payload))
            self._touched[stream] = None


def _appending(streams: Sequence[MessageStream[Received]]) -> Callable[[Message], None]:
    appends = [stream._incoming.append for stream in streams]
    if len(appends) == 1:
        return appends[0]

    def append(message: Message) -> None:
        for one in appends:
            one(message)

    return append


def _text(topic: bytes) -> str:
    # A classic program may publish any bytes; nothing of them is lost this way.
    return topic.decode(errors="surrogateescape")
