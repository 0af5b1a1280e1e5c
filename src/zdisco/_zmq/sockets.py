"""ZeroMQ sockets that wait on their descriptor: the same code on asyncio, uvloop and trio.

Rule 1: between reading a frame and handing it to the caller there is no ``await``, so a
cancelled receive loses nothing.

Rule 2: the descriptor tells edges only, so a reader waits only after it has seen EAGAIN. A send
may swallow an edge: while the reader waits it schedules a re-check, else it makes the reader read
once more before it waits.

Rule 3: `Socket.receive_nowait` never stops in the middle of a multipart message. Therefore no
multipart message is ever half read when a connection is taken down, which would end the process.

Rule 4: nothing asks for the EVENTS of a socket that never sends. On a SUB that question
prefetches a frame, and a disconnect after that may end the process, too.
"""

from __future__ import annotations

import errno
import os
import socket as plain
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import zmq

from .._core.errors import BindError, ClosedError, InvalidEndpoint, SocketLimitError
from .._core.model import Endpoint
from .._loops import asyncio_loop, callback_context, outlast, soon

if TYPE_CHECKING:
    import asyncio

ZmqContext: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
ZmqSocket: TypeAlias = "zmq.Socket[bytes]"

_F = TypeVar("_F")

MAX_SOCKETS = 4096
_CANNOT_BIND = {
    # libzmq looks for a network interface of that name, then for a host.
    errno.ENODEV: "no address of this machine has that name",
    errno.EAGAIN: "no address of this machine has that name",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
}
_DONTWAIT = int(zmq.DONTWAIT)
_POLLIN = int(zmq.POLLIN)
"""As plain numbers: reading the enum's value costs as much as half a receive."""
_DESCRIPTORS = 32
"""A peer opens about 20, before it meets others. There is some room for what comes and goes meanwhile."""
BATCH = 512
"""Frames that a reader takes before it lets others run."""


class _Waiter(Protocol):
    async def wait(self, read: Callable[[], bool] | None) -> None: ...
    def wake(self) -> None: ...


class _LoopWaiter:
    """Waits with a reader of the event loop, registered only while somebody waits: else the loop would spin."""

    __slots__ = ("_context", "_error", "_fd", "_future", "_loop", "_read", "_reads_again")

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._context = callback_context()
        self._read: Callable[[], bool] | None = None
        self._error: Exception | None = None
        """What it raised."""
        self._reads_again = False
        """Whether it is called in the next turn anyway."""
        self._future: asyncio.Future[None] | None = None

    async def wait(self, read: Callable[[], bool] | None) -> None:
        # A wait that has a future has a reader. Never remove one without the other: after a
        # close the number of the descriptor may be somebody else's.
        self._read = read
        self._loop.add_reader(self._fd, self.wake if read is None else self._readable)
        self._future = future = self._loop.create_future()
        try:
            await future
        finally:
            self._disarm()
        if (error := self._error) is not None:
            self._error = None
            raise error

    def _readable(self) -> None:
        if not self._reads_again:
            self._try_read()

    def _try_read(self) -> None:
        assert self._read is not None
        try:
            is_done = self._context.run(self._read)
        except Exception as error:  # noqa: BLE001  whoever waits raises it
            self._error = error
            self.wake()
        else:
            if not is_done and self._future is not None:
                # In the next turn, after those who have got something now. The descriptor may not tell of it again.
                self._reads_again = True
                self._loop.call_soon(self._try_again, self._future)

    def _try_again(self, future: asyncio.Future[None]) -> None:
        self._reads_again = False
        if self._future is future:
            self._try_read()

    def wake(self) -> None:
        future = self._future
        if future is not None:
            self._disarm()
            if not future.done():
                future.set_result(None)

    def _disarm(self) -> None:
        if self._future is not None:
            self._future = None
            # The loop may have ended before the socket.
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)


class _TrioWaiter:
    """Waits with a call of trio; a wait has begun when the call has."""

    __slots__ = ("_fd", "_trio")

    def __init__(self, trio: Any, fd: int) -> None:
        self._trio = trio
        self._fd = fd

    async def wait(self, _: Callable[[], bool] | None) -> None:
        with suppress(self._trio.ClosedResourceError):
            await self._trio.lowlevel.wait_readable(self._fd)

    def wake(self) -> None:
        # Takes the descriptor out of the poll set at once, so that it may be closed now.
        self._trio.lowlevel.notify_closing(self._fd)


class _ScopeWaiter:
    """Waits with a call of anyio: event loops that know no readers."""

    __slots__ = ("_fd", "_scope")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._scope: anyio.CancelScope | None = None

    async def wait(self, read: Callable[[], bool] | None) -> None:
        self._scope = anyio.CancelScope()
        try:
            with self._scope, suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(self._fd)
        finally:
            self._scope = None

    def wake(self) -> None:
        if self._scope is not None:
            # Takes the descriptor out of the poll set at once, so that it may be closed now; but
            # reaches only who waits already, while the cancellation reaches who is about to, too.
            anyio.notify_closing(self._fd)
            self._scope.cancel()


