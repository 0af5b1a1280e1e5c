"""Discovery messages <-> bytes; the only place that knows the bytes of the proxy channel.

Rule 1: a message is one frame. Its first 295 bytes are the classic message, in which classic
programs find all that they want; they cut off what follows::

    offset  size  field
    0       1     command: W welcome, C announce, D farewell
    1       37    id: the 36 characters of a lower-case UUID, NUL
    38      257   endpoint: UTF-8, NUL; the bytes after the NUL are not defined
    295     any   extension, absent in a classic message

    extension: "ZD", version (1), flags, length (4 bytes, big-endian), so many bytes of JSON

Rule 2: `decode` takes any bytes and ends in a value or in `MalformedMessage`. What comes out is
checked: nobody downstream looks at types, ranges or encodings again. Whether the endpoint of a peer can
be *used* is another question, see ``endpoints.py``.

Rule 3: `encode` refuses what `decode` would refuse, so ``decode(encode(m)) == m``. Equal
messages give equal bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import NoReturn, TypeAlias
from uuid import UUID

from attrs import evolve, frozen

from .errors import AnnounceTooLarge, InvalidEndpoint, MalformedMessage
from .model import NO_SESSION, Endpoint, PeerId, PeerInfo
from .model import peer_id as known_id
from .names import announced, check_registered

WELCOME = b"W"
ANNOUNCE = b"C"
FAREWELL = b"D"
"""The first byte of a message, which is also the topic to subscribe to."""

CLASSIC_SIZE = 295
ENDPOINT_LIMIT = 256
"""Bytes of UTF-8 in an endpoint: the field has 257, one is the NUL."""
EXTENSION_LIMIT = 65536
"""Bytes of JSON in an extension."""
MAX_INCARNATION = MAX_REVISION = 2**63 - 1

_CLASSIC = Struct(">c37s257s")
_EXTENSION = Struct(">2sBBI")
_MAGIC = b"ZD"
_VERSION = 1
_AGAIN = 0x01
_INFORMED = 0x02

_CACHED, _SHORT = 64, 1024
"""Messages that are remembered as they were decoded, and how many bytes they may have."""
_PID_LIMIT = 2**32
_SESSION = re.compile(r"[0-9A-Fa-f]{8}")


@frozen
class Welcome:
    """What a proxy sends to each new subscriber."""

    id: PeerId
    """The proxy's own, new with each start."""
    endpoint: Endpoint
    """Where to publish to."""
    capabilities: frozenset[str] = frozenset()


@frozen
class Announce:
    """ "I am here, at this endpoint"."""

    info: PeerInfo
    session: bytes = NO_SESSION
    """4 random bytes chosen at start; `NO_SESSION` for a classic peer."""
    capabilities: frozenset[str] = frozenset()
    key: str = ""
    """Public key of the peer, empty where the data channel is not encrypted."""
    again: bool = False
    """A directory must forward this one although nothing changed."""
    informed_by: frozenset[UUID] = frozenset()
    """The proxies whose directories told us the roster: their peers need not answer."""
    gossip: Endpoint = ""
    """Where its gossip node listens; empty: it has none."""
    started: int = 0
    """The first incarnation of this life, which is never raised: of two processes with one id it tells the later."""

    @property
    def is_classic(self) -> bool:
        """Whether a program of the classic protocol sent it."""
        return self.session == NO_SESSION

    @property
    def informed(self) -> bool:
        """Whether the sender has the roster of at least one directory."""
        return bool(self.informed_by)


@frozen
class Farewell:
    """ "I am leaving"."""

    id: PeerId
    endpoint: Endpoint
    incarnation: int = 0
    session: bytes = NO_SESSION

    @property
    def is_classic(self) -> bool:
        """Whether a program of the classic protocol sent it."""
        return self.session == NO_SESSION


DiscoveryMessage: TypeAlias = Welcome | Announce | Farewell


def encode(message: DiscoveryMessage) -> bytes:
    """Make the one frame of a message.

    A message that says nothing beyond the classic fields becomes a classic one of 295 bytes.

    Raises:
        InvalidEndpoint: If the endpoint is empty, not printable, or longer than 256 bytes.
        AnnounceTooLarge: If the extension is longer than `EXTENSION_LIMIT`.
        ValueError: If another field holds what no peer would accept.
    """
    command, peer_id, endpoint, flags = _classic_fields(message)
    classic = _CLASSIC.pack(command, str(peer_id).encode(), _encode_endpoint(endpoint))
    fields = {key: value for key, value in _extension_fields(message).items() if value}
    if not flags and not fields:
        return classic
    # The reader's own checks, or every peer would drop what we send and we would never know.
    _build(command, peer_id, endpoint, flags, _Fields(fields))
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    if len(body) > EXTENSION_LIMIT:
        raise AnnounceTooLarge(len(body), EXTENSION_LIMIT)
    return classic + _EXTENSION.pack(_MAGIC, _VERSION, flags, len(body)) + body


