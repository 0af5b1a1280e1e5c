"""The addresses of this machine, with the routing table and the name server stubbed."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from collections.abc import Mapping

import anyio
import pytest

from zdisco._core.errors import BindError
from zdisco._zmq import network
from zdisco._zmq.network import local_address_towards, route_to

pytestmark = pytest.mark.anyio


def stub(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, list[str]], routes: Mapping[str, str]) -> None:
    """Let these names have these addresses, and these routes be all there are."""

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "name unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(network, "route_to", routes.get)


async def test_the_first_address_that_has_a_route_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {"proxy.example": ["2001:db8::1", "192.0.2.1"]}, {"192.0.2.1": "192.0.2.7"})
    assert await local_address_towards(["tcp://proxy.example:5555"]) == "192.0.2.7"


async def test_the_first_proxy_that_has_a_route_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {}, {"192.0.2.2": "192.0.2.7", "192.0.2.3": "192.0.2.8"})
    proxies = ["tcp://unknown.example:1", "tcp://192.0.2.1:1", "ipc:///x", "tcp://192.0.2.2:1", "tcp://192.0.2.3:1"]
    assert await local_address_towards(proxies) == "192.0.2.7"


async def test_where_no_proxy_has_a_route_binding_fails_and_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {}, {})
    with pytest.raises(BindError, match=r"tcp://192\.0\.2\.1:1 or tcp://unknown\.example:1") as caught:
        await local_address_towards(["tcp://192.0.2.1:1", "tcp://unknown.example:1"])
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_a_name_that_the_codec_refuses_is_one_that_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> None:
        raise UnicodeError("label empty or too long")

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    with pytest.raises(BindError, match="name unknown"):
        await local_address_towards(["tcp://proxy.example:5555"])


async def test_without_a_proxy_over_tcp_it_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {}, {})
    assert await local_address_towards(["ipc:///run/proxy"]) == "127.0.0.1"


async def test_loopback_is_reached_from_loopback() -> None:
    assert route_to("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(("expected", "is_warned"), [(10, False), (11, True)])
def test_a_limit_of_descriptors_that_has_no_room_for_the_expected_peers_is_warned_of(
    expected: int, is_warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(network, "_descriptor_limit", lambda: 100 + 64 + 2 * 10)
    monkeypatch.setattr(network, "_open_descriptors", lambda: 100)
    network._check_descriptors(expected)
    warned = [record.message for record in caplog.records]
    assert [message.split(":")[0] for message in warned] == ["room for 10 of 11 expected peers"] * is_warned


def test_the_limit_of_descriptors_is_that_of_the_process() -> None:
    resource = pytest.importorskip("resource")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert network._descriptor_limit() in (soft, None)
    assert 0 < network._open_descriptors() < 10_000


_NO_ROOM = """
import os, resource, sys
import anyio
from zdisco import Gossip, Peer, Proxy, SocketLimitError

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    held = []
    while True:
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            break
    for _ in range(int(sys.argv[1])):
        os.close(held.pop())
    for one in (
        Peer("tcp://127.0.0.1:9"), Peer("tcp://127.0.0.1:9", embed=True), Proxy("tcp://127.0.0.1:*"),
        Gossip(bind="tcp://127.0.0.1:*"),
    ):
        try:
            async with one:
                print("entered")
        except SocketLimitError as error:
            print("SocketLimitError", error)
    # Nothing was left open.
    for _ in range(int(sys.argv[1])):
        os.open(os.devnull, os.O_RDONLY)

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit that can be set")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("free", [0, 3, 16, 31])
def test_who_finds_too_few_descriptors_says_so_instead_of_being_ended_by_libzmq(free: int, backend: str) -> None:
    arguments = [sys.executable, "-W", "error", "-c", _NO_ROOM, str(free), backend]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["SocketLimitError no more sockets"] * 4


def test_where_there_is_no_limit_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(network, "_descriptor_limit", lambda: None)
    network._check_descriptors(10**9)
    assert caplog.records == []
