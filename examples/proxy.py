"""A proxy inside a program of ours: python examples/proxy.py [ENDPOINT]

Give the endpoint that it prints to peers. A port * picks a free one.
"""

import sys
from contextlib import suppress

import anyio

from zdisco import Proxy


async def main(endpoint: str) -> None:
    async with Proxy(endpoint) as proxy:
        print(proxy.endpoint, flush=True)
        while True:
            await anyio.sleep(60)
            # It relays discovery messages only, so this number hardly grows.
            print(f"relayed {proxy.relayed}, refused {sum(proxy.refused.values())}", flush=True)


if __name__ == "__main__":
    # Ctrl-C leaves the block, so everything is closed.
    with suppress(KeyboardInterrupt):
        anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555")
