"""A chat: python examples/chat.py NAME [PROXY]

What you type goes to everybody; the end of input (Ctrl-D) leaves.
"""

import sys

import anyio
import anyio.to_thread

from zdisco import Peer, PeerGone, PeerJoined, Subscription


async def print_messages(messages: Subscription) -> None:
    async for message in messages:
        name = message.sender.name if message.sender else "somebody"
        print(f"{name}: {message.payload.decode()}", flush=True)


async def print_presence(peer: Peer) -> None:
    async for event in peer.events():
        if isinstance(event, PeerJoined):
            print(f"* {event.peer.name} is here", flush=True)
        elif isinstance(event, PeerGone):
            print(f"* {event.peer.name} is gone ({event.cause.value})", flush=True)


async def main(name: str, proxy: str) -> None:
    async with Peer(proxy, name=name) as peer, peer.subscribe("chat") as messages, anyio.create_task_group() as tasks:
        tasks.start_soon(print_messages, messages)
        tasks.start_soon(print_presence, peer)
        # A thread waits for the keyboard; Ctrl-C does not wait for that thread.
        while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            await peer.publish("chat", line.strip().encode())
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "tcp://127.0.0.1:5555")
