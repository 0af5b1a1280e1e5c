"""Peers of one in-memory network for tests, and what is read from their streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint
from trio.testing import MockClock

from zdisco import BindError, Event, Peer, PeerConfig, Stream
from zdisco._channels import Network
from zdisco._core.envelope import ControlFrame, Kind, split
from zdisco._core.model import Endpoint
from zdisco.testing import MemoryNetwork, _PeerNetwork

JUMPING = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="trio-jumping")]
)
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
PROXY = "tcp://127.0.0.1:5555"
LIMIT = 30.0
E = TypeVar("E", bound=Event)
T = TypeVar("T")


@asynccontextmanager
async def mesh(*names: str, net: MemoryNetwork | None = None, **arguments: Any) -> AsyncIterator[list[Peer]]:
    """Peers of which each has joined all others; without ``net``, in a network of their own with a proxy."""
    async with AsyncExitStack() as stack:
        if net is None:
            net = MemoryNetwork()
            await stack.enter_async_context(net.proxy())
        peers = [await stack.enter_async_context(Peer(PROXY, name=name, network=net, **arguments)) for name in names]
        for peer in peers:
            await peer.wait_for(len(peers) - 1, timeout=LIMIT)
        yield peers


async def take(stream: Stream[T], count: int) -> list[T]:
    items: list[T] = []
    with anyio.fail_after(LIMIT):
        while len(items) < count:
            items.append(await anext(stream))
    return items


async def next_of(stream: Stream[Event], kind: type[E]) -> E:
    """The next event of a kind; those before it are passed over."""
    with anyio.fail_after(LIMIT):
        async for event in stream:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the stream ended without {kind.__name__}")


def lose_confirmations(monkeypatch: pytest.MonkeyPatch, sender: Peer, count: int) -> list[bytes]:
    """Let a peer's first confirmations be lost; returns what will be those that were."""
    channel, lost = sender._opened.data, list[bytes]()
    send = channel.send

    def lossy(frame: bytes) -> None:
        parts = split(frame)
        if isinstance(parts, ControlFrame) and parts.kind is Kind.CONFIRM and len(lost) < count:
            lost.append(frame)
        else:
            send(frame)

    monkeypatch.setattr(channel, "send", lossy)
    return lost


async def turn_until(holds: Callable[[], bool]) -> None:
    """Let others run until something holds."""
    with anyio.fail_after(LIMIT):
        while not holds():
            await checkpoint()


class Machine:
    """A network in memory, as one machine sees it that may have another address at any time."""

    def __init__(self, net: MemoryNetwork, address: str) -> None:
        self.net = net
        self.address = address

    def __call__(self, config: PeerConfig) -> Network:
        return _Network(self, config)


class _Network(_PeerNetwork):
    def __init__(self, machine: Machine, config: PeerConfig) -> None:
        super().__init__(machine.net, config)
        self._machine = machine

    async def local_address(self, proxies: Sequence[Endpoint]) -> str:
        if not self._machine.address:
            raise BindError("tcp://*", 0, "no way")
        return self._machine.address

    def has_address(self, host: str) -> bool:
        return host == self._machine.address
