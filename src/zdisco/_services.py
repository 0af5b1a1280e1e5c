"""What others send to us alone: messages, requests, and the services that answer them.

Rule 1: a request is answered once. What a handler raises goes back to the requester and is
logged; it never ends the serving.

Rule 2: a service is announced when it can answer, and no longer announced before it stops. What
it has not answered by then is answered as failed.

Rule 3: what we do not serve is answered at once. What the network does wrong is counted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from types import TracebackType
from typing import Self, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel
from attrs import define, field

from ._arguments import of_type, payload_bytes
from ._background import Background
from ._core.actions import Drop
from ._core.envelope import ControlFrame, Kind, ReplyBody, RequestBody, Status
from ._core.errors import ClosedError, MalformedMessage
from ._core.model import Message, PeerInfo
from ._requests import Post
from ._streams import TURN, Mailbox, WorkQueue

logger = logging.getLogger("zdisco")

_STOPPED = "it stopped serving before it had answered"
_TOO_MANY = "too many requests wait there"


@define(eq=False)
class Request:
    """What another peer asks of us; it waits until we `reply` or `fail`, or until its timeout."""

    sender: PeerInfo
    payload: bytes
    service: str
    """The service that was asked for; empty if the request is for the peer itself."""
    _number: int = field(repr=False)
    _life: bytes = field(repr=False)
    _services: Services = field(repr=False)
    _is_answered: bool = field(default=False, init=False)

    async def reply(self, payload: bytes) -> None:
        """Send the answer. If the requester is gone meanwhile, nothing happens.

        Raises:
            TypeError: If ``payload`` is not bytes.
            ClosedError: If the request was answered before, or our peer is closed or leaving.

        Cancellation: safe; the answer has been sent, or has not.
        """
        self._services.answer(self, Status.DONE, payload_bytes(payload))

    async def fail(self, reason: str) -> None:
        """Let the requester get `RequestFailed` with this reason. If it is gone meanwhile, nothing happens.

        Raises:
            TypeError: If ``reason`` is not text.
            ClosedError: If the request was answered before, or our peer is closed or leaving.

        Cancellation: safe; the answer has been sent, or has not.
        """
        self._services.answer(self, Status.FAILED, _encoded(of_type("reason", reason, str)))


Handler: TypeAlias = Callable[[Request], Awaitable[bytes]]


class Services:
    """What we serve, and what waits for whoever reads it.

    Args:
        capacity: Messages, and requests, that wait before the oldest go.
        offer: Called with all that is served when that changes.
    """

    def __init__(self, capacity: int, offer: Callable[[frozenset[str]], None]) -> None:
        self.capacity = capacity
        self.inbox: Mailbox[Message] = Mailbox(capacity)
        self.requests: WorkQueue[Request] = WorkQueue(capacity)
        self._offer = offer
        self._served: dict[str, Service] = {}
        self.built_in: Mapping[str, Callable[[], bytes]] = {}
        """What answers without being announced, and without a handler."""
        self._post: Post | None = None
        self._closed = "is not open"

    def open(self, post: Post) -> None:
        self._post = post

    # What is served

    def add(self, service: Service) -> None:
        if service.name in self._served:
            raise ValueError(f"the service {service.name!r} is served by this peer already")
        self._served[service.name] = service

    def remove(self, service: Service) -> None:
        if self._served.get(service.name) is service:
            del self._served[service.name]
            self.announce()

    def announce(self) -> None:
        self._offer(frozenset(self._served))

    def close(self, state: str) -> None:
        """Answer what is open as failed; nothing is answered any more."""
        served, self._served = self._served, {}
        for service in served.values():
            service.interrupt()
        self._post, self._closed = None, state

    def end(self) -> None:
        """End the streams."""
        self.inbox.end()
        self.requests.end()

    # What comes in

    def requested(self, frame: ControlFrame) -> None:
        """A request arrived in our inbox."""
        if self._post is None or (sender := self._sender(self._post, frame)) is None:
            return
        try:
            body = RequestBody.decode(frame.body)
        except MalformedMessage as error:
            self._post.dropped(Drop.MALFORMED_CONTROL, error.reason)
            return
        request = Request(sender, body.payload, body.service, body.number, frame.sender + frame.session, self)
        if not body.service:
            for oldest in self.requests.push(request):
                self.refuse(oldest)
        elif (own := self.built_in.get(body.service)) is not None:
            self.answer(request, Status.DONE, own())
        elif (service := self._served.get(body.service)) is not None:
            service.take(request)
        else:
            self.answer(request, Status.NOT_SERVED, b"")

    def _sender(self, post: Post, frame: ControlFrame) -> PeerInfo | None:
        sender = post.sender(frame.sender + frame.session)
        if sender is None:
            post.dropped(Drop.UNKNOWN_SENDER, frame.sender.hex())
        return sender

    # What goes out

    def refuse(self, request: Request) -> None:
        """There is no room for a request."""
        if self._post is not None:
            self._post.dropped(Drop.STREAM_FULL, f"a request to {request.service!r}")
            self.settle(request, Status.FAILED, _TOO_MANY.encode())

    def is_awaited(self, request: Request) -> bool:
        """Whether the requester is still there."""
        return self._post is not None and self._post.sender(request._life) is not None

    def answer(self, request: Request, status: Status, payload: bytes) -> None:
        if request._is_answered:
            raise ClosedError("request", "was answered before")
        if self._post is None:
            raise ClosedError("peer", self._closed)
        request._is_answered = True
        # A later life of the requester has not asked us.
        if self._post.sender(request._life) is not None:
            self._post.send(request.sender.id, Kind.REPLY, ReplyBody(request._number, status, payload).encode())

    def settle(self, request: Request, status: Status, payload: bytes) -> None:
        """Answer a request if it has not been answered, and if we still answer."""
        if not request._is_answered and self._post is not None:
            self.answer(request, status, payload)


class Service:
    """One service that this peer offers: ``async with`` serves it until the block is left."""

    def __init__(
        self, services: Services, check: Callable[[], object], name: str, handler: Handler, limit: int
    ) -> None:
        self.name = name
        """What it is called."""
        self._services = services
        self._check = check
        self._handler = handler
        self._limit = limit
        self._was_entered = False
        self._is_serving = False
        self._waiting: deque[Request] = deque()
        self._running: set[Request] = set()
        self._workers = 0
        self._idle: list[anyio.Event] = []
        self._tasks: anyio.abc.TaskGroup | None = None
        self._context: Context | None = None
        self._background = Background(self._run, self._close)

    async def __aenter__(self) -> Self:
        """Begin to answer, then announce it.

        Raises:
            ClosedError: If the peer is not open, or is leaving, or this block was entered before.
            ValueError: If the peer serves it already.
            AnnounceTooLarge: If no more fits into the announce of the peer.

        Cancellation: safe; then nothing is served.
        """
        if self._was_entered:
            raise ClosedError("service", "was entered before: serve it anew")
        self._check()
        self._services.add(self)
        self._was_entered = self._is_serving = True
        try:
            await self._background.start()
            self._check()
            self._services.announce()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        self._close()
        await self._background.stop()

    def _close(self) -> None:
        self._services.remove(self)
        self.interrupt()

    def interrupt(self) -> None:
        """Answer all that is open as failed, and cancel the handlers."""
        self._is_serving = False
        for request in (*self._running, *self._waiting):
            self._services.settle(request, Status.FAILED, _STOPPED.encode())
        self._waiting.clear()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    # Work

    def take(self, request: Request) -> None:
        """A request came in."""
        if len(self._waiting) >= self._services.capacity:
            self._services.refuse(request)
            return
        self._waiting.append(request)
        if self._idle:
            self._idle.pop().set()
        elif self._workers < self._limit and self._context is not None:
            self._context.run(self._start_worker)

    async def _run(self) -> None:
        async with anyio.create_task_group() as self._tasks:
            # So that a handler sees the context of whoever serves, not that of whoever read the frame.
            self._context = copy_context()
            for _ in range(min(len(self._waiting), self._limit)):
                self._start_worker()
            try:
                await anyio.sleep_forever()
            finally:
                # However it ends, nobody is to wait for us.
                self._context = None
                self._close()
        # We were interrupted; the block is not left yet.
        await anyio.sleep_forever()

    def _start_worker(self) -> None:
        assert self._tasks is not None
        self._workers += 1
        self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        turn = 0
        while True:
            while self._waiting:
                await self._handle(self._waiting.popleft())
                turn += 1
                if turn >= TURN:
                    turn = 0
                    await anyio.lowlevel.checkpoint()
            arrived = anyio.Event()
            self._idle.append(arrived)
            await arrived.wait()

    async def _handle(self, request: Request) -> None:
        if not self._services.is_awaited(request):
            return
        self._running.add(request)
        try:
            payload = await self._handler(request)
            if not request._is_answered:
                self._services.settle(request, Status.DONE, payload_bytes(payload))
        except anyio.get_cancelled_exc_class():
            self._services.settle(request, Status.FAILED, b"it was cancelled")
            if not self._is_serving:
                raise
            # On asyncio what a handler awaits may be cancelled by others, which is no end of ours.
        except Exception as error:  # whatever a handler raises is the requester's to know
            if self._is_serving:
                logger.error("the service %r failed to answer %s", self.name, request.sender.id, exc_info=error)
            self._services.settle(request, Status.FAILED, _encoded(f"{type(error).__name__}: {error}"))
        except BaseExceptionGroup as group:
            # On trio what the tasks of a handler raise while they are cancelled comes beside the cancellation.
            cancelled, rest = group.split(anyio.get_cancelled_exc_class())
            if cancelled is None or not isinstance(rest, ExceptionGroup):
                raise
            logger.error("the service %r failed while it was cancelled", self.name, exc_info=rest)
            raise cancelled from None
        finally:
            self._running.discard(request)
            self._services.settle(request, Status.FAILED, _STOPPED.encode())


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
