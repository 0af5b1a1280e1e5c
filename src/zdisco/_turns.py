"""Turns: tasks that wait for room try again one after the other, in the order in which they came.

Rule 1: whoever has got a turn tries in the step in which `Turns.wait` returned. The next one's turn is
given in that step, too, so it comes later on every event loop, and no turn is lost with a task
that was cancelled or that no longer wants to try.

Rule 2: in one round everybody who was waiting when it began gets one turn. So whoever fails does not
hold up another who wants something else, and rounds end.
"""

from __future__ import annotations

from collections import deque

import anyio

from ._core.errors import ClosedError


class Turns:
    """Those who wait for a turn.

    Args:
        what: Names in a `ClosedError` what was closed.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._waiting: deque[anyio.Event] = deque()
        self._left = 0
        """How many of them have their turn still to come in this round."""
        self._is_given = False
        """Whether somebody has got a turn and has not run since."""
        self._is_closed = False
        self._wanted: anyio.Event | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self) -> None:
        """Wait for a turn.

        Raises:
            ClosedError: If it is, or gets, closed.

        Cancellation: safe; the turn goes to the next.
        """
        if self._is_closed:
            raise ClosedError(self._what)
        turn = anyio.Event()
        self._waiting.append(turn)
        if self._wanted is not None:
            self._wanted.set()
        try:
            await turn.wait()
        finally:
            if turn.is_set():
                self._is_given = False
                self._give()
            else:
                self._waiting.remove(turn)
        if self._is_closed:
            raise ClosedError(self._what)

    async def wanted(self) -> None:
        """Wait until somebody waits. For one task.

        Raises:
            ClosedError: If it is, or gets, closed.

        Cancellation: safe.
        """
        while not self._waiting:
            if self._is_closed:
                raise ClosedError(self._what)
            self._wanted = anyio.Event()
            await self._wanted.wait()
            self._wanted = None

    def start(self) -> None:
        """Begin a round: it may be worth another try."""
        self._left = len(self._waiting)
        if not self._is_given:
            self._give()

    def _give(self) -> None:
        if self._waiting and self._left:
            self._left -= 1
            self._is_given = True
            self._waiting.popleft().set()

    def close(self) -> None:
        """Let everybody who waits have a `ClosedError`. Idempotent."""
        self._is_closed = True
        if self._wanted is not None:
            self._wanted.set()
        self.start()
