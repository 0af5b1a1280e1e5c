"""The names of one peer: what it registers, what it finds, who watches.

Rule 1: a name that the hosts file gives an endpoint for leads there and nowhere else, as with a
hosts file of the system. Whoever points a name to a test server does not want the real one beside it.

Rule 2: who watches is told in the step in which it changed, and reads only what is newest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType, TracebackType
from weakref import WeakSet

import anyio
import anyio.lowlevel

from ._core.actions import Drop
from ._core.errors import ClosedError, InvalidHosts, UnknownName
from ._core.events import PeerEvent, PeerUpdated
from ._core.model import Endpoint, LinkState
from ._core.names import Holder, found, known
from ._driver import Driver
from ._hosts import Host, HostsFile
from ._streams import Stream

logger = logging.getLogger("zdisco")


class Names:
    """What the names lead to from one peer.

    Args:
        hosts: Its hosts file.
        interval: How often that is looked at, in seconds.
    """

    def __init__(self, hosts: HostsFile | None, interval: float) -> None:
        self._hosts = hosts
        self._interval = interval
        self._driver: Driver | None = None
        self._registered: list[tuple[str, Endpoint]] = []
        self._watches: WeakSet[Watch] = WeakSet()
        self._is_closed = False

    def open(self, driver: Driver) -> None:
        self._driver = driver
        driver.moved = self.changed
        if self._hosts is not None:
            driver.chores.append(self._follow_hosts)

    def close(self) -> None:
        """Let who watches take what waits, then end."""
        self._driver = None
        self._is_closed = True
        for watch in self._watches:
            watch._end()

    # What is known

    def known(self) -> Mapping[str, tuple[Endpoint, ...]]:
        """All names that lead anywhere, in their order."""
        self._refresh()
        pinned = {name: host.connect for name, host in self._said.items() if host.connect}
        everywhere = {} if self._driver is None else known(self._driver.core.info, self._holders())
        return MappingProxyType(dict(sorted({**everywhere, **pinned}.items())))

    def endpoints(self, name: str) -> tuple[Endpoint, ...]:
        """Where a name leads now, the best first."""
        self._refresh()
        return self._found(name)

    def bound(self, name: str) -> Endpoint:
        """What the program that serves a name binds.

        Raises:
            UnknownName: If the hosts file does not say it, or there is none.
        """
        self._refresh()
        host = self._said.get(name)
        if host is None or host.bind is None:
            raise UnknownName(name)
        return host.bind

    def _found(self, name: str) -> tuple[Endpoint, ...]:
        host = self._said.get(name)
        if host is not None and host.connect:
            return host.connect
        return () if self._driver is None else found(name, self._driver.core.info, self._holders())

    @property
    def _said(self) -> Mapping[str, Host]:
        return {} if self._hosts is None else self._hosts.hosts

    def _holders(self) -> Iterator[Holder]:
        """Ourselves, and all peers between their `PeerJoined` and their `PeerGone`."""
        assert self._driver is not None
        core = self._driver.core
        yield Holder(core.info, core.me.started)
        for link in core.roster.links:
            if link.state in (LinkState.JOINED, LinkState.SUSPECT):
                started = link.announce.started or link.peer.incarnation
                yield Holder(link.peer, started, link.state is LinkState.SUSPECT)

    # What we register

    def add(self, entries: Sequence[tuple[str, Endpoint]]) -> None:
        """Announce more endpoints of names.

        Raises:
            AnnounceTooLarge: If they do not fit into the announce; then nothing has changed.
        """
        self._register([*self._registered, *entries])

    def remove(self, entries: Sequence[tuple[str, Endpoint]]) -> None:
        """Announce them no longer; what was registered twice stays."""
        rest = self._registered[::-1]
        for entry in entries:
            rest.remove(entry)  # the latest of those that are equal, so that what was first stays first
        self._register(rest[::-1])

    def _register(self, entries: list[tuple[str, Endpoint]]) -> None:
        names: dict[str, dict[Endpoint, None]] = {}
        for name, endpoint in entries:
            names.setdefault(name, {})[endpoint] = None
        if self._driver is not None:
            core = self._driver.core
            self._driver.feed(core.update(names={name: tuple(there) for name, there in names.items()}))
        was, self._registered = self._registered, entries
        self._tell({name for name, _ in {*was} ^ {*entries}})

    # What changes

    def told(self, event: PeerEvent) -> None:
        """Something happened to a peer."""
        was = event.was.names if isinstance(event, PeerUpdated) else {}
        self._tell({*event.peer.names, *was})

    def changed(self) -> None:
        """Any name may lead elsewhere now."""
        self._tell(None)

    def _tell(self, names: Collection[str] | None) -> None:
        for watch in self._watches:
            if names is None or watch.name in names:
                watch.offer(self._found(watch.name))

    def watch(self, name: str) -> Watch:
        """A new stream of what a name leads to."""
        self._refresh()
        watch = Watch(name)
        watch.offer(self._found(name))
        self._watches.add(watch)
        if self._is_closed:
            watch._end()
        return watch

    # The hosts file

    async def _follow_hosts(self) -> None:
        while True:
            await anyio.sleep(self._interval)
            self._refresh()

    def _refresh(self) -> None:
        try:
            has_changed = self._hosts is not None and self._hosts.refresh()
        except InvalidHosts as error:
            logger.warning("%s; what it said before counts on", error)
            if self._driver is not None:
                self._driver.dropped(Drop.INVALID_HOSTS, error.reason)
            return
        if has_changed:
            self.changed()
            if self._driver is not None:
                self._driver.feed([])  # who waits for a name looks again


class Watch(Stream[tuple[Endpoint, ...]]):
    """What one name leads to: now, and whenever that changes. A reader that is slow gets the newest only."""

    def __init__(self, name: str) -> None:
        super().__init__(1)
        self.name = name
        self._read: tuple[Endpoint, ...] | None = None

    def offer(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Let the reader have this, if it is not what it has read last."""
        if not self._is_closed:
            self._queue.clear()
            if endpoints != self._read:
                self._push([endpoints])

    async def __anext__(self) -> tuple[Endpoint, ...]:
        """Wait until there is something that was not read yet.

        Cancellation: safe; nothing is lost.
        """
        self._read = await super().__anext__()
        return self._read


class Registration(AbstractAsyncContextManager[None]):
    """Endpoints that are registered under a name from the beginning of the block to its end."""

    def __init__(self, names: Names, check: Callable[[], object], name: str, endpoints: Iterable[Endpoint]) -> None:
        self._names = names
        self._check = check
        self._entries = [(name, endpoint) for endpoint in endpoints]
        self._was_entered = False
        self._is_registered = False

    async def __aenter__(self) -> None:
        """Announce them.

        Raises:
            ClosedError: If the peer is not open, or is leaving, or this block was entered before.
            AnnounceTooLarge: If no more fits into the announce of the peer.

        Cancellation: safe; then nothing is registered.
        """
        if self._was_entered:
            raise ClosedError("registration", "was entered before: register it anew")
        self._check()
        self._was_entered = True
        await anyio.lowlevel.checkpoint()
        self._check()
        self._names.add(self._entries)
        self._is_registered = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_registered:
            self._is_registered = False
            self._names.remove(self._entries)
