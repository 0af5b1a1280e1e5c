"""Processes that hang while their connections stay up: real ones, stopped and forked."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import anyio
import pytest

from processes import Child, children
from zdisco import Cause, Peer, PeerConfig, PeerGone, PeerRecovered, PeerSuspected, Proxy

pytestmark = pytest.mark.anyio

LIMIT = 50.0
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])


def of_all_loops(count: int) -> list[tuple[str, ...]]:
    return [("--name", f"p{n}", "--backend", ("asyncio", "uvloop", "trio")[n % 3]) for n in range(count)]


def told(child: Child, name: str) -> list[str]:
    """What a child told about another, in order."""
    return [fact["what"] for fact in child.facts if fact.get("name") == name]


@ON_ASYNCIO
async def test_each_of_eight_finds_a_stopped_one_suspect_and_it_recovers(proxy: Proxy) -> None:
    async with children(proxy.endpoint, *of_all_loops(8)) as peers:
        with anyio.fail_after(LIMIT):
            for child in peers:
                await child.wait_for("PeerJoined", 7)
            for number, victim in enumerate(peers[:3]):
                others = [child for child in peers if child is not victim]
                victim.signal(signal.SIGSTOP)
                for child in others:
                    await child.wait_for("PeerSuspected", name=f"p{number}")
                victim.signal(signal.SIGCONT)
                for child in others:
                    await child.wait_for("PeerRecovered", name=f"p{number}")
        for number in range(8):
            for child in peers[:number] + peers[number + 1 :]:
                happened = ["PeerSuspected", "PeerRecovered"] if number < 3 else []
                assert told(child, f"p{number}") == ["PeerJoined", *happened]


@ON_ASYNCIO
async def test_a_child_that_keeps_the_sockets_of_a_dead_process_open_does_not_hide_its_death(proxy: Proxy) -> None:
    config = PeerConfig(suspect_timeout=1.0)
    async with children(proxy.endpoint, ("--name", "parent")) as (child,), Peer(proxy.endpoint, config=config) as peer:
        with anyio.fail_after(LIMIT):
            await peer.wait_for(1)
            child.order("fork")
            (forked,) = await child.wait_for("forked")
            events = peer.events()
            try:
                child.kill()
                seen = [type(await anext(events)) for _ in range(2)]
                gone = await anext(events)
            finally:
                os.kill(forked["pid"], signal.SIGKILL)
        assert seen[1] is PeerSuspected
        assert isinstance(gone, PeerGone)
        assert gone.cause is Cause.UNREACHABLE


async def test_who_did_not_run_for_a_while_reports_nobody(proxy: Proxy) -> None:
    async with (
        children(proxy.endpoint, ("--name", "one"), ("--name", "other")) as others,
        Peer(proxy.endpoint, name="stalled") as stalled,
    ):
        with anyio.fail_after(LIMIT):
            await stalled.wait_for(2)
            for child in others:
                await child.wait_for("PeerJoined", 2)
            events = stalled.events()
            time.sleep(3.5)  # noqa: ASYNC251  that is what the test is about
            for child in others:
                await child.wait_for("PeerRecovered", name="stalled")
            seen: Counter[type] = Counter()
            with anyio.move_on_after(2.0):
                async for event in events:
                    seen[type(event)] += 1
        assert not seen[PeerSuspected]
        assert not seen[PeerRecovered]
        assert not seen[PeerGone]
