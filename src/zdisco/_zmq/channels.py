"""The real channels: four ZeroMQ sockets, each with a reader task and a monitor.

Rule 1: what was read is told in the step that read it; see ``_channels.py``.

Rule 2: every socket is always read, also those that only send: an XPUB that nobody reads leaks
with each connection that goes, and a disconnect ends only when the socket is touched afterwards.

Rule 3: a connection of `dataSub` is taken down between two reads, never inside one, and
`ZmqDataChannel.drain` does it in the step that found its queue empty.

Rule 4: with ``overflow="wait"`` no frame is ever sent in a way that libzmq may drop it for a full
queue: it would then skip that subscriber, also for what others wait to publish, until half of the
queue is read. Control frames get past full queues by a higher mark instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel
import zmq
from attrs import define

from .._channels import DataChannel, DataListener, Lead, ProxyChannel, ProxyListener
from .._core.actions import Drop
from .._core.config import PeerConfig
from .._core.endpoints import parse
from .._core.envelope import MAGIC, inbox_owner, is_control
from .._core.errors import BindError, ClosedError, InvalidEndpoint
from .._core.model import Endpoint, Overflow, Probe
from .._core.wire import ANNOUNCE, FAREWELL, WELCOME
from .._loops import Arrival, asyncio_loop, current_time
from .._probe import probe
from .._turns import Turns
from .accepted import Accepted
from .monitor import Handshakes, Monitor, MonitorEvent, SocketEvent
from .options import data_pub, data_send_hwm, data_sub, milliseconds, proxy_pub, proxy_sub
from .sockets import BATCH, Socket, ZmqContext, ZmqSocket, bind, connect, disconnect, run_readers, source_fd, unbind

_ENDED = SocketEvent.DISCONNECTED | SocketEvent.CLOSED
_TRYING = SocketEvent.CONNECT_RETRIED | SocketEvent.CONNECT_DELAYED | SocketEvent.CONNECTED
_REJECTED = (
    SocketEvent.HANDSHAKE_FAILED_NO_DETAIL | SocketEvent.HANDSHAKE_FAILED_PROTOCOL | SocketEvent.HANDSHAKE_FAILED_AUTH
)
_HEADER_WITHIN = 4096
"""Bytes of a frame in which our header is looked for; see ``TOPIC_LIMIT``."""
_TRY_AGAIN = 0.005
"""Seconds after which whoever waits for room tries again unasked. The edge that told of the room may
have been swallowed by a send of somebody else."""
_LOOK_AGAIN = 0.001
"""Seconds after which the edges are looked after that messages may have swallowed. At once would be in their way."""
_WATCHED = SocketEvent.ALL & ~SocketEvent.ACCEPT_FAILED
"""libzmq repeats ACCEPT_FAILED without end as long as no descriptor is left, faster than it can be read."""


class _Watched:
    """A socket and its monitor, which come and go together."""

    def __init__(self, raw: ZmqSocket, name: str) -> None:
        self.socket = Socket(raw, name)
        try:
            self.monitor = Monitor(raw, name, _WATCHED)
        except BaseException:
            raw.close(0)
            raise

    def close(self, linger: int | None = None) -> None:
        self.monitor.close()
        self.socket.close(linger)


class ZmqProxyChannel(ProxyChannel):
    """The two sockets of a peer that lead to one proxy; they connect at once.

    Raises:
        InvalidEndpoint: If libzmq cannot connect to the endpoint.
        SocketLimitError: If libzmq has no sockets or descriptors left.
    """

    def __init__(self, context: ZmqContext, endpoint: Endpoint, config: PeerConfig) -> None:
        self.endpoint = endpoint
        self._config = config
        self._listener: ProxyListener | None = None
        self._relay: Endpoint = ""
        self._silent = False
        self._ended = anyio.Event()
        self._sub = _Watched(proxy_sub(context, config), "proxySub")
        try:
            for command in (WELCOME, ANNOUNCE, FAREWELL):
                self._sub.socket.zmq.setsockopt(zmq.SUBSCRIBE, command)
            connect(self._sub.socket.zmq, endpoint)
            self._pub = _Watched(proxy_pub(context, config), "proxyPub")
        except BaseException:
            self._sub.close(0)
            raise

    async def run(self, listener: ProxyListener) -> None:
        """Tell ``listener`` what happens until cancelled, or until `close`.

        Cancellation: safe, at any time; the sockets stay open until `close`.
        """
        self._listener = listener
        try:
            await run_readers(
                self._read_sub, self._read_sub_monitor, self._revive, self._read_pub, self._read_pub_monitor
            )
        finally:
            self._listener = None

    async def _read_sub(self) -> None:
        await self._sub.socket.keep_reading(self._read_sub_once)

    def _read_sub_once(self) -> bool:
        """Read some messages and tell them; returns whether no more were there."""
        socket = self._sub.socket
        frames = self._read_single(socket)
        # A welcome is believed only as the first message of a connection. Whoever judges
        # that must hear of the end of the connection before.
        if any(frame.startswith(WELCOME) for frame in frames):
            while events := self._sub.monitor.drain_nowait():
                self._sub_events(events)
        if frames and self._listener is not None:
            self._listener.proxy_frames(self.endpoint, frames)
        return socket.drained

    def _read_single(self, socket: Socket) -> list[bytes]:
        before = socket.multiparts
        frames = socket.receive_single_nowait()
        if self._listener is not None:
            for _ in range(socket.multiparts - before):
                self._listener.dropped(Drop.MULTIPART, socket.name)
        return frames

    async def _read_sub_monitor(self) -> None:
        while True:
            self._sub_events(await self._sub.monitor.receive_many())

    def _sub_events(self, events: Sequence[MonitorEvent]) -> None:
        for event in events:
            if event.event & _ENDED:
                self._silent = True
                self._ended.set()
            elif event.event & _TRYING:
                self._silent = False
            if self._listener is not None:
                self._listener.observed(event)
                if event.event is SocketEvent.DISCONNECTED:
                    self._listener.proxy_down(self.endpoint)

    async def _revive(self) -> None:
        """Connect `proxySub` anew when libzmq has given it up, which it does after an error of the protocol."""
        while True:
            await self._ended.wait()
            self._ended = anyio.Event()
            if not self._sub.socket.closed:
                await anyio.sleep(self._config.zombie_after)
            if self._sub.socket.closed:
                return
            if self._silent:
                self._silent = False
                self.reconnect()

    async def _read_pub(self) -> None:
        socket = self._pub.socket
        while True:
            await anyio.lowlevel.checkpoint()
            for frame in self._read_single(socket):
                if frame[:1] == b"\x01" and ANNOUNCE.startswith(frame[1:]) and self._listener is not None:
                    self._listener.relay_up(self.endpoint)
            if socket.drained:
                await socket.wait()

    async def _read_pub_monitor(self) -> None:
        while True:
            for event in await self._pub.monitor.receive_many():
                if self._listener is not None:
                    self._listener.observed(event)
                    if event.event is SocketEvent.DISCONNECTED:
                        self._listener.relay_down(self.endpoint)

    def follow(self, relay: Endpoint) -> None:
        """Disconnect `proxyPub` from where it was, if anywhere, and connect it to ``relay``."""
        socket = self._pub.socket
        if socket.closed:
            return
        if self._relay:
            disconnect(socket.zmq, self._relay)
            # Subscriptions of the old connection would pass for those of the new one.
            while socket.receive_single_nowait():
                pass
        self._relay = ""
        try:
            connect(socket.zmq, relay)
        except InvalidEndpoint as error:
            if self._listener is not None:
                self._listener.dropped(Drop.REFUSED_ENDPOINT, str(error))
        else:
            self._relay = relay
        # We may have read what the reader waits for.
        socket.wake()

    def reconnect(self) -> None:
        """Connect `proxySub` anew; nobody is told that the former connection ended."""
        socket = self._sub.socket
        if not socket.closed:
            disconnect(socket.zmq, self.endpoint)
            connect(socket.zmq, self.endpoint)

    def send(self, frame: bytes) -> None:
        """Publish one discovery message through `proxyPub`; libzmq drops it while nobody subscribed."""
        socket = self._pub.socket
        if not socket.closed and not socket.send_nowait(frame) and self._listener is not None:
            self._listener.dropped(Drop.SEND_QUEUE_FULL, self.endpoint)

    def close(self) -> None:
        """Close both sockets and their monitors, and end `run`. Idempotent.

        What was sent goes on leaving for the linger time; ``sockets.terminate`` waits for it.
        """
        self._sub.close(0)
        self._pub.close(milliseconds(self._config.linger))
        self._ended.set()


def bindable(host: str, port: int = 0) -> Endpoint:
    """What to bind to for a host and a port; 0 is any."""
    bracketed = f"[{host}]" if ":" in host else host
    return f"tcp://{bracketed}:{port or '*'}"


def _tell_link(listener: DataListener, event: MonitorEvent) -> None:
    if event.event is SocketEvent.HANDSHAKE_SUCCEEDED:
        listener.link_up(event.endpoint)
    elif event.event & _ENDED:
        listener.link_down(event.endpoint)
    elif event.event is SocketEvent.CONNECT_RETRIED:
        listener.link_retried(event.endpoint)
    elif event.event & _REJECTED:
        listener.link_rejected(event.endpoint)


@define
class _Drain:
    """One connection of `dataSub` that is being taken down."""

    sender: bytes
    heard: float
    """When the last frame that may be of the sender was read, or else when the drain began."""
    end: float
    """When it ends at the latest."""
    others: int = 0
    """Consecutive frames, up to the last one read, that cannot be of the sender."""

    def count(self, frames: Sequence[bytes], now: float) -> None:
        for frame in frames:
            if self._may_be_of_sender(frame):
                self.others = 0
                self.heard = now
            else:
                self.others += 1

    def _may_be_of_sender(self, frame: bytes) -> bool:
        """Whether nothing speaks against it: our header names the sender, a classic peer has none."""
        at = frame.find(MAGIC, 0, _HEADER_WITHIN)
        return at < 0 or (self.sender != b"" and frame.startswith(self.sender, at + len(MAGIC)))


class _Reader(Lead):
    """Reads `dataSub`: in a task of its own, or in that of a user who waits for a message, and is not woken then.

    Rule: only one of them reads at a time. When the user goes, for whatever reason, the task goes on.
    """

    def __init__(self, channel: ZmqDataChannel) -> None:
        self._channel = channel
        self._is_done = False
        """Whether the last read has found that there was no more."""
        self._leads = False
        self._owes_turn = False
        """Whether the task must read before a user may again: who is cancelled again and again never comes to it."""
        self._left = anyio.Event()
        self._error: Exception | None = None

    async def run(self) -> None:
        """Read while nobody else does.

        Raises:
            ClosedError: If the socket is, or gets, closed.
        """
        while True:
            while self._leads:
                self._left = anyio.Event()
                await self._left.wait()
            if self._error is not None:
                raise self._error
            await self._step(lambda: not self._leads)
            self._owes_turn = False

    async def _step(self, may_read: Callable[[], bool]) -> None:
        # Never twice without letting others run.
        if self._is_done:
            await self._channel._wait_sub()
        else:
            await anyio.lowlevel.checkpoint()
        if may_read():
            self._is_done = self._channel._read_sub_once()

    @property
    def is_free(self) -> bool:
        channel = self._channel
        socket = channel._sub.socket
        is_idle = channel._listener is not None and not socket.closed and self._error is None
        return is_idle and not (self._leads or self._owes_turn or socket.is_waited_for or channel._drains)

    async def read(self, has_come: Callable[[], bool]) -> None:
        self._leads = True
        try:
            while not has_come() and not self._channel._drains:
                await self._step(lambda: True)
        except ClosedError:
            pass  # the task finds it, too
        except Exception as error:  # noqa: BLE001  it is no matter of the user
            self._error = error
        except BaseException:
            self._owes_turn = True
            raise
        finally:
            self._leads = False
            self._left.set()

    def wake(self) -> None:
        if self._channel._sub.socket.is_waited_for:
            self._channel._sub.socket.wake()


class ZmqDataChannel(DataChannel):
    """`dataPub` and `dataSub` of a peer.

    Args:
        context: The context of the peer.
        bind_endpoint: Where `dataPub` is bound; its port may be a wildcard.
        config: The numbers of the peer.

    Raises:
        BindError: If `dataPub` cannot be bound.
        SocketLimitError: If libzmq has no sockets or descriptors left.
    """

    def __init__(self, context: ZmqContext, bind_endpoint: Endpoint, config: PeerConfig) -> None:
        self._config = config
        self._listener: DataListener | None = None
        self._connected: set[Endpoint] = set()
        self._down: set[Endpoint] = set()
        """Those whose connection has ended, or did not come about, since it was last tried."""
        self._drains: dict[Endpoint, _Drain] = {}
        self._left: Sequence[bytes] = ()
        """Frames that were read and not told yet."""
        self._at_once = 0
        """How many were read since there were none before."""
        self._credit = BATCH
        """Messages that may be told: as many in each turn as a reader takes in one."""
        self._waits = config.overflow is Overflow.WAIT
        self._hwm = data_send_hwm(config)
        self._turns = Turns("peer")
        self._handshakes = Handshakes()
        self._loop = asyncio_loop()
        self._published = Arrival()
        self._looks_again = False
        self._is_telling = False
        """Whether frames that were read are being told; what is sent meanwhile, answers, is looked after at the end."""
        self._has_answered = False
        self._reader = _Reader(self)
        if self._loop is None:
            self.lead = self._reader
        self._pub = _Watched(data_pub(context, config), "dataPub")
        try:
            self._bind(bind_endpoint)
            self._sub = _Watched(data_sub(context, config), "dataSub")
        except BaseException:
            self._pub.close(0)
            raise
        self.publish = self._publish_or_wait if self._waits else self._pub.socket.post

    async def run(self, listener: DataListener) -> None:
        """Tell ``listener`` what happens until cancelled, or until `aclose`.

        Cancellation: safe, at any time; the sockets stay open until `aclose`.
        """
        self._listener = listener
        try:
            await run_readers(
                self._reader.run,
                self._read_sub_monitor,
                self._read_pub,
                self._read_pub_monitor,
                self._try_again,
                *([self._keep_looking] if self._loop is None else []),
            )
        finally:
            self._listener = None

    def _read_sub_once(self) -> bool:
        """Read some frames and tell them; returns whether no more were there."""
        socket = self._sub.socket
        self._credit = min(BATCH, self._credit + BATCH)
        if self._left:
            self._tell_frames(self._left)
            if self._left:
                return False
        now = current_time() if self._drains else 0.0
        # Decided before the read: what it finds, or does not find, counts for these only.
        ripe = [endpoint for endpoint in self._drains if self._ripe_at(endpoint) <= now]
        # Whoever waits for a single message gets it before we see that no more follow, which takes as long.
        was_drained = socket.drained
        is_single = was_drained and self._at_once <= 1
        frames = socket.receive_nowait(1 if is_single else BATCH)
        if is_single and frames and is_control(frames[0]):
            # Nobody waits for that, and another turn would cost more than all that it says.
            frames += socket.receive_nowait()
        self._at_once = len(frames) if was_drained else self._at_once + len(frames)
        for endpoint, drain in self._drains.items():
            drain.count(frames, now)
            drain.others *= endpoint in ripe
        self._tell_frames(frames)
        is_done = socket.drained and not self._left
        for endpoint in ripe:
            self._settle(endpoint, is_done, now)
        return is_done

    def _tell_frames(self, frames: Sequence[bytes]) -> None:
        """Tell as many as there is credit for; a frame with more messages than that is paid for later."""
        self._left = ()
        if frames and self._listener is not None:
            # What the end of a connection waits for is told at once.
            most = self._credit if not self._drains else sys.maxsize
            self._is_telling = True
            try:
                taken, messages = self._listener.data_frames(frames, most) if most > 0 else (0, 0)
            finally:
                self._is_telling = False
                self._look_after_answers()
            self._left = frames[taken:]
            self._credit -= messages

    def _look_after_answers(self) -> None:
        if self._has_answered:
            self._has_answered = False
            self._pub.socket.posted()

    async def _wait_sub(self) -> None:
        if not self._drains:
            await self._sub.socket.wait(self._read_sub_once if self._loop is not None else None)
            return
        with anyio.CancelScope(deadline=min(map(self._ripe_at, self._drains))):
            await self._sub.socket.wait()

    def _ripe_at(self, endpoint: Endpoint) -> float:
        """From when on nothing more comes from there if the queue is found empty.

        As long as the connection is up, an empty queue proves nothing: the I/O thread may have
        more to put into it. It reports the end of a connection after the last frame. We do not
        wait for that for ever, since a peer that hangs, or lives, does not end its connection.
        """
        if endpoint not in self._connected or endpoint in self._down:
            return float("-inf")
        drain = self._drains[endpoint]
        return min(drain.heard + self._config.zombie_after, drain.end)

    def _settle(self, endpoint: Endpoint, drained: bool, now: float) -> None:
        """Take the connection down if nothing of it is left to read."""
        drain = self._drains.get(endpoint)
        if drain is None or self._sub.socket.closed:
            return
        # The socket takes from its connections in turn: so many frames, and each had its turn.
        is_empty = drained or drain.others > len(self._connected) or endpoint not in self._connected
        if is_empty or now >= drain.end:
            del self._drains[endpoint]
            self.disconnect(endpoint)
            if self._listener is not None:
                self._listener.drained(endpoint)

    async def _read_sub_monitor(self) -> None:
        while True:
            for event in await self._sub.monitor.receive_many():
                # Events of a connection that we took down may still be on their way.
                is_ours = event.endpoint in self._connected
                if is_ours:
                    self._note_link(event)
                if self._listener is not None:
                    # No attempt follows any more what such an event says of one to come.
                    if is_ours or event.event is not SocketEvent.CONNECT_RETRIED:
                        self._listener.observed(event)
                    if is_ours:
                        _tell_link(self._listener, event)

    def _note_link(self, event: MonitorEvent) -> None:
        if event.event & _ENDED:
            self._down.add(event.endpoint)
            if event.endpoint in self._drains:
                self._sub.socket.wake()
        elif event.event is SocketEvent.CONNECTED:
            self._down.discard(event.endpoint)

    async def _read_pub(self) -> None:
        # As promptly as `dataSub`: a link message names a subscription that must have been read by then.
        await self._pub.socket.keep_reading(self._read_pub_once)

    def _read_pub_once(self) -> bool:
        """Read some subscriptions and tell them; returns whether no more were there."""
        socket = self._pub.socket
        before = socket.multiparts
        frames = socket.receive_origins_nowait()
        if self._listener is not None:
            for _ in range(socket.multiparts - before):
                self._listener.dropped(Drop.MALFORMED_SUBSCRIPTION, "multipart")
            self._tell_subscriptions(self._listener, frames)
        # What woke us may have been room in a queue, or the end of a connection.
        self._turns.start()
        return socket.drained

    def _tell_subscriptions(self, listener: DataListener, frames: Sequence[zmq.Frame]) -> None:
        for frame in frames:
            raw = frame.bytes
            head, topic = raw[:1], raw[1:]
            if head == b"\x01":
                self._note_origin(frame, topic)
                listener.subscribed(topic)
            elif head == b"\x00":
                listener.unsubscribed(topic)
            else:
                listener.dropped(Drop.MALFORMED_SUBSCRIPTION, f"{len(raw)} bytes")

    def _note_origin(self, frame: zmq.Frame, topic: bytes) -> None:
        peer = inbox_owner(topic)
        fd = None if peer is None else source_fd(frame)
        if peer is not None and fd is not None:
            while events := self._pub.monitor.drain_nowait():
                self._pub_events(events)
            self._accepted.note(fd, peer)

    async def _try_again(self) -> None:
        while self._waits:
            await self._turns.wanted()
            await anyio.sleep(_TRY_AGAIN)
            self._pub.socket.wake()  # the reader takes in what is new, then begins a round

    async def _read_pub_monitor(self) -> None:
        while True:
            self._pub_events(await self._pub.monitor.receive_many())

    def _pub_events(self, events: Sequence[MonitorEvent]) -> None:
        for event in events:
            has_failed = self._handshakes.is_failure(event)
            if event.event is SocketEvent.ACCEPTED:
                self._accepted.accepted(event.value)
            elif event.event is SocketEvent.DISCONNECTED:
                self._accepted.ended(event.value)
            if self._listener is not None:
                self._listener.observed(event)
                if has_failed:
                    self._listener.dropped(Drop.FAILED_HANDSHAKE, self._pub.socket.name)

    def _bind(self, endpoint: Endpoint) -> None:
        self.endpoint = bind(self._pub.socket.zmq, endpoint)
        self._accepted = Accepted(parse(self.endpoint).port)

    def rebind(self, host: str) -> None:
        """Let `dataPub` listen at another address of this machine, at the same port if that is free there.

        Raises:
            BindError: If the address cannot be bound; then nothing has changed.
            ClosedError: If the channel is closed.
        """
        if self._pub.socket.closed:
            raise ClosedError(self._pub.socket.name)
        was = self.endpoint
        try:
            self._bind(bindable(host, parse(was).port))
        except BindError:
            self._bind(bindable(host))
        # Ends what came in there, too.
        unbind(self._pub.socket.zmq, was)

    def connect(self, endpoint: Endpoint) -> None:
        """Connect `dataSub`; nothing happens if it is connected there already."""
        if self._sub.socket.closed or endpoint in self._connected:
            return
        try:
            connect(self._sub.socket.zmq, endpoint)
        except InvalidEndpoint as error:
            if self._listener is not None:
                self._listener.dropped(Drop.REFUSED_ENDPOINT, str(error))
        else:
            self._connected.add(endpoint)

    def disconnect(self, endpoint: Endpoint) -> None:
        """Disconnect `dataSub` at once; what was not read is lost. Nothing happens if it is not connected there."""
        if endpoint in self._connected and not self._sub.socket.closed:
            self._connected.remove(endpoint)
            self._down.discard(endpoint)
            # libzmq's I/O thread answers, which wakes our reader; its next read ends the disconnect.
            disconnect(self._sub.socket.zmq, endpoint)

    def drain(self, endpoint: Endpoint, sender: bytes) -> None:
        """Tell what the peer had sent, disconnect in the step that found no more, tell `drained`.

        ``sender`` stands in each frame of the peer; empty means a classic peer, whose frames
        carry no name. As long as the connection is up it may be that the queue is empty and more
        comes: then ``zombie_after`` without a frame of the peer, or ``suspect_timeout`` in all,
        must have passed, too.
        """
        if endpoint not in self._drains:
            now = current_time()
            self._drains[endpoint] = _Drain(sender, heard=now, end=now + self._config.suspect_timeout)
            self._sub.socket.wake()

    def subscribe(self, topic: bytes) -> None:
        """Subscribe `dataSub` to a prefix. The caller counts users: call once for each prefix."""
        if not self._sub.socket.closed:
            self._sub.socket.zmq.setsockopt(zmq.SUBSCRIBE, topic)

    def unsubscribe(self, topic: bytes) -> None:
        """Take the subscription of a prefix back."""
        if not self._sub.socket.closed:
            self._sub.socket.zmq.setsockopt(zmq.UNSUBSCRIBE, topic)

    def send(self, frame: bytes) -> None:
        """Publish a control frame. Never waits: libzmq drops it for a subscriber whose queue is full.

        With ``overflow="wait"`` it finds room where data does not, for as many frames again.
        """
        socket = self._pub.socket
        try:
            if not socket.post(frame):
                self._send_past_full_queues(frame)
        except ClosedError:
            return
        if self._is_telling:
            self._has_answered = True
        else:
            socket.sent()

    def _send_past_full_queues(self, frame: bytes) -> None:
        # Twice the mark, and no other number. The I/O thread reports how much it has read of a
        # queue at each multiple of half the mark that it was told last. Whatever falls into this
        # moment, each multiple of the (even) mark is reported: else a queue that was read to its
        # end in between could pass for full for ever.
        socket = self._pub.socket
        socket.zmq.setsockopt(zmq.SNDHWM, 2 * self._hwm)
        if not socket.post(frame):
            # Somebody has read nothing for so long that this room is full, too. Rule 4 is broken for it.
            socket.zmq.setsockopt(zmq.XPUB_NODROP, 0)
            socket.post(frame)
            socket.zmq.setsockopt(zmq.XPUB_NODROP, 1)
        socket.zmq.setsockopt(zmq.SNDHWM, self._hwm)

    def _publish_or_wait(self, frame: bytes) -> bool:
        socket = self._pub.socket
        if not socket.post(frame):
            if self._turns:
                return False  # those who came before try first, in the next round
            socket.catch_up()
            if not socket.post(frame):
                return False
        if self._turns:
            self._turns.start()
        return True

    def published(self) -> None:
        """Something was published, which may have swallowed an edge of the descriptor: look after that soon."""
        if not self._looks_again:
            self._looks_again = True
            if self._loop is not None:
                self._loop.call_later(_LOOK_AGAIN, self._look_again)
            else:
                self._published.tell()

    async def _keep_looking(self) -> None:
        # Only where the event loop has no timers for callbacks.
        while not self._pub.socket.closed:
            if not self._looks_again:
                await self._published.wait()
            await anyio.sleep(_LOOK_AGAIN)
            self._look_again()

    def _look_again(self) -> None:
        self._looks_again = False
        self._pub.socket.posted()

    async def writable(self) -> None:
        """Wait until `publish` is worth another try, in the order of coming; call it in the step in which this returns.

        Raises:
            ClosedError: If the channel is, or gets, closed.

        Cancellation: safe; who comes next does not wait longer.
        """
        await self._turns.wait()

    def rouse(self) -> None:
        """Let all who wait in `writable` return now, one after the other."""
        self._turns.start()

    def shut(self, peer: bytes) -> None:
        """End the connections of those who subscribed to the inbox of this peer (16 bytes), where that is possible.

        What waits there is lost, and nobody waits for it any more. The peer may connect again.
        """
        self._accepted.shut(peer)

    async def probe(self, endpoint: Endpoint) -> Probe:
        """Try a plain TCP connection to a numeric endpoint; any other is undecided.

        Cancellation: safe; the connection is closed.
        """
        return await probe(endpoint, self._config.probe_timeout)

    async def aclose(self) -> None:
        """Close both sockets and their monitors, and end `run`. Idempotent.

        What was sent goes on leaving for the linger time; ``sockets.terminate`` waits for it.

        Cancellation: the channel is closed all the same.
        """
        self._sub.close(0)
        self._pub.close(milliseconds(self._config.linger))
        self._turns.close()
        self._published.tell()
        await anyio.lowlevel.checkpoint()
