"""What it costs to be there: bytes on the loopback device, and processor time, of peers that do nothing."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

from .member import Member

PEERS = 32
SECONDS = 120
"""As long as so many peers take for one beacon each: in less time there would be none, or all of them."""
SETTLING = 60
"""Seconds after the last join in which things are still said that belong to it, the first beacons among them."""
BYTES, CPU = 760, 0.11
"""The bounds: bytes a second and percent of a processor, for each peer."""


def measure() -> None:
    """Start peers in processes of their own, let them rest, and print what each of them takes."""
    with Member("proxy") as proxy, ExitStack() as stack:
        peers = [stack.enter_context(Member("peer", proxy.endpoint)) for _ in range(PEERS)]
        for peer in peers:
            for _ in range(PEERS - 1):
                peer.next("joined")
        time.sleep(SETTLING)
        began, sent, used = time.monotonic(), loopback_bytes(), cpu_seconds(peers)
        time.sleep(SECONDS)
        passed = time.monotonic() - began
        sent, used = loopback_bytes() - sent, cpu_seconds(peers) - used
    rate, share = sent / passed / PEERS, 100 * used / passed / PEERS
    print(
        f"\nIdle, {PEERS} peers in processes of their own, for each: all bytes of the loopback device, proxy included"
    )
    print(f"{rate:,.0f} bytes/s; <= {BYTES}: {'ok' if rate <= BYTES else 'MISSED'}")
    print(f"{share:.3f} % of a processor; <= {CPU} %: {'ok' if share <= CPU else 'MISSED'}")


def loopback_bytes() -> int:
    """What the loopback device has received; whatever else uses it counts, too."""
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")]
    return int(line.partition(":")[2].split()[0])


def cpu_seconds(members: list[Member]) -> float:
    """The processor time that these processes have used."""
    ticks = 0
    for member in members:
        fields = Path(f"/proc/{member.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
