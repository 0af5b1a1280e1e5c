"""Serf agents and Pyre nodes, which tell of each other as the peers of `member` do."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeAlias

from .member import Teller, _tell
from .stacks.pyre_group import GROUP, stay_on_loopback

Group: TypeAlias = "Sequence[tuple[str, Teller]]"
"""Processes with the names by which they tell of each other."""


class _Agent(Teller):
    def leave(self) -> None:
        self.process.send_signal(signal.SIGINT)


@contextmanager
def serf(count: int) -> Iterator[Group]:
    """Agents with the settings that serf has by itself, each of which has seen all others join."""
    ports = [_free_port() for _ in range(2 * count)]
    with ExitStack() as stack:
        agents = [
            (
                f"n{number}",
                stack.enter_context(
                    _Agent(
                        [
                            *("serf", "agent", f"-node=n{number}", f"-bind=127.0.0.1:{ports[2 * number]}"),
                            f"-retry-join=127.0.0.1:{ports[0]}",
                            *(f"-rpc-addr=127.0.0.1:{ports[2 * number + 1]}", "-retry-interval=1s"),
                        ],
                        _serf_fact,
                    )
                ),
            )
            for number in range(count)
        ]
        _wait_for_all(agents)
        yield agents


_SERF_KINDS = {"Join": "joined", "Failed": "gone", "Leave": "gone"}


def _serf_fact(line: str) -> dict[str, Any] | None:
    match = re.search(r"serf: EventMember(Join|Failed|Leave): (\S+)", line)
    return match and {"what": _SERF_KINDS[match[1]], "is": match[2], "at": time.monotonic()}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return int(reserved.getsockname()[1])


@contextmanager
def pyre(count: int) -> Iterator[Group]:
    """Nodes in one group, each of which has seen all others join."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = str(reserved.getsockname()[1])
    with ExitStack() as stack:
        nodes = [stack.enter_context(Teller([sys.executable, "-m", "bench.others", port])) for _ in range(count)]
        named = [(str(node.next("ready")["is"]), node) for node in nodes]
        _wait_for_all(named)
        yield named


def _wait_for_all(group: Group) -> None:
    for name, teller in group:
        for other, _ in group:
            if other != name:
                while other not in [fact["is"] for fact in teller.facts if fact["what"] == "joined"]:
                    teller.next("joined")


def _be_pyre(port: str) -> None:
    """A node until it is killed, or ordered to leave."""
    import select

    import pyre

    stay_on_loopback()
    node = pyre.Pyre()
    node.set_port(port.encode())
    node.join(GROUP)
    node.start()
    _tell("ready", node.uuid().hex)
    kinds = {b"ENTER": "joined", b"EXIT": "gone"}
    while not select.select([sys.stdin], [], [], 0)[0]:
        if node.inbox.poll(20):
            kind, sender, *_ = node.recv()
            if kind in kinds:
                _tell(kinds[kind], sender.hex())
    if sys.stdin.readline():
        node.stop()


def _stop(teller: Teller) -> None:
    teller.process.send_signal(signal.SIGSTOP)


DEEDS: Mapping[str, Callable[[Teller], None]] = {
    "leaves": lambda teller: teller.leave(),
    "kill -9": Teller.kill,
    "SIGSTOP": _stop,
}


def measure(start: Callable[[int], AbstractContextManager[Group]], count: int) -> Mapping[str, float]:
    """For each of these deeds the seconds until the last of the others told that one gone."""
    found: dict[str, float] = {}
    for what, do in DEEDS.items():
        with start(count) as ((name, victim), *others):
            time.sleep(1)
            began = time.monotonic()
            do(victim)
            found[what] = max(other.next("gone", about=name)["at"] for _, other in others) - began
    return found


OTHERS: Mapping[str, tuple[Callable[[int], AbstractContextManager[Group]], bool]] = {
    "Serf": (serf, shutil.which("serf") is not None),
    "Pyre": (pyre, importlib.util.find_spec("pyre") is not None),
}
"""How to start so many of them, and whether they are installed."""

if __name__ == "__main__":
    _be_pyre(sys.argv[1])
