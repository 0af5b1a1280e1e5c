"""The peers we know, the links to them, and who has been silent too long.

Rule 1: joined means that we have the peer's link message on the present connection and that our
`dataPub` has seen a marker of it at least as new as that message says: then nothing that either
publishes is lost to a late subscription.

Rule 2: the proxy channel gives hints, the data channel gives proof. No announce and no farewell
that came through a proxy removes or replaces a peer whose link is up, or moves one that answers.

Rule 3: a link message leaves only while our own connection to that peer is up. So whoever has
one knows that its own messages are heard.

Rule 4: a link that is given up is drained first. Its end is told when `drained` says that all
that the peer had sent was read.

Rule 5: every table has a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from attrs import define, evolve, field

from .actions import (
    ConnectPeer,
    DeliverRetained,
    DisconnectPeer,
    DrainPeer,
    Drop,
    Dropped,
    MeetRival,
    Output,
    ProbePeer,
    RevivePeer,
    SendData,
    ShutPeer,
    SubscribeTopic,
    TellLoss,
    UnsubscribeTopic,
)
from .config import PeerConfig
from .counts import Counts
from .detector import Answered, Detector, Finding, Heard, Silent
from .envelope import (
    ALL,
    ConfirmBody,
    DataFrame,
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
    split,
)
from .events import PeerRecovered, PeerUpdated
from .interests import Interest, Interests
from .link import FINAL, MAY_LIVE, Link, LinkKey, Signal
from .links import Links
from .model import Endpoint, LinkInfo, LinkState, PeerId, PeerInfo, Probe, ReconnectStop, peer_id
from .publications import Publications
from .timers import Timers
from .wire import Announce, Farewell

EPOCHS = 1 << 16
CLASSIC = -1
"""The tombstone of a classic peer, which has no incarnation: lower than any."""


class Alarm(Enum):
    """What a deadline of a link is for."""

    LINK = "repeat the link message"
    PROBE = "probe the endpoint again"
    ZOMBIE = "connect anew, libzmq has given up"
    SUSPECT = "the link has been broken for too long to say joined"
    EXPIRE = "give the link up"
    HINT = "forget a farewell that nothing confirmed"
    RETRY = "connect to a classic peer again"
    DOUBT = "see whether our connections still lead anywhere"


_JUDGEMENTS = frozenset({Alarm.SUSPECT, Alarm.EXPIRE, Alarm.ZOMBIE, Alarm.HINT})
"""What rests on something that did not come in time."""

Deadline: TypeAlias = tuple[Alarm, LinkKey]

_K = TypeVar("_K")
_V = TypeVar("_V")


@define
class Roster:
    """The links to all peers, and what we publish and subscribe over them."""

    me: PeerId
    session: bytes
    config: PeerConfig
    chance: Callable[[], float]
    """Returns a random number of at least 0 and less than 1."""
    interests: Interests = field(init=False)
    publications: Publications = field(init=False)
    detector: Detector = field(init=False)
    _open: bool = False
    _is_leaving: bool = False
    is_unheard_of: bool = False
    """Whether a peer that we are connected to has been silent for so long that it may never have
    heard our announce. Whoever announces again takes it back."""
    _links: Links = field(factory=Links)
    _joined: dict[PeerId, PeerInfo] = field(factory=dict)
    _tombstones: dict[LinkKey, int] = field(factory=dict)
    """The lives that are over, and the incarnation of each that is. Another life of the same id may have a lower one:
    clocks go back."""
    _markers: dict[LinkKey, int] = field(factory=dict)
    _strangers: dict[PeerId, None] = field(factory=dict)
    _epochs: dict[LinkKey | Endpoint, int] = field(factory=dict)
    """How many of our connections to a peer, and to whoever was at its endpoint, had ended when we
    gave it up. A marker of theirs may still be known there, which must not prove the next one."""
    _counts: dict[LinkKey, Counts] = field(factory=dict)
    """What we had of the topics of peers that we lost sight of."""
    _retries: dict[LinkKey, tuple[Announce, Endpoint]] = field(factory=dict)
    _timers: Timers[Deadline] = field(factory=Timers)

    def __attrs_post_init__(self) -> None:
        self.interests = Interests(self.me, self.session)
        self.publications = Publications(self.me, self.session, self.config)
        self.detector = Detector((self.me, self.session), self._links, self.config, self.chance)

    # What can be asked

    @property
    def joined(self) -> Mapping[PeerId, PeerInfo]:
        """The joined peers, as a read-only view."""
        return MappingProxyType(self._joined)

    @property
    def announces(self) -> Mapping[PeerId, Announce]:
        """What the joined peers announce, by id."""
        return {link.peer.id: link.announce for link in self._links if link.state is LinkState.JOINED}

    @property
    def links(self) -> tuple[Link, ...]:
        return tuple(self._links)

    def infos(self, now: float) -> list[LinkInfo]:
        """What the user may know of the links, but for those that are only read to their end."""
        links = [link for link in self._links if not link.is_given_up]
        return [link.info(now, is_silent=self.detector.is_silent(link.key)) for link in links]

    @property
    def deadline(self) -> float:
        """When `tick` is to be called next, at the latest; ``inf`` is never."""
        return min(self._timers.next, self.publications.deadline, self.detector.deadline)

    @property
    def marker(self) -> int:
        """The counter of our newest marker; it grows with each subscription."""
        return self.interests.marker

    def __len__(self) -> int:
        return len(self._links)

    def sender(self, id_and_session: bytes) -> tuple[PeerInfo, Counts] | None:
        """Whose frames name this id and session, and what we have of them; ``None`` if nobody in the roster."""
        if id_and_session[:16] == self.me.bytes:
            return None
        link = self._links.get((peer_id(id_and_session[:16]), id_and_session[16:]))
        return None if link is None else (link.peer, link.counts)

    def session_of(self, id: PeerId) -> bytes | None:
        """The session of a joined peer; ``None`` if it is not joined, or has none."""
        if id in self._joined:
            for link in self._links.of(id):
                if link.state is LinkState.JOINED and not link.announce.is_classic:
                    return link.announce.session
        return None

    def is_classic(self, id: PeerId) -> bool:
        """Whether a peer that we have a link to says no more than a classic one."""
        return any(link.announce.is_classic for link in self._links.of(id))

    def connected_endpoint(self, announce: Announce) -> Endpoint | None:
        """The numeric spelling under which we are connected to where this announce points; ``None`` if we are not."""
        link = self._links.get((announce.info.id, announce.session))
        if link is None or link.down_since is not None or link.peer.endpoint != announce.info.endpoint:
            return None
        if self.detector.is_silent(link.key):
            return None  # the name may lead elsewhere now
        return link.endpoint

    def unconfirmed(self, counter: int) -> int:
        """How many peers that rely on our subscriptions have not confirmed this marker."""
        return sum(1 for link in self._links if link.confirmed < counter and self._relies_on_us(link))

    def _relies_on_us(self, link: Link) -> bool:
        if link.told is None or link.is_given_up or link.announce.is_classic:
            return False
        if link.state is LinkState.ANNOUNCED:
            # One process listens at an endpoint. Who claims that of a joined peer may be dead or a lie.
            return not any(other.state is LinkState.JOINED for other in self._links.at(link.endpoint))
        return link.state is LinkState.JOINED

    # Our own subscriptions

    def subscriptions(self) -> list[Output]:
        """What `dataSub` subscribes to before it connects anywhere."""
        return [SubscribeTopic(ALL), SubscribeTopic(inbox(self.me)), SubscribeTopic(self.interests.topic)]

    def subscribe(self, prefix: bytes) -> tuple[Interest, list[Output]]:
        """Subscribe to ordinary topics; a marker must follow."""
        if gone := self.interests.take_gone():
            for counts in (*(link.counts for link in self._links), *self._counts.values()):
                counts.forget(gone)
        interest, is_new = self.interests.add(prefix)
        return interest, [SubscribeTopic(prefix)] if is_new else []

    def unsubscribe(self, interest: Interest) -> list[Output]:
        """Take a subscription back."""
        return [UnsubscribeTopic(interest.prefix)] if self.interests.remove(interest) else []

    def next_marker(self) -> list[Output]:
        """Put a marker behind what was just subscribed: who sees it has all that came before."""
        topic, was = self.interests.next_marker()
        return [SubscribeTopic(topic), UnsubscribeTopic(was)]

    def open(self, now: float) -> list[Output]:
        """Let link messages out. Until then nobody can hold us for joined."""
        if self._is_leaving:
            return []
        self._open = True
        outputs: list[Output] = []
        for link in self._links:
            outputs += self._send_link(link, now)
        for peer in self._strangers:
            if not self._links.of(peer):
                outputs += self._send_link_to_stranger(peer)
        self._strangers.clear()
        return outputs

    def close(self) -> None:
        """Let no link message out and nobody in any more: we are leaving."""
        self._open = False
        self._is_leaving = True
        self.detector.close()

    def moved(self, now: float) -> list[Output]:
        """Our host has another address: no connection that was made from, or to, the former one can be alive."""
        outputs: list[Output] = []
        for endpoint in {link.endpoint: None for link in self._links}:
            outputs += self._connect_anew(endpoint, now)
        return outputs

    def _connect_anew(self, endpoint: Endpoint, now: float) -> list[Output]:
        if self._links.is_draining(endpoint):
            return []
        outputs = self._broke(self._links.at(endpoint), now)
        has_ended = self._links.is_draining(endpoint) or not self._links.at(endpoint)
        return outputs if has_ended else [*outputs, RevivePeer(endpoint)]

    # Hints: what comes through a proxy

    def is_tombstoned(self, announce: Announce) -> bool:
        if announce.is_classic:
            # It does not say of which life it is.
            return any(id == announce.info.id for id, _ in self._tombstones)
        left = self._tombstones.get((announce.info.id, announce.session))
        return left is not None and announce.info.incarnation <= left

    def announced(self, announce: Announce, endpoint: Endpoint, now: float) -> tuple[bool, list[Output]]:
        """A peer says where it is; ``endpoint`` is the numeric spelling. Returns whether it is new to us."""
        if self._is_leaving:
            return False, []
        key = announce.info.id, announce.session
        if (link := self._links.get(key)) is not None:
            # It may have moved to where the same name, or a router, leads; no connection can be alive then.
            is_anew = endpoint == link.endpoint and announce.info.revision > link.peer.revision
            is_anew = is_anew and self.detector.is_silent(key) and not link.is_given_up
            outputs = self._update(link, announce, endpoint, now)
            return False, outputs + (self._connect_anew(endpoint, now) if is_anew else [])
        if self.is_tombstoned(announce):
            return False, [Dropped(Drop.TOMBSTONED, str(announce.info.id))]
        if any(
            link.state is not LinkState.ANNOUNCED and link.peer.incarnation > announce.info.incarnation
            for link in self._links.of(announce.info.id)
        ):
            return False, [Dropped(Drop.STALE_ANNOUNCE, str(announce.info.id))]
        has_room, outputs = self._make_room(announce.info.id, endpoint, now)
        if not has_room:
            return False, outputs
        return True, outputs + self._create(announce, endpoint, now)

    def _make_room(self, id: PeerId, endpoint: Endpoint, now: float) -> tuple[bool, list[Output]]:
        """Where a table is full, let the oldest link go that never joined. Returns whether there is room."""
        outputs: list[Output] = []
        while (who_may_go := self._who_may_go(id, endpoint)) is not None:
            oldest = next(who_may_go, None)
            if oldest is None:
                return False, [*outputs, Dropped(Drop.TABLE_FULL, "links")]
            outputs += [*self._finish(oldest, Signal.EXPIRED, now), Dropped(Drop.TABLE_FULL, str(oldest.peer.id))]
        return True, outputs

    def _who_may_go(self, id: PeerId, endpoint: Endpoint) -> Iterator[Link] | None:
        """Whose end would make room, oldest first; ``None`` if there is room."""
        for links in (self._links.of(id), self._links.at(endpoint)):
            if len(links) >= self.config.max_links_per_id:
                return filter(self._links.is_unproved, links)
        return self._links.unproved if len(self._links) >= self.config.max_peers else None

    def _create(self, announce: Announce, endpoint: Endpoint, now: float) -> list[Output]:
        key = announce.info.id, announce.session
        epoch = max(self._epochs.pop(key, 0), self._epochs.pop(endpoint, 0))
        counts = self._counts.pop(key, None)
        if counts is None:
            counts = Counts(*key, self.interests, self.config.max_topics)
        link = Link(announce, endpoint, now, counts, now, epoch=epoch, seen=self._markers.pop(key, 0))
        self._retries.pop(key, None)
        self._timers.cancel((Alarm.RETRY, key))
        self._timers.arm((Alarm.EXPIRE, key), now + self.config.announced_timeout)
        outputs = self._join_connection(link, endpoint, now)
        self._links.add(link)
        self.detector.found(now)
        return outputs + self._send_link(link, now)

    def _join_connection(self, link: Link, endpoint: Endpoint, now: float) -> list[Output]:
        """Let a link that comes to ``endpoint`` share the connection, or make one."""
        outputs: list[Output] = [] if self._links.at(endpoint) else [ConnectPeer(endpoint)]
        is_up = self._links.is_up(endpoint)
        link.down_since = None if is_up else now
        link.stale = self.marker
        link.retry = self.config.link_retry_min
        link.probes = link.unanswered = 0
        if is_up and not link.announce.is_classic:
            # It may have confirmed our marker before we knew it, or know it from an older connection.
            outputs += self.next_marker()
        return outputs

    def _update(self, link: Link, announce: Announce, endpoint: Endpoint, now: float) -> list[Output]:
        was, new = link.announce if link.again is None else link.again[0], announce
        if new.info.incarnation < was.info.incarnation:
            return [Dropped(Drop.STALE_ANNOUNCE, str(new.info.id))]
        if (new.info.incarnation, new.info.revision) < (was.info.incarnation, was.info.revision):
            # Of the two ways that a change goes one is the longer, so this is no fault.
            return []
        if link.is_given_up:
            # The tombstone must not name the incarnation by which it refutes a farewell.
            link.again = new, endpoint
            return []
        outputs: list[Output] = []
        if endpoint != link.endpoint:
            if not self._may_move(link):
                # Its host may have got another address, which ends no connection. So it is pinged; it announces again.
                moved = Dropped(Drop.MOVED_ENDPOINT, f"{new.info.id} to {endpoint}")
                return [moved, *self._follow(self.detector.doubt(link.key, now), now)]
            if len(self._links.at(endpoint)) >= self.config.max_links_per_id:
                return [Dropped(Drop.TABLE_FULL, endpoint)]
            outputs += self._move(link, endpoint, now)
        if new.info.incarnation > was.info.incarnation:
            # It raised its incarnation to say that the farewell was not its own.
            self._timers.cancel((Alarm.HINT, link.key))
        link.announce = new
        if link.state is LinkState.ANNOUNCED and self._timers.is_armed((Alarm.EXPIRE, link.key)):
            self._timers.arm((Alarm.EXPIRE, link.key), now + self.config.announced_timeout)
        if link.state is LinkState.JOINED:
            self._joined[link.peer.id] = link.peer
        is_known = link.state in (LinkState.JOINED, LinkState.SUSPECT)
        if is_known and new is not was and new.info != evolve(was.info, incarnation=new.info.incarnation):
            outputs.append(PeerUpdated(new.info, was.info))
        return outputs

    def _may_move(self, link: Link) -> bool:
        """Whether nothing shows that the peer is where we are connected for it."""
        is_proved = link.state is not LinkState.SUSPECT or link.heard is not None
        return link.down_since is not None or self.detector.is_silent(link.key) or not is_proved

    def _move(self, link: Link, endpoint: Endpoint, now: float) -> list[Output]:
        """Follow a peer whose link is down, or silent, to another endpoint."""
        if link.down_since is None:
            self._mark_broken(link, now)
        self._timers.cancel((Alarm.PROBE, link.key))
        self._timers.cancel((Alarm.ZOMBIE, link.key))
        was = link.endpoint
        outputs = self._join_connection(link, endpoint, now)
        self._links.move(link, endpoint)
        return self._disconnect_from(was) + outputs + self._send_link(link, now)

    def farewell(self, farewell: Farewell, now: float) -> list[Output]:
        """A farewell came through a proxy."""
        self._retries.pop((farewell.id, farewell.session), None)
        outputs: list[Output] = []
        for link in self._links.of(farewell.id):
            if not _means(farewell, link):
                continue
            if link.is_given_up:
                if link.announce.is_classic:
                    link.verdict = Signal.FAREWELL
            elif link.announce.is_classic or (link.down_since is not None and link.epoch > 0):
                outputs += self._give_up(link, Signal.FAREWELL, now)
            else:
                self._timers.arm((Alarm.HINT, link.key), now + self.config.farewell_memory)
        return outputs

    # Proof: what comes over the data channel

    def announced_directly(self, announce: Announce, now: float) -> list[Output]:
        """The peer itself announced a change. Where it is is told through the proxies alone."""
        link = self._links.get((announce.info.id, announce.session))
        if link is None:
            return [Dropped(Drop.UNKNOWN_SENDER, str(announce.info.id))]
        if link.is_given_up:
            # It is only read to its end: nothing that it says can revive it.
            return []
        return self._update(
            link, evolve(announce, info=evolve(announce.info, endpoint=link.peer.endpoint)), link.endpoint, now
        )

    def direct_farewell(self, key: LinkKey, body: FarewellBody, now: float) -> list[Output]:
        """The peer itself said farewell; nothing of it comes after this frame."""
        link = self._links.get(key)
        if link is None:
            return []
        link.left = body.incarnation
        if link.is_given_up:
            link.verdict = Signal.FAREWELL
            return []
        outputs = self._finish(link, Signal.FAREWELL, now)
        self._markers.pop(key, None)
        # What is known of its endpoint stays: a successor may listen there already.
        self._epochs.pop(key, None)
        return outputs

    def link_up(self, endpoint: Endpoint, now: float) -> list[Output]:
        """The ZMTP handshake with whoever is at ``endpoint`` succeeded."""
        outputs: list[Output] = []
        links = self._links.at(endpoint)
        back = [link for link in links if link.down_since is not None]
        for link in back:
            if self.marker > link.stale:
                # What was subscribed while we were not told of this connection may not be part of
                # what it replayed. The peer confirms it when it is in force.
                link.floor = self.marker
        if any(link.epoch > 0 and link.stale == self.marker for link in back):
            # Its memory of our marker may stem from the connection that ended; only a newer one
            # proves that what we subscribed is in force on this connection.
            outputs += self.next_marker()
        for link in links:
            link.down_since = None
            link.probes = link.unanswered = 0
            link.retry = self.config.link_retry_min
            self._timers.cancel((Alarm.PROBE, link.key))
            self._timers.cancel((Alarm.ZOMBIE, link.key))
            if link.announce.is_classic:
                outputs += self._prove_classic(link, now)
            else:
                outputs += self._send_link(link, now)
        return outputs

    def link_down(self, endpoint: Endpoint, now: float) -> list[Output]:
        """Our connection to ``endpoint`` ended, or another attempt failed."""
        outputs = self._broke(self._links.at(endpoint), now)
        for link in self._links.waiting_at(endpoint):
            self._timers.arm((Alarm.ZOMBIE, link.key), now + self.config.zombie_after)
        return outputs

    def _broke(self, links: list[Link], now: float) -> list[Output]:
        """The connection that they share is no longer up."""
        broken = [link for link in links if link.down_since is None and not link.is_given_up]
        for link in broken:
            self._mark_broken(link, now)
        # Only when it is down for all of them, or the first would seem to leave it to the others.
        return [
            output
            for link in broken
            if self._timers.is_armed((Alarm.HINT, link.key))
            for output in self._give_up(link, Signal.FAREWELL, now)
        ]

    def _mark_broken(self, link: Link, now: float) -> None:
        link.down_since = now
        self.detector.forget(link.key)
        link.epoch = _next_epoch(link.epoch)
        link.stale = self.marker
        link.heard = link.told = None
        link.probes = 0
        self._timers.cancel((Alarm.LINK, link.key))
        if link.state is LinkState.JOINED:
            self._timers.arm((Alarm.SUSPECT, link.key), now + self._suspect_after(link, now))
        if not self._timers.is_armed((Alarm.EXPIRE, link.key)):
            self._timers.arm((Alarm.EXPIRE, link.key), now + self.config.suspect_timeout)

    def link_retried(self, endpoint: Endpoint) -> list[Output]:
        """libzmq tries ``endpoint`` again by itself.

        It says so right after `link_down`. Only now we probe, so that nothing of this endpoint is
        heard any more after a probe has ended the link.
        """
        for link in self._links.waiting_at(endpoint):
            self._timers.cancel((Alarm.ZOMBIE, link.key))
            may_probe = self._stops_when_refused and not self._timers.is_armed((Alarm.PROBE, link.key))
            if may_probe and link.down_since is not None:
                self._timers.arm((Alarm.PROBE, link.key), link.down_since)
        return []

    def link_rejected(self, endpoint: Endpoint, now: float) -> list[Output]:
        """What listens at ``endpoint`` does not complete a ZMTP handshake with us."""
        if ReconnectStop.HANDSHAKE_FAILED not in self.config.reconnect_stop:
            return []
        return [
            output
            for link in self._links.waiting_at(endpoint)
            if link.may_be_judged
            for output in self._give_up(link, Signal.REJECTED, now)
        ]

    def probed(self, endpoint: Endpoint, probe: Probe, now: float) -> list[Output]:
        """What a plain connection to ``endpoint`` told; only a refusal decides."""
        is_refused = probe is Probe.REFUSED and self._stops_when_refused
        outputs: list[Output] = []
        for link in self._links.waiting_at(endpoint):
            if is_refused and link.may_be_judged and not self._may_have_said_farewell(link):
                outputs += self._give_up(link, Signal.REFUSED, now)
            else:
                link.probes += 1
                self._timers.arm((Alarm.PROBE, link.key), self._next_probe(link, now))
        return outputs

    def _may_have_said_farewell(self, link: Link) -> bool:
        # A classic peer says it through the proxy alone and ends when it comes back to itself, so
        # the end of its link may be here before it.
        return (
            link.announce.is_classic
            and link.state is not LinkState.ANNOUNCED
            and link.probes < len(self.config.probe_delays)
        )

    def _next_probe(self, link: Link, now: float) -> float:
        # A dying process still accepts for a moment, so one probe is not enough.
        if link.down_since is not None and link.probes < len(self.config.probe_delays):
            return max(now, link.down_since + self.config.probe_delays[link.probes])
        return now + self.config.reconnect_interval

    @property
    def _stops_when_refused(self) -> bool:
        return ReconnectStop.CONN_REFUSED in self.config.reconnect_stop

    def heard(self, key: LinkKey, now: float) -> list[Output]:
        """A control frame of a peer was read, whatever is in it."""
        link = self._links.get(key)
        if link is None or self._is_leaving:
            return []
        link.counts.heard_at = now
        return self._follow(self.detector.heard(key, now), now)

    def beat_heard(self, key: LinkKey, now: float) -> list[Output]:
        """A peer takes us for the next one in its ring."""
        return self._detect(key, lambda: self.detector.beat(key, now), now)

    def ping_heard(self, key: LinkKey, body: PingBody, now: float) -> list[Output]:
        """A peer wants to know whether we run, or whether another one does."""
        return self._detect(key, lambda: self.detector.ping(key, body, now), now)

    def pong_heard(self, key: LinkKey, body: PongBody, now: float) -> list[Output]:
        """A peer says what came of a ping."""
        return self._detect(key, lambda: self.detector.pong(key, body, now), now)

    def suspicion_heard(self, key: LinkKey, body: SuspectBody, now: float) -> list[Output]:
        """A peer hears nothing of another one."""
        return self._detect(key, lambda: self.detector.told((body.id, body.session), now), now)

    def _detect(self, key: LinkKey, what: Callable[[], list[Finding]], now: float) -> list[Output]:
        if key not in self._links:
            return [Dropped(Drop.UNKNOWN_SENDER, str(key[0]))]
        return [] if self._is_leaving else self._follow(what(), now)

    def _follow(self, findings: list[Finding], now: float) -> list[Output]:
        """Do what the detector says."""
        outputs: list[Output] = []
        for finding in findings:
            match finding:
                case Silent(key):
                    outputs += self._found_silent(self._links.get(key), now)
                case Heard(key):
                    outputs += self.heard(key, now)
                case Answered(key):
                    outputs += self._answered(self._links.get(key), now)
                case _:
                    outputs.append(finding)
        return outputs

    def _answered(self, link: Link | None, now: float) -> list[Output]:
        """A silent peer runs, and hears us. What either subscribed meanwhile may still be on its way: prove it anew."""
        if link is None or link.state is not LinkState.SUSPECT:
            return []
        link.heard = None
        link.floor = self.marker
        return self._send_link(link, now)

    def _found_silent(self, link: Link | None, now: float) -> list[Output]:
        if link is None or link.is_given_up or link.state is not LinkState.JOINED:
            return []
        self._timers.cancel((Alarm.SUSPECT, link.key))
        if not self._timers.is_armed((Alarm.EXPIRE, link.key)):
            self._timers.arm((Alarm.EXPIRE, link.key), now + self.config.suspect_timeout)
        return self._signal(link, Signal.SILENT, now)

    def link_heard(self, key: LinkKey, body: LinkBody, now: float) -> list[Output]:
        """A link message of a peer arrived in our inbox."""
        link = self._links.get(key)
        if link is None or link.announce.is_classic:
            return [Dropped(Drop.UNKNOWN_SENDER, str(key[0]))]
        link.echo = body.epoch
        # Whoever takes us for a stranger has no connection to us that could be proved.
        if body.echo == link.epoch and link.down_since is None and not body.stranger:
            link.heard = body
            self._timers.cancel((Alarm.LINK, link.key))
        outputs = self._evaluate(link, now)
        if body.answer_me:
            outputs += self._send_link(link, now)
        return outputs

    def confirm_heard(self, key: LinkKey, body: ConfirmBody, now: float) -> list[Output]:
        """A peer has seen one of our markers."""
        link = self._links.get(key)
        if link is None:
            return []
        evicted = link.counts.evicted
        losses = link.counts.confirm(body)
        forgotten = [Dropped(Drop.FORGOTTEN, "a topic")] * (link.counts.evicted - evicted)
        return [*forgotten, *(TellLoss(link.peer, loss) for loss in losses), *self._evaluate(link, now)]

    def numbers_heard(self, key: LinkKey, body: NumbersBody) -> list[Output]:
        """A piece of a confirmation came."""
        if (link := self._links.get(key)) is not None:
            link.counts.numbers(body)
        return []

    def retained_heard(self, key: LinkKey, body: RetainedBody) -> list[Output]:
        """Another piece of it came: the last value of a topic."""
        link = self._links.get(key)
        if link is None:
            return []
        link.counts.retained(body)
        frame = split(body.frame)
        match frame:
            case DataFrame(kind=Kind.DATA) if frame.sender + frame.session == link.sender:
                return [DeliverRetained(body.frame)]
            case _:
                return [Dropped(Drop.MALFORMED_CONTROL, "what is retained is no message of its sender")]

    def subscribed(self, topic: Inbox | Marker, now: float) -> list[Output]:
        """A control subscription of a peer is in force at our `dataPub`."""
        if isinstance(topic, Marker):
            return [] if (topic.id, topic.session) == (self.me, self.session) else self._marker_seen(topic, now)
        links = self._links.of(topic.id)
        if links or topic.id == self.me:
            if any(link.state is not LinkState.ANNOUNCED and link.down_since is None for link in links):
                self._doubt_connections(now)
            return [output for link in links for output in self._send_link(link, now)]
        if self._open:
            return self._send_link_to_stranger(topic.id)
        if len(self._strangers) >= self.config.max_strangers:
            return [Dropped(Drop.TABLE_FULL, "strangers")]
        self._strangers[topic.id] = None
        return []

    def _doubt_connections(self, now: float) -> None:
        """A peer has connected to us anew, so it may have ended our connection to it, too, and TCP not have told us.

        Where nothing comes back from us, the system of the peer forgets a connection in silence. What we send over it
        then is answered by a reset. One subscription goes to all, soon, for all who may come at once.
        """
        alarm = Alarm.DOUBT, (self.me, self.session)
        if not self._timers.is_armed(alarm):
            self._timers.arm(alarm, now + self.config.suspect_after)

    def _marker_seen(self, seen: Marker, now: float) -> list[Output]:
        key = seen.id, seen.session
        link = self._links.get(key)
        before = self._markers.get(key, 0) if link is None else link.seen
        outputs: list[Output] = [
            SendData(self._control(seen.id, kind, body)) for kind, body in self.publications.confirmation(seen, before)
        ]
        if link is None:
            return outputs + self._remember_marker(key, seen.counter)
        link.seen = max(link.seen, seen.counter)
        return outputs + self._evaluate(link, now)

    def _remember_marker(self, key: LinkKey, counter: int) -> list[Output]:
        self._markers[key] = max(self._markers.pop(key, 0), counter)
        return _trim(self._markers, self.config.max_strangers)

    def _evaluate(self, link: Link, now: float) -> list[Output]:
        """Hold what we have of the link against rule 1."""
        if self._is_leaving or link.is_given_up or link.heard is None or self.detector.is_silent(link.key):
            return []
        if link.confirmed < link.floor:
            if not self._timers.is_armed((Alarm.LINK, link.key)):
                self._timers.arm((Alarm.LINK, link.key), now + self.config.link_retry_max)
            return []
        if link.seen < link.heard.marker:
            # The peer connected anew and its subscriptions are not in force here yet.
            if link.state is LinkState.JOINED and not self._timers.is_armed((Alarm.SUSPECT, link.key)):
                self._timers.arm((Alarm.SUSPECT, link.key), now + self._suspect_after(link, now))
                self._timers.arm((Alarm.EXPIRE, link.key), now + self.config.suspect_timeout)
            return []
        if link.peer.id == self.me:
            return self._meet_rival(link)
        rivals = self._links.rivals(link)
        if any(rival.peer.id == link.peer.id and rival.peer.incarnation > link.peer.incarnation for rival in rivals):
            return self._give_up(link, Signal.REPLACED, now)
        outputs: list[Output] = []
        for rival in rivals:
            if not rival.is_given_up:
                outputs += self._give_up(rival, Signal.REPLACED, now)
        if any(rival.key in self._links for rival in rivals):
            # They are told gone when they are drained; this link is looked at again then.
            return outputs
        outputs += self._prove(link, now)
        self.detector.verified(now)
        if link.confirmed == 0:
            # Joined all the same, but nothing of it is counted before a confirmation has arrived whole.
            link.asked = self.marker
            self._timers.arm((Alarm.LINK, link.key), now + self.config.link_retry_max)
        return outputs

    def _meet_rival(self, link: Link) -> list[Output]:
        """A process with our id is no peer of ours; that it runs is proved like that of any other."""
        self._timers.cancel((Alarm.LINK, link.key))
        if link.had_joined:
            return []
        link.had_joined = True
        return [MeetRival(link.announce)]

    def _prove_classic(self, link: Link, now: float) -> list[Output]:
        """A connection is all the proof that a classic peer gives, so it replaces none but its like."""
        if link.is_given_up or any(not rival.announce.is_classic for rival in self._links.rivals(link)):
            return []
        younger = self._links.at(link.endpoint)
        if any(other.announce.is_classic for other in younger[younger.index(link) + 1 :]):
            return self._finish(link, Signal.REPLACED, now)
        return self._prove(link, now)

    def _prove(self, link: Link, now: float) -> list[Output]:
        for alarm in (Alarm.SUSPECT, Alarm.EXPIRE, Alarm.LINK):
            self._timers.cancel((alarm, link.key))
        link.proved_at = link.endpoint
        return self._signal(link, Signal.PROVED, now)

    def _signal(self, link: Link, signal: Signal, now: float) -> list[Output]:
        event = link.signal(signal, now)
        if isinstance(event, PeerRecovered):
            link.flaps, link.flapped_at = link.recent_flaps(now, self.config.flap_memory) + 1, now
        if event is not None:
            self.detector.changed(link)
        if link.state is LinkState.JOINED:
            link.had_joined = True
            self._links.settle(link)
            self._joined[link.peer.id] = link.peer
        elif event is not None:
            self._joined.pop(link.peer.id, None)
        return [] if event is None else [event]

    def _suspect_after(self, link: Link, now: float) -> float:
        """Seconds for which it may be broken before anybody is told: the longer, the more often it was of late."""
        flaps = link.recent_flaps(now, self.config.flap_memory)
        longest = max(self.config.suspect_after, self.config.suspect_timeout / 2)
        return min(self.config.suspect_after * float(1 << min(flaps, 32)), longest)

    # Link messages

    def _send_link(self, link: Link, now: float) -> list[Output]:
        if not self._open or link.down_since is not None or link.is_given_up or link.announce.is_classic:
            return []
        link.told = self.marker
        body = LinkBody(self.marker, link.epoch, link.echo, answer_me=link.heard is None)
        if link.heard is None and not self._timers.is_armed((Alarm.LINK, link.key)):
            self._timers.arm((Alarm.LINK, link.key), now + link.retry)
        return [SendData(self._control(link.peer.id, Kind.LINK, body.encode()))]

    def _repeat_link(self, link: Link, now: float) -> list[Output]:
        if link.heard is None:
            link.retry = min(2 * link.retry, self.config.link_retry_max)
            link.unanswered += link.retry >= self.config.link_retry_max
            # After 1, 2, 4, 8 ... of these: who does not want to answer is not asked for ever.
            if link.unanswered and link.unanswered & (link.unanswered - 1) == 0:
                self.is_unheard_of = True
            return self._send_link(link, now)
        if link.confirmed >= max(link.floor, 1):
            return []
        # Its confirmation was lost, or is slow. One new marker serves all that wait.
        outputs = self.next_marker() if self.marker in (link.floor, link.asked) else []
        link.asked = self.marker
        if link.floor:
            link.floor = self.marker
        self._timers.arm((Alarm.LINK, link.key), now + self.config.link_retry_max)
        return outputs

    def _send_link_to_stranger(self, peer: PeerId) -> list[Output]:
        body = LinkBody(self.marker, 0, 0, answer_me=True, stranger=True)
        return [SendData(self._control(peer, Kind.LINK, body.encode()))]

    def _control(self, peer: PeerId, kind: Kind, body: bytes) -> bytes:
        return control_frame(inbox(peer), kind, self.me, self.session, body)

    # The end of a link

    def _give_up(self, link: Link, signal: Signal, now: float) -> list[Output]:
        """Read what the peer had sent, then end the link."""
        others = [other for other in self._links.at(link.endpoint) if other is not link]
        goes_on = any(other.down_since is None and not other.is_given_up for other in others)
        if goes_on or (others and link.state is LinkState.ANNOUNCED):
            # The connection goes on for the others, and with it what this one had sent.
            return self._finish(link, signal, now)
        # One drain serves all who are given up.
        outputs: list[Output] = (
            [] if self._links.is_draining(link.endpoint) else [DrainPeer(link.endpoint, link.sender)]
        )
        link.verdict = signal
        self._cancel_all(link.key)
        self._links.settle(link)
        return outputs

    def drained(self, endpoint: Endpoint, now: float) -> list[Output]:
        """All that the peer at ``endpoint`` had sent was read, and `dataSub` is no longer connected there."""
        outputs: list[Output] = []
        links = self._links.at(endpoint)
        for link in links:
            if link.verdict is not None:
                outputs += self._finish(link, link.verdict, now, is_connected=False)
        # These were announced while the ones before them were being drained.
        rest = self._links.at(endpoint)
        if rest:
            outputs.append(ConnectPeer(endpoint))
        for link in rest:
            self._timers.cancel((Alarm.ZOMBIE, link.key))
        outputs += self._broke(rest, now)
        for link in links:
            if link.again is not None and link.key not in self._links:
                outputs += self.announced(*link.again, now)[1]
            for sibling in self._links.of(link.peer.id):
                outputs += self._evaluate(sibling, now)
        return outputs

    def _finish(self, link: Link, signal: Signal, now: float, *, is_connected: bool = True) -> list[Output]:
        if signal is Signal.EXPIRED and not self._stops_when_refused and link.state is not LinkState.ANNOUNCED:
            return self._go_on_trying(link, now)
        self._cancel_all(link.key)
        self._links.remove(link)
        outputs = self._disconnect_from(link.endpoint) if is_connected else []
        if link.seen:
            # Its own connection to us may never have ended, and then it subscribes to nothing again.
            outputs += self._remember_marker(link.key, link.seen)
        if link.epoch or link.confirmed or link.down_since is None:
            ended = self._epochs[link.key] = self._epochs[link.endpoint] = _next_epoch(link.epoch)
            for other in self._links.at(link.endpoint):
                # What listens there may know our marker from that connection, as a later link is told.
                if other.down_since is not None:
                    other.epoch = max(other.epoch, ended)
            outputs += _trim(self._epochs, self.config.max_tombstones)
        if signal in (Signal.EXPIRED, Signal.REJECTED) and link.had_joined:
            # The same life may come back, and then tells what we missed meanwhile.
            self._counts[link.key] = link.counts
            outputs += _trim(self._counts, self.config.max_peers)
        if signal in FINAL and link.state is not LinkState.ANNOUNCED:
            # Who never joined may be a lie from end to end; its tombstone would be one about the victim.
            outputs += self._bury(link)
        if signal is Signal.EXPIRED and link.announce.is_classic and link.had_joined:
            # It does not announce itself again, so only a connection attempt can find it.
            self._retries[link.key] = link.announce, link.endpoint
            outputs += _trim(self._retries, self.config.max_peers)
            self._timers.arm((Alarm.RETRY, link.key), now + self.config.beacon_interval)
        return outputs + self._shut(link, signal) + self._signal(link, signal, now)

    def _go_on_trying(self, link: Link, now: float) -> list[Output]:
        """End the stay, not the connection: ``reconnect_stop=0`` leaves it to libzmq for ever."""
        # The others belong to the connection, which must be revived as before.
        for alarm in (Alarm.LINK, Alarm.SUSPECT, Alarm.EXPIRE, Alarm.HINT):
            self._timers.cancel((alarm, link.key))
        self.detector.forget(link.key)
        fresh = evolve(link, state=LinkState.ANNOUNCED, since=now, heard=None, told=None)
        outputs = self._shut(link, Signal.EXPIRED) + self._signal(link, Signal.EXPIRED, now)
        self._links.replace(fresh)
        return outputs + self._send_link(fresh, now)

    def _disconnect_from(self, endpoint: Endpoint) -> list[Output]:
        return [] if self._links.at(endpoint) else [DisconnectPeer(endpoint)]

    def _shut(self, link: Link, signal: Signal) -> list[Output]:
        """Let a peer whose stay ends, and that may live, hold neither memory nor publishers of ours."""
        if link.state is LinkState.ANNOUNCED or link.announce.is_classic or signal not in MAY_LIVE:
            return []
        # Another life of the same peer subscribes to the same inbox: its connection must not end.
        others = [other for other in self._links.of(link.peer.id) if other is not link and not other.is_given_up]
        return [] if others else [ShutPeer(link.peer.id)]

    def _bury(self, link: Link) -> list[Output]:
        # What it said itself counts: an announce in its name may be forged.
        said = link.peer.incarnation if link.left is None else link.left
        left = CLASSIC if link.announce.is_classic else said
        self._tombstones[link.key] = max(self._tombstones.pop(link.key, CLASSIC), left)
        return _trim(self._tombstones, self.config.max_tombstones)

    def _cancel_all(self, key: LinkKey) -> None:
        self.detector.forget(key)
        for alarm in Alarm:
            self._timers.cancel((alarm, key))

    # Time

    def tick(self, now: float) -> list[Output]:
        """Do what is due."""
        outputs: list[Output] = []
        for (alarm, key), at in self._timers.pop_due(now):
            is_late = alarm in _JUDGEMENTS and now - at > self.config.suspect_after
            # We did not run when it was due, so we do not know what the peer did meanwhile: first
            # read what waits, then judge. Once, or who is always late would never judge.
            if is_late and key in self._links and self._timers.put_off((alarm, key), now + self.config.suspect_after):
                continue
            outputs += self._due(alarm, key, now)
        outputs += self._follow(self.detector.tick(now), now)
        return outputs + [SendData(frame) for frame in self.publications.tick(now)]

    def _due(self, alarm: Alarm, key: LinkKey, now: float) -> list[Output]:
        if alarm is Alarm.RETRY:
            return self._retry(key, now)
        if alarm is Alarm.DOUBT:
            return [] if self._is_leaving else self.next_marker()
        link = self._links.get(key)
        if link is None or link.is_given_up:
            # What was due just before it gave the link up.
            return []
        match alarm:
            case Alarm.LINK:
                return self._repeat_link(link, now)
            case Alarm.PROBE:
                return [ProbePeer(link.endpoint)]
            case Alarm.ZOMBIE if self._links.is_draining(link.endpoint):
                return []
            case Alarm.ZOMBIE:
                probe = [ProbePeer(link.endpoint)] if self._stops_when_refused else []
                return [RevivePeer(link.endpoint), *probe]
            case Alarm.SUSPECT:
                return self._signal(link, Signal.SILENT, now)
            case Alarm.HINT:
                return [Dropped(Drop.UNCONFIRMED_FAREWELL, str(key[0]))]
            case Alarm.EXPIRE:
                return self._expire(link, now)

    def _retry(self, key: LinkKey, now: float) -> list[Output]:
        retry = self._retries.pop(key, None)
        if retry is None:
            return []
        _, outputs = self.announced(*retry, now)
        if (link := self._links.get(key)) is not None:
            link.had_joined = True
        return outputs

    def _expire(self, link: Link, now: float) -> list[Output]:
        if not self._stops_when_refused:
            return [] if link.state is LinkState.ANNOUNCED else self._finish(link, Signal.EXPIRED, now)
        return self._give_up(link, Signal.EXPIRED, now)


def _means(farewell: Farewell, link: Link) -> bool:
    """Whether a farewell speaks of the life and the incarnation that we know."""
    if farewell.is_classic:
        return True
    # A higher incarnation is no better than a lie: the peer would have announced it first.
    is_its_own = farewell.session == link.announce.session
    return is_its_own and farewell.incarnation == link.peer.incarnation


def _next_epoch(epoch: int) -> int:
    # 0 says that no connection has ended, so it never comes again.
    return epoch % (EPOCHS - 1) + 1


def _trim(table: dict[_K, _V], size: int) -> list[Output]:
    """Forget the oldest entries beyond ``size``."""
    outputs: list[Output] = []
    while len(table) > size:
        del table[next(iter(table))]
        outputs.append(Dropped(Drop.FORGOTTEN, "who was here"))
    return outputs


__all__ = ["Alarm", "Roster"]
