"""A console that shows robots come and go: python examples/presence_console.py [PROXY]

Run it without a proxy and it brings its own. Eight robots live in this same process.
"""

import random
import sys
from contextlib import AsyncExitStack

import anyio

from zdisco import Peer, PeerGone, PeerJoined, Proxy


async def robot(proxy: str, number: int) -> None:
    """Be there, work a little, and leave in order."""
    await anyio.sleep(random.uniform(0, 0.5))
    async with Peer(proxy, name=f"robot-{number}", headers={"role": "robot"}):
        await anyio.sleep(random.uniform(1, 2))


async def main(proxy: str | None) -> None:
    async with AsyncExitStack() as stack:
        endpoint = proxy or (await stack.enter_async_context(Proxy("tcp://127.0.0.1:*"))).endpoint
        console = await stack.enter_async_context(Peer(endpoint, name="console"))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        for number in range(1, 9):
            tasks.start_soon(robot, endpoint, number)
        async for event in console.events():
            # Others may share the proxy: look at the headers. `console.peers` follows the events.
            robots = [peer for peer in console.peers.values() if peer.headers.get("role") == "robot"]
            if isinstance(event, PeerJoined | PeerGone):
                word = event.cause.value if isinstance(event, PeerGone) else "joined"
                print(f"{len(robots)} robot{'s' * (len(robots) != 1)} here; {event.peer.name} {word}", flush=True)
            if isinstance(event, PeerGone) and not robots:
                break


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
