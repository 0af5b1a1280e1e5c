"""What the core asks of the shell.

Rule: an action is a wish that cannot fail; what comes of it returns as an input of its own.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from attrs import frozen

from .counts import Loss
from .events import Event
from .model import Endpoint, PeerId, PeerInfo
from .wire import Announce


@frozen
class SendToProxy:
    """Publish a discovery message through one proxy."""

    proxy: Endpoint
    frame: bytes


@frozen
class FollowWelcome:
    """Point `proxyPub` of this proxy at ``relay``: disconnect from where it was, then connect."""

    proxy: Endpoint
    relay: Endpoint


@frozen
class SendData:
    """Publish a frame on the data channel that must not wait; dropped where nobody subscribed to it."""

    frame: bytes


@frozen
class ConnectPeer:
    """Connect `dataSub` to a peer."""

    endpoint: Endpoint


@frozen
class DisconnectPeer:
    """Disconnect `dataSub` at once; what was not read yet is lost."""

    endpoint: Endpoint


@frozen
class DrainPeer:
    """Read what the peer had sent, then disconnect in the same step and call `Discovery.drained`."""

    endpoint: Endpoint
    sender: bytes
    """Id and session as they stand in each of its frames; empty for a classic peer."""


@frozen
class ShutPeer:
    """End the connections over which this peer subscribed at `dataPub`, with what waits there for it.

    A peer that we have given up may live and read nothing. One that lives connects anew by itself.
    """

    peer: PeerId


@frozen
class RevivePeer:
    """`dataSub` gave this endpoint up: disconnect, then connect again."""

    endpoint: Endpoint


@frozen
class ProbePeer:
    """Try a plain TCP connection and call `Discovery.probed` with what came of it."""

    endpoint: Endpoint


@frozen
class MeetRival:
    """A process that runs has our id: call `Discovery.rival_met`."""

    announce: Announce


@frozen
class GiveWay:
    """That process started earlier than we did: end."""

    rival: PeerInfo


@frozen
class SubscribeTopic:
    """Subscribe `dataSub` to a control topic."""

    topic: bytes


@frozen
class UnsubscribeTopic:
    """Take the subscription of a control topic back."""

    topic: bytes


@frozen
class ResolveEndpoint:
    """Look the host name of an endpoint up and call `Discovery.resolved`."""

    endpoint: Endpoint


@frozen
class TellLoss:
    """Tell the subscriptions that miss something."""

    sender: PeerInfo
    loss: Loss


@frozen
class DeliverRetained:
    """Hand on the last value of a topic, which stands in a data frame of a peer in the roster."""

    frame: bytes


class Drop(Enum):
    """Why something that came from outside, nearly always from the network, was dropped."""

    MALFORMED_DISCOVERY = "malformed discovery message"
    MALFORMED_CONTROL = "malformed control frame"
    MALFORMED_SUBSCRIPTION = "malformed subscription"
    MULTIPART = "multipart message on a discovery socket"
    FAILED_HANDSHAKE = "connection that ended before its ZMTP handshake"
    FORGED_WELCOME = "welcome that the connection does not vouch for"
    FORGED_ANNOUNCE = "announce in our name that we did not make"
    FORGED_FAREWELL = "farewell in our name that we did not send"
    UNCONFIRMED_FAREWELL = "farewell that the link did not confirm"
    FOREIGN_CLUSTER = "announce of another cluster"
    REFUSED_ENDPOINT = "announce with an endpoint that we do not connect to"
    TOMBSTONED = "announce of a peer that has left"
    STALE_ANNOUNCE = "announce that is older than what we know"
    MOVED_ENDPOINT = "announce that moves a peer whose link is up"
    TABLE_FULL = "no room in a table"
    FORGOTTEN = "oldest of what is remembered, of a peer that has gone or a topic, for which there was no room"
    UNKNOWN_SENDER = "frame of a peer that is not in the roster"
    OTHER_INBOX = "frame for the inbox of another peer"
    STALE_NUMBER = "message whose number does not grow"
    STREAM_FULL = "message for a stream whose reader is too slow"
    LATE_REPLY = "reply that nobody waits for any more"
    FORGED_REPLY = "reply of a peer that was not asked"
    INVALID_HOSTS = "change of the hosts file that cannot be used"
    SEND_QUEUE_FULL = "discovery message for a proxy whose queue is full"
    MALFORMED_GOSSIP = "malformed message of the gossip protocol"
    UNEXPECTED_GOSSIP = "message of the gossip protocol that has no sense there"
    FUTURE_GOSSIP = "tuple of a gossip node whose version is centuries ahead of our clock"
    GOSSIP_QUEUE_FULL = "message for a gossip node whose queue is full"
    DAMPED = "change of a key that real gossip nodes change too often"
    DELIVERIES_FULL = "delivery for a stream whose reader is too slow"


@frozen
class Dropped:
    """Count this, and log it for those who look: nothing else follows from what came in."""

    drop: Drop
    detail: str = ""


Action: TypeAlias = (
    SendToProxy
    | FollowWelcome
    | SendData
    | ConnectPeer
    | DisconnectPeer
    | DrainPeer
    | ShutPeer
    | RevivePeer
    | ProbePeer
    | MeetRival
    | GiveWay
    | SubscribeTopic
    | UnsubscribeTopic
    | ResolveEndpoint
    | TellLoss
    | DeliverRetained
    | Dropped
)
Output: TypeAlias = Action | Event
