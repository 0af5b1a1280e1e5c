"""What libzmq tells about a socket, as typed, frozen objects.

Rule 1: the PAIR has no high-water mark and is connected in the step that starts the monitor; a
PAIR that is full or not connected holds up the I/O thread of the whole context.

Rule 2: closing order is disable, pair, socket. Another order can hang.

Rule 3: a monitor that was replaced by another of the same socket does not disable that one.
"""

from __future__ import annotations

import itertools
import struct
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from enum import IntFlag
from types import TracebackType
from typing import Any, Final

import anyio.lowlevel
import zmq
from attrs import frozen

from .._core.errors import ClosedError, SocketLimitError
from .._core.events import EventsDropped
from .sockets import BATCH, Socket, ZmqSocket, new_socket

_STEP = 10_000
"""Events that a `MonitorStream` takes in one step at the most."""


class SocketEvent(IntFlag):
    """The events of libzmq's ``zmq_socket_monitor``, under its names."""

    CONNECTED = 0x0001
    """The TCP connection stands; the handshake is still to come."""
    CONNECT_DELAYED = 0x0002
    """An attempt to connect has begun."""
    CONNECT_RETRIED = 0x0004
    """The next attempt to connect comes after an interval."""
    LISTENING = 0x0008
    """It is bound."""
    BIND_FAILED = 0x0010
    """It could not be bound."""
    ACCEPTED = 0x0020
    """Somebody connected; the handshake is still to come."""
    ACCEPT_FAILED = 0x0040
    """Somebody connected and could not be accepted, mostly for want of descriptors."""
    CLOSED = 0x0080
    """A listener was closed, or an attempt to connect failed."""
    CLOSE_FAILED = 0x0100
    """A descriptor could not be closed."""
    DISCONNECTED = 0x0200
    """A connection ended."""
    MONITOR_STOPPED = 0x0400
    """The last event: the socket was closed, or has another monitor."""
    HANDSHAKE_FAILED_NO_DETAIL = 0x0800
    """The ZMTP handshake failed, with an errno."""
    HANDSHAKE_SUCCEEDED = 0x1000
    """The ZMTP handshake is done: messages flow."""
    HANDSHAKE_FAILED_PROTOCOL = 0x2000
    """The other side does not speak ZMTP as it should."""
    HANDSHAKE_FAILED_AUTH = 0x4000
    """The other side was not let in, or did not let us in."""
    ALL = 0xFFFF
    """Those of the future among them."""


_EVENTS: Final = {int(event): event for event in SocketEvent}
_HAS_FD: Final = (
    SocketEvent.CONNECTED | SocketEvent.LISTENING | SocketEvent.ACCEPTED | SocketEvent.CLOSED | SocketEvent.DISCONNECTED
)
_HAS_ERRNO: Final = (
    SocketEvent.CONNECT_DELAYED
    | SocketEvent.BIND_FAILED
    | SocketEvent.ACCEPT_FAILED
    | SocketEvent.CLOSE_FAILED
    | SocketEvent.HANDSHAKE_FAILED_NO_DETAIL
)
_HEAD: Final = struct.Struct("=HI")
_numbers: Final = itertools.count(1)


@frozen
class MonitorEvent:
    """One event of a socket. ``str()`` gives the log line of the classic programs, in local time."""

    at: datetime
    """Wall-clock time, with its zone, at which it was read."""
    socket: str
    """The name that the monitor was given, such as ``dataSub``."""
    event: SocketEvent
    value: int
    """What it means depends on the event; see the properties."""
    endpoint: str
    """Of the other side where we connected, of ours where we listen; empty for MONITOR_STOPPED."""
    address: int = 0
    """Where libzmq keeps the socket; tells sockets of one name apart."""

    def _value_of(self, events: SocketEvent) -> int | None:
        return self.value if self.event & events else None

    @property
    def fd(self) -> int | None:
        """The descriptor of a connection or listener that came or went."""
        return self._value_of(_HAS_FD)

    @property
    def errno(self) -> int | None:
        """Why something failed, or EINPROGRESS of a delayed connect."""
        return self._value_of(_HAS_ERRNO)

    @property
    def interval(self) -> int | None:
        """Milliseconds until libzmq tries to connect again."""
        return self._value_of(SocketEvent.CONNECT_RETRIED)

    @property
    def status(self) -> int | None:
        """The status of ZAP (RFC 27): 300, 400 or 500."""
        return self._value_of(SocketEvent.HANDSHAKE_FAILED_AUTH)

    @property
    def protocol_error(self) -> int | None:
        """One of libzmq's ``ZMQ_PROTOCOL_ERROR_*`` numbers."""
        return self._value_of(SocketEvent.HANDSHAKE_FAILED_PROTOCOL)

    def __str__(self) -> str:
        return (
            f"{self.at.astimezone():%H:%M:%S.%f}\t"
            f"socket:{self.address:#x} name:{self.socket} value:{self.value} event:{int(self.event)} "
            f"desc:{self.event.name or 'UNKNOWN'} endpoint:{self.endpoint}"
        )


