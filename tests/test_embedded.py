"""Peers that host the proxy themselves, and take it over from each other."""

from __future__ import annotations

import errno
import time
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from meshes import LIMIT, turn_until
from processes import children
from zdisco import (
    BindError,
    InvalidEndpoint,
    Peer,
    PeerGone,
    PeerJoined,
    Proxy,
    ProxyFound,
    ProxyLost,
    SocketLimitError,
)
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])


async def free_endpoint() -> str:
    """A well-known endpoint that nobody has."""
    async with Proxy("tcp://127.0.0.1:*") as proxy:
        return proxy.endpoint


def hosts(peer: Peer) -> bool:
    return peer.hosts_proxy


async def test_whoever_comes_first_hosts_the_proxy_until_it_leaves() -> None:
    endpoint = await free_endpoint()
    with anyio.fail_after(LIMIT):
        first = Peer(endpoint, embed=True, name="first")
        async with first:
            assert hosts(first)
            async with Peer(endpoint, embed=True, name="second") as second:
                assert not hosts(second)
                assert first.proxies == second.proxies == {endpoint: True}
                await second.wait_for(1)
        assert not hosts(first)
        assert first.proxies == {endpoint: False}
        async with (
            Peer(endpoint, embed=True, name="third") as third,
            Peer(endpoint, embed=True, name="fourth") as fourth,
        ):
            assert hosts(third)
            await third.wait_for(1)
            await fourth.wait_for(1)


@ON_ASYNCIO
async def test_who_remains_takes_over_and_newcomers_find_them() -> None:
    endpoint = await free_endpoint()
    first = Peer(endpoint, embed=True, name="first")
    with anyio.fail_after(LIMIT):
        await first.__aenter__()
        async with Peer(endpoint, embed=True) as second, Peer(endpoint, embed=True) as third:
            for peer in (first, second, third):
                await peer.wait_for(2)
            events = second.events()
            await first.__aexit__(None, None, None)
            await turn_until(lambda: hosts(second) or hosts(third))
            async with Peer(endpoint, name="newcomer") as newcomer:
                await newcomer.wait_for(2)
                await second.wait_for(2)
                seen: list[Any] = []
                while not any(isinstance(event, PeerJoined) and event.peer == newcomer.me for event in seen):
                    seen.append(await anext(events))
            assert hosts(second) != hosts(third)
    gone = [event.peer.name for event in seen if isinstance(event, PeerGone)]
    proxy = [type(event) for event in seen if isinstance(event, ProxyFound | ProxyLost)]
    assert (gone, proxy) == (["first"], [ProxyLost, ProxyFound])


@ON_ASYNCIO
async def test_when_the_process_that_hosts_is_killed_another_takes_over() -> None:
    endpoint = await free_endpoint()
    with anyio.fail_after(LIMIT):
        async with children(endpoint, ("--name", "host", "--embed")) as (host,):
            await host.wait_for("ready")
            others = [("--name", name, "--embed", "--backend", loop) for name, loop in (("a", "trio"), ("b", "uvloop"))]
            async with children(endpoint, *others) as (a, b):
                for child in (a, b):
                    await child.wait_for("PeerJoined", 2)
                host.kill()
                for child in (a, b):
                    await child.wait_for("ProxyLost")
                    await child.wait_for("ProxyFound")
                async with Peer(endpoint, name="newcomer") as newcomer:
                    await newcomer.wait_for(2)
                for child in (a, b):
                    assert [fact["name"] for fact in child.told("PeerGone")][:1] == ["host"]
                    assert child.told("PeerSuspected") == [] or child.told("PeerSuspected")[0]["name"] == "host"


async def test_a_busy_event_loop_does_not_keep_others_from_being_discovered() -> None:
    endpoint = await free_endpoint()
    async with Peer(endpoint, embed=True, name="busy"), children(endpoint, ("--name", "other")) as (other,):
        until = time.monotonic() + LIMIT
        # The other is entered, so discovered, though nothing of ours runs but the thread of the proxy.
        while not other.told("ready") and time.monotonic() < until:
            time.sleep(0.01)  # noqa: ASYNC251  that is what the test is about
        assert other.told("ready")


async def test_an_address_of_another_machine_cannot_be_hosted() -> None:
    with pytest.raises(BindError, match=r"192\.0\.2\.1"):
        async with Peer("tcp://192.0.2.1:5555", embed=True):
            pass


async def test_who_cannot_take_over_at_once_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = await free_endpoint()
    failures = 0

    async def without_descriptors(proxy: Proxy) -> Proxy:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise SocketLimitError(errno.EMFILE, "too many open files")
        return await enter(proxy)

    with anyio.fail_after(LIMIT):
        first = Peer(endpoint, embed=True, name="first")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(first)
            async with Peer(endpoint, embed=True, name="second") as second:
                enter = Proxy.__aenter__
                monkeypatch.setattr(Proxy, "__aenter__", without_descriptors)
                # As if the host had gone: who is entered later is left later, on trio.
                assert first._embedded is not None
                await first._embedded.stop()
                await turn_until(lambda: hosts(second))
    assert failures == 3
    assert caplog.text.count("cannot host the proxy: no more sockets: too many open files") == 2


async def test_if_the_first_attempt_finds_no_descriptors_that_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def without_descriptors(_: Proxy) -> Proxy:
        raise SocketLimitError(errno.EMFILE, "too many open files")

    endpoint = await free_endpoint()
    monkeypatch.setattr(Proxy, "__aenter__", without_descriptors)
    with pytest.raises(SocketLimitError):
        async with Peer(endpoint, embed=True):
            pass


async def test_a_network_in_memory_has_proxies_of_its_own() -> None:
    with pytest.raises(ValueError, match="embed"):
        Peer(embed=True, network=MemoryNetwork())


async def test_only_tcp_can_be_hosted() -> None:
    with pytest.raises(InvalidEndpoint, match="ipc"):
        Peer("ipc:///tmp/x", embed=True)


async def test_a_peer_that_is_cancelled_while_it_enters_leaves_no_thread() -> None:
    endpoint = await free_endpoint()
    for delay in (0.0, 0.001, 0.01, 0.03):
        with anyio.move_on_after(delay):
            async with Peer(endpoint, embed=True):
                pass
    async with Peer(endpoint, embed=True) as peer:
        assert hosts(peer), "those before are gone"
