"""Data-channel messages <-> frames.

Rule 1: a message is one frame, or shares one, a pack, with others that were published with it. What
repeats stands first, so that one look-up on the raw prefix finds all that is known of the stream::

    data frame:     topic, NUL, header, payload        topic: UTF-8 without NUL
    pack:           topic, NUL, header, count (2), size of each payload (2), payloads
    control frame:  FE, header, body                   to all
                    FF, id (16), header, body          to one peer: its inbox
    group frame:    FD, name, NUL, header, payload     a data frame whose topic is a group's
    direct frame:   FC, id (hex), NUL, header, payload a data frame for one peer

    header, 35 bytes, big-endian:
    offset  size  field
    0       2     DA 01
    2       16    id of the sender
    18      4     session of the sender
    22      4     stream number, 0 in a control frame
    26      1     kind
    27      8     sequence number, in a pack that of its first message, 0 in a control frame

Rule 2: FC to FF never begin UTF-8, so the first byte tells a frame for a group or for one peer, and a control
frame, from those of a topic. A control frame has no NUL before its header and is never searched
for one: one random UUID in 19 holds a zero byte.

Rule 3: what has no header of ours is a foreign frame, which is no error: a classic program may
publish anything. Any bytes end in a frame or in `MalformedMessage`.

Rule 4: a body may be longer than we know; a later version put something there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from struct import Struct, pack, unpack_from
from typing import TypeAlias
from uuid import UUID

from attrs import define, frozen

from .errors import MalformedMessage
from .model import PeerId
from .wire import MAX_INCARNATION

MAGIC = b"\xda\x01"
HEADER = Struct(">2s16s4sIBQ")
"""Magic, sender, session, stream number, kind, sequence number."""
PREFIX_SIZE = 26
"""How much of the header is the same in all frames of one stream."""
NUMBER = Struct(">BQ")
"""The rest of the header: kind, sequence number."""

ALL = b"\xfe"
"""The control topic that every peer subscribes to."""
GROUP = b"\xfd"
"""The first byte of the topic of a group; the name follows."""
DIRECT = b"\xfc"
"""The first byte of the topic of messages to one peer; its id follows, in hexadecimal digits."""
PACK_LIMIT = 256
"""Messages in a pack."""
TOPIC_LIMIT = 1024
"""Bytes of an ordinary topic. libzmq keeps subscriptions in a tree with a level for each byte,
which it takes down by recursion: 200,000 levels end the process."""

_INBOX = b"\xff"
_INBOX_SIZE = 17
_MARKER = Struct(">c16s4sI")
_LENGTH = Struct(">H")
MARKER_LIMIT = 256
"""Bytes that the names of prefixes may take in a marker, since every publisher keeps the topic."""
NUMBERS_LIMIT = 32_768
"""Bytes of the entries in one `Kind.NUMBERS` frame, about."""


class Kind(IntEnum):
    """What a frame is for."""

    DATA = 0
    """A message of the application."""
    TAIL = 1
    """The last sequence number of a topic that rests."""
    LINK = 2
    """The link handshake, to an inbox."""
    CONFIRM = 3
    """"Your marker is in force here", to an inbox."""
    FAREWELL = 4
    """"I am leaving", to all."""
    NUMBERS = 5
    """A piece of what belongs to a `CONFIRM`, the numbers of topics, to an inbox."""
    RETAINED = 6
    """Another such piece, the last value of a topic, to an inbox."""
    ANNOUNCE = 7
    """An announce that has changed since the first, to all or to an inbox."""
    PACK = 8
    """Several messages of the application, with numbers in a row."""
    REQUEST = 9
    """A request, to an inbox."""
    REPLY = 10
    """The answer to a request, to an inbox."""
    BEAT = 11
    """"I run", to the inbox of the next peer, or to all; without a body."""
    PING = 12
    """"Do you run?", or "does that one?", to an inbox."""
    PONG = 13
    """What came of a ping, to an inbox."""
    SUSPECT = 14
    """"I hear nothing of that one", to all."""


_KINDS = tuple(Kind)
# The others are for control topics: believed on an ordinary topic they would reach
# whoever happens to subscribe to it.
_DATA_KINDS = {int(kind): kind for kind in (Kind.DATA, Kind.TAIL, Kind.PACK)}


# Not frozen, because one is made for each message, and a frozen object takes three times as long.
@define
class DataFrame:
    """A frame of the application, numbered by its publisher."""

    topic: bytes
    """Without the NUL; whether it is UTF-8 is not checked."""
    sender: bytes
    """16 bytes of the peer id."""
    session: bytes
    stream: int
    kind: Kind
    """`Kind.DATA`, `Kind.TAIL` or `Kind.PACK`."""
    sequence: int
    payload: bytes
    """All behind the header; see `unpack` for that of a pack."""


@define
class ControlFrame:
    """A frame on a control topic."""

    inbox: bytes | None
    """16 bytes of the id of the peer that it is for; `None`: for all."""
    sender: bytes
    """16 bytes of the peer id."""
    session: bytes
    kind: Kind
    body: bytes


@define
class ForeignFrame:
    """A frame without our header."""

    topic: bytes
    """All up to the first NUL; the whole frame if there is none."""
    payload: bytes
    """The whole frame."""


Frame: TypeAlias = DataFrame | ControlFrame | ForeignFrame


def check_topic(topic: str) -> bytes:
    """The bytes of an ordinary topic; the empty one is allowed.

    Raises:
        TypeError: If it is not text.
        ValueError: If it holds a NUL, which ends a topic in a frame, cannot be UTF-8, or is too long.
    """
    return _check_text("topic", topic)


def check_name(what: str, name: str) -> bytes:
    """The bytes of the name of a group or a service, which is checked like a topic and not empty.

    Args:
        what: What it names, for the text of the error.
        name: The name.

    Raises:
        TypeError: If it is not text.
        ValueError: If it is empty, or could be no topic.
    """
    raw = _check_text(what, name)
    if not raw:
        raise ValueError(f"the name of a {what} is not empty")
    return raw


def group_topic(name: str) -> bytes:
    """The topic of a group; raises like `check_name`."""
    return GROUP + check_name("group", name)


def direct_topic(id: PeerId) -> bytes:
    """The topic of messages to one peer."""
    return DIRECT + id.hex.encode()


def is_private(topic: bytes) -> bool:
    """Whether a topic, or what begins with it, is for a group or for one peer: no subscription to topics gets it."""
    return topic[:1] in (DIRECT, GROUP)


def _check_text(what: str, text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"a {what} is text, not {type(text).__name__}: {text!r}")
    if "\0" in text:
        raise ValueError(f"{what} {text!r} holds a NUL")
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} {text!r} holds a surrogate: it is not UTF-8") from error
    if len(raw) > TOPIC_LIMIT:
        raise ValueError(f"a {what} has at most {TOPIC_LIMIT} bytes of UTF-8, not {len(raw)}: {text[:20]!r}...")
    return raw


def data_prefix(topic: bytes, sender: PeerId, session: bytes, stream: int) -> bytes:
    """What all data frames of one stream begin with; made once, see `data_frame`."""
    return topic + b"\0" + HEADER.pack(MAGIC, sender.bytes, session, stream, 0, 0)[:PREFIX_SIZE]


def data_frame(prefix: bytes, kind: Kind, sequence: int, payload: bytes) -> bytes:
    """One data frame of the stream with this prefix."""
    return prefix + NUMBER.pack(kind, sequence) + payload


def pack_frame(prefix: bytes, first: int, payloads: Sequence[bytes]) -> bytes:
    """One frame with several messages of a stream, the first of which has this number.

    There are no more than `PACK_LIMIT` of them, each of no more than 65,535 bytes.
    """
    count = len(payloads)
    sizes = pack(f">H{count}H", count, *map(len, payloads))
    return b"".join((prefix, NUMBER.pack(Kind.PACK, first), sizes, *payloads))


def unpack(frame: bytes, at: int) -> Sequence[bytes]:
    """The payloads of a pack, whose header ends at ``at``; there is at least one.

    Raises:
        MalformedMessage: If there is none, or too many, or they do not fill the frame.
    """
    count = int.from_bytes(frame[at : at + _LENGTH.size])
    start = at + (1 + count) * _LENGTH.size
    if not 1 <= count <= PACK_LIMIT or start > len(frame):
        raise MalformedMessage(f"a pack of {count} messages, or cut off", len(frame))
    sizes: tuple[int, ...] = unpack_from(f">{count}H", frame, at + _LENGTH.size)
    if start + sum(sizes) != len(frame):
        raise MalformedMessage("the messages of a pack do not fill it", len(frame))
    if sizes.count(sizes[0]) == count:
        return _equal_parts(count, sizes[0]).unpack_from(frame, start)
    payloads: list[bytes] = []
    for size in sizes:
        payloads.append(frame[start : start + size])
        start += size
    return payloads


@lru_cache
def _equal_parts(count: int, size: int) -> Struct:
    """What takes so many parts of one size apart, in half the time."""
    return Struct(f"{size}s" * count)


def control_frame(topic: bytes, kind: Kind, sender: PeerId, session: bytes, body: bytes) -> bytes:
    """One control frame; ``topic`` is `ALL` or an `inbox`."""
    assert topic == ALL or (topic[:1] == _INBOX and len(topic) == _INBOX_SIZE), topic
    return topic + HEADER.pack(MAGIC, sender.bytes, session, 0, kind, 0) + body


def is_control(frame: bytes) -> bool:
    """Whether a frame of the data channel, whatever it is, is on a control topic."""
    return frame[:1] >= ALL


def split(frame: bytes) -> Frame:
    """Read one frame of the data channel.

    Raises:
        MalformedMessage: For a control frame that is cut off or without our header, and for a
            kind that we do not know or that does not belong there.
    """
    if is_control(frame):
        return _split_control(frame)
    end = frame.find(b"\0")
    if end < 0:
        return ForeignFrame(frame, frame)
    start = end + 1
    if not frame.startswith(MAGIC, start) or len(frame) < start + HEADER.size:
        return ForeignFrame(frame[:end], frame)
    _, sender, session, stream, kind, sequence = HEADER.unpack_from(frame, start)
    if kind not in _DATA_KINDS:
        raise MalformedMessage(f"data frame of kind {kind}", len(frame))
    payload = frame[start + HEADER.size :]
    return DataFrame(frame[:end], sender, session, stream, _DATA_KINDS[kind], sequence, payload)


def _split_control(frame: bytes) -> ControlFrame:
    start = _INBOX_SIZE if frame[:1] == _INBOX else len(ALL)
    if len(frame) < start + HEADER.size:
        raise MalformedMessage("control frame is cut off", len(frame))
    magic, sender, session, _, kind, _ = HEADER.unpack_from(frame, start)
    if magic != MAGIC:
        raise MalformedMessage("control frame without our header", len(frame))
    if kind >= len(_KINDS):
        raise MalformedMessage(f"control frame of kind {kind}", len(frame))
    return ControlFrame(frame[1:start] or None, sender, session, _KINDS[kind], frame[start + HEADER.size :])


@frozen
class Inbox:
    """Somebody subscribed to the inbox of a peer."""

    id: PeerId


class Scope(IntEnum):
    """What the prefixes that a marker names are to its sender."""

    COMPLETE = 0
    """All that it is subscribed to."""
    NEW = 1
    """What it has subscribed to since the marker before."""
    UNNAMED = 2
    """There are too many to name."""


@frozen
class Marker:
    """Somebody subscribed to a marker: all that it subscribed before is in force here."""

    id: PeerId
    session: bytes
    counter: int
    scope: Scope = Scope.COMPLETE
    prefixes: tuple[bytes, ...] = ()


def inbox(id: PeerId) -> bytes:
    """The control topic of one peer, 17 bytes."""
    return _INBOX + id.bytes


def inbox_owner(topic: bytes) -> bytes | None:
    """The 16 bytes of the id whose inbox a topic is; `None` if it is none."""
    return topic[1:] if len(topic) == _INBOX_SIZE and topic[:1] == _INBOX else None


def marker(id: PeerId, session: bytes, counter: int, scope: Scope = Scope.COMPLETE, *prefixes: bytes) -> bytes:
    """The topic that a peer subscribes to last.

    25 bytes that name it; then, unless the peer is subscribed to nothing, the scope (1 byte) and
    the prefixes that it names, each behind its length (2 bytes).

    The session is part of it, or a restarted process with the same id would seem to have
    subscribed already: the markers of its predecessor may still be there.
    """
    name = _MARKER.pack(_INBOX, id.bytes, session, counter)
    if scope is Scope.COMPLETE and not prefixes:
        return name
    return name + bytes([scope]) + b"".join(_LENGTH.pack(len(prefix)) + prefix for prefix in prefixes)


def parse_subscription(topic: bytes) -> Inbox | Marker | None:
    """What a subscription that our XPUB has seen says about a peer; `None`: nothing.

    Raises:
        MalformedMessage: If it begins like an inbox but is neither an inbox nor a marker.
    """
    if topic[:1] != _INBOX:
        return None
    if len(topic) == _INBOX_SIZE:
        return Inbox(UUID(bytes=topic[1:]))
    if len(topic) < _MARKER.size:
        raise MalformedMessage("neither an inbox nor a marker", len(topic))
    _, peer_id, session, counter = _MARKER.unpack_from(topic)
    scope, prefixes = _parse_scope(topic[_MARKER.size :])
    return Marker(UUID(bytes=peer_id), session, counter, scope, prefixes)


def _parse_scope(named: bytes) -> tuple[Scope, tuple[bytes, ...]]:
    if not named:
        return Scope.COMPLETE, ()
    prefixes: list[bytes] = []
    at = 1
    while at < len(named):
        start = at + _LENGTH.size
        size = int.from_bytes(named[at:start])
        at = start + size
        if at > len(named):
            raise MalformedMessage("a prefix in a marker is cut off", len(named))
        prefixes.append(named[start:at])
    try:
        return Scope(named[0]), tuple(prefixes)
    except ValueError:
        raise MalformedMessage(f"marker of scope {named[0]}", len(named)) from None


_LINK = Struct(">BIHH")
_CONFIRM = Struct(">IIII")
_PIECE = Struct(">I")
_ENTRY = Struct(">IQ")
_FAREWELL = Struct(">Q")
_REQUEST = Struct(">QH")
_REPLY = Struct(">QB")
_PING = Struct(">IB")
_PONG = Struct(">IB")
_LIFE = Struct(">16s4s")
_ANSWER_ME = 0x01
_STRANGER = 0x02


@frozen
class LinkBody:
    """What a `Kind.LINK` frame says.

    Encoded as flags (1 byte: 1 answer me, 2 stranger, others ignored), marker (4), epoch (2)
    and echo (2).
    """

    marker: int
    """The counter of the sender's latest marker."""
    epoch: int
    """Number of the sender's connection to the receiver, modulo 65536."""
    echo: int
    """The last epoch that the sender has seen of the receiver, modulo 65536."""
    answer_me: bool = False
    """The sender has not had our `LINK` on this connection."""
    stranger: bool = False
    """The sender has not had our announce."""

    def encode(self) -> bytes:
        """The body of the frame."""
        flags = (_ANSWER_ME if self.answer_me else 0) | (_STRANGER if self.stranger else 0)
        return _LINK.pack(flags, self.marker, self.epoch, self.echo)

    @classmethod
    def decode(cls, body: bytes) -> LinkBody:
        """Read the body of a frame; raises `MalformedMessage`."""
        _check_size(body, _LINK)
        flags, marker, epoch, echo = _LINK.unpack_from(body)
        return cls(marker, epoch, echo, bool(flags & _ANSWER_ME), bool(flags & _STRANGER))


