"""The responder: what programs ask that know nothing of zdisco, and where it listens."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
import zmq
from anyio import to_thread

from meshes import LIMIT, PROXY, mesh
from zdisco import BindError, ClosedError, InvalidEndpoint, NameResponder, Peer, Proxy
from zdisco import _ipc as ipc
from zdisco._zmq.options import MAX_QUESTION
from zdisco.testing import MemoryNetwork
from zmtp import GREETING, ready

pytestmark = pytest.mark.anyio

CLOCK = "tcp://192.0.2.1:6000"
OTHER = "tcp://192.0.2.2:6000"
TIMEOUT = 20_000
"""Milliseconds."""

ASKING = """
import json, sys, zmq
with zmq.Context() as context, context.socket(zmq.REQ) as socket:
    socket.connect(sys.argv[1])
    for question in sys.argv[2:]:
        socket.send_multipart([frame.encode() for frame in question.split(" ")])
        print(json.dumps([frame.decode() for frame in socket.recv_multipart()]))
"""


@pytest.fixture
def runtime(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which programs of our user look for local sockets."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    return short_path


@contextmanager
def asking(endpoint: str, kind: int = zmq.REQ, *, hwm: int = 1000) -> Iterator[zmq.Socket[bytes]]:
    """A plain socket of somebody else."""
    context = zmq.Context()
    try:
        plain = context.socket(kind)
        plain.setsockopt(zmq.RCVTIMEO, TIMEOUT)
        plain.setsockopt(zmq.SNDHWM, hwm)
        plain.connect(endpoint)
        yield plain
    finally:
        context.destroy(linger=0)


async def ask(plain: zmq.Socket[bytes], *question: bytes) -> list[bytes]:
    def call() -> list[bytes]:
        plain.send_multipart(question)
        return plain.recv_multipart()

    return await to_thread.run_sync(call)


@asynccontextmanager
async def responding(endpoint: str | None = None) -> AsyncIterator[tuple[Peer, NameResponder]]:
    async with mesh("a") as (peer,), NameResponder(peer, endpoint) as responder:
        yield peer, responder


# What is asked, and what is answered


async def test_a_program_in_another_process_that_knows_only_zeromq_is_told(runtime: Path) -> None:
    hosts = runtime / "hosts.zpl"
    hosts.write_text(f"pinned\n    connect = {OTHER}\n    connect = ipc:///run/x\n    bind = tcp://*:6000\n")
    questions = ["clock", "pinned", "pinned bind", "clock bind", "nobody", "", "ünï"]
    async with (
        Proxy("tcp://127.0.0.1:*") as proxy,
        Peer(proxy.endpoint, hosts=hosts) as peer,
        Peer(proxy.endpoint) as b,
        b.register("clock", CLOCK),
        b.register("ünï", OTHER),
        NameResponder(peer) as responder,
    ):
        await peer.resolve("ünï", timeout=LIMIT)
        await peer.resolve("clock", timeout=LIMIT)
        command = [sys.executable, "-c", ASKING, responder.endpoint, *questions]
        with anyio.fail_after(LIMIT):
            done = await anyio.run_process(command, env={**os.environ, "PYTHONUTF8": "1"})
        assert [json.loads(line) for line in done.stdout.decode().splitlines()] == [
            ["OK", CLOCK],
            ["OK", OTHER, "ipc:///run/x"],
            ["OK", "tcp://*:6000"],
            ["UNKNOWN"],
            ["UNKNOWN"],
            ["OK", "clock", "pinned", "ünï"],
            ["OK", OTHER],
        ]
        assert (responder.answered, responder.refused) == (7, 0)


async def test_an_answer_says_what_is_known_now(runtime: Path) -> None:
    async with responding() as (peer, responder):
        with asking(responder.endpoint) as plain:
            assert await ask(plain, b"") == [b"OK"]
            assert await ask(plain, b"clock") == [b"UNKNOWN"]
            async with peer.register("clock", CLOCK):
                assert await ask(plain, b"clock") == [b"OK", CLOCK.encode()]
                assert await ask(plain, b"") == [b"OK", b"clock"]
            assert await ask(plain, b"clock") == [b"UNKNOWN"]


NO_QUESTIONS: dict[str, tuple[Sequence[bytes], bytes]] = {
    "no text": ([b"\xff"], b"the question is not UTF-8"),
    "no text, though long": ([b"\x80" * 250], b"the question is not UTF-8"),
    "a surrogate": ([b"\xed\xa0\x80"], b"the question is not UTF-8"),
    "a NUL": ([b"a\0b"], b"holds no NUL"),
    "too long": ([b"x" * 256], b"at most 255 bytes"),
    "as long as can be": ([b"x" * MAX_QUESTION], b"at most 255 bytes"),
    "another verb": ([b"clock", b"connect"], b"a question is a name"),
    "an empty name to bind": ([b"", b"bind"], b"a name is not empty"),
    "three frames": ([b"clock", b"bind", b""], b"a question is a name"),
    "a thousand frames": ([b"x"] * 1000, b"a question is a name"),
}


@pytest.mark.parametrize(("question", "reason"), NO_QUESTIONS.values(), ids=NO_QUESTIONS)
async def test_what_is_no_question_is_answered_with_the_reason(
    runtime: Path, question: Sequence[bytes], reason: bytes
) -> None:
    async with responding() as (peer, responder), peer.register("clock", CLOCK):
        with asking(responder.endpoint) as plain:
            status, text = await ask(plain, *question)
            assert status == b"ERROR"
            assert reason in text
            assert text.decode().isprintable()
            assert (responder.answered, responder.refused) == (0, 1)
            assert await ask(plain, b"clock") == [b"OK", CLOCK.encode()]


async def test_whatever_comes_in_ends_nothing(runtime: Path) -> None:
    async with responding() as (peer, responder), peer.register("clock", CLOCK):
        path = responder.endpoint.removeprefix("ipc://")
        with asking(responder.endpoint, zmq.DEALER) as dealer, asking(responder.endpoint) as plain:
            dealer.send(b"no empty frame, so no way to answer")
            dealer.send_multipart([b"", b"clock"])
            assert await to_thread.run_sync(dealer.recv_multipart) == [b"", b"OK", CLOCK.encode()]
            assert (responder.answered, responder.refused) == (1, 1)
            dealer.send_multipart([b"way", b"back", b"", b"clock"])
            assert await to_thread.run_sync(dealer.recv_multipart) == [b"way", b"back", b"", b"OK", CLOCK.encode()]
            dealer.send(b"")
            assert (await to_thread.run_sync(dealer.recv_multipart))[:2] == [b"", b"ERROR"]
            for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" + bytes(8) + b"\x7f"):
                with socket.socket(socket.AF_UNIX) as caller:
                    caller.connect(path)
                    caller.sendall(garbage)
            assert await ask(plain, b"clock") == [b"OK", CLOCK.encode()]


async def test_who_says_more_than_a_question_can_be_is_cut_off(runtime: Path) -> None:
    async with responding() as (_, responder):

        def shout() -> bytes:
            with socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(TIMEOUT / 1000)
                caller.connect(responder.endpoint.removeprefix("ipc://"))
                caller.sendall(GREETING + ready(b"REQ") + b"\x02" + struct.pack(">Q", MAX_QUESTION + 1))
                while heard := caller.recv(4096):
                    pass
                return heard

        assert await to_thread.run_sync(shout) == b""


async def test_who_asks_and_never_reads_holds_nobody_up(runtime: Path) -> None:
    name = "n" * 255
    endpoints = [f"ipc:///{'x' * 90}{number}" for number in range(100)]
    async with responding() as (peer, responder), peer.register(name, *endpoints), peer.register("clock", CLOCK):
        with asking(responder.endpoint, zmq.DEALER, hwm=0) as deaf, asking(responder.endpoint) as plain:
            for _ in range(5000):
                deaf.send_multipart([b"", name.encode()])
            with anyio.fail_after(LIMIT):
                while responder.answered < 5000:
                    assert await ask(plain, b"clock") == [b"OK", CLOCK.encode()]


async def test_many_ask_at_once(runtime: Path) -> None:
    async with responding() as (peer, responder), peer.register("clock", CLOCK), anyio.create_task_group() as tasks:

        async def client() -> None:
            with asking(responder.endpoint) as plain:
                for _ in range(20):
                    assert await ask(plain, b"clock") == [b"OK", CLOCK.encode()]

        for _ in range(20):
            tasks.start_soon(client)
    assert responder.answered == 400


async def test_a_peer_that_has_ended_knows_nothing_more(runtime: Path) -> None:
    net = MemoryNetwork()
    async with net.proxy():
        peer = await Peer(PROXY, network=net).__aenter__()
        responder = await NameResponder(peer).__aenter__()
        peer._shut()  # as when another process has its id
        with asking(responder.endpoint) as plain:
            assert await ask(plain, b"clock") == [b"ERROR", b"the peer is not open"]
        await responder.__aexit__(None, None, None)
        await peer.__aexit__(None, None, None)


# Where it listens


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


async def test_by_default_it_listens_where_only_our_user_can_ask(runtime: Path) -> None:
    async with responding() as (_, responder):
        assert responder.endpoint == f"ipc://{runtime}/zdisco/names"
        assert mode(runtime / "zdisco") == 0o700
        assert mode(runtime / "zdisco" / "names") == 0o600
    assert not (runtime / "zdisco" / "names").exists()


@pytest.mark.parametrize("given", [None, "", "relative/path"])
def test_without_a_runtime_directory_it_listens_in_one_of_the_user(
    monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if given is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", given)
    peer = Peer(PROXY, network=MemoryNetwork())
    assert NameResponder(peer).endpoint == f"ipc:///tmp/zdisco-{os.getuid()}/names"


@pytest.mark.parametrize("make", ["open to others", "link", "file"])
async def test_a_directory_that_others_may_write_to_is_not_used(runtime: Path, make: str) -> None:
    directory, elsewhere = runtime / "zdisco", runtime / "elsewhere"
    elsewhere.mkdir(0o700)
    match make:
        case "open to others":
            directory.mkdir()
            directory.chmod(0o711)
        case "link":
            directory.symlink_to(elsewhere)
        case "file":
            directory.touch(0o600)
    async with mesh("a") as (a,):
        with pytest.raises(BindError, match="is no directory of this user alone"):
            await NameResponder(a).__aenter__()
    assert not os.listdir(elsewhere)


async def test_a_runtime_directory_that_is_not_there_is_told(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / "gone"))
    async with mesh("a") as (a,):
        with pytest.raises(BindError, match=r"gone/zdisco: no such file or directory"):
            await NameResponder(a).__aenter__()


async def test_a_file_that_is_given_is_for_our_user_alone_whatever_the_umask(short_path: Path) -> None:
    before = os.umask(0)
    try:
        async with responding(f"ipc://{short_path}/socket"):
            assert mode(short_path / "socket") == 0o600
    finally:
        os.umask(before)
    assert not os.listdir(short_path)


async def test_what_a_dead_process_has_left_behind_is_replaced(short_path: Path) -> None:
    path = short_path / "socket"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.listen()
    dead.close()
    was = path.stat().st_ino
    async with responding(f"ipc://{path}") as (peer, responder), peer.register("clock", CLOCK):
        assert path.stat().st_ino != was or mode(path) == 0o600
        with asking(responder.endpoint) as plain:
            assert await ask(plain, b"clock") == [b"OK", CLOCK.encode()]


async def test_the_place_of_one_that_lives_is_not_taken(short_path: Path) -> None:
    endpoint = f"ipc://{short_path}/socket"
    async with responding(endpoint) as (peer, responder), peer.register("clock", CLOCK):
        for _ in range(2):
            with pytest.raises(BindError, match="somebody listens there") as caught:
                await NameResponder(peer, endpoint).__aenter__()
            assert caught.value.errno == errno.EADDRINUSE
        with asking(responder.endpoint) as plain:
            assert await ask(plain, b"clock") == [b"OK", CLOCK.encode()]


async def test_a_queue_of_callers_is_a_sign_of_life(short_path: Path) -> None:
    endpoint = f"ipc://{short_path}/socket"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as caller:
        busy.bind(str(short_path / "socket"))
        busy.listen(0)
        caller.setblocking(False)
        caller.connect(str(short_path / "socket"))
        async with mesh("a") as (a,):
            with pytest.raises(BindError, match="somebody listens there"):
                await NameResponder(a, endpoint).__aenter__()


async def test_a_file_that_is_no_socket_is_not_removed(short_path: Path) -> None:
    path = short_path / "precious"
    path.write_text("data")
    async with mesh("a") as (a,):
        with pytest.raises(BindError, match="what is there is no socket"):
            await NameResponder(a, f"ipc://{path}").__aenter__()
        with pytest.raises(BindError, match="no such file or directory"):
            await NameResponder(a, f"ipc://{short_path}/gone/socket").__aenter__()
    assert path.read_text() == "data"


async def test_of_several_that_start_at_once_one_gets_the_place_of_a_dead_one(short_path: Path) -> None:
    path = short_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    places: list[ipc.Place] = []
    failed: list[BindError] = []

    async def start() -> None:
        try:
            places.append(await ipc.claim(path, "ipc://"))
        except BindError as error:
            failed.append(error)

    with _locked(short_path) as unlock:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(start)
            await anyio.wait_all_tasks_blocked()
            assert not places
            assert not failed
            unlock()
    assert (len(places), len(failed)) == (1, 4)
    places[0].leave()
    places[0].listener.close()


@contextmanager
def _locked(directory: Path) -> Iterator[partial[None]]:
    """The lock that whoever looks for a place takes; gives what lets it go."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield partial(fcntl.flock, descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


