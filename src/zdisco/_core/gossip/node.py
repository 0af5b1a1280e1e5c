"""All that one gossip node knows and decides.

Rule 1: each input returns all that follows from it, in order. What is new is told at its end: of a
key that changed several times in one input others are sent the latest value. Who was held up hears
much at once that is not so any more.

Rule 2: among nodes of zdisco a change goes to each neighbour but those that are known to have it;
who has it already says nothing. So one change makes at most two messages for each connection. A
tombstone of a key that was unknown here is kept and not told on: forgotten by each in turn, it would go
round in a circle for ever.

Rule 3: what got lost is found by comparing stores: when nodes connect, and every
``digest_interval`` where they differ. The one that connected begins; sums are exchanged first,
then versions of the parts that differ, then only the tuples that one of them lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from enum import Enum
from itertools import chain
from typing import TypeAlias
from uuid import UUID

from attrs import frozen

from ..actions import Drop, Dropped
from ..config import GossipConfig
from ..errors import MalformedMessage
from ..timers import Timers
from .classics import Adopt, Advice, Classics, Passed, Say
from .frames import (
    VALUE_LIMIT,
    Entry,
    GossipMessage,
    Greeting,
    Hello,
    Invalid,
    Ping,
    Pong,
    Publish,
    Renewal,
    Summary,
    Sums,
    Trailer,
    Tuples,
    Version,
    Wants,
    batches,
    decode,
    encode,
    summaries,
    want_batches,
)
from .model import Change, Delivery, GossipStatus, to_text
from .store import Fate, Store
from .talk import ClientSignal, Link, RemoteSignal, Talk, TalkState

_FEW = 3
"""Pings that a remote may leave unanswered while our own event loop was held up."""
_MISSED = 3
"""Pings to a real node after which an answer is late."""
_REFRESHES = 3
"""So often a tuple is refreshed in its time to live."""
_LOOKS = 3
"""So many times in one input one other may make us look at all that we hold ..."""
_MORE_LOOKS = 10_000
"""... and at so many keys more."""
_TELLS = 3
"""So many times in one ``digest_interval`` one other may ask for all that we hold ..."""
_MORE_BYTES = VALUE_LIMIT
"""... and for so many bytes more. What it does not read waits in our memory."""
_AHEAD = 200 * 365 * 24 * 3_600 * 1_000
"""Milliseconds by which a version may be ahead of our wall clock, which may never have been set. With the highest
counter of all somebody could take a key for ever."""


@frozen
class SendGossip:
    """Send one frame; say `Node.full` if it would have to wait, `Node.unreachable` if that client is gone."""

    link: Link
    frame: bytes


@frozen
class ReconnectRemote:
    """The remote answers nothing: throw its connection away, with what waits there, and connect anew."""

    link: int


Outcome: TypeAlias = SendGossip | ReconnectRemote | Delivery | Dropped


class _Due(Enum):
    """What a deadline is for."""

    PING = "a remote is pinged"
    REFRESH = "a tuple of ours is refreshed"
    COMPARE = "a store is compared after frames were lost"
    SILENCE = "a client has been silent for too long"


@frozen
class _Own:
    """What we wrote last of a key. Who writes it later takes it away from us."""

    value: bytes
    """If there was no room for it, it is not in the store; when it is refreshed there may be."""
    ttl: float
    version: Version


class _Turn:
    """What follows from one input."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.outcomes: list[Outcome] = []
        self.news: dict[bytes, set[Link]] = {}
        """Keys that changed, and who is known to have the change."""
        self.changed: dict[bytes, None] = {}
        """Keys that have another value."""
        self.renewed: set[bytes] = set()
        """Those of them that only live longer."""
        self.wanted: dict[Link, list[bytes]] = {}
        """Keys of which others have a later version, by who has."""
        self.looks: Counter[Link] = Counter()
        """At how many keys we looked for whom."""

    def send(self, link: Link, message: GossipMessage) -> int:
        """Returns how many bytes that takes."""
        frame = encode(message)
        self.outcomes.append(SendGossip(link, frame))
        return len(frame)

    def drop(self, drop: Drop, detail: str = "") -> None:
        self.outcomes.append(Dropped(drop, detail))


