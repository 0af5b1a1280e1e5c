"""The shell: drives the core with what the channels tell, and does what the core asks for.

Rule 1: each input of a channel goes to the core in the step that read it, and what the core
answers is done in the same step. Between them there is no ``await``.

Rule 2: no input ends a task. What the network does wrong is counted.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import assert_never, cast

import anyio
import anyio.abc
import anyio.lowlevel

from ._channels import DataChannel, Network, ProxyChannel
from ._core import actions
from ._core.actions import Drop, Output
from ._core.config import PeerConfig
from ._core.discovery import Discovery
from ._core.envelope import ControlFrame, Kind
from ._core.errors import MalformedMessage, ProxySighting
from ._core.events import (
    Event,
    EventsDropped,
    MessagesLost,
    PeerEvent,
    PeerGone,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    PeerUpdated,
    ProxyFound,
    ProxyLost,
)
from ._core.model import Endpoint, LinkState, PeerInfo
from ._core.relay import Relay
from ._core.wire import Announce, decode
from ._home import Home
from ._loops import clock
from ._messages import InboxStream, MessageStream, Received, Subscriptions
from ._zmq.monitor import MonitorEvent, SocketEvent

logger = logging.getLogger("zdisco")
discovery_log = logging.getLogger("zdisco.discovery")
"""Has the lines of the classic programs, for those who set it to DEBUG."""


class Driver:
    """One core, its clock, and its channels.

    Args:
        me: Our announce.
        config: Intervals and bounds.
        data: The data channel, bound.
        proxies: The channels to all proxies.
        network: Looks names up.
        home: Where the data channel is, and whether that changes.
        tell: Called with each event for the user.
        observe: Called with each socket event.
    """

    def __init__(
        self,
        me: Announce,
        config: PeerConfig,
        data: DataChannel,
        proxies: Sequence[ProxyChannel],
        network: Network,
        home: Home,
        tell: Callable[[Event], None],
        observe: Callable[[MonitorEvent], None],
    ) -> None:
        self.core = Discovery(me, [proxy.endpoint for proxy in proxies], config, random.random)
        self.clock = clock()
        """Tells the time of the event loop."""
        self.data = data
        self._config = config
        self.observed = observe
        self.messages = Subscriptions(
            self.core.roster.sender, self.control, self.dropped, lambda loss: self.perform([loss]), self.clock
        )
        self.data_frames = self.messages.deliver
        self.rival: PeerInfo | None = None
        """A process that has our id and started earlier than we did."""
        self.flush: Callable[[], None] = _nothing
        """Sends what was published and has not left yet."""
        self.inbox: Mapping[Kind, Callable[[ControlFrame], None]] = {}
        """Who takes which frames of our inbox; the others are for the core."""
        self.chores: list[Callable[[], Coroutine[None, None, None]]] = []
        """What else is to be done as long as we run."""
        self.move_gossip: Callable[[Endpoint, Endpoint], Endpoint] = lambda bound, announced: ""
        """Lets our gossip node listen at the address of the data channel, too, and returns where that is announced."""
        self.moved: Callable[[], None] = _nothing
        """Called when our data channel listens elsewhere."""
        self._tell = tell
        self._network = network
        self._home = home
        self._doubts_home = anyio.Event()
        self._proxies = {proxy.endpoint: _ProxySide(self, proxy) for proxy in proxies}
        self._dropped: Counter[Drop] = Counter()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._probing: set[Endpoint] = set()
        self._probes = anyio.CapacityLimiter(config.max_probes)
        self._changed: anyio.Event | None = None
        self.is_closed = False
        """Whether `close` was called: nothing changes any more."""
        self._alarm = anyio.Event()
        self._sleep: anyio.CancelScope | None = None
        self._opens = False
        self._is_unmarked = False
        """Whether something was subscribed after the newest marker."""
        self._marked_at = float("-inf")
        self._awaited: dict[int, anyio.Event] = {}
        """The markers that somebody waits for to be confirmed."""
        self.perform(self.core.start())

    @property
    def present(self) -> list[Event]:
        """What a reader of events who comes now has to know of the peers that are there."""
        events: list[Event] = []
        for link in self.core.roster.links:
            if link.state in (LinkState.JOINED, LinkState.SUSPECT):
                events.append(PeerJoined(link.peer))
            if link.state is LinkState.SUSPECT:
                events.append(PeerSuspected(link.peer))
        return events

    @property
    def drops(self) -> Mapping[Drop, int]:
        """How often something was dropped, by reason; read-only."""
        return MappingProxyType(self._dropped)

    @property
    def sightings(self) -> tuple[ProxySighting, ...]:
        """What was seen of each proxy."""
        return tuple(self._proxies[relay.proxy].sighting(relay) for relay in self.core.relays)

    # Tasks

    async def run(self) -> None:
        """Run the channels and the clock until cancelled, or until there is a `rival`."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self.data.run, self)
            for side in self._proxies.values():
                self._tasks.start_soon(side.channel.run, side)
            self._tasks.start_soon(self._keep_time)
            if self._home.may_change:
                self._tasks.start_soon(self._keep_home)
            for chore in self.chores:
                self._tasks.start_soon(chore)

    async def _keep_time(self) -> None:
        while True:
            now = self.clock()
            if self._opens:
                self._opens = False
                # Whoever gets a link message may hold us for joined, so it must name the newest marker.
                self._mark()
                self.feed(self.core.open(now))
            if self.core.deadline <= now:
                self.feed(self.core.tick(now))
            self._alarm = anyio.Event()
            # Whoever changes the deadline moves that of the scope, which wakes nobody.
            with anyio.CancelScope(deadline=self.core.deadline) as self._sleep:
                await self._alarm.wait()
            self._sleep = None

    async def _keep_home(self) -> None:
        while True:
            with anyio.move_on_after(self._config.address_interval):
                await self._doubts_home.wait()
            self._doubts_home = anyio.Event()
            endpoint = await self._home.moved(self._network, self.data)
            if endpoint is not None:
                gossip = self.move_gossip(self.data.endpoint, endpoint)
                self.feed(self.core.moved(endpoint, self.clock(), gossip))
                self.moved()
                for side in self._proxies.values():
                    side.channel.reconnect()

    def doubt_home(self) -> None:
        """A connection has ended: see at once whether our address is still there."""
        self._doubts_home.set()

    def close(self) -> None:
        """Wake all who wait for a change: none comes any more."""
        self.is_closed = True
        self._notify()

    async def changed(self) -> None:
        """Wait until something came in, or `close`. Cancellation: safe."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    async def in_force(self, wanted: int) -> None:
        """Wait until what was subscribed before this marker is in force at every peer that relies on us.

        All that is subscribed in one turn of the event loop shares one marker. A confirmation may
        be lost where the peer's queue to us is full, so the marker is repeated. A peer that hangs
        holds us up for ``suspect_timeout`` at the most.

        Cancellation: safe.
        """
        self._is_unmarked = True
        await anyio.lowlevel.checkpoint()
        self._mark()
        with anyio.move_on_after(self._config.suspect_timeout):
            while self._lacks(wanted):
                with anyio.move_on_after(self._config.link_retry_max) as scope:
                    await self._awaited.setdefault(wanted, anyio.Event()).wait()
                if scope.cancelled_caught:
                    self._mark_again()
            return
        # Nobody may ever confirm it. Others who wait for it run out of patience soon, too.
        self._awaited.pop(wanted, None)

    def receive(self, stream: InboxStream) -> None:
        """Let a stream have the messages to us, from before anybody can hold us for joined."""
        interest, outputs = self.core.roster.subscribe(stream._prefix)
        self.messages.add(cast("MessageStream[Received]", stream), interest)
        self.perform(outputs)
        self._is_unmarked = True

    def _mark(self) -> None:
        if self._is_unmarked:
            self._is_unmarked = False
            self._marked_at = self.clock()
            self.perform(self.core.roster.next_marker())

    def _mark_again(self) -> None:
        # Many may wait for the same confirmations, and run out of patience together.
        if self.clock() - self._marked_at >= self._config.link_retry_max / 2:
            self._is_unmarked = True
            self._mark()

    def _lacks(self, marker: int) -> bool:
        return not self.is_closed and self.core.roster.unconfirmed(marker) > 0

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
        for marker in [marker for marker in self._awaited if not self._lacks(marker)]:
            self._awaited.pop(marker).set()

    def open_soon(self) -> None:
        """Let link messages out, in a later step than this one.

        So what the user subscribes first in the block is in force before anybody can hold us
        for joined.
        """
        self._opens = True
        self._alarm.set()

    # Core

    def feed(self, outputs: Sequence[Output]) -> None:
        """Do what the core asked for, and what is due at once."""
        self.perform(outputs)
        if self._sleep is not None and (deadline := self.core.deadline) != self._sleep.deadline:
            now = self.clock()
            if deadline <= now:
                self.perform(self.core.tick(now))
                deadline = self.core.deadline
            self._sleep.deadline = deadline
        self._notify()

    def perform(self, outputs: Sequence[Output]) -> None:
        """Do what the core asked for."""
        for output in outputs:
            match output:
                case actions.SendData(frame):
                    self.send(frame)
                case actions.SendToProxy(proxy, frame):
                    self._proxies[proxy].channel.send(frame)
                case actions.Dropped(drop, detail):
                    self.dropped(drop, detail)
                case actions.FollowWelcome(proxy, relay):
                    discovery_log.debug("Connecting proxy pub to: %s", relay)
                    self._proxies[proxy].channel.follow(relay)
                case actions.ConnectPeer(endpoint):
                    discovery_log.debug("Connecting data sub to %s", endpoint)
                    self.data.connect(endpoint)
                case actions.DisconnectPeer(endpoint):
                    discovery_log.debug("Disconnecting data sub from %s", endpoint)
                    self.data.disconnect(endpoint)
                case actions.RevivePeer(endpoint):
                    discovery_log.debug("Connecting data sub to %s anew", endpoint)
                    self.data.disconnect(endpoint)
                    self.data.connect(endpoint)
                case actions.DrainPeer(endpoint, sender):
                    self.data.drain(endpoint, sender)
                case actions.ShutPeer(peer):
                    self.data.shut(peer.bytes)
                case actions.MeetRival(announce):
                    self.feed(self.core.rival_met(announce, self.clock()))
                case actions.GiveWay(rival):
                    self._give_way(rival)
                case actions.SubscribeTopic(topic):
                    self.data.subscribe(topic)
                case actions.UnsubscribeTopic(topic):
                    self.data.unsubscribe(topic)
                case actions.TellLoss(sender, loss):
                    self.messages.lost(sender, loss)
                case actions.DeliverRetained(frame):
                    self.messages.retained(frame)
                case actions.ProbePeer(endpoint):
                    if endpoint not in self._probing:
                        self._probing.add(endpoint)
                        self._start(self._probe, endpoint)
                case actions.ResolveEndpoint(endpoint):
                    self._start(self._resolve, endpoint)
                case (
                    PeerJoined() | PeerUpdated() | PeerSuspected() | PeerRecovered() | PeerGone()
                    | MessagesLost() | ProxyFound() | ProxyLost() | EventsDropped()
                ):  # fmt: skip
                    logger.debug("%s", output)
                    if isinstance(output, PeerEvent):
                        self.messages.forget_routes()
                    self._tell(output)
                case _:
                    assert_never(output)

    def send(self, frame: bytes) -> None:
        """Send a control frame behind all that was published before. Never waits."""
        self.flush()
        self.data.send(frame)

    def _give_way(self, rival: PeerInfo) -> None:
        """Let `run` end."""
        assert self._tasks is not None, "the core asks for this only after an input of a channel"
        self.rival = rival
        self._tasks.cancel_scope.cancel()

    def _start(self, function: Callable[[Endpoint], Coroutine[None, None, None]], endpoint: Endpoint) -> None:
        assert self._tasks is not None, "the core asks for this only after an input of a channel"
        self._tasks.start_soon(function, endpoint)

    async def _probe(self, endpoint: Endpoint) -> None:
        try:
            async with self._probes:
                result = await self.data.probe(endpoint)
        finally:
            self._probing.discard(endpoint)
        self.feed(self.core.probed(endpoint, result, self.clock()))

    async def _resolve(self, endpoint: Endpoint) -> None:
        found = await self._network.resolve(endpoint)
        self.feed(self.core.resolved(endpoint, found, self.clock()))

    # What the data channel tells

    def control(self, frame: ControlFrame) -> None:
        """A control frame came in; not every one is for us."""
        if frame.inbox is not None and frame.inbox != self.core.info.id.bytes:
            self.dropped(Drop.OTHER_INBOX)
        elif frame.inbox is not None and (take := self.inbox.get(frame.kind)) is not None:
            take(frame)
        else:
            self.feed(self.core.control(frame, self.clock()))

    def subscribed(self, topic: bytes) -> None:
        self.feed(self.core.subscribed(topic, self.clock()))

    def unsubscribed(self, topic: bytes) -> None:
        """Proves nothing: a connection that dies and its successor overlap."""

    def link_up(self, endpoint: Endpoint) -> None:
        self.feed(self.core.link_up(endpoint, self.clock()))

    def link_down(self, endpoint: Endpoint) -> None:
        self.feed(self.core.link_down(endpoint, self.clock()))

    def link_retried(self, endpoint: Endpoint) -> None:
        self.feed(self.core.link_retried(endpoint))

    def link_rejected(self, endpoint: Endpoint) -> None:
        self.feed(self.core.link_rejected(endpoint, self.clock()))

    def drained(self, endpoint: Endpoint) -> None:
        discovery_log.debug("Disconnecting data sub from %s", endpoint)
        self.feed(self.core.drained(endpoint, self.clock()))

    def dropped(self, drop: Drop, detail: str = "", count: int = 1) -> None:
        """Count what was dropped, and log it for those who look."""
        self._dropped[drop] += count
        logger.debug("dropped: %s: %s", drop.value, detail)


def _nothing() -> None:
    """Before anybody asks for more."""


class _ProxySide:
    """What one proxy channel tells, with the name of the proxy."""

    def __init__(self, driver: Driver, channel: ProxyChannel) -> None:
        self.channel = channel
        self._driver = driver
        self._connected = False
        self._refused = 0

    def sighting(self, relay: Relay) -> ProxySighting:
        return relay.sighting(connected=self._connected, refused=self._refused)

    def proxy_frames(self, proxy: Endpoint, frames: Sequence[bytes]) -> None:
        now = self._driver.clock()
        for frame in frames:
            if discovery_log.isEnabledFor(logging.DEBUG):
                _log_received(frame)
            self._driver.feed(self._driver.core.received(proxy, frame, now))

    def proxy_down(self, proxy: Endpoint) -> None:
        self._driver.feed(self._driver.core.proxy_down(proxy, self._driver.clock()))
        self._driver.doubt_home()

    def relay_up(self, proxy: Endpoint) -> None:
        self._driver.feed(self._driver.core.relay_up(proxy, self._driver.clock()))

    def relay_down(self, proxy: Endpoint) -> None:
        self._driver.feed(self._driver.core.relay_down(proxy, self._driver.clock()))

    def dropped(self, drop: Drop, detail: str = "") -> None:
        self._driver.dropped(drop, detail)

    def observed(self, event: MonitorEvent) -> None:
        if event.socket == "proxySub":
            self._connected = self._connected or event.event is SocketEvent.HANDSHAKE_SUCCEEDED
            self._refused += event.event is SocketEvent.CLOSED
        self._driver.observed(event)


def _log_received(frame: bytes) -> None:
    try:
        message = decode(frame)
    except MalformedMessage:
        return  # the core counts it
    sender = message.info if isinstance(message, Announce) else message
    discovery_log.debug("Got %s from %s with endpoint %s", frame[:1].decode(), sender.id, sender.endpoint)
