"""``zdisco proxy``, ``zdisco peer`` and ``zdisco names``: take part until a signal comes, then leave in order."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import anyio
from attrs import frozen

from .. import EventsDropped, MonitorEvent, NameResponder, Peer, PeerConfig, Proxy
from .lines import event_text, message_text, print_line, print_log, print_text
from .running import until_signalled

T = TypeVar("T")


async def serve_proxy(proxy: Proxy) -> None:
    """Relay until a signal comes."""
    async with until_signalled() as work, proxy:
        print_text(f"endpoint {proxy.endpoint}\nrelay {proxy.relay}")
        with work:
            await anyio.sleep_forever()
        print_text(f"relayed {proxy.relayed}\nrefused {sum(proxy.refused.values())}")


@frozen
class Errand:
    """What ``zdisco peer`` does besides being there."""

    topics: tuple[str, ...]
    """To subscribe to."""
    texts: Sequence[tuple[str, str]]
    """Topics and texts to publish ..."""
    every: float
    """... every so many seconds."""
    names: Sequence[tuple[str, str]]
    """Names and endpoints to register."""
    monitor: bool
    """Whether to print the events of the sockets."""

    @property
    def prefixes(self) -> list[str]:
        """The topics without those that another one covers, so that no message is printed twice."""
        topics = set(self.topics)
        return sorted(topic for topic in topics if not any(topic.startswith(other) for other in topics - {topic}))


async def serve_peer(peer: Peer, config: PeerConfig, errand: Errand) -> None:
    """Do the errand until a signal comes; print everything that happens."""
    print_log()
    print_line(f"Param:stopReconnectOnError={int(config.reconnect_stop)}")
    print_line(f"Process id={os.getpid()}")
    async with until_signalled() as work, anyio.create_task_group() as printers:
        # The streams end with the peer, and their printers with them.
        printers.start_soon(_print_all, peer.events(), event_text)
        if errand.monitor:
            printers.start_soon(_print_sockets, peer.monitor())
        async with peer, AsyncExitStack() as errands:
            with work:
                print_line(f"Peer {peer.id} with endpoint {peer.me.endpoint}")
                if peer.gossip is not None:
                    print_line(f"Gossip at {', '.join(peer.gossip.endpoints)}")
                # Before we are found, so that they are in force when the first peer joins.
                for prefix in errand.prefixes:
                    messages = await errands.enter_async_context(peer.subscribe(prefix))
                    printers.start_soon(_print_all, messages, message_text)
                for name, endpoint in errand.names:
                    await errands.enter_async_context(peer.register(name, endpoint))
                await peer.discover()
                await _publish(peer, errand)
    print_line("Exiting normally")


async def serve_names(peer: Peer, responder: NameResponder) -> None:
    """Tell programs where names lead until a signal comes, or the peer ends."""
    async with until_signalled() as work, peer, responder:
        print_text(f"endpoint {responder.endpoint}")
        with work:
            await peer.discover()
            async for _ in peer.events():
                pass
        print_text(f"answered {responder.answered}\nrefused {responder.refused}")


async def _print_all(stream: AsyncIterable[T], text: Callable[[T], str]) -> None:
    async for item in stream:
        print_line(text(item))


async def _print_sockets(stream: AsyncIterable[MonitorEvent | EventsDropped]) -> None:
    async for event in stream:
        if isinstance(event, MonitorEvent):
            print_text(str(event))
        else:
            print_line(f"Missed {event.count} socket events")


async def _publish(peer: Peer, errand: Errand) -> None:
    if not errand.texts:
        await anyio.sleep_forever()
    while True:
        for topic, text in errand.texts:
            await peer.publish(topic, text.encode(errors="surrogateescape"))
        await anyio.sleep(errand.every)
