"""The interface between a peer and its two channels, so that an in-memory pair can stand in; and that of gossip nodes.

Rule 1: a channel calls its listener synchronously, in the step that read the socket; there is
no queue and no ``await`` in between, so cancelling a channel loses nothing.

Rule 2: what a channel is told to do never waits and never fails; what comes of it arrives at
the listener. The exception is what the application publishes: it may have to wait.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from ._core.actions import Drop
from ._core.gossip.talk import Link
from ._core.model import Endpoint, Probe
from ._zmq.monitor import MonitorEvent


class ProxyListener(Protocol):
    """What a proxy channel tells."""

    def proxy_frames(self, proxy: Endpoint, frames: Sequence[bytes]) -> None:
        """Discovery messages arrived at `proxySub`, in order, after what the monitor knew before them."""

    def proxy_down(self, proxy: Endpoint) -> None:
        """The connection of `proxySub` ended."""

    def relay_up(self, proxy: Endpoint) -> None:
        """`proxyPub` got a subscription that covers announces."""

    def relay_down(self, proxy: Endpoint) -> None:
        """The connection of `proxyPub` ended."""

    def dropped(self, drop: Drop, detail: str = "") -> None:
        """Something was dropped before it could be told."""

    def observed(self, event: MonitorEvent) -> None:
        """A socket event, whatever else it meant."""


class ProxyChannel(ABC):
    """The connection to one proxy: `proxySub` at its well-known endpoint, `proxyPub` at the one its welcome names."""

    endpoint: Endpoint
    """The well-known endpoint, as given."""

    @abstractmethod
    async def run(self, listener: ProxyListener) -> None:
        """Tell ``listener`` what happens until cancelled. Cancellation: safe, at any time."""

    @abstractmethod
    def follow(self, relay: Endpoint) -> None:
        """Disconnect `proxyPub` from where it was, if anywhere, and connect it to ``relay``."""

    @abstractmethod
    def reconnect(self) -> None:
        """Connect `proxySub` anew; nobody is told that the former connection ended."""

    @abstractmethod
    def send(self, frame: bytes) -> None:
        """Publish one discovery message through `proxyPub`."""

    @abstractmethod
    def close(self) -> None:
        """Close both sockets and their monitors. Idempotent."""


class DataListener(Protocol):
    """What a data channel tells."""

    def data_frames(self, frames: Sequence[bytes], most: int) -> tuple[int, int]:
        """Frames arrived at `dataSub`, in the order of each publisher.

        Args:
            frames: Any number of them.
            most: Messages after which no more frames are taken; one frame may hold several.

        Returns:
            How many frames were taken, and how many messages they held.
        """

    def subscribed(self, topic: bytes) -> None:
        """Somebody's subscription to ``topic`` is in force at `dataPub`; every single one is told."""

    def unsubscribed(self, topic: bytes) -> None:
        """Somebody's subscription to ``topic`` ended."""

    def link_up(self, endpoint: Endpoint) -> None:
        """The ZMTP handshake with the peer at ``endpoint`` succeeded."""

    def link_down(self, endpoint: Endpoint) -> None:
        """The connection to ``endpoint`` ended, or an attempt failed."""

    def link_retried(self, endpoint: Endpoint) -> None:
        """libzmq will try ``endpoint`` again."""

    def link_rejected(self, endpoint: Endpoint) -> None:
        """The ZMTP handshake with ``endpoint`` failed."""

    def drained(self, endpoint: Endpoint) -> None:
        """What the peer at ``endpoint`` had sent has been told, and the connection is gone."""

    def dropped(self, drop: Drop, detail: str = "") -> None:
        """Something was dropped before it could be told."""

    def observed(self, event: MonitorEvent) -> None:
        """A socket event, whatever else it meant."""


class Lead(Protocol):
    """Lets whoever waits for a message read the socket meanwhile: that saves a switch from one task to another."""

    @property
    def is_free(self) -> bool:
        """Whether `read` may be called now."""

    async def read(self, has_come: Callable[[], bool]) -> None:
        """Read until something has come, or it can lead no more; `is_free` is false then. Cancellation: safe."""

    def wake(self) -> None:
        """Let `read` look whether something has come."""


