"""The peer and the proxy of the classic protocol, written a second time, from its description alone.

They share no code with zdisco: plain synchronous pyzmq, and ``struct`` for the one message of 295
bytes. What the original programs do, right or wrong, these do too:

* the peer subscribes to everything, sends its C at each wake-up of its poll until it has seen its
  own C, answers the first C of a stranger with its own once, and never says anything on a welcome;
* what stands behind a NUL in a message is whatever the memory held;
* a message is cut at 295 bytes; of a shorter one the rest is what the message before left behind;
* each frame of a multipart message is taken for a message of its own;
* the proxy relays everything, a welcome of anybody, too.

Run one with ``python classic.py peer …`` or ``python classic.py proxy …``, or in a test with
`Program`. A peer reads commands from its standard input, one a line: ``leave``, ``publish TEXT``.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid
from datetime import datetime
from types import TracebackType
from typing import Self

import zmq

MESSAGE = struct.Struct("c37s257s")
assert MESSAGE.size == 295


def residue(text: bytes, size: int) -> bytes:
    """A string in its field: NUL behind it, then bytes that mean nothing."""
    rest = size - len(text) - 1
    return text + b"\0" + bytes(1 + byte % 255 for byte in os.urandom(rest))


def pack(command: str, id: str, endpoint: str) -> bytes:
    """One classic message."""
    return MESSAGE.pack(command.encode(), residue(id.encode(), 37), residue(endpoint.encode(), 257))


def unpack(frame: bytes) -> tuple[str, str, str]:
    """Command, id and endpoint of one classic message."""
    command, id, endpoint = MESSAGE.unpack(frame)
    return (
        command.decode(errors="replace"),
        id.partition(b"\0")[0].decode(errors="replace"),
        endpoint.partition(b"\0")[0].decode(errors="replace"),
    )


def log(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S.%f}\t{text}", flush=True)  # noqa: T201 - a program of its own


class Peer:
    """The classic peer."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.id: str = options.uuid or str(uuid.uuid4())
        self.poll: int = options.poll
        self.publish: str | None = options.publish
        self.every: float = options.every
        self.publishes_at = time.monotonic()
        self.is_leaving = False
        self.is_done = False
        self.known: dict[str, str] = {}
        self.buffer = bytearray(MESSAGE.size)
        context = zmq.Context()
        self.context = context
        self.data_pub = context.socket(zmq.PUB)
        self.data_sub = context.socket(zmq.SUB)
        self.proxy_pub = context.socket(zmq.PUB)
        self.proxy_sub = context.socket(zmq.SUB)
        for sub in (self.data_sub, self.proxy_sub):
            sub.setsockopt(zmq.SUBSCRIBE, b"")
        self.data_sub.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        for pub in (self.data_sub, self.proxy_pub):
            pub.setsockopt(zmq.RECONNECT_STOP, options.stop_reconnect_on)
        self.data_pub.bind("tcp://127.0.0.1:*")
        self.endpoint: str = self.data_pub.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self.proxy_sub.connect(options.proxy)
        log(f"I am {self.id} at {self.endpoint}")

    def run(self) -> None:
        woken, wake = os.pipe()
        signal.signal(signal.SIGTERM, lambda *_: os.write(wake, b"leave\n"))
        poller = zmq.Poller()
        for readable in (self.proxy_sub, self.data_sub, sys.stdin.fileno(), woken):
            poller.register(readable, zmq.POLLIN)
        while not self.is_done:
            self.say()
            ready = dict(poller.poll(self.timeout()))
            if self.proxy_sub in ready:
                self.hear(self.proxy_sub.recv())
            if self.data_sub in ready:
                log(f"Got data {self.data_sub.recv().hex()}")
            for descriptor in (sys.stdin.fileno(), woken):
                if descriptor in ready:
                    commands = os.read(descriptor, 65536)
                    if not commands:
                        poller.unregister(descriptor)
                    for line in commands.decode().splitlines():
                        self.obey(line)
        self.context.destroy(linger=100)
        log("Exiting normally")

    def timeout(self) -> int:
        return min(self.poll, int(self.every * 1000)) if self.publish is not None else self.poll

    def say(self) -> None:
        now = time.monotonic()
        if self.id not in self.known:
            self.announce()
        if self.is_leaving:
            self.proxy_pub.send(pack("D", self.id, self.endpoint))
            log("Sent D")
        if self.publish is not None and now >= self.publishes_at:
            self.publishes_at = now + self.every
            self.data_pub.send(self.publish.encode())

    def announce(self) -> None:
        self.proxy_pub.send(pack("C", self.id, self.endpoint))
        log("Sent C")

    def hear(self, frame: bytes) -> None:
        self.buffer[: len(frame)] = frame[: MESSAGE.size]
        del self.buffer[MESSAGE.size :]
        command, id, endpoint = unpack(bytes(self.buffer))
        log(f"Got {command} from {id} with endpoint {endpoint}")
        if command == "W":
            log(f"Connecting proxy pub to: {endpoint}")
            self.attempt(self.proxy_pub.connect, endpoint)
        elif command == "C" and id not in self.known:
            log(f"Connecting data sub to {endpoint}")
            self.attempt(self.data_sub.connect, endpoint)
            self.known[id] = endpoint
            if id != self.id:
                self.announce()
        elif command == "D" and id in self.known:
            log(f"Disconnecting data sub from {endpoint}")
            del self.known[id]
            self.attempt(self.data_sub.disconnect, endpoint)
            if id == self.id:
                log("Exiting - got disconnect msg")
                self.is_done = True

    @staticmethod
    def attempt(function: object, endpoint: str) -> None:
        try:
            assert callable(function)
            function(endpoint)
        except zmq.ZMQError as error:
            log(f"Error {error.errno}({error.strerror})")

    def obey(self, line: str) -> None:
        command, _, text = line.partition(" ")
        if command == "leave":
            self.is_leaving = True
        elif command == "publish":
            self.data_pub.send(text.encode())


