"""The least that a program must do with pyzmq alone: a peer of the classic protocol, without any safety."""

from __future__ import annotations

import struct
import time
import uuid
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

MESSAGE = struct.Struct("c37s257s")


def join(proxy: str, resident: str, told: Callable[[str], float]) -> float:
    """Find ``resident``, which is there already, and be found; the seconds until both are connected.

    Args:
        proxy: The well-known endpoint of the proxy.
        resident: The endpoint of the peer that we wait for.
        told: Given our id, waits until the resident told that we joined, and returns when.
    """
    began = time.monotonic()
    own = str(uuid.uuid4())
    context = zmq.Context()
    context.linger = 0
    data_pub, data_sub = context.socket(zmq.XPUB), context.socket(zmq.SUB)
    proxy_sub, proxy_pub = context.socket(zmq.SUB), context.socket(zmq.XPUB)
    data_pub.bind("tcp://127.0.0.1:*")
    endpoint = data_pub.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
    announce, farewell = (MESSAGE.pack(command, own.encode(), endpoint.encode()) for command in (b"C", b"D"))
    events = data_sub.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    proxy_sub.subscribe(b"")
    proxy_sub.connect(proxy)
    proxy_pub.connect(_until(proxy_sub, b"W", ""))
    proxy_pub.recv()
    proxy_pub.send(announce)
    data_sub.connect(_until(proxy_sub, b"C", resident))
    recv_monitor_message(events)
    data_pub.recv()
    both = max(time.monotonic(), told(own))
    proxy_pub.send(farewell)
    _until(proxy_sub, b"D", endpoint)
    data_sub.disable_monitor()
    context.destroy()
    return both - began


def _until(proxy_sub: zmq.Socket[bytes], command: bytes, wanted: str) -> str:
    while True:
        got, _, field = MESSAGE.unpack(proxy_sub.recv()[: MESSAGE.size])
        endpoint: str = field.partition(b"\0")[0].decode()
        if got == command and wanted in ("", endpoint):
            return endpoint


class Watcher:
    """A subscriber that sees the end of its connection to one publisher."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._sub = self._context.socket(zmq.SUB)
        self._sub.linger = 0
        self._events = self._sub.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._sub.connect(endpoint)
        recv_monitor_message(self._events)

    def ended(self) -> float:
        """Wait for the end of the connection; returns when it was seen."""
        recv_monitor_message(self._events)
        at = time.monotonic()
        self._sub.disable_monitor()
        self._context.destroy(0)
        return at
