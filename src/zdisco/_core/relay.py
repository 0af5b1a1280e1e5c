"""The state machine of our connection to one proxy.

Rule 1: every change of state is a row of `TRANSITIONS`; no other code sets a state.

Rule 2: a proxy relays us when our own announce came back through it, and not before.

Rule 3: one welcome counts for each connection, the first. What others name is tried only in
turn, and only while no publish endpoint has answered, so a forged welcome takes nothing over.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from uuid import UUID

from attrs import define, field

from .errors import ProxySighting
from .model import Endpoint


class RelayState(Enum):
    """What goes through between us and one proxy."""

    AWAY = "nothing goes through"
    DEAF = "it hears us, we do not hear it"
    MUTE = "we hear it, it does not hear us"
    ANNOUNCING = "both; our announce has not come back yet"
    FOUND = "both; our announce came back"


class RelaySignal(Enum):
    """What can happen between us and one proxy."""

    WELCOME = "it greeted us and named its publish endpoint"
    LOST = "the connection of proxySub ended"
    RELAY_UP = "it subscribed to us at its publish endpoint"
    RELAY_DOWN = "the connection of proxyPub ended"
    ECHO = "our own announce came back"


_S, _E = RelayState, RelaySignal

TRANSITIONS: Mapping[tuple[RelayState, RelaySignal], RelayState] = MappingProxyType(
    {
        (_S.AWAY, _E.WELCOME): _S.MUTE,
        (_S.AWAY, _E.LOST): _S.AWAY,
        (_S.AWAY, _E.RELAY_UP): _S.DEAF,
        (_S.AWAY, _E.RELAY_DOWN): _S.AWAY,
        (_S.AWAY, _E.ECHO): _S.AWAY,
        (_S.DEAF, _E.WELCOME): _S.ANNOUNCING,
        (_S.DEAF, _E.LOST): _S.DEAF,
        (_S.DEAF, _E.RELAY_UP): _S.DEAF,
        (_S.DEAF, _E.RELAY_DOWN): _S.AWAY,
        (_S.DEAF, _E.ECHO): _S.DEAF,
        (_S.MUTE, _E.WELCOME): _S.MUTE,
        (_S.MUTE, _E.LOST): _S.AWAY,
        (_S.MUTE, _E.RELAY_UP): _S.ANNOUNCING,
        (_S.MUTE, _E.RELAY_DOWN): _S.MUTE,
        (_S.MUTE, _E.ECHO): _S.MUTE,
        (_S.ANNOUNCING, _E.WELCOME): _S.ANNOUNCING,
        (_S.ANNOUNCING, _E.LOST): _S.DEAF,
        (_S.ANNOUNCING, _E.RELAY_UP): _S.ANNOUNCING,
        (_S.ANNOUNCING, _E.RELAY_DOWN): _S.MUTE,
        (_S.ANNOUNCING, _E.ECHO): _S.FOUND,
        (_S.FOUND, _E.WELCOME): _S.ANNOUNCING,
        (_S.FOUND, _E.LOST): _S.DEAF,
        (_S.FOUND, _E.RELAY_UP): _S.ANNOUNCING,
        (_S.FOUND, _E.RELAY_DOWN): _S.MUTE,
        (_S.FOUND, _E.ECHO): _S.FOUND,
    }
)


@define(eq=False)
class Relay:
    """What we know of one proxy."""

    proxy: Endpoint
    """Its well-known endpoint."""
    state: RelayState = RelayState.AWAY
    id: UUID | None = None
    """The id of the proxy in its last welcome."""
    endpoint: Endpoint = ""
    """The publish endpoint that we follow."""
    others: list[tuple[UUID, Endpoint]] = field(factory=list)
    """What further welcomes of this connection named, in the order in which it will be tried."""
    patience: float = 0.0
    """Seconds for which each of several publish endpoints is tried in this round."""
    turns: int = 0
    """How many of them have had their turn in this round."""
    retry: float = 0.0
    """Seconds until an announce or farewell without echo is repeated."""
    announced: int = 0
    was_found: bool = False
    """Whether the user has been told that it was found, and not yet that it was lost."""

    def signal(self, signal: RelaySignal) -> None:
        """Take one row of the table."""
        self.state = TRANSITIONS[self.state, signal]

    def follow_next(self) -> None:
        """Follow the next of the others; the present one becomes the last of them.

        Each round gives them twice as long: a publish endpoint may be far away.
        """
        if self.others and self.id is not None:
            self.others.append((self.id, self.endpoint))
            self.id, self.endpoint = self.others.pop(0)
            self.turns += 1
            if self.turns > len(self.others):
                self.turns = 0
                self.patience *= 2

    @property
    def is_heard(self) -> bool:
        """Whether it welcomed us on the present connection."""
        return self.state in (RelayState.MUTE, RelayState.ANNOUNCING, RelayState.FOUND)

    @property
    def hears_us(self) -> bool:
        """Whether what we send now reaches it."""
        return self.state in (RelayState.DEAF, RelayState.ANNOUNCING, RelayState.FOUND)

    @property
    def echoes(self) -> bool:
        """Whether what we send now should come back."""
        return self.state in (RelayState.ANNOUNCING, RelayState.FOUND)

    def sighting(self, *, connected: bool, refused: int) -> ProxySighting:
        """What to say of it when discovery timed out."""
        return ProxySighting(self.proxy, connected, refused, self.endpoint, self.hears_us, self.announced)
