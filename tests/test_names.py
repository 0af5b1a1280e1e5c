"""Names: who registers them, where they lead, who watches, over the network in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from uuid import UUID

import anyio
import pytest
from attrs import evolve

from meshes import JUMPING, LIMIT, PROXY, Machine, mesh, next_of, take, turn_until
from zdisco import (
    AnnounceTooLarge,
    ClosedError,
    Drop,
    InvalidEndpoint,
    Peer,
    PeerConfig,
    PeerGone,
    PeerInfo,
    PeerRecovered,
    PeerSuspected,
    PeerUpdated,
    Stream,
    UnknownName,
)
from zdisco._core.names import NAME_LIMIT, Holder, found, known
from zdisco.testing import MemoryNetwork

CLOCK = "tcp://192.0.2.1:6000"
OTHER = "tcp://192.0.2.2:6000"


async def told(watch: Stream[tuple[str, ...]], *endpoints: str) -> None:
    """Wait until this is what the name leads to."""
    with anyio.fail_after(LIMIT):
        async for there in watch:
            if there == endpoints:
                return


# What is registered is found


@pytest.mark.anyio
async def test_what_one_registers_the_others_find_as_long_as_the_block_lasts() -> None:
    async with mesh("a", "b", "c") as (a, b, c):
        with pytest.raises(UnknownName):
            await a.resolve("clock", timeout=0)
        async with b.register("clock", CLOCK):
            for peer in (a, b, c):
                assert await peer.resolve("clock", timeout=LIMIT) == CLOCK
                assert peer.names == {"clock": (CLOCK,)}
            assert a.peers[b.id].names == b.me.names == {"clock": (CLOCK,)}
        assert b.names == {}
        for peer in (a, c):
            await peer.wait_for(lambda peers: not peers[b.id].names, timeout=LIMIT)
            with pytest.raises(UnknownName):
                await peer.resolve("clock", timeout=0)


@pytest.mark.anyio
async def test_the_announce_with_a_name_has_gone_out_when_the_block_is_entered() -> None:
    async with mesh("a", "b") as (a, b):
        events = a.events()
        async with b.register("clock", CLOCK):
            assert b.me.names == {"clock": (CLOCK,)}
            assert b.me.revision == 1
        update = await next_of(events, PeerUpdated)
        assert (update.was.names, update.peer.names) == ({}, {"clock": (CLOCK,)})
        assert (await next_of(events, PeerUpdated)).peer.names == {}


@pytest.mark.anyio
async def test_a_newcomer_finds_what_was_registered_before() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", net=net) as (a,), a.register("clock", CLOCK), Peer(PROXY, network=net) as late:
        assert await late.resolve("clock", timeout=LIMIT) == CLOCK
        assert a.id in late.peers


@pytest.mark.anyio
async def test_a_name_is_found_with_every_proxy_gone() -> None:
    net = MemoryNetwork()
    async with net.proxy() as proxy, mesh("a", "b", net=net) as (a, b):
        proxy.stop()
        async with b.register("clock", CLOCK):
            assert await a.resolve("clock", timeout=LIMIT) == CLOCK


@pytest.mark.anyio
async def test_who_resolves_waits_until_somebody_registers_it() -> None:
    async with mesh("a", "b") as (a, b), anyio.create_task_group() as tasks:
        answers: list[str] = []

        async def ask(peer: Peer) -> None:
            answers.append(await peer.resolve("clock", timeout=LIMIT))

        for peer in (a, b):
            tasks.start_soon(ask, peer)
        await anyio.wait_all_tasks_blocked()
        async with b.register("other", OTHER), b.register("clock", CLOCK):
            await turn_until(lambda: len(answers) == 2)
        assert answers == [CLOCK, CLOCK]


@pytest.mark.anyio
@JUMPING
async def test_a_name_that_nobody_registers_is_told_to_be_unknown_when_the_time_has_ended() -> None:
    async with mesh("a", "b") as (a, _):
        start = anyio.current_time()
        with pytest.raises(UnknownName, match=r"the name 'clock' leads to no endpoint within 7 s") as caught:
            await a.resolve("clock", timeout=7)
        assert 7 <= anyio.current_time() - start < 7.5
        assert (caught.value.name, caught.value.timeout) == ("clock", 7)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, LookupError)
        with pytest.raises(UnknownName, match=r"no endpoint$"):
            await a.resolve("clock", timeout=0)


@pytest.mark.anyio
@JUMPING
async def test_who_waits_for_a_name_is_told_that_the_peer_is_closed() -> None:
    net = MemoryNetwork()
    async with net.proxy(), anyio.create_task_group() as tasks:
        peer = await Peer(PROXY, network=net).__aenter__()

        async def ask() -> None:
            with pytest.raises(ClosedError):
                await peer.resolve("clock")

        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        await peer.__aexit__(None, None, None)
    with pytest.raises(ClosedError):
        await peer.resolve("clock", timeout=0)
    with pytest.raises(ClosedError):
        await Peer(PROXY, network=net).resolve("clock")
    assert peer.names == {}


@pytest.mark.anyio
async def test_a_resolve_that_is_cancelled_does_no_harm() -> None:
    async with mesh("a", "b") as (a, b):
        with anyio.move_on_after(0) as scope:
            await a.resolve("clock")
        assert scope.cancelled_caught
        async with b.register("clock", CLOCK):
            assert await a.resolve("clock", timeout=LIMIT) == CLOCK


# Several


@pytest.mark.anyio
async def test_a_name_leads_to_all_who_registered_it_the_one_that_started_first_before_the_others() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", "b", "c", net=net) as (a, b, c):
        one, two = sorted((b, c), key=lambda peer: (peer.me.incarnation, peer.id.bytes))
        async with two.register("clock", OTHER, "ipc:///run/clock"):
            for peer in (a, b, c):
                await told(peer.watch("clock"), OTHER, "ipc:///run/clock")
            async with one.register("clock", CLOCK, OTHER):
                for peer in (a, b, c):
                    await told(peer.watch("clock"), CLOCK, OTHER, "ipc:///run/clock")
                    assert await peer.resolve("clock") == CLOCK
            await told(a.watch("clock"), OTHER, "ipc:///run/clock")


@pytest.mark.anyio
async def test_blocks_of_one_peer_for_one_name_do_not_hurt_each_other() -> None:
    async with mesh("a") as (a,):
        first, second = a.register("clock", CLOCK, OTHER), a.register("clock", OTHER)
        await second.__aenter__()
        await first.__aenter__()
        assert a.names == {"clock": (OTHER, CLOCK)}
        third = a.register("clock", CLOCK)
        revision = a.me.revision
        await third.__aenter__()
        assert a.me.revision == revision, "there is nothing new to say"
        await first.__aexit__(None, None, None)
        assert a.names == {"clock": (OTHER, CLOCK)}
        await second.__aexit__(None, None, None)
        assert a.names == {"clock": (CLOCK,)}
        await third.__aexit__(None, None, None)
        assert a.names == {}
        assert not a._names._registered


@pytest.mark.anyio
async def test_names_stand_in_their_order_and_cannot_be_changed() -> None:
    async with mesh("a", "b") as (a, b), b.register("z", CLOCK), a.register("m", CLOCK), b.register("a", CLOCK):
        await a.wait_for(lambda peers: len(peers[b.id].names) == 2, timeout=LIMIT)
        assert list(a.names) == ["a", "m", "z"]
        assert isinstance(a.names, Mapping)
        with pytest.raises(TypeError):
            a.names["x"] = ()  # type: ignore[index]
        with pytest.raises(TypeError):
            a.me.names["x"] = ()  # type: ignore[index]


# Who goes


@pytest.mark.anyio
async def test_the_names_of_a_peer_are_gone_when_it_is() -> None:
    net = MemoryNetwork()
    async with (
        net.proxy(),
        mesh("a", "b", "c", net=net) as (a, b, c),
        b.register("clock", CLOCK),
        c.register("clock", OTHER),
    ):
        watch, events = a.watch("clock"), a.events()
        await a.wait_for(lambda _: len(a.names.get("clock", ())) == 2, timeout=LIMIT)
        net.kill(b)
        await told(watch, OTHER)
        assert (await next_of(events, PeerGone)).peer.id == b.id
        await c.leave()
        await told(watch)
        assert (await next_of(events, PeerGone)).peer.id == c.id
        assert a.names == {}


@pytest.mark.anyio
@JUMPING
async def test_the_names_of_a_suspect_peer_stay_and_come_last() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", "b", "c", net=net) as (a, b, c):
        one, two = sorted((b, c), key=lambda peer: (peer.me.incarnation, peer.id.bytes))
        async with one.register("clock", CLOCK), one.register("own", CLOCK), two.register("clock", OTHER):
            watch, events = a.watch("clock"), a.events()
            await told(watch, CLOCK, OTHER)
            net.cut(a, one)
            await next_of(events, PeerSuspected)
            await told(watch, OTHER, CLOCK)
            assert await a.resolve("own", timeout=0) == CLOCK
            net.heal(a, one)
            await next_of(events, PeerRecovered)
            await told(watch, CLOCK, OTHER)
            net.cut(a, one)
            await next_of(events, PeerGone)
            await told(watch, OTHER)


# Who watches


@pytest.mark.anyio
async def test_who_watches_gets_what_is_there_and_then_each_change() -> None:
    async with mesh("a", "b") as (a, b):
        async with a.watch("clock") as watch:
            assert await take(watch, 1) == [()]
            async with b.register("clock", CLOCK):
                assert await take(watch, 1) == [(CLOCK,)]
                assert await take(a.watch("clock"), 1) == [(CLOCK,)]
                async with b.register("another", OTHER), a.register("clock", CLOCK):
                    await a.wait_for(lambda peers: "another" in peers[b.id].names, timeout=LIMIT)
                    assert not watch._queue, "nothing has changed for it"
            assert await take(watch, 1) == [()]
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


@pytest.mark.anyio
async def test_a_reader_that_is_slow_gets_the_newest_only() -> None:
    async with mesh("a") as (a,):
        watch = a.watch("clock")
        async with a.register("clock", CLOCK):
            async with a.register("clock", OTHER):
                pass
            assert await take(watch, 1) == [(CLOCK,)]
            async with a.register("clock", OTHER):
                assert len(watch._queue) == 1
            assert not watch._queue, "what it has read last is true again"
        assert await take(watch, 1) == [()]
        assert watch.dropped == 0


@pytest.mark.anyio
async def test_a_watch_may_begin_before_the_block_and_ends_with_it() -> None:
    net = MemoryNetwork()
    peer = Peer(PROXY, network=net)
    watch, unread = peer.watch("clock"), peer.watch("clock")
    async with net.proxy():
        async with peer:
            assert await take(watch, 1) == [()]
            registration = peer.register("clock", CLOCK)
            await registration.__aenter__()
            assert await take(watch, 1) == [(CLOCK,)]
        await registration.__aexit__(None, None, None)
    assert [there async for there in watch] == []
    assert [there async for there in unread] == [(CLOCK,)], "what waited"
    assert [there async for there in peer.watch("clock")] == [()]


@pytest.mark.anyio
async def test_a_watch_that_nobody_holds_is_forgotten() -> None:
    async with mesh("a") as (a,):
        watch = a.watch("clock")
        assert len(a._names._watches) == 1
        del watch
        await turn_until(lambda: not a._names._watches)


@pytest.mark.anyio
async def test_all_who_see_the_same_agree_however_names_come_and_go() -> None:
    random = Random(4)
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", "b", "c", "d", net=net) as peers:
        watches = [peer.watch("n") for peer in peers]
        held: list[AbstractAsyncContextManager[None]] = []
        for step in range(60):
            if held and random.random() < 0.5:
                await held.pop(random.randrange(len(held))).__aexit__(None, None, None)
            else:
                block = random.choice(peers).register("n", f"tcp://192.0.2.{step + 1}:1")
                await block.__aenter__()
                held.append(block)
        wanted = {endpoint for peer in peers for endpoint in peer.me.names.get("n", ())}
        for peer in peers:
            await peer.wait_for(lambda _, peer=peer: {*peer.names.get("n", ())} == wanted, timeout=LIMIT)  # type: ignore[misc]
        orders = {peer.names.get("n", ()) for peer in peers}
        assert len(orders) == 1
        for watch in watches:
            await told(watch, *orders.copy().pop())
        for block in held:
            await block.__aexit__(None, None, None)


# Which endpoints


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["*", "0.0.0.0", "[::]"])
async def test_an_endpoint_of_all_interfaces_leads_to_the_host_of_the_peer(host: str) -> None:
    async with mesh("a", "b") as (a, b), b.register("clock", f"tcp://{host}:06000"):
        assert b.me.names == {"clock": ("tcp://*:6000",)}
        assert await a.resolve("clock", timeout=LIMIT) == "tcp://127.0.0.1:6000"


@pytest.mark.anyio
async def test_an_endpoint_of_all_interfaces_goes_where_the_machine_goes() -> None:
    net = MemoryNetwork()
    machine, resident = Machine(net, "10.0.0.2"), Machine(net, "10.0.0.9")
    proxy = "tcp://10.0.0.1:5555"
    async with (
        net.proxy(proxy),
        Peer(proxy, network=machine, config=PeerConfig(address_interval=0.01)) as mover,
        Peer(proxy, network=resident) as other,
        mover.register("clock", "tcp://*:6000"),
    ):
        own, watch = mover.watch("clock"), other.watch("clock")
        for one in (own, watch):
            await told(one, "tcp://10.0.0.2:6000")
        machine.address = "10.0.0.3"
        for one in (own, watch):
            await told(one, "tcp://10.0.0.3:6000")


ME = PeerInfo(UUID(int=1), "tcp://10.0.0.1:1", host="here")
NEAR = PeerInfo(UUID(int=2), "tcp://10.0.0.1:2", host="here")
FAR = PeerInfo(UUID(int=3), "tcp://10.0.0.2:1", host="there")
LOCAL = ("ipc:///run/x", "tcp://127.0.0.1:6000", "tcp://localhost:6000", "tcp://[::1]:6000")


def from_here(name: str, *infos: PeerInfo, me: PeerInfo = ME) -> tuple[str, ...]:
    return found(name, me, [Holder(info, 1) for info in infos])


def test_an_endpoint_that_only_its_own_machine_reaches_leads_nowhere_from_another() -> None:
    names = {"n": (*LOCAL, CLOCK)}
    assert from_here("n", evolve(ME, names=names)) == names["n"]
    assert from_here("n", evolve(NEAR, names=names)) == names["n"]
    assert from_here("n", evolve(FAR, names=names)) == (CLOCK,)
    assert from_here("n", evolve(FAR, names={"n": LOCAL})) == ()
    assert known(ME, [Holder(evolve(FAR, names={"n": LOCAL, "m": (CLOCK,)}), 1)]) == {"m": (CLOCK,)}


def test_peers_on_loopback_are_of_one_machine_whatever_it_is_called() -> None:
    me, other = evolve(ME, endpoint="tcp://127.0.0.1:1"), evolve(FAR, endpoint="tcp://127.0.0.1:2", names={"n": LOCAL})
    assert from_here("n", other, me=me) == LOCAL
    assert from_here("n", evolve(other, endpoint=FAR.endpoint), me=me) == ()
    assert from_here("n", other) == ()


def test_machines_without_a_name_are_not_taken_for_one() -> None:
    me, other = evolve(ME, host=""), evolve(FAR, host="", names={"n": LOCAL})
    assert from_here("n", other, me=me) == ()
    assert from_here("n", evolve(me, names={"n": LOCAL}), me=me) == LOCAL


@pytest.mark.parametrize(
    ("endpoint", "there"),
    [
        ("tcp://10.0.0.2:1", "tcp://10.0.0.2:6000"),
        ("tcp://robot.local:1", "tcp://robot.local:6000"),
        ("tcp://[2001:db8::1]:1", "tcp://[2001:db8::1]:6000"),
    ],
)
def test_the_host_that_is_left_open_is_that_of_the_announce(endpoint: str, there: str) -> None:
    assert from_here("n", evolve(FAR, endpoint=endpoint, names={"n": ("tcp://*:6000",)})) == (there,)


def test_the_order_is_suspect_then_start_then_id() -> None:
    def holder(id: int, started: int, *, is_suspect: bool = False) -> Holder:
        info = PeerInfo(UUID(int=id), "tcp://10.0.0.9:1", names={"n": (f"tcp://10.0.0.{id}:1",)})
        return Holder(info, started, is_suspect)

    holders = [holder(7, 1, is_suspect=True), holder(4, 5), holder(6, 3), holder(5, 3), holder(8, 0, is_suspect=True)]
    wanted = tuple(f"tcp://10.0.0.{id}:1" for id in (5, 6, 4, 8, 7))
    for order in (holders, holders[::-1]):
        assert found("n", ME, order) == wanted
        assert known(ME, order) == {"n": wanted}


# What the caller does wrong


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * (NAME_LIMIT + 1), "é" * 128])
def test_names_are_checked(name: str) -> None:
    peer = Peer(PROXY, network=MemoryNetwork())
    for use in (lambda: peer.register(name, CLOCK), lambda: peer.watch(name), lambda: peer.bind_endpoint(name)):
        with pytest.raises(ValueError, match="name"):
            use()


@pytest.mark.anyio
async def test_names_and_endpoints_are_texts() -> None:
    peer = Peer(PROXY, network=MemoryNetwork())
    peer.register("x" * NAME_LIMIT, CLOCK)
    for use in (lambda: peer.register(b"n", CLOCK), lambda: peer.watch(7), lambda: peer.bind_endpoint(None)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a name is text"):
            use()
    with pytest.raises(TypeError, match="a name is text"):
        await peer.resolve(b"n")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a name is not empty"):
        await peer.resolve("")
    with pytest.raises(TypeError, match="an endpoint is text"):
        peer.register("n", b"tcp://192.0.2.1:1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout must be a number"):
        await peer.resolve("n", timeout="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'n' is registered for an endpoint, or several"):
        peer.register("n")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "192.0.2.1:6000",
        "tcp://192.0.2.1",
        "tcp://192.0.2.1:*",
        "tcp://*:0",
        "tcp://*:*",
        "tcp://224.0.0.1:1",
        "tcp://192.0.2.1;192.0.2.2:1",
        "inproc://x",
        "ipc://x",
        "ipc://*",
        "ipc://",
        "ipc:///a\nb",
        "ipc:///" + "x" * 107,
        "udp://192.0.2.1:1",
        "tcp://\ud800:1",
    ],
)
def test_an_endpoint_that_nobody_could_connect_to_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidEndpoint):
        Peer(PROXY, network=MemoryNetwork()).register("n", CLOCK, endpoint)


@pytest.mark.anyio
async def test_a_name_that_does_not_fit_is_not_registered() -> None:
    async with mesh("a", "b") as (a, _):
        await a.update(headers={"x": "y" * 65_000})
        block = a.register("n" * 255, CLOCK, *(f"tcp://192.0.2.1:{port}" for port in range(1, 9)))
        with pytest.raises(AnnounceTooLarge):
            await block.__aenter__()
        assert a.me.names == a.names == {}
        assert not a._names._registered
        await block.__aexit__(None, None, None)
        async with a.register("clock", CLOCK):
            assert a.names == {"clock": (CLOCK,)}


@pytest.mark.anyio
async def test_a_block_is_entered_once_and_only_at_a_peer_that_stays() -> None:
    net = MemoryNetwork()
    with pytest.raises(ClosedError):
        await Peer(PROXY, network=net).register("clock", CLOCK).__aenter__()
    async with net.proxy(), mesh("a", net=net) as (a,):
        block = a.register("clock", CLOCK)
        async with block:
            with pytest.raises(ClosedError, match="entered before"):
                await block.__aenter__()
        await block.__aexit__(None, None, None)
        late = a.register("clock", CLOCK)
        await a.leave()
        with pytest.raises(ClosedError):
            await late.__aenter__()


@pytest.mark.anyio
async def test_a_block_that_is_cancelled_while_it_is_entered_registers_nothing() -> None:
    async with mesh("a") as (a,):
        with anyio.move_on_after(0):
            async with a.register("clock", CLOCK):
                raise AssertionError("it was cancelled before")
        assert a.names == {}


# The hosts file


def write(path: Path, text: str) -> None:
    """Put another file there, as editors do."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


