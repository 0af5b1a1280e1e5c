"""A peer as a process of its own, for tests that kill it: orders come in on stdin, facts go out as JSON lines.

Orders: ``publish TOPIC COUNT``, ``flood TOPIC`` (until the end), ``crowd COUNT TOPIC PROXY...`` (so many more
peers at each of the proxies, each subscribed to the topic from the start), ``count TOPIC`` (subscribe, and
count what comes), ``totals`` (what was received, lost and dropped of each such topic), ``serve NAME`` (echoes,
but a request that says "hang" is never answered), ``size``, ``fork`` (a process that keeps what we have open,
and does nothing), ``leave``.
Facts: ``{"at": monotonic seconds, "what": ..., ...}``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections import Counter
from importlib.util import find_spec
from uuid import UUID

import anyio
import anyio.abc
import anyio.to_thread

from zdisco import (
    Message,
    Peer,
    PeerConfig,
    PeerGone,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    PeerUpdated,
    Request,
    SocketEvent,
    Subscription,
)
from zdisco import MonitorEvent as SocketFact


def say(what: str, **facts: object) -> None:
    print(json.dumps({"at": time.monotonic(), "wall": time.time(), "what": what, **facts}), flush=True)


async def tell_events(peer: Peer) -> None:
    async for event in peer.events():
        match event:
            case PeerGone(gone, cause):
                say("PeerGone", name=gone.name, cause=cause.name, endpoint=gone.endpoint)
            case PeerJoined(other) | PeerSuspected(other) | PeerRecovered(other) | PeerUpdated(other):
                say(type(event).__name__, name=other.name, endpoint=other.endpoint)
            case _:
                say(type(event).__name__)


async def tell_retries(peer: Peer) -> None:
    async for event in peer.monitor(SocketEvent.CONNECT_RETRIED):
        if isinstance(event, SocketFact):
            say("CONNECT_RETRIED", socket=event.socket, endpoint=event.endpoint, wall=event.at.timestamp())


async def be_one_of_a_crowd(proxy: str, topic: str) -> None:
    """Join, and tell each message that says the name of this peer."""
    # The whole crowd starts at once, on a machine that may be busy.
    config = PeerConfig(discovery_timeout=90.0)
    async with Peer(proxy, name="one of a crowd", config=config) as peer, peer.subscribe(topic) as messages:
        async for message in messages:
            if message.payload == peer.id.bytes:
                say("reached", id=str(peer.id))


async def echo(request: Request) -> bytes:
    if request.payload == b"hang":
        say("hanging")
        await anyio.sleep_forever()
    return request.payload


async def obey(peer: Peer, tasks: anyio.abc.TaskGroup) -> None:
    async def flood(topic: str) -> None:
        while True:
            await peer.publish(topic, b"x" * 100)

    counted: dict[str, Subscription[Message]] = {}
    received: Counter[str] = Counter()

    async def count_all(topic: str) -> None:
        async with peer.subscribe(topic) as messages:
            counted[topic] = messages
            say("counting", topic=topic)
            async for batch in messages.batches():
                received[topic] += len(batch)

    async def serve(name: str) -> None:
        async with peer.serve(name, echo, limit=1000):
            await anyio.sleep_forever()

    while order := (await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)).split():
        match order:
            case ["publish", topic, count]:
                for number in range(int(count)):
                    await peer.publish(topic, b"%d" % number)
                say("published", topic=topic, count=int(count))
            case ["flood", topic]:
                tasks.start_soon(flood, topic)
                say("flooding", topic=topic)
            case ["serve", name]:
                tasks.start_soon(serve, name)
            case ["crowd", count, topic, *proxies]:
                _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
                for number in range(int(count) * len(proxies)):
                    tasks.start_soon(be_one_of_a_crowd, proxies[number % len(proxies)], topic)
            case ["count", topic]:
                tasks.start_soon(count_all, topic)
            case ["totals"]:
                for topic, messages in counted.items():
                    say("totals", topic=topic, received=received[topic], lost=messages.lost, dropped=messages.dropped)
            case ["fork"]:
                pid = os.fork()
                if pid == 0:
                    time.sleep(1000)  # noqa: ASYNC251  nothing else is to run here
                    os._exit(0)
                say("forked", pid=pid)
            case ["size"]:
                say("size", kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            case ["leave"]:
                break


async def main(arguments: argparse.Namespace) -> None:
    config = PeerConfig(
        reconnect_stop=arguments.reconnect_stop,
        suspect_after=arguments.suspect_after,
        suspect_timeout=arguments.suspect_timeout,
        beacon_interval=arguments.beacon_interval,
    )
    id = UUID(arguments.id) if arguments.id else None
    async with (
        Peer(arguments.proxy, name=arguments.name, id=id, embed=arguments.embed, config=config) as peer,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(tell_events, peer)
        tasks.start_soon(tell_retries, peer)
        say("ready", endpoint=peer.me.endpoint)
        if arguments.descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (arguments.descriptors, arguments.descriptors))
        await obey(peer, tasks)
        tasks.cancel_scope.cancel()
    say("left")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("proxy")
    parser.add_argument("--name", default="")
    parser.add_argument("--id", default="")
    parser.add_argument("--embed", action="store_true")
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "uvloop", "trio"])
    parser.add_argument("--reconnect-stop", type=int, default=1)
    parser.add_argument("--suspect-after", type=float, default=PeerConfig().suspect_after)
    parser.add_argument("--suspect-timeout", type=float, default=PeerConfig().suspect_timeout)
    parser.add_argument("--beacon-interval", type=float, default=PeerConfig().beacon_interval)
    parser.add_argument("--descriptors", type=int)
    arguments = parser.parse_args()
    if arguments.backend == "uvloop":
        anyio.run(main, arguments, backend_options={"use_uvloop": find_spec("uvloop") is not None})
    else:
        anyio.run(main, arguments, backend=arguments.backend)
