"""The loop of asyncio whose clock jumps: when it does, and when it must not."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import anyio.to_thread
import pytest

from zdisco._jumping import JumpingSelector
from zdisco.testing import MemoryNetwork, new_jumping_loop

DAY = 86_400.0


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=new_jumping_loop) as runner:
        runner.run(main())


def test_a_day_passes_at_once_and_to_the_second() -> None:
    async def main() -> None:
        await asyncio.sleep(3 * DAY)
        assert asyncio.get_running_loop().time() == 3 * DAY

    run(main)


def test_the_clock_stands_still_while_code_runs() -> None:
    async def main() -> None:
        time.sleep(0.001)  # noqa: ASYNC251  code that runs
        await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() == 0.0

    run(main)


def test_deadlines_come_in_their_order_and_none_is_passed_over() -> None:
    told: list[tuple[float, float]] = []

    async def wait(seconds: float) -> None:
        await anyio.sleep(seconds)
        told.append((seconds, asyncio.get_running_loop().time()))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for seconds in (30, 0.1, DAY, 2):
                tasks.start_soon(wait, seconds)

    run(main)
    assert told == [(seconds, seconds) for seconds in (0.1, 2, 30, DAY)]


def test_time_limits_of_asyncio_and_anyio_end_what_waits() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(DAY):
                await asyncio.Event().wait()
        with pytest.raises(TimeoutError), anyio.fail_after(DAY):
            await anyio.sleep_forever()
        assert asyncio.get_running_loop().time() == 2 * DAY

    run(main)


# What may still wake it from outside. Each takes a moment of real time; with a jump, the time limit would come first.

MOMENT = 0.02


async def in_a_thread() -> None:
    await asyncio.to_thread(time.sleep, MOMENT)


async def in_a_thread_of_anyio() -> None:
    await anyio.to_thread.run_sync(time.sleep, MOMENT)


async def in_a_process() -> None:
    process = await asyncio.create_subprocess_exec("sleep", str(MOMENT))
    assert await process.wait() == 0


async def at_a_socket() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        later = threading.Timer(MOMENT, far.send, [b"x"])
        later.start()
        assert await asyncio.get_running_loop().sock_recv(near, 1) == b"x"
        later.join()


async def at_the_end_of_the_threads() -> None:
    # Whoever waited for the thread has been cancelled; what is left is to join it.
    started = threading.Event()

    def work() -> None:
        started.set()
        time.sleep(MOMENT)

    task = asyncio.create_task(asyncio.to_thread(work))
    await asyncio.sleep(0)
    started.wait()
    task.cancel()
    await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.parametrize(
    "wait", [in_a_thread, in_a_thread_of_anyio, in_a_process, at_a_socket, at_the_end_of_the_threads]
)
def test_it_does_not_jump_while_something_outside_can_wake_it(wait: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(DAY)
        async with asyncio.timeout(30):
            await wait()
        # The clock kept pace: it is set by the same clock that the thread or the process waited by.
        assert MOMENT / 2 < loop.time() - DAY < 30
        # It jumps again afterwards, though the threads are kept for the next call.
        await asyncio.sleep(DAY)
        assert loop.time() >= 2 * DAY

    run(main)


def test_a_time_limit_ends_a_wait_for_a_socket_in_real_time() -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        with near, far:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3 * MOMENT):
                    await asyncio.get_running_loop().sock_recv(near, 1)
            assert time.monotonic() - began >= 2.9 * MOMENT

    run(main)


def test_a_thread_can_wake_a_loop_that_has_no_deadline() -> None:
    async def main() -> None:
        woken = asyncio.Event()
        later = threading.Timer(MOMENT, asyncio.get_running_loop().call_soon_threadsafe, [woken.set])
        later.start()
        await woken.wait()
        later.join()

    run(main)


def test_the_clock_does_not_jump_over_what_a_thread_has_just_brought() -> None:
    near, far = socket.socketpair()
    with near, far, JumpingSelector(lambda: False) as selector:
        selector.register(near, selectors.EVENT_READ)
        selector.own = 1
        far.send(b"x")
        assert len(selector.select(DAY)) == 1
        assert selector.now == 0.0
        near.recv(1)
        assert selector.select(DAY) == []
        assert selector.now == DAY
        later = threading.Timer(MOMENT, far.send, [b"x"])
        later.start()
        assert len(selector.select(None)) == 1
        assert selector.now == DAY
        later.join()


# With peers


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"loop_factory": new_jumping_loop}), id="jumping")])
async def test_peers_outlast_an_outage_on_it() -> None:
    net = MemoryNetwork(latency=0.05)
    async with net.peers("here", "there") as (here, there):
        net.cut(here, there)
        await here.wait_for(lambda peers: not peers, timeout=60)
        await anyio.sleep(20)
        net.heal(here, there)
        await here.wait_for(1, timeout=60)
        assert asyncio.get_running_loop().time() > 20
