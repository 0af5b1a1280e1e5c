"""The least that a peer can do: python examples/peer.py NAME [PROXY]

Run it twice, beside `zdisco proxy`: each greets the other, then leaves.
"""

import sys

import anyio

from zdisco import Peer


async def main(name: str, proxy: str) -> None:
    async with Peer(proxy, name=name) as peer, peer.subscribe("greeting") as greetings:
        # Joined means deliverable: what we publish after this, the other one gets.
        await peer.wait_for(1)
        await peer.publish("greeting", f"hello from {name}".encode())
        async for message in greetings:
            print(message.payload.decode(), flush=True)
            break
    # Here our farewell has come back: everybody else has been told that we left.


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/peer.py NAME [PROXY]")
    anyio.run(main, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "tcp://127.0.0.1:5555")
