"""The processes of the demo: started, read, and ended by their pid whatever happens."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from subprocess import PIPE, STDOUT
from typing import Self

import anyio
import anyio.abc
from anyio.streams.text import TextReceiveStream
from attrs import define, field, frozen

_STAMPED = re.compile(r"(\d\d:\d\d:\d\d\.\d{6})\t(.*)", re.DOTALL)


@frozen
class Line:
    """One line that a process printed."""

    text: str
    """Without the time."""
    at: datetime
    """When it was printed, by the process's own account."""

    @classmethod
    def parse(cls, raw: str) -> Self:
        """Read a line; one without a time gets that of its arrival."""
        now = datetime.now()
        if not (match := _STAMPED.fullmatch(raw)):
            return cls(raw, now)
        at = datetime.combine(now.date(), datetime.strptime(match[1], "%H:%M:%S.%f").time())
        # Printed just before midnight, read just after it.
        return cls(match[2], at - timedelta(days=1) if at > now + timedelta(hours=12) else at)

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S.%f}  {self.text}"


class Missing(Exception):
    """Something did not happen in time."""


@define(eq=False)
class Child:
    """One ``zdisco`` process and what it has printed so far."""

    name: str
    process: anyio.abc.Process
    lines: list[Line] = field(factory=list)
    _printed: anyio.Event = field(factory=anyio.Event)
    _is_read: bool = False

    async def read(self) -> None:
        """Keep what it prints, until it ends."""
        assert self.process.stdout is not None
        rest = ""
        # Closed under our hands where the block ends before the process does.
        with suppress(anyio.ClosedResourceError):
            async for text in TextReceiveStream(self.process.stdout, errors="replace"):
                *complete, rest = (rest + text).split("\n")
                self.lines += map(Line.parse, complete)
                self._wake()
        self._is_read = True
        self._wake()

    def _wake(self) -> None:
        printed, self._printed = self._printed, anyio.Event()
        printed.set()

    def seen(self, pattern: str, since: datetime | None = None) -> list[Line]:
        """The lines so far that begin with ``pattern``, a regular expression, printed after ``since``."""
        return [line for line in self.lines if re.match(pattern, line.text) and (since is None or line.at >= since)]

    async def wait_for(
        self, pattern: str, count: int = 1, *, since: datetime | None = None, timeout: float = 5.0
    ) -> list[Line]:
        """Wait until so many lines begin with ``pattern``.

        Raises:
            Missing: If they did not come within ``timeout`` seconds, or the process has ended.
        """
        with anyio.move_on_after(timeout):
            while len(self.seen(pattern, since)) < count and not self._is_read:
                await self._printed.wait()
        found = self.seen(pattern, since)
        if len(found) < count:
            when = "before it ended" if self._is_read else f"in {timeout:g} s"
            last = f"; its last line: {self.lines[-1].text}" if self.lines else ""
            raise Missing(f"{self.name} printed {len(found)} of {count} lines like {pattern!r} {when}{last}")
        return found

    def kill(self) -> datetime:
        """End it as ``kill -9`` does; returns when."""
        at = datetime.now()
        self.process.kill()
        return at

    def ask_to_leave(self) -> datetime:
        """Send it a SIGTERM; returns when."""
        at = datetime.now()
        self.process.send_signal(signal.SIGTERM)
        return at

    async def ended(self, timeout: float = 5.0) -> int:
        """Wait for its end; returns its exit code.

        Raises:
            Missing: If it did not end within ``timeout`` seconds.
        """
        with anyio.move_on_after(timeout):
            while not self._is_read:
                await self._printed.wait()
            return await self.process.wait()
        raise Missing(f"{self.name} did not end within {timeout:g} s")


@define(eq=False)
class Nursery:
    """Starts processes."""

    _tasks: anyio.abc.TaskGroup
    _children: list[Child] = field(factory=list)

    async def start(self, name: str, *arguments: str) -> Child:
        """Start ``zdisco`` with these arguments."""
        # A session of its own: Ctrl-C is for us, and we end what we started.
        process = await anyio.open_process(
            [sys.executable, "-m", "zdisco", *arguments], stdout=PIPE, stderr=STDOUT, start_new_session=True
        )
        child = Child(name, process)
        self._children.append(child)
        self._tasks.start_soon(child.read)
        return child

    async def end_all(self) -> None:
        """Kill what still runs, by its pid, and wait for it."""
        for child in self._children:
            if child.process.returncode is None:
                child.process.kill()
        for child in self._children:
            await child.process.aclose()


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """Processes that do not outlive the block."""
    async with anyio.create_task_group() as tasks:
        processes = Nursery(tasks)
        try:
            yield processes
        finally:
            with anyio.CancelScope(shield=True):
                await processes.end_all()
            tasks.cancel_scope.cancel()


def milliseconds(start: datetime, lines: list[Line], pick: Callable[[list[datetime]], datetime] = max) -> str:
    """From ``start`` to the last of ``lines``, as text."""
    return f"{(pick([line.at for line in lines]) - start).total_seconds() * 1000:.0f} ms"
