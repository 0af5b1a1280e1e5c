"""An event loop of asyncio whose clock jumps to the next deadline when nothing else can happen.

Rule 1: the clock jumps only if every callback has run and nothing outside can wake the loop: no
descriptor is watched but the loop's own, and no thread or process works for it.

Rule 2: as long as something outside can wake it, it waits in real time, as any loop does, and
its clock keeps pace. So a test with real sockets is as slow, and as right, as without jumps.

Rule 3: a thread that nobody asked the loop for, and that calls ``call_soon_threadsafe`` one day,
cannot be seen. The clock jumps while it works.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_SLICE = 0.02
"""Seconds after which we look again whether something outside can still wake the loop: a thread ends without a word."""


class JumpingSelector(selectors.DefaultSelector):
    """Waits for descriptors; where a wait would only pass time, it passes it at once.

    Args:
        is_awaited: Whether a thread or a process may wake the loop.
    """

    def __init__(self, is_awaited: Callable[[], bool]) -> None:
        super().__init__()
        self.now = 0.0
        self.own = 0
        """How many descriptors are the loop's own: they bring nothing by themselves."""
        self._is_awaited = is_awaited
        self._looked = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if len(self.get_map()) > self.own or (timeout != 0 and self._is_awaited()):
            ready = super().select(timeout if timeout is None else min(timeout, _SLICE))
            looked = time.monotonic()
            self.now += looked - self._looked
        else:
            # Without a deadline only a signal or a thread of rule 3 can wake us.
            ready = super().select(0 if timeout is not None else None)
            looked = time.monotonic()
            if timeout is not None and not ready:
                self.now += max(0.0, timeout)
        self._looked = looked
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0 and costs nothing."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._jumping = JumpingSelector(self._is_awaited)
        super().__init__(self._jumping)
        self._jumping.own = len(self._jumping.get_map())

    def time(self) -> float:
        """The time of the loop, in seconds."""
        return self._jumping.now

    def _is_awaited(self) -> bool:
        return self._in_flight > 0 or any(self._is_served_by(thread) for thread in threading.enumerate())

    def _is_served_by(self, thread: threading.Thread) -> bool:
        """Whether a thread that asyncio or anyio started has something to report to us."""
        # anyio lists those of its workers that have nothing to do.
        if (idle := getattr(thread, "idle_workers", None)) is not None:
            return getattr(thread, "loop", self) is self and thread not in idle
        # Where asyncio has no descriptor for the end of a process, it waits in a thread.
        return thread.name.startswith(("asyncio-waitpid", "waitpid-"))  # the second in early releases of Python 3.11

    def run_in_executor(self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts) -> asyncio.Future[_T]:
        """Run a function in a thread or process; the clock does not jump until it has returned."""
        future = super().run_in_executor(executor, func, *args)
        self._in_flight += 1
        future.add_done_callback(self._landed)
        return future

    def _landed(self, _: object) -> None:
        self._in_flight -= 1

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """Wait until the threads of the default executor have ended, in real time."""
        self._in_flight += 1
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self._in_flight -= 1
