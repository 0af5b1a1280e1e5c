"""Raw pyzmq sockets that speak with gossip nodes, in the context of the process, and places to meet."""

from __future__ import annotations

import socket as plain
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

import anyio
import zmq

from zdisco import BindError
from zdisco._zmq.sockets import Socket, bind, connect

HELLO = b"\xaa\xa0\x01\x01"
PING = b"\xaa\xa0\x03\x01"
PONG = b"\xaa\xa0\x04\x01"
INVALID = b"\xaa\xa0\x05\x01"
ANYWHERE = "tcp://127.0.0.1:*"
TIMEOUT = 20.0
"""Seconds after which something that does not happen is missed."""


def publish(key: bytes, value: bytes, ttl: int = 0) -> bytes:
    """A PUBLISH as real nodes send it."""
    return (
        b"\xaa\xa0\x02\x01" + bytes([len(key)]) + key + len(value).to_bytes(4, "big") + value + ttl.to_bytes(4, "big")
    )


@contextmanager
def place(transport: str) -> Iterator[str]:
    """An endpoint to bind that nobody else uses."""
    match transport:
        case "tcp":
            # Whoever may share the port with it can bind it, and nobody else gets it while nobody does.
            with plain.socket() as holder:
                holder.setsockopt(plain.SOL_SOCKET, plain.SO_REUSEADDR, 1)
                holder.bind(("127.0.0.1", 0))
                yield f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        case "inproc":
            yield f"inproc://gossip-{uuid4()}"
        case _:
            # That of pytest may be longer than the path of a socket can be.
            with tempfile.TemporaryDirectory(prefix="zdisco-") as folder:
                yield f"ipc://{Path(folder) / 'gossip'}"


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds of which nobody tells."""
    with anyio.fail_after(TIMEOUT):
        while not holds():  # noqa: ASYNC110
            await anyio.sleep(0.002)


class Raw:
    """A socket with which a test does what it likes."""

    def __init__(self, kind: int, **options: int | bytes) -> None:
        self.socket = Socket(zmq.Context.instance().socket(kind), "raw")
        self.zmq.linger = 0
        for name, value in options.items():
            self.zmq.setsockopt(getattr(zmq, name), value)

    @property
    def zmq(self) -> zmq.Socket[bytes]:
        return self.socket.zmq

    def bind(self, endpoint: str) -> str:
        return bind(self.zmq, endpoint)

    async def bind_again(self, endpoint: str) -> None:
        """Bind where somebody else was bound until now."""

        def is_bound() -> bool:
            try:
                self.bind(endpoint)
            except BindError:
                return False
            return True

        await eventually(is_bound)

    def connect(self, endpoint: str) -> None:
        connect(self.zmq, endpoint)

    def send(self, *frames: bytes) -> None:
        self.zmq.send_multipart(frames, zmq.DONTWAIT)
        self.socket.sent()

    async def receive(self) -> list[bytes]:
        """The frames of the next message."""
        with anyio.fail_after(TIMEOUT):
            while not (frames := self.socket.receive_nowait(1)):
                await self.socket.wait()
        return frames

    async def until(self, frame: bytes) -> list[bytes]:
        """The last frames of the messages that come before one that ends with this frame."""
        frames: list[bytes] = []
        while (last := (await self.receive())[-1]) != frame:
            frames.append(last)
        return frames

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close(0)
