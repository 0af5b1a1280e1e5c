"""The real gossip channel.

Rule 1: the context is the one of the whole process, since ``inproc`` endpoints only meet within one.
Others use it, too: it is never terminated here, and no monitor may ever hold up its I/O thread.

Rule 2: all sockets are read from the beginning to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.abc
import zmq

from .._channels import GossipChannel, GossipListener, Sent
from .._core.config import GossipConfig
from .._core.errors import ClosedError
from .._core.gossip.talk import Link
from .._core.model import Endpoint
from .._ipc import Place, claim_now, file_of
from .._loops import current_time
from .clients import Server
from .keys import Security
from .monitor import Monitor
from .options import milliseconds
from .remotes import INPROC, Common, Queue, Remote
from .sockets import bind, check_descriptors

_NEAR, _FAR = b"i", b"n"
"""What the links of clients begin with: those over ``inproc``, and others."""
_GRACE = 5.0
"""Seconds beyond the linger time after which a socket that does not end is left alone."""


class ZmqGossipChannel(GossipChannel):
    """The sockets of one gossip node, in the context of the process.

    Args:
        config: The numbers of the node.
        security: Its keys, and who looks after its clients.

    Raises:
        SocketLimitError: If there are too few descriptors left.
    """

    def __init__(self, config: GossipConfig, security: Security) -> None:
        check_descriptors()
        self._common = Common(zmq.Context.instance(), config, security)
        self._servers: dict[bytes, Server] = {}
        self._remotes: dict[int, Remote] = {}
        self._places: list[Place] = []
        self._tasks: anyio.abc.TaskGroup | None = None
        self._is_closed = False
        self._ended = anyio.Event()
        self._leaving: list[Queue] = []
        """Closed, and may still have something to send."""

    async def run(self, listener: GossipListener) -> None:
        """Tell ``listener`` what happens until cancelled, or until `close`, or until the context is terminated.

        Cancellation: safe, at any time; the sockets stay open until `close`.
        """
        self._common.listener = listener
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for one in self._all:
                    self._start(one.run)
                try:
                    await self._ended.wait()
                finally:
                    self._tasks = None
                tasks.cancel_scope.cancel()
        finally:
            self._common.listener = None

    @property
    def _all(self) -> list[Server | Remote]:
        return [*self._servers.values(), *self._remotes.values()]

    def _start(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._serve, run)

    async def _serve(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await run()
        except ClosedError:  # the context is being terminated, which waits for each socket
            for one in self._all:
                one.queue.close()
            self.close()

    def bind(self, endpoint: Endpoint) -> Endpoint:
        """Let clients connect there, too.

        Raises:
            BindError: If it cannot be bound; also if somebody else listens at an ``ipc`` endpoint.
            SocketLimitError: If there are no sockets or descriptors left.
            ClosedError: If the channel is closed.
        """
        self._check_open()
        mark = _NEAR if endpoint.startswith(INPROC) else _FAR
        if mark not in self._servers:
            self._servers[mark] = Server(self._common, mark, is_inproc=mark is _NEAR)
            self._start(self._servers[mark].run)
        raw = self._servers[mark].queue.socket.zmq
        if (path := file_of(endpoint)) is None:
            return bind(raw, endpoint)
        # libzmq would remove the file of another node that listens there.
        place = claim_now(path, endpoint)
        try:
            bound = bind(raw, endpoint, place.listener)
        except BaseException:
            place.leave()
            raise
        self._places.append(place)
        return bound

    def connect(self, link: int, endpoint: Endpoint, server_key: bytes | None = None) -> None:
        """Connect to a remote, and for ever again when the connection ends.

        Raises:
            InvalidEndpoint: If libzmq cannot connect to the endpoint.
            SocketLimitError: If there are no sockets or descriptors left.
            ClosedError: If the channel is closed.
        """
        self._check_open()
        remote = self._remotes[link] = Remote(self._common, link, endpoint, server_key)
        self._start(remote.run)

    def disconnect(self, link: int) -> None:
        """Have this remote no longer; what was sent goes on leaving for the linger time."""
        if (remote := self._remotes.pop(link, None)) is not None:
            remote.end()
            remote.queue.close(self._linger)

    def reconnect(self, link: int) -> None:
        """Throw the connection to a remote away, with what waits in it, and make a new one."""
        if (remote := self._remotes.get(link)) is not None:
            remote.reconnect()

    def send(self, link: Link, frame: bytes) -> Sent:
        """Send one frame to a remote that is up, or to a client. Never waits."""
        if isinstance(link, bytes):
            server = self._servers.get(link[:1])
            return Sent.UNREACHABLE if server is None else server.send(link, frame)
        remote = self._remotes.get(link)
        # Nobody is told that a remote cannot be reached, but that it is down.
        is_sent = remote is not None and remote.queue.send([frame]) is Sent.SENT
        return Sent.SENT if is_sent else Sent.FULL

    @property
    def _linger(self) -> int:
        return milliseconds(self._common.config.linger)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("gossip node")

    def close(self) -> None:
        """Close all sockets, and end `run`; what was sent goes on leaving for the linger time. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        # First of all, so that nobody connects to what is about to close.
        for place in self._places:
            place.leave()
        for remote in self._remotes.values():
            remote.end()
        self._leaving = [one.queue for one in self._all]
        for queue in self._leaving:
            # Not its monitor, which tells when all has left.
            queue.socket.close(self._linger)
        self._ended.set()

    async def aclose(self) -> None:
        """Close all when `run` has ended, and wait until what was sent has left, or the linger time ended. Idempotent.

        Cancellation: waits to the end all the same.
        """
        self.close()
        monitors = [queue.monitor for queue in self._leaving if queue.monitor is not None]
        self._leaving = []
        end = current_time() + self._common.config.linger + _GRACE
        cancelled: BaseException | None = None
        with anyio.CancelScope(shield=True):
            while (lingering := [one for one in monitors if not _has_ended(one)]) and current_time() < end:
                try:
                    with anyio.CancelScope(deadline=end):
                        await lingering[0].receive_many()
                # A shield alone does not hold against asyncio's own ``Task.cancel``.
                except anyio.get_cancelled_exc_class() as error:
                    cancelled = error
        for monitor in monitors:
            # One that has not stopped would hold up the I/O thread of the process when it is closed.
            if monitor.stopped:
                monitor.close()
        if cancelled is not None:
            raise cancelled


def _has_ended(monitor: Monitor) -> bool:
    """Whether a socket that was closed has sent what it could."""
    try:
        # Here, since whoever is cancelled again and again never comes to wait.
        while not monitor.stopped and monitor.drain_nowait():
            pass
    except ClosedError:  # closed before, or the context is being terminated
        monitor.close()
    return monitor.stopped or monitor.closed
