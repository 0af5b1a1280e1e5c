"""Plain sockets that an event loop waits for, and nothing else: what the event loop itself costs.

A task waits for a message in the cheapest way that the loop has, asyncio with a reader that stays
registered. No discovery, no types, no numbers, no cancellation that would be safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import zmq

from .. import line as talk
from ..line import Line, Setting
from .stack import Stack
from .sync import bound_pub, connected_sub, endpoint_of

_DONTWAIT = int(zmq.DONTWAIT)


class Bare(Stack):
    """Round trips on one of the event loops; what it publishes in a flood is not measured."""

    def __init__(self, name: str, backend: str, *, use_uvloop: bool = False) -> None:
        self.name = f"bare {name}"
        self._backend = backend
        self._options: dict[str, Any] = {"use_uvloop": True} if use_uvloop else {}

    def publish(self, line: Line, setting: Setting) -> None:
        raise NotImplementedError

    def subscribe(self, line: Line, setting: Setting) -> None:
        raise NotImplementedError

    def ask(self, line: Line, setting: Setting) -> None:
        self._run(_ask, line, setting)

    def echo(self, line: Line, setting: Setting) -> None:
        self._run(_echo, line, setting)

    def _run(self, function: Callable[..., Awaitable[None]], *arguments: object) -> None:
        anyio.run(function, self._backend, *arguments, backend=self._backend, backend_options=self._options)


async def _ask(backend: str, line: Line, setting: Setting) -> None:
    pub = bound_pub(setting)
    receive = _receiver(backend, connected_sub(line.meet(endpoint_of(pub))))

    async def send(payload: bytes) -> None:
        pub.send(payload, _DONTWAIT)

    await talk.ask_async(line, send, receive)


async def _echo(backend: str, line: Line, setting: Setting) -> None:
    pub = bound_pub(setting)
    receive = _receiver(backend, connected_sub(line.meet(endpoint_of(pub))))
    while True:
        pub.send(await receive(), _DONTWAIT)


def _receiver(backend: str, sub: zmq.Socket[bytes]) -> Callable[[], Awaitable[bytes]]:
    return _on_trio(sub) if backend == "trio" else _on_asyncio(sub)


def _on_asyncio(sub: zmq.Socket[bytes]) -> Callable[[], Awaitable[bytes]]:
    import asyncio

    loop = asyncio.get_running_loop()
    frames: deque[bytes] = deque()
    arrived: asyncio.Future[None] | None = None

    def read() -> None:
        _drain(sub, frames)
        if frames and arrived is not None and not arrived.done():
            arrived.set_result(None)

    async def receive() -> bytes:
        nonlocal arrived
        while not frames:
            arrived = loop.create_future()
            await arrived
        return frames.popleft()

    loop.add_reader(int(sub.getsockopt(zmq.FD)), read)
    read()  # the descriptor tells edges only
    return receive


def _on_trio(sub: zmq.Socket[bytes]) -> Callable[[], Awaitable[bytes]]:
    import trio

    frames: deque[bytes] = deque()
    fd = int(sub.getsockopt(zmq.FD))

    async def receive() -> bytes:
        _drain(sub, frames)
        while not frames:
            await trio.lowlevel.wait_readable(fd)
            _drain(sub, frames)
        return frames.popleft()

    return receive


def _drain(sub: zmq.Socket[bytes], frames: deque[bytes]) -> None:
    try:
        while True:
            frames.append(sub.recv(_DONTWAIT))
    except zmq.Again:
        pass
