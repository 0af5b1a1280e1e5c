"""Peers that share one processor with programs that never rest: whether any is told suspect or gone that is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack

from .member import Member

PEERS = 8
BUSY = 2
"""Programs that use the processor all the time."""
MINUTES = 5.0


def measure(minutes: float = MINUTES) -> None:
    """Print what they told of each other in that time."""
    core = min(os.sched_getaffinity(0))
    with Member("proxy") as proxy, ExitStack() as stack:
        peers = [stack.enter_context(Member("peer", proxy.endpoint)) for _ in range(PEERS)]
        for peer in peers:
            for _ in range(PEERS - 1):
                peer.next("joined")
        busy = [stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"])) for _ in range(BUSY)]
        for process in busy:
            stack.callback(process.kill)
        for pid in [one.process.pid for one in [proxy, *peers]] + [process.pid for process in busy]:
            _pin(pid, core)
        time.sleep(60 * minutes)
        facts = [fact for peer in peers for fact in peer.facts]
        longest = max(_longest_suspicion(peer, time.monotonic()) for peer in peers)
    gone = sum(fact["what"].startswith("gone") for fact in facts)
    suspected = sum(fact["what"] == "suspected" for fact in facts)
    print(f"\n{PEERS} peers and {BUSY} programs that never rest on one core, {minutes:g} minutes")
    print(f"told gone: {gone}; <= 0: {'ok' if gone == 0 else 'MISSED'}")
    print(f"told suspect: {suspected}, for at most {longest:.2f} s; <= 2 s: {'ok' if longest <= 2 else 'MISSED'}")


def _pin(pid: int, core: int) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def _longest_suspicion(peer: Member, now: float) -> float:
    """Seconds for which one was suspect to this peer, at the longest."""
    since: dict[str, float] = {}
    longest = 0.0
    for fact in peer.facts:
        if fact["what"] == "suspected":
            since[fact["is"]] = fact["at"]
        elif fact["what"] == "recovered" and fact["is"] in since:
            longest = max(longest, fact["at"] - since.pop(fact["is"]))
    return max([longest, *(now - at for at in since.values())])
