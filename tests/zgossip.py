"""The protocol of zgossip by hand, for tests that look at what a node sends: frames, a raw client, a raw server.

Its frames are made here a second time, from the description of the protocol alone.
"""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Self

import zmq

HELLO, PING, PONG, INVALID = (b"\xaa\xa0" + bytes([number, 1]) for number in (1, 3, 4, 5))
LIMIT = 10_000
"""Milliseconds after which a frame that does not come never will."""


def publish(key: bytes, value: bytes, ttl: int = 0) -> bytes:
    """The frame of one tuple."""
    return (
        b"\xaa\xa0\x02\x01" + bytes([len(key)]) + key + struct.pack(">I", len(value)) + value + struct.pack(">I", ttl)
    )


class Raw:
    """One socket that never drops, in a context of its own."""

    def __init__(self, kind: int, *, rcvhwm: int = 0) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._socket.sndhwm = 0
        self._socket.rcvhwm = rcvhwm

    def send(self, *frames: bytes) -> None:
        """Send messages of one frame each."""
        for frame in frames:
            self._socket.send(frame)

    def send_whole(self, *frames: bytes) -> None:
        """Send one message of several frames, which no node does."""
        self._socket.send_multipart(frames)

    def receive(self) -> bytes:
        """The next frame."""
        assert self._socket.poll(LIMIT), "nothing came"
        return self._socket.recv()

    def receive_until(self, last: bytes) -> list[bytes]:
        """What comes before that frame."""
        frames = []
        while (frame := self.receive()) != last:
            frames.append(frame)
        return frames

    def waits(self) -> bool:
        """Whether nothing has come that was not received."""
        return not self._socket.poll(0)

    def close(self) -> None:
        """When this returns, nothing listens there any more."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RawClient(Raw):
    """A DEALER that is connected to a server, and has said nothing yet."""

    def __init__(self, endpoint: str, *, rcvhwm: int = 0) -> None:
        super().__init__(zmq.DEALER, rcvhwm=rcvhwm)
        self._socket.connect(endpoint)

    def ping(self) -> list[bytes]:
        """What comes before the PONG: the answer to all that was sent before."""
        self.send(PING)
        return self.receive_until(PONG)

    def join(self) -> list[bytes]:
        """Say HELLO; returns what comes then."""
        self.send(HELLO)
        return self.ping()


class RawServer(Raw):
    """A ROUTER for one client at a time: it answers the one that it heard last."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:*") -> None:
        super().__init__(zmq.ROUTER)
        self._socket.router_mandatory = True
        self._socket.bind(endpoint)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._client = b""

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._socket.send_multipart([self._client, frame])

    def send_whole(self, *frames: bytes) -> None:
        self._socket.send_multipart([self._client, *frames])

    def receive(self) -> bytes:
        assert self._socket.poll(LIMIT), "nothing came"
        self._client, frame = self._socket.recv_multipart()
        return frame

    def reset(self) -> list[bytes]:
        """Send INVALID; returns what comes before the HELLO that a client answers it with."""
        self.send(INVALID)
        return self.receive_until(HELLO)
