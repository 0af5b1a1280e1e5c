"""Child processes for tests: `child.py` started, told, watched and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

LIMIT = 120.0
"""Seconds after which a child that does not tell something never will."""
CHILD = Path(__file__).with_name("child.py")


class Child:
    """A peer in a process of its own."""

    def __init__(self, proxy: str, *arguments: str, inside: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*inside, sys.executable, str(CHILD), proxy, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.facts.append(json.loads(line))

    def order(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def told(self, what: str, **matching: object) -> list[dict[str, Any]]:
        """The facts of this kind so far."""
        return [
            fact
            for fact in tuple(self.facts)
            if fact["what"] == what and all(fact.get(key) == value for key, value in matching.items())
        ]

    async def wait_for(self, what: str, count: int = 1, **matching: object) -> list[dict[str, Any]]:
        """Wait until the child has told that often of something."""
        with anyio.move_on_after(LIMIT):
            await until(lambda: len(self.told(what, **matching)) >= count or self.process.poll() is not None)
        facts = self.told(what, **matching)
        state = "runs" if self.process.poll() is None else "ended"
        assert len(facts) >= count, f"the child {state}; it told {what} {len(facts)} times, last {self.facts[-20:]}"
        return facts

    async def size(self) -> int:
        """The most memory that it ever had, in KiB; it answers in a step of its event loop."""
        seen = len(self.told("size"))
        self.order("size")
        return int((await self.wait_for("size", seen + 1))[-1]["kib"])

    async def endpoint(self) -> str:
        return str((await self.wait_for("ready"))[0]["endpoint"])

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def cpu_ticks(self) -> int:
        """The processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def sleeps(self) -> bool:
        """Whether none of its threads runs, or would if there were a processor for it."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(thread.read_text().rpartition(")")[2].split()[0] == "S" for thread in threads)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdout.close()
        with suppress(BrokenPipeError):
            self.process.stdin.close()


@asynccontextmanager
async def children(proxy: str, *arguments: tuple[str, ...]) -> AsyncIterator[list[Child]]:
    """Start one child for each tuple of arguments; whatever happens, none is left."""
    started = [Child(proxy, *own) for own in arguments]
    try:
        yield started
    finally:
        for child in started:
            child.close()


async def until(holds: Callable[[], bool], *, pause: float = 0.005) -> None:
    """Look again and again until something holds."""
    while not holds():
        await anyio.sleep(pause)
