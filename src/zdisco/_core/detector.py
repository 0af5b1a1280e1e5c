"""Finds peers that hang although their connections are up.

Rule 1: the joined peers are a ring, in the order of their ids. Each listens for the one before, and
sends a beat to the next one: the first of the ring every ``beat_interval``, the others when they hear
one, or by themselves a bit later than they should have. So a wave goes around from the first to the
last, and wakes each of them once. Any frame counts as a beat.

Who is sent a beat, or was, listens for the next one, too: peers may see different rings, while a link
is broken, or somebody is new. So whoever sends beats is listened for.

Rule 2: silence is a question, never a verdict. It is answered by a ping, directly and through
others at the same time. So peers that see different rings cost each other a ping. With a beat now and
then a peer that is chosen at random is pinged, too, lest nobody listens for it; each once before any again.

Rule 3: who finds a peer silent tells all, and is not believed: each pings for itself.

Rule 4: what we say to a peer may wait in a long queue, which is no silence of its own. So whoever
pings it for us lets it tell us directly. If others hear it and we do not all the same, it has
``suspect_timeout`` more.

Rule 5: who is late with its own deadlines has more patience with others; so has everybody while
many join, since they are busy then, and with a peer that was suspect and recovered.

Rules 2 and 3 are those of SWIM (Das, Gupta and Motivala, 2002), but for the ring, which finds each
peer within one interval; rule 5 is the local health of Lifeguard (Dadgar, Phillips and Currey, 2018).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from enum import Enum
from typing import TypeAlias

from attrs import define, field, frozen

from .actions import Drop, Dropped, SendData
from .config import PeerConfig
from .envelope import ALL, Kind, PingBody, PongBody, Question, SuspectBody, control_frame, inbox
from .link import Link, LinkKey
from .links import Links
from .model import LinkState, PeerId
from .timers import Timers

_LATER = 1.15
"""Beat intervals until who is not the first of the ring sends a beat unasked."""
_MOST = 4
"""Times that we wait longer than usual, at the most, where we or the peer were late before."""
_BUSTLE = 16
"""New peers that make it one time more, likewise up to so many times."""
_CALM = 0.985
"""What is left of them with each beat."""
_CROWD = 24
"""New peers with which nobody is doubted: who makes hundreds of links at once may answer nothing else for a while."""
_CROWD_LASTS = 120.0
"""Seconds after which peers are doubted again, however many come: anybody can announce new ones without end. There is
no other crowd before all of them are forgotten."""
_UNASKED = 0
"""The serial of no ping."""


class Alarm(Enum):
    """What a deadline is for."""

    BEAT = "send a beat"
    CHECK = "a peer that was pinged has not answered"
    ERRAND = "a peer that was pinged for another has not answered"


class Step(Enum):
    """How far the check of a peer has come."""

    PINGED = "pinged at random"
    ASKED = "pinged by us and by others"
    TOLD = "pinged because somebody finds it silent"
    DOUBTED = "pinged because all may be cut off from us"
    HEARD_BY_OTHERS = "it answers others, not us"
    SILENT = "found silent; pinged until it answers or is given up"


@frozen
class Silent:
    """A peer is silent; its link must not be trusted until it has `Answered`."""

    key: LinkKey


@frozen
class Heard:
    """Something of a peer was heard that had been pinged; nobody has told the roster."""

    key: LinkKey


@frozen
class Answered:
    """A silent peer has answered: each hears the other again."""

    key: LinkKey


Finding: TypeAlias = SendData | Silent | Heard | Answered | Dropped


@define(eq=False)
class _Watch:
    """Somebody is expected to send beats. Is a deadline itself: until when something should be heard."""

    key: LinkKey
    since: float


_Deadline: TypeAlias = tuple[Alarm, LinkKey | int] | _Watch
_BEAT: _Deadline = (Alarm.BEAT, 0)


@define(eq=False)
class _Check:
    """A question about one peer."""

    step: Step
    began: float
    serial: int
    """That of our latest ping."""
    pinged_at: float
    serials: set[int]
    """Those of all of them."""
    asked: set[PeerId] = field(factory=set)
    """Who was asked to ping it, and has not said what came of that."""
    ends: float = 0.0
    """When a peer that answers others is silent all the same."""


@frozen
class _Errand:
    """A question of another peer about a third one."""

    asker: PeerId
    serial: int
    target: LinkKey


@define(eq=False)
class Detector:
    """Beats, pings and suspicions of one peer, without I/O.

    Args:
        me: Our own id, and our session.
        links: Those of the roster. Only joined ones, of peers that are not classic, matter.
        config: Intervals and bounds.
        chance: Returns a random number of at least 0 and less than 1.
    """

    _me: LinkKey
    _links: Links
    _config: PeerConfig
    _chance: Callable[[], float]
    _timers: Timers[_Deadline] = field(factory=Timers)
    _before: LinkKey | None = None
    """The peer before us in the ring."""
    _watched: dict[LinkKey, _Watch] = field(factory=dict)
    """That one, and whoever takes us, or took us, for the next in its own ring."""
    _checks: dict[LinkKey, _Check] = field(factory=dict)
    _errands: dict[int, _Errand] = field(factory=dict)
    _serial: int = 0
    _ping_at: float = 0.0
    """The first beat after that comes with a ping of a peer at random."""
    _had_turn: set[LinkKey] = field(factory=set)
    """Who was pinged at random in this round."""
    _beaten_at: float = float("-inf")
    _lateness: int = 0
    """One more for each late beat of ours, one less for each that was not."""
    _members: dict[LinkKey, Link] = field(factory=dict)
    """The links to the joined peers that know beats."""
    _sorted: list[Link] | None = None
    """The same, in the order of their ids; made anew when it is looked for."""
    _due_at: float = 0.0
    """When the next beat of ours is."""
    _bustle: float = 0.0
    """How many were announced of late that are new to us."""
    _crowd_since: float | None = None
    """When there were enough of them to be a crowd; ``None`` when all are forgotten."""
    _refuted_at: float = float("-inf")

    @property
    def deadline(self) -> float:
        """When `tick` is to be called next, at the latest; ``inf`` is never."""
        return self._timers.next

    def is_silent(self, key: LinkKey) -> bool:
        """Whether nothing is heard of a peer: its link is not to be trusted."""
        check = self._checks.get(key)
        return check is not None and check.step is Step.SILENT

    # What comes in

    def forget(self, key: LinkKey) -> None:
        """The connection to a peer has ended, or its link: what was asked about it is no matter any more."""
        if key in self._checks:
            self._end_check(key)

    def changed(self, link: Link) -> None:
        """A link has another state than before."""
        self._sorted = None
        if link.state is LinkState.JOINED and not link.announce.is_classic:
            self._members[link.key] = link
        else:
            self._members.pop(link.key, None)
            self._unwatch(link.key)
        if not self._members:
            self._rest()

    def found(self, now: float) -> None:
        """A peer was announced that we did not know: it is going to join, and so may others."""
        self._bustle += 1
        if self._bustle >= _CROWD and self._crowd_since is None:
            self._crowd_since = now

    def _is_crowd(self, now: float) -> bool:
        since = self._crowd_since
        return since is not None and self._bustle >= _CROWD and now < since + _CROWD_LASTS

    def _rest(self) -> None:
        self._before = None
        self._timers.cancel(_BEAT)
        for key in tuple(self._watched):
            self._unwatch(key)

    def verified(self, now: float) -> None:
        """A link was verified: there may be somebody to send beats to."""
        if self._members and not self._timers.is_armed(_BEAT):
            self._arm_beat(now + self._config.beat_interval * self._chance())
            self._ping_at = now + self._next_ping()

    def close(self) -> None:
        """We are leaving: others may find us silent, it does not matter any more."""
        self._rest()
        for key in tuple(self._checks):
            self._end_check(key)
        for serial in self._errands:
            self._timers.cancel((Alarm.ERRAND, serial))
        self._errands.clear()

    def heard(self, key: LinkKey, now: float) -> list[Finding]:
        """A control frame of a peer was read; of messages `Counts.heard_at` tells."""
        check = self._checks.get(key)
        findings: list[Finding] = []
        if check is not None and check.step is not Step.SILENT:
            self._end_check(key)
        elif check is not None and now - check.pinged_at >= self._config.ping_timeout:
            # It runs. Whether it still hears us only an answer tells: it may have given us up meanwhile.
            findings.append(self._ping_again(key, check, now))
        if self._errands:
            findings += self._report([serial for serial, errand in self._errands.items() if errand.target == key])
        if (watch := self._watched.get(key)) is not None:
            # So it wakes us only when nothing is heard.
            self._timers.arm(watch, now + self._patience(self._config.beat_timeout, self._members[key], now))
        if key == self._before:
            findings += self._keep_step(now)
        return findings

    def beat(self, sender: LinkKey, now: float) -> list[Finding]:
        """A peer takes us for the next in its ring; what else follows is that it was `heard`."""
        if sender in self._members and sender not in self._watched:
            self._watch(sender, now)
        return []

    def _watch(self, key: LinkKey, now: float) -> None:
        watch = self._watched[key] = _Watch(key, now)
        self._timers.arm(watch, now + self._patience(self._config.beat_timeout, self._members[key], now))

    def _unwatch(self, key: LinkKey) -> None:
        if (watch := self._watched.pop(key, None)) is not None:
            self._timers.cancel(watch)

    def _keep_step(self, now: float) -> list[Finding]:
        """The one before us has beaten, so do we; but a wave ends at the first of the ring, and does not go twice."""
        if self._leads or now - self._beaten_at < self._config.beat_interval / 2:
            return []
        self._note_lateness(now)
        return self._beat(now)

    def _arm_beat(self, at: float) -> None:
        self._due_at = at
        self._timers.arm(_BEAT, at)

    def _note_lateness(self, now: float) -> None:
        is_late = now - self._due_at > self._config.beat_interval / 2
        self._lateness = min(self._lateness + 1, _MOST) if is_late else max(self._lateness - 1, 0)
        if is_late:
            # First read what waits, see `tick`.
            self._ping_at = max(self._ping_at, now + self._config.ping_timeout)
        self._bustle *= _CALM
        if self._bustle < 1:
            self._crowd_since = None

    def _ping_again(self, key: LinkKey, check: _Check, now: float) -> SendData:
        check.serial, check.pinged_at = self._next_serial(), now
        check.serials.add(check.serial)
        if (link := self._links.get(key)) is not None:
            link.pinged = check.serial, now
        return self._ping(key[0], PingBody(check.serial))

    def ping(self, sender: LinkKey, body: PingBody, now: float) -> list[Finding]:
        """A peer asks whether we run, or whether another one does."""
        if body.question is not Question.OTHER or body.other is None:
            findings: list[Finding] = [self._pong(sender[0], PongBody(body.serial))]
            if body.other in self._members:
                # No ping: who does not hear us may only be slow to read what we say. No beat either: no more follow.
                findings.append(self._pong(body.other[0], PongBody(_UNASKED)))
            return findings
        if body.other not in self._members:
            return [self._pong(sender[0], PongBody(body.serial, is_silent=True))]
        if len(self._errands) >= self._config.max_probes:
            return [Dropped(Drop.TABLE_FULL, "pings for others")]
        serial = self._next_serial()
        self._errands[serial] = _Errand(sender[0], body.serial, body.other)
        self._timers.arm((Alarm.ERRAND, serial), now + self._config.ping_timeout)
        return [self._ping(body.other[0], PingBody(serial, Question.TELL, sender))]

    def pong(self, sender: LinkKey, body: PongBody, now: float) -> list[Finding]:
        """A peer answers a ping, or says what came of one of another peer; that it runs is told by `heard`."""
        own, link = self._checks.get(sender), self._links.get(sender)
        # Also where something else that was heard meanwhile has ended the check.
        if link is not None and link.pinged is not None and link.pinged[0] == body.serial:
            link.round_trip = now - link.pinged[1]
        if own is not None and body.serial in own.serials:
            self._end_check(sender)
            return [Answered(sender)] if own.step is Step.SILENT else []
        for check in self._checks.values():
            if check.serial == body.serial and sender[0] in check.asked:
                check.asked.discard(sender[0])
                if not body.is_silent and check.step is Step.ASKED:
                    check.step = Step.HEARD_BY_OTHERS
                    check.ends = now + self._config.suspect_timeout
                break
        return []

    def told(self, about: LinkKey, now: float) -> list[Finding]:
        """A peer finds another one silent; maybe us."""
        if about == self._me:
            if now < self._refuted_at + self._config.beat_interval:
                return []
            self._refuted_at = now
            return [self._control(ALL, Kind.BEAT, b"")]
        check = self._checks.get(about)
        if about not in self._members or self._is_crowd(now) or (check is not None and check.step is not Step.PINGED):
            return []
        return self._begin_check(about, Step.TOLD, self._config.ping_timeout, now)

    def doubt(self, key: LinkKey, now: float) -> list[Finding]:
        """It is said that a peer is not where we are connected for it."""
        if key not in self._members or key in self._checks or self._is_crowd(now):
            return []
        return self._begin_check(key, Step.TOLD, self._config.indirect_ping_timeout, now)

    # Time

    def tick(self, now: float) -> list[Finding]:
        """Do what is due."""
        findings: list[Finding] = []
        for deadline, at in self._timers.pop_due(now):
            # We did not run when it was due, so first read what waits, see `Roster.tick`.
            is_late = now - at > self._config.beat_interval / 2
            if deadline is _BEAT:
                self._note_lateness(now)
            elif is_late and self._timers.put_off(deadline, now + self._config.ping_timeout):
                continue
            findings += self._due(deadline, now)
        return findings

    def _due(self, deadline: _Deadline, now: float) -> list[Finding]:
        if isinstance(deadline, _Watch):
            return self._look_at(deadline, now)
        alarm, key = deadline
        if alarm is Alarm.BEAT:
            return self._beat(now)
        return self._report([key], is_silent=True) if isinstance(key, int) else self._unanswered(key, now)

    def _beat(self, now: float) -> list[Finding]:
        ring = self._ring
        self._beaten_at = now
        self._arm_beat(now + self._config.beat_interval * (1.0 if self._leads else _LATER))
        at = bisect_left(ring, self._me[0].int, key=_order)
        self._before = before = ring[at - 1].key
        if before not in self._watched:
            self._watch(before, now)
        beat = self._control(inbox(ring[at % len(ring)].peer.id), Kind.BEAT, b"")
        # With the beat, since it wakes us anyway.
        return [beat, *self._ping_at_random(now)] if now >= self._ping_at else [beat]

    def _look_at(self, watch: _Watch, now: float) -> list[Finding]:
        link = self._members[watch.key]
        if self._is_crowd(now):
            self._timers.arm(watch, now + self._config.beat_timeout)
            return []
        timeout = self._patience(self._config.beat_timeout, link, now)
        heard_at = max(watch.since, link.counts.heard_at)
        if now < heard_at + timeout:
            self._timers.arm(watch, heard_at + timeout)
            return []
        if watch.key == self._before:
            self._timers.arm(watch, now + timeout)
            return self._ask_about(link, now)
        # It may have another next one by now. If it answers that was all.
        del self._watched[watch.key]
        return self._ask_others(watch.key, now) if watch.key not in self._checks else []

    def _ask_about(self, link: Link, now: float) -> list[Finding]:
        """This one is silent. Nobody but that one listens for the one before it, so both are asked about."""
        before = self._ring[bisect_left(self._ring, _order(link), key=_order) - 1]
        keys = {one.key: None for one in (link, before) if one.key not in self._checks}
        return [finding for key in keys for finding in self._ask_others(key, now)]

    def _ping_at_random(self, now: float) -> list[Finding]:
        self._ping_at += self._next_ping()
        keys = self._unchecked()
        if not keys or self._is_crowd(now):
            return []
        # Each once before anybody again, so no two are without a ping for long.
        self._had_turn.intersection_update(self._members)
        left = [key for key in keys if key not in self._had_turn]
        if not left:
            self._had_turn.clear()
            left = keys
        key = left[int(self._chance() * len(left))]
        self._had_turn.add(key)
        return self._begin_check(key, Step.PINGED, self._config.ping_timeout, now)

    def _next_ping(self) -> float:
        return self._config.ping_interval * (0.5 + self._chance())

    # Checks

    def _begin_check(self, key: LinkKey, step: Step, seconds: float, now: float) -> list[Finding]:
        link, serial = self._members[key], self._next_serial()
        link.pinged = serial, now
        check = self._checks[key] = _Check(step, now, serial, now, {serial})
        self._timers.arm((Alarm.CHECK, key), now + self._patience(seconds, link, now))
        return [self._ping(key[0], PingBody(check.serial))]

    def _ask_others(self, key: LinkKey, now: float) -> list[Finding]:
        findings = self._begin_check(key, Step.ASKED, self._config.indirect_ping_timeout, now)
        check = self._checks[key]
        others = [link.peer.id for link in self._ring if link.key != key]
        for _ in range(min(self._config.indirect_pings, len(others))):
            other = others.pop(int(self._chance() * len(others)))
            check.asked.add(other)
            findings.append(self._ping(other, PingBody(check.serial, Question.OTHER, key)))
        return findings

    def _unanswered(self, key: LinkKey, now: float) -> list[Finding]:
        check, link = self._checks.get(key), self._links.get(key)
        if check is None:
            return []
        expected = LinkState.SUSPECT if check.step is Step.SILENT else LinkState.JOINED
        is_doubted = check.step is Step.SILENT or not self._is_crowd(now)
        if link is None or link.state is not expected or link.down_since is not None or not is_doubted:
            # What else is wrong with it is looked after by the roster.
            del self._checks[key]
            return []
        if link.counts.heard_at > check.began and check.step is not Step.SILENT:
            return [Heard(key)]
        match check.step:
            case Step.PINGED:
                return self._ask_others(key, now)
            case Step.ASKED:
                found = [*self._find_silent(key, now), self._tell_all(key)]
                return [*found, *self._ask_about(link, now), *self._doubt(check.asked, now)]
            case Step.DOUBTED:
                return [*self._find_silent(key, now), self._tell_all(key)]
            case Step.TOLD:
                return self._find_silent(key, now)
            case Step.HEARD_BY_OTHERS if now >= check.ends:
                return self._find_silent(key, now)
            case Step.HEARD_BY_OTHERS | Step.SILENT:
                self._timers.arm((Alarm.CHECK, key), now + self._config.beat_timeout)
                return [self._ping_again(key, check, now)]

    def _find_silent(self, key: LinkKey, now: float) -> list[Finding]:
        self._checks[key].step = Step.SILENT
        self._timers.arm((Alarm.CHECK, key), now + self._config.beat_timeout)
        return [Silent(key)]

    def _tell_all(self, key: LinkKey) -> SendData:
        return self._control(ALL, Kind.SUSPECT, SuspectBody(*key).encode())

    def _doubt(self, mute: set[PeerId], now: float) -> list[Finding]:
        """Who was asked, and did not even say that it heard nothing, may be cut off from us, too, as may all others."""
        if not mute:
            return []
        return [
            finding
            for key in self._unchecked()
            for finding in self._begin_check(key, Step.DOUBTED, self._config.ping_timeout, now)
        ]

    def _end_check(self, key: LinkKey) -> None:
        del self._checks[key]
        self._timers.cancel((Alarm.CHECK, key))

    def _report(self, serials: list[int], *, is_silent: bool = False) -> list[Finding]:
        findings: list[Finding] = []
        for serial in serials:
            errand = self._errands.pop(serial)
            self._timers.cancel((Alarm.ERRAND, serial))
            findings.append(self._pong(errand.asker, PongBody(errand.serial, is_silent)))
        return findings

    # Small things

    @property
    def _ring(self) -> list[Link]:
        if self._sorted is None:
            self._sorted = sorted(self._members.values(), key=_order)
        return self._sorted

    @property
    def _leads(self) -> bool:
        """Whether we are the first of the ring."""
        return not self._ring or self._me[0].int < _order(self._ring[0])

    def _unchecked(self) -> list[LinkKey]:
        return [link.key for link in self._ring if link.key not in self._checks]

    def _patience(self, seconds: float, link: Link, now: float) -> float:
        flaps = link.recent_flaps(now, self._config.flap_memory)
        return seconds * (1 + min(self._lateness + flaps, _MOST) + min(int(self._bustle / _BUSTLE), _MOST))

    def _next_serial(self) -> int:
        self._serial = self._serial % 0xFFFFFFFF + 1  # never `_UNASKED`
        return self._serial

    def _ping(self, to: PeerId, body: PingBody) -> SendData:
        return self._control(inbox(to), Kind.PING, body.encode())

    def _pong(self, to: PeerId, body: PongBody) -> SendData:
        return self._control(inbox(to), Kind.PONG, body.encode())

    def _control(self, topic: bytes, kind: Kind, body: bytes) -> SendData:
        return SendData(control_frame(topic, kind, *self._me, body))


def _order(link: Link) -> int:
    return link.peer.id.int


__all__ = ["Answered", "Detector", "Finding", "Heard", "Silent"]