def _make_waiter(fd: int) -> _Waiter:
    loop = asyncio_loop()
    if loop is not None:
        # Windows' proactor loop has no readers.
        try:
            loop.remove_reader(fd)
        except NotImplementedError:
            return _ScopeWaiter(fd)
        return _LoopWaiter(loop, fd)
    return _TrioWaiter(sys.modules["trio"], fd)


def source_fd(frame: zmq.Frame) -> int | None:
    """The descriptor of the connection that a frame came over; ``None`` if libzmq does not say it.

    The connection may have ended since, and its number be somebody else's.
    """
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return None


class Socket:
    """A pyzmq socket with one reader task and any number of senders, all in one thread."""

    __slots__ = (
        "_checking",
        "_fd",
        "_send",
        "_soon",
        "_waiter",
        "_waiting",
        "_woken",
        "drained",
        "multiparts",
        "name",
        "zmq",
    )

    def __init__(self, raw: ZmqSocket, name: str = "socket") -> None:
        self.zmq = raw
        """The raw socket. Whoever sends through it calls `sent` afterwards."""
        self.name = name
        self.drained = False
        """Whether the last read ended because nothing more was there."""
        self.multiparts = 0
        """How many multipart messages `receive_single_nowait` has thrown away."""
        self._fd = int(raw.getsockopt(zmq.FD))
        # The method of the class above does the same, after it has looked for arguments that we never give.
        self._send = super(zmq.Socket, raw).send
        self._soon: Callable[[Callable[[], object]], object] | None = None
        self._waiter: _Waiter | None = None
        self._waiting = False
        self._woken = False
        self._checking = False

    @property
    def is_waited_for(self) -> bool:
        """Whether a task is in `wait`."""
        return self._waiting

    @property
    def closed(self) -> bool:
        """Whether the socket was closed."""
        return bool(self.zmq.closed)

    async def receive(self) -> bytes:
        """Wait for one frame.

        Raises:
            ClosedError: If the socket is, or gets, closed.

        Cancellation: safe; no frame is lost.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            frame = self._read()
            if frame is not None:
                return frame
            await self.wait()

    async def receive_many(self, limit: int = BATCH) -> list[bytes]:
        """Wait for at least one frame and take those that are there: about ``limit``, see `receive_nowait`.

        Others run before each call reads, so a flood can be cancelled.

        Raises:
            ClosedError: If the socket is, or gets, closed.

        Cancellation: safe; no frame is lost.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            frames = self.receive_nowait(limit)
            if frames:
                return frames
            await self.wait()

    def receive_nowait(self, limit: int = BATCH) -> list[bytes]:
        """Take the frames that are there; more than ``limit`` only to finish a multipart message.

        Raises:
            ClosedError: If the socket is closed.
        """
        frames: list[bytes] = []
        receive, append = self.zmq.recv, frames.append
        try:
            for _ in range(limit):
                append(receive(_DONTWAIT))
            while self.zmq.getsockopt(zmq.RCVMORE):
                append(receive(_DONTWAIT))
        except zmq.Again:
            self.drained = True
        except zmq.ZMQError as error:
            raise ClosedError(self.name) from error
        else:
            self.drained = False
        return frames

    def receive_single_nowait(self, limit: int = BATCH) -> list[bytes]:
        """Take at most ``limit`` messages that are there; those of several frames only count in ``multiparts``.

        Raises:
            ClosedError: If the socket is closed.
        """
        return self._read_singles(self._read, limit)

    def receive_origins_nowait(self, limit: int = BATCH) -> list[zmq.Frame]:
        """As `receive_single_nowait`, in a form that tells where a message came from, see `source_fd`.

        Raises:
            ClosedError: If the socket is closed.
        """
        return self._read_singles(self._read_frame, limit)

    def receive_message_nowait(self) -> list[zmq.Frame]:
        """Take one message that is there, whole, in a form that tells where it came from, see `source_fd`.

        Raises:
            ClosedError: If the socket is closed.
        """
        frames: list[zmq.Frame] = []
        while (frame := self._read_frame()) is not None:
            frames.append(frame)
            if not self.zmq.getsockopt(zmq.RCVMORE):
                break
        return frames

    def _read_singles(self, read: Callable[[], _F | None], limit: int) -> list[_F]:
        frames: list[_F] = []
        for _ in range(limit):
            frame = read()
            if frame is None:
                break
            if self.zmq.getsockopt(zmq.RCVMORE):
                self.multiparts += 1
                while self.zmq.getsockopt(zmq.RCVMORE):
                    read()
            else:
                frames.append(frame)
        return frames

    def _read(self) -> bytes | None:
        return self._taken(self.zmq.recv)

    def _read_frame(self) -> zmq.Frame | None:
        return self._taken(lambda flags: self.zmq.recv(flags, copy=False))

    def _taken(self, receive: Callable[[int], _F]) -> _F | None:
        try:
            frame = receive(zmq.DONTWAIT)
        except zmq.Again:
            self.drained = True
            return None
        except zmq.ZMQError as error:
            raise ClosedError(self.name) from error
        self.drained = False
        return frame

    async def wait(self, read: Callable[[], bool] | None = None) -> None:
        """Wait until something may be there to read, or `wake` is called. Read until ``drained`` first.

        Args:
            read: Called by asyncio when something may be there, instead of waking who waits, which takes longer.
                Returns whether it has read until ``drained``; else it is called again in the next turn of the
                event loop. The wait goes on all the same. What it raises is raised here.

        Raises:
            ClosedError: If the socket is, or gets, closed.
            anyio.BusyResourceError: If another task is waiting already.

        Cancellation: safe.
        """
        if self._waiting:
            raise anyio.BusyResourceError("reading from")
        if self.closed:
            raise ClosedError(self.name)
        if not self._woken:
            if self._waiter is None:
                self._waiter = _make_waiter(self._fd)
            self._waiting = True
            try:
                await self._waiter.wait(read)
            finally:
                self._waiting = False
        self._woken = False
        if self.closed:
            raise ClosedError(self.name)

    async def keep_reading(self, read: Callable[[], bool]) -> None:
        """Call ``read`` whenever something may be there, others in between, see `wait`; until cancelled.

        Raises:
            ClosedError: If the socket is, or gets, closed.

        Cancellation: safe.
        """
        while True:
            if read():
                await self.wait(read)
            else:
                await anyio.lowlevel.checkpoint()

    def wake(self) -> None:
        """Make the present, or else the next, `wait` return."""
        self._woken = True
        if self._waiting and self._waiter is not None:
            self._waiter.wake()

    def catch_up(self) -> None:
        """Let libzmq take in what its I/O thread has told, such as that a queue has room again.

        A send that would have to wait looks there only once in a millisecond. Call it right after
        such a send, which sees to it that the reader misses nothing.
        """
        with suppress(zmq.ZMQError):  # whoever sends or reads next finds out
            self.zmq.getsockopt(zmq.EVENTS)

    def send_nowait(self, frame: bytes) -> bool:
        """Send one frame; false if it would have to wait.

        Raises:
            ClosedError: If the socket is closed.
        """
        try:
            self._send(frame, _DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            raise ClosedError(self.name) from error
        finally:
            self.sent()
        return True

    def send_message_nowait(self, frames: Sequence[bytes]) -> None:
        """Send one message through a ROUTER, which drops what it has no room for. For the task that reads.

        Raises:
            ClosedError: If the socket is closed.
        """
        self.drained = False  # see `send_nowait`
        try:
            self.zmq.send_multipart(frames, _DONTWAIT)
        except zmq.ZMQError as error:
            raise ClosedError(self.name) from error

    def sent(self) -> None:
        """See to it that the reader misses no edge that a send has swallowed."""
        if not self._waiting:
            self.drained = False  # read again before waiting
        elif not self._checking:
            self._checking = True
            if self._soon is None:
                self._soon = soon()
            self._soon(self._check)

    def post(self, frame: bytes) -> bool:
        """Send one frame as `send_nowait` does, and look after no edge: call `posted` soon.

        Raises:
            ClosedError: If the socket is closed.
        """
        try:
            self._send(frame, _DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            raise ClosedError(self.name) from error
        return True

    def posted(self) -> None:
        """Look whether what was posted has swallowed an edge."""
        if not self._waiting:
            self.drained = False  # read again before waiting
        elif not self._checking:
            self._check()

    def _check(self) -> None:
        self._checking = False
        if self.closed or not self._waiting:
            return
        try:
            readable = bool(int(self.zmq.getsockopt(zmq.EVENTS)) & _POLLIN)
        except zmq.ZMQError:
            readable = True  # the context was terminated: let the reader find out
        if readable:
            self.wake()

    def close(self, linger: int | None = None) -> None:
        """Close the socket and wake its reader, which gets a `ClosedError`. Idempotent.

        Args:
            linger: Milliseconds to go on sending what waits; the socket's own option if not given.
        """
        if self.closed:
            return
        if self._waiting and self._waiter is not None:
            # Before the descriptor goes. The reader runs later, and then finds the socket closed.
            self._waiter.wake()
        self.zmq.close(linger)


async def run_readers(*readers: Callable[[], Awaitable[None]]) -> None:
    """Run readers until cancelled, or until their sockets are closed."""

    async def quietly(reader: Callable[[], Awaitable[None]]) -> None:
        with suppress(ClosedError):
            await reader()

    async with anyio.create_task_group() as tasks:
        for reader in readers:
            tasks.start_soon(quietly, reader)


def check_descriptors() -> None:
    """See that there are enough descriptors for what a peer, a proxy or a gossip node opens before it meets anybody.

    libzmq ends the process where it finds none for its own use.

    Raises:
        SocketLimitError: If there are not.
    """
    opened: list[int] = []
    try:
        for _ in range(_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        reason = f"{(error.strerror or str(error)).lower()}, and {_DESCRIPTORS} are needed to begin with (ulimit -n)"
        raise SocketLimitError(error.errno or 0, reason) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


def new_context() -> ZmqContext:
    """Make the context of one peer or proxy; sharing one would share its limits and its ZAP handler.

    Raises:
        SocketLimitError: If there are too few descriptors left.
    """
    check_descriptors()
    context: ZmqContext = zmq.Context()
    # libzmq ignores this after the first socket.
    context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    return context


async def terminate(context: ZmqContext) -> None:
    """Terminate a context whose sockets are closed: wait until what they sent has left, or their linger times ended.

    Cancellation: waits to the end all the same, so that no thread remains.
    """
    finished = anyio.Event()
    token = anyio.lowlevel.current_token()

    def run() -> None:
        try:
            # Closes what an interrupted start or close left open, too: term() would wait for it for ever.
            context.destroy()
        finally:
            anyio.from_thread.run_sync(finished.set, token=token)

    # A thread of a pool would stay, and term() may take as long as the linger time.
    thread = threading.Thread(target=run, name="zdisco-term", daemon=True)
    thread.start()
    try:
        await outlast(finished)
    finally:
        thread.join()


def bind(socket: ZmqSocket, endpoint: Endpoint, listener: plain.socket | None = None) -> Endpoint:
    """Bind, and return the resolved endpoint.

    Args:
        socket: What to bind.
        endpoint: Where.
        listener: A plain socket that listens there already, if there is one. It is taken over, or closed.

    Raises:
        BindError: If that is not possible.
    """
    try:
        _use_ipv6(socket, endpoint)
        socket.setsockopt(zmq.USE_FD, -1 if listener is None else listener.fileno())
        socket.bind(endpoint)
    except (zmq.ZMQError, ValueError) as error:
        if listener is not None:
            listener.close()
        number = _number(error)
        raise BindError(endpoint, number, _CANNOT_BIND.get(number, _reason(error))) from error
    if listener is not None:
        listener.detach()  # it is libzmq's to close from now on
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT)).rstrip("\0")


def unbind(socket: ZmqSocket, endpoint: Endpoint) -> None:
    """Listen there no more, and end the connections that came in there."""
    with suppress(zmq.ZMQError):
        socket.unbind(endpoint)


def connect(socket: ZmqSocket, endpoint: Endpoint) -> None:
    """Start to connect.

    Raises:
        InvalidEndpoint: If libzmq cannot make sense of the endpoint.
    """
    try:
        _use_ipv6(socket, endpoint)
        socket.connect(endpoint)
    except (zmq.ZMQError, ValueError) as error:
        raise InvalidEndpoint(endpoint, _reason(error)) from error


def disconnect(socket: ZmqSocket, endpoint: Endpoint) -> None:
    """Disconnect. It ends when the socket is read, once the I/O thread has answered."""
    # ENOENT: libzmq gave the connection up before we did.
    with suppress(zmq.ZMQError):
        socket.disconnect(endpoint)


def set_welcome(xpub: ZmqSocket, frame: bytes) -> None:
    """Have libzmq send ``frame`` to each subscriber as the first message of its connection."""
    xpub.setsockopt(zmq.XPUB_WELCOME_MSG, frame)


def _use_ipv6(socket: ZmqSocket, endpoint: Endpoint) -> None:
    # Only for IPv6 literals: with the option on, IPv4 endpoints change their spelling in
    # events; with it off, IPv6 ones never connect.
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))


def _number(error: Exception) -> int:
    return (error.errno if isinstance(error, zmq.ZMQError) else None) or errno.EINVAL


def _reason(error: Exception) -> str:
    number = error.errno if isinstance(error, zmq.ZMQError) else None
    # pyzmq's own text repeats the endpoint.
    return str(error) if number is None else zmq.strerror(number).lower()


def new_socket(context: ZmqContext, kind: int) -> ZmqSocket:
    """Make a plain socket, whatever class the context is of.

    Raises:
        SocketLimitError: If there are no sockets or descriptors left.
    """
    try:
        return context.socket(kind, socket_class=zmq.Socket)
    except zmq.ZMQError as error:
        raise SocketLimitError(_number(error), _reason(error)) from error
