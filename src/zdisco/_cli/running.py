"""How a command runs and ends.

Rule 1: the first SIGINT or SIGTERM ends the work and leaves in order; the second one does not wait.

Rule 2: what the user did wrong ends with exit code 2, what the network did wrong with 1, both in one line. What a
signal ended before it was done ends with 128 and its number, as a shell tells it of any program.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import TextIOWrapper
from types import TracebackType
from typing import TypeVar

import anyio
import click

from .. import DiscoveryTimeout, ZdiscoError

T = TypeVar("T")

INTERRUPTED = 128
"""Plus the number of a signal: the exit code after that signal."""


class Work:
    """What a signal ends: to be entered once, around what the command does."""

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self.signal: signal.Signals | None = None
        """What ended it."""

    def end(self, number: signal.Signals) -> None:
        """Cancel what runs inside."""
        self.signal = number
        self._scope.cancel()

    def finish(self) -> None:
        """Go on only if the work was done.

        Raises:
            click.exceptions.Exit: If a signal ended it.
        """
        if self.signal is not None:
            raise click.exceptions.Exit(INTERRUPTED + self.signal)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return bool(self._scope.__exit__(kind, error, trace))


@asynccontextmanager
async def until_signalled(*others: signal.Signals) -> AsyncIterator[Work]:
    """Give the work that the first SIGINT, SIGTERM, or other signal ends."""
    work = Work()
    async with anyio.create_task_group() as tasks:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *others) as signals:

            async def watch() -> None:
                async for number in signals:
                    if work.signal is not None:
                        tasks.cancel_scope.cancel()
                    work.end(number)

            tasks.start_soon(watch)
            yield work
            tasks.cancel_scope.cancel()


@contextmanager
def usage() -> Iterator[None]:
    """Turn what the library says of bad arguments into a usage error."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def escape_what_cannot_be_shown() -> None:
    """Let standard output take any text: what others call themselves, or a file, must not end us on a poor terminal."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def run(command: Callable[[], Awaitable[T]], backend: str = "asyncio") -> T:
    """Run the coroutine of a command.

    Raises:
        click.ClickException: Instead of an error of zdisco.
    """
    if importlib.util.find_spec(backend) is None:
        raise click.UsageError(f"{backend} is not installed")
    escape_what_cannot_be_shown()
    try:
        return anyio.run(command, backend=backend)
    except (ZdiscoError, BaseExceptionGroup) as group:
        error = _only(group)
        if isinstance(error, ZdiscoError):
            raise click.ClickException(_explained(error)) from group
        raise error from None


def _explained(error: ZdiscoError) -> str:
    """What to say of an error, and what to do about it where the command line can tell."""
    if isinstance(error, DiscoveryTimeout) and not any(proxy.relay for proxy in error.proxies):
        return f'{error}. Is a proxy running there? "zdisco proxy --bind ENDPOINT" starts one.'
    return str(error)


def _only(error: BaseException) -> BaseException:
    """What a task group wrapped, if it is one error only."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