class Monitor:
    """The events of one socket, read by one task.

    Must be made before the socket binds or connects, if these events matter, and read for as
    long as it is open: libzmq keeps what is not read, about 128 bytes for each event.

    Raises:
        SocketLimitError: If libzmq has no sockets or descriptors left.
    """

    def __init__(self, socket: ZmqSocket, name: str, events: SocketEvent = SocketEvent.ALL) -> None:
        self.name = name
        self.stopped = False
        """Whether MONITOR_STOPPED was read: nothing comes after it."""
        self._socket = socket
        self._address = int(socket.underlying)
        # Never named by a descriptor: libzmq frees names later than descriptors are used again.
        address = f"inproc://zdisco-monitor-{next(_numbers)}"
        raw = new_socket(socket.context, zmq.PAIR)
        try:
            raw.setsockopt(zmq.LINGER, 0)
            raw.setsockopt(zmq.RCVHWM, 0)
            socket.monitor(address, int(events | SocketEvent.MONITOR_STOPPED))
            raw.connect(address)
            self._pair = Socket(raw, f"monitor of {name}")
        except zmq.ZMQError as error:
            raw.close(0)
            raise SocketLimitError(error.errno or 0, str(error)) from error

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._pair.closed

    async def receive_many(self) -> list[MonitorEvent]:
        """Wait for at least one event and take all that are there.

        Raises:
            ClosedError: If the monitor is, or gets, closed.

        Cancellation: safe; no event is lost.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            events = self.drain_nowait()
            if events:
                return events
            await self._pair.wait()

    def drain_nowait(self, limit: int = BATCH) -> list[MonitorEvent]:
        """Take the events that are there, at most ``limit``.

        Raises:
            ClosedError: If the monitor is closed.
        """
        events: list[MonitorEvent] = []
        while len(events) < limit:
            # A message of two frames, of which both are there or none.
            frames = self._pair.receive_nowait(1)
            if not frames:
                break
            number, value = _HEAD.unpack(frames[0])
            event = _EVENTS.get(number) or SocketEvent(number)
            endpoint = frames[1].decode("utf-8", "replace")
            at = datetime.now(UTC)
            events.append(MonitorEvent(at, self.name, event, value, endpoint, self._address))
            self.stopped = self.stopped or event is SocketEvent.MONITOR_STOPPED
        return events

    def close(self) -> None:
        """Stop the monitor; call before the socket is closed. Unread events are lost. Idempotent."""
        if self._pair.closed:
            return
        with suppress(ClosedError):
            for _ in range(100):  # not for ever: a listener without descriptors tells of it without end
                if self.stopped or not self.drain_nowait():
                    break
        # A stopped monitor has ended by itself: the socket is closed, or has got another one.
        if not self.stopped and not self._socket.closed:
            with suppress(zmq.ZMQError):
                self._socket.disable_monitor()
        self._pair.close(0)


class Handshakes:
    """Finds, in the events of one bound socket, the connections that ended before their handshake.

    An event of success does not say of which connection. While several are under way, the one
    that ends is taken for one that failed, as far as the numbers allow it.
    """

    def __init__(self) -> None:
        self._unknown: set[int] = set()
        self._succeeded = 0

    def is_failure(self, event: MonitorEvent) -> bool:
        """Whether this event, the next one, is the end of such a connection."""
        match event.event:
            case SocketEvent.ACCEPTED:
                self._unknown.add(event.value)
            case SocketEvent.HANDSHAKE_SUCCEEDED:
                self._succeeded += 1
            case SocketEvent.DISCONNECTED if event.value in self._unknown:
                self._unknown.remove(event.value)
                if len(self._unknown) >= self._succeeded:
                    return True
                self._succeeded -= 1
        if len(self._unknown) <= self._succeeded:
            self._unknown.clear()
            self._succeeded = 0
        return False


class MonitorStream:
    """The events of any pyzmq socket, from `monitor`. Iterate it in one task.

    Its bound is kept by the reader: each step takes what libzmq holds and keeps the newest
    ``capacity`` events. As long as nobody iterates, libzmq keeps about 128 bytes for each event.

    Ends when it is closed, or after MONITOR_STOPPED, which comes when the socket is closed.
    """

    def __init__(self, monitor: Monitor, capacity: int) -> None:
        self._monitor = monitor
        self._queue: deque[MonitorEvent] = deque()
        self._capacity = capacity
        self._dropped = 0

    def __aiter__(self) -> MonitorStream:
        return self

    async def __anext__(self) -> MonitorEvent | EventsDropped:
        """Wait for the next event; `EventsDropped` stands where events are missing.

        Cancellation: safe; no event is lost.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            with suppress(ClosedError):
                self._take(self._monitor.drain_nowait(_STEP))
            if self._dropped:
                count, self._dropped = self._dropped, 0
                return EventsDropped(count)
            if self._queue:
                return self._queue.popleft()
            if self._monitor.closed:
                raise StopAsyncIteration
            with suppress(ClosedError):
                self._take(await self._monitor.receive_many())

    def _take(self, events: list[MonitorEvent]) -> None:
        self._queue.extend(events)
        excess = max(0, len(self._queue) - self._capacity)
        for _ in range(excess):
            self._queue.popleft()
        self._dropped += excess
        if self._monitor.stopped:
            self._monitor.close()

    async def __aenter__(self) -> MonitorStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def aclose(self) -> None:
        """Stop the monitor. The socket stays as it is. Idempotent.

        Cancellation: the stream is closed all the same.
        """
        self._close()
        await anyio.lowlevel.checkpoint()

    def _close(self) -> None:
        self._queue.clear()
        self._dropped = 0
        self._monitor.close()


