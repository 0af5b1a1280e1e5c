"""What the user of a peer is told.

Rule: for each stay of a peer there is one `PeerJoined`, then any number of pairs of
`PeerSuspected` and `PeerRecovered`, then one `PeerGone` (straight from suspect, too).
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from .model import Cause, Endpoint, PeerInfo


@frozen
class PeerJoined:
    """The link to the peer is verified in both directions: from now on nothing is lost to a late subscription."""

    peer: PeerInfo


@frozen
class PeerUpdated:
    """A joined peer announced a change of itself: of its headers, its groups, its services or its names.

    Once for each change, in their order; of several in a row only the newest may be told.
    """

    peer: PeerInfo
    was: PeerInfo


@frozen
class PeerSuspected:
    """The link to a joined peer has been broken for ``suspect_after`` seconds; we have not given up."""

    peer: PeerInfo


@frozen
class PeerRecovered:
    """The link to a suspect peer is verified again."""

    peer: PeerInfo


@frozen
class PeerGone:
    """A peer that had joined is out of the roster."""

    peer: PeerInfo
    cause: Cause


@frozen
class MessagesLost:
    """Messages that a peer published did not arrive, and will not.

    Counted from the moment when our subscription was in force at that peer. A loss at the end of a
    burst shows after ``tail_delay``.
    """

    sender: PeerInfo | None
    """``None`` for a classic peer: it numbers nothing, so only what a slow reader drops is known."""
    topic: str
    """Empty for messages to us alone, too: those of `Peer.inbox`."""
    count: int


@frozen
class ProxyFound:
    """A proxy relays us: our own announce came back through it."""

    endpoint: Endpoint


@frozen
class ProxyLost:
    """The connection to a proxy that relayed us broke."""

    endpoint: Endpoint


@frozen
class EventsDropped:
    """The reader was too slow: this many of the oldest events of its stream were dropped."""

    count: int


PeerEvent: TypeAlias = PeerJoined | PeerUpdated | PeerSuspected | PeerRecovered | PeerGone
Event: TypeAlias = PeerEvent | MessagesLost | ProxyFound | ProxyLost | EventsDropped