@pytest.mark.anyio
async def test_what_stands_in_the_hosts_file_counts_whatever_others_register(tmp_path: Path) -> None:
    file = tmp_path / "hosts.zpl"
    write(file, f"clock = {OTHER}\nlocal\n    bind = tcp://*:7000\n")
    net = MemoryNetwork()
    async with net.proxy(), Peer(PROXY, network=net, hosts=file) as a, Peer(PROXY, network=net) as b:
        await b.wait_for(1, timeout=LIMIT)
        watch = a.watch("clock")
        async with b.register("clock", CLOCK), b.register("local", "tcp://192.0.2.3:7000"), b.register("x", CLOCK):
            assert await a.resolve("x", timeout=LIMIT) == CLOCK
            assert await a.resolve("clock", timeout=0) == OTHER
            assert await a.resolve("local", timeout=0) == "tcp://192.0.2.3:7000", "it says only what to bind"
            assert a.names == {"clock": (OTHER,), "local": ("tcp://192.0.2.3:7000",), "x": (CLOCK,)}
            assert await take(watch, 1) == [(OTHER,)]
            assert not watch._queue
            assert b.names["clock"] == (CLOCK,), "it is for this machine only"
        assert a.bind_endpoint("local") == "tcp://*:7000"
        assert a.bind_endpoint("clock") == OTHER
        with pytest.raises(UnknownName):
            a.bind_endpoint("x")
        with pytest.raises(UnknownName):
            b.bind_endpoint("clock")