@frozen
class ConfirmBody:
    """What a `Kind.CONFIRM` frame says.

    Encoded as marker (4 bytes), base (4), serial (4) and pieces (4).
    """

    marker: int
    """The counter of the marker that its sender has seen."""
    base: int = 0
    """The pieces cover what was subscribed since the marker with this counter; 0: everything."""
    serial: int = 0
    """Tells this confirmation from all others of its sender."""
    pieces: int = 0
    """How many `Kind.NUMBERS` and `Kind.RETAINED` frames of this serial came before."""

    def encode(self) -> bytes:
        """The body of the frame."""
        return _CONFIRM.pack(self.marker, self.base, self.serial, self.pieces)

    @classmethod
    def decode(cls, body: bytes) -> ConfirmBody:
        """Read the body of a frame; raises `MalformedMessage`."""
        _check_size(body, _CONFIRM)
        return cls(*_CONFIRM.unpack_from(body))


@frozen
class TopicNumber:
    """The number of the latest message of a topic: 0 if there was none."""

    topic: bytes
    """Without the NUL."""
    stream: int
    sequence: int


@frozen
class NumbersBody:
    """What a `Kind.NUMBERS` frame says: the numbers of topics when their sender saw a marker.

    Encoded as serial (4 bytes), then for each topic its length (2), the topic, stream number (4)
    and sequence number (8).
    """

    serial: int
    """That of the confirmation which follows."""
    numbers: tuple[TopicNumber, ...]

    @classmethod
    def split(cls, serial: int, numbers: Iterable[TopicNumber]) -> Iterator[NumbersBody]:
        """As many bodies as it takes."""
        piece: list[TopicNumber] = []
        size = 0
        for number in numbers:
            piece.append(number)
            size += _LENGTH.size + len(number.topic) + _ENTRY.size
            if size >= NUMBERS_LIMIT:
                yield cls(serial, tuple(piece))
                piece, size = [], 0
        if piece:
            yield cls(serial, tuple(piece))

    def encode(self) -> bytes:
        """The body of the frame."""
        return _PIECE.pack(self.serial) + b"".join(
            _LENGTH.pack(len(number.topic)) + number.topic + _ENTRY.pack(number.stream, number.sequence)
            for number in self.numbers
        )

    @classmethod
    def decode(cls, body: bytes) -> NumbersBody:
        """Read the body of a frame; raises `MalformedMessage`."""
        _check_size(body, _PIECE)
        (serial,) = _PIECE.unpack_from(body)
        numbers: list[TopicNumber] = []
        at = _PIECE.size
        while at < len(body):
            start = at + _LENGTH.size
            end = start + int.from_bytes(body[at:start])
            at = end + _ENTRY.size
            if at > len(body):
                raise MalformedMessage("the number of a topic is cut off", len(body))
            numbers.append(TopicNumber(body[start:end], *_ENTRY.unpack_from(body, end)))
        return cls(serial, tuple(numbers))


