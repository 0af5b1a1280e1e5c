"""Who reaches whom: what each peer says of its own links, put together.

Rule: only who should hear can say whether something arrives. So of a pair each direction is judged
by the row of its subscriber; where that gave none, nothing is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

from attrs import frozen

from ._core.errors import MalformedMessage
from ._core.model import LinkInfo, LinkState, PeerId, PeerInfo

SERVICE = "zdisco.links"
"""The service by which each peer answers with its row. No peer announces it; all have it."""


@frozen
class Reachability:
    """Who reaches whom among all peers that anybody has joined, ourselves included."""

    peers: Mapping[PeerId, PeerInfo]
    """All of them. Of those that only others know there is no more than id, name and endpoint."""
    rows: Mapping[PeerId, tuple[LinkInfo, ...]]
    """The links of each peer that gave an answer, ourselves included, as that peer sees them."""

    @property
    def mute(self) -> tuple[PeerInfo, ...]:
        """The peers that gave no answer: classic ones, those that do not reach us, or whom we do not reach."""
        return _sorted(peer for id, peer in self.peers.items() if id not in self.rows)

    @property
    def broken(self) -> tuple[tuple[PeerInfo, PeerInfo], ...]:
        """The pairs, publisher and subscriber, where what the first publishes does not reach the second."""
        return tuple(
            (publisher, subscriber)
            for subscriber in _sorted(self.peers[id] for id in self.rows)
            for publisher in _sorted(self.peers.values())
            if publisher.id != subscriber.id and not self._hears(subscriber.id, publisher.id)
        )

    def _hears(self, subscriber: PeerId, publisher: PeerId) -> bool:
        return any(link.inward and link.peer.id == publisher for link in self.rows[subscriber])


def reachability(
    me: PeerInfo, own: tuple[LinkInfo, ...], others: Mapping[PeerId, tuple[LinkInfo, ...]]
) -> Reachability:
    """Put the rows together."""
    rows = {me.id: own, **others}
    peers: dict[PeerId, PeerInfo] = {me.id: me}
    for row in rows.values():
        for link in row:
            if link.state in (LinkState.JOINED, LinkState.SUSPECT):
                # Our own row comes first, and knows the most.
                peers.setdefault(link.peer.id, link.peer)
    return Reachability(MappingProxyType(peers), MappingProxyType({id: row for id, row in rows.items() if id in peers}))


def _sorted(peers: Iterable[PeerInfo]) -> tuple[PeerInfo, ...]:
    return tuple(sorted(peers, key=lambda peer: (peer.name, peer.id)))


# On the wire


def encode_row(links: Iterable[LinkInfo]) -> bytes:
    """Our links as a JSON array with an object for each."""
    return json.dumps([link_to_json(link) for link in links]).encode()


def link_to_json(link: LinkInfo) -> dict[str, Any]:
    """One of them."""
    return {
        "id": str(link.peer.id),
        "name": link.peer.name,
        "endpoint": link.peer.endpoint,
        "state": link.state.value,
        "since": link.since,
        "inward": link.inward,
        "outward": link.outward,
        "silence": link.silence,
        "round_trip": link.round_trip,
    }


def decode_row(raw: bytes) -> tuple[LinkInfo, ...]:
    """The links of another peer.

    Raises:
        MalformedMessage: If they are none.
    """
    try:
        return tuple(_link(row) for row in json.loads(raw))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedMessage(f"a row of links: {error!r}", len(raw)) from error


def _link(row: Mapping[str, Any]) -> LinkInfo:
    return LinkInfo(
        peer=PeerInfo(UUID(_of(row["id"], str)), _of(row["endpoint"], str), name=_of(row["name"], str)),
        state=LinkState(row["state"]),
        since=float(row["since"]),
        inward=_of(row["inward"], bool),
        outward=None if row["outward"] is None else _of(row["outward"], bool),
        silence=None if row["silence"] is None else float(row["silence"]),
        round_trip=None if row["round_trip"] is None else float(row["round_trip"]),
    )


def _of(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