@pytest.mark.anyio
async def test_a_hosts_file_is_known_before_the_block(tmp_path: Path) -> None:
    file = tmp_path / "hosts.zpl"
    write(file, f"clock = {CLOCK}\n")
    peer = Peer(PROXY, network=MemoryNetwork(), hosts=str(file))
    assert peer.names == {"clock": (CLOCK,)}
    assert peer.bind_endpoint("clock") == CLOCK
    assert await take(peer.watch("clock"), 1) == [(CLOCK,)]
    write(file, f"clock = {OTHER}\n")
    assert peer.bind_endpoint("clock") == OTHER


@pytest.mark.anyio
async def test_a_change_of_the_hosts_file_is_seen_at_once_by_who_asks_and_soon_by_who_watches(tmp_path: Path) -> None:
    file = tmp_path / "hosts.zpl"
    write(file, "")
    async with mesh("a", hosts=file, config=PeerConfig(hosts_interval=0.01)) as (a,):
        watch = a.watch("clock")
        assert await take(watch, 1) == [()]
        write(file, f"clock = {CLOCK}\n")
        assert await a.resolve("clock", timeout=0) == CLOCK
        assert await take(watch, 1) == [(CLOCK,)]
        write(file, f"clock = {OTHER}\n")
        await told(watch, OTHER)