@frozen
class RetainedBody:
    """What a `Kind.RETAINED` frame says.

    Encoded as serial (4 bytes) and the data frame as it was published.
    """

    serial: int
    """That of the confirmation which follows."""
    frame: bytes

    def encode(self) -> bytes:
        """The body of the frame."""
        return _PIECE.pack(self.serial) + self.frame

    @classmethod
    def decode(cls, body: bytes) -> RetainedBody:
        """Read the body of a frame; raises `MalformedMessage`."""
        _check_size(body, _PIECE)
        (serial,) = _PIECE.unpack_from(body)
        return cls(serial, body[_PIECE.size :])


@frozen
class FarewellBody:
    """What a `Kind.FAREWELL` frame says: the incarnation (8 bytes) that leaves."""

    incarnation: int

    def encode(self) -> bytes:
        """The body of the frame."""
        return _FAREWELL.pack(self.incarnation)

    @classmethod
    def decode(cls, body: bytes) -> FarewellBody:
        """Read the body of a frame; raises `MalformedMessage`."""
        _check_size(body, _FAREWELL)
        (incarnation,) = _FAREWELL.unpack_from(body)
        # The range of an announce: no announce could ever have said more.
        if incarnation > MAX_INCARNATION:
            raise MalformedMessage("incarnation is out of range", len(body))
        return cls(incarnation)


