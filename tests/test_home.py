"""Where a peer listens and what it announces, and a machine that gets another address."""

from __future__ import annotations

import errno
import socket

import anyio
import pytest
from attrs import evolve

from meshes import Machine
from processes import until
from zdisco import BindError, Peer, PeerConfig
from zdisco._channels import DataChannel
from zdisco._home import Home
from zdisco._zmq.network import has_address, route_to
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio

PROXY = "tcp://10.0.0.1:5555"
CONFIG = PeerConfig(address_interval=0.01)


async def test_a_peer_goes_where_its_machine_goes_and_joins_again_there() -> None:
    net = MemoryNetwork()
    machine = Machine(net, "10.0.0.2")
    resident = Machine(net, "10.0.0.9")
    async with (
        net.proxy(PROXY),
        Peer(PROXY, network=machine, config=CONFIG) as mover,
        Peer(PROXY, network=resident) as other,
    ):
        await other.wait_for(1)
        await mover.wait_for(1)
        former = mover.me
        async with other.subscribe("t") as messages:
            machine.address = "10.0.0.3"
            await other.wait_for(lambda joined: mover.id in joined and joined[mover.id] != former, timeout=10)
            moved = other.peers[mover.id]
            assert moved.endpoint.startswith("tcp://10.0.0.3:")
            assert moved == mover.me == evolve(former, endpoint=moved.endpoint, revision=former.revision + 1)
            await mover.wait_for(1)
            await mover.publish("t", b"here")
            assert (await anext(messages)).payload == b"here"


async def test_without_a_way_to_a_proxy_it_waits_for_one() -> None:
    net = MemoryNetwork()
    machine = Machine(net, "10.0.0.2")
    async with net.proxy(PROXY), Peer(PROXY, network=machine, config=CONFIG) as peer:
        former = peer.me.endpoint
        machine.address = ""
        await anyio.sleep(0.05)
        assert peer.me.endpoint == former
        machine.address = "10.0.0.3"
        with anyio.fail_after(10):
            await until(lambda: peer.me.endpoint != former)
        assert peer.me.endpoint == former.replace("10.0.0.2", "10.0.0.3")


@pytest.mark.parametrize(
    ("host", "advertise", "bound", "announced"),
    [
        (None, None, "tcp://10.0.0.3:", "tcp://10.0.0.3:"),
        (None, "there.example", "tcp://10.0.0.3:", "tcp://there.example:"),
        ("0.0.0.0", None, "tcp://0.0.0.0:", "tcp://10.0.0.3:"),
    ],
)
async def test_what_was_found_changes(host: str | None, advertise: str | None, bound: str, announced: str) -> None:
    machine, home = Machine(MemoryNetwork(), "10.0.0.2"), Home(host, 0, advertise, [PROXY])
    network = machine(CONFIG)
    data, _ = await home.open(network)
    assert home.may_change
    assert await home.moved(network, data) is None
    machine.address = "10.0.0.3"
    endpoint = await home.moved(network, data)
    assert endpoint is not None
    assert endpoint.startswith(announced)
    assert data.endpoint.startswith(bound)
    await data.aclose()


@pytest.mark.parametrize(
    ("address", "host", "advertise"),
    [("127.0.0.1", None, None), ("10.0.0.2", "10.0.0.2", None), ("10.0.0.2", "0.0.0.0", "there.example")],
)
async def test_what_was_given_stays_as_does_loopback(address: str, host: str | None, advertise: str | None) -> None:
    home = Home(host, 0, advertise, [PROXY])
    data: DataChannel
    data, _ = await home.open(Machine(MemoryNetwork(), address)(CONFIG))
    assert not home.may_change
    await data.aclose()


async def test_if_no_address_is_found_to_announce_nothing_stays_open() -> None:
    net = MemoryNetwork()
    with pytest.raises(BindError):
        await Home("0.0.0.0", 40000, None, [PROXY]).open(Machine(net, "")(CONFIG))
    data, _ = await Home("0.0.0.0", 40000, None, [PROXY]).open(Machine(net, "10.0.0.2")(CONFIG))
    await data.aclose()


async def test_an_address_that_comes_back_while_it_is_looked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(None, 0, None, [PROXY])
    network = Machine(MemoryNetwork(), "10.0.0.2")(CONFIG)
    data, endpoint = await home.open(network)
    monkeypatch.setattr(network, "has_address", lambda _: False)
    assert await home.moved(network, data) is None
    assert data.endpoint == endpoint
    await data.aclose()


def test_without_descriptors_nothing_is_known_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket, "socket", fail)
    assert has_address("192.0.2.1")
    assert route_to("192.0.2.1") is None


def test_the_addresses_of_this_machine_are_known() -> None:
    assert has_address("127.0.0.1")
    assert has_address("0.0.0.0")
    assert not has_address("192.0.2.1")
