"""The tuples of one gossip node: values with versions, what was deleted, and what each part adds up to.

Rule 1: of two values of a key the one with the later version stays, at every node; nothing else
decides. So the order in which they come does not matter, nor how often, nor over which ways.

Rule 2: the counter of a version is the time at which it was written, in milliseconds of wall
clock, and in any case above that of the version before. What a real zgossip says has no version;
whoever brings it in counts one up from the version before, from 1 if there is none. So what one of
ours wrote later wins over it, whoever hears what first. Its owner is the value itself, as a digest: all
that bring the same in make the same version, and nobody who forgot a key makes one of it twice.

Rule 3: what is deleted leaves a tombstone, and so does what expires, so that nobody who still has
the value brings it back. A tombstone has a life, which it takes along to other nodes: it is not
made young again there, and lives no longer than one that was made there.

Rule 4: what a store adds up to depends on keys and versions only, never on their order; equal
stores have equal sums.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from hashlib import blake2b
from types import MappingProxyType

from attrs import define, field, frozen

from ..timers import Timers
from .frames import BUCKETS, COUNTER_LIMIT, FORMER_LIMIT, LONGEST_LIFE, Entry, Renewal, Version, digest_of


class Fate(Enum):
    """What became of an entry that was put into a store."""

    KEPT = "it is the latest version now"
    STALE = "the store has that version, or a later one"
    NO_ROOM = "the store is full"


@frozen
class Put:
    """What `Store.put` did."""

    fate: Fate
    was: bytes | None = None
    """The value before; ``None``: the key had none."""
    is_news: bool = False
    """Whether others may lack it. A tombstone of a key of which nothing was known deletes nothing."""


@define(eq=False)
class _Row:
    """One key."""

    version: Version
    value: bytes | None
    ends: float | None
    """When it expires, or a tombstone is forgotten."""
    bucket: int
    sum: int
    former: tuple[int, ...] = ()
    """Digests of the values that it had before, latest first."""


@define(eq=False)
class Store:
    """Keys with their latest versions.

    Args:
        owner: Id of this node, 16 bytes.
        max_tuples: Keys that may have a value.
        max_tombstones: Keys that are remembered without one, see `forget_excess`.
        tombstone_time: Seconds for which they are.
    """

    owner: bytes
    max_tuples: int
    max_tombstones: int
    tombstone_time: float
    sums: list[int] = field(init=False, factory=lambda: [0] * BUCKETS)
    """What each part adds up to."""
    tombstones: int = field(init=False, default=0)
    size: int = field(init=False, default=0)
    """About how many bytes it takes to tell all of it."""
    _rows: dict[bytes, _Row] = field(init=False, factory=dict)
    _parts: list[dict[bytes, _Row]] = field(init=False, factory=lambda: [{} for _ in range(BUCKETS)])
    """The same, by the part to which they belong."""
    _live: dict[bytes, bytes] = field(init=False, factory=dict)
    _timers: Timers[bytes] = field(init=False, factory=Timers)
    _graves: list[tuple[float, bytes]] = field(init=False, factory=list)
    """Tombstones by the time of their end: a heap in which some are out of date."""

    @property
    def live(self) -> Mapping[bytes, bytes]:
        """Live view of the keys that have a value, in the order in which they got their first one."""
        return MappingProxyType(self._live)

    @property
    def sum(self) -> int:
        """What all parts add up to."""
        total = 0
        for part in self.sums:
            total ^= part
        return total

    @property
    def next(self) -> float:
        """When `expire` is to be called next; ``inf`` is never."""
        return self._timers.next

    def __len__(self) -> int:
        return len(self._rows)

    def version(self, key: bytes) -> Version | None:
        """The version that is kept of a key."""
        row = self._rows.get(key)
        return None if row is None else row.version

    def written(self, key: bytes, value: bytes | None, wall: int, life: float | None) -> Entry:
        """What this node writes: later than what is kept of the key, see rule 2.

        Args:
            wall: The wall clock, in milliseconds.
            life: Seconds until it expires; ``None``: never.
        """
        return Entry(key, Version(self._count(key, max(wall, 1)), self.owner), value, to_milliseconds(life))

    def adopted(self, key: bytes, value: bytes) -> Entry:
        """What a real zgossip says, as an entry; see rule 2."""
        return Entry(key, Version(self._count(key, 1), blake2b(value, digest_size=16).digest()), value)

    def _count(self, key: bytes, least: int) -> int:
        row = self._rows.get(key)
        return min(max(least, row.version.counter + 1 if row else 0), COUNTER_LIMIT)

    def put(self, entry: Entry, now: float) -> Put:
        """Keep an entry if it is later than what is kept of its key."""
        row = self._rows.get(entry.key)
        if row is not None and row.version >= entry.version:
            if entry.value is not None and entry.value != row.value:
                row.former = _merged((digest_of(entry.value),), row.former)
            return Put(Fate.STALE)
        was = None if row is None else row.value
        if entry.value is not None and was is None and len(self._live) >= self.max_tuples:
            return Put(Fate.NO_ROOM)
        former = entry.former if row is None else _merged(entry.former, row.former)
        if was is not None and was != entry.value:
            former = _merged((digest_of(was),), former)
        life = entry.life / 1000 or None
        if entry.value is None:
            # Others must not fill the table with such as never end.
            life = min(life or self.tombstone_time, self.tombstone_time)
        self._replace(entry.key, entry.version, entry.value, None if life is None else now + life, former)
        return Put(Fate.KEPT, was, row is not None or entry.value is not None)

    def expire(self, now: float) -> list[tuple[bytes, bytes]]:
        """Let what has lived its time become tombstones, and forget tombstones; returns what had a value."""
        expired = []
        for key, at in self._timers.pop_due(now):
            row = self._rows[key]
            if row.value is None:
                self._drop(key)
            else:
                expired.append((key, row.value))
                former = _merged((digest_of(row.value),), row.former)
                # From its own end on, not from ours: so everybody forgets it at about the same time.
                self._replace(key, row.version, None, at + self.tombstone_time, former)
        return expired

    def was(self, key: bytes, value: bytes) -> bool:
        """Whether the key had this value not long ago, here or elsewhere, and has another one, or none, now."""
        row = self._rows.get(key)
        return row is not None and row.value != value and digest_of(value) in row.former

    def entries(self, keys: Iterable[bytes], now: float) -> Iterator[Entry]:
        """What is kept of these keys, as another node is told it now."""
        for key in keys:
            row = self._rows.get(key)
            if row is None:
                continue
            life = None if row.ends is None else row.ends - now
            if life is None or life > 0:
                yield Entry(key, row.version, row.value, to_milliseconds(life), row.former)

    def renewals(self, keys: Iterable[bytes], now: float) -> Iterator[Entry | Renewal]:
        """As `entries`, for who most likely has these values already."""
        for entry in self.entries(keys, now):
            if entry.value is None:
                yield entry
            else:
                yield Renewal(entry.key, entry.version, digest_of(entry.value), entry.life)

    def renewed(self, renewal: Renewal) -> Entry | None:
        """The entry that a renewal stands for, if its value is the one that is kept here."""
        value = self._live.get(renewal.key)
        if value is None or digest_of(value) != renewal.digest:
            return None
        return Entry(renewal.key, renewal.version, value, renewal.life)

    def versions_in(self, buckets: Iterable[int]) -> dict[int, list[tuple[bytes, Version]]]:
        """All keys of some parts, with their versions."""
        return {bucket: [(key, row.version) for key, row in self._parts[bucket].items()] for bucket in buckets}

    def forget_excess(self) -> None:
        """Forget the tombstones for which there is no room: those that end first."""
        while self.tombstones > self.max_tombstones:
            ends, key = heapq.heappop(self._graves)
            row = self._rows.get(key)
            if row is not None and row.value is None and row.ends == ends:
                self._drop(key)
        if len(self._graves) > 64 and len(self._graves) > 4 * self.tombstones:
            self._graves = [(row.ends or 0.0, key) for key, row in self._rows.items() if row.value is None]
            heapq.heapify(self._graves)

    def _replace(
        self, key: bytes, version: Version, value: bytes | None, ends: float | None, former: tuple[int, ...]
    ) -> None:
        self._drop(key, keeps_place=value is not None)
        row = _Row(version, value, ends, bucket_of(key), _sum(key, version), former)
        self._rows[key] = self._parts[row.bucket][key] = row
        self.sums[row.bucket] ^= row.sum
        self.size += _size(key, value)
        if ends is not None:
            self._timers.arm(key, ends)
        if value is not None:
            self._live[key] = value
        else:
            self.tombstones += 1
            heapq.heappush(self._graves, (ends or 0.0, key))

    def _drop(self, key: bytes, keeps_place: bool = False) -> None:
        row = self._rows.pop(key, None)
        if row is None:
            return
        del self._parts[row.bucket][key]
        self.sums[row.bucket] ^= row.sum
        self.size -= _size(key, row.value)
        self._timers.cancel(key)
        if row.value is None:
            self.tombstones -= 1
        elif not keeps_place:
            del self._live[key]


def bucket_of(key: bytes) -> int:
    """The part of a store to which a key belongs."""
    return blake2b(key, digest_size=1).digest()[0]


def to_milliseconds(life: float | None) -> int:
    """A life as a frame carries it; what has one does not come to have none."""
    return 0 if life is None else min(max(1, round(life * 1000)), LONGEST_LIFE)


def _merged(later: tuple[int, ...], earlier: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(later + earlier))[:FORMER_LIMIT]


def _size(key: bytes, value: bytes | None) -> int:
    return len(key) + len(value or b"") + 8 * FORMER_LIMIT + 40


def _sum(key: bytes, version: Version) -> int:
    # Not of the value: one that expired here and not yet there has one version, and is no difference.
    written = key + b"\0" + version.counter.to_bytes(8) + version.owner
    return int.from_bytes(blake2b(written, digest_size=8).digest())
