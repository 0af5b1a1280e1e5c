"""What asyncio and trio do differently, beyond anyio.

Rule: asyncio is looked up, not imported: a program on trio need not load it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
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
        native = _loop_of_callback()
        if native is None:
            raise
    return native if module is not None and isinstance(native, module.AbstractEventLoop) else None


def _loop_of_callback() -> asyncio.AbstractEventLoop | None:
    module = sys.modules.get("asyncio")
    try:
        return None if module is None else module.get_running_loop()
    except RuntimeError:
        return None


def runs_in(token: anyio.lowlevel.EventLoopToken) -> bool:
    """Whether the event loop with this token is the one that runs, in a task or in a callback."""
    try:
        return anyio.lowlevel.current_token() == token
    except anyio.NoEventLoopError:
        return _loop_of_callback() is token.native_token


def current_time() -> float:
    """The time of the event loop that runs, in a task or in a callback."""
    try:
        return anyio.current_time()
    except anyio.NoEventLoopError:
        loop = _loop_of_callback()
        if loop is None:
            raise
        return loop.time()


def call_soon(function: Callable[[], object]) -> None:
    """Call a function in the next turn of the event loop."""
    loop = asyncio_loop()
    if loop is not None:
        loop.call_soon(function)
    else:
        _run_soon(anyio.lowlevel.current_token().native_token, function)


def _run_soon(trio_token: Any, function: Callable[[], object]) -> None:
    trio_token.run_sync_soon(function, idempotent=True)


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