def run_proxy(options: argparse.Namespace) -> None:
    """The classic proxy: relays all frames one way and all subscriptions the other."""
    context = zmq.Context()
    xpub, xsub = context.socket(zmq.XPUB), context.socket(zmq.XSUB)
    xsub.bind("tcp://127.0.0.1:*")
    relay = xsub.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
    id = str(uuid.uuid4())
    xpub.setsockopt(zmq.XPUB_WELCOME_MSG, pack("W", id, relay))
    xpub.bind(options.bind)
    log(f"Proxy {id} at {xpub.getsockopt_string(zmq.LAST_ENDPOINT)} relay {relay}")
    zmq.proxy(xpub, xsub)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", required=True)
    proxy = roles.add_parser("proxy")
    proxy.add_argument("--bind", default="tcp://127.0.0.1:*")
    peer = roles.add_parser("peer")
    peer.add_argument("proxy")
    peer.add_argument("--uuid")
    peer.add_argument("--poll", type=int, default=1000, help="milliseconds from one wake-up to the next")
    peer.add_argument("--publish", help="publish this text again and again")
    peer.add_argument("--every", type=float, default=0.02, help="seconds between two such messages")
    peer.add_argument("--stop-reconnect-on", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.role == "proxy":
        run_proxy(options)
    else:
        Peer(options).run()


class Program:
    """A process that a test has started, and the lines that it prints.

    Leaving the block kills it.
    """

    def __init__(self, *command: str) -> None:
        # A cut-off standard error would hide why a program did not start.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="lines of a program")
        self._reader.start()

    @classmethod
    def classic(cls, *arguments: str) -> Self:
        """One of the programs of this module."""
        return cls(sys.executable, __file__, *arguments)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def found(self, pattern: str) -> list[re.Match[str]]:
        """The lines, so far, that a pattern is found in."""
        return [match for line in list(self.lines) if (match := re.search(pattern, line))]

    def wait_for(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """Block until a line matches."""
        end = time.monotonic() + timeout
        with self._changed:
            while not (matches := self.found(pattern)):
                remaining = end - time.monotonic()
                if self._ended or remaining <= 0:
                    raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self.lines))
                self._changed.wait(remaining)
            return matches[0]

    def tell(self, command: str) -> None:
        """Write one line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it as ``kill -9`` does, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Stranger:
    """Somebody on the bus who says anything, and hears everything."""

    def __init__(self, proxy: str, relay: str) -> None:
        self._context = zmq.Context()
        self._pub = self._context.socket(zmq.XPUB)
        self._pub.setsockopt(zmq.SNDHWM, 0)
        self._pub.connect(relay)
        self._sub = self._context.socket(zmq.SUB)
        self._sub.setsockopt(zmq.RCVHWM, 0)
        self._sub.setsockopt(zmq.SUBSCRIBE, b"")
        self._sub.connect(proxy)

    @property
    def is_heard(self) -> bool:
        """Whether the proxy has subscribed: from now on nothing that we say is lost on the way to it."""
        return bool(self._pub.poll(0))

    def send(self, *frames: bytes) -> None:
        self._pub.send_multipart(frames)

    def say(self, command: str, id: uuid.UUID, endpoint: str) -> None:
        self.send(pack(command, str(id), endpoint))

    def heard(self) -> list[bytes]:
        """What came since the last call."""
        frames = []
        while self._sub.poll(0):
            frames.append(self._sub.recv())
        return frames

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)


if __name__ == "__main__":
    main()