def monitor(
    socket: zmq.Socket[Any],
    events: SocketEvent | int = SocketEvent.ALL,
    *,
    name: str = "",
    capacity: int = 10_000,
) -> MonitorStream:
    """Watch any pyzmq socket, one of `zmq.asyncio` too; starts at once, before the first step of the iteration.

    A socket has one monitor: this one takes the place of an earlier one, which ends. Close the
    stream in the thread that uses the socket: it holds a socket of the same context, which cannot
    be terminated before the stream was closed, or read to its end.

    Args:
        socket: The socket; bind and connect afterwards in order to see these events, too.
        events: Which events; MONITOR_STOPPED comes always.
        name: Stands in each event as ``socket``.
        capacity: Events that wait before the oldest are dropped.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If ``events`` is empty or holds unknown bits, or ``capacity`` is less than 1.
        ClosedError: If the socket is closed.
    """
    _check(socket, name, capacity)
    mask = socket_events(events)
    if socket.closed:
        raise ClosedError("socket")
    return MonitorStream(Monitor(socket, name, mask), capacity)


def socket_events(events: object) -> SocketEvent:
    """A mask of events, checked.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is empty or has unknown bits.
    """
    if not isinstance(events, int) or isinstance(events, bool):
        raise TypeError(f"events must be a SocketEvent, not {events!r}")
    if not 0 < events <= SocketEvent.ALL:
        raise ValueError(f"events must be a combination of flags of SocketEvent, not {int(events):#x}")
    return SocketEvent(events)


def _check(socket: object, name: object, capacity: object) -> None:
    if not isinstance(socket, zmq.Socket):
        raise TypeError(f"socket must be a zmq.Socket, not {socket!r}")
    if not isinstance(name, str):
        raise TypeError(f"name must be text, not {name!r}")
    if not isinstance(capacity, int) or isinstance(capacity, bool):
        raise TypeError(f"capacity must be an int, not {capacity!r}")
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1, not {capacity}")