class Node:
    """The core of a gossip node.

    Args:
        id: Of this node; in each version that it writes.
        config: Its intervals, timeouts and bounds.
        wall: The wall clock, in seconds. It is asked whenever something is written: it may be set meanwhile, and goes
            on while the machine sleeps, and ``now`` stands still.
    """

    def __init__(self, id: UUID, config: GossipConfig, wall: Callable[[], float]) -> None:
        self.id = id
        self._config = config
        self._clock = wall
        self._store = Store(id.bytes, config.max_tuples, config.max_tombstones, config.tombstone_time)
        self._classics = Classics(config, self._store)
        self._talks: dict[Link, Talk] = {}
        """Remotes by number, and clients by routing id, these in the order in which they were heard last."""
        self._own: dict[bytes, _Own] = {}
        """What we published with a time to live, and refresh."""
        self._timers: Timers[tuple[_Due, Link]] = Timers()

    @property
    def next(self) -> float:
        """When `due` is to be called next; ``inf`` is never."""
        return min(self._timers.next, self._store.next, self._classics.next)

    @property
    def tuples(self) -> Mapping[bytes, bytes]:
        """Live view of the keys that have a value."""
        return self._store.live

    @property
    def status(self) -> GossipStatus:
        """How much it holds, and with how many it speaks."""
        heard = [talk.link for talk in self._talks.values() if talk.state in (TalkState.CLASSIC, TalkState.OURS)]
        remotes = sum(isinstance(link, int) for link in heard)
        return GossipStatus(len(self._store.live), self._store.tombstones, remotes, len(heard) - remotes)

    @property
    def is_settled(self) -> bool:
        """Whether every remote has answered, and holds what we hold, as far as we know; see `ask`."""
        remotes = [talk for talk in self._talks.values() if isinstance(talk.link, int)]
        return self._classics.is_settled and all(
            talk.state in (TalkState.CLASSIC, TalkState.OURSELVES)
            or (talk.state is TalkState.OURS and talk.sum == self._store.sum)
            for talk in remotes
        )

    def ask(self, now: float) -> list[Outcome]:
        """Let each remote say what its store adds up to."""
        turn = _Turn(now)
        for talk in self._talks.values():
            if isinstance(talk.link, int) and talk.state is TalkState.OURS:
                turn.send(talk.link, Ping(self._greeting()))
        return self._finish(turn)

    def tune(self, config: GossipConfig) -> None:
        """Use another configuration from now on."""
        self._config = config
        self._classics.tune(config)
        self._store.max_tuples = config.max_tuples
        self._store.max_tombstones = config.max_tombstones
        self._store.tombstone_time = config.tombstone_time
        for talk in self._talks.values():
            if isinstance(talk.link, bytes):
                self._time_silence(talk)

    # What the user does

    def publish(
        self, key: bytes, value: bytes, ttl: float | None, now: float, *, refresh: bool = True
    ) -> list[Outcome]:
        """Set a key, for ever or for ``ttl`` seconds; with ``refresh`` these begin anew as long as we are there."""
        turn = _Turn(now)
        self._disown(key)
        # Also what is there already: somebody whom we have not heard may have written another value since.
        if ttl is None or not refresh:
            self._put(turn, self._store.written(key, value, self._wall(), ttl), None)
        else:
            self._write_own(turn, key, value, ttl)
        return self._finish(turn)

    def unpublish(self, key: bytes, now: float) -> list[Outcome]:
        """Delete a key everywhere, whoever published it."""
        turn = _Turn(now)
        self._unpublish(turn, key)
        return self._finish(turn)

    def leave(self, now: float) -> list[Outcome]:
        """Take back what we published with a time to live."""
        turn = _Turn(now)
        for key in list(self._own):
            self._unpublish(turn, key)
        return self._finish(turn)

    def _unpublish(self, turn: _Turn, key: bytes) -> None:
        self._disown(key)
        if key in self._store.live:
            self._put(turn, self._store.written(key, None, self._wall(), self._config.tombstone_time), None)

    def _disown(self, key: bytes) -> None:
        if self._own.pop(key, None) is not None:
            self._timers.cancel((_Due.REFRESH, key))

    def _wall(self) -> int:
        return int(self._clock() * 1000)

    # What the sockets tell

    def up(self, link: int, now: float) -> list[Outcome]:
        """A connection to a remote of that number is there, a new one if there was one before."""
        turn = _Turn(now)
        talk = self._talks.setdefault(link, Talk(link))
        talk.heard, talk.unanswered, talk.pings, talk.compared, talk.sum, talk.told = now, 0, 0, None, None, 0
        self._signal(turn, talk, RemoteSignal.UP)
        self._greet(turn, talk)
        return self._finish(turn)

    def down(self, link: int, now: float) -> list[Outcome]:
        """The connection to a remote ended."""
        turn = _Turn(now)
        if (talk := self._talks.get(link)) is not None:
            self._signal(turn, talk, RemoteSignal.DOWN)
            self._timers.cancel((_Due.PING, link))
        return self._finish(turn)

    def forget(self, link: int, now: float) -> list[Outcome]:
        """A remote is no longer one."""
        outcomes = self.down(link, now)
        self._talks.pop(link, None)
        self._timers.cancel((_Due.COMPARE, link))
        return outcomes

    def received(self, messages: Iterable[tuple[Link, bytes]], now: float) -> list[Outcome]:
        """Frames came in, from whom they came."""
        turn = _Turn(now)
        for link, frame in messages:
            try:
                message = decode(frame)
            except MalformedMessage as problem:
                turn.drop(Drop.MALFORMED_GOSSIP, str(problem))
                continue
            if isinstance(link, int):
                self._from_remote(turn, link, message)
            else:
                self._from_client(turn, link, message)
        return self._finish(turn)

    def full(self, link: Link, frame: bytes, now: float) -> list[Outcome]:
        """A frame could not be sent: the queue of the other one is full."""
        turn = _Turn(now)
        turn.drop(Drop.GOSSIP_QUEUE_FULL)
        message = decode(frame)
        if isinstance(message, Publish):
            self._classics.unsaid(link, message.key, now)
        elif not self._timers.is_armed((_Due.COMPARE, link)):
            self._timers.arm((_Due.COMPARE, link), now + self._config.echo_timeout)
        return self._finish(turn)

    def unreachable(self, link: bytes, now: float) -> list[Outcome]:
        """The connection of a client ended."""
        turn = _Turn(now)
        if (talk := self._talks.get(link)) is not None:
            self._lose(turn, talk)
        return self._finish(turn)

    def due(self, now: float) -> list[Outcome]:
        """The time that `next` told has come."""
        turn = _Turn(now)
        # What is refreshed does not expire, late as we may be.
        for (what, subject), _ in self._timers.pop_due(now):
            match what:
                case _Due.PING:
                    self._ping(turn, self._talks[subject])
                case _Due.REFRESH:
                    assert isinstance(subject, bytes)
                    own = self._own[subject]
                    self._write_own(turn, subject, own.value, own.ttl)
                case _Due.COMPARE:
                    if (talk := self._talks.get(subject)) is not None and talk.state is TalkState.OURS:
                        self._compare(turn, talk)
                case _Due.SILENCE:
                    self._lose(turn, self._talks[subject])
        for key, _ in self._store.expire(now):
            self._disown(key)
            turn.outcomes.append(Delivery(to_text(key), None, Change.EXPIRED))
            self._advise(turn, self._classics.changed(key, now))
        self._advise(turn, self._classics.due(now))
        return self._finish(turn)

    # Remotes: we are their client

    def _signal(self, turn: _Turn, talk: Talk, signal: RemoteSignal | ClientSignal) -> None:
        """Change the state of a talk; of a real node we keep what it holds."""
        talk.signal(signal)
        was_classic = talk.link in self._classics
        # A remote that has not said what it is may be telling its tuples already.
        is_classic = talk.state in (TalkState.CLASSIC, TalkState.GREETING)
        begins_anew = signal in (RemoteSignal.UP, RemoteSignal.INVALID, ClientSignal.HELLO)
        if is_classic and was_classic and signal is RemoteSignal.INVALID:
            self._classics.rejoined(talk.link, turn.now)
        elif is_classic and (begins_anew or not was_classic):
            self._classics.joined(talk.link, turn.now)
        elif was_classic and not is_classic:
            self._classics.left(talk.link, turn.now)

    def _greet(self, turn: _Turn, talk: Talk) -> None:
        turn.send(talk.link, Hello(self._greeting()))
        self._ping(turn, talk)
        talk.greeted = talk.pings

    def _greet_again(self, turn: _Turn, talk: Talk) -> None:
        """It does not know us, or perhaps not."""
        if talk.state is TalkState.CLASSIC:
            # Who says INVALID is forgotten for certain; to a HELLO of whom it knows it answers INVALID, too.
            turn.send(talk.link, Invalid())
        talk.compared = None
        self._signal(turn, talk, RemoteSignal.INVALID)
        self._greet(turn, talk)

    def _greeting(self) -> Greeting:
        return Greeting(self.id, self._store.sum, len(self._store))

    def _ping(self, turn: _Turn, talk: Talk) -> None:
        """Ask whether it is there and what it is; connect anew if it has said nothing for too long."""
        assert isinstance(talk.link, int)
        if talk.unanswered >= _FEW and turn.now - talk.heard > self._config.silence_timeout:
            self._signal(turn, talk, RemoteSignal.DOWN)
            turn.outcomes.append(ReconnectRemote(talk.link))
            return
        talk.unanswered += 1
        talk.pings += 1
        is_ours = talk.state in (TalkState.OURS, TalkState.OURSELVES)
        turn.send(talk.link, Ping(None if talk.state is TalkState.CLASSIC else self._greeting()))
        interval = self._config.greeting_interval if is_ours else self._config.ping_interval
        self._timers.arm((_Due.PING, talk.link), turn.now + interval)

    def _from_remote(self, turn: _Turn, link: int, message: GossipMessage) -> None:
        talk = self._talks.get(link)
        if talk is None or talk.state is TalkState.AWAY:
            turn.drop(Drop.UNEXPECTED_GOSSIP, "of a connection that has ended")
            return
        talk.heard, talk.unanswered = turn.now, 0
        match message:
            case Pong(Greeting() as greeting):
                is_own = greeting.id == self.id
                self._signal(turn, talk, RemoteSignal.MIRRORED if is_own else RemoteSignal.GREETED)
                talk.sum = greeting.sum
                if not is_own and greeting.sum != self._store.sum and self._may_compare(talk, turn.now):
                    self._compare(turn, talk)
            case Pong(None):
                self._answered(turn, talk)
            case Pong(trailer) if trailer is not None:
                self._carried(turn, talk, trailer)
            case Publish() if link in self._classics:
                self._advise(turn, self._classics.told(link, message.key, message.value, turn.now))
            case Invalid() if talk.state is TalkState.GREETING:
                pass  # It answers what was said before the greeting.
            case Invalid():
                self._greet_again(turn, talk)
            case _:
                turn.drop(Drop.UNEXPECTED_GOSSIP, f"{type(message).__name__} of a server")

    def _answered(self, turn: _Turn, talk: Talk) -> None:
        """A real node answered a ping: if that came behind our HELLO, it has told all that it holds."""
        talk.pings, talk.greeted = max(0, talk.pings - 1), max(0, talk.greeted - 1)
        if talk.greeted:
            return
        is_late = talk.state is TalkState.CLASSIC and turn.now - talk.answered > _MISSED * self._config.ping_interval
        talk.answered = turn.now
        if is_late:
            # It forgets in silence who was silent for a second, and tells him nothing any more.
            self._greet_again(turn, talk)
        else:
            self._signal(turn, talk, RemoteSignal.PONG)
            self._advise(turn, self._classics.greeted(talk.link, turn.now))

    # Clients: they connected to us

    def _from_client(self, turn: _Turn, link: bytes, message: GossipMessage) -> None:
        talk = self._talks.pop(link, None) or Talk(link)
        self._talks[link] = talk  # the last one to be heard
        talk.heard = turn.now
        match message:
            case Hello(Greeting() as greeting) | Ping(Greeting() as greeting):
                is_own = greeting.id == self.id
                self._signal(turn, talk, ClientSignal.MIRRORED if is_own else ClientSignal.GREETED)
                turn.send(link, Pong(self._greeting()))
            case Hello():
                self._signal(turn, talk, ClientSignal.HELLO)
            case Ping(None):
                is_ours = talk.state in (TalkState.OURS, TalkState.OURSELVES)
                turn.send(link, Pong(self._greeting() if is_ours else None))
            case Ping(trailer) if trailer is not None:
                if talk.state is TalkState.AWAY:
                    turn.send(link, Invalid())
                # What it asks it asks again when it has greeted us.
                if talk.state is not TalkState.AWAY or isinstance(trailer, Tuples):
                    self._carried(turn, talk, trailer)
            case Publish():
                # A real node would throw it away and say INVALID. To that CZMQ's answers HELLO alone, and we
                # should no longer know what it holds; what it says is worth having.
                self._signal(turn, talk, ClientSignal.PUBLISH)
                self._advise(turn, self._classics.told(link, message.key, message.value, turn.now))
            case _:
                turn.drop(Drop.UNEXPECTED_GOSSIP, f"{type(message).__name__} of a client")
        self._keep(turn, talk)

    def _keep(self, turn: _Turn, talk: Talk) -> None:
        """Watch how long a client is silent, and hold the bound of how many there are."""
        assert isinstance(talk.link, bytes)
        if talk.state is TalkState.AWAY:
            self._lose(turn, talk)
            return
        self._time_silence(talk)
        clients = [link for link in self._talks if isinstance(link, bytes)] if self._is_crowded else []
        for link in clients[: max(0, len(clients) - self._config.max_clients)]:
            turn.drop(Drop.TABLE_FULL, "clients")
            self._lose(turn, self._talks[link])

    def _time_silence(self, talk: Talk) -> None:
        # One of ours greets us by itself.
        if self._config.client_timeout and talk.state is TalkState.CLASSIC:
            self._timers.arm((_Due.SILENCE, talk.link), talk.heard + self._config.client_timeout)
        else:
            self._timers.cancel((_Due.SILENCE, talk.link))

    @property
    def _is_crowded(self) -> bool:
        """Whether there may be more clients than are allowed; cheap to ask."""
        return len(self._talks) > self._config.max_clients

    def _lose(self, turn: _Turn, talk: Talk) -> None:
        """Forget a client."""
        self._signal(turn, talk, ClientSignal.GONE)
        self._talks.pop(talk.link, None)
        self._timers.cancel((_Due.SILENCE, talk.link))
        self._timers.cancel((_Due.COMPARE, talk.link))

    # Nodes of zdisco, in both roles

    def _carried(self, turn: _Turn, talk: Talk, trailer: Trailer) -> None:
        """One of ours says what only ours know."""
        link = talk.link
        match trailer:
            case Tuples(entries):
                for entry in entries:
                    self._told(turn, entry, link)
                for wants in want_batches(turn.wanted.pop(link, ())):
                    self._carry(turn, talk, wants)
            case Sums() | Summary() | Wants() if self._asks_too_much(turn, talk):
                turn.drop(Drop.UNEXPECTED_GOSSIP, "asks for more than there is")
            case Sums(sums):
                differing = [bucket for bucket, sum in enumerate(sums) if sum != self._store.sums[bucket]]
                for summary in summaries(self._versions_in(turn, link, differing)):
                    self._carry(turn, talk, summary)
            case Summary():
                self._answer(turn, talk, trailer)
            case Wants(keys):
                turn.looks[link] += len(keys)
                self._tell(turn, talk, dict.fromkeys(keys))
            case Greeting():
                turn.drop(Drop.UNEXPECTED_GOSSIP, "a greeting where none stands")

    def _asks_too_much(self, turn: _Turn, talk: Talk) -> bool:
        if turn.now - talk.counted >= self._config.digest_interval:
            talk.counted, talk.told = turn.now, 0
        return (
            turn.looks[talk.link] > _LOOKS * len(self._store) + _MORE_LOOKS
            or talk.told > _TELLS * self._store.size + _MORE_BYTES
        )

    def _carry(self, turn: _Turn, talk: Talk, trailer: Trailer) -> None:
        talk.told += turn.send(talk.link, Ping(trailer) if isinstance(talk.link, int) else Pong(trailer))

    def _tell(self, turn: _Turn, talk: Talk, keys: Iterable[bytes]) -> None:
        for tuples in batches(self._store.entries(keys, turn.now)):
            self._carry(turn, talk, tuples)

    def _versions_in(
        self, turn: _Turn, link: Link, buckets: Iterable[int]
    ) -> Mapping[int, Sequence[tuple[bytes, Version]]]:
        found = self._store.versions_in(buckets)
        turn.looks[link] += sum(map(len, found.values()))
        return found

    def _may_compare(self, talk: Talk, now: float) -> bool:
        return talk.compared is None or now - talk.compared >= self._config.digest_interval

    def _compare(self, turn: _Turn, talk: Talk) -> None:
        talk.compared = turn.now
        self._carry(turn, talk, Sums(tuple(self._store.sums)))

    def _answer(self, turn: _Turn, talk: Talk, summary: Summary) -> None:
        """Send what the other one lacks, and ask for what we lack."""
        theirs = dict(summary.versions)
        lacking: list[bytes] = []
        for versions in self._versions_in(turn, talk.link, summary.buckets).values():
            for key, version in versions:
                if summary.covers(key) and (key not in theirs or theirs[key] < version):
                    lacking.append(key)
        self._tell(turn, talk, lacking)
        wanted = []
        for key, version in theirs.items():
            ours = self._store.version(key)
            if (ours is None or ours < version) and self._is_credible(turn, key, version):
                wanted.append(key)
        for wants in want_batches(wanted):
            self._carry(turn, talk, wants)

    # The store

    def _write_own(self, turn: _Turn, key: bytes, value: bytes, ttl: float) -> None:
        entry = self._store.written(key, value, self._wall(), ttl)
        self._own[key] = _Own(value, ttl, entry.version)
        self._timers.arm((_Due.REFRESH, key), turn.now + ttl / _REFRESHES)
        self._put(turn, entry, None)

    def _is_credible(self, turn: _Turn, key: bytes, version: Version) -> bool:
        if version.counter <= self._wall() + _AHEAD:
            return True
        turn.drop(Drop.FUTURE_GOSSIP, to_text(key))
        return False

    def _told(self, turn: _Turn, entry: Entry | Renewal, origin: Link) -> None:
        if not self._is_credible(turn, entry.key, entry.version):
            return
        if isinstance(entry, Entry):
            self._put(turn, entry, origin)
        elif (renewed := self._store.renewed(entry)) is not None:
            self._put(turn, renewed, origin)
        elif (ours := self._store.version(entry.key)) is None or ours < entry.version:
            turn.wanted.setdefault(origin, []).append(entry.key)

    def _put(self, turn: _Turn, entry: Entry, origin: Link | None) -> None:
        """Keep an entry if it is later than ours; then everybody else is told, too."""
        key = entry.key
        # Not by the owner: an earlier life of ours may have had our id.
        if (own := self._own.get(key)) is not None and own.version < entry.version:
            self._disown(key)
        put = self._store.put(entry, turn.now)
        if put.fate is Fate.NO_ROOM:
            turn.drop(Drop.TABLE_FULL, "tuples")
            return
        if put.is_news:
            if key not in turn.news and entry.value is not None and entry.value == put.was:
                turn.renewed.add(key)
            else:
                turn.renewed.discard(key)
            turn.news[key] = set()
            self._deliver(turn, entry, put.was)
        # Also where a deletion is no news: what a real node has just told may be what was deleted.
        if put.fate is Fate.KEPT and (entry.value is None or entry.value != put.was):
            turn.changed[key] = None
            self._advise(turn, self._classics.changed(key, turn.now))
        # Also who says what we have: it need not be told.
        if origin is not None and key in turn.news and self._store.version(key) == entry.version:
            turn.news[key].add(origin)

    def _deliver(self, turn: _Turn, entry: Entry, was: bytes | None) -> None:
        if entry.value == was:
            return
        if entry.value is None:
            turn.outcomes.append(Delivery(to_text(entry.key), None, Change.REMOVED))
        else:
            change = Change.NEW if was is None else Change.CHANGED
            turn.outcomes.append(Delivery(to_text(entry.key), to_text(entry.value), change))

    def _advise(self, turn: _Turn, advice: Iterable[Advice]) -> None:
        """Do what the talk with real nodes calls for."""
        for one in advice:
            match one:
                case Say(link, key, value):
                    turn.send(link, Publish(key, value))
                case Adopt(key, value):
                    if self._store.live.get(key) != value:
                        self._put(turn, self._store.adopted(key, value), None)
                case Passed(key, drop):
                    turn.drop(drop, to_text(key))

    def _finish(self, turn: _Turn) -> list[Outcome]:
        """Tell what is new, the latest of each key."""
        for key in turn.changed:
            self._advise(turn, self._classics.say(key, turn.now))
        frames: dict[tuple[bool, tuple[bytes, ...]], list[bytes]] = {}
        for talk in self._talks.values() if turn.news else ():
            if talk.state is TalkState.OURS:
                keys = tuple(key for key, known in turn.news.items() if talk.link not in known)
                is_remote = isinstance(talk.link, int)
                # Most get the same, which is made once.
                if (made := frames.get((is_remote, keys))) is None:
                    renewed, changed = _parted(keys, turn.renewed)
                    entries = (self._store.renewals(renewed, turn.now), self._store.entries(changed, turn.now))
                    carried = batches(chain(*entries))
                    made = [encode(Ping(one) if is_remote else Pong(one)) for one in carried]
                    frames[is_remote, keys] = made
                turn.outcomes += [SendGossip(talk.link, frame) for frame in made]
        # Not before others were told of them.
        self._store.forget_excess()
        return turn.outcomes


def _parted(keys: Iterable[bytes], others: Container[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Those that are among the others, and those that are not."""
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for key in keys:
        parts[key not in others].append(key)
    return parts
