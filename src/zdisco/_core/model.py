"""The nouns of zdisco: frozen, small, and free of I/O.

Rule: a value of this module that came from the network has been validated by the decoder that
made it; nobody downstream checks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, IntFlag
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TypeAlias
from uuid import UUID

from attrs import asdict, define, field, frozen

PeerId: TypeAlias = UUID
"""Names one peer; chosen at random at start unless given."""


@lru_cache(maxsize=512)
def peer_id(raw: bytes) -> PeerId:
    """The id with these 16 bytes, mostly the same object as before: each frame names its sender, and a UUID is slow to
    make and to compare."""
    return PeerId(bytes=raw)


Endpoint: TypeAlias = str
"""A ZeroMQ endpoint, such as ``tcp://127.0.0.1:40001``."""

NO_SESSION = b"\0\0\0\0"
"""The session of a classic peer, which has none."""


def _read_only(headers: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(headers))


def _names(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


def _registered(names: Mapping[str, Iterable[Endpoint]]) -> Mapping[str, tuple[Endpoint, ...]]:
    return MappingProxyType({name: tuple(endpoints) for name, endpoints in names.items()})


@frozen
class PeerInfo:
    """What a peer says about itself when it announces.

    A classic peer says only ``id`` and ``endpoint``; everything else is empty.
    """

    id: PeerId
    endpoint: Endpoint
    """Where its data channel listens."""
    name: str = ""
    headers: Mapping[str, str] = field(factory=dict, converter=_read_only, hash=False)
    """What it wants the others to know, text to text; read-only."""
    groups: frozenset[str] = field(default=frozenset(), converter=_names)
    services: frozenset[str] = field(default=frozenset(), converter=_names)
    names: Mapping[str, tuple[Endpoint, ...]] = field(factory=dict, converter=_registered, hash=False)
    """What it has registered, each name with its endpoints, as it announces them; read-only. The host ``*`` stands for
    that of its ``endpoint``; what a name leads to from here `Peer.resolve` knows."""
    cluster: str = ""
    """Peers of different clusters do not link, though they share a proxy."""
    incarnation: int = 0
    """Start of the process in milliseconds of wall-clock time; raised only to refute."""
    revision: int = 0
    """Grows with each change that the peer announces."""
    host: str = ""
    pid: int = 0

    def __reduce__(self) -> tuple[partial[PeerInfo], tuple[()]]:
        # A read-only view, such as the headers are, cannot be pickled.
        copies = {"headers": dict(self.headers), "names": dict(self.names)}
        return partial(PeerInfo, **asdict(self, recurse=False) | copies), ()


class LinkState(Enum):
    """The state of the link to one peer; the page on the protocol has every change."""

    ANNOUNCED = "announced"
    """We know where it is; the link is not verified."""
    JOINED = "joined"
    """The link is verified in both directions."""
    SUSPECT = "suspect"
    """Was joined; the link broke or fell silent; not given up."""
    GONE = "gone"
    """Out of the roster."""


@frozen
class LinkInfo:
    """What we know of the link to one peer. Times are seconds until now."""

    peer: PeerInfo
    state: LinkState
    since: float
    """How long it has been in that state."""
    inward: bool
    """Whether what it publishes reaches us: our connection to it is up, verified, and not silent."""
    outward: bool | None
    """Whether what we publish reaches it, as far as it has told us on the present connection; ``None`` for a classic
    peer, which tells nothing."""
    silence: float | None
    """How long ago anything of it was read last; ``None`` if nothing ever was, or it is a classic peer. An idle peer
    sends something to one other only, so a long silence means nothing by itself."""
    round_trip: float | None
    """What the latest ping took until it was answered; ``None`` before the first, see ``ping_interval``."""


class Cause(Enum):
    """Why a peer is gone."""

    FAREWELL = "farewell"
    """It said so."""
    REFUSED = "refused"
    """Nothing listens at its endpoint any more: the process is dead."""
    UNREACHABLE = "unreachable"
    """The link stayed down for ``suspect_timeout``."""
    REJECTED = "rejected"
    """What answers there is not that peer."""
    REPLACED = "replaced"
    """The same id with a higher incarnation, or another id at its endpoint, took its place."""


class ReconnectStop(IntFlag):
    """When to stop reconnecting to a peer; the flags of libzmq's ``ZMQ_RECONNECT_STOP``."""

    NEVER = 0
    CONN_REFUSED = 1
    """Stop when nothing listens there."""
    HANDSHAKE_FAILED = 2
    """Stop when what listens there does not speak ZMTP with us."""


class StreamOverflow(Enum):
    """What a subscription does whose reader is too slow, when ``capacity`` messages wait."""

    DROP_OLDEST = "drop-oldest"
    """The oldest go: the reader gets what is newest."""
    DROP_NEWEST = "drop-newest"
    """What comes while there is no room goes: the reader gets what came first."""
    PAUSE = "pause"
    """Nothing is taken until the reader has read all that waits: long runs, with one gap between them."""


class Overflow(Enum):
    """What publishing does when the queue to a subscriber is full."""

    DROP = "drop"
    """Drop the message for that one subscriber."""
    WAIT = "wait"
    """Wait until every subscriber that it matches has room."""


class Probe(Enum):
    """What a plain TCP connection attempt to a peer's endpoint told."""

    REFUSED = "refused"
    """Nobody listens, or we met ourselves."""
    ACCEPTED = "accepted"
    """Somebody listens; a dying process does too."""
    UNDECIDED = "undecided"
    """No answer in time, or no route."""


@define
class Message:
    """One message of the data channel.

    Not frozen only because making a frozen object takes three times as long.
    """

    sender: PeerInfo | None
    """Who published it; ``None`` for a classic peer, which does not say."""
    topic: str
    payload: bytes
