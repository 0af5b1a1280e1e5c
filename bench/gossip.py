"""How long a change takes until all nodes of a gossip network have it, beside real zgossip nodes in the same run.

All nodes of ours are in one process and one event loop, all real ones in another process, where each has a thread.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import anyio
from attrs import frozen

from zdisco import Gossip, GossipConfig

from .idle import loopback_bytes

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from czmq import RealGossips, czmq_reason
from gossip_world import Shape, World, edges

SIZES = (2, 16, 64)
ROUNDS = 5
ANY = "tcp://127.0.0.1:*"
QUIET = 0.5
"""Seconds after which the last echo of a change has passed."""

Change: TypeAlias = Callable[[str], Awaitable[float]]
"""Publishes a key at the first node, and returns seconds until the last one has it."""


@frozen
class Run:
    """One change of one network."""

    seconds: float
    bytes: int
    """What went over the loopback device."""


def measure() -> None:
    """Change something in every network, in turn with a network of real nodes, and print what it took."""
    print("\nGossip: a new key at one node; ms until the last one has it, and KiB over loopback for each connection")
    print(f"median of {ROUNDS}, ours and real ones in turn; messages: Tuples frames of ours, simulated, of at most")
    if reason := czmq_reason():
        print(f"Without real nodes: {reason}")
    head = ("messages", "ours ms", "real ms", "ours KiB", "real KiB")
    print(f"{'':<12}{'nodes':>6}{'links':>7}{head[0]:>14}" + "".join(f"{word:>10}" for word in head[1:]))
    for shape in Shape:
        for size in SIZES:
            links = edges(shape, size, random.Random(size))
            anyio.run(_compare, shape, size, links)


async def _compare(shape: Shape, size: int, links: list[tuple[int, int]]) -> None:
    ours: list[Run] = []
    theirs: list[Run] = []
    async with AsyncExitStack() as stack:
        changes = [(ours, await stack.enter_async_context(_ours(size, links)))]
        if czmq_reason() is None:
            changes.append((theirs, await stack.enter_async_context(_real_ones(size, links))))
        for number in range(ROUNDS):
            for runs, change in changes:
                before = loopback_bytes()
                seconds = await change(f"key {number}")
                await anyio.sleep(QUIET)
                runs.append(Run(seconds, loopback_bytes() - before))
    made, most = _messages(size, links)
    cells = [f"{made} <= {most}", *_medians(ours, theirs, lambda run: f"{1000 * run.seconds:.1f}")]
    cells += _medians(ours, theirs, lambda run: f"{run.bytes / 1024 / len(links):.2f}")
    print(f"{shape.value:<12}{size:>6}{len(links):>7}{cells[0]:>14}" + "".join(f"{cell:>10}" for cell in cells[1:]))


def _medians(ours: list[Run], theirs: list[Run], show: Callable[[Run], str]) -> list[str]:
    cells = []
    for runs in (ours, theirs):
        middle = (
            Run(statistics.median(run.seconds for run in runs), int(statistics.median(run.bytes for run in runs)))
            if runs
            else None
        )
        cells.append("" if middle is None else show(middle))
    return cells


def _messages(size: int, links: list[tuple[int, int]]) -> tuple[int, int]:
    """Messages that one change makes, and the most that it may make."""
    world = World(seed=size)
    nodes = [world.ours(str(number)) for number in range(size)]
    for client, server in links:
        world.connect(nodes[client], nodes[server])
    world.run(1.0)
    world.sent.clear()
    nodes[0].publish(b"key", b"value")
    world.run(5.0)
    return world.sent["Tuples"], 2 * len(links) - size + 1


@asynccontextmanager
async def _ours(size: int, links: list[tuple[int, int]]) -> AsyncIterator[Change]:
    async with AsyncExitStack() as stack:
        # Rare greetings, so that what goes over the network belongs to the change.
        config = GossipConfig(greeting_interval=60.0, silence_timeout=600.0)
        nodes = [await stack.enter_async_context(Gossip(ANY, config=config)) for _ in range(size)]
        for client, server in links:
            await nodes[client].connect(nodes[server].endpoints[0])
        for node in nodes:
            await node.settle(60)

        async def change(key: str) -> float:
            ended: list[float] = []

            async def watch(node: Gossip) -> None:
                await node.wait_for(key)
                ended.append(time.monotonic())

            async with anyio.create_task_group() as tasks:
                for node in nodes[1:]:
                    tasks.start_soon(watch, node)
                await anyio.wait_all_tasks_blocked()
                began = time.monotonic()
                await nodes[0].publish(key, "value")
            return max(ended) - began

        yield change


@asynccontextmanager
async def _real_ones(size: int, links: list[tuple[int, int]]) -> AsyncIterator[Change]:
    async with RealGossips(size) as real:
        nodes = [real.node(number) for number in range(size)]
        endpoints = []
        for node in nodes:
            # Else a client would be forgotten before anything changes.
            await node.set("server/timeout", "0")
            endpoints.append(await node.bind(ANY))
        for client, server in links:
            await nodes[client].connect(endpoints[server])
        await nodes[0].publish(b"first", b"value")
        for node in nodes:
            await node.wait_for(b"first", b"value")

        async def change(key: str) -> float:
            began = time.monotonic()
            await nodes[0].publish(key.encode(), b"value")
            return max([await node.wait_for(key.encode(), b"value") for node in nodes[1:]]) - began

        yield change
