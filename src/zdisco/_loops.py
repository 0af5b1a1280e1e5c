"""What asyncio and trio do differently, beyond anyio.

Rule: asyncio is looked up, not imported: a program on trio need not load it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    import asyncio


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The running event loop of asyncio, uvloop too; ``None`` on trio."""
    module = sys.modules.get("asyncio")
    try:
        native = anyio.lowlevel.current_token().native_token
    except anyio.NoEventLoopError:
        # A callback of asyncio runs in no task, which is all that anyio looks at.
        native = _running_loop()
        if native is None:
            raise
    return native if module is not None and isinstance(native, module.AbstractEventLoop) else None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    module = sys.modules.get("asyncio")
    return None if module is None else module._get_running_loop()


def runs_in(token: anyio.lowlevel.EventLoopToken) -> bool:
    """Whether the event loop with this token is the one that runs, in a task or in a callback."""
    if _running_loop() is token.native_token:
        return True
    try:
        return anyio.lowlevel.current_token() == token
    except anyio.NoEventLoopError:
        return False


def current_time() -> float:
    """The time of the event loop that runs, in a task or in a callback."""
    try:
        return anyio.current_time()
    except anyio.NoEventLoopError:
        loop = _running_loop()
        if loop is None:
            raise
        return loop.time()


def clock() -> Callable[[], float]:
    """What tells the time of the event loop that runs now, for who asks often."""
    loop = asyncio_loop()
    return anyio.current_time if loop is None else loop.time


def soon() -> Callable[[Callable[[], object]], object]:
    """What calls a function in the next turn of the event loop that runs now."""
    loop = asyncio_loop()
    if loop is not None:
        return loop.call_soon
    return partial(_run_soon, anyio.lowlevel.current_token().native_token)


def threadsafe() -> Callable[[Callable[[], object]], object]:
    """What calls a function, from any thread, in the event loop that runs now. Nothing happens if that has ended."""
    loop = asyncio_loop()
    token: Any = anyio.lowlevel.current_token().native_token
    call = loop.call_soon_threadsafe if loop is not None else token.run_sync_soon

    def call_there(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):
            call(function)

    return call_there


def _run_soon(trio_token: Any, function: Callable[[], object]) -> None:
    trio_token.run_sync_soon(function, idempotent=True)


class Arrival:
    """Something that tasks wait for again and again, in one event loop."""

    __slots__ = ("_events", "_futures", "_loop")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        # A future is all that an event of asyncio has inside, and is awaited in half the time.
        self._futures: list[asyncio.Future[None]] = []
        self._events: list[anyio.Event] = []

    async def wait(self) -> None:
        """Wait until `tell` is called. Cancellation: safe."""
        if self._loop is None:
            self._loop = asyncio_loop()
            if self._loop is None:
                await self._wait_for_event()
                return
        future = self._loop.create_future()
        self._futures.append(future)
        try:
            await future
        finally:
            if future in self._futures:
                self._futures.remove(future)

    async def _wait_for_event(self) -> None:
        event = anyio.Event()
        self._events.append(event)
        try:
            await event.wait()
        finally:
            if event in self._events:
                self._events.remove(event)

    def tell(self) -> None:
        """Let all who wait go on."""
        if self._futures:
            futures, self._futures = self._futures, []
            for future in futures:
                if not future.done():
                    future.set_result(None)
        elif self._events:
            events, self._events = self._events, []
            for event in events:
                event.set()


def callback_context() -> Context:
    """A context in which a callback of asyncio may use anyio, which looks for a task, or for what sniffio was told."""
    context = copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context


async def outlast(event: anyio.Event) -> None:
    """Wait for an event that is sure to come.

    Cancellation: waits to the end all the same, then is cancelled. A shield alone does not hold
    against asyncio's own ``Task.cancel``.
    """
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except anyio.get_cancelled_exc_class() as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