class Question(IntEnum):
    """What a ping asks for."""

    YOU = 0
    """Do you run?"""
    OTHER = 1
    """Does that one run? Ping it for me."""
    TELL = 2
    """Do you run? Tell that one, too, for which I ask."""


_QUESTIONS = tuple(Question)


@frozen
class PingBody:
    """What a `Kind.PING` frame says.

    Encoded as a serial (4 bytes) and a `Question` (1); unless that is 0, the id (16) and session (4)
    of the other peer.
    """

    serial: int
    """Chosen by its sender; stands in the answer."""
    question: Question = Question.YOU
    other: tuple[PeerId, bytes] | None = None
    """The life that the question names."""

    def encode(self) -> bytes:
        """The body of the frame."""
        return _PING.pack(self.serial, self.question) + (b"" if self.other is None else _pack_life(self.other))

    @classmethod
    def decode(cls, body: bytes) -> PingBody:
        """Read the body of a frame; raises `MalformedMessage`."""
        _check_size(body, _PING)
        serial, question = _PING.unpack_from(body)
        if question == Question.YOU:
            return cls(serial)
        if question >= len(_QUESTIONS):
            raise MalformedMessage(f"ping with question {question}", len(body))
        return cls(serial, _QUESTIONS[question], _unpack_life(body[_PING.size :]))


