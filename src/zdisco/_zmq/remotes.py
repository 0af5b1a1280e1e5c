"""The sockets of a gossip node, with their monitors, and those that lead to remotes.

Rule 1: a message is read whole. One of another number of frames than it should have is dropped.

Rule 2: each connection to a remote has a DEALER of its own. What had waited in the queue of the
connection before would be the first thing that the next one hears, before HELLO.

Rule 3: libzmq tells nothing of ``inproc`` connections. One that has ended shows by having no room;
one to an endpoint that nobody has bound yet cannot be taken back, so it is never made anew.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.lowlevel
import zmq
from attrs import define

from .._channels import GossipListener, Sent
from .._core.actions import Drop
from .._core.config import GossipConfig, PeerConfig
from .._core.errors import ClosedError, InvalidEndpoint, SocketLimitError
from .._core.gossip.talk import Link
from .._core.model import Endpoint
from .._loops import current_time
from .accepted import leads_to_itself
from .keys import Security
from .monitor import Monitor, SocketEvent
from .options import gossip_dealer
from .sockets import BATCH, Socket, ZmqContext, ZmqSocket, connect, run_readers

logger = logging.getLogger("zdisco")

_F = TypeVar("_F", bytes, zmq.Frame)

INPROC = "inproc://"
_ENDED = SocketEvent.DISCONNECTED | SocketEvent.CLOSED
_TRYING = SocketEvent.CONNECT_RETRIED | SocketEvent.CONNECT_DELAYED | SocketEvent.CONNECTED
_WATCHED = _ENDED | _TRYING | SocketEvent.HANDSHAKE_SUCCEEDED
_BATCH_SIZE = 1 << 20
"""Bytes after which a reader lets others run; one message may be larger."""
_ZOMBIE_AFTER = PeerConfig().zombie_after


@define(eq=False)
class Common:
    """What all sockets of one gossip node have in common."""

    context: ZmqContext
    config: GossipConfig
    security: Security
    listener: GossipListener | None = None
    """Who is told what happens; ``None`` while nobody is."""

    def tell(self, messages: list[tuple[Link, bytes]], others: int) -> None:
        """Tell what was read at once."""
        if self.listener is None:
            return
        for _ in range(others):
            self.listener.dropped(Drop.MALFORMED_GOSSIP, "not of one frame")
        if messages:
            self.listener.gossip_messages(messages)


class Queue:
    """A socket, and its monitor if it has one."""

    def __init__(self, raw: ZmqSocket, name: str, events: SocketEvent | None) -> None:
        try:
            self.socket = Socket(raw, name)
            self.monitor = None if events is None else Monitor(raw, name, events)
        except BaseException:
            raw.close(0)
            raise

    def send(self, frames: list[bytes]) -> Sent:
        """Send one message. Never waits."""
        sent = self._try_to_send(frames)
        if sent is Sent.FULL:
            # That there is room again libzmq may have heard and not looked at.
            self.socket.catch_up()
            sent = self._try_to_send(frames)
        self.socket.sent()
        return sent

    def _try_to_send(self, frames: list[bytes]) -> Sent:
        try:
            self.socket.zmq.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError:  # EHOSTUNREACH, or it is closed, which the reader finds, too
            return Sent.UNREACHABLE
        return Sent.SENT

    def close(self, linger: int = 0) -> None:
        """Close both; what was sent goes on leaving for so many milliseconds. Idempotent."""
        if self.monitor is not None:
            self.monitor.close()
        self.socket.close(linger)


def take(receive: Callable[[], list[_F]], frames: int) -> tuple[list[list[_F]], int]:
    """The messages of so many frames that are there, and how many others there were."""
    messages: list[list[_F]] = []
    others = size = 0
    for _ in range(BATCH):
        message = receive()
        if not message:
            break
        if len(message) == frames:
            messages.append(message)
        else:
            others += 1
        size += sum(map(len, message))
        if size >= _BATCH_SIZE:
            break
    return messages, others


class Remote:
    """One remote, and the DEALER of the present connection to it.

    Args:
        common: What all sockets of the node have in common.
        link: Its number.
        endpoint: Where it is bound.
        server_key: Its public key, if it wants CURVE.

    Raises:
        InvalidEndpoint: If libzmq cannot connect to the endpoint.
        SocketLimitError: If there are no sockets or descriptors left.
    """

    def __init__(self, common: Common, link: int, endpoint: Endpoint, server_key: bytes | None) -> None:
        self._common = common
        self._link = link
        self._endpoint = endpoint
        self._server_key = server_key
        self._is_inproc = endpoint.startswith(INPROC)
        self._is_up = False
        self._is_over = False
        self._was_heard = False
        """Whether anything came over the present connection."""
        self._since = 0.0
        """When the present connection was begun, or came up."""
        self._pause = 0.0
        self._scope = anyio.CancelScope()
        self.queue = self._open()
        """That of the present connection."""

    def _open(self) -> Queue:
        common = self._common
        raw = gossip_dealer(common.context, common.config, common.security.keys, self._server_key)
        queue = Queue(raw, "remote", None if self._is_inproc else _WATCHED)
        try:
            connect(raw, self._endpoint)
        except BaseException:
            queue.close()
            raise
        self._was_heard = False
        self._since = current_time()
        return queue

    async def run(self) -> None:
        """Serve one connection after the other, until cancelled or `end`.

        Raises:
            ClosedError: If the context was terminated.
        """
        with self._scope:
            while not self._is_over:
                await run_readers(self._read, self._watch)
                self._lose()
                await self._open_again()

    async def _open_again(self) -> None:
        config, complaint = self._common.config, ""
        while True:
            is_steady = current_time() - self._since >= config.reconnect_interval_max
            longer = config.reconnect_interval if is_steady else max(2 * self._pause, config.reconnect_interval)
            self._pause = min(longer, config.reconnect_interval_max)
            await anyio.sleep(self._pause * random.uniform(1, 2))
            if self._is_over:
                return
            try:
                self.queue = self._open()
            except (SocketLimitError, InvalidEndpoint, zmq.ZMQError) as error:
                if self._common.context.closed or getattr(error, "errno", None) == zmq.ETERM:
                    raise ClosedError("gossip node") from error
                if str(error) != complaint:
                    complaint = str(error)
                    logger.warning("cannot connect to %s: %s", self._endpoint, complaint)
            else:
                return

    async def _read(self) -> None:
        queue = self.queue
        if self._is_inproc:
            self._tell_up()
        while True:
            await anyio.lowlevel.checkpoint()
            self._read_once(queue)
            if queue.socket.drained and not (self._is_inproc and self._has_more(queue.socket)):
                await queue.socket.wait()

    def _read_once(self, queue: Queue) -> None:
        messages, others = take(lambda: queue.socket.receive_nowait(1), 1)
        if messages:
            self._was_heard = True
            if self._is_inproc and not self._is_up:
                self._tell_up()
        self._common.tell([(self._link, message[0]) for message in messages], others)

    def _has_more(self, socket: Socket) -> bool:
        """Whether there is more to read after all; if not, see whether the connection is still there."""
        if socket.closed:  # by what followed from what was read
            return False
        try:
            events = int(socket.zmq.getsockopt(zmq.EVENTS))
        except zmq.ZMQError as error:  # the context was terminated
            raise ClosedError(socket.name) from error
        if not events & (zmq.POLLIN | zmq.POLLOUT):
            self._lose()
        return bool(events & zmq.POLLIN)

    async def _watch(self) -> None:
        queue, monitor = self.queue, self.queue.monitor
        is_silent = False
        while monitor is not None:
            with anyio.move_on_after(_ZOMBIE_AFTER if is_silent else None) as patience:
                for event in await monitor.receive_many():
                    is_silent = bool(event.event & _ENDED) or (is_silent and not event.event & _TRYING)
                    match event.event:
                        case SocketEvent.CONNECTED if leads_to_itself(event.value):
                            self._lose()
                            return
                        case SocketEvent.HANDSHAKE_SUCCEEDED:
                            self._tell_up()
                        case SocketEvent.DISCONNECTED if self._is_up:
                            await self._read_to_end(queue)
                            return
            if patience.cancelled_caught:
                # libzmq has given it up, which it does after an error of the protocol.
                self._lose()

    async def _read_to_end(self, queue: Queue) -> None:
        """Tell what the remote had sent, then that it is gone."""
        while True:
            self._read_once(queue)
            if queue.socket.drained:
                break
            await anyio.lowlevel.checkpoint()
        self._lose()

    def _tell_up(self) -> None:
        if self._is_over:  # a reader that has not started yet comes as far as here before it is cancelled
            return
        self._is_up = True
        self._since = current_time()
        if self._common.listener is not None:
            self._common.listener.remote_up(self._link)

    def _tell_down(self) -> None:
        was_up, self._is_up = self._is_up, False
        if was_up and self._common.listener is not None:
            self._common.listener.remote_down(self._link)

    def _lose(self) -> None:
        """Throw the connection away, with what waits in it; `run` makes a new one."""
        self.queue.close()
        self._tell_down()

    def reconnect(self) -> None:
        """Throw the connection away, and make a new one."""
        if self._is_inproc and not self._was_heard:
            # What was said waits for whoever binds the endpoint. His answer will tell that it is bound.
            self._tell_down()
        else:
            self._lose()

    def end(self) -> None:
        """End `run`, and tell nothing any more; the queue is closed by the caller."""
        self._is_over = True
        self._scope.cancel()
