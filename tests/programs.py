"""Programs for tests: started as processes of their own, read line by line, ended whatever happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 20.0
"""Seconds that a program gets for any one thing; a machine under load starts Python slowly."""


class Program:
    """One Python program: ``Program("-m", "zdisco", ...)``. Leaving the block kills it if it still runs."""

    def __init__(self, *arguments: str, inside: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*inside, sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            cwd=ROOT,
            # Unbuffered output would hide that a line was not flushed.
            env={**os.environ, "PYTHONUNBUFFERED": "", "PYTHONWARNINGS": "error"},
            # So that a signal for this one goes to nobody else.
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.errors = ""
        self._printed = threading.Condition()
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._printed:
                self.lines.append(line.rstrip("\n"))
                self._printed.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()
        with self._printed:
            self._printed.notify_all()

    def seen(self, pattern: str) -> list[re.Match[str]]:
        """Where ``pattern`` is found in the lines so far."""
        return [match for line in self.lines if (match := re.search(pattern, line))]

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait until ``pattern`` was found in so many lines; returns where in the last of them."""

        def is_over() -> bool:
            return len(self.seen(pattern)) >= count or not any(reader.is_alive() for reader in self._readers[:1])

        with self._printed:
            self._printed.wait_for(is_over, TIMEOUT)
            found = self.seen(pattern)
        assert len(found) >= count, f"no {pattern!r} in {self.lines}; {self.errors}"
        return found[count - 1]

    def write(self, text: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end_of_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def exit_code(self) -> int:
        """Wait for the end; everything that it printed has been read then."""
        code = self.process.wait(TIMEOUT)
        for reader in self._readers:
            reader.join(TIMEOUT)
        return code

    def leave(self, signal_number: int) -> int:
        """Send it a signal; returns its exit code."""
        self.process.send_signal(signal_number)
        return self.exit_code()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.exit_code()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def zdisco(*arguments: str) -> Program:
    """The command line."""
    return Program("-m", "zdisco", *arguments)