def decode(frame: bytes) -> DiscoveryMessage:
    """Read one frame of the proxy channel.

    Raises:
        MalformedMessage: For all that is not a message of the protocol.
    """
    try:
        return _decode_again(frame) if len(frame) <= _SHORT else _decode(frame)
    # Every check below and the codecs of the standard library speak ValueError (Unicode, JSON,
    # integers of too many digits), and JSON nested too deeply is a RecursionError.
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(str(error), len(frame)) from error


def encode_text(announce: Announce) -> str:
    """An announce as one JSON object, for where bytes may hold no NUL; `Announce.again` is not in it.

    Raises:
        AnnounceTooLarge, InvalidEndpoint, ValueError: As `encode` does.
    """
    frame = encode(evolve(announce, again=False))
    fields = {"id": str(announce.info.id), "endpoint": announce.info.endpoint}
    if len(frame) > CLASSIC_SIZE:
        fields |= json.loads(frame[CLASSIC_SIZE + _EXTENSION.size :])
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def decode_text(text: str) -> Announce:
    """Undo `encode_text`.

    Raises:
        MalformedMessage: For all that is no announce.
    """
    try:
        fields = _object(text)
        known = _Fields(fields)
        peer_id, endpoint = _parse_id(known.text("id")), known.text("endpoint")
        announce = _build(ANNOUNCE, peer_id, endpoint, 0, known)
        encode(announce)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(str(error), len(text)) from error
    assert isinstance(announce, Announce)
    return announce


def _classic_fields(message: DiscoveryMessage) -> tuple[bytes, UUID, str, int]:
    match message:
        case Welcome():
            return WELCOME, message.id, message.endpoint, 0
        case Announce():
            flags = (_AGAIN if message.again else 0) | (_INFORMED if message.informed else 0)
            return ANNOUNCE, message.info.id, message.info.endpoint, flags
        case Farewell():
            return FAREWELL, message.id, message.endpoint, 0


def _extension_fields(message: DiscoveryMessage) -> dict[str, object]:
    match message:
        case Welcome():
            return {"capabilities": sorted(message.capabilities)}
        case Announce(info=info):
            return {
                "name": info.name,
                "headers": dict(sorted(info.headers.items())),
                "groups": sorted(info.groups),
                "services": sorted(info.services),
                "names": {name: list(endpoints) for name, endpoints in sorted(info.names.items())},
                "cluster": info.cluster,
                "incarnation": info.incarnation,
                "revision": info.revision,
                "session": _session_text(message.session),
                "host": info.host,
                "pid": info.pid,
                "key": message.key,
                "capabilities": sorted(message.capabilities),
                "informed_by": sorted(map(str, message.informed_by)),
                "gossip": message.gossip,
                "started": message.started,
            }
        case Farewell():
            return {"incarnation": message.incarnation, "session": _session_text(message.session)}


def _session_text(session: bytes) -> str:
    return "" if session == NO_SESSION else session.hex()


def _encode_endpoint(endpoint: str) -> bytes:
    if not endpoint or not endpoint.isprintable():
        raise InvalidEndpoint(endpoint, "empty or not printable")
    encoded = endpoint.encode()
    # Bytes, not characters: the field must keep room for the NUL.
    if len(encoded) > ENDPOINT_LIMIT:
        raise InvalidEndpoint(endpoint, f"{len(encoded)} bytes, the limit is {ENDPOINT_LIMIT}")
    return encoded


def _decode(frame: bytes) -> DiscoveryMessage:
    if len(frame) < CLASSIC_SIZE:
        raise ValueError(f"shorter than {CLASSIC_SIZE} bytes")
    command, id_field, endpoint_field = _CLASSIC.unpack_from(frame)
    peer_id = _parse_id(_until_nul("id", id_field))
    endpoint = _until_nul("endpoint", endpoint_field)
    if not endpoint or not endpoint.isprintable():
        raise ValueError("endpoint is empty or not printable")
    flags, fields = _decode_extension(frame)
    return _build(command, peer_id, endpoint, flags, _Fields(fields))


@lru_cache(_CACHED)
def _decode_again(frame: bytes) -> DiscoveryMessage:
    # Peers that have nothing new to say repeat themselves, byte for byte.
    return _decode(frame)


def _until_nul(name: str, field: bytes) -> str:
    # The classic programs send whatever their stack held behind the NUL.
    text, nul, _ = field.partition(b"\0")
    if not nul:
        raise ValueError(f"no NUL in {name}")
    return text.decode()


def _parse_id(text: str) -> UUID:
    # UUID() also reads braces, "urn:", upper case and more; an id has one spelling only, as
    # classic programs compare the text.
    if len(text) != 36 or str(parsed := UUID(text)) != text:
        raise ValueError("id is not the text of a lower-case UUID")
    return known_id(parsed.bytes)


