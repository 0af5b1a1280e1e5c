"""``make bench``: how long peers take to find each other, to tell that one was killed, and what data costs.

python -m bench                                everything
python -m bench presence                       only joins, departures, and peers that rest
python -m bench failures                       only what is told of failures, beside Serf and Pyre
python -m bench soak                           only peers on a busy processor, for five minutes
python -m bench churn                          only what is left of 5,000 that came and went
python -m bench gossip                         only how changes spread among gossip nodes, beside real zgossip
python -m bench fuzz 1000000                   only what becomes of so many damaged frames in a gossip node
python -m bench data --quick                   only data, in some minutes
python -m bench data --quick 256B asyncio      only this measure and program, in seconds
"""

from __future__ import annotations

import argparse
import platform
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import metadata

import anyio
import anyio.to_thread
import zmq
from attrs import frozen

from zdisco import Peer

from . import churn, data, failures, fuzz_gossip, gossip, idle, plain, soak
from .cells import STACKS
from .figures import percentile
from .member import Member
from .table import Row, show

JOINS = 200
KILLS = 20
STOPS = 20
OTHERS = 7
ROUNDS = 3
FRAMES = 100_000


def told(resident: Member, id: str) -> float:
    """When the resident told that this peer joined."""
    return float(resident.next("joined", about=id)["at"])


async def join(proxy: str, resident: Member) -> float:
    """Seconds from the start of a second peer until it has joined, here and at the first one."""
    began = time.monotonic()
    async with Peer(proxy) as peer:
        await peer.wait_for(1)
        here = time.monotonic()
        there = await anyio.to_thread.run_sync(told, resident, str(peer.id))
    return max(here, there) - began


async def joins(proxy: str, resident: Member, count: int) -> list[float]:
    return [await join(proxy, resident) for _ in range(count)]


def measure_joins(backend: str, options: dict[str, bool]) -> Row:
    """Join again and again, in turn with the plain program, so that a noisy minute meets both."""
    ours: list[float] = []
    theirs: list[float] = []
    with Member("proxy") as proxy, Member("peer", proxy.endpoint) as resident:
        for _ in range(JOINS // 10):
            ours += anyio.run(
                joins, proxy.endpoint, resident, 10, backend=backend.partition(" ")[0], backend_options=options
            )
            theirs += [plain.join(proxy.endpoint, resident.endpoint, partial(told, resident)) for _ in range(10)]
    return Row(backend, ours, theirs)


def victims(count: int) -> Iterator[tuple[Member, list[Member]]]:
    """That many peers, one after another, each with the same others, which all told that it joined."""
    with Member("proxy") as proxy, ExitStack() as stack:
        others = [stack.enter_context(Member("peer", proxy.endpoint)) for _ in range(OTHERS)]
        for _ in range(count):
            with Member("peer", proxy.endpoint) as victim:
                for other in others:
                    told(other, victim.id)
                yield victim, others


def measure_kills() -> Row:
    """Seconds from the kill of one of eight until the last of the others told it gone."""
    ours: list[float] = []
    theirs: list[float] = []
    for victim, others in victims(KILLS):
        watcher = plain.Watcher(victim.endpoint)
        began = time.monotonic()
        victim.process.kill()
        theirs.append(watcher.ended() - began)
        ours.append(max(other.next("gone REFUSED")["at"] for other in others) - began)
    return Row("asyncio", ours, theirs)


def measure_stops() -> None:
    """Seconds from the SIGSTOP of one of eight until the last of the others told it suspect."""
    found: list[float] = []
    for victim, others in victims(STOPS):
        time.sleep(1 + random.random())
        began = time.monotonic()
        victim.process.send_signal(signal.SIGSTOP)
        found.append(max(other.next("suspected")["at"] for other in others) - began)
    print("\nSIGSTOP of one of eight processes: until the last of the others told it suspect")
    print(f"p50 {percentile(found, 50):.2f} s, of {STOPS} the last {max(found):.2f} s; <= 2 s: ", end="")
    print("ok" if max(found) <= 2 else "MISSED")


def measure_presence() -> None:
    rows = [
        measure_joins("asyncio", {}),
        measure_joins("asyncio uvloop", {"use_uvloop": True}),
        measure_joins("trio", {}),
    ]
    show("Join: from the start of the second of two peers to joined on both; plain: connected on both", rows)
    title = "kill -9 of one of eight processes: until the last of the others told it gone"
    show(f"{title}; plain: until one subscriber saw DISCONNECTED", [measure_kills()])
    measure_stops()
    idle.measure()


@frozen
class Order:
    """What the command line asks for."""

    plan: data.Plan
    only: str
    """The one thing that is measured; empty: everything is."""
    rounds: int
    """How often failures are measured."""
    frames: int
    """How many damaged frames a gossip node is sent."""


def read(arguments: Sequence[str] | None = None) -> Order:
    """Read a command line, by default that of the process, which ends if it makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Without a command: measure everything.")
    parser.set_defaults(filters=[], quick=False, rounds=None, of_failures=ROUNDS, frames=FRAMES)
    commands = parser.add_subparsers(dest="what")
    only = commands.add_parser("data", help="only what it costs to publish and to receive")
    only.add_argument("--quick", action="store_true", help="fewer messages, fewer rounds")
    only.add_argument("--rounds", type=int, help="so many rounds")
    names = [measure.key for measure in data.MEASURES] + [repr(stack.name) for stack in STACKS]
    only.add_argument("filters", nargs="*", help=f"only these measures and programs: {', '.join(names)}")
    commands.add_parser("presence", help="only joins, departures and what it costs to be there")
    commands.add_parser("soak", help="only what peers on a busy processor tell of each other")
    commands.add_parser("churn", help="only what is left in a peer of thousands that came and went")
    of_failures = commands.add_parser("failures", help="only what is told of failures, and when")
    of_failures.add_argument("--rounds", type=int, default=ROUNDS, dest="of_failures", help="so many rounds")
    commands.add_parser("gossip", help="only how changes spread among gossip nodes")
    fuzz = commands.add_parser("fuzz", help="only what becomes of damaged frames in a gossip node")
    fuzz.add_argument("frames", nargs="?", type=int, default=FRAMES, help="how many")
    given = parser.parse_args(arguments)
    try:
        plan = data.Plan.of(given.filters, quick=given.quick, rounds=given.rounds)
    except ValueError as error:
        only.error(str(error))
    return Order(plan, given.what or "", given.of_failures, given.frames)


def main() -> None:
    order = read()
    print(f"Python {platform.python_version()}, {versions()}")
    if order.only in ("", "presence"):
        measure_presence()
    if order.only in ("", "failures"):
        failures.measure(order.rounds)
    if order.only in ("", "soak"):
        soak.measure()
    if order.only in ("", "churn"):
        churn.measure()
    if order.only in ("", "gossip"):
        gossip.measure()
    if order.only == "fuzz":  # nothing is measured there
        fuzz_gossip.measure(order.frames)
    if order.only in ("", "data"):
        data.main(order.plan)


def versions() -> str:
    """What was measured with."""
    found = {name: _version(name) for name in ("pyzmq", "anyio", "trio", "uvloop", "zeromq-pyre")}
    return ", ".join([f"libzmq {zmq.zmq_version()}"] + [f"{name} {version}" for name, version in found.items()])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


if __name__ == "__main__":
    main()
