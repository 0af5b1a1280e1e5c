"""What is left in a peer that saw thousands of others come and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any
from uuid import UUID

import anyio

from zdisco import Peer, PeerConfig
from zdisco._core.actions import Drop

from .member import Member

CYCLES = 5_000
AT_ONCE = 4
GROWTH = 0.02
"""The bound: KiB for each cycle of the second half."""
MEMORIES = {
    "Driver._dropped": len(Drop),
    "Roster._tombstones": PeerConfig().max_tombstones,
    "Roster._epochs": PeerConfig().max_tombstones,
    "Roster._markers": PeerConfig().max_strangers,
}
"""The tables that are there to remember what happened, and how many entries they may have."""
_LIMIT = 30.0
"""Seconds in which a peer has joined, or never will."""
_PAUSE = 2.0
"""Seconds in which what the last ones left behind is cleared away."""


def measure(cycles: int = CYCLES) -> None:
    """Let so many processes join and leave one peer, every other one by ``kill -9``, and print what that one keeps."""
    with Member("proxy") as proxy, Member("peer", proxy.endpoint) as resident:
        began, sizes = time.monotonic(), [_size(resident)]
        for half in (cycles // 2, cycles - cycles // 2):
            subprocess.run([sys.executable, "-m", "bench.churn", proxy.endpoint, resident.id, str(half)], check=True)
            time.sleep(_PAUSE)
            sizes.append(_size(resident))
        seconds = time.monotonic() - began
        told = [fact["what"] for fact in resident.facts]
    start, middle, end = sizes
    growth = (end["bytes"] - middle["bytes"]) / 1024 / (cycles - cycles // 2)
    print(f"\nOne peer that saw {cycles:,} others join and leave, half of them killed, in {seconds:,.0f} s")
    print(f"told joined {told.count('joined'):,}, left {told.count('gone FAREWELL'):,}, ", end="")
    print(f"killed {told.count('gone REFUSED'):,}, suspected {told.count('suspected'):,}")
    print("KiB resident: " + ", ".join(f"{size['bytes'] / 1024:,.0f}" for size in sizes) + " (start, half, end)")
    print(f"{growth:.3f} KiB for each of the second half; <= {GROWTH}: {'ok' if growth <= GROWTH else 'MISSED'}")
    for what in ("descriptors", "tasks"):
        verdict = "ok" if end[what] <= start[what] else "MISSED"
        print(f"{what}: {start[what]} at the start, {end[what]} at the end: {verdict}")
    grown = {name: size for name, size in end["tables"].items() if size > start["tables"].get(name, 0)}
    kept = [f"{name} {size:,}" for name, size in grown.items() if size <= MEMORIES.get(name, 0)]
    leaks = [f"{name} {size:,}" for name, size in grown.items() if size > MEMORIES.get(name, 0)]
    print(f"tables that grew: {', '.join(leaks) or 'none'}: {'MISSED' if leaks else 'ok'}; ", end="")
    print(f"those that remember the latest of what happened: {', '.join(kept)}")


def _size(resident: Member) -> dict[str, Any]:
    resident.order("size")
    size: dict[str, Any] = resident.next("size")["is"]
    return size


def _come_and_go(proxy: str, resident: UUID, cycles: int) -> None:
    """Fork so many peers, some at a time; each says when it has joined, and is killed or leaves."""
    running: dict[int, int] = {}
    for number in range(cycles):
        while len(running) >= AT_ONCE:
            _reap(running)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            anyio.run(_live, proxy, resident, writing, number % 2 == 0)
            os._exit(0)
        os.close(writing)
        running[pid] = reading
        if number % 2 == 0:
            os.read(reading, 1)
            os.kill(pid, signal.SIGKILL)
    while running:
        _reap(running)


def _reap(running: dict[int, int]) -> None:
    pid, _ = os.wait()
    os.close(running.pop(pid))


async def _live(proxy: str, resident: UUID, writing: int, is_killed: bool) -> None:
    async with Peer(proxy) as peer:
        # Whatever happens, the others must not wait for it.
        await peer.wait_for(lambda joined: resident in joined, timeout=_LIMIT)
        os.write(writing, b"j")
        if is_killed:
            await anyio.sleep_forever()


if __name__ == "__main__":
    _come_and_go(sys.argv[1], UUID(sys.argv[2]), int(sys.argv[3]))
