"""Turns: who waits gets one, in the order of coming, whatever becomes of the others."""

from __future__ import annotations

import anyio
import anyio.abc
import pytest
from anyio.lowlevel import checkpoint

from zdisco._core.errors import ClosedError
from zdisco._turns import Turns

pytestmark = pytest.mark.anyio


class Crowd:
    """Tasks that wait for turns, and the order in which they got them."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.turns = Turns("crowd")
        self.had: list[str] = []
        self.scopes: dict[str, anyio.CancelScope] = {}
        self._tasks = tasks
        self._came = 0

    async def come(self, *names: str, times: int = 1) -> None:
        for name in names:
            before = self._came
            self._tasks.start_soon(self._wait, name, times)
            while self._came == before:
                await checkpoint()

    async def _wait(self, name: str, times: int) -> None:
        self._came += 1
        with anyio.CancelScope() as self.scopes[name]:
            for _ in range(times):
                try:
                    await self.turns.wait()
                except ClosedError:
                    self.had.append(f"{name} closed")
                else:
                    self.had.append(name)


async def quiet() -> None:
    for _ in range(30):
        await checkpoint()


async def test_each_gets_one_turn_in_a_round_in_the_order_of_coming() -> None:
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        await crowd.come("a", "b", "c", "d", "e", times=2)
        for _ in range(2):
            crowd.turns.start()
            await quiet()
        assert crowd.had == [*"abcde", *"abcde"]
        assert not crowd.turns


async def test_a_round_that_begins_within_another_brings_nobody_forward() -> None:
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        await crowd.come("a", "b", "c", times=2)
        crowd.turns.start()
        crowd.turns.start()
        await quiet()
        assert crowd.had == [*"abc"]
        crowd.turns.start()
        await quiet()
        assert crowd.had == [*"abcabc"]


async def test_who_comes_during_a_round_waits_for_the_next() -> None:
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        await crowd.come("a")
        crowd.turns.start()
        await crowd.come("b")
        await quiet()
        assert crowd.had == ["a"]
        crowd.turns.start()


@pytest.mark.parametrize("is_given", [False, True])
async def test_the_turn_of_who_was_cancelled_goes_to_the_next(is_given: bool) -> None:
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        await crowd.come("a", "b", "c")
        if is_given:
            crowd.turns.start()
        crowd.scopes["a"].cancel()
        crowd.turns.start()
        await quiet()
        assert [name for name in crowd.had if name != "a"] == ["b", "c"]
        assert not crowd.turns


async def test_closing_ends_every_wait_and_lets_nobody_begin_one() -> None:
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        await crowd.come("a", "b")
        crowd.turns.close()
        crowd.turns.close()
        await quiet()
        assert crowd.had == ["a closed", "b closed"]
        with pytest.raises(ClosedError):
            await crowd.turns.wait()
        with pytest.raises(ClosedError):
            await crowd.turns.wanted()


async def test_who_serves_the_turns_is_told_that_somebody_waits_or_that_nobody_ever_will() -> None:
    told: list[str] = []

    async def serve() -> None:
        await crowd.turns.wanted()
        told.append("wanted")
        crowd.turns.start()
        await quiet()
        try:
            await crowd.turns.wanted()
        except ClosedError:
            told.append("closed")

    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        tasks.start_soon(serve)
        await quiet()
        assert told == []
        await crowd.come("a")
        await quiet()
        assert (told, crowd.had) == (["wanted"], ["a"])
        crowd.turns.close()
    assert told == ["wanted", "closed"]
