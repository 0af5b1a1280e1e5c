"""Gossip messages <-> bytes; the only place that knows the bytes of the gossip network.

Rule 1: a message is one frame, and every frame that we make is one that CZMQ's zgossip takes for
its own. A real node ends when it gets anything else: another id, another version, a second
frame. It overlooks what follows the end of a message, so all that only zdisco knows stands there,
in a HELLO, a PING or a PONG, which say nothing else::

    offset  size  field
    0       2     signature: AA A0
    2       1     1 HELLO, 2 PUBLISH, 3 PING, 4 PONG, 5 INVALID
    3       1     version: 1
    PUBLISH only:
    4       1+n   key: length, bytes
            4+n   value: length (big-endian), bytes
            4     time to live (big-endian), milliseconds
    then, not in PUBLISH and INVALID, at will:
            2     "ZD"
            1     version: 1
            1     what it is: `Greeting` 1, `Tuples` 2, `Sums` 3, `Summary` 4, `Wants` 5
            any   its fields, see below

Rule 2: `decode` takes any bytes and ends in a value or in `MalformedMessage`. What it overlooks
is what a real node overlooks: bytes after the end, a trailer of a later version among them.

Rule 3: key and value are bytes without NUL. A real node cuts them at the first NUL, and so does
`decode` in a PUBLISH; in a trailer a NUL is malformed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from attrs import frozen

from ..errors import MalformedMessage

_T = TypeVar("_T")

KEY_LIMIT = 255
"""Bytes in a key: its length has one byte."""
VALUE_LIMIT = 1 << 20
"""Bytes in a value; CZMQ was seen to take that many."""
FRAME_LIMIT = VALUE_LIMIT + (1 << 16)
"""Bytes in any frame."""
BATCH_SIZE = 1 << 15
"""Bytes after which tuples go into another frame."""
BUCKETS = 256
"""Parts of a store that are compared with each other."""
FORMER_LIMIT = 4
"""Former values of a key of which others are told."""
COUNTER_LIMIT = 2**63 - 1
LONGEST_LIFE = 2**32 - 1
"""Milliseconds."""

_SIGNATURE = b"\xaa\xa0"
_VERSION = b"\x01"
_HELLO, _PUBLISH, _PING, _PONG, _INVALID = range(1, 6)
_TRAILER = b"ZD\x01"
_HEAD = 4
_LONG = Struct(">I")
_GREETING = Struct(">16sQI")
_VERSION_FIELDS = Struct(">Q16s")
_SUMS = Struct(f">{BUCKETS}Q")
_DIGEST = Struct(">Q")
_DELETED = 0x01
_RENEWED = 0x02
_FORMER = 0x04


@frozen(order=True)
class Version:
    """Which of two values of a key is the later one: the higher counter, then the higher owner."""

    counter: int
    owner: bytes
    """Id of the node that wrote it, or what stands for it in what a real zgossip says; 16 bytes."""


@frozen
class Entry:
    """One key of a store, with its value or the news that it was deleted."""

    key: bytes
    version: Version
    value: bytes | None
    """``None``: deleted."""
    life: int = 0
    """Milliseconds for which it is kept from now on; 0: for ever."""
    former: tuple[int, ...] = ()
    """Values that the key had before, latest first, see `digest_of`: they are no news where a real node tells them."""


@frozen
class Renewal:
    """A later version of a key whose value is the same; who does not have that wants the entry."""

    key: bytes
    version: Version
    digest: int
    """See `digest_of`."""
    life: int = 0
    """As in `Entry`."""


@frozen
class Greeting:
    """Who is at the other end, and what its store adds up to."""

    id: UUID
    sum: int
    """Of all 256 parts."""
    count: int
    """Keys in the store, deleted ones among them."""


@frozen
class Tuples:
    """What the receiver may lack."""

    entries: tuple[Entry | Renewal, ...]


@frozen
class Sums:
    """What each part of the store adds up to; the answer is a `Summary` of those that differ."""

    sums: tuple[int, ...]


@frozen
class Summary:
    """All versions in some parts of a store; the answer is what the sender lacks, and what the receiver wants."""

    buckets: frozenset[int]
    versions: tuple[tuple[bytes, Version], ...]
    first: bytes = b""
    """Of these parts it is about the keys from this one on ..."""
    end: bytes = b""
    """... and before this one, or without end if it is empty."""

    def covers(self, key: bytes) -> bool:
        """Whether a key of one of these parts would be among the versions if the sender had it."""
        return self.first <= key and (not self.end or key < self.end)


@frozen
class Wants:
    """Keys of which the receiver has a later version."""

    keys: tuple[bytes, ...]


Trailer: TypeAlias = Greeting | Tuples | Sums | Summary | Wants


@frozen
class Hello:
    """A client introduces itself, and wants all tuples; with a trailer it wants what it lacks."""

    trailer: Trailer | None = None


@frozen
class Publish:
    """A tuple as real nodes exchange it: of no owner, and of an age that nobody knows."""

    key: bytes
    value: bytes
    ttl: int = 0
    """Milliseconds. It means nothing: a real node stamps what the last message had on all that it sends."""


@frozen
class Ping:
    """A client is there, and wants a PONG; or it carries a trailer to a server of ours."""

    trailer: Trailer | None = None


@frozen
class Pong:
    """A server is there; or it carries a trailer to a client of ours."""

    trailer: Trailer | None = None


@frozen
class Invalid:
    """A server does not know its client: it shall say HELLO again."""


GossipMessage: TypeAlias = Hello | Publish | Ping | Pong | Invalid


def encode(message: GossipMessage) -> bytes:
    """Make the one frame of a message.

    Raises:
        ValueError: If a field holds what a node would not accept.
    """
    try:
        return _encode(message)
    except (OverflowError, StructError) as problem:
        raise ValueError(f"a number is out of its range: {problem}") from problem


def _encode(message: GossipMessage) -> bytes:
    match message:
        case Publish():
            body = _short(message.key) + _long(message.value) + _LONG.pack(message.ttl)
            return _frame(_PUBLISH) + body
        case Hello(trailer):
            return _frame(_HELLO) + _encode_trailer(trailer)
        case Ping(trailer):
            return _frame(_PING) + _encode_trailer(trailer)
        case Pong(trailer):
            return _frame(_PONG) + _encode_trailer(trailer)
        case Invalid():
            return _frame(_INVALID)


def decode(frame: bytes) -> GossipMessage:
    """Read one frame of the gossip network.

    Raises:
        MalformedMessage: For all that would end a real node, and for a trailer of ours that makes no sense.
    """
    try:
        return _decode(frame)
    except ValueError as problem:
        raise MalformedMessage(str(problem), len(frame)) from problem


def batches(entries: Iterable[Entry | Renewal]) -> Iterator[Tuples]:
    """Entries in as few trailers as may be, each of about `BATCH_SIZE`, or of one entry that is larger."""
    yield from map(Tuples, _batches(entries, _size))


def _size(entry: Entry | Renewal) -> int:
    size = len(entry.key) + 38
    return size + len(entry.value or b"") + 8 * len(entry.former) if isinstance(entry, Entry) else size


def digest_of(value: bytes) -> int:
    """What tells a value from another one: 64 bits of BLAKE2b."""
    return int.from_bytes(blake2b(value, digest_size=8).digest())


def want_batches(keys: Iterable[bytes]) -> Iterator[Wants]:
    """Keys in as few trailers as may be."""
    yield from map(Wants, _batches(keys, lambda key: len(key) + 1))


def summaries(parts: Mapping[int, Sequence[tuple[bytes, Version]]]) -> Iterator[Summary]:
    """All versions of some parts, in as few trailers as may be; a part that is too large takes several."""
    covered: list[int] = []
    versions: list[tuple[bytes, Version]] = []
    size = 0
    for bucket, known in parts.items():
        size += (more := sum(map(_size_known, known)))
        if more > BATCH_SIZE:
            yield from _ranges(bucket, sorted(known))
            size -= more
            continue
        if size > BATCH_SIZE:
            yield Summary(frozenset(covered), tuple(versions))
            covered, versions, size = [], [], more
        covered.append(bucket)
        versions += known
    if covered:
        yield Summary(frozenset(covered), tuple(versions))


def _ranges(bucket: int, known: Iterable[tuple[bytes, Version]]) -> Iterator[Summary]:
    batch: tuple[tuple[bytes, Version], ...] = ()
    first = b""
    for following in _batches(known, _size_known):
        if batch:
            yield Summary(frozenset({bucket}), batch, first, following[0][0])
            first = following[0][0]
        batch = following
    yield Summary(frozenset({bucket}), batch, first)


def _size_known(known: tuple[bytes, Version]) -> int:
    return len(known[0]) + 25


def _batches(items: Iterable[_T], size_of: Callable[[_T], int]) -> Iterator[tuple[_T, ...]]:
    batch: list[_T] = []
    size = 0
    for item in items:
        size += size_of(item)
        if batch and size > BATCH_SIZE:
            yield tuple(batch)
            batch, size = [], size_of(item)
        batch.append(item)
    if batch:
        yield tuple(batch)


def _frame(number: int) -> bytes:
    return _SIGNATURE + bytes([number]) + _VERSION


def _short(text: bytes) -> bytes:
    if len(text) > KEY_LIMIT or b"\0" in text:
        raise ValueError(f"a key has at most {KEY_LIMIT} bytes and no NUL")
    return bytes([len(text)]) + text


def _long(text: bytes) -> bytes:
    if len(text) > VALUE_LIMIT or b"\0" in text:
        raise ValueError(f"a value has at most {VALUE_LIMIT} bytes and no NUL")
    return _LONG.pack(len(text)) + text


def _encode_trailer(trailer: Trailer | None) -> bytes:
    if trailer is None:
        return b""
    kind, body = _encode_fields(trailer)
    return _TRAILER + bytes([kind]) + body


def _encode_fields(trailer: Trailer) -> tuple[int, bytes]:
    match trailer:
        case Greeting():
            return 1, _GREETING.pack(trailer.id.bytes, trailer.sum, trailer.count)
        case Tuples(entries):
            return 2, b"".join(map(_encode_entry, entries))
        case Sums(sums):
            return 3, _SUMS.pack(*sums)
        case Summary():
            bits = sum(1 << bucket for bucket in trailer.buckets)
            keys = _short(trailer.first) + _short(trailer.end)
            known = (_short(key) + _encode_version(version) for key, version in trailer.versions)
            return 4, bits.to_bytes(BUCKETS // 8) + keys + b"".join(known)
        case Wants(keys):
            return 5, b"".join(map(_short, keys))


def _encode_entry(entry: Entry | Renewal) -> bytes:
    match entry:
        case Renewal():
            flags, body = _RENEWED, _DIGEST.pack(entry.digest)
        case Entry():
            flags = (_DELETED if entry.value is None else 0) | (_FORMER if entry.former else 0)
            body = _encode_former(entry.former) + (b"" if entry.value is None else _long(entry.value))
    return bytes([flags]) + _short(entry.key) + _encode_version(entry.version) + _LONG.pack(entry.life) + body


def _encode_former(former: tuple[int, ...]) -> bytes:
    if len(former) > FORMER_LIMIT:
        raise ValueError(f"at most {FORMER_LIMIT} former values of a key are told")
    return bytes([len(former)]) + b"".join(map(_DIGEST.pack, former)) if former else b""


def _encode_version(version: Version) -> bytes:
    if not 0 < version.counter <= COUNTER_LIMIT or len(version.owner) != 16:
        raise ValueError("a version has a counter from 1 to 2**63 - 1 and an owner of 16 bytes")
    return _VERSION_FIELDS.pack(version.counter, version.owner)


def _decode(frame: bytes) -> GossipMessage:
    if len(frame) < _HEAD or not frame.startswith(_SIGNATURE) or frame[3:4] != _VERSION:
        raise ValueError("no message of the gossip protocol, version 1")
    match frame[2]:
        case 1:
            return Hello(_decode_trailer(frame))
        case 2:
            reader = _Reader(frame, _HEAD)
            key, value, ttl = reader.short(), reader.long(), reader.number()
            return Publish(_until_nul(key), _until_nul(value), ttl)
        case 3:
            return Ping(_decode_trailer(frame))
        case 4:
            return Pong(_decode_trailer(frame))
        case 5:
            return Invalid()
        case _:
            raise ValueError("unknown message")


def _until_nul(text: bytes) -> bytes:
    return text.partition(b"\0")[0]


def _decode_trailer(frame: bytes) -> Trailer | None:
    if not frame.startswith(_TRAILER, _HEAD):
        return None
    reader = _Reader(frame, _HEAD + len(_TRAILER))
    match reader.byte():
        case 1:
            owner, total, count = reader.fields(_GREETING)
            return Greeting(UUID(bytes=owner), total, count)
        case 2:
            return Tuples(tuple(reader.until_end(reader.entry)))
        case 3:
            return Sums(reader.fields(_SUMS))
        case 4:
            bits = int.from_bytes(reader.take(BUCKETS // 8))
            buckets = frozenset(bucket for bucket in range(BUCKETS) if bits >> bucket & 1)
            first, end = reader.key(), reader.key()
            return Summary(buckets, tuple(reader.until_end(lambda: (reader.key(), reader.version()))), first, end)
        case 5:
            return Wants(tuple(reader.until_end(reader.key)))
        case _:
            raise ValueError("unknown trailer")


class _Reader:
    """Reads fields one after the other; raises ValueError where the frame ends too early."""

    def __init__(self, frame: bytes, at: int) -> None:
        self._frame = frame
        self._at = at

    def take(self, size: int) -> bytes:
        taken = self._frame[self._at : self._at + size]
        if len(taken) < size:
            raise ValueError("cut off")
        self._at += size
        return taken

    def fields(self, layout: Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        return int(self.fields(_LONG)[0])

    def short(self) -> bytes:
        return self.take(self.byte())

    def long(self) -> bytes:
        size = self.number()
        if size > VALUE_LIMIT:
            raise ValueError(f"a value of more than {VALUE_LIMIT} bytes")
        return self.take(size)

    def key(self) -> bytes:
        return _without_nul(self.short())

    def version(self) -> Version:
        counter, owner = self.fields(_VERSION_FIELDS)
        if not 0 < counter <= COUNTER_LIMIT:
            raise ValueError("a counter that is no counter")
        return Version(counter, owner)

    def entry(self) -> Entry | Renewal:
        flags = self.byte()
        key, version, life = self.key(), self.version(), self.number()
        if flags == _RENEWED:
            return Renewal(key, version, self.digest(), life)
        if flags & ~(_DELETED | _FORMER):
            raise ValueError("unknown flags")
        former = self.former() if flags & _FORMER else ()
        return Entry(key, version, None if flags & _DELETED else _without_nul(self.long()), life, former)

    def digest(self) -> int:
        return int(self.fields(_DIGEST)[0])

    def former(self) -> tuple[int, ...]:
        count = self.byte()
        if not 0 < count <= FORMER_LIMIT:
            raise ValueError(f"no former value, or more than {FORMER_LIMIT}")
        return tuple(self.digest() for _ in range(count))

    def until_end(self, read: Callable[[], _T]) -> Iterator[_T]:
        while self._at < len(self._frame):
            yield read()


def _without_nul(text: bytes) -> bytes:
    if b"\0" in text:
        raise ValueError("NUL in a trailer")
    return text
