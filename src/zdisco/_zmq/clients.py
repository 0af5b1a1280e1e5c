"""The ROUTERs that the clients of a gossip node connect to.

Rule: those over ``inproc`` have a ROUTER of their own. What such a client does not read may hold up
the end of the socket for ever, while that of a connection over a network lasts as long as it lingers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import anyio.lowlevel
import zmq

from .._channels import Sent
from .._core.actions import Drop
from .._core.errors import ClosedError
from .._core.gossip.talk import Link
from .monitor import Handshakes, MonitorEvent, SocketEvent
from .options import gossip_router
from .remotes import Common, Queue, take
from .sockets import run_readers, source_fd

_WATCHED = SocketEvent.ACCEPTED | SocketEvent.HANDSHAKE_SUCCEEDED | SocketEvent.DISCONNECTED


class Connections:
    """Over which connection each client was heard last; over ``inproc`` there is none that is known."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._fds: dict[bytes, int] = {}
        self._clients: dict[int, list[bytes]] = {}
        """Who was heard over each of them, the present one last."""
        self._gone: set[bytes] = set()

    def accepted(self, fd: int) -> None:
        """A connection came in."""
        self._open.add(fd)

    def ended(self, fd: int) -> None:
        """A connection ended."""
        self._open.discard(fd)
        for client in self._clients.pop(fd, ()):
            self._lose(client, fd)

    def heard(self, client: bytes, fd: int | None) -> None:
        """A message was read, and after it all events that came before it."""
        if fd in self._open:
            clients = self._clients.setdefault(fd, [])
            if client not in clients:
                for former in clients:  # has ended meanwhile, and this one got its descriptor
                    self._lose(former, fd)
                clients.append(client)
                self._fds[client] = fd
        elif fd is not None:
            self._gone.add(client)  # it had ended before we read what it sent

    def _lose(self, client: bytes, fd: int) -> None:
        if self._fds.get(client) == fd:
            del self._fds[client]
            self._gone.add(client)

    def gone(self) -> set[bytes]:
        """Those whose connections have ended since this was last asked."""
        # One with a routing id of its own may be back already.
        gone, self._gone = self._gone - self._fds.keys(), set()
        return gone


class Server:
    """One ROUTER.

    Args:
        common: What all sockets of the node have in common.
        mark: What the links of its clients begin with.
        is_inproc: Whether only ``inproc`` endpoints are bound.

    Raises:
        SocketLimitError: If there are no sockets or descriptors left.
    """

    def __init__(self, common: Common, mark: bytes, *, is_inproc: bool) -> None:
        self._common = common
        self._mark = mark
        raw = gossip_router(common.context, common.config, common.security)
        self.queue = Queue(raw, "clients", None if is_inproc else _WATCHED)
        self._connections = Connections()
        self._handshakes = Handshakes()

    async def run(self) -> None:
        """Tell what happens until cancelled.

        Raises:
            ClosedError: If the socket is closed, or the context was terminated.
        """
        await run_readers(self._read, self._watch)
        raise ClosedError("gossip node")

    async def _read(self) -> None:
        socket = self.queue.socket
        while True:
            await anyio.lowlevel.checkpoint()
            self._read_once([])
            if socket.drained:
                await socket.wait()

    async def _watch(self) -> None:
        while self.queue.monitor is not None:
            # What a client had sent is read before its end is told.
            self._read_once(await self.queue.monitor.receive_many())

    def _read_once(self, events: Sequence[MonitorEvent]) -> None:
        messages, others = take(self.queue.socket.receive_message_nowait, 2)
        # After that: the connection of each message has been told by now.
        for event in chain(events, self._later_events()):
            self._note(event)
        self._common.tell([self._heard(*message) for message in messages], others)
        for client in self._connections.gone():
            if self._common.listener is not None:
                self._common.listener.client_gone(self._mark + client)

    def _later_events(self) -> Iterator[MonitorEvent]:
        while self.queue.monitor is not None and (events := self.queue.monitor.drain_nowait()):
            yield from events

    def _note(self, event: MonitorEvent) -> None:
        if self._handshakes.is_failure(event) and self._common.listener is not None:
            self._common.listener.dropped(Drop.FAILED_HANDSHAKE, self.queue.socket.name)
        if event.event is SocketEvent.ACCEPTED:
            self._connections.accepted(event.value)
        elif event.event is SocketEvent.DISCONNECTED:
            self._connections.ended(event.value)

    def _heard(self, routing_id: zmq.Frame, frame: zmq.Frame) -> tuple[Link, bytes]:
        client = routing_id.bytes
        self._connections.heard(client, source_fd(frame))
        return self._mark + client, frame.bytes

    def send(self, link: bytes, frame: bytes) -> Sent:
        """Send one frame to a client. Never waits."""
        return self.queue.send([link.removeprefix(self._mark), frame])
