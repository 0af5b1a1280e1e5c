"""A proxy or a peer in a process of its own, which tells as JSON lines what happens and when.

Times are those of ``time.monotonic()``, which all processes of one machine share.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

import anyio

from zdisco import Peer, PeerGone, PeerJoined, PeerSuspected, Proxy

ANY = "tcp://127.0.0.1:*"


class Member:
    """The process, as its starter sees it."""

    def __init__(self, kind: str, proxy: str = "") -> None:
        command = [sys.executable, "-m", "bench.member", kind, proxy]
        # It ends with its input, so it does not outlive us even if we are killed.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.id, self.endpoint = self.next("ready")["is"]

    def next(self, what: str) -> dict[str, Any]:
        """The next line of a kind; blocks until it comes, and passes others over."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            fact: dict[str, Any] = json.loads(line)
            if fact["what"] == what:
                return fact
        raise RuntimeError(f"the process ended before it told {what}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


def _tell(what: str, subject: object) -> None:
    print(json.dumps({"what": what, "at": time.monotonic(), "is": subject}), flush=True)


async def _be_proxy(_: str) -> None:
    async with Proxy(ANY) as proxy:
        _tell("ready", [str(proxy.id), proxy.endpoint])
        await anyio.sleep_forever()


async def _be_peer(proxy: str) -> None:
    async with Peer(proxy) as peer:
        events = peer.events()
        _tell("ready", [str(peer.id), peer.me.endpoint])
        async for event in events:
            if isinstance(event, PeerJoined):
                _tell("joined", str(event.peer.id))
            elif isinstance(event, PeerSuspected):
                _tell("suspected", str(event.peer.id))
            elif isinstance(event, PeerGone):
                _tell("gone", str(event.peer.id))


def _end_with_input() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    anyio.run({"proxy": _be_proxy, "peer": _be_peer}[sys.argv[1]], sys.argv[2])
