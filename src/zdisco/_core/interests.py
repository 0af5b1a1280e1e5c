"""What we are subscribed to, and the markers behind it.

Rule 1: libzmq is asked once for each prefix, however many subscriptions use it: it forwards
every repeat.

Rule 2: a subscription is in force at a peer when that peer has confirmed the marker `Interest.since`,
or a newer one. Every change of a marker leads to one confirmation by each peer.

Rule 3: a marker names what is new, or all that there is, so that a publisher need not tell of
topics that nobody asked for; see ``envelope.Scope``.
"""

from __future__ import annotations

from attrs import define, field

from .envelope import MARKER_LIMIT, Scope, marker
from .model import PeerId
from .prefixes import Prefixes


@define(eq=False)
class Interest:
    """One subscription of ours."""

    prefix: bytes
    since: int
    """The marker that is behind it."""


@define(eq=False)
class Interests:
    """All subscriptions of ours to ordinary topics."""

    _me: PeerId
    _session: bytes
    marker: int = 1
    """The counter of our newest marker."""
    _interests: Prefixes[Interest] = field(factory=Prefixes)
    _fresh: dict[bytes, None] = field(factory=dict)
    """What was added since the newest marker."""
    _gone: dict[bytes, None] = field(factory=dict)
    """What was unsubscribed since it was last asked for."""
    topic: bytes = field(init=False)
    """The topic of our newest marker."""

    def __attrs_post_init__(self) -> None:
        self.topic = marker(self._me, self._session, self.marker)

    def add(self, prefix: bytes) -> tuple[Interest, bool]:
        """Add a subscription, and whether its prefix is to be subscribed; `next_marker` must follow."""
        interest = Interest(prefix, self.marker + 1)
        self._fresh[prefix] = None
        return interest, self._interests.add(prefix, interest)

    def remove(self, interest: Interest) -> bool:
        """Take a subscription back; returns whether its prefix is to be unsubscribed."""
        if not self._interests.remove(interest.prefix, interest):
            return False
        self._fresh.pop(interest.prefix, None)
        self._gone[interest.prefix] = None
        return True

    def take_gone(self) -> tuple[bytes, ...]:
        """The prefixes that were unsubscribed; what is known of their topics is out of date."""
        gone = tuple(self._gone)
        self._gone.clear()
        return gone

    def next_marker(self) -> tuple[bytes, bytes]:
        """The topics of the next marker, to be subscribed, and of the one before, to be taken back."""
        was = self.topic
        self.marker += 1
        scope, prefixes = self._scope()
        self._fresh.clear()
        self.topic = marker(self._me, self._session, self.marker, scope, *prefixes)
        return self.topic, was

    def _scope(self) -> tuple[Scope, tuple[bytes, ...]]:
        # A marker without anything new is one that repeats what was not confirmed.
        has_all = len(self._fresh) in (0, len(self._interests))
        named = tuple(self._interests if has_all else self._fresh)
        if sum(len(prefix) + 2 for prefix in named) > MARKER_LIMIT:
            return Scope.UNNAMED, ()
        return Scope.COMPLETE if has_all else Scope.NEW, named

    def covers(self, topic: bytes) -> bool:
        """Whether anything of ours covers a topic, given with its NUL."""
        return bool(self._interests.matching(topic))

    def is_in_force(self, topic: bytes, confirmed: int) -> bool:
        """Whether one that covers a topic, given with its NUL, is in force at a peer that confirmed this marker."""
        return any(interest.since <= confirmed for interest in self._interests.matching(topic))
