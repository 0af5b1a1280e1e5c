"""Every error that zdisco raises.

::

    ZdiscoError
    ├── ClosedError            the peer, proxy or socket is not open, or not any more
    │   └── IdentityConflict   another process that runs has our id, and started earlier
    ├── DiscoveryTimeout       (TimeoutError)  our announce did not come back in time
    ├── FarewellTimeout        (TimeoutError)  our farewell did not come back in time
    ├── BindError              (OSError)       an endpoint could not be bound
    ├── SocketLimitError       (OSError)       no sockets or descriptors are left
    ├── InvalidEndpoint        (ValueError)    an endpoint that the caller gave cannot be used
    ├── InvalidHosts           (ValueError)    a hosts file cannot be read
    ├── AnnounceTooLarge       (ValueError)    name, headers, ... do not fit into one announce
    ├── UnknownName            (LookupError, TimeoutError)  a name leads nowhere, or did not in time
    ├── UnknownPeer            (LookupError)   no such peer is joined
    ├── NoResponder            (LookupError)   no joined peer offers the service
    ├── ResponderGone          the peer that was asked is gone
    ├── RequestFailed          the peer that was asked says that it could not answer
    ├── ZPLError               (ValueError)    a text that should be ZPL is not
    └── MalformedMessage       (ValueError)    bytes that are no message of ours

Rule 1: an error carries the facts as attributes; its text is made from them.

Rule 2: what the network does wrong never raises out of a task of ours. ``MalformedMessage``
leaves the decoders and is counted by the shell; a caller meets it only by calling a decoder.
"""

from __future__ import annotations

from attrs import frozen

from .model import Cause, PeerId, PeerInfo


class ZdiscoError(Exception):
    """The root of all errors of zdisco."""


class ClosedError(ZdiscoError):
    """The object was used before it was opened, or after it was closed."""

    def __init__(self, what: str, state: str = "is not open") -> None:
        super().__init__(what, state)
        self.what = what
        self.state = state

    def __str__(self) -> str:
        return f"the {self.what} {self.state}"


class IdentityConflict(ClosedError):
    """Another process that runs has the id of this peer, and started earlier, so this one has ended."""

    def __init__(self, other: PeerInfo) -> None:
        super().__init__("peer", f"has the id {other.id} of a process that started earlier, at {other.endpoint}")
        self.other = other
        """What that process announces."""

    def __reduce__(self) -> tuple[type[IdentityConflict], tuple[PeerInfo]]:
        return type(self), (self.other,)


@frozen
class ProxySighting:
    """What was seen of one proxy while we tried to discover."""

    endpoint: str
    connected: bool = False
    """Its well-known endpoint accepted us."""
    refused: int = 0
    """How many connection attempts failed."""
    relay: str = ""
    """The publish endpoint that its welcome named; empty: no welcome came."""
    subscribed: bool = False
    """It subscribed to our messages at that publish endpoint."""
    announced: int = 0
    """How many announces we sent to it."""

    def __str__(self) -> str:
        if not self.relay:
            reached = "no connection: what listens there is no proxy, or hangs, or the name cannot be looked up"
            if self.connected:
                reached = "connected"
            elif self.refused:
                attempts = f"{self.refused} attempt{'s' * (self.refused > 1)}"
                reached = f"nothing listens there, or no way leads there: {attempts} failed"
            return f"no welcome from {self.endpoint} ({reached})"
        if not self.subscribed:
            return f"welcome from {self.endpoint}, but no answer at its publish endpoint {self.relay}"
        return f"welcome from {self.endpoint}, but no echo of {self.announced} announces"


class DiscoveryTimeout(ZdiscoError, TimeoutError):
    """Our own announce did not come back through any proxy in time."""

    def __init__(self, timeout: float, proxies: tuple[ProxySighting, ...]) -> None:
        # An OSError would take two arguments for its number and its text.
        super().__init__(f"no echo of our announce within {timeout:g} s: {'; '.join(map(str, proxies))}")
        self.timeout = timeout
        self.proxies = proxies

    def __reduce__(self) -> tuple[type[DiscoveryTimeout], tuple[float, tuple[ProxySighting, ...]]]:
        return type(self), (self.timeout, self.proxies)


class FarewellTimeout(ZdiscoError, TimeoutError):
    """Our own farewell did not come back through every proxy in time."""

    def __init__(self, timeout: float, proxies: tuple[str, ...]) -> None:
        super().__init__(f"no echo of our farewell within {timeout:g} s from {', '.join(proxies)}")
        self.timeout = timeout
        self.proxies = proxies

    def __reduce__(self) -> tuple[type[FarewellTimeout], tuple[float, tuple[str, ...]]]:
        return type(self), (self.timeout, self.proxies)


