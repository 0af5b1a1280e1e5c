"""A proxy or a peer in a process of its own, which tells as JSON lines what happens and when.

Times are those of ``time.monotonic()``, which all processes of one machine share.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import anyio
import anyio.abc
import anyio.to_thread

from zdisco import (
    Peer,
    PeerConfig,
    PeerGone,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    PeerUpdated,
    Proxy,
    ProxyFound,
    ProxyLost,
)

from .tables import entries

ANY = "tcp://127.0.0.1:*"
LIMIT = 120.0
"""Seconds after which a process that does not tell something never will."""


class Teller:
    """A process that tells facts, as its starter sees it: what they are, and about whom.

    Args:
        command: How to start it.
        parse: Makes a fact of a line that it prints; ``None`` if the line tells none.
    """

    def __init__(self, command: Sequence[str], parse: Callable[[str], dict[str, Any] | None] = json.loads) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.facts: list[dict[str, Any]] = []
        """All that it has told."""
        self._parse = parse
        self._passed = 0
        """How many of these `next` has looked at."""
        self._has_told = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if (fact := self._parse(line)) is not None:
                with self._has_told:
                    self.facts.append(fact)
                    self._has_told.notify_all()

    def next(self, *kinds: str, about: object = None) -> dict[str, Any]:
        """The next fact of one of these kinds, about this one or anybody; waits for it, and passes others over."""

        def find() -> dict[str, Any] | None:
            while self._passed < len(self.facts):
                fact = self.facts[self._passed]
                self._passed += 1
                if fact["what"] in kinds and about in (None, fact["is"]):
                    return fact
            return None

        return self._wait_for(find, f"{' or '.join(kinds)} of {about or 'anybody'}")

    def first(self, kind: str) -> dict[str, Any]:
        """The first fact of this kind; waits for it. `next` does not notice."""
        return self._wait_for(lambda: next((fact for fact in self.facts if fact["what"] == kind), None), kind)

    def _wait_for(self, find: Callable[[], dict[str, Any] | None], what: str) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT
        with self._has_told:
            while (fact := find()) is None:
                if not self._reader.is_alive() or time.monotonic() >= deadline:
                    state = "runs" if self.process.poll() is None else "ended"
                    raise RuntimeError(f"the process {state}; it never told {what}, but {self.facts[-20:]}")
                self._has_told.wait(1.0)
            return fact

    def told(self, about: str) -> list[str]:
        """All that it told about another one, in order."""
        return [fact["what"] for fact in tuple(self.facts) if fact["is"] == about]

    def wait_until_told(self, about: str, is_all: Callable[[list[str]], bool], seconds: float = 10.0) -> list[str]:
        """As `told`, once that is all or the time has passed."""
        deadline = time.monotonic() + seconds
        with self._has_told:
            while not is_all(told := self.told(about)) and (left := deadline - time.monotonic()) > 0:
                self._has_told.wait(left)
        return told

    def order(self, text: str) -> None:
        """Let it do something; see `_obey`."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def leave(self) -> None:
        """Let it go in order."""
        self.order("leave")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._reader.join()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


class Member(Teller):
    """A proxy or peer of zdisco.

    Args:
        kind: What it is: ``proxy`` or ``peer``.
        arguments: See `_parser`.
        inside: What the command begins with, to run it elsewhere.
    """

    def __init__(self, kind: str, *arguments: str, inside: tuple[str, ...] = ()) -> None:
        # It ends with its input, so it does not outlive us even if we are killed.
        super().__init__([*inside, sys.executable, "-m", "bench.member", kind, *arguments])

    @property
    def id(self) -> str:
        """Its id; waits until it is ready."""
        return str(self.first("ready")["is"][0])

    @property
    def endpoint(self) -> str:
        """Where others connect to it; waits until it is ready."""
        return str(self.first("ready")["is"][1])


def _tell(what: str, subject: object, **more: object) -> None:
    print(json.dumps({"what": what, "at": time.monotonic(), "is": subject, **more}), flush=True)


async def _be_proxy(arguments: argparse.Namespace) -> None:
    async with Proxy(arguments.bind) as proxy, anyio.create_task_group() as tasks:
        _tell("ready", [str(proxy.id), proxy.endpoint])
        await _obey(proxy)
        tasks.cancel_scope.cancel()


async def _be_peer(arguments: argparse.Namespace) -> None:
    config = PeerConfig(
        beacon_interval=arguments.beacon_interval,
        suspect_timeout=arguments.suspect_timeout,
        ping_interval=arguments.ping_interval,
    )
    id = UUID(arguments.id) if arguments.id else None
    options = {"id": id, "port": arguments.port, "cluster": arguments.cluster, "config": config}
    options |= {"gossip": arguments.gossip, "gossip_bind": arguments.gossip_bind}
    async with Peer(arguments.proxy or None, **options) as peer, anyio.create_task_group() as tasks:
        tasks.start_soon(_tell_events, peer)
        _tell("ready", [str(peer.id), peer.me.endpoint])
        await _obey(peer)
        tasks.cancel_scope.cancel()


async def _tell_events(peer: Peer) -> None:
    async for event in peer.events():
        match event:
            case PeerGone(other, cause):
                _tell(f"gone {cause.name}", str(other.id))
            case PeerJoined(other) | PeerSuspected(other) | PeerRecovered(other) | PeerUpdated(other):
                _tell(type(event).__name__.removeprefix("Peer").lower(), str(other.id))
            case ProxyFound(endpoint):
                _tell("proxy found", endpoint)
            case ProxyLost(endpoint):
                _tell("proxy lost", endpoint)


async def _obey(one: Peer | Proxy) -> None:
    """Do what is ordered: ``stall SECONDS``, in which the event loop does not run; ``size``; ``leave``, as the end of
    input."""
    while order := (await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)).split():
        if order == ["leave"]:
            return
        if order == ["size"]:
            _tell_size(one)
        else:
            time.sleep(float(order[1]))  # noqa: ASYNC251  that is what was asked for


def _tell_size(one: Peer | Proxy) -> None:
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    descriptors = len(os.listdir("/proc/self/fd"))
    tasks = len(anyio.get_running_tasks())
    _tell("size", {"bytes": resident, "descriptors": descriptors, "tasks": tasks, "tables": entries(one)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(dest="kind", required=True)
    proxy = kinds.add_parser("proxy")
    proxy.add_argument("--bind", default=ANY)
    peer = kinds.add_parser("peer")
    peer.add_argument("proxy", nargs="*")
    peer.add_argument("--gossip", action="append")
    peer.add_argument("--gossip-bind")
    peer.add_argument("--id", default="")
    peer.add_argument("--port", type=int, default=0)
    peer.add_argument("--cluster", default="")
    peer.add_argument("--backend", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    for option in ("beacon_interval", "suspect_timeout", "ping_interval"):
        default = getattr(PeerConfig(), option)
        peer.add_argument(f"--{option.replace('_', '-')}", type=float, default=default)
    return parser


if __name__ == "__main__":
    given = _parser().parse_args()
    if given.kind == "proxy":
        anyio.run(_be_proxy, given)
    elif given.backend == "uvloop":
        anyio.run(_be_peer, given, backend_options={"use_uvloop": find_spec("uvloop") is not None})
    else:
        anyio.run(_be_peer, given, backend=given.backend)