def _decode_extension(frame: bytes) -> tuple[int, Mapping[str, object]]:
    if not frame.startswith(_MAGIC, CLASSIC_SIZE):
        return 0, {}
    if len(frame) > CLASSIC_SIZE + 2 and frame[CLASSIC_SIZE + 2] != _VERSION:
        return 0, {}
    start = CLASSIC_SIZE + _EXTENSION.size
    if len(frame) < start:
        raise ValueError("extension header is cut off")
    _, _, flags, length = _EXTENSION.unpack_from(frame, CLASSIC_SIZE)
    if length > EXTENSION_LIMIT:
        raise ValueError(f"extension is longer than {EXTENSION_LIMIT} bytes")
    if len(frame) < start + length:
        raise ValueError("extension is cut off")
    # Text, not bytes, is what json gets: from bytes it would guess UTF-16 and UTF-32 as well.
    return flags, _object(frame[start : start + length].decode())


def _object(text: str) -> Mapping[str, object]:
    fields = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    if not isinstance(fields, dict):
        raise ValueError("extension is not a JSON object")
    return fields


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # RFC 8259 leaves the meaning of a repeated key open: two readers could see two peers.
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("extension repeats a key")
    return fields


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("extension holds NaN or Infinity, which is not JSON")


def _build(command: bytes, peer_id: UUID, endpoint: str, flags: int, fields: _Fields) -> DiscoveryMessage:
    match command:
        case b"W":
            return Welcome(peer_id, endpoint, fields.texts("capabilities"))
        case b"C":
            return Announce(
                _info(peer_id, endpoint, fields),
                session=fields.session(),
                capabilities=fields.texts("capabilities"),
                key=fields.text("key"),
                again=bool(flags & _AGAIN),
                informed_by=fields.ids("informed_by"),
                gossip=fields.text("gossip"),
                started=fields.number("started", MAX_INCARNATION),
            )
        case b"D":
            return Farewell(peer_id, endpoint, fields.number("incarnation", MAX_INCARNATION), fields.session())
        case _:
            raise ValueError("unknown command")


def _info(peer_id: UUID, endpoint: str, fields: _Fields) -> PeerInfo:
    return PeerInfo(
        peer_id,
        endpoint,
        name=fields.text("name"),
        headers=fields.headers(),
        groups=fields.texts("groups"),
        services=fields.texts("services"),
        names=fields.names(),
        cluster=fields.text("cluster"),
        incarnation=fields.number("incarnation", MAX_INCARNATION),
        revision=fields.number("revision", MAX_REVISION),
        host=fields.text("host"),
        pid=fields.number("pid", _PID_LIMIT),
    )


@frozen
class _Fields:
    """The JSON object of an extension, read field by field; an absent field is the empty value.

    Keys that nobody asks for are those of a later version, and stay out of the way.
    """

    found: Mapping[str, object]

    def text(self, key: str) -> str:
        return _text(key, self.found.get(key, ""))

    def texts(self, key: str) -> frozenset[str]:
        value = self.found.get(key, [])
        if not isinstance(value, list):
            raise ValueError(f"{key} is not a list")
        return frozenset([_text(key, item) for item in value])

    def ids(self, key: str) -> frozenset[UUID]:
        return frozenset(map(_parse_id, self.texts(key)))

    def headers(self) -> Mapping[str, str]:
        value = self.found.get("headers", {})
        if not isinstance(value, dict):
            raise ValueError("headers is not an object")
        return {_text("headers", name): _text("headers", item) for name, item in value.items()}

    def names(self) -> Mapping[str, list[Endpoint]]:
        value = self.found.get("names", {})
        if not isinstance(value, dict):
            raise ValueError("names is not an object")
        return {_name(name): _endpoints(endpoints) for name, endpoints in value.items()}

    def number(self, key: str, limit: int) -> int:
        value = self.found.get(key, 0)
        # ``true`` is no number, though bool is an int to Python.
        if type(value) is not int or not 0 <= value <= limit:
            raise ValueError(f"{key} is not an integer from 0 to {limit}")
        return value

    def session(self) -> bytes:
        if "session" not in self.found:
            return NO_SESSION
        text = self.text("session")
        # All zero stands for "none" and would make the sender a classic peer.
        if not _SESSION.fullmatch(text) or int(text, 16) == 0:
            raise ValueError("session is not 8 hexadecimal digits, not all zero")
        return bytes.fromhex(text)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} is not text")
    # JSON can escape half of a surrogate pair; such text could not be written out again.
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{key} holds a surrogate: it is not UTF-8")
    return value


def _name(value: object) -> str:
    name = _text("names", value)
    check_registered(name)
    return name


def _endpoints(value: object) -> list[Endpoint]:
    # Whoever resolves a name hands the endpoint to a socket of his own, so all that libzmq might read in it is out.
    if not isinstance(value, list) or not value:
        raise ValueError("names holds a name without endpoints")
    endpoints = [_text("names", item) for item in value]
    if any(announced(endpoint) != endpoint for endpoint in endpoints):
        raise ValueError("names holds an endpoint that is not as it is announced")
    return endpoints
