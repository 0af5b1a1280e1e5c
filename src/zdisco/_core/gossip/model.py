"""The nouns of the gossip network that a user meets."""

from __future__ import annotations

from enum import Enum

from attrs import frozen


class Change(Enum):
    """What happened to a key."""

    NEW = "new"
    """It has a value, and had none."""
    CHANGED = "changed"
    """It has another value."""
    REMOVED = "removed"
    """Somebody took it back."""
    EXPIRED = "expired"
    """Its time to live ended, and whoever published it did not refresh it."""


@frozen
class Delivery:
    """A change of the store of a gossip node, made by itself or by another one."""

    key: str
    value: str | None
    """``None`` where the key has no value any more."""
    change: Change


@frozen
class GossipStatus:
    """What a gossip node holds, and with whom it speaks."""

    tuples: int
    """Keys that have a value."""
    tombstones: int
    """Keys that were deleted, or expired, not long ago."""
    remotes: int
    """Nodes that it connected to and that answer now."""
    clients: int
    """Nodes that connected to it."""


def to_text(raw: bytes) -> str:
    """Bytes of the network as text; those that are no UTF-8 become surrogates, as in names of files (PEP 383)."""
    return raw.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Undo `to_text`.

    Raises:
        ValueError: If the text has surrogates that do not come from there.
    """
    return text.encode("utf-8", "surrogateescape")
