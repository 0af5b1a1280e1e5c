"""Peers on hosts of their own, between which the network fails in silence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from hosts import Host, hosts
from processes import Child
from programs import Program

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]),
    pytest.mark.timeout(180),
]

LIMIT = 150.0
BEACON = "3"
"""Seconds; who was given up joins again with the next beacon."""


@asynccontextmanager
async def peers(where: Sequence[Host]) -> AsyncIterator[list[Child]]:
    """A peer on each host but the first, which has the proxy; each has joined all others."""
    endpoint = f"tcp://{where[0].address}:5555"
    with Program("-m", "zdisco", "proxy", "--bind", endpoint, inside=where[0].inside) as proxy:
        proxy.wait_for("^relay")
        loops = ("asyncio", "uvloop", "trio")
        started = [
            Child(
                endpoint,
                *("--name", f"p{number}", "--backend", loops[number % 3]),
                *("--beacon-interval", BEACON, "--suspect-timeout", "2"),
                inside=host.inside,
            )
            for number, host in enumerate(where[1:])
        ]
        try:
            for child in started:
                await child.wait_for("PeerJoined", len(started) - 1)
            yield started
        finally:
            for child in started:
                child.close()


def told(child: Child, name: str) -> list[str]:
    """What a child told about another, in order, with the causes."""
    return [fact.get("cause", fact["what"]) for fact in child.facts if fact.get("name") == name]


ONE_STAY = ["PeerJoined", "PeerSuspected", "UNREACHABLE", "PeerJoined"]


async def test_a_host_that_loses_its_network_is_gone_for_all_and_all_for_it_until_it_is_back() -> None:
    with hosts(4) as (first, *others), anyio.fail_after(LIMIT):
        async with peers([first, *others]) as (lost, *rest):
            others[0].unplug()
            for child in rest:
                await child.wait_for("PeerGone", name="p0")
            for name in ("p1", "p2"):
                await lost.wait_for("PeerGone", name=name)
            others[0].plug_in()
            for child in rest:
                await child.wait_for("PeerJoined", 2, name="p0")
            for name in ("p1", "p2"):
                await lost.wait_for("PeerJoined", 2, name=name)
            for child in rest:
                assert told(child, "p0") == ONE_STAY
                assert [told(child, name) for name in ("p1", "p2") if told(child, name)] == [["PeerJoined"]]
            assert [told(lost, name) for name in ("p1", "p2")] == [ONE_STAY, ONE_STAY]


async def test_a_pair_of_which_one_cannot_send_to_the_other_is_gone_for_each_other_only() -> None:
    with hosts(4) as (first, *others), anyio.fail_after(LIMIT):
        async with peers([first, *others]) as (one, other, third):
            others[0].cannot_send_to(others[1])
            await one.wait_for("PeerGone", name="p1")
            await other.wait_for("PeerGone", name="p0")
            others[0].can_send_to(others[1])
            await one.wait_for("PeerJoined", 2, name="p1")
            await other.wait_for("PeerJoined", 2, name="p0")
            # While one gives up and the other does not yet, they may try again in vain.
            for child, name in ((one, "p1"), (other, "p0")):
                stays = told(child, name)
                assert stays[0] == stays[-1] == "PeerJoined"
                assert set(stays) <= {*ONE_STAY, "PeerRecovered"}
            assert [told(third, name) for name in ("p0", "p1")] == [["PeerJoined"], ["PeerJoined"]]
            assert told(one, "p2") == told(other, "p2") == ["PeerJoined"]