@frozen
class PongBody:
    """What a `Kind.PONG` frame says: the serial of the ping (4 bytes), and a byte that is 1 if nothing was heard."""

    serial: int
    is_silent: bool = False
    """Whether the peer that the ping was about has not answered."""

    def encode(self) -> bytes:
        """The body of the frame."""
        return _PONG.pack(self.serial, self.is_silent)

    @classmethod
    def decode(cls, body: bytes) -> PongBody:
        """Read the body of a frame; raises `MalformedMessage`."""
        _check_size(body, _PONG)
        serial, is_silent = _PONG.unpack_from(body)
        if is_silent > 1:
            raise MalformedMessage(f"pong that says {is_silent}", len(body))
        return cls(serial, bool(is_silent))


@frozen
class SuspectBody:
    """What a `Kind.SUSPECT` frame says: id (16 bytes) and session (4) of a peer."""

    id: PeerId
    session: bytes

    def encode(self) -> bytes:
        """The body of the frame."""
        return _pack_life((self.id, self.session))

    @classmethod
    def decode(cls, body: bytes) -> SuspectBody:
        """Read the body of a frame; raises `MalformedMessage`."""
        return cls(*_unpack_life(body))


def _pack_life(life: tuple[PeerId, bytes]) -> bytes:
    return _LIFE.pack(life[0].bytes, life[1])