@pytest.mark.anyio
@JUMPING
async def test_who_waits_for_a_name_is_told_when_it_stands_in_the_hosts_file(tmp_path: Path) -> None:
    file = tmp_path / "hosts.zpl"
    write(file, "")
    config = PeerConfig(hosts_interval=0.01)
    async with mesh("a", hosts=file, config=config) as (a,), anyio.create_task_group() as tasks:
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await a.resolve("clock", timeout=LIMIT))

        tasks.start_soon(ask)
        await anyio.sleep(1)
        write(file, f"clock = {CLOCK}\n")
        await anyio.sleep(0.02)
        assert answers == [CLOCK]


@pytest.mark.anyio
async def test_a_change_that_cannot_be_used_is_logged_and_counted_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "hosts.zpl"
    write(file, f"clock = {CLOCK}\n")
    async with mesh("a", hosts=file) as (a,):
        write(file, "clock = nonsense\n")
        for _ in range(3):
            assert a.names == {"clock": (CLOCK,)}
        assert a.dropped == {Drop.INVALID_HOSTS: 1}
        assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
            f"the hosts file {file} cannot be used: 'nonsense' is not a usable endpoint: neither of the form "
            "tcp://host:port nor ipc:///path; what it said before counts on"
        ]
        file.unlink()
        for _ in range(3):
            assert a.names == {"clock": (CLOCK,)}
        assert a.dropped == {Drop.INVALID_HOSTS: 2}
        write(file, f"clock = {OTHER}\n")
        assert a.names == {"clock": (OTHER,)}
        assert a.dropped == {Drop.INVALID_HOSTS: 2}
