"""The same loops with ``zmq.asyncio``, which comes with pyzmq."""

from __future__ import annotations

import asyncio

import zmq
import zmq.asyncio

from .. import line as talk
from ..line import END, Line, Setting
from .stack import Stack
from .sync import SEND_HWM


class ZmqAsyncio(Stack):
    """PUB and SUB of ``zmq.asyncio``, awaited message by message.

    With ``XPUB_NODROP`` its ``send`` raises instead of waiting, so it drops what finds no room.
    """

    name = "zmq.asyncio"
    share = 0.1

    def publish(self, line: Line, setting: Setting) -> None:
        asyncio.run(_publish(line, setting))

    def subscribe(self, line: Line, setting: Setting) -> None:
        asyncio.run(_subscribe(line))

    def ask(self, line: Line, setting: Setting) -> None:
        asyncio.run(_ask(line, setting))

    def echo(self, line: Line, setting: Setting) -> None:
        asyncio.run(_echo(line, setting))


async def _publish(line: Line, setting: Setting) -> None:
    pub = _pub(setting)
    line.meet(_endpoint(pub))

    async def flood(payload: bytes, count: int) -> None:
        for _ in range(count):
            await pub.send(payload)

    await talk.publish_async(line, pub.send, flood)


async def _subscribe(line: Line) -> None:
    sub = _sub(line.meet())

    async def count() -> int:
        received = 0
        while await sub.recv() != END:
            received += 1
        return received

    await talk.subscribe_async(line, sub.recv, count)


async def _ask(line: Line, setting: Setting) -> None:
    pub = _pub(setting)
    sub = _sub(line.meet(_endpoint(pub)))
    await talk.ask_async(line, pub.send, sub.recv)


async def _echo(line: Line, setting: Setting) -> None:
    pub = _pub(setting)
    sub = _sub(line.meet(_endpoint(pub)))
    while True:
        await pub.send(await sub.recv())


def _pub(setting: Setting) -> zmq.asyncio.Socket:
    pub = zmq.asyncio.Context.instance().socket(zmq.PUB)
    if setting.is_patient:
        pub.setsockopt(zmq.SNDHWM, SEND_HWM)
    pub.bind("tcp://127.0.0.1:*")
    return pub


def _endpoint(pub: zmq.asyncio.Socket) -> str:
    return pub.getsockopt_string(zmq.LAST_ENDPOINT)


def _sub(endpoints: list[str]) -> zmq.asyncio.Socket:
    sub = zmq.asyncio.Context.instance().socket(zmq.SUB)
    sub.setsockopt(zmq.SUBSCRIBE, b"")
    for endpoint in filter(None, endpoints):  # other subscribers bind nothing
        sub.connect(endpoint)
    return sub
