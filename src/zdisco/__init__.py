"""zdisco: ZeroMQ programs find each other, and know who is there."""

from ._core.actions import Drop
from ._core.config import GossipConfig, PeerConfig
from ._core.errors import (
    AnnounceTooLarge,
    BindError,
    ClosedError,
    DiscoveryTimeout,
    FarewellTimeout,
    IdentityConflict,
    InvalidEndpoint,
    InvalidHosts,
    MalformedMessage,
    NoResponder,
    ProxySighting,
    RequestFailed,
    ResponderGone,
    SocketLimitError,
    UnknownName,
    UnknownPeer,
    ZdiscoError,
    ZPLError,
)
from ._core.events import (
    Event,
    EventsDropped,
    MessagesLost,
    PeerGone,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    PeerUpdated,
    ProxyFound,
    ProxyLost,
)
from ._core.gossip.model import Change, Delivery, GossipStatus
from ._core.model import Cause, LinkInfo, LinkState, Message, Overflow, PeerInfo, ReconnectStop, StreamOverflow
from ._gossip import Gossip
from ._peer import Peer, Subscription
from ._proxy import Proxy
from ._reachability import Reachability
from ._requests import Reply
from ._responder import NameResponder
from ._services import Request, Service
from ._streams import Stream
from ._zmq.monitor import MonitorEvent, MonitorStream, SocketEvent, monitor

__all__ = [
    "AnnounceTooLarge",
    "BindError",
    "Cause",
    "Change",
    "ClosedError",
    "Delivery",
    "DiscoveryTimeout",
    "Drop",
    "Event",
    "EventsDropped",
    "FarewellTimeout",
    "Gossip",
    "GossipConfig",
    "GossipStatus",
    "IdentityConflict",
    "InvalidEndpoint",
    "InvalidHosts",
    "LinkInfo",
    "LinkState",
    "MalformedMessage",
    "Message",
    "MessagesLost",
    "MonitorEvent",
    "MonitorStream",
    "NameResponder",
    "NoResponder",
    "Overflow",
    "Peer",
    "PeerConfig",
    "PeerGone",
    "PeerInfo",
    "PeerJoined",
    "PeerRecovered",
    "PeerSuspected",
    "PeerUpdated",
    "Proxy",
    "ProxyFound",
    "ProxyLost",
    "ProxySighting",
    "Reachability",
    "ReconnectStop",
    "Reply",
    "Request",
    "RequestFailed",
    "ResponderGone",
    "Service",
    "SocketEvent",
    "SocketLimitError",
    "Stream",
    "StreamOverflow",
    "Subscription",
    "UnknownName",
    "UnknownPeer",
    "ZPLError",
    "ZdiscoError",
    "monitor",
]

# Where a user meets them, in tracebacks, reprs and pickles.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("zdisco."):
        globals()[_name].__module__ = "zdisco"
