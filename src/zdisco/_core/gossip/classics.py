"""What the real zgossip nodes that we speak to hold, and what is still to be said to them.

A real node takes whatever value it is sent, sends each change to everybody, the sender included,
and has no versions. Two of them that hold different values swap these for ever, and so would we
with one of them. Therefore:

Rule 1: a key is said in rounds. A round says the present value to each real node that holds
another one, and ends when all these have sent it back, or ``echo_timeout`` has passed. Only
then, and not within ``pace_interval`` of the beginning, comes the next round, with what is the
value by then: two values that follow each other sooner than the echoes make real nodes swap them
without end, though one program wrote both.

Rule 2: what a real node says of a key while its echo is awaited was said before it had ours, and
is void: it has ours by now. Only where no echo comes, since it had that value already, the last
that it said is what it holds.

Rule 3: what a real node says otherwise is a change. It waits for ``settle_time`` before it is
taken: our own kind may bring the same with its version.

Rule 4: where a real node connects, it speaks first.

Rule 5: a value that the key had here before is no change where it comes from a real node that has
not had the present one. It comes late: that node was away, or another one of ours had said it. From
one that has had the present one, it may be either; it waits for twice ``pace_interval``, within
which that other one says the present value, too.

Rule 6: of one key so many changes are taken from real nodes as `Damper` lets pass, then the
latest now and then: those that swap values with each other are none of our making, and cannot
be stopped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from typing import TypeAlias

from attrs import define, field, frozen

from ..actions import Drop
from ..config import GossipConfig
from ..timers import Timers
from .store import Store
from .talk import Link


class Wait(Enum):
    """What a key, or a link, waits for."""

    ROUND = "the next round of a key"
    ADOPTION = "a change of a key that is taken soon"
    GREETING = "a real node that speaks first"


@frozen
class Adopt:
    """Take this value, which a real node told."""

    key: bytes
    value: bytes


@frozen
class Say:
    """Send this tuple to a real node."""

    link: Link
    key: bytes
    value: bytes


@frozen
class Passed:
    """A change was passed over: for a later one, or for want of room."""

    key: bytes
    drop: Drop


Advice: TypeAlias = Adopt | Say | Passed

_PATIENCE = 20
"""So many times ``settle_time`` a real node may go on telling, until we speak, too."""


@define(eq=False)
class _Round:
    """A value that was said to some real nodes."""

    value: bytes
    awaited: dict[Link, bytes | None]
    """Who has not sent it back, and what it has said meanwhile."""
    not_before: float
    """When the next one may begin."""


@frozen
class _Told:
    """A change that is taken soon."""

    value: bytes
    link: Link
    """Who told it last."""
    since: float
    """When the first of those was told that gave way to this one."""


@define(eq=False)
class Damper:
    """Lets ``burst`` changes of a key pass at once, then one in each ``interval``."""

    burst: int
    interval: float
    capacity: int
    _spent: OrderedDict[bytes, tuple[float, float]] = field(init=False, factory=OrderedDict)
    """What is left to spend of a key, and since when."""

    def passes_at(self, key: bytes, now: float) -> float:
        """When a change of a key may pass, from now on."""
        left, since = self._spent.get(key, (float(self.burst), now))
        left = min(self.burst, left + (now - since) / self.interval)
        return now if left >= 1 else now + (1 - left) * self.interval

    def spend(self, key: bytes, now: float) -> None:
        """Count one that passed."""
        left, since = self._spent.pop(key, (float(self.burst), now))
        left = min(self.burst, left + (now - since) / self.interval)
        self._spent[key] = (left - 1, now)
        # Whoever has not changed for longest has most to spend anyway.
        while len(self._spent) > self.capacity:
            self._spent.popitem(last=False)


@define(eq=False)
class Classics:
    """The real nodes that we are connected to."""

    config: GossipConfig
    store: Store
    _held: dict[Link, dict[bytes, bytes]] = field(init=False, factory=dict)
    """What each of them holds, as far as it told, and as we told it."""
    _greeting: dict[Link, float | None] = field(init=False, factory=dict)
    """Those that speak first, and until when at most; ``None``: until `greeted`."""
    _rounds: dict[bytes, _Round] = field(init=False, factory=dict)
    _awaited: dict[Link, dict[bytes, None]] = field(init=False, factory=dict)
    """The keys of which the echo of each of them is awaited."""
    _told: dict[bytes, _Told] = field(init=False, factory=dict)
    """Changes that are taken soon."""
    _tellers: dict[Link, dict[bytes, None]] = field(init=False, factory=dict)
    """The keys of which each of them told that last, since it is there."""
    _timers: Timers[tuple[Wait, Link]] = field(init=False, factory=Timers)
    _damper: Damper = field(init=False)

    def __attrs_post_init__(self) -> None:
        config = self.config
        self._damper = Damper(config.damping_burst, config.damping_interval, config.max_tuples)

    def tune(self, config: GossipConfig) -> None:
        """Use another configuration from now on."""
        self.config = config
        self._damper.burst = config.damping_burst
        self._damper.interval = config.damping_interval
        self._damper.capacity = config.max_tuples

    @property
    def next(self) -> float:
        """When `due` is to be called next; ``inf`` is never."""
        return self._timers.next

    def __contains__(self, link: Link) -> bool:
        return link in self._held

    @property
    def is_settled(self) -> bool:
        """Whether nothing is on its way: all have told what they hold, and hold what we hold."""
        return not (self._greeting or self._rounds or self._told)

    def joined(self, link: Link, now: float) -> None:
        """A real node is there, or somebody who may be one, by a new connection; it will tell what it holds.

        Of a client nothing shows when it has told all: it is let speak until it is silent for ``settle_time``.
        Of a remote `greeted` must be said.
        """
        self.left(link, now)
        self.rejoined(link, now)

    def rejoined(self, link: Link, now: float) -> None:
        """It will tell again what it holds. Echoes that are awaited may come before that."""
        self._held[link] = {}
        self._awaited.setdefault(link, {})
        self._tellers.setdefault(link, {})
        self._greeting[link] = None
        if isinstance(link, bytes):
            self._greeting[link] = now + _PATIENCE * self.config.settle_time
            self._timers.arm((Wait.GREETING, link), now + self.config.settle_time)

    def greeted(self, link: Link, now: float) -> list[Advice]:
        """It has told all that it holds: say what it lacks."""
        if link not in self._greeting:
            return []
        del self._greeting[link]
        self._timers.cancel((Wait.GREETING, link))
        advice: list[Advice] = []
        # What was said before the greeting has been sent back by now, or has got lost.
        for key, value in [(key, self._rounds[key].awaited[link]) for key in self._awaited[link]]:
            self._settle(key, link, now)
            if value is not None:
                advice += self._learned(link, key, value, now)
        for key in tuple(self.store.live):
            advice += self.say(key, now)
        return advice

    def left(self, link: Link, now: float) -> None:
        """It is gone."""
        if self._held.pop(link, None) is None:
            return
        self._greeting.pop(link, None)
        self._timers.cancel((Wait.GREETING, link))
        for key in list(self._awaited[link]):
            self._settle(key, link, now)
        del self._awaited[link]
        # Whether it came late cannot be seen any more, and nobody is known to hold it.
        for key in self._tellers.pop(link):
            if self.store.was(key, self._told[key].value):
                self._take_back(key, now)

    def told(self, link: Link, key: bytes, value: bytes, now: float) -> list[Advice]:
        """A real node says that this is a value."""
        round = self._rounds.get(key)
        if round is not None and link in round.awaited:
            if value == round.value:
                self._settle(key, link, now)
            else:
                round.awaited[link] = value
            return []
        if (at_most := self._greeting.get(link)) is not None:
            # It has more to tell.
            self._timers.arm((Wait.GREETING, link), min(now + self.config.settle_time, at_most))
        return self._learned(link, key, value, now)

    def _learned(self, link: Link, key: bytes, value: bytes, now: float) -> list[Advice]:
        """A real node holds this value now."""
        was_held = self._held[link].get(key)
        if was_held == value:
            return []
        self._hold(link, key, value)
        if value == self.store.live.get(key):
            # What another real node told is still a change.
            was_told = self._told.get(key)
            return self._take_back(key, now) if was_told is not None and was_told.link == link else []
        is_former = self.store.was(key, value)
        if is_former and not self._has_had_ours(key, was_held):
            self._plan(key, now)
            return []
        return self._consider(link, key, value, now, is_former)

    def _hold(self, link: Link, key: bytes, value: bytes) -> None:
        held = self._held[link]
        held[key] = value
        if len(held) > 2 * self.config.max_tuples:
            # It keeps what was deleted here. That this is the same if it comes again, it must not tell again.
            self._held[link] = {key: value for key, value in held.items() if key in self.store.live}

    def _has_had_ours(self, key: bytes, was_held: bytes | None) -> bool:
        """Whether who held this had the present value, or has told what follows it."""
        told = self._told.get(key)
        values = (self.store.live.get(key), told.value if told is not None else None)
        return was_held is not None and was_held in values

    def _consider(self, link: Link, key: bytes, value: bytes, now: float, is_former: bool) -> list[Advice]:
        config, was_told = self.config, self._told.get(key)
        if was_told is None and len(self._told) >= config.max_tuples:
            return [Passed(key, Drop.TABLE_FULL)]
        since = now if was_told is None else was_told.since
        self._no_more_told(key)
        self._told[key] = _Told(value, link, since)
        self._tellers[link][key] = None
        if was_told is None or is_former:
            wait = 2 * config.pace_interval if is_former else config.settle_time
            # Real nodes that swap values for ever must not put it off for ever.
            at = min(now + wait, max(since + config.echo_timeout, now + config.settle_time))
            self._timers.arm((Wait.ADOPTION, key), max(at, self._damper.passes_at(key, now)))
        return [] if was_told is None or was_told.value == value else [Passed(key, Drop.DAMPED)]

    def _take_back(self, key: bytes, now: float) -> list[Advice]:
        """Nothing that was told of the key before is taken any more."""
        was_told = self._no_more_told(key)
        if was_told is None:
            return []
        self._timers.cancel((Wait.ADOPTION, key))
        # Others may hold it.
        self._plan(key, now)
        # Where our own kind brought the same, nothing is lost.
        return [] if was_told.value == self.store.live.get(key) else [Passed(key, Drop.DAMPED)]

    def _no_more_told(self, key: bytes) -> _Told | None:
        told = self._told.pop(key, None)
        if told is not None:
            self._tellers.get(told.link, {}).pop(key, None)
        return told

    def unsaid(self, link: Link, key: bytes, now: float) -> None:
        """What was to be said could not be sent: say it again later."""
        self._held.get(link, {}).pop(key, None)
        round = self._rounds.get(key)
        if round is not None and link in round.awaited:
            self._no_more_awaited(key, link)
            self._timers.arm((Wait.ROUND, key), now + self.config.echo_timeout)

    def changed(self, key: bytes, now: float) -> list[Advice]:
        """The key has another value now, or none."""
        told = self._told.get(key)
        if key not in self.store.live and told is not None and not self.store.was(key, told.value):
            # That comes after the deletion.
            return []
        return self._take_back(key, now)

    def say(self, key: bytes, now: float) -> list[Advice]:
        """Begin a round of a key that has changed, unless one is on its way, or nobody lacks the value."""
        value = self.store.live.get(key)
        if value is None or key in self._rounds:
            return []
        # Whoever told what is taken soon is ahead of us.
        told = self._told.get(key)
        values = (value,) if told is None else (value, told.value)
        lacking = [
            link for link, held in self._held.items() if link not in self._greeting and held.get(key) not in values
        ]
        if not lacking:
            return []
        for link in lacking:
            self._hold(link, key, value)
            self._awaited[link][key] = None
        self._rounds[key] = _Round(value, dict.fromkeys(lacking), now + self.config.pace_interval)
        self._timers.arm((Wait.ROUND, key), now + self.config.echo_timeout)
        return [Say(link, key, value) for link in lacking]

    def due(self, now: float) -> Iterator[Advice]:
        """What is to be done by now, one thing before the next is asked for."""
        due = self._timers.pop_due(now)
        # First what changes the values that are said then.
        for (wait, what), _ in due:
            if wait is Wait.ADOPTION and isinstance(what, bytes) and (told := self._no_more_told(what)) is not None:
                self._damper.spend(what, now)
                yield Adopt(what, told.value)
        for (wait, what), _ in due:
            if wait is Wait.GREETING:
                yield from self.greeted(what, now)
            elif wait is Wait.ROUND and isinstance(what, bytes) and not self._timers.is_armed((wait, what)):
                round = self._rounds.pop(what, None)
                awaited = {} if round is None else round.awaited
                for link in awaited:
                    del self._awaited[link][what]
                for link, value in awaited.items():
                    if value is not None:
                        yield from self._learned(link, what, value, now)
                yield from self.say(what, now)

    def _settle(self, key: bytes, link: Link, now: float) -> None:
        """One that was told has it now; after the last one the next round may begin."""
        self._no_more_awaited(key, link)
        round = self._rounds[key]
        if not round.awaited:
            self._timers.arm((Wait.ROUND, key), max(now, round.not_before))

    def _no_more_awaited(self, key: bytes, link: Link) -> None:
        del self._rounds[key].awaited[link]
        del self._awaited[link][key]

    def _plan(self, key: bytes, now: float) -> None:
        """Somebody holds another value than we: say ours once nobody speaks first."""
        if key not in self._rounds:
            self._timers.arm((Wait.ROUND, key), now + self.config.settle_time)
