"""Messages of the application on their way out: each in a frame of its own, or in packs where many come at once.

Rule 1: everything leaves in the order in which it was given. Whatever else is sent, the open pack goes first.

Rule 2: only a flood is packed. The first messages of a turn go at once; so do those that come slowly. Packs
leave together at the end of the turn of the event loop.

Rule 3: what is in a pack is published: it has its number, and its publisher went on. So a pack
waits for no room. It gets past a full queue, as control frames do; the next message of its topic
goes alone, and waits. So does the first one of a topic that has rested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import anyio.lowlevel

from ._arguments import payload_bytes
from ._core.config import PeerConfig
from ._core.envelope import PACK_LIMIT, check_name, check_topic
from ._core.errors import ClosedError, UnknownPeer
from ._core.events import PeerEvent, PeerGone, PeerJoined
from ._core.model import Cause, Overflow, PeerId
from ._core.publications import Publication
from ._driver import Driver
from ._loops import current_time, soon

_TURN = 512
"""Messages that a publisher sends before it lets others run ..."""
_TURN_TIME = 0.002
"""... and seconds."""
_OVER = float("-inf")
_SINGLES = 8
"""Messages of a turn that are no flood yet."""
_EXTRA = 64
"""Bytes that each message takes in a pack beside its own, at the least."""
_NO_NAME: Any = object()


class Publisher:
    """Sends messages, and lets others run where there are many.

    Args:
        driver: Has the channel and the topics.
        config: The numbers of the peer.
        check: Called at the beginning of each turn; raises if nothing can be published.
    """

    def __init__(self, driver: Driver, config: PeerConfig, check: Callable[[], object]) -> None:
        self._driver = driver
        self._check = check
        self._data = driver.data
        self._post = driver.data.publish
        self._clock = driver.data.clock
        self._call_soon = soon()
        self._publications = driver.core.roster.publications
        self._topics = self._publications.topics
        self._has_turn = False
        """Whether a turn was begun."""
        self._due = _OVER
        """Until when whoever publishes may go on in it."""
        self._turn = 0
        """How many messages of this turn have left, or are in closed packs."""
        self._ends_soon = False
        """Whether it ends with that of the event loop."""
        self._singles = _SINGLES
        """How many messages of this turn go alone."""
        self._flooded = _OVER
        """When the latest turn ended that was full."""
        # So that no pack has more than so many messages, however small.
        self._extra = max(_EXTRA, -(-config.pack_size // PACK_LIMIT))
        self._size = self._pack_size = config.pack_size
        """The latter; 0 while a peer is joined that could not read a pack."""
        self._classic: set[PeerId] = set()
        self._reachable: set[PeerId] = set()
        """Who was found to be joined, and to have an inbox, since the roster has changed."""
        self._packing: Publication | None = None
        """Whose pack is open ..."""
        self._name: str = _NO_NAME
        """... its topic, unless it is a group's ..."""
        self._room = 0
        """... the bytes that it still has room for ..."""
        self._append: Callable[[bytes], None] = _refuse
        """... and what puts a payload into it."""
        self._packs: list[tuple[Publication, bytes]] = []
        """Those that were closed in this turn. They leave together: each frame alone would wake the I/O thread."""
        self._waits = config.overflow is Overflow.WAIT
        self._passed: set[Publication] = set()
        """Those whose last packs had to get past a full queue."""
        # Such frames have as much room again as the queue. No more than a turn of packs leaves at
        # once, so this keeps three quarters of the room for control frames.
        self._most_passed = config.send_hwm // (4 * _TURN)

    # Messages

    def take(self, topic: str, payload: bytes, retain: bool) -> bool:
        """Put a message into the open pack if there is nothing else to do: the case that comes again and again."""
        if topic == self._name and type(payload) is bytes and not retain and self._clock() <= self._due:
            room = self._room - len(payload) - self._extra
            if room >= 0:
                self._room = room
                self._append(payload)
                return True
        return False

    async def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        """See `Peer.publish`."""
        if self._clock() > self._due:
            await self._next_turn()
        if not self._publish(topic, payload, retain):
            await self._when_writable(partial(self._publish, topic, payload, retain))

    def publish_nowait(self, topic: str, payload: bytes, retain: bool) -> bool:
        """See `Peer.publish_nowait`."""
        self._keep_turn()
        return self._publish(topic, payload, retain)

    async def publish_many(self, topic: str, payloads: Iterable[bytes]) -> None:
        """See `Peer.publish_many`."""
        left = iter(payloads)
        while chunk := list(islice(left, _TURN)):
            await self._next_turn()
            if len(chunk) > 1:
                self._singles = 0
            sent = self._publish_chunk(topic, chunk)
            for payload in chunk[sent:]:
                if not self._publish(topic, payload, False):
                    await self._when_writable(partial(self._publish, topic, payload, False))

    async def publish_group(self, group: str, payload: bytes) -> None:
        """See `Peer.publish_group`."""
        await self._take_turn()
        if not self._publish_to_group(group, payload):
            await self._when_writable(partial(self._publish_to_group, group, payload))

    async def publish_to(self, id: PeerId, payload: bytes) -> None:
        """See `Peer.send`."""
        await self._take_turn()
        if not self._publish_to(id, payload):
            await self._when_writable(partial(self._publish_to, id, payload))

    def _publish(self, topic: str, payload: bytes, retain: bool) -> bool:
        """Send a message if it need not wait."""
        if type(payload) is not bytes:
            payload = payload_bytes(payload)
        publication = self._topics.get(topic) if type(topic) is str else None
        if publication is None or not publication.is_active:
            publication = self._publication(topic)
        return self._send(publication, payload, topic, retain)

    def _publish_chunk(self, topic: str, payloads: Sequence[bytes]) -> int:
        """Send messages as long as none has to wait; returns how many were sent."""
        extra = self._extra
        for sent, payload in enumerate(payloads):
            if topic == self._name and type(payload) is bytes and (room := self._room - len(payload) - extra) >= 0:
                self._room = room
                self._append(payload)
            elif not self._publish(topic, payload, False):
                return sent
        return len(payloads)

    def _publish_to_group(self, group: str, payload: bytes) -> bool:
        return self._send(self._group_publication(group), payload)

    def _publish_to(self, id: PeerId, payload: bytes) -> bool:
        self._check()
        if id not in self._reachable:
            if self._driver.core.roster.session_of(id) is None:
                raise UnknownPeer(id)
            self._reachable.add(id)
        return self._send(self._peer_publication(id), payload)

    def _send(self, publication: Publication, payload: bytes, name: str = _NO_NAME, retain: bool = False) -> bool:
        """Put a message into a pack, or send it alone; false if it would have to wait."""
        size = len(payload) + self._extra
        # What fills more than half of a pack shares it with nothing.
        if self._turn >= self._singles and 2 * size <= self._size and not retain:
            if self._packing is not publication or self._room < size:
                self._close_pack()
            if self._packing is not None or self._open_pack(publication, name):
                self._room -= size
                self._append(payload)
                return True
        self.flush()
        self._count(1)
        frame = publication.frame(payload)
        publication.needs_room = not self._post(frame)
        self._data.published()
        if publication.needs_room:
            return False
        publication.sent += 1
        self._passed.discard(publication)
        if retain:
            self._publications.retain(publication, frame)
        return True

    def _open_pack(self, publication: Publication, name: str) -> bool:
        """Open a pack, unless it may have to get past a full queue again."""
        if self._waits and not self._may_pass(publication):
            return False
        if not self._ends_soon:
            self._ends_soon = True
            self._call_soon(self._end_turn)
        self._packing, self._name, self._room = publication, name, self._size
        self._append = publication.pack.append
        return True

    def _may_pass(self, publication: Publication) -> bool:
        if publication.needs_room:
            return False
        if len(self._passed) >= self._most_passed:
            # One that rests needs room when it wakes.
            self._passed = {one for one in self._passed if one.is_active}
        return len(self._passed) < self._most_passed

    def _close_pack(self) -> None:
        if (publication := self._packing) is not None:
            self._packing, self._name, self._room = None, _NO_NAME, 0
            self._count(len(publication.pack))
            self._packs.append((publication, publication.close_pack()))
            if len(self._packs) >= _TURN:
                self._send_packs()

    def flush(self) -> None:
        """Send all packs."""
        self._close_pack()
        if self._packs:
            self._send_packs()

    def _send_packs(self) -> None:
        packs, self._packs = self._packs, []
        try:
            for publication, frame in packs:
                if not self._post(frame):
                    publication.needs_room = True
                    self._passed.add(publication)
                    self._data.send(frame)
            self._data.published()
        except ClosedError:
            pass  # whoever publishes next is told

    async def _when_writable(self, publish: Callable[[], bool]) -> None:
        """Publish as soon as there is room, in the order of coming."""
        while True:
            self._check()
            await self._data.writable()
            self._keep_turn()
            if publish():
                return

    def told(self, event: PeerEvent) -> None:
        """The roster has changed."""
        id = event.peer.id
        if isinstance(event, PeerJoined) and self._driver.core.roster.is_classic(id):
            self.flush()
            self._classic.add(id)
        elif isinstance(event, PeerGone):
            self._classic.discard(id)
            if event.cause is not Cause.UNREACHABLE:
                self.flush()
                self._publications.forget_peer(id)
        self._reachable.clear()
        self._size = 0 if self._classic else self._pack_size

    def close(self) -> None:
        """Send what is left; nothing more is published."""
        self.flush()
        self._due = _OVER

    # Topics

    def _publication(self, topic: str) -> Publication:
        """The publication of a topic, which does not rest any more."""
        self._check()
        check_topic(topic)  # first: what is none may not even be hashable
        known = self._topics.get(topic)
        return self._awake(*(self._publications.add(topic) if known is None else (known, [])))

    def _group_publication(self, group: str) -> Publication:
        """The same for the messages to a group."""
        self._check()
        check_name("group", group)
        known = self._publications.groups.get(group)
        return self._awake(*(self._publications.add_group(group) if known is None else (known, [])))

    def _peer_publication(self, id: PeerId) -> Publication:
        """The same for the messages to one peer."""
        known = self._publications.peers.get(id)
        return self._awake(*(self._publications.add_peer(id) if known is None else (known, [])))

    def _awake(self, publication: Publication, first: Sequence[bytes]) -> Publication:
        for frame in first:
            self._driver.send(frame)
        if not publication.is_active:
            self._publications.activate(publication, current_time())
            self._driver.feed([])
        return publication

    # A turn begins with the first message that is published in it, and ends when it is full or late.
    # One in which a pack was opened is a turn of the event loop.

    async def _take_turn(self) -> None:
        """One more message, after others had their turn where this one was long."""
        if self._clock() > self._due:
            await self._next_turn()

    async def _next_turn(self) -> None:
        if self._has_turn:
            self._note_flood()
            await anyio.lowlevel.checkpoint()
        # Another task may have begun one meanwhile, in which there is room for us.
        if self._clock() > self._due:
            self._begin_turn()

    def _keep_turn(self) -> None:
        """One more message of who lets nobody else run."""
        if self._clock() > self._due:
            self._note_flood()
            self._begin_turn()

    def _begin_turn(self) -> None:
        self._check()
        self.flush()
        now = self._clock()
        self._has_turn, self._turn, self._due = True, 0, now + _TURN_TIME
        self._singles = 0 if now - self._flooded <= _TURN_TIME else _SINGLES

    def _count(self, messages: int) -> None:
        self._turn += messages
        if self._turn >= _TURN:
            self._due = _OVER

    def _note_flood(self) -> None:
        if self._turn >= _TURN:
            self._flooded = self._clock()

    def _end_turn(self) -> None:
        self.flush()
        self._note_flood()
        self._ends_soon, self._has_turn, self._due, self._turn = False, False, _OVER, 0


def _refuse(_: bytes) -> None:
    raise AssertionError("no pack is open")
