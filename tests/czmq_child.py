"""Real nodes of zgossip in a process of its own, for tests and the bench: orders come in on stdin, answers go out.

    python czmq_child.py COUNT

Each line is one JSON object, both ways. Bytes stand in it as the text with the same code points.

Orders, each with a number ``id`` and the number ``node`` of a node:

* ``{"do": "bind", "endpoint": ...}``, answered with the port;
* ``{"do": "connect", "endpoint": ...}``, ``{"do": "publish", "tuples": [[KEY, VALUE], ...]}``, ``{"do": "set",
  "path": ..., "value": ...}`` and ``status``, answered with the number of keys that the node holds;
* ``tuples`` and ``delivered``, answered with what the node has delivered, or how often;
* ``{"do": "wait", "key": ..., "value": ...}`` until that is the tuple, ``{"do": "count", "count": ...}`` until
  there are so many keys, ``{"do": "deliveries", "count": ...}`` until it has delivered so often, answered with
  the monotonic time when it was so;
* ``stop``.

Each is answered once, with its ``id``: ``{"answer": ...}``, or ``{"dead": true}`` if the node's reactor has
ended. All but the last two kinds are answered when the node has done what it was told, and what it delivered
until then has been read. A node whose reactor ends is told of, too: ``{"died": NODE}``.

Rule 1: one thread, one poll. What a node delivers is read whenever there is something, and only counted and
kept: a node that is not read comes to a halt.

Rule 2: nothing is waited for but the poll. An order that a node has no room for stays with us, since the
node may itself be waiting for us to read.

Rule 3: it ends when its input ends, by a signal, or with the library when that aborts.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import sys
import time
from collections import deque
from typing import Any

LIBRARY = "libczmq.so.4"
ZEROMQ = "libzmq.so.5"
"""The one that the library is linked with, not that of pyzmq."""

POLLIN, POLLOUT = 1, 2
DONTWAIT, SNDMORE = 1, 2
RCVMORE = 13
LARGEST = 64 << 20
"""Bytes of the longest frame that a node may deliver."""
AT_ONCE = 500
"""Messages that are read of one node before the others have their turn."""
ENDED = (0x7766554433221100).to_bytes(8, sys.byteorder)
"""The signal of an actor that has ended."""


class PollItem(ctypes.Structure):
    """``zmq_pollitem_t``."""

    _fields_ = (
        ("socket", ctypes.c_void_p),
        ("fd", ctypes.c_int),
        ("events", ctypes.c_short),
        ("revents", ctypes.c_short),
    )


class Library:
    """The few functions that we call."""

    def __init__(self) -> None:
        os.environ["ZSYS_SIGHANDLER"] = "false"
        czmq, zeromq = ctypes.CDLL(LIBRARY), ctypes.CDLL(ZEROMQ)
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self.zgossip = ctypes.cast(czmq.zgossip, pointer)
        self.zactor_new = czmq.zactor_new
        self.zactor_new.restype, self.zactor_new.argtypes = pointer, (pointer, ctypes.c_char_p)
        self.zactor_destroy = czmq.zactor_destroy
        self.zactor_destroy.restype, self.zactor_destroy.argtypes = None, (ctypes.POINTER(pointer),)
        self.zsock_resolve = czmq.zsock_resolve
        self.zsock_resolve.restype, self.zsock_resolve.argtypes = pointer, (pointer,)
        self.zmq_send = zeromq.zmq_send
        self.zmq_send.argtypes = (pointer, ctypes.c_char_p, size, number)
        self.zmq_recv = zeromq.zmq_recv
        self.zmq_recv.argtypes = (pointer, pointer, size, number)
        self.zmq_getsockopt = zeromq.zmq_getsockopt
        self.zmq_getsockopt.argtypes = (pointer, number, ctypes.POINTER(number), ctypes.POINTER(size))
        self.zmq_poll = zeromq.zmq_poll
        self.zmq_poll.argtypes = (ctypes.POINTER(PollItem), number, ctypes.c_long)
        # Zero is "as many as there can be"; the default is 1024, and a node takes about ten.
        czmq.zsys_set_max_sockets.restype, czmq.zsys_set_max_sockets.argtypes = None, (size,)
        czmq.zsys_set_max_sockets(0)
        czmq.zsys_handler_set.restype, czmq.zsys_handler_set.argtypes = None, (pointer,)
        czmq.zsys_handler_set(None)
        self._memory = mmap.mmap(-1, LARGEST)
        self._buffer = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._more, self._more_size = number(), size(ctypes.sizeof(number))

    def send(self, socket: int, frames: list[bytes]) -> bool:
        """Whether there was room for the message."""
        for index, frame in enumerate(frames):
            flags = DONTWAIT | (SNDMORE if index + 1 < len(frames) else 0)
            if self.zmq_send(socket, frame, len(frame), flags) == -1:
                assert index == 0, "a message was cut off"
                return False
        return True

    def receive(self, socket: int) -> list[bytes] | None:
        """The next message, if there is one."""
        frames: list[bytes] = []
        while True:
            length = self.zmq_recv(socket, self._buffer, LARGEST, DONTWAIT)
            if length == -1:
                assert not frames, "a message was cut off"
                return None
            assert length <= LARGEST
            frames.append(ctypes.string_at(self._buffer, length))
            self.zmq_getsockopt(socket, RCVMORE, ctypes.byref(self._more), ctypes.byref(self._more_size))
            if not self._more.value:
                return frames


class Node:
    """One actor, and what it delivered."""

    def __init__(self, library: Library, number: int, tell: Tell) -> None:
        self._library = library
        self._number = number
        self._tell = tell
        self._actor = library.zactor_new(library.zgossip, b"node %d" % number)
        assert self._actor, "no actor could be made"
        self.socket: int = library.zsock_resolve(self._actor)
        self.is_dead = False
        self.outgoing: deque[list[bytes]] = deque()
        # The orders whose answers the node owes, in the order of its answers.
        self._asked: deque[dict[str, Any]] = deque()
        self._waiting: list[dict[str, Any]] = []
        self._tuples: dict[bytes, bytes] = {}
        self._delivered = 0

    def obey(self, order: dict[str, Any]) -> None:
        """Do it, or ask the node to; answers at once where the node has no answer to it."""
        if self.is_dead:
            self._tell(id=order["id"], dead=True)
            return
        match order["do"]:
            case "wait" | "count" | "deliveries":
                self._waiting.append(order)
                self._look()
            case "stop":
                self._stop(order)
            case _:
                # To most commands a node says nothing, so it is asked for something that it does say.
                self.outgoing += [*self._messages(order), [b"PORT" if order["do"] == "bind" else b"STATUS"]]
                self._asked.append(order)
                self.flush()

    @staticmethod
    def _messages(order: dict[str, Any]) -> list[list[bytes]]:
        match order["do"]:
            case "bind":
                return [[b"BIND", raw(order["endpoint"])]]
            case "connect":
                return [[b"CONNECT", raw(order["endpoint"])]]
            case "set":
                return [[b"SET", raw(order["path"]), raw(order["value"])]]
            case "publish":
                return [[b"PUBLISH", raw(key), raw(value)] for key, value in order["tuples"]]
            case "status" | "tuples" | "delivered":
                return []
        raise AssertionError(order)

    def flush(self) -> None:
        """Hand over what there is room for."""
        while self.outgoing and self._library.send(self.socket, self.outgoing[0]):
            self.outgoing.popleft()

    def _stop(self, order: dict[str, Any]) -> None:
        # It waits for the actor's end, and reads what the actor says until then.
        self._library.zactor_destroy(ctypes.byref(ctypes.c_void_p(self._actor)))
        self._die()
        self._tell(id=order["id"], answer=None)

    def read(self) -> None:
        """Take what it says."""
        for _ in range(AT_ONCE):
            frames = self._library.receive(self.socket)
            match frames:
                case None:
                    break
                case [b"DELIVER", key, value]:
                    self._delivered += 1
                    self._tuples[key] = value
                case [b"STATUS" | b"PORT", number]:
                    self._answer(int(number))
                case [signal] if signal == ENDED:
                    self._die()
                    return
                case _:
                    raise AssertionError(f"a node said {frames}")
        self._look()

    def _answer(self, number: int) -> None:
        order = self._asked.popleft()
        match order["do"]:
            case "tuples":
                answer: object = [[text(key), text(value)] for key, value in self._tuples.items()]
            case "delivered":
                answer = self._delivered
            case _:
                answer = number
        self._tell(id=order["id"], answer=answer)

    def _look(self) -> None:
        """Answer who waits for what is there now."""
        if not self._waiting:
            return
        now, waiting = time.monotonic(), self._waiting
        self._waiting = []
        for order in waiting:
            if self._holds(order):
                self._tell(id=order["id"], answer=now)
            else:
                self._waiting.append(order)

    def _holds(self, order: dict[str, Any]) -> bool:
        match order["do"]:
            case "count":
                return len(self._tuples) >= int(order["count"])
            case "deliveries":
                return self._delivered >= int(order["count"])
            case _:
                return self._tuples.get(raw(order["key"])) == raw(order["value"])

    def _die(self) -> None:
        self.is_dead = True
        self.outgoing.clear()
        for order in (*self._asked, *self._waiting):
            self._tell(id=order["id"], dead=True)
        self._tell(died=self._number)


def raw(text: str) -> bytes:
    return text.encode("latin-1")


def text(raw: bytes) -> str:
    return raw.decode("latin-1")


class Tell:
    """Writes the answers, where the library's own log cannot come between them."""

    def __init__(self) -> None:
        # A node makes the standard output the library's log.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def __call__(self, **facts: object) -> None:
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()


