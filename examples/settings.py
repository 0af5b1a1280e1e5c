"""Settings that several programs share: python examples/settings.py bind|connect ENDPOINT [KEY=VALUE]..."""

import sys
from contextlib import suppress

import anyio

from zdisco import Gossip


async def main(role: str, endpoint: str, settings: list[str]) -> None:
    async with Gossip(bind=endpoint) if role == "bind" else Gossip(connect=endpoint) as node:
        for setting in settings:
            key, _, value = setting.partition("=")
            await node.publish(key, value)
        print(*node.endpoints, flush=True)
        async for delivery in node.deliveries():
            print(f"{delivery.key} is {delivery.change.value}: {delivery.value}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("bind", "connect"):
        sys.exit("usage: python examples/settings.py bind|connect ENDPOINT [KEY=VALUE]...")
    with suppress(KeyboardInterrupt):
        anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3:])