class DataChannel(ABC):
    """`dataPub`, bound at ``endpoint``, and `dataSub`, connected to every other peer."""

    endpoint: Endpoint
    """Where `dataPub` listens, resolved; `rebind` changes it."""
    publish: Callable[[bytes], bool]
    """Publishes a data frame; false if it would have to wait, which only ``overflow="wait"`` makes it.

    `published` must be called after it, once for several frames. Raises `ClosedError` if the channel
    is closed. It is called for each message, so it is no method that calls another.
    """
    lead: Lead | None = None
    """For event loops on which a switch of tasks costs much."""
    clock: Callable[[], float] = time.perf_counter
    """Seconds, by which a publisher knows how fast messages come."""

    @abstractmethod
    async def run(self, listener: DataListener) -> None:
        """Tell ``listener`` what happens until cancelled. Cancellation: safe, at any time."""

    @abstractmethod
    def rebind(self, host: str) -> None:
        """Let `dataPub` listen at another address of this machine, at the same port if that is free there.

        Raises:
            BindError: If the address cannot be bound; then nothing has changed.
            ClosedError: If the channel is closed.
        """

    @abstractmethod
    def connect(self, endpoint: Endpoint) -> None:
        """Connect `dataSub`; nothing happens if it is connected there already."""

    @abstractmethod
    def disconnect(self, endpoint: Endpoint) -> None:
        """Disconnect `dataSub` at once; what was not read is lost. Nothing happens if it is not connected there."""

    @abstractmethod
    def drain(self, endpoint: Endpoint, sender: bytes) -> None:
        """Tell what the peer had sent, disconnect in the step that found no more, tell `drained`.

        ``sender`` stands in each frame of the peer; empty means a classic peer, whose frames
        carry no name. Ends under traffic, too: as many consecutive frames as there are
        connections plus one, none of them from the peer, prove its queue empty.
        """

    @abstractmethod
    def subscribe(self, topic: bytes) -> None:
        """Subscribe `dataSub` to a prefix. The caller counts users: call once for each prefix."""

    @abstractmethod
    def unsubscribe(self, topic: bytes) -> None:
        """Take the subscription of a prefix back."""

    @abstractmethod
    def send(self, frame: bytes) -> None:
        """Publish a control frame. Never waits: it is dropped for a subscriber whose queue is full.

        With ``overflow="wait"`` it finds room where data does not, for as many frames again.
        """

    @abstractmethod
    def published(self) -> None:
        """Something was published."""

    @abstractmethod
    async def writable(self) -> None:
        """Wait until `publish` is worth another try, in the order of coming; call it in the step in which this returns.

        Raises:
            ClosedError: If the channel is, or gets, closed.

        Cancellation: safe; who comes next does not wait longer.
        """

    @abstractmethod
    def rouse(self) -> None:
        """Let all who wait in `writable` return now, one after the other."""

    @abstractmethod
    def shut(self, peer: bytes) -> None:
        """End the connections of those who subscribed to the inbox of this peer (16 bytes), where that is possible.

        What waits there is lost, and nobody waits for it any more. The peer may connect again.
        """

    @abstractmethod
    async def probe(self, endpoint: Endpoint) -> Probe:
        """Try a plain connection to ``endpoint``. Cancellation: safe."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close both sockets and their monitors after what was sent has left, or the linger time ended. Idempotent."""


class Network(ABC):
    """Makes the channels of one peer, and closes what they share."""

    @abstractmethod
    async def data_channel(self, host: str, port: int) -> DataChannel:
        """Bind a data channel; port 0 is any.

        Raises:
            BindError: If the address cannot be bound.
            SocketLimitError: If there are no sockets or descriptors left.
        """

    @abstractmethod
    def proxy_channel(self, endpoint: Endpoint) -> ProxyChannel:
        """Make the channel to one proxy, which connects at once.

        Raises:
            InvalidEndpoint: If it cannot connect to such an endpoint.
            SocketLimitError: If there are no sockets or descriptors left.
        """

    @abstractmethod
    async def local_address(self, proxies: Sequence[Endpoint]) -> str:
        """The local address that routes to the first of the proxies that can be reached.

        Raises:
            BindError: If none leads to a proxy.
        """

    @abstractmethod
    def has_address(self, host: str) -> bool:
        """Whether a numeric host is an address of this machine now."""

    @abstractmethod
    async def resolve(self, endpoint: Endpoint) -> Endpoint | None:
        """Look the host name of an endpoint up; the numeric spelling, or ``None`` if there is none."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close what the channels shared, after the channels themselves."""


class Sent(Enum):
    """What became of a frame of a gossip node."""

    SENT = "it is on its way"
    FULL = "it would have to wait"
    UNREACHABLE = "that client is gone"


class GossipListener(Protocol):
    """What a gossip channel tells."""

    def gossip_messages(self, messages: Sequence[tuple[Link, bytes]]) -> None:
        """Frames arrived, with the clients or the remote that sent them; in the order of each sender."""

    def remote_up(self, link: int) -> None:
        """A connection to the remote is there, a new one if there was one before."""

    def remote_down(self, link: int) -> None:
        """The connection to the remote ended; what it had brought has been told."""

    def client_gone(self, link: bytes) -> None:
        """The connection of a client ended, as far as it can be told which client that was."""

    def dropped(self, drop: Drop, detail: str = "") -> None:
        """Something was dropped before it could be told."""


class GossipChannel(ABC):
    """The connections of one gossip node: those that its clients make, and those that it makes to remotes."""

    @abstractmethod
    async def run(self, listener: GossipListener) -> None:
        """Tell ``listener`` what happens until cancelled, or until `close`. Cancellation: safe, at any time."""

    @abstractmethod
    def bind(self, endpoint: Endpoint) -> Endpoint:
        """Let clients connect there, too; returns the endpoint as it is resolved.

        Raises:
            BindError: If it cannot be bound.
            SocketLimitError: If there are no sockets or descriptors left.
            ClosedError: If the channel is closed.
        """

    @abstractmethod
    def connect(self, link: int, endpoint: Endpoint, server_key: bytes | None = None) -> None:
        """Connect to a remote, and for ever again when the connection ends.

        Args:
            link: A number that no other remote has had.
            endpoint: Where it is bound.
            server_key: Its public key, if it wants CURVE.

        Raises:
            InvalidEndpoint: If it cannot connect to such an endpoint.
            SocketLimitError: If there are no sockets or descriptors left.
            ClosedError: If the channel is closed.
        """

    @abstractmethod
    def disconnect(self, link: int) -> None:
        """Have this remote no longer. Nothing more is told of it, `remote_down` neither."""

    @abstractmethod
    def reconnect(self, link: int) -> None:
        """Throw the connection to a remote away, with what waits in it, and make a new one."""

    @abstractmethod
    def send(self, link: Link, frame: bytes) -> Sent:
        """Send one frame to a remote that is up, or to a client. Never waits."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections, and end `run`; what was sent goes on leaving for the linger time. Idempotent."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close all when `run` has ended, and wait until what was sent has left, or the linger time ended. Idempotent.

        Cancellation: waits to the end all the same.
        """