def _unpack_life(body: bytes) -> tuple[PeerId, bytes]:
    _check_size(body, _LIFE)
    id, session = _LIFE.unpack_from(body)
    return UUID(bytes=id), session


# Not frozen, for the reason given at `DataFrame`.
@define
class RequestBody:
    """What a `Kind.REQUEST` frame says: number (8 bytes), length of the service (2), the service, the payload."""

    number: int
    """Chosen by the requester; no two of one life are the same."""
    service: str
    """Empty for a request to the peer itself."""
    payload: bytes

    def encode(self) -> bytes:
        """The body of the frame."""
        service = self.service.encode()
        return _REQUEST.pack(self.number, len(service)) + service + self.payload

    @classmethod
    def decode(cls, body: bytes) -> RequestBody:
        """Read the body of a frame; raises `MalformedMessage`."""
        _check_size(body, _REQUEST)
        number, length = _REQUEST.unpack_from(body)
        end = _REQUEST.size + length
        if len(body) < end:
            raise MalformedMessage("the service of a request is cut off", len(body))
        try:
            return cls(number, body[_REQUEST.size : end].decode(), body[end:])
        except UnicodeDecodeError as error:
            raise MalformedMessage("the service of a request is no text", len(body)) from error


class Status(IntEnum):
    """What came of a request."""

    DONE = 0
    """The payload is the answer."""
    FAILED = 1
    """The payload is the reason, as text."""
    NOT_SERVED = 2
    """Nobody serves that here; there is no payload."""


_STATUSES = tuple(Status)


@define
class ReplyBody:
    """What a `Kind.REPLY` frame says: the number of the request (8 bytes), status (1), the payload."""

    number: int
    status: Status
    payload: bytes

    def encode(self) -> bytes:
        """The body of the frame."""
        return _REPLY.pack(self.number, self.status) + self.payload

    @classmethod
    def decode(cls, body: bytes) -> ReplyBody:
        """Read the body of a frame; raises `MalformedMessage`."""
        _check_size(body, _REPLY)
        number, status = _REPLY.unpack_from(body)
        if status >= len(_STATUSES):
            raise MalformedMessage(f"reply of status {status}", len(body))
        return cls(number, _STATUSES[status], body[_REPLY.size :])


def _check_size(body: bytes, layout: Struct) -> None:
    if len(body) < layout.size:
        raise MalformedMessage(f"body is shorter than {layout.size} bytes", len(body))
