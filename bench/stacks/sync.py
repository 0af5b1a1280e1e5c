"""Plain loops over pyzmq sockets, without an event loop and without discovery: what every ratio is taken to."""

from __future__ import annotations

import zmq

from .. import line as talk
from ..line import END, Line, Setting
from .stack import Stack

SEND_HWM = 20_000
"""That of zdisco."""


class Sync(Stack):
    """PUB and SUB in blocking loops, one frame a message."""

    name = "sync"

    def publish(self, line: Line, setting: Setting) -> None:
        pub = bound_pub(setting)
        line.meet(endpoint_of(pub))

        def flood(payload: bytes, count: int) -> None:
            for _ in range(count):
                pub.send(payload)

        talk.publish(line, pub.send, flood)

    def subscribe(self, line: Line, setting: Setting) -> None:
        sub = connected_sub(line.meet())

        def count() -> int:
            received = 0
            while sub.recv() != END:
                received += 1
            return received

        talk.subscribe(line, sub.recv, count)

    def ask(self, line: Line, setting: Setting) -> None:
        pub = bound_pub(setting)
        sub = connected_sub(line.meet(endpoint_of(pub)))
        talk.ask(line, pub.send, sub.recv, lambda seconds: bool(sub.poll(round(seconds * 1000))))

    def echo(self, line: Line, setting: Setting) -> None:
        pub = bound_pub(setting)
        sub = connected_sub(line.meet(endpoint_of(pub)))
        while True:
            pub.send(sub.recv())


def bound_pub(setting: Setting) -> zmq.Socket[bytes]:
    """A PUB socket on a port of its own, which waits where a queue is full, if that is asked."""
    pub: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
    if setting.is_patient:
        pub.setsockopt(zmq.SNDHWM, SEND_HWM)
        pub.setsockopt(zmq.XPUB_NODROP, 1)
    pub.bind("tcp://127.0.0.1:*")
    return pub


def endpoint_of(pub: zmq.Socket[bytes]) -> str:
    """Where it is bound."""
    return pub.getsockopt_string(zmq.LAST_ENDPOINT)


def connected_sub(endpoints: list[str]) -> zmq.Socket[bytes]:
    """A SUB socket that is subscribed to all that comes from there."""
    sub: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    sub.setsockopt(zmq.SUBSCRIBE, b"")
    for endpoint in filter(None, endpoints):  # other subscribers bind nothing
        sub.connect(endpoint)
    return sub
