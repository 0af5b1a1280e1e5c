"""The state machine of our link to one peer.

Rule 1: every change of link state is a row of `TRANSITIONS`; no other code sets a state.

Rule 2: a pair that is not in the table is a bug of ours, never of the network. What the
network may do at any time has a row, even where nothing changes.

Rule 3: what the user is told follows from the change alone: `told` has no other input.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias

from attrs import define

from .counts import Counts
from .envelope import LinkBody
from .events import PeerEvent, PeerGone, PeerJoined, PeerRecovered, PeerSuspected
from .model import Cause, Endpoint, LinkInfo, LinkState, PeerId, PeerInfo
from .wire import Announce

LinkKey: TypeAlias = tuple[PeerId, bytes]
"""Id and session: one life of one process."""


class Signal(Enum):
    """What can happen to a link."""

    PROVED = "verified in both directions"
    SILENT = "not verified for suspect_after, or nothing of it is heard"
    FAREWELL = "it said farewell"
    REFUSED = "nothing listens at its endpoint"
    EXPIRED = "not verified for too long"
    REJECTED = "the ZMTP handshake failed"
    REPLACED = "another link took its place"


CAUSES: Mapping[Signal, Cause] = MappingProxyType(
    {
        Signal.FAREWELL: Cause.FAREWELL,
        Signal.REFUSED: Cause.REFUSED,
        Signal.EXPIRED: Cause.UNREACHABLE,
        Signal.REJECTED: Cause.REJECTED,
        Signal.REPLACED: Cause.REPLACED,
    }
)
"""The signals that end a link, and the cause that the user is told."""

FINAL = frozenset({Signal.FAREWELL, Signal.REPLACED})
"""After these an announce of the same incarnation revives nobody."""

MAY_LIVE = frozenset({Signal.EXPIRED, Signal.REJECTED, Signal.REPLACED})
"""After these the process may live, and go on holding what it does not read."""

TRANSITIONS: Mapping[tuple[LinkState, Signal], LinkState] = MappingProxyType(
    {
        (LinkState.ANNOUNCED, Signal.PROVED): LinkState.JOINED,
        (LinkState.ANNOUNCED, Signal.SILENT): LinkState.ANNOUNCED,
        (LinkState.JOINED, Signal.PROVED): LinkState.JOINED,
        (LinkState.JOINED, Signal.SILENT): LinkState.SUSPECT,
        (LinkState.SUSPECT, Signal.PROVED): LinkState.JOINED,
        (LinkState.SUSPECT, Signal.SILENT): LinkState.SUSPECT,
        **{(state, signal): LinkState.GONE for state in LinkState for signal in CAUSES},
        (LinkState.GONE, Signal.PROVED): LinkState.GONE,
        (LinkState.GONE, Signal.SILENT): LinkState.GONE,
    }
)


def told(was: LinkState, now: LinkState, peer: PeerInfo, signal: Signal) -> PeerEvent | None:
    """What the user is told when a link goes from ``was`` to ``now``."""
    match was, now:
        case LinkState.ANNOUNCED, LinkState.JOINED:
            return PeerJoined(peer)
        case LinkState.JOINED, LinkState.SUSPECT:
            return PeerSuspected(peer)
        case LinkState.SUSPECT, LinkState.JOINED:
            return PeerRecovered(peer)
        case ((LinkState.JOINED | LinkState.SUSPECT), LinkState.GONE):
            return PeerGone(peer, CAUSES[signal])
        case _:
            return None


@define(eq=False)
class Link:
    """What we know of the link to one life of one peer."""

    announce: Announce
    endpoint: Endpoint
    """Where `dataSub` is connected for it: the numeric spelling of the announced endpoint."""
    down_since: float | None
    """Since when our connection to it is down; ``None`` while it is up."""
    counts: Counts
    """What we have of its topics, and the newest of our markers that it has confirmed."""
    since: float
    """When it got into its present state."""
    state: LinkState = LinkState.ANNOUNCED
    verdict: Signal | None = None
    """Why it is given up, while what it had sent is still being read."""
    again: tuple[Announce, Endpoint] | None = None
    """What it announced meanwhile, and the numeric spelling of the endpoint."""
    had_joined: bool = False
    """Whether it, or a link to the same life before it, was joined."""
    epoch: int = 0
    """How many of our connections to it have ended. Its link messages quote this number, so one
    that waited in a queue since an older connection proves nothing about the present one."""
    echo: int = 0
    """The epoch that it last told us, to quote in ours."""
    heard: LinkBody | None = None
    """Its last link message on the present connection."""
    told: int | None = None
    """Our marker in the last link message that we sent on the present connection."""
    seen: int = 0
    """The newest of its markers that was in force at our `dataPub`."""
    stale: int = 0
    """Our marker when our last connection to it ended: it may still remember that one, or an older."""
    floor: int = 0
    """The marker that it must have confirmed before the link is verified."""
    asked: int = 0
    """Our marker when it was last looked whether the peer has confirmed any."""
    pinged: tuple[int, float] | None = None
    """The serial of our latest ping, and when that was."""
    round_trip: float | None = None
    """What the latest ping took until it was answered, in seconds."""
    flaps: int = 0
    """How often it was suspect and recovered, less what was forgotten ..."""
    flapped_at: float = 0.0
    """... when it did so last."""
    proved_at: Endpoint = ""
    """Where `dataSub` was connected when it was verified last."""
    left: int | None = None
    """The incarnation that said farewell on the link itself."""
    retry: float = 0.0
    """Seconds until the next unanswered link message is repeated."""
    unanswered: int = 0
    """Link messages on the present connection that were repeated as slowly as they ever are."""
    probes: int = 0
    """Probes sent since the connection went down."""

    @property
    def key(self) -> LinkKey:
        return self.announce.info.id, self.announce.session

    @property
    def peer(self) -> PeerInfo:
        return self.announce.info

    @property
    def is_given_up(self) -> bool:
        """Whether it is only kept until what it had sent was read."""
        return self.verdict is not None

    @property
    def may_be_judged(self) -> bool:
        """Whether what its endpoint answers tells anything about it: an announce alone, which may be forged, must not
        end a stay by naming an endpoint where nobody is."""
        return self.state is LinkState.ANNOUNCED or self.proved_at == self.endpoint

    @property
    def confirmed(self) -> int:
        """The newest of our markers that it has confirmed."""
        return self.counts.confirmed

    @property
    def sender(self) -> bytes:
        """Id and session as they stand in its frames; empty for a classic peer."""
        return b"" if self.announce.is_classic else self.peer.id.bytes + self.announce.session

    def recent_flaps(self, now: float, memory: float) -> int:
        """How often it was suspect and recovered of late: one less for each ``memory`` seconds without."""
        return max(0, self.flaps - int((now - self.flapped_at) / memory))

    def info(self, now: float, *, is_silent: bool) -> LinkInfo:
        """What the user may know of it."""
        is_classic = self.announce.is_classic
        is_verified = is_classic or (self.heard is not None and not is_silent)
        marker = None if self.heard is None else self.heard.marker
        heard_at = self.counts.heard_at
        return LinkInfo(
            peer=self.peer,
            state=self.state,
            since=now - self.since,
            inward=self.down_since is None and is_verified,
            outward=None if is_classic else is_verified and marker is not None and self.seen >= marker,
            silence=None if is_classic or heard_at < 0 else now - heard_at,
            round_trip=self.round_trip,
        )

    def signal(self, signal: Signal, now: float) -> PeerEvent | None:
        """Take one row of the table; returns what the user is told."""
        was, self.state = self.state, TRANSITIONS[self.state, signal]
        if was is not self.state:
            self.since = now
        return told(was, self.state, self.peer, signal)
