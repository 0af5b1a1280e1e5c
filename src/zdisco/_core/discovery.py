"""Our own join and leave; the one class that the shell drives.

Rule 1: every input returns all that follows from it. Nothing is queued inside, and nothing
happens by itself: time comes in as ``now``, the next deadline goes out as `deadline`.

Rule 2: we announce when a proxy's subscription arrives, also after the proxy was replaced, and
repeat it until our own announce comes back.

Rule 3: a peer that is leaving answers nobody, except by another farewell.

Rule 4: what others say about us does not count. A farewell in our name that we did not send, or
an announce of our id by somebody else, makes us raise our incarnation and announce.

Rule 5: a change of what we announce goes to each peer directly, too, and again to whoever
connects later, so it arrives with every proxy gone; but for the endpoint, see `Roster`, rule 2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import TypeAlias
from uuid import UUID

from attrs import define, evolve, field

from .actions import Drop, Dropped, FollowWelcome, GiveWay, Output, ResolveEndpoint, SendData, SendToProxy
from .config import PeerConfig
from .endpoints import is_loopback, numeric
from .envelope import (
    ALL,
    ConfirmBody,
    ControlFrame,
    FarewellBody,
    Inbox,
    Kind,
    LinkBody,
    Marker,
    NumbersBody,
    PingBody,
    PongBody,
    RetainedBody,
    SuspectBody,
    control_frame,
    inbox,
    parse_subscription,
)
from .errors import InvalidEndpoint, MalformedMessage
from .events import ProxyFound, ProxyLost
from .link import LinkKey
from .model import Endpoint, PeerId, PeerInfo, Probe, peer_id
from .relay import Relay, RelaySignal, RelayState
from .roster import Roster
from .timers import Timers
from .wire import MAX_INCARNATION, Announce, DiscoveryMessage, Farewell, Welcome, decode, encode


class Stage(Enum):
    """Where we are in our own life."""

    STARTED = "started"
    LEAVING = "leaving"


class Alarm(Enum):
    """What a deadline of our own is for."""

    ANNOUNCE = "repeat the announce that has not come back"
    FAREWELL = "repeat the farewell that has not come back"
    RELAY = "connect to the publish endpoint again"
    BEACON = "announce to show that we are there"
    ANSWER = "announce to the newcomers"
    REFUTE = "say that what was said about us is wrong"


Deadline: TypeAlias = tuple[Alarm, Endpoint]

EVERYBODY: Endpoint = ""

_FEW = 8
"""With more joined peers than these beacons are rarer, so that nobody gets more of them than among these ..."""
_RAREST = 4.0
"""... but not more rarely than this many times."""
_FORMER = 16
"""Former endpoints of ours that are remembered."""


@define(eq=False)
class Discovery:
    """The protocol of one peer, without I/O.

    Args:
        me: Our own announce; its endpoint is where our data channel listens.
        proxies: The well-known endpoints of all proxies.
        config: Intervals and bounds.
        jitter: Returns a random number of at least 0 and less than 1.
    """

    me: Announce
    proxies: Sequence[Endpoint]
    config: PeerConfig
    jitter: Callable[[], float]
    roster: Roster = field(init=False)
    stage: Stage = field(default=Stage.STARTED, init=False)
    _relays: dict[Endpoint, Relay] = field(init=False)
    _timers: Timers[Deadline] = field(factory=Timers, init=False)
    _unresolved: dict[Endpoint, dict[LinkKey, Announce]] = field(factory=dict, init=False)
    """Host names that are being looked up, and the latest announce of each life that named it."""
    _farewells: set[Endpoint] = field(factory=set, init=False)
    _answer_again: bool = field(default=False, init=False)
    _wrongly_said: int = field(default=0, init=False)
    """The highest incarnation in what others announced in our name."""
    _refuted_at: float = field(default=float("-inf"), init=False)
    _endpoints: deque[Endpoint] = field(factory=partial(deque, maxlen=_FORMER), init=False)
    """Where we were before; what we announced then may still come back."""

    def __attrs_post_init__(self) -> None:
        self.roster = Roster(self.me.info.id, self.me.session, self.config, self.jitter)
        self._relays = {proxy: Relay(proxy) for proxy in self.proxies}

    # What can be asked

    @property
    def info(self) -> PeerInfo:
        return self.me.info

    @property
    def joined(self) -> Mapping[UUID, PeerInfo]:
        """The joined peers, as a read-only view."""
        return self.roster.joined

    @property
    def relays(self) -> tuple[Relay, ...]:
        return tuple(self._relays.values())

    @property
    def is_found(self) -> bool:
        """Whether a proxy relays us: the discovery handshake is done."""
        return any(relay.state is RelayState.FOUND for relay in self._relays.values())

    @property
    def unheard_farewells(self) -> frozenset[Endpoint]:
        """The proxies whose echo of our farewell is still awaited."""
        return frozenset(self._farewells)

    @property
    def deadline(self) -> float:
        """When `tick` is to be called next, at the latest; ``inf`` is never."""
        return min(self._timers.next, self.roster.deadline)

    # The proxies

    def received(self, proxy: Endpoint, frame: bytes, now: float) -> list[Output]:
        """A discovery message came through ``proxy``."""
        try:
            message = decode(frame)
        except MalformedMessage as error:
            return [Dropped(Drop.MALFORMED_DISCOVERY, error.reason)]
        match message:
            case Welcome():
                return self._welcomed(self._relays[proxy], message, now)
            case Announce():
                return self._announced(self._relays[proxy], message, now)
            case Farewell():
                return self._farewell(self._relays[proxy], message, now)

    def _welcomed(self, relay: Relay, welcome: Welcome, now: float) -> list[Output]:
        if relay.echoes:
            if welcome.endpoint == relay.endpoint:
                return []
            return [Dropped(Drop.FORGED_WELCOME, welcome.endpoint)]
        try:
            numeric(welcome.endpoint)
        except InvalidEndpoint as error:
            return [Dropped(Drop.REFUSED_ENDPOINT, str(error))]
        if relay.state is RelayState.MUTE:
            return self._welcomed_again(relay, welcome, now)
        outputs: list[Output] = []
        relay.id = welcome.id
        if welcome.endpoint != relay.endpoint or relay.state is RelayState.AWAY:
            relay.endpoint = welcome.endpoint
            relay.signal(RelaySignal.RELAY_DOWN)
            outputs.append(FollowWelcome(relay.proxy, relay.endpoint))
        relay.signal(RelaySignal.WELCOME)
        return outputs + self._after_relay_change(relay, now)

    def _welcomed_again(self, relay: Relay, welcome: Welcome, now: float) -> list[Output]:
        """Another welcome came before the publish endpoint of the first has answered.

        A classic proxy greets everybody again with each newcomer, and anybody may forge one. So
        we do not follow at once, but try in turn what was named.
        """
        known = [relay.endpoint, *(endpoint for _, endpoint in relay.others)]
        if welcome.endpoint in known:
            return []
        if len(known) >= self.config.max_welcomes:
            return [Dropped(Drop.FORGED_WELCOME, welcome.endpoint)]
        relay.others.append((welcome.id, welcome.endpoint))
        if len(relay.others) == 1:
            relay.patience, relay.turns = self.config.welcome_retry_interval, 0
            self._timers.arm((Alarm.RELAY, relay.proxy), now + self._relay_retry(relay))
        return []

    def _relay_retry(self, relay: Relay) -> float:
        """Seconds until the publish endpoint is connected anew, or another one tried."""
        longest = self.config.relay_retry_interval
        return min(relay.patience, longest) if relay.others else longest

    def relay_up(self, proxy: Endpoint, now: float) -> list[Output]:
        """The proxy subscribed to us at its publish endpoint: from now on nothing is lost on the way to it."""
        relay = self._relays[proxy]
        relay.signal(RelaySignal.RELAY_UP)
        return self._after_relay_change(relay, now)

    def relay_down(self, proxy: Endpoint, now: float) -> list[Output]:
        """The connection to the publish endpoint ended."""
        relay = self._relays[proxy]
        relay.signal(RelaySignal.RELAY_DOWN)
        return self._after_relay_change(relay, now)

    def proxy_down(self, proxy: Endpoint, now: float) -> list[Output]:
        """The connection to the well-known endpoint ended."""
        relay = self._relays[proxy]
        relay.signal(RelaySignal.LOST)
        outputs = self._after_relay_change(relay, now)
        if relay.was_found:
            relay.was_found = False
            outputs.append(ProxyLost(proxy))
        return outputs

    def _after_relay_change(self, relay: Relay, now: float) -> list[Output]:
        """Arm and do what the present state of the relay asks for."""
        announce, again = (Alarm.ANNOUNCE, relay.proxy), (Alarm.RELAY, relay.proxy)
        self._timers.cancel(announce)
        self._timers.cancel(again)
        if relay.state is not RelayState.MUTE:
            relay.others.clear()
        if not relay.echoes:
            self._farewells.discard(relay.proxy)
            self._timers.cancel((Alarm.FAREWELL, relay.proxy))
        if relay.state is RelayState.MUTE:
            self._timers.arm(again, now + self._relay_retry(relay))
        elif relay.state is RelayState.ANNOUNCING and self.stage is Stage.STARTED:
            relay.retry = self.config.announce_retry_min
            return self._repeat(Alarm.ANNOUNCE, relay, now)
        return []

    def _repeat(self, alarm: Alarm, relay: Relay, now: float) -> list[Output]:
        """Say what ``alarm`` is about now, and ever more slowly until it comes back."""
        self._timers.arm((alarm, relay.proxy), now + relay.retry)
        relay.retry = min(2 * relay.retry, self.config.announce_interval)
        return self._announce_to(relay) if alarm is Alarm.ANNOUNCE else self._farewell_to(relay)

    def _announce_to(self, relay: Relay, *, again: bool = False) -> list[Output]:
        relay.announced += 1
        return [SendToProxy(relay.proxy, encode(evolve(self.me, again=again)))]

    def _announce_to_all(self, *, again: bool = False) -> list[Output]:
        return [
            output
            for relay in self._relays.values()
            if relay.hears_us
            for output in self._announce_to(relay, again=again)
        ]

    # Announces

    def _announced(self, relay: Relay, announce: Announce, now: float) -> list[Output]:
        if announce.is_classic:
            # No classic peer says more, and what cannot be held against a session is not worth keeping.
            announce = Announce(PeerInfo(announce.info.id, announce.info.endpoint))
        if announce.info.id == self.me.info.id:
            return self._heard_of_ourselves(relay, announce, now)
        if self.stage is not Stage.STARTED:
            return []
        if announce.info.cluster != self.me.info.cluster and not announce.is_classic:
            return [Dropped(Drop.FOREIGN_CLUSTER, announce.info.cluster)]
        try:
            endpoint = numeric(announce.info.endpoint)
        except InvalidEndpoint as error:
            return [Dropped(Drop.REFUSED_ENDPOINT, str(error))]
        if endpoint is None:
            endpoint = self.roster.connected_endpoint(announce)
        return self._resolve(announce) if endpoint is None else self._admit(announce, endpoint, now)

    def _resolve(self, announce: Announce) -> list[Output]:
        name, key = announce.info.endpoint, (announce.info.id, announce.session)
        waiting = self._unresolved.get(name, {})
        if key not in waiting and sum(map(len, self._unresolved.values())) >= self.config.max_lookups:
            return [Dropped(Drop.TABLE_FULL, "names to look up")]
        self._unresolved[name] = waiting | {key: announce}
        return [] if waiting else [ResolveEndpoint(name)]

    def resolved(self, name: Endpoint, endpoint: Endpoint | None, now: float) -> list[Output]:
        """The host name in ``name`` was looked up; ``None`` if it does not exist."""
        waiting = self._unresolved.pop(name, {}).values()
        if self.stage is not Stage.STARTED:
            return []
        if endpoint is None:
            return [Dropped(Drop.REFUSED_ENDPOINT, f"{name} does not resolve") for _ in waiting]
        return [output for announce in waiting for output in self._admit(announce, endpoint, now)]

    def update(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        groups: Iterable[str] | None = None,
        services: Iterable[str] | None = None,
        names: Mapping[str, tuple[Endpoint, ...]] | None = None,
    ) -> list[Output]:
        """Announce a change of ourselves to all; what is not given stays as it is.

        Raises:
            AnnounceTooLarge: If it does not fit into one announce; then nothing has changed.
            ValueError: If a text holds a surrogate; likewise.
        """
        mine = self.me.info
        changed = evolve(
            mine,
            headers=mine.headers if headers is None else headers,
            groups=mine.groups if groups is None else groups,
            services=mine.services if services is None else services,
            names=mine.names if names is None else names,
        )
        if changed == mine or self.stage is not Stage.STARTED:
            return []
        me = evolve(self.me, info=evolve(changed, revision=mine.revision + 1))
        encode(me)  # raises before anything has changed
        self.me = me
        return [self._direct_announce(ALL), *self._announce_to_all()]

    def moved(self, endpoint: Endpoint, now: float, gossip: Endpoint = "") -> list[Output]:
        """Our host has another address, and our data channel listens at ``endpoint`` now, a gossip node at ``gossip``.

        All connections are made anew, `proxySub` by the caller: the former ones are dead without
        knowing it. Each proxy that welcomes us again is told where we are now.
        """
        mine = self.me.info
        if self.stage is not Stage.STARTED:
            return []
        if endpoint != mine.endpoint:
            self._endpoints.append(mine.endpoint)
        # Also where the endpoint stays, as a name or a router leads to us: so others know that they must connect anew.
        info = evolve(mine, endpoint=endpoint, revision=mine.revision + 1)
        self.me = evolve(self.me, info=info, gossip=gossip)
        outputs = self.roster.moved(now)
        for proxy in self._relays:
            # With the next welcome `proxyPub` follows, too.
            outputs += [*self.relay_down(proxy, now), *self.proxy_down(proxy, now)]
        return outputs

    def _direct_announce(self, topic: bytes) -> SendData:
        return SendData(control_frame(topic, Kind.ANNOUNCE, self.me.info.id, self.me.session, encode(self.me)))

    def _admit(self, announce: Announce, endpoint: Endpoint, now: float) -> list[Output]:
        if not self._may_connect(announce.info, endpoint):
            return [Dropped(Drop.REFUSED_ENDPOINT, endpoint)]
        is_new, outputs = self.roster.announced(announce, endpoint, now)
        if is_new and not self._was_told_of_us(announce):
            self._answer_soon(now)
        return outputs

    def _may_connect(self, info: PeerInfo, endpoint: Endpoint) -> bool:
        """Whether we believe that ``endpoint`` can be the data channel of another peer."""
        mine = self.me.info
        if endpoint == mine.endpoint:
            return False
        if not is_loopback(endpoint):
            return True
        # Another machine's loopback endpoint would lead us to a stranger on ours.
        return is_loopback(mine.endpoint) or (bool(info.host) and info.host == mine.host)

    def _was_told_of_us(self, announce: Announce) -> bool:
        """Whether every proxy that we are connected to has told the newcomer of us: then it needs no answer."""
        heard = {relay.id for relay in self._relays.values() if relay.is_heard}
        return not announce.again and bool(heard) and heard <= announce.informed_by

    def _answer_soon(self, now: float) -> None:
        if not self._timers.is_armed((Alarm.ANSWER, EVERYBODY)):
            most = min(self.config.answer_delay_per_peer * len(self.roster), self.config.answer_delay_max)
            self._timers.arm((Alarm.ANSWER, EVERYBODY), now + most * self.jitter())

    def _heard_of_ourselves(self, relay: Relay, announce: Announce, now: float) -> list[Output]:
        if announce.session != self.me.session:
            return self._heard_of_rival(announce, now)
        if not self._may_be_ours(announce.info):
            return [Dropped(Drop.FORGED_ANNOUNCE, relay.proxy), *self._refute(announce.info.incarnation, now)]
        relay.signal(RelaySignal.ECHO)
        if relay.state is not RelayState.FOUND:
            return []
        self._timers.cancel((Alarm.ANNOUNCE, relay.proxy))
        if self.stage is Stage.STARTED and not self._timers.is_armed((Alarm.BEACON, EVERYBODY)):
            self._arm_beacon(now)
        if relay.was_found:
            return []
        relay.was_found = True
        return [ProxyFound(relay.proxy)]

    def _heard_of_rival(self, announce: Announce, now: float) -> list[Output]:
        """Somebody announces our id as another life. If it is a process that runs, its link will prove it."""
        if self.stage is not Stage.STARTED or announce.is_classic:
            return []
        if announce.info.cluster != self.me.info.cluster:
            # Nobody knows both of us.
            return [Dropped(Drop.FOREIGN_CLUSTER, announce.info.cluster)]
        outputs: list[Output] = []
        try:
            endpoint = numeric(announce.info.endpoint)
        except InvalidEndpoint:
            endpoint = None
        if endpoint is not None and self._may_connect(announce.info, endpoint):
            is_new, outputs = self.roster.announced(announce, endpoint, now)
            if is_new:
                self._answer_soon(now)
        if announce.info.incarnation >= self.me.info.incarnation:
            # Whoever believes it holds us for the older life. But if that process runs it may be we who
            # have to give way, so that is seen first.
            self._wrongly_said = max(self._wrongly_said, announce.info.incarnation)
            if not self._timers.is_armed((Alarm.REFUTE, EVERYBODY)):
                self._timers.arm((Alarm.REFUTE, EVERYBODY), now + self.config.announce_interval)
        return outputs

    def rival_met(self, announce: Announce, now: float) -> list[Output]:
        """A process that runs has our id. Whoever started later gives way; the other one says that it stays."""
        if self.stage is not Stage.STARTED:
            return []
        if _seniority(self.me) < _seniority(announce):
            return self._refute(announce.info.incarnation, now)
        self.stage = Stage.LEAVING
        self.roster.close()
        return [*map(SendData, self.roster.publications.close()), self._direct_farewell(ALL), GiveWay(announce.info)]

    def _may_be_ours(self, info: PeerInfo) -> bool:
        """Whether we may have made this announce, now or earlier. Our session is no secret."""
        mine = self.me.info
        was_ours = info.endpoint == mine.endpoint or info.endpoint in self._endpoints
        return was_ours and (info.incarnation, info.revision) <= (mine.incarnation, mine.revision)

    def _arm_beacon(self, now: float) -> None:
        spread = self.config.beacon_jitter * (2 * self.jitter() - 1)
        # Each beacon goes to all, so what everybody has to read would grow with their number.
        pace = min(max(1.0, len(self.joined) / _FEW), _RAREST)
        self._timers.arm((Alarm.BEACON, EVERYBODY), now + self.config.beacon_interval * pace * (1 + spread))

    def _refute(self, incarnation: int, now: float) -> list[Output]:
        """Say that what was said about us is wrong; at most once in an announce interval."""
        if self.stage is not Stage.STARTED:
            return []
        self._wrongly_said = max(self._wrongly_said, incarnation)
        at = self._refuted_at + self.config.announce_interval
        if now < at:
            # Later, but not never: whoever believed it holds a tombstone of our present incarnation.
            self._timers.arm((Alarm.REFUTE, EVERYBODY), at)
            return []
        self._refuted_at = now
        mine = self.me.info
        # The highest incarnation on the wire leaves no room above it; then ours stays what it is.
        above = min(max(mine.incarnation, self._wrongly_said) + 1, MAX_INCARNATION)
        self.me = evolve(self.me, info=evolve(mine, incarnation=above))
        return self._announce_to_all()

    # Farewells

    def leave(self, now: float) -> list[Output]:
        """Say farewell, to each peer directly and through every proxy that hears us.

        It is done when `unheard_farewells` is empty.
        """
        if self.stage is Stage.LEAVING:
            return []
        self.stage = Stage.LEAVING
        self.roster.close()
        for alarm in (Alarm.BEACON, Alarm.ANSWER, Alarm.REFUTE):
            self._timers.cancel((alarm, EVERYBODY))
        # What is lost of our last messages shows before we are gone.
        outputs: list[Output] = [SendData(tail) for tail in self.roster.publications.close()]
        outputs.append(self._direct_farewell(ALL))
        for relay in self._relays.values():
            self._timers.cancel((Alarm.ANNOUNCE, relay.proxy))
            relay.retry = self.config.announce_retry_min
            if relay.echoes:
                self._farewells.add(relay.proxy)
                outputs += self._repeat(Alarm.FAREWELL, relay, now)
            elif relay.hears_us:
                outputs += self._farewell_to(relay)
        return outputs

    def _direct_farewell(self, topic: bytes) -> SendData:
        body = FarewellBody(self.me.info.incarnation).encode()
        return SendData(control_frame(topic, Kind.FAREWELL, self.me.info.id, self.me.session, body))

    def _farewell_to(self, relay: Relay) -> list[Output]:
        mine = self.me.info
        message = Farewell(mine.id, mine.endpoint, mine.incarnation, self.me.session)
        return [SendToProxy(relay.proxy, encode(message))]

    def _farewell(self, relay: Relay, farewell: Farewell, now: float) -> list[Output]:
        if farewell.id != self.me.info.id:
            return self.roster.farewell(farewell, now)
        if self.stage is Stage.LEAVING and farewell.session == self.me.session:
            self._farewells.discard(relay.proxy)
            self._timers.cancel((Alarm.FAREWELL, relay.proxy))
            return []
        # One step is enough: nobody believes a farewell of an incarnation that we never announced.
        return [Dropped(Drop.FORGED_FAREWELL, relay.proxy), *self._refute(self.me.info.incarnation, now)]

    # The data channel

    def start(self) -> list[Output]:
        """What to do before anything else: the control subscriptions."""
        return self.roster.subscriptions()

    def open(self, now: float) -> list[Output]:
        """Let others know that they may hold us for joined; call it when the user can subscribe."""
        return self.roster.open(now)

    def control(self, frame: ControlFrame, now: float) -> list[Output]:
        """A control frame for us, or for all, arrived at `dataSub`."""
        key = peer_id(frame.sender), frame.session
        # What it says first: it may be the end of the peer, and then nothing more is to be told of it.
        return [*self._control(key, frame, now), *self.roster.heard(key, now)]

    def _control(self, key: LinkKey, frame: ControlFrame, now: float) -> list[Output]:
        try:
            match frame.kind:
                case Kind.LINK:
                    return self._link_message(key, LinkBody.decode(frame.body), now)
                case Kind.NUMBERS:
                    return self.roster.numbers_heard(key, NumbersBody.decode(frame.body))
                case Kind.RETAINED:
                    return self.roster.retained_heard(key, RetainedBody.decode(frame.body))
                case Kind.CONFIRM:
                    return self.roster.confirm_heard(key, ConfirmBody.decode(frame.body), now)
                case Kind.FAREWELL:
                    return self.roster.direct_farewell(key, FarewellBody.decode(frame.body), now)
                case Kind.ANNOUNCE:
                    return self._announced_directly(key, decode(frame.body), now)
                case Kind.BEAT:
                    return [] if frame.inbox is None else self.roster.beat_heard(key, now)
                case Kind.PING:
                    return self.roster.ping_heard(key, PingBody.decode(frame.body), now)
                case Kind.PONG:
                    return self.roster.pong_heard(key, PongBody.decode(frame.body), now)
                case Kind.SUSPECT:
                    body = SuspectBody.decode(frame.body)
                    return self.roster.suspicion_heard(key, body, now)
                case _:
                    return [Dropped(Drop.MALFORMED_CONTROL, f"kind {frame.kind}")]
        except MalformedMessage as error:
            return [Dropped(Drop.MALFORMED_CONTROL, error.reason)]

    def _announced_directly(self, key: LinkKey, message: DiscoveryMessage, now: float) -> list[Output]:
        if not isinstance(message, Announce) or message.is_classic or (message.info.id, message.session) != key:
            return [Dropped(Drop.MALFORMED_CONTROL, "no announce of its sender")]
        return self.roster.announced_directly(message, now)

    def _link_message(self, key: tuple[PeerId, bytes], body: LinkBody, now: float) -> list[Output]:
        if self.stage is not Stage.STARTED:
            return []
        if body.stranger:
            self._answer_again = True
            self._answer_soon(now)
        return self.roster.link_heard(key, body, now)

    def subscribed(self, topic: bytes, now: float) -> list[Output]:
        """Somebody's subscription is in force at `dataPub`."""
        try:
            control = parse_subscription(topic)
        except MalformedMessage as error:
            return [Dropped(Drop.MALFORMED_SUBSCRIPTION, error.reason)]
        if control is None:
            return []
        if self.stage is Stage.LEAVING:
            # It came too late for the farewell that we sent, and would wait for us in vain.
            return [self._direct_farewell(inbox(control.id))] if isinstance(control, Marker) else []
        outputs = self.roster.subscribed(control, now)
        if isinstance(control, Inbox) and self.me.info.revision > 0:
            # What we announced directly before this connection came up did not get there. It goes
            # first, so that whoever joins us by the link message knows the present state.
            outputs = [self._direct_announce(inbox(control.id)), *outputs]
        return outputs

    def link_up(self, endpoint: Endpoint, now: float) -> list[Output]:
        """The ZMTP handshake with the peer at ``endpoint`` succeeded."""
        return self.roster.link_up(endpoint, now)

    def link_down(self, endpoint: Endpoint, now: float) -> list[Output]:
        """The connection to ``endpoint`` ended, or another attempt failed."""
        return self.roster.link_down(endpoint, now)

    def link_retried(self, endpoint: Endpoint) -> list[Output]:
        """libzmq will try ``endpoint`` again."""
        return self.roster.link_retried(endpoint)

    def link_rejected(self, endpoint: Endpoint, now: float) -> list[Output]:
        """The ZMTP handshake with ``endpoint`` failed."""
        return self.roster.link_rejected(endpoint, now)

    def probed(self, endpoint: Endpoint, probe: Probe, now: float) -> list[Output]:
        """What a plain connection to ``endpoint`` told."""
        return self.roster.probed(endpoint, probe, now)

    def drained(self, endpoint: Endpoint, now: float) -> list[Output]:
        """All that the peer at ``endpoint`` had sent was read, and the connection is gone."""
        return self.roster.drained(endpoint, now)

    # Time

    def tick(self, now: float) -> list[Output]:
        """Do what is due."""
        outputs: list[Output] = []
        for (alarm, proxy), _ in self._timers.pop_due(now):
            outputs += self._due(alarm, proxy, now)
        outputs += self.roster.tick(now)
        if self.roster.is_unheard_of and self.stage is Stage.STARTED:
            self.roster.is_unheard_of = False
            self._answer_again = True
            self._answer_soon(now)
        return outputs

    def _due(self, alarm: Alarm, proxy: Endpoint, now: float) -> list[Output]:
        match alarm:
            case Alarm.ANNOUNCE | Alarm.FAREWELL:
                return self._repeat(alarm, self._relays[proxy], now)
            case Alarm.RELAY:
                relay = self._relays[proxy]
                relay.follow_next()
                self._timers.arm((alarm, proxy), now + self._relay_retry(relay))
                return [FollowWelcome(proxy, relay.endpoint)]
            case Alarm.REFUTE:
                return self._refute(self._wrongly_said, now)
            case Alarm.BEACON:
                self._arm_beacon(now)
                return self._announce_to_all()
            case Alarm.ANSWER:
                again, self._answer_again = self._answer_again, False
                return self._announce_to_all(again=again)


def _seniority(announce: Announce) -> tuple[int, bytes]:
    """When a life started; of two that started at the same time the session decides."""
    return announce.started or announce.info.incarnation, announce.session
