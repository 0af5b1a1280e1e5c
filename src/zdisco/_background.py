"""One task that runs behind an object from ``async with`` to its end.

Rule: on asyncio the task stands alone, so that the block may be entered in one task and left in
another, as pytest-asyncio does with fixtures. On trio it is a child of the task that entered.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from ._loops import asyncio_loop, outlast

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("zdisco")


class Background:
    """Runs one coroutine function until `stop`.

    Args:
        main: What to run.
        ended: Called if it ended without `stop`: because there is nothing more to do, by a bug of ours,
            or because somebody cancelled a task that is not his; in the latter two cases the block is
            cancelled, too, on trio.
    """

    def __init__(self, main: Callable[[], Awaitable[None]], ended: Callable[[], None]) -> None:
        self._main = main
        self._ended = ended
        self._stops = False
        # Made when it starts: what holds us may be made where no event loop runs.
        self._scope: anyio.CancelScope | None = None
        self._task: asyncio.Task[None] | None = None
        self._group: anyio.abc.TaskGroup | None = None

    async def start(self) -> None:
        """Start it; call `stop` in the end, whatever happens."""
        self._scope = anyio.CancelScope()
        if (loop := asyncio_loop()) is not None:
            self._task = loop.create_task(self._run(self._scope))
            self._task.add_done_callback(self._report_task)
        else:
            # Who cancels the block from outside must not end us before it has said farewell.
            self._scope.shield = True
            self._group = anyio.create_task_group()
            await self._group.__aenter__()
            self._group.start_soon(self._run_and_report, self._scope)

    async def _run(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self._main()

    async def _run_and_report(self, scope: anyio.CancelScope) -> None:
        try:
            await self._run(scope)
        finally:
            if not self._stops:
                self._ended()

    def _report_task(self, task: asyncio.Task[None]) -> None:
        # Nobody else hears of it before the block is left.
        if not self._stops:
            error = None if task.cancelled() else task.exception()
            if error is not None or task.cancelled():
                logger.error("a task of zdisco ended unexpectedly", exc_info=error)
            self._ended()

    async def stop(self) -> None:
        """Cancel it and wait until it has ended; what it raised is raised here.

        Cancellation: waits to the end all the same, so that no task remains.
        """
        self._stops = True
        if self._scope is not None:
            self._scope.cancel()
        if self._group is not None:
            group, self._group = self._group, None
            await group.__aexit__(None, None, None)
        elif self._task is not None:
            task, self._task = self._task, None
            finished = anyio.Event()
            task.add_done_callback(lambda _: finished.set())
            await outlast(finished)
            if not task.cancelled():
                task.result()
