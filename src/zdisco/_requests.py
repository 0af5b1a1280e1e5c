"""Requests on their way to one peer, and who has not answered yet.

Rule 1: a request is settled once: by the reply of the peer that was asked, by the end of that
peer, or by our own end. When its caller waits no longer, it is forgotten; what comes for it
later is counted.

Rule 2: a reply counts only from the life, id and session, that was asked. The numbers of our
requests begin at our session, so a reply to an earlier life of ours answers nothing.

Rule 3: nothing here runs by itself. Whoever waits has one event and one deadline, however many
peers it has asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
from attrs import define, field, frozen

from ._core.actions import Drop
from ._core.envelope import ControlFrame, Kind, ReplyBody, RequestBody, Status, control_frame, inbox
from ._core.errors import ClosedError, MalformedMessage, NoResponder, RequestFailed, ResponderGone, UnknownPeer
from ._core.events import PeerEvent, PeerGone
from ._core.model import PeerId, PeerInfo
from ._driver import Driver


@frozen
class Reply:
    """What came of a request to one of several peers."""

    peer: PeerInfo
    """Who was asked."""
    payload: bytes | None
    """The answer; ``None`` if there is none."""
    error: Exception | None
    """Why there is no answer: `RequestFailed`, `ResponderGone` or `TimeoutError`."""


@define
class _Round:
    """What one caller waits for."""

    left: int
    """Requests that are not settled yet."""
    is_over: anyio.Event


@define(eq=False)
class Asked:
    """One request that has been sent."""

    peer: PeerInfo
    service: str
    life: bytes
    """Id and session, as they stand in the reply."""
    _round: _Round
    outcome: bytes | Exception | None = None
    """``None`` until it is settled."""

    def settle(self, outcome: bytes | Exception) -> None:
        self.outcome = outcome
        self._round.left -= 1
        if not self._round.left:
            self._round.is_over.set()


@define(eq=False)
class Post:
    """Frames to and from inboxes. Who is who is looked up once until the roster changes."""

    _driver: Driver
    _lives: dict[PeerId, bytes] = field(factory=dict)
    _senders: dict[bytes, PeerInfo] = field(factory=dict)

    def forget(self) -> None:
        """The roster has changed."""
        self._lives.clear()
        self._senders.clear()

    def send(self, to: PeerId, kind: Kind, body: bytes) -> None:
        """Send to the inbox of a peer, whoever that is now."""
        self._driver.send(self.frame(to, kind, body))

    def frame(self, to: PeerId, kind: Kind, body: bytes) -> bytes:
        """A frame for the inbox of a peer."""
        me = self._driver.core.me
        return control_frame(inbox(to), kind, me.info.id, me.session, body)

    def life(self, id: PeerId) -> bytes:
        """Id and session of a joined peer, as they stand in its frames.

        Raises:
            UnknownPeer: If no peer of that id, with an inbox, is joined.
        """
        life = self._lives.get(id)
        if life is None:
            session = self._driver.core.roster.session_of(id)
            if session is None:
                raise UnknownPeer(id)
            life = self._lives[id] = id.bytes + session
        return life

    def sender(self, life: bytes) -> PeerInfo | None:
        """Whose id and session these are; ``None`` if nobody's in the roster."""
        sender = self._senders.get(life)
        if sender is None:
            found = self._driver.core.roster.sender(life)
            sender = None if found is None else found[0]
            # Others come and go without notice.
            if sender is not None and self._driver.core.joined.get(sender.id) is sender:
                self._senders[life] = sender
        return sender

    def dropped(self, drop: Drop, detail: str, count: int = 1) -> None:
        self._driver.dropped(drop, detail, count)


