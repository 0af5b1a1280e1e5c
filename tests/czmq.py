"""Real nodes of zgossip, those of CZMQ, for tests and the bench: each `RealGossips` is a process that holds some.

    async with RealGossip() as hub, RealGossip() as other:
        await other.connect(await hub.bind("tcp://127.0.0.1:*"))
        await other.publish(b"key", b"value")
        await hub.wait_for(b"key", b"value")

The process is ``czmq_child.py``; it needs the library and nothing of Python's packages. Whoever leaves the
block kills it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from czmq_child import LIBRARY, ZEROMQ
from zdisco._background import Background

CHILD = Path(__file__).with_name("czmq_child.py")
LIMIT = 20.0
"""Seconds after which an answer that does not come never will."""
HANG = 5.0
"""Seconds without an answer after which a node is said not to live."""


def czmq_reason() -> str | None:
    """Why no real node can run here."""
    for name in (LIBRARY, ZEROMQ):
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            return f"no real zgossip here: {error}"
        if name == LIBRARY and not hasattr(library, "zgossip"):
            return f"no real zgossip here: {name} was built without it"
    return None


class NodeDied(Exception):
    """The reactor of the node has ended, or its whole process."""


class RealGossips:
    """A process that holds some real nodes."""

    def __init__(self, nodes: int) -> None:
        self._nodes = [RealNode(self, number) for number in range(nodes)]
        self._died = [anyio.Event() for _ in range(nodes)]
        self._numbers = count()
        self._answers: dict[int, tuple[anyio.Event, dict[str, Any]]] = {}
        self._ready = anyio.Event()
        self._has_ended = False
        self._outgoing = bytearray()
        self._has_outgoing = anyio.Event()
        self._background = Background(self._talk, lambda: None)

    async def __aenter__(self) -> Self:
        self._start()
        try:
            await self._background.start()
            with anyio.fail_after(LIMIT):
                await self._ready.wait()
            assert not self._has_ended, "the process of the nodes ended; its standard error says why"
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), str(len(self._nodes))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipes = self._process.stdin, self._process.stdout
        self._input, self._output = (pipe.fileno() for pipe in self._pipes)
        # A process that hangs, or waits for us to read, must not make us wait for it.
        os.set_blocking(self._input, False)

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    async def _close(self) -> None:
        self._kill()
        try:
            await self._background.stop()
        finally:
            for pipe in self._pipes:
                with suppress(BrokenPipeError):
                    pipe.close()

    def node(self, number: int) -> RealNode:
        return self._nodes[number]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """The processor time that all threads of the process have used."""
        used = 0
        for schedstat in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with suppress(FileNotFoundError):
                used += int(schedstat.read_text().split()[0])
        return used / 1e9

    async def kill(self) -> None:
        """End it as ``kill -9`` does; when this returns, nothing listens there any more."""
        self._kill()
        for node in range(len(self._nodes)):
            await self.wait_until_dead(node)

    def pause(self) -> None:
        """Stop it as Ctrl-Z does; when this returns, none of its threads runs."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def _talk(self) -> None:
        """Take what it tells, and pass on what it had no room for, to its end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write)
            await self._read()
            tasks.cancel_scope.cancel()

    async def _read(self) -> None:
        rest = b""
        while True:
            await anyio.wait_readable(self._output)
            read = os.read(self._output, 1 << 20)
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
            if not read:
                break
        self._has_ended = True
        self._ready.set()
        for died in self._died:
            died.set()
        for number in tuple(self._answers):
            self._take({"id": number, "dead": True})

    def _take(self, told: dict[str, Any]) -> None:
        match told:
            case {"ready": _}:
                self._ready.set()
            case {"died": node}:
                self._died[node].set()
            case {"id": number} if number in self._answers:
                event, answer = self._answers.pop(number)
                answer.update(told)
                event.set()

    async def ask(self, node: int, limit: float, do: str, **order: object) -> Any:
        """Give an order, and return the answer.

        Raises:
            NodeDied: If the node will not answer any more.
            TimeoutError: If it has not after so many seconds.
        """
        if self._has_ended:
            raise NodeDied(f"process {self.pid} has ended")
        number = next(self._numbers)
        event, answer = anyio.Event(), dict[str, Any]()
        self._answers[number] = event, answer
        self._outgoing += json.dumps({"id": number, "node": node, "do": do, **order}).encode() + b"\n"
        self._flush()
        try:
            with anyio.fail_after(limit):
                await event.wait()
        finally:
            self._answers.pop(number, None)
        if "dead" in answer:
            raise NodeDied(f"node {node} of process {self.pid} has ended")
        return answer["answer"]

    async def _write(self) -> None:
        while True:
            await self._has_outgoing.wait()
            self._has_outgoing = anyio.Event()
            await anyio.wait_writable(self._input)
            self._flush()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: os.write(self._input, self._outgoing)]
        except BlockingIOError:
            self._has_outgoing.set()
        except BrokenPipeError:
            self._outgoing.clear()

    async def wait_until_dead(self, node: int) -> None:
        """Wait until the reactor of the node has ended."""
        with anyio.fail_after(LIMIT):
            await self._died[node].wait()


class RealNode:
    """One real node of such a process.

    What it is told it has done when the coroutine returns. Every one raises `NodeDied` if the node will not
    answer any more, and `TimeoutError` after `LIMIT` seconds.
    """

    def __init__(self, process: RealGossips, number: int) -> None:
        self._process = process
        self._number = number

    async def _ask(self, do: str, **order: object) -> Any:
        return await self._process.ask(self._number, LIMIT, do, **order)

    @property
    def pid(self) -> int:
        """Of the process, which the node may share."""
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """Of the whole process."""
        return self._process.cpu_seconds

    async def bind(self, endpoint: str) -> str:
        """Bind, and return the endpoint with the port that was chosen."""
        port = int(await self._ask("bind", endpoint=endpoint))
        assert port > 0, f"{endpoint} cannot be bound"
        return f"{endpoint.rpartition(':')[0]}:{port}"

    async def connect(self, endpoint: str) -> None:
        """Let it begin to connect. A host name makes the whole process abort when the other end goes away."""
        await self._ask("connect", endpoint=endpoint)

    async def publish(self, key: bytes, value: bytes) -> None:
        await self.publish_many([(key, value)])

    async def publish_many(self, tuples: Iterable[tuple[bytes, bytes]]) -> None:
        """Publish one after the other."""
        await self._ask("publish", tuples=[[key.decode("latin-1"), value.decode("latin-1")] for key, value in tuples])

    async def set(self, path: str, value: str) -> None:
        """Configure it: ``server/timeout`` is in milliseconds, and holds for what comes from each client then."""
        await self._ask("set", path=path, value=value)

    async def status(self) -> int:
        """How many keys it holds."""
        return int(await self._ask("status"))

    async def tuples(self) -> dict[bytes, bytes]:
        """The last value of each key that it delivered, its own too: that is what it holds."""
        answer = await self._ask("tuples")
        return {key.encode("latin-1"): value.encode("latin-1") for key, value in answer}

    async def delivered(self) -> int:
        """How often it has delivered a tuple, its own too."""
        return int(await self._ask("delivered"))

    async def wait_for(self, key: bytes, value: bytes) -> float:
        """Wait until that is the tuple of the key; returns the monotonic time when it was delivered."""
        return float(await self._ask("wait", key=key.decode("latin-1"), value=value.decode("latin-1")))

    async def wait_for_count(self, number: int) -> float:
        """Wait until it has delivered so many keys; returns the monotonic time when it had."""
        return float(await self._ask("count", count=number))

    async def wait_for_deliveries(self, number: int) -> float:
        """Wait until it has delivered so often; returns the monotonic time when it had."""
        return float(await self._ask("deliveries", count=number))

    async def is_alive(self, limit: float = HANG) -> bool:
        """Whether its reactor answers within so many seconds."""
        try:
            await self._process.ask(self._number, limit, "status")
        except (NodeDied, TimeoutError):
            return False
        return True

    async def wait_until_dead(self) -> None:
        """Wait until its reactor has ended."""
        await self._process.wait_until_dead(self._number)

    async def stop(self) -> None:
        """Destroy it, as an application does that has no more use for it; that says nothing to the others."""
        await self._ask("stop")


class RealGossip(RealNode):
    """One real node in a process of its own."""

    def __init__(self) -> None:
        super().__init__(RealGossips(1), 0)

    async def kill(self) -> None:
        """End its process as ``kill -9`` does; when this returns, nothing listens there any more."""
        await self._process.kill()

    def pause(self) -> None:
        """Stop its process as Ctrl-Z does; when this returns, none of its threads runs."""
        self._process.pause()

    def resume(self) -> None:
        self._process.resume()

    async def __aenter__(self) -> Self:
        await self._process.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._process.__aexit__(kind, error, trace)
