"""The state machines of what a gossip node and one other say to each other.

Rule 1: every change of state is a row of `REMOTE` or `CLIENT`; no other code sets a state.

Rule 2: what the other one is, it shows by what it says, each time anew: behind an endpoint may be a
real zgossip today that was one of ours yesterday. Until it has shown that, it is told nothing
but HELLO and PING.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias

from attrs import define

Link: TypeAlias = int | bytes
"""A remote that we connected to has a number that we gave it, a client the routing id that libzmq gave it."""


class TalkState(Enum):
    """What is at the other end."""

    AWAY = "nobody: no connection, or a client that has not said HELLO"
    GREETING = "somebody who was greeted and has not answered"
    CLASSIC = "a real zgossip"
    OURS = "a node of zdisco"
    OURSELVES = "this node itself"


class RemoteSignal(Enum):
    """What can happen with a node that we connected to."""

    UP = "a connection is there, a new one"
    DOWN = "the connection ended, or nothing is heard over it"
    PONG = "it answered as a real zgossip does"
    GREETED = "it answered as one of ours does"
    MIRRORED = "it answered with our own id"
    INVALID = "it does not know us"


class ClientSignal(Enum):
    """What can happen with a node that connected to us."""

    HELLO = "it said HELLO as a real zgossip does"
    PUBLISH = "it published as a real zgossip does"
    GREETED = "it greeted as one of ours does"
    MIRRORED = "it greeted with our own id"
    GONE = "its connection ended, or it was silent for too long"


_S, _R, _C = TalkState, RemoteSignal, ClientSignal

REMOTE: Mapping[tuple[TalkState, RemoteSignal], TalkState] = MappingProxyType(
    {
        (_S.AWAY, _R.UP): _S.GREETING,
        (_S.AWAY, _R.DOWN): _S.AWAY,
        # What the former connection had brought, and was read late.
        (_S.AWAY, _R.PONG): _S.AWAY,
        (_S.AWAY, _R.GREETED): _S.AWAY,
        (_S.AWAY, _R.MIRRORED): _S.AWAY,
        (_S.AWAY, _R.INVALID): _S.AWAY,
        (_S.GREETING, _R.UP): _S.GREETING,
        (_S.GREETING, _R.DOWN): _S.AWAY,
        (_S.GREETING, _R.PONG): _S.CLASSIC,
        (_S.GREETING, _R.GREETED): _S.OURS,
        (_S.GREETING, _R.MIRRORED): _S.OURSELVES,
        (_S.GREETING, _R.INVALID): _S.GREETING,
        (_S.CLASSIC, _R.UP): _S.GREETING,
        (_S.CLASSIC, _R.DOWN): _S.AWAY,
        (_S.CLASSIC, _R.PONG): _S.CLASSIC,
        (_S.CLASSIC, _R.GREETED): _S.OURS,
        (_S.CLASSIC, _R.MIRRORED): _S.OURSELVES,
        (_S.CLASSIC, _R.INVALID): _S.GREETING,
        (_S.OURS, _R.UP): _S.GREETING,
        (_S.OURS, _R.DOWN): _S.AWAY,
        (_S.OURS, _R.PONG): _S.CLASSIC,
        (_S.OURS, _R.GREETED): _S.OURS,
        (_S.OURS, _R.MIRRORED): _S.OURSELVES,
        (_S.OURS, _R.INVALID): _S.GREETING,
        (_S.OURSELVES, _R.UP): _S.GREETING,
        (_S.OURSELVES, _R.DOWN): _S.AWAY,
        (_S.OURSELVES, _R.PONG): _S.CLASSIC,
        (_S.OURSELVES, _R.GREETED): _S.OURS,
        (_S.OURSELVES, _R.MIRRORED): _S.OURSELVES,
        (_S.OURSELVES, _R.INVALID): _S.GREETING,
    }
)

CLIENT: Mapping[tuple[TalkState, ClientSignal], TalkState] = MappingProxyType(
    {
        (_S.AWAY, _C.HELLO): _S.CLASSIC,
        (_S.AWAY, _C.PUBLISH): _S.CLASSIC,
        (_S.AWAY, _C.GREETED): _S.OURS,
        (_S.AWAY, _C.MIRRORED): _S.OURSELVES,
        (_S.AWAY, _C.GONE): _S.AWAY,
        (_S.CLASSIC, _C.HELLO): _S.CLASSIC,
        (_S.CLASSIC, _C.PUBLISH): _S.CLASSIC,
        (_S.CLASSIC, _C.GREETED): _S.OURS,
        (_S.CLASSIC, _C.MIRRORED): _S.OURSELVES,
        (_S.CLASSIC, _C.GONE): _S.AWAY,
        (_S.OURS, _C.HELLO): _S.CLASSIC,
        (_S.OURS, _C.PUBLISH): _S.CLASSIC,
        (_S.OURS, _C.GREETED): _S.OURS,
        (_S.OURS, _C.MIRRORED): _S.OURSELVES,
        (_S.OURS, _C.GONE): _S.AWAY,
        (_S.OURSELVES, _C.HELLO): _S.CLASSIC,
        (_S.OURSELVES, _C.PUBLISH): _S.CLASSIC,
        (_S.OURSELVES, _C.GREETED): _S.OURS,
        (_S.OURSELVES, _C.MIRRORED): _S.OURSELVES,
        (_S.OURSELVES, _C.GONE): _S.AWAY,
    }
)


@define(eq=False)
class Talk:
    """What is said with one other node."""

    link: Link
    state: TalkState = TalkState.AWAY
    heard: float = 0.0
    """When it said something last."""
    unanswered: int = 0
    """Pings since."""
    pings: int = 0
    """Pings over this connection that a real node has not answered."""
    greeted: int = 0
    """How many of them were sent before it had heard our last HELLO, with the one behind that."""
    answered: float = 0.0
    """When a real node answered a ping last."""
    sum: int | None = None
    """What its store added up to when it said that last."""
    compared: float | None = None
    """When our store was last compared with its own."""
    told: int = 0
    """Bytes that it was told because it had asked ..."""
    counted: float = 0.0
    """... since then."""

    def signal(self, signal: RemoteSignal | ClientSignal) -> None:
        """Take one row of the table."""
        if isinstance(signal, RemoteSignal):
            self.state = REMOTE[self.state, signal]
        else:
            self.state = CLIENT[self.state, signal]
