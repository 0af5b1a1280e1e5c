"""What we have of the topics of one peer: the numbers that tell when something was lost.

Rule 1: a number that jumps is a loss. So is a last number that we did not get, when a TAIL frame
or the list of a confirmation tells it.

Rule 2: where the count begins is known, or nothing is counted. A topic that the peer listed when it
confirmed a subscription begins at the number in the list, one that it did not list at 0. What comes
before that confirmation begins where it is first seen.

Rule 3: a confirmation counts only when all of its pieces arrived.
"""

from __future__ import annotations

from attrs import define, field, frozen

from .envelope import ConfirmBody, NumbersBody, RetainedBody, TopicNumber, data_prefix
from .interests import Interests
from .model import PeerId

UNKNOWN = -1
"""The number of a topic whose count has not begun."""


@define(eq=False)
class Count:
    """The numbers of one topic of one peer."""

    topic: bytes
    """Without the NUL."""
    last: int
    """Everything up to this number was received or reported; `UNKNOWN` before the first."""
    closed: int = UNKNOWN
    """The last number that was told without a message ..."""
    before: int = UNKNOWN
    """... and what was the last one then."""

    def jump(self, sequence: int) -> int:
        """How many messages were lost before that of this number, which does not follow the last one."""
        # A number that goes back is no loss: whoever sent it counts from there.
        return max(0, sequence - self.last - 1) if self.last != UNKNOWN else 0

    def close(self, sequence: int) -> int:
        """The latest number is this one; returns how many messages are missing up to it."""
        lost = max(0, sequence - self.last) if self.last != UNKNOWN else 0
        if self.last < sequence:
            self.before, self.last, self.closed = self.received, sequence, sequence
        return lost

    @property
    def received(self) -> int:
        """The number of the latest message that arrived."""
        return self.before if self.closed == self.last else self.last


@frozen
class Loss:
    """Messages of one topic that did not arrive."""

    topic: bytes
    """Without the NUL."""
    count: int
    confirmed: int
    """What was subscribed later than this marker does not miss them."""


@define
class _Pieces:
    """What came of one confirmation so far."""

    serial: int = 0
    count: int = 0
    numbers: list[TopicNumber] = field(factory=list)
    """Of topics that we are subscribed to, up to the bound of the table."""
    is_cut_off: bool = False
    """Whether there were more."""


@define(eq=False)
class Counts:
    """The topics of one life of one peer, up to a bound."""

    _id: PeerId
    _session: bytes
    _interests: Interests
    _limit: int
    confirmed: int = 0
    """The newest of our markers that the peer has confirmed."""
    heard_at: float = float("-inf")
    """When anything of the peer was read last."""
    evicted: int = 0
    """How many topics had to make room for others."""
    _counts: dict[bytes, Count] = field(factory=dict)
    """By the raw prefix of their frames."""
    _is_partial: bool = False
    """Whether a topic had to go, so that one that we do not know may be an old one."""
    _pieces: _Pieces = field(factory=_Pieces)

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, prefix: bytes, topic: bytes) -> Count:
        """The count of the topic whose frames begin with ``prefix``."""
        count = self._counts.get(prefix)
        if count is None:
            count = self._add(prefix, topic, self._first(topic))
        return count

    def _add(self, prefix: bytes, topic: bytes, last: int) -> Count:
        if len(self._counts) >= self._limit:
            del self._counts[next(iter(self._counts))]
            self._is_partial = True
            self.evicted += 1
        count = self._counts[prefix] = Count(topic, last)
        return count

    def forget(self, prefixes: tuple[bytes, ...]) -> None:
        """Forget what nothing covers any more now that these were unsubscribed."""
        for prefix, count in list(self._counts.items()):
            topic = count.topic + b"\0"
            if topic.startswith(prefixes) and not self._interests.covers(topic):
                del self._counts[prefix]

    # Confirmations

    def numbers(self, body: NumbersBody) -> None:
        """A piece of a confirmation came."""
        pieces = self._piece(body.serial)
        wanted = [number for number in body.numbers if self._interests.covers(number.topic + b"\0")]
        room = self._limit - len(pieces.numbers)
        pieces.numbers.extend(wanted[:room])
        pieces.is_cut_off |= len(wanted) > room

    def retained(self, body: RetainedBody) -> None:
        """Another piece came; the shell hands on what is in it."""
        self._piece(body.serial)

    def _piece(self, serial: int) -> _Pieces:
        # Those of a confirmation that a broken connection cut short are of no use any more.
        if self._pieces.serial != serial:
            self._pieces = _Pieces(serial)
        self._pieces.count += 1
        return self._pieces

    def confirm(self, body: ConfirmBody) -> list[Loss]:
        """The peer confirmed a marker; returns what was lost before."""
        pieces = self._pieces if self._pieces.serial == body.serial else _Pieces()
        self._pieces = _Pieces()
        if pieces.count != body.pieces or body.base > self.confirmed or body.marker > self._interests.marker:
            # The marker is repeated by whoever waits for it. One that we have not reached was that of
            # an earlier life of ours.
            return []
        losses = [loss for number in pieces.numbers for loss in self._listed(number)]
        self.confirmed = max(self.confirmed, body.marker)
        if pieces.is_cut_off:
            self._is_partial = True
        elif body.base == 0:
            self._is_partial = self._is_partial and len(self._counts) >= self._limit
        return losses

    def _listed(self, number: TopicNumber) -> list[Loss]:
        prefix = data_prefix(number.topic, self._id, self._session, number.stream)
        count = self._counts.get(prefix)
        if count is None:
            if self._is_partial and len(self._counts) >= self._limit:
                # One that had to go from the table may still be in use, and must not get a second count.
                return []
            count = self._add(prefix, number.topic, self._first(number.topic))
        lost = count.close(number.sequence)
        return [Loss(number.topic, lost, self.confirmed)] if lost else []

    def _first(self, topic: bytes) -> int:
        """Where the count of a topic begins of which we have seen nothing."""
        is_known = not self._is_partial and self._interests.is_in_force(topic + b"\0", self.confirmed)
        return 0 if is_known else UNKNOWN
