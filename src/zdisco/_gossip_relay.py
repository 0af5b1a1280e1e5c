"""A gossip node in the role of a proxy: the announces of peers travel as tuples.

Rule 1: to `Discovery` it is a proxy that is always there. Whoever has our tuple has our announce,
and our own node has it at once, so that is the echo.

Rule 2: what is in the store and not joined is told again now and then. So a peer that was given
up and lives is found again, as by a beacon, and nothing of it goes over the network.

Rule 3: beside the endpoints that it was given, the node connects to the next two in the ring of ids
of those who announce a gossip endpoint. So the network stays in one piece whoever ends, and it
does not matter which of them a newcomer was told.

Rule 4: tuples are hints, as is all that comes through a proxy: anybody can publish them. The
data channel gives proof.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from uuid import UUID

import anyio
from attrs import evolve

from ._channels import ProxyChannel, ProxyListener
from ._core.actions import Drop
from ._core.config import PeerConfig
from ._core.endpoints import TcpEndpoint, is_loopback, numeric, parse
from ._core.errors import BindError, ClosedError, InvalidEndpoint, MalformedMessage, SocketLimitError
from ._core.gossip.frames import LONGEST_LIFE
from ._core.gossip.model import Delivery
from ._core.model import Endpoint
from ._core.wire import Announce, Farewell, Welcome, decode, decode_text, encode, encode_text
from ._gossip import Gossip
from ._loops import Arrival, current_time

logger = logging.getLogger("zdisco")
PREFIX = "zdisco/peer/"
"""What the keys of announces begin with; the peer id follows."""
GOSSIP_ID = UUID("7a646973-636f-4000-8000-676f73736970")
"""The proxy that all gossip nodes are together: who is told of the roster by one need not be told by the others."""
_LIVES = 10
"""So many ``beacon_interval`` a tuple lives after its peer was killed; it is refreshed thrice in that time."""
_RETELL = 5.0
"""Seconds after which the announces of those who are not joined are told again, and our own tuple is looked after."""
_SUCCESSORS = 2
_LOOKUPS = 4
"""So many names are looked up for that in one go at the most ..."""
_LOOKUP_LASTS = 5.0
"""... each for so many seconds."""
_SETTLING = 0.1
"""Seconds for which we wait for more changes of the ring."""


class GossipRelay(ProxyChannel):
    """The gossip node of one peer, which hears and tells announces.

    Args:
        node: The node, entered.
        endpoint: Where it listens, as others reach it; also the name of this proxy.
        given: Endpoints that the node connected to for its user.
        config: For the interval of beacons, and for how many peers there may be.
        joined: What the joined peers announce, whatever way it came, when it is asked.
        resolve: Looks the name of a host up; ``None`` if it leads nowhere.
    """

    def __init__(
        self,
        node: Gossip,
        endpoint: Endpoint,
        given: Collection[Endpoint],
        config: PeerConfig,
        joined: Callable[[], Mapping[UUID, Announce]],
        resolve: Callable[[Endpoint], Awaitable[Endpoint | None]],
    ) -> None:
        self.node = node
        self.endpoint = endpoint
        self._given = frozenset(given)
        self._life = min(config.beacon_interval * _LIVES, LONGEST_LIFE / 1000)
        self._most = config.max_peers
        self._joined = joined
        self._resolve = resolve
        self._mine: Announce | None = None
        self._heard: dict[UUID, Announce] = {}
        """What the store says of others."""
        self._due: deque[Callable[[ProxyListener], None]] = deque()
        """What is to be told."""
        self._arrival = Arrival()
        self._changed = anyio.Event()
        """Who may be next in the ring."""

    async def run(self, listener: ProxyListener) -> None:
        self._greet()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow_store, listener)
            tasks.start_soon(self._look_around)
            while True:
                while self._due:
                    self._due.popleft()(listener)
                await self._arrival.wait()

    def _tell(self, what: Callable[[ProxyListener], None]) -> None:
        self._due.append(what)
        self._arrival.tell()

    def _tell_frames(self, frames: Sequence[bytes]) -> None:
        self._tell(lambda listener: listener.proxy_frames(self.endpoint, frames))

    # What we say

    def follow(self, relay: Endpoint) -> None:
        self._tell(lambda listener: listener.relay_up(self.endpoint))

    def reconnect(self) -> None:
        with suppress(ClosedError):
            self.node._reconnect()
        self._greet()

    def _greet(self) -> None:
        """Welcome ourselves, so that what we announce now is published."""
        self._tell_frames([encode(Welcome(GOSSIP_ID, self.endpoint))])

    def send(self, frame: bytes) -> None:
        message = decode(frame)
        try:
            match message:
                case Announce():
                    self._publish(evolve(message, again=False, informed_by=message.informed_by | {GOSSIP_ID}))
                case Farewell():
                    self._mine = None
                    self.node.unpublish_nowait(_key(message.id))
        except ClosedError:
            return
        # The echo.
        self._tell_frames([frame])

    def _publish(self, announce: Announce) -> None:
        # The node refreshes it by itself.
        if announce != self._mine:
            self._mine = announce
            self.node.publish_nowait(_key(announce.info.id), encode_text(announce), ttl=self._life)

    def move(self, bound: Endpoint, announced: Endpoint) -> Endpoint:
        """Let the node listen where the data channel is bound now, too, and return where that is announced.

        At the same port if that is free there. Nothing has changed if no port is.
        """
        first = self.node.endpoints[0]
        return beside(announced, first if _is_anywhere(first) else self._listen_beside(bound, first))

    def _listen_beside(self, bound: Endpoint, first: Endpoint) -> Endpoint:
        same = beside(bound, first)
        if same in self.node.endpoints:
            return same  # we were there before
        for endpoint in (same, any_port(bound)):
            try:
                return self.node._bind(endpoint)
            except (BindError, SocketLimitError, ClosedError) as error:
                logger.warning("our gossip node cannot listen at the new address: %s", error)
        return first

    def close(self) -> None:
        """The node is closed by whoever entered it."""

    # What we hear

    async def _follow_store(self, listener: ProxyListener) -> None:
        async with self.node.deliveries() as deliveries:
            async for delivery in deliveries:
                if delivery.key.startswith(PREFIX):
                    self._delivered(delivery, listener)

    def _delivered(self, delivery: Delivery, listener: ProxyListener) -> None:
        mine = self._mine
        if delivery.value is None:
            self._forget(delivery.key)
            return
        try:
            announce = decode_text(delivery.value)
        except MalformedMessage as error:
            listener.dropped(Drop.MALFORMED_DISCOVERY, error.reason)
            return
        if delivery.key != _key(announce.info.id):
            listener.dropped(Drop.FORGED_ANNOUNCE, delivery.key)
        elif mine is None or announce != mine:
            # In our name, too: an earlier life of ours, or a second process with our id. Discovery sees to it.
            self._tell_frames([encode(announce)])
            self._hear(announce, listener)

    def _hear(self, announce: Announce, listener: ProxyListener) -> None:
        if announce.info.id not in self._heard and len(self._heard) >= self._most:
            listener.dropped(Drop.TABLE_FULL, "announces")
            return
        self._heard[announce.info.id] = announce
        self._changed.set()

    def look(self) -> None:
        """Somebody joined, or is gone: see who is next in the ring."""
        self._changed.set()

    def _forget(self, key: str) -> None:
        with suppress(ValueError):
            id = UUID(key.removeprefix(PREFIX))
            # There are other ways to write it, which are other keys.
            if key == _key(id) and self._heard.pop(id, None) is not None:
                self._changed.set()

    async def _look_around(self) -> None:
        """Do what nobody tells us to do: see rules 2 and 3."""
        told = float("-inf")
        while True:
            with anyio.move_on_after(_RETELL):
                await self._changed.wait()
                # Many come at a time.
                await anyio.sleep(_SETTLING)
            self._changed = anyio.Event()
            with suppress(ClosedError):
                await self._keep_ring()
                if current_time() - told >= _RETELL:
                    told = current_time()
                    self._retell()

    def _retell(self) -> None:
        mine = self._mine
        if mine is None:
            return
        if self.node.get(_key(mine.info.id)) != (text := encode_text(mine)):
            # Somebody took it for his, or us for dead. Not at once, or two would do that to each other without end.
            self.node.publish_nowait(_key(mine.info.id), text, ttl=self._life)
        joined = self._joined()
        missing = [
            encode(one)
            for id, one in self._heard.items()
            if id not in joined and id != mine.info.id and one.info.cluster == mine.info.cluster
        ]
        if missing:
            self._tell_frames(missing)

    async def _keep_ring(self) -> None:
        mine = self._mine
        wanted = set() if mine is None else await self._successors(mine) - self._given
        for endpoint in self.node._borrowed - wanted:
            self.node._give_back(endpoint)
        for endpoint in wanted:
            try:
                self.node._borrow(endpoint)
            except (InvalidEndpoint, SocketLimitError) as error:
                # The next look tries again.
                logger.warning("cannot connect to the gossip node of another peer: %s", error)

    async def _successors(self, mine: Announce) -> set[Endpoint]:
        """Where those listen that are next in the ring of ids."""
        # Also those that we know through a proxy only, or the gossip nodes of both would never meet.
        known = {**self._heard, **self._joined()}
        others = sorted(id for id, one in known.items() if one.gossip not in ("", mine.gossip))
        after = [id for id in others if id > mine.info.id] + [id for id in others if id < mine.info.id]
        found: set[Endpoint] = set()
        lookups = 0
        for id in after:
            if len(found) == _SUCCESSORS or lookups == _LOOKUPS:
                break
            with suppress(InvalidEndpoint):
                endpoint = numeric(known[id].gossip)
                if endpoint is None:
                    lookups += 1
                    endpoint = await self._look_up(known[id].gossip)
                if endpoint is not None and _may_connect(endpoint, known[id], mine):
                    found.add(endpoint)
        return found

    async def _look_up(self, endpoint: Endpoint) -> Endpoint | None:
        with anyio.move_on_after(_LOOKUP_LASTS):
            return await self._resolve(endpoint)
        return None


def beside(endpoint: Endpoint, other: Endpoint) -> Endpoint:
    """The host of the one with the port of the other."""
    return str(TcpEndpoint(parse(endpoint).host, parse(other).port))


def any_port(endpoint: Endpoint) -> Endpoint:
    """The same host, and whatever port is free."""
    return endpoint.rpartition(":")[0] + ":*"


def _is_anywhere(endpoint: Endpoint) -> bool:
    try:
        numeric(endpoint)
    except InvalidEndpoint:
        return True
    return False


def _key(id: UUID) -> str:
    return f"{PREFIX}{id}"


def _may_connect(endpoint: Endpoint, announce: Announce, mine: Announce) -> bool:
    """Whether we believe that a gossip node of another peer is where its announce leads."""
    # Another machine's loopback endpoint would lead us to a stranger on ours.
    return not is_loopback(endpoint) or is_loopback(mine.gossip) or announce.info.host == mine.info.host
