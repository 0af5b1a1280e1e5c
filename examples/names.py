"""Servers that are found by a name: python examples/names.py [PROXY [ask]]

Run it twice, and once more with `ask`, beside `zdisco proxy`. Kill the server that answers: the other one does.
"""

import sys
from contextlib import suppress

import anyio
import zmq.asyncio

from zdisco import Peer


async def main(proxy: str = "tcp://127.0.0.1:5555", role: str = "serve") -> None:
    with zmq.asyncio.Context() as context:
        context.linger = 0
        async with Peer(proxy, name=role) as peer:
            await (ask if role == "ask" else serve)(peer, context)


async def serve(peer: Peer, context: zmq.asyncio.Context) -> None:
    with context.socket(zmq.REP) as server, server.bind("tcp://*:*"):
        # What the others find is this port at the host of our peer.
        async with peer.register("greeter", server.getsockopt_string(zmq.LAST_ENDPOINT)):
            while who := await server.recv_string():
                await server.send_string(f"hello {who}, I am process {peer.me.pid}")


async def ask(peer: Peer, context: zmq.asyncio.Context) -> None:
    async for endpoints in peer.watch("greeter"):  # those of now, and again at each change
        for endpoint in endpoints[:1]:
            with context.socket(zmq.REQ) as client, client.connect(endpoint), anyio.move_on_after(2):
                await client.send_string("you")
                print(await client.recv_string(), f"at the first of {len(endpoints)}: {endpoint}", flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        anyio.run(lambda: main(*sys.argv[1:3]))
