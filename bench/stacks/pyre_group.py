"""Pyre, the Python edition of Zyre: shouts in a group.

Rule: nothing leaves the machine. Pyre beacons on the first interface that is not the loopback
one, and binds to all; here it is told otherwise, see `stay_on_loopback`.
"""

from __future__ import annotations

import importlib.util
import ipaddress
from collections.abc import Callable
from typing import Any

import zmq

from .. import line as talk
from ..line import END, Line, Setting
from .stack import Stack

GROUP = "bench"
SILENCE = 2000
"""Milliseconds. A Pyre node whose queue to a peer is full gives that peer up, so `END` may never come."""


class Pyre(Stack):
    """Nodes in one group. A publisher shouts, a subscriber reads its inbox."""

    name = "Pyre"
    share = 0.05

    def missing(self) -> str:
        return "" if importlib.util.find_spec("pyre") else "zeromq-pyre is not installed"

    def publish(self, line: Line, setting: Setting) -> None:
        node = _node(setting, len(line.meet()))

        def flood(payload: bytes, count: int) -> None:
            for _ in range(count):
                node.shout(GROUP, payload)

        talk.publish(line, lambda payload: node.shout(GROUP, payload), flood)

    def subscribe(self, line: Line, setting: Setting) -> None:
        node = _node(setting, len(line.meet()))

        def count() -> int:
            received = 0
            node.inbox.rcvtimeo = SILENCE
            try:
                while True:
                    kind, *_, payload = node.recv()
                    if payload == END:
                        return received
                    received += kind == b"SHOUT"
            except zmq.Again:
                return received
            finally:
                node.inbox.rcvtimeo = -1

        talk.subscribe(line, _receive(node), count)

    def ask(self, line: Line, setting: Setting) -> None:
        node = _node(setting, len(line.meet()))

        def hears(seconds: float) -> bool:
            return bool(node.inbox.poll(round(seconds * 1000)))

        talk.ask(line, lambda payload: node.shout(GROUP, payload), _receive(node), hears)

    def echo(self, line: Line, setting: Setting) -> None:
        node = _node(setting, len(line.meet()))
        receive = _receive(node)
        while True:
            node.shout(GROUP, receive())


def _node(setting: Setting, others: int) -> Any:
    """A node that knows all the others to be in the group."""
    import pyre

    stay_on_loopback()
    node = pyre.Pyre()
    node.set_port(str(setting.beacon_port).encode())
    node.join(GROUP)
    node.start()
    while others:
        others -= node.recv()[0] == b"JOIN"
    return node


def _receive(node: Any) -> Callable[[], bytes]:
    def receive() -> bytes:
        while True:
            kind, *_, payload = node.recv()
            if kind == b"SHOUT":
                return bytes(payload)

    return receive


def stay_on_loopback() -> None:
    """Beacon to the broadcast address of the loopback network, and bind to 127.0.0.1."""
    from pyre.zbeacon import ZBeacon

    def prepare(beacon: Any) -> None:
        network = ipaddress.ip_network("127.0.0.0/8")
        beacon.address = "127.0.0.1"
        beacon.network_address, beacon.broadcast_address = network.network_address, network.broadcast_address
        beacon.interface_name = "loopback"

    bind = zmq.Socket.bind_to_random_port

    def bind_here(socket: zmq.Socket[bytes], address: str) -> int:
        return bind(socket, address.replace("*", "127.0.0.1"))

    ZBeacon._prepare_socket = prepare
    zmq.Socket.bind_to_random_port = bind_here  # type: ignore[method-assign, assignment]
