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
    native = anyio.lowlevel.current_token().native_token
    module = sys.modules.get("asyncio")
    return native if module is not None and isinstance(native, module.AbstractEventLoop) else None


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
