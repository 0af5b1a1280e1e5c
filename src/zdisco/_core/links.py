"""The links that we have, found by life, by peer and by endpoint.

Rule: only `add`, `move`, `replace` and `remove` change who is here, so that all three ways find
the same links. What they return is a copy, which stays as it is while links come and go.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field

from .link import Link, LinkKey
from .model import Endpoint, LinkState, PeerId


@define(eq=False)
class Links:
    """All links, in the order in which they were added."""

    _by_key: dict[LinkKey, Link] = field(factory=dict)
    _by_id: dict[PeerId, dict[LinkKey, Link]] = field(factory=dict)
    _by_endpoint: dict[Endpoint, dict[LinkKey, Link]] = field(factory=dict)
    _unproved: dict[LinkKey, Link] = field(factory=dict)

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Link]:
        return iter(tuple(self._by_key.values()))

    def __contains__(self, key: LinkKey) -> bool:
        return key in self._by_key

    def get(self, key: LinkKey) -> Link | None:
        return self._by_key.get(key)

    def of(self, id: PeerId) -> list[Link]:
        """All that claim this id."""
        return list(self._by_id.get(id, {}).values())

    def at(self, endpoint: Endpoint) -> list[Link]:
        """All that claim this endpoint; they share one connection."""
        return list(self._by_endpoint.get(endpoint, {}).values())

    # What a connection is to those who share it

    def waiting_at(self, endpoint: Endpoint) -> list[Link]:
        """Those who wait for a connection to ``endpoint``; whoever had joined comes first."""
        waiting = [link for link in self.at(endpoint) if link.down_since is not None and not link.is_given_up]
        return sorted(waiting, key=lambda link: link.state is LinkState.ANNOUNCED)

    def is_up(self, endpoint: Endpoint) -> bool:
        """Whether there is a connection that goes on; one that is being drained does not."""
        return any(link.down_since is None and not link.is_given_up for link in self.at(endpoint))

    def is_draining(self, endpoint: Endpoint) -> bool:
        return any(link.is_given_up for link in self.at(endpoint))

    # Who stands in the way of whom

    def rivals(self, link: Link) -> list[Link]:
        """Whom this link replaces when it is proved: had joined, and has the same id or the same endpoint."""
        others = {other.key: other for other in (*self.of(link.peer.id), *self.at(link.endpoint))}
        return [other for other in others.values() if other is not link and other.state is not LinkState.ANNOUNCED]

    def is_unproved(self, link: Link) -> bool:
        """Whether it may go where another needs its room: it never joined, and is not being drained."""
        return link.key in self._unproved

    @property
    def unproved(self) -> Iterator[Link]:
        """All of those, oldest first."""
        return iter(self._unproved.values())

    def settle(self, link: Link) -> None:
        """It has joined, or is given up: no longer may it go for another."""
        self._unproved.pop(link.key, None)

    # Changes

    def add(self, link: Link) -> None:
        self._by_key[link.key] = self._unproved[link.key] = link
        self._by_id.setdefault(link.peer.id, {})[link.key] = link
        self._by_endpoint.setdefault(link.endpoint, {})[link.key] = link

    def move(self, link: Link, endpoint: Endpoint) -> None:
        self._leave(link)
        link.endpoint = endpoint
        self._by_endpoint.setdefault(endpoint, {})[link.key] = link

    def replace(self, fresh: Link) -> None:
        """Put a link in the place of the one of the same life."""
        self._by_key[fresh.key] = self._unproved[fresh.key] = fresh
        self._by_id[fresh.peer.id][fresh.key] = self._by_endpoint[fresh.endpoint][fresh.key] = fresh

    def remove(self, link: Link) -> None:
        del self._by_key[link.key]
        self._unproved.pop(link.key, None)
        siblings = self._by_id[link.peer.id]
        del siblings[link.key]
        if not siblings:
            del self._by_id[link.peer.id]
        self._leave(link)

    def _leave(self, link: Link) -> None:
        neighbours = self._by_endpoint[link.endpoint]
        del neighbours[link.key]
        if not neighbours:
            del self._by_endpoint[link.endpoint]


__all__ = ["Links"]