class Orders:
    """The lines of the standard input."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self) -> list[dict[str, Any]] | None:
        """What came; nothing more will if it is None."""
        read = os.read(0, 1 << 20)
        if not read:
            return None
        *lines, self._rest = (self._rest + read).split(b"\n")
        return [json.loads(line) for line in lines]


def serve(count: int) -> None:
    tell, orders, library = Tell(), Orders(), Library()
    nodes = [Node(library, number, tell) for number in range(count)]
    tell(ready=count)
    while True:
        alive = [node for node in nodes if not node.is_dead]
        items = (PollItem * (1 + len(alive)))(PollItem(None, 0, POLLIN, 0))
        for item, node in zip(items[1:], alive, strict=True):
            item.socket = node.socket
            item.events = POLLIN | (POLLOUT if node.outgoing else 0)
        library.zmq_poll(items, len(items), -1)
        for item, node in zip(items[1:], alive, strict=True):
            if item.revents & POLLOUT:
                node.flush()
            if item.revents & POLLIN:
                node.read()
        if items[0].revents:
            read = orders.read()
            if read is None:
                return
            for order in read:
                nodes[order["node"]].obey(order)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    serve(int(sys.argv[1]))
    # What the library has open goes with the process; to take it down in order may wait for a node.
    os._exit(0)


if __name__ == "__main__":
    main()
