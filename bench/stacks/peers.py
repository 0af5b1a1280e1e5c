"""zdisco: peers that publish and subscribe, message by message or in bulk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import repeat
from typing import Any

import anyio
from attrs import fields_dict

from zdisco import Peer, PeerConfig

from .. import line as talk
from ..line import END, Line, Setting
from .stack import Stack

DATA = "data"
THERE = "there"
BACK = "back"


class Peers(Stack):
    """Peers on one of the event loops."""

    share = 0.5

    def __init__(self, name: str, backend: str, *, use_uvloop: bool = False, in_bulk: bool = False) -> None:
        self.name = name
        self._backend = backend
        self._options: dict[str, Any] = {"use_uvloop": True} if use_uvloop else {}
        self._in_bulk = in_bulk

    def missing(self) -> str:
        has_bulk = hasattr(Peer, "publish_many") and hasattr(Peer("tcp://127.0.0.1:1").subscribe(""), "batches")
        return "this zdisco has no bulk calls" if self._in_bulk and not has_bulk else ""

    def publish(self, line: Line, setting: Setting) -> None:
        self._run(_publish, line, setting, self._in_bulk)

    def subscribe(self, line: Line, setting: Setting) -> None:
        self._run(_subscribe, line, setting, self._in_bulk)

    def ask(self, line: Line, setting: Setting) -> None:
        self._run(_ask, line, setting)

    def echo(self, line: Line, setting: Setting) -> None:
        self._run(_echo, line, setting)

    def _run(self, function: Callable[..., Awaitable[None]], *arguments: object) -> None:
        anyio.run(function, *arguments, backend=self._backend, backend_options=self._options)


@asynccontextmanager
async def _peer(setting: Setting) -> AsyncIterator[Any]:
    # Any, because the bulk calls and the way to wait are younger than the rest.
    waits = setting.is_patient and "overflow" in fields_dict(PeerConfig)
    options: dict[str, Any] = {"overflow": "wait"} if waits else {}
    async with Peer(setting.proxy, cluster=setting.cluster, config=PeerConfig(**options)) as peer:
        yield peer


async def _publish(line: Line, setting: Setting, in_bulk: bool) -> None:
    async with _peer(setting) as peer:
        line.meet()

        async def flood(payload: bytes, count: int) -> None:
            if in_bulk:
                await peer.publish_many(DATA, repeat(payload, count))
            else:
                for _ in range(count):
                    await peer.publish(DATA, payload)

        await talk.publish_async(line, lambda payload: peer.publish(DATA, payload), flood)


async def _subscribe(line: Line, setting: Setting, in_bulk: bool) -> None:
    async with _peer(setting) as peer, peer.subscribe(DATA) as messages:
        line.meet()

        async def receive() -> bytes:
            return bytes((await anext(messages)).payload)

        def told() -> int:
            return int(getattr(messages, "lost", 0)) + int(messages.dropped)

        await talk.subscribe_async(line, receive, lambda: (_count_in_bulk if in_bulk else _count)(messages), told)


async def _count(messages: Any) -> int:
    received = 0
    async for message in messages:
        if message.payload == END:
            break
        received += 1
    return received


async def _count_in_bulk(messages: Any) -> int:
    received = 0
    async for batch in messages.batches():
        for message in batch:
            if message.payload == END:
                return received
            received += 1
    return received


async def _ask(line: Line, setting: Setting) -> None:
    async with _peer(setting) as peer, peer.subscribe(BACK) as messages:
        line.meet()

        async def receive() -> bytes:
            return bytes((await anext(messages)).payload)

        await talk.ask_async(line, lambda payload: peer.publish(THERE, payload), receive)


async def _echo(line: Line, setting: Setting) -> None:
    async with _peer(setting) as peer, peer.subscribe(THERE) as messages:
        line.meet()
        async for message in messages:
            await peer.publish(BACK, message.payload)