class Requests:
    """The requests that are on their way."""

    def __init__(self, post: Post, session: bytes, peers: Callable[[], Sequence[PeerInfo]]) -> None:
        self._post = post
        self._peers = peers
        self._number = int.from_bytes(session) << 32
        self._asked: dict[int, Asked] = {}
        self._offers: dict[str, tuple[PeerInfo, ...]] = {}
        """Who offers a service, until the roster changes."""
        self._turns: dict[str, int] = {}

    # Whom to ask

    def offers(self, service: str) -> tuple[PeerInfo, ...]:
        """The joined peers that offer a service.

        Raises:
            NoResponder: If there are none.
        """
        found = self._offers.get(service)
        if found is None:
            found = tuple(peer for peer in self._peers() if service in peer.services)
            if not found:
                self._turns.pop(service, None)
                raise NoResponder(service)
            self._offers[service] = found
        return found

    def next_offer(self, service: str) -> PeerInfo:
        """The joined peers that offer a service, one after another; raises like `offers`."""
        found = self.offers(service)
        turn = self._turns[service] = (self._turns.get(service, -1) + 1) % len(found)
        return found[turn]

    # What we send

    async def ask(self, peers: Sequence[PeerInfo], service: str, payload: bytes, seconds: float) -> list[Asked]:
        """Send a request to each of these joined peers and wait until all are settled, so long at the most.

        What is not settled then has no outcome. Cancellation: safe; the requests are forgotten.
        """
        lives = [self._post.life(peer.id) for peer in peers]
        is_over = anyio.Event()
        round = _Round(len(peers), is_over)
        asked = [Asked(peer, service, life, round) for peer, life in zip(peers, lives, strict=True)]
        numbers = [self._send(one, payload) for one in asked]
        try:
            with anyio.move_on_after(seconds):
                await is_over.wait()
        except BaseException:
            # A reply may have come in the same turn as the cancellation.
            for one in asked:
                if isinstance(one.outcome, bytes | RequestFailed):
                    self._post.dropped(Drop.LATE_REPLY, one.peer.id.hex)
            raise
        finally:
            for number in numbers:
                self._asked.pop(number, None)
        return asked

    def _send(self, asked: Asked, payload: bytes) -> int:
        self._number = number = (self._number + 1) & 0xFFFF_FFFF_FFFF_FFFF
        self._asked[number] = asked
        self._post.send(asked.peer.id, Kind.REQUEST, RequestBody(number, asked.service, payload).encode())
        return number

    # What comes of it

    def replied(self, frame: ControlFrame) -> None:
        """A reply arrived in our inbox."""
        try:
            body = ReplyBody.decode(frame.body)
        except MalformedMessage as error:
            self._post.dropped(Drop.MALFORMED_CONTROL, error.reason)
            return
        asked = self._asked.get(body.number)
        if asked is None:
            self._post.dropped(Drop.LATE_REPLY, frame.sender.hex())
        elif asked.life != frame.sender + frame.session:
            self._post.dropped(Drop.FORGED_REPLY, frame.sender.hex())
        else:
            del self._asked[body.number]
            asked.settle(_outcome(asked, body))

    def told(self, event: PeerEvent) -> None:
        """The roster has changed."""
        self._post.forget()
        self._offers.clear()
        if isinstance(event, PeerGone):
            id = event.peer.id
            for number in [number for number, asked in self._asked.items() if asked.peer.id == id]:
                self._asked.pop(number).settle(ResponderGone(event.peer, event.cause))

    def close(self, state: str) -> None:
        """Nobody answers us any more."""
        while self._asked:
            self._asked.popitem()[1].settle(ClosedError("peer", state))


def _outcome(asked: Asked, body: ReplyBody) -> bytes | Exception:
    match body.status:
        case Status.DONE:
            return body.payload
        case Status.FAILED:
            return RequestFailed(asked.peer, body.payload.decode(errors="replace"))
        case Status.NOT_SERVED:
            return RequestFailed(asked.peer, f"it does not serve {asked.service!r}")


def answer(asked: Asked, seconds: float) -> bytes:
    """The answer to a request, or what came instead of it, raised."""
    match asked.outcome:
        case bytes(payload):
            return payload
        case None:
            raise _timeout(asked, seconds)
        case error:
            raise error


def reply(asked: Asked, seconds: float) -> Reply:
    """What came of one request of several."""
    match asked.outcome:
        case bytes(payload):
            return Reply(asked.peer, payload, None)
        case ClosedError() as error:
            raise error
        case None:
            return Reply(asked.peer, None, _timeout(asked, seconds))
        case error:
            return Reply(asked.peer, None, error)


def _timeout(asked: Asked, seconds: float) -> TimeoutError:
    return TimeoutError(f"no reply from {asked.peer.name or asked.peer.id} within {seconds:g} s")