class BindError(ZdiscoError, OSError):
    """An endpoint could not be bound."""

    def __init__(self, endpoint: str, errno: int, reason: str) -> None:
        super().__init__(errno, reason)
        self.endpoint = endpoint
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot bind {self.endpoint}: {self.reason}"

    def __reduce__(self) -> tuple[type[BindError], tuple[str, int | None, str]]:
        return type(self), (self.endpoint, self.errno, self.reason)


class SocketLimitError(ZdiscoError, OSError):
    """The process, or libzmq, has no sockets or descriptors left."""

    def __init__(self, errno: int, reason: str) -> None:
        super().__init__(errno, f"no more sockets: {reason}")
        self.reason = reason

    def __str__(self) -> str:
        return f"no more sockets: {self.reason}"

    def __reduce__(self) -> tuple[type[SocketLimitError], tuple[int | None, str]]:
        return type(self), (self.errno, self.reason)


class InvalidEndpoint(ZdiscoError, ValueError):
    """An endpoint cannot be used."""

    def __init__(self, endpoint: object, reason: str) -> None:
        super().__init__(endpoint, reason)
        self.endpoint = endpoint
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.endpoint!r} is not a usable endpoint: {self.reason}"


class InvalidHosts(ZdiscoError, ValueError):
    """A hosts file is not there, or what stands in it says nothing that can be used."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"the hosts file {self.path} cannot be used: {self.reason}"


class AnnounceTooLarge(ZdiscoError, ValueError):
    """Name, headers, groups, services and registered names together do not fit into one announce."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"the announce takes {self.size} bytes of JSON, the limit is {self.limit}"


class UnknownName(ZdiscoError, LookupError, TimeoutError):
    """A name leads to no endpoint, or led to none in time."""

    def __init__(self, name: str, timeout: float = 0.0) -> None:
        waited = f" within {timeout:g} s" if timeout > 0 else ""
        # An OSError would take two arguments for its number and its text.
        super().__init__(f"the name {name!r} leads to no endpoint{waited}")
        self.name = name
        self.timeout = timeout
        """Seconds for which it was waited for."""

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, float]]:
        return type(self), (self.name, self.timeout)


class UnknownPeer(ZdiscoError, LookupError):
    """No peer of this id is joined, or it is a classic one, which has no inbox."""

    def __init__(self, id: PeerId) -> None:
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"no peer {self.id} with an inbox is joined"


class NoResponder(ZdiscoError, LookupError):
    """No joined peer offers this service."""

    def __init__(self, service: str) -> None:
        super().__init__(service)
        self.service = service

    def __str__(self) -> str:
        return f"no joined peer offers the service {self.service!r}"


class ResponderGone(ZdiscoError):
    """The peer that was asked is gone; whether it had done what was asked is not known."""

    def __init__(self, peer: PeerInfo, cause: Cause) -> None:
        super().__init__(peer, cause)
        self.peer = peer
        self.cause = cause

    def __str__(self) -> str:
        return f"the peer {self.peer.name or self.peer.id} is gone before it has answered: {self.cause.value}"


class RequestFailed(ZdiscoError):
    """The peer that was asked answers that it failed, or that it does not serve this."""

    def __init__(self, peer: PeerInfo, reason: str) -> None:
        super().__init__(peer, reason)
        self.peer = peer
        self.reason = reason

    def __str__(self) -> str:
        return f"the peer {self.peer.name or self.peer.id} could not answer: {self.reason}"


class ZPLError(ZdiscoError, ValueError):
    """A text is not ZPL: `zdisco.zpl` cannot read it."""

    def __init__(self, path: str | None, line: int, column: int, reason: str) -> None:
        super().__init__(path, line, column, reason)
        self.path = path
        """The file; `None` for a text that comes from none."""
        self.line = line
        """Counted from 1, as is the column."""
        self.column = column
        """In characters; a byte that is not UTF-8 is one, and so is a tab."""
        self.reason = reason

    def __str__(self) -> str:
        where = (
            f"line {self.line}, column {self.column}" if self.path is None else f"{self.path}:{self.line}:{self.column}"
        )
        return f"{where}: {self.reason}"


class MalformedMessage(ZdiscoError, ValueError):
    """Bytes that are not a message of the protocol."""

    def __init__(self, reason: str, size: int) -> None:
        super().__init__(reason, size)
        self.reason = reason
        self.size = size

    def __str__(self) -> str:
        return f"malformed message of {self.size} bytes: {self.reason}"
