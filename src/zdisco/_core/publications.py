"""What we publish: the number of each topic's latest message, and the last values that are kept.

Rule 1: the messages of a topic are numbered from 1, in the order in which they are sent. A topic
that had to go from the table comes back under another stream number, from 1 again.

Rule 2: a topic that rests is closed by a TAIL frame, which tells its latest number, so that the
loss of its last messages shows: soon, then ever more rarely, for ever.

Rule 3: nothing is done for a single message but counting it. Whoever sends the first message of a
topic after a rest calls `activate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

from attrs import define, field

from .config import PeerConfig
from .envelope import (
    ConfirmBody,
    Kind,
    Marker,
    NumbersBody,
    RetainedBody,
    Scope,
    TopicNumber,
    check_topic,
    data_frame,
    data_prefix,
    direct_topic,
    group_topic,
    pack_frame,
)
from .model import PeerId
from .timers import Timers


@define(eq=False)
class Publication:
    """One topic that we publish."""

    topic: bytes
    """Without the NUL."""
    stream: int
    prefix: bytes
    """What each frame of it begins with."""
    sent: int = 0
    """The number of the latest message that was sent."""
    pack: list[bytes] = field(factory=list)
    """The payloads of those that were published after it and leave in one frame."""
    is_active: bool = False
    """Whether something was published since the last look at it."""
    needs_room: bool = True
    """Whether its next message has to find room by itself, where publishing waits for it."""
    seen: int = 0
    """The number at the last look at it."""
    retained: bytes | None = None
    """The frame of the last value that is kept."""
    rest: float = 0.0
    """Seconds until the next TAIL."""

    @property
    def sequence(self) -> int:
        """The number of the latest message."""
        return self.sent + len(self.pack)

    def frame(self, payload: bytes) -> bytes:
        """The frame of the next message; who sends it counts it."""
        return data_frame(self.prefix, Kind.DATA, self.sequence + 1, payload)

    def close_pack(self) -> bytes:
        """The frame of the pack, which counts as sent; one message needs none."""
        payloads, self.pack = self.pack, []
        first, self.sent = self.sent + 1, self.sent + len(payloads)
        if len(payloads) == 1:
            return data_frame(self.prefix, Kind.DATA, first, payloads[0])
        return pack_frame(self.prefix, first, payloads)

    @property
    def tail(self) -> bytes:
        """The frame that tells the latest number."""
        return data_frame(self.prefix, Kind.TAIL, self.sequence, b"")


@define(eq=False)
class Publications:
    """All topics that we publish, up to ``max_topics``; beyond it the one that was new longest ago goes."""

    _id: PeerId
    _session: bytes
    _config: PeerConfig
    _stream: int = 0
    topics: dict[str, Publication] = field(factory=dict)
    groups: dict[str, Publication] = field(factory=dict)
    peers: dict[PeerId, Publication] = field(factory=dict)
    """What we publish to one peer each."""
    _retained: dict[Publication, None] = field(factory=dict)
    _active: dict[Publication, None] = field(factory=dict)
    _rests: Timers[Publication] = field(factory=Timers)
    _look: float = inf
    """When the active topics are looked at again."""
    _serial: int = 0
    """Of the latest confirmation."""

    def add(self, topic: str) -> tuple[Publication, list[bytes]]:
        """A topic that is not there yet, and the frames to send before.

        Raises:
            TypeError: If the topic is not text.
            ValueError: If it is none, see `check_topic`.
        """
        raw = check_topic(topic)
        frames = self._make_room()
        publication = self.topics[topic] = self._new(raw)
        return publication, frames

    def add_group(self, group: str) -> tuple[Publication, list[bytes]]:
        """The same for the messages to a group; raises as `check_name` does."""
        raw = group_topic(group)
        frames = self._make_room()
        publication = self.groups[group] = self._new(raw)
        return publication, frames

    def add_peer(self, id: PeerId) -> tuple[Publication, list[bytes]]:
        """The same for the messages to one peer."""
        frames = self._make_room()
        publication = self.peers[id] = self._new(direct_topic(id))
        return publication, frames

    def forget_peer(self, id: PeerId) -> None:
        """A peer is gone: it is told nothing more of what was sent to it."""
        if (publication := self.peers.pop(id, None)) is not None:
            self._drop(publication)

    def _new(self, topic: bytes) -> Publication:
        return Publication(topic, self._stream, data_prefix(topic, self._id, self._session, self._stream))

    def _make_room(self) -> list[bytes]:
        if len(self.topics) + len(self.groups) + len(self.peers) < self._config.max_topics:
            return []
        tables: tuple[dict[Any, Publication], ...] = self.topics, self.groups, self.peers
        table = next(filter(None, tables))
        publication = table.pop(next(iter(table)))
        self._drop(publication)
        return [publication.tail] if publication.sequence else []

    def _drop(self, publication: Publication) -> None:
        publication.is_active = False
        self._retained.pop(publication, None)
        self._active.pop(publication, None)
        self._rests.cancel(publication)
        # Whoever comes back under its name counts from 1 again, in another stream.
        self._stream = (self._stream + 1) & 0xFFFFFFFF

    def activate(self, publication: Publication, now: float) -> None:
        """The topic does not rest any more."""
        publication.is_active = publication.needs_room = True
        self._rests.cancel(publication)
        self._active[publication] = None
        if self._look == inf:
            self._look = now + self._config.tail_delay

    def retain(self, publication: Publication, frame: bytes) -> bool:
        """Keep the last value of a topic; returns whether the oldest had to go."""
        publication.retained = frame
        self._retained.pop(publication, None)
        self._retained[publication] = None
        # They go out at once, with each confirmation, and have to find room in the queue.
        if len(self._retained) <= min(self._config.max_retained, max(1, self._config.send_hwm // 2)):
            return False
        self._forget(next(iter(self._retained)))
        return True

    def release(self, topic: str) -> bool:
        """Keep the value of a topic no longer; returns whether there was one."""
        publication = self.topics.get(topic)
        if publication is None or publication.retained is None:
            return False
        self._forget(publication)
        return True

    def _forget(self, publication: Publication) -> None:
        del self._retained[publication]
        publication.retained = None

    # What a subscriber is told

    def confirmation(self, seen: Marker, before: int) -> list[tuple[Kind, bytes]]:
        """Kinds and bodies of the frames that answer a marker.

        Args:
            seen: The marker.
            before: The counter of the newest marker of the same life that was answered; 0: none.
        """
        base, scope = 0, seen.scope
        if scope is Scope.NEW:
            # What it has subscribed to before is known to both only if nothing was missed.
            base, scope = (before, scope) if before == seen.counter - 1 else (0, Scope.UNNAMED)
        self._serial = (self._serial + 1) & 0xFFFFFFFF
        frames = [
            (Kind.RETAINED, RetainedBody(self._serial, frame).encode()) for frame in self.values(scope, seen.prefixes)
        ]
        for body in NumbersBody.split(self._serial, self.numbers(scope, seen.prefixes)):
            frames.append((Kind.NUMBERS, body.encode()))
        return [*frames, (Kind.CONFIRM, ConfirmBody(seen.counter, base, self._serial, len(frames)).encode())]

    def values(self, scope: Scope, prefixes: tuple[bytes, ...]) -> Iterator[bytes]:
        """The frames of the values that are kept, as far as a marker asks for them."""
        for publication in self._retained:
            if publication.retained is not None and _is_within(publication, scope, prefixes):
                yield publication.retained

    def numbers(self, scope: Scope, prefixes: tuple[bytes, ...]) -> Iterator[TopicNumber]:
        """The topics that a marker asks for, with their numbers."""
        for publication in (*self.topics.values(), *self.groups.values(), *self.peers.values()):
            if _is_within(publication, scope, prefixes):
                yield TopicNumber(publication.topic, publication.stream, publication.sequence)

    # Time

    @property
    def deadline(self) -> float:
        """When `tick` is to be called next, at the latest; ``inf`` is never."""
        return min(self._look, self._rests.next)

    def tick(self, now: float) -> list[bytes]:
        """The TAIL frames that are due."""
        frames: list[bytes] = []
        for publication, _ in self._rests.pop_due(now):
            frames.append(self._close(publication, now))
        if self._look <= now:
            for publication in list(self._active):
                if publication.sequence != publication.seen:
                    publication.seen = publication.sequence
                    continue
                del self._active[publication]
                publication.is_active = False
                publication.rest = self._config.tail_delay
                if publication.sequence:
                    frames.append(self._close(publication, now))
            self._look = now + self._config.tail_delay if self._active else inf
        return frames

    def _close(self, publication: Publication, now: float) -> bytes:
        publication.rest = min(2 * publication.rest, self._config.tail_interval)
        self._rests.arm(publication, now + publication.rest)
        return publication.tail

    def close(self) -> list[bytes]:
        """The TAIL frames of all topics that were not closed yet: nothing is published any more."""
        frames = [publication.tail for publication in self._active]
        self._active.clear()
        self._rests = Timers()
        self._look = inf
        return frames


def _is_within(publication: Publication, scope: Scope, prefixes: tuple[bytes, ...]) -> bool:
    return scope is Scope.UNNAMED or (publication.topic + b"\0").startswith(prefixes)