async def test_a_lock_that_a_stranger_holds_for_ever_is_not_waited_for(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipc, "_PATIENCE", 0.05)
    with _locked(short_path), anyio.fail_after(LIMIT):
        async with responding(f"ipc://{short_path}/socket"):
            pass


def test_who_cannot_wait_for_a_lock_holds_the_event_loop_up_for_a_moment_only(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    with _locked(short_path) as unlock:
        monkeypatch.setattr(time, "sleep", slept.append)
        place = ipc.claim_now(short_path / "first", "ipc://")
        assert 0 < sum(slept) <= 0.1
        place.listener.close()
        del slept[:]

        def let_go(seconds: float) -> None:
            slept.append(seconds)
            unlock()

        monkeypatch.setattr(time, "sleep", let_go)
        place = ipc.claim_now(short_path / "second", "ipc://")
        assert len(slept) == 1
        place.listener.close()


async def test_the_file_of_a_successor_is_left_alone(short_path: Path) -> None:
    path = short_path / "socket"
    async with responding(f"ipc://{path}"):
        path.unlink()
        path.write_text("of somebody else")
    assert path.read_text() == "of somebody else"


async def test_other_transports_work_and_need_no_file() -> None:
    for endpoint in ("tcp://127.0.0.1:*", f"ipc://@zdisco-test-{os.getpid()}"):
        async with responding(endpoint) as (peer, responder), peer.register("clock", CLOCK):
            with asking(responder.endpoint) as plain:
                assert await ask(plain, b"clock") == [b"OK", CLOCK.encode()]
            with pytest.raises(BindError):
                await NameResponder(peer, responder.endpoint).__aenter__()


def test_what_it_is_given_is_checked() -> None:
    peer = Peer(PROXY, network=MemoryNetwork())
    for endpoint in ("", "nonsense", "inproc://x", "ipc://x", "tcp://a", f"ipc:///{'x' * 107}"):
        with pytest.raises(InvalidEndpoint):
            NameResponder(peer, endpoint)
    with pytest.raises(TypeError):
        NameResponder(peer, 7)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        NameResponder("peer")  # type: ignore[arg-type]


async def test_it_is_entered_once_and_only_with_a_peer_that_is_open(short_path: Path) -> None:
    endpoint = f"ipc://{short_path}/socket"
    with pytest.raises(ClosedError):
        await NameResponder(Peer(PROXY, network=MemoryNetwork()), endpoint).__aenter__()
    async with mesh("a") as (a,):
        responder = NameResponder(a, endpoint)
        async with responder:
            pass
        with pytest.raises(ClosedError, match="entered before"):
            await responder.__aenter__()
