"""Log the socket events of any pyzmq socket, zdisco or not: python examples/monitor_logger.py [ENDPOINT]

Each line is that of the classic programs. Without an endpoint it watches a pair of its own.
It ends when the connection is tried again; Ctrl-C ends it before.
"""

import sys
from contextlib import suppress

import anyio
import zmq

from zdisco import MonitorEvent, SocketEvent, monitor


async def main(endpoint: str | None) -> None:
    context = zmq.Context()
    server, client = context.socket(zmq.REP), context.socket(zmq.REQ)
    try:
        if endpoint is None:
            server.bind("tcp://127.0.0.1:*")
            endpoint = server.getsockopt_string(zmq.LAST_ENDPOINT)
        # Watch first, connect then: so nothing is missed.
        async with monitor(client, name="client") as events:
            client.connect(endpoint)
            async for event in events:
                print(event, flush=True)
                if isinstance(event, MonitorEvent) and event.event is SocketEvent.HANDSHAKE_SUCCEEDED:
                    server.close(0)  # now see the client lose it, and try again
                elif isinstance(event, MonitorEvent) and event.event is SocketEvent.CONNECT_RETRIED:
                    break
    finally:
        context.destroy(0)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
