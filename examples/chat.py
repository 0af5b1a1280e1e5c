"""A chat: python examples/chat.py NAME [PROXY]; what you type goes to everybody, Ctrl-D or Ctrl-C leaves."""

import os
import sys
from contextlib import suppress

import anyio

from zdisco import Message, Peer, PeerGone, PeerJoined, Subscription


async def print_messages(messages: Subscription[Message]) -> None:
    async for message in messages:
        print(f"{message.sender.name if message.sender else 'somebody'}: {message.payload.decode()}", flush=True)


async def print_presence(peer: Peer) -> None:
    async for event in peer.events():
        if isinstance(event, PeerJoined | PeerGone):
            where = "here" if isinstance(event, PeerJoined) else f"gone ({event.cause.value})"
            print(f"* {event.peer.name} is {where}", flush=True)


async def main(name: str, proxy: str) -> None:
    async with Peer(proxy, name=name) as peer, peer.subscribe("chat") as messages, anyio.create_task_group() as tasks:
        tasks.start_soon(print_messages, messages)
        tasks.start_soon(print_presence, peer)
        while True:
            await anyio.wait_readable(sys.stdin)  # a thread would hold up Ctrl-C until the next line
            if not (typed := os.read(sys.stdin.fileno(), 4096)):
                break
            await peer.publish("chat", typed.strip())
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/chat.py NAME [PROXY]")
    with suppress(KeyboardInterrupt):
        anyio.run(main, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "tcp://127.0.0.1:5555")
