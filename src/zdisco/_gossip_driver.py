"""Drives the core of a gossip node with what its channel tells, and does what the core asks for.

Rule 1: what the core answers is done in the step of the input that it answers, in order, with
what follows from that behind it.

Rule 2: no input ends a task. What the network does wrong is counted.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import anyio

from ._channels import GossipChannel, Sent
from ._core.actions import Drop, Dropped
from ._core.errors import MalformedMessage
from ._core.gossip.frames import decode
from ._core.gossip.model import Delivery
from ._core.gossip.node import Node, Outcome, ReconnectRemote, SendGossip
from ._core.gossip.talk import Link
from ._loops import Arrival, current_time

logger = logging.getLogger("zdisco")

_SHOWN = 200
"""Characters of a message that are logged."""


class GossipDriver:
    """One core, its clock, and its channel.

    Args:
        core: The core.
        channel: The channel, which nobody has run yet.
        tell: Called with each change of the store.
    """

    def __init__(self, core: Node, channel: GossipChannel, tell: Callable[[Delivery], None]) -> None:
        self.core = core
        self.channel = channel
        self.is_verbose = False
        """Whether each message is logged."""
        self._tell = tell
        self._dropped: Counter[Drop] = Counter()
        self._due: deque[Outcome] = deque()
        """What is to be done in this step."""
        self._is_busy = False
        self._sleep: anyio.CancelScope | None = None
        self._changes = Arrival()
        self.up: set[int] = set()
        """The remotes to which there is a connection."""

    @property
    def drops(self) -> Mapping[Drop, int]:
        """How often something was dropped, by reason; read-only and live."""
        return MappingProxyType(self._dropped)

    async def run(self) -> None:
        """Run the channel and the clock until cancelled, or until the channel ends."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_time)
            await self.channel.run(self)
            tasks.cancel_scope.cancel()

    async def _keep_time(self) -> None:
        while True:
            now = current_time()
            if self.core.next <= now:
                self.feed(self.core.due(now))
            # Whoever changes the deadline moves that of the scope, which wakes nobody.
            with anyio.CancelScope(deadline=self.core.next) as self._sleep:
                await anyio.sleep_forever()
            self._sleep = None

    def feed(self, outcomes: Sequence[Outcome]) -> None:
        """Do what the core asked for, then set the clock anew."""
        self._due.extend(outcomes)
        if self._is_busy:
            return  # whoever is at it goes on with these
        self._is_busy = True
        try:
            while self._due:
                self._perform(self._due.popleft())
        finally:
            self._is_busy = False
        if self._sleep is not None and (deadline := self.core.next) != self._sleep.deadline:
            self._sleep.deadline = deadline
        self._changes.tell()

    async def changed(self) -> None:
        """Wait until something came in, or `close`. Cancellation: safe."""
        await self._changes.wait()

    def close(self) -> None:
        """Wake all who wait for a change: none comes any more."""
        self._changes.tell()

    def _perform(self, outcome: Outcome) -> None:
        match outcome:
            case SendGossip(link, frame):
                self._send(link, frame)
            case ReconnectRemote(link):
                self.channel.reconnect(link)
            case Delivery():
                self._tell(outcome)
            case Dropped(drop, detail):
                self.dropped(drop, detail)

    def _send(self, link: Link, frame: bytes) -> None:
        if self.is_verbose:
            _log("to", link, frame)
        match self.channel.send(link, frame):
            case Sent.FULL:
                self.feed(self.core.full(link, frame, current_time()))
            case Sent.UNREACHABLE if isinstance(link, bytes):
                self.client_gone(link)

    # What the channel tells

    def gossip_messages(self, messages: Sequence[tuple[Link, bytes]]) -> None:
        if self.is_verbose:
            for link, frame in messages:
                _log("from", link, frame)
        self.feed(self.core.received(messages, current_time()))

    def remote_up(self, link: int) -> None:
        self.up.add(link)
        self.feed(self.core.up(link, current_time()))

    def remote_down(self, link: int) -> None:
        self.up.discard(link)
        self.feed(self.core.down(link, current_time()))

    def forget(self, link: int) -> None:
        """A remote is no longer one."""
        self.channel.disconnect(link)
        self.up.discard(link)
        self.feed(self.core.forget(link, current_time()))

    def client_gone(self, link: bytes) -> None:
        self.feed(self.core.unreachable(link, current_time()))

    def dropped(self, drop: Drop, detail: str = "") -> None:
        """Count what was dropped, and log it for those who look."""
        self._dropped[drop] += 1
        logger.debug("dropped: %s: %s", drop.value, detail)


def _log(direction: str, link: Link, frame: bytes) -> None:
    other = f"remote {link}" if isinstance(link, int) else f"client {link.hex()}"
    try:
        said = repr(decode(frame))
    except MalformedMessage as error:
        said = str(error)
    logger.info("gossip %s %s: %s", direction, other, said if len(said) <= _SHOWN else said[:_SHOWN] + "...")
