"""The command line: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO, TextIOWrapper
from pathlib import Path
from uuid import uuid4

import pytest

from programs import ROOT, TIMEOUT, Program, zdisco

pytest.importorskip("click")
pytest.importorskip("rich")

import click
import zmq
from click.testing import CliRunner, Result

from zdisco import (
    Cause,
    DiscoveryTimeout,
    Event,
    EventsDropped,
    LinkInfo,
    LinkState,
    Message,
    PeerGone,
    PeerInfo,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    PeerUpdated,
    ProxyFound,
    ProxyLost,
    ProxySighting,
    Reachability,
)
from zdisco._cli import commands, lines, listing, running

ANY_PORT = "tcp://127.0.0.1:*"
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TCP = r"tcp://127\.0\.0\.1:\d+"


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    """The endpoint of a proxy that runs as a process, for all tests: it remembers nobody."""
    with zdisco("proxy", "--bind", ANY_PORT) as program:
        yield program.wait_for(r"^endpoint (.*)")[1]


def peer(proxy: str, name: str, *arguments: str) -> Program:
    return zdisco("peer", "--proxy", proxy, "--name", name, *arguments)


# The proxy


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_proxy_says_where_it_is_and_ends_in_order(number: int, backend: str) -> None:
    with zdisco("proxy", "--bind", ANY_PORT, "--backend", backend) as program:
        program.wait_for(rf"^endpoint {TCP}$")
        program.wait_for(rf"^relay {TCP}$")
        assert program.leave(number) == 0
        assert program.errors == ""
        assert program.lines[2:] == ["relayed 0", "refused 0"]


def test_an_endpoint_that_is_taken_ends_with_one_line(proxy: str) -> None:
    with zdisco("proxy", "--bind", proxy) as program:
        assert program.exit_code() == 1
        assert program.lines == []
        assert program.errors.startswith(f"Error: cannot bind {proxy}: address already in use")
        assert len(program.errors.splitlines()) == 1


# The peer


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_peers_print_the_lines_of_the_classic_programs_and_their_own(proxy: str, backend: str) -> None:
    hello = ("--subscribe", "news.", "--publish", "news.{}=hello=1", "--every", "0.05", "--backend", backend)
    with (
        peer(proxy, "alice", *(text.format("alice") for text in hello)) as alice,
        peer(proxy, "bob", "--header", "role=robot", *(text.format("bob") for text in hello)) as bob,
    ):
        bob_id, endpoint = bob.wait_for(rf"\tPeer ({UUID}) with endpoint ({TCP})$").groups()
        alice.wait_for(r"\tParam:stopReconnectOnError=1$")
        alice.wait_for(rf"\tProcess id={alice.process.pid}$")
        relay = alice.wait_for(rf"\tGot W from {UUID} with endpoint ({TCP})$")[1]
        alice.wait_for(rf"\tConnecting proxy pub to: {relay}$")
        alice.wait_for(rf"\tFound proxy {proxy}$")
        alice.wait_for(rf"\tGot C from {bob_id} with endpoint {endpoint}$")
        alice.wait_for(rf"\tConnecting data sub to {endpoint}$")
        alice.wait_for(rf"\tJoined bob {bob_id} with endpoint {endpoint}$")
        alice.wait_for(r"\tMessage news\.bob from bob: hello=1$")
        bob.wait_for(r"\tMessage news\.alice from alice: hello=1$")
        assert bob.leave(signal.SIGTERM) == 0
        assert bob.lines[-1].endswith("\tExiting normally")
        alice.wait_for(rf"\tGot D from {bob_id} with endpoint {endpoint}$")
        alice.wait_for(rf"\tDisconnecting data sub from {endpoint}$")
        alice.wait_for(rf"\tGone bob {bob_id} cause FAREWELL$")
        assert alice.leave(signal.SIGINT) == 0
        assert alice.errors == bob.errors == ""
        assert not alice.seen("socket:")


def test_each_line_bears_the_local_time(proxy: str) -> None:
    before = datetime.now()
    with peer(proxy, "alice") as alice:
        stamp = alice.wait_for(r"^(\d\d:\d\d:\d\d\.\d{6})\tFound proxy")[1]
        after = datetime.now()
        at = datetime.strptime(stamp, "%H:%M:%S.%f").time()
        assert before.time() <= at <= after.time() or before.date() != after.date()


def test_a_peer_listens_and_announces_what_it_is_told_to(proxy: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    where = ("--host", "127.0.0.1", "--port", port, "--advertise", "localhost")
    with peer(proxy, "alice", *where, "--group", "red", "--group", "blue") as alice:
        alice.wait_for(rf"\tPeer {UUID} with endpoint tcp://localhost:{port}$")
        alice.wait_for("Found proxy")
        with zdisco("ls", "--proxy", proxy, "--json") as program:
            assert program.exit_code() == 0
            (row,) = json.loads("\n".join(program.lines))
    assert row["groups"] == ["blue", "red"]
    assert row["endpoint"] == f"tcp://localhost:{port}"


def test_peers_that_embed_the_proxy_need_none() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    with peer(endpoint, "alice", "--embed") as alice:
        alice.wait_for("Found proxy")
        with peer(endpoint, "bob", "--embed") as bob:
            bob.wait_for("Joined alice")
            assert alice.leave(signal.SIGTERM) == 0
            bob.wait_for("Found proxy", 2)
            with peer(endpoint, "carol") as carol:
                carol.wait_for("Joined bob")


def test_two_texts_on_one_topic_are_both_published(proxy: str) -> None:
    both = ("--publish", "a=1", "--publish", "a=2", "--every", "0.05")
    with peer(proxy, "alice", "--subscribe", "a") as alice, peer(proxy, "bob", *both):
        alice.wait_for("Message a from bob: 1$", 2)
        alice.wait_for("Message a from bob: 2$", 2)


def test_a_monitoring_peer_prints_the_events_of_its_four_sockets(proxy: str) -> None:
    with peer(proxy, "alice", "--monitor") as alice, peer(proxy, "bob") as bob:
        line = rf"^[\d:.]+\tsocket:0x[0-9a-f]+ name:%s value:\d+ event:4096 desc:HANDSHAKE_SUCCEEDED endpoint:{TCP}$"
        for name in ("proxySub", "proxyPub", "dataSub", "dataPub"):
            alice.wait_for(line % name)
        assert bob.leave(signal.SIGTERM) == alice.leave(signal.SIGTERM) == 0


@pytest.mark.parametrize(("option", "goes_on"), [("0", True), ("1", False)])
def test_a_killed_peer_is_retried_only_where_asked(proxy: str, option: str, goes_on: bool) -> None:
    with (
        peer(proxy, "alice", "--monitor", "--stop-reconnect-on", option) as alice,
        peer(proxy, "witness", "--monitor", "--stop-reconnect-on", "0") as witness,
        peer(proxy, "bob") as bob,
    ):
        endpoint = bob.wait_for(rf"\tPeer {UUID} with endpoint ({TCP})$")[1]
        alice.wait_for("Joined bob")
        witness.wait_for("Joined bob")
        bob.process.kill()
        alice.wait_for("Suspect bob" if goes_on else "Gone bob .* cause REFUSED")
        retried = f"name:dataSub .*desc:CONNECT_RETRIED endpoint:{endpoint}"
        # While the witness tried that often, alice had the time to do so.
        witness.wait_for(retried, 3)
        if goes_on:
            alice.wait_for(retried, 3)
        else:
            gone = next(number for number, line in enumerate(alice.lines) if "Gone bob" in line)
            late = [line for line in alice.lines[gone:] if re.search(retried, line)]
            # What was read before it knew may be printed after it.
            assert not [line for line in late if line[:15] > alice.lines[gone][:15]]


def test_a_peer_without_a_proxy_says_what_it_saw() -> None:
    with zdisco("peer", "--proxy", "tcp://127.0.0.1:1", "--timeout", "0.2") as program:
        assert program.exit_code() == 1
        message = program.errors
        assert message.startswith(
            "Error: no echo of our announce within 0.2 s: no welcome from tcp://127.0.0.1:1 (nothing listens there, "
            "or no way leads there: "
        )
        assert message.endswith(' failed). Is a proxy running there? "zdisco proxy --bind ENDPOINT" starts one.\n')
        assert len(message.splitlines()) == 1


def test_a_peer_that_meets_no_proxy_at_the_port_says_that_it_has_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with zdisco("peer", "--proxy", endpoint, "--timeout", "0.2") as program:
            assert program.exit_code() == 1
            assert f"no welcome from {endpoint} (no connection: " in program.errors


def test_a_proxy_that_does_not_hear_us_is_running() -> None:
    seen = ProxySighting("tcp://127.0.0.1:5555", connected=True, relay="tcp://127.0.0.1:5556")

    async def fail() -> None:
        raise DiscoveryTimeout(1.0, (seen,))

    with pytest.raises(click.ClickException, match=f": {seen}$"):
        running.run(fail)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_peer_that_still_looks_for_its_proxy_leaves_in_order(number: int) -> None:
    with zdisco("peer", "--proxy", "tcp://127.0.0.1:1") as program:
        program.wait_for("\tPeer ")
        assert program.leave(number) == 0
        assert program.errors == ""


def test_a_reader_that_goes_away_ends_a_peer_without_a_trace(proxy: str) -> None:
    command = [sys.executable, "-m", "zdisco", "peer", "--proxy", proxy]
    chatter = ["--subscribe", "t", "--publish", "t=x", "--every", "0.02"]
    with (
        peer(proxy, "bob", *chatter),
        subprocess.Popen([*command, *chatter], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        try:
            assert process.wait(TIMEOUT) == 1
            assert process.stderr.read() == b""
        finally:
            process.kill()


# Names


def asked(endpoint: str, question: str) -> list[str]:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.RCVTIMEO, int(TIMEOUT * 1000))
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)
        socket.send(question.encode())
        return [frame.decode() for frame in socket.recv_multipart()]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_local_programs_are_told_where_names_lead(
    proxy: str, backend: str, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    hosts = short_path / "hosts.zpl"
    hosts.write_text("pinned = tcp://192.0.2.1:6000\n")
    clock = ["--register", "clock=tcp://192.0.2.2:6000", "--register", "clock=ipc:///run/clock=1"]
    with (
        zdisco("names", "--proxy", proxy, "--hosts", str(hosts), "--backend", backend) as names,
        peer(proxy, "bob", *clock, "--backend", backend) as bob,
    ):
        endpoint = names.wait_for("^endpoint (.*)$")[1]
        assert endpoint == f"ipc://{short_path}/zdisco/names"
        bob.wait_for("Joined zdisco-names")
        with zdisco("ls", "--proxy", proxy, "--json") as program:
            assert program.exit_code() == 0
            rows = {row["name"]: row for row in json.loads("\n".join(program.lines))}
        assert rows["bob"]["names"] == {"clock": ["tcp://192.0.2.2:6000", "ipc:///run/clock=1"]}
        assert rows["zdisco-names"]["names"] == {}
        assert asked(endpoint, "clock") == ["OK", "tcp://192.0.2.2:6000", "ipc:///run/clock=1"]
        assert asked(endpoint, "pinned") == ["OK", "tcp://192.0.2.1:6000"]
        assert asked(endpoint, "nobody") == ["UNKNOWN"]
        assert asked(endpoint, "x" * 256)[0] == "ERROR"
        bob.process.kill()
        bob.exit_code()
        deadline = time.monotonic() + TIMEOUT
        while asked(endpoint, "clock") != ["UNKNOWN"]:
            assert time.monotonic() < deadline
        assert names.leave(signal.SIGTERM) == 0
        assert names.errors == ""
        answered, refused = names.lines[1:]
        assert int(answered.removeprefix("answered ")) >= 4
        assert refused == "refused 1"


def test_a_place_where_somebody_listens_ends_with_one_line_and_is_free_when_that_one_is_killed(
    proxy: str, short_path: Path
) -> None:
    where = ["--proxy", proxy, "--bind", f"ipc://{short_path}/names"]
    with zdisco("names", *where) as first:
        first.wait_for("^endpoint")
        with zdisco("names", *where) as second:
            assert second.exit_code() == 1
            assert second.errors == f"Error: cannot bind ipc://{short_path}/names: somebody listens there\n"
        assert asked(f"ipc://{short_path}/names", "nobody") == ["UNKNOWN"]
        first.process.kill()
        first.exit_code()
    assert (short_path / "names").is_socket(), "a process that is killed leaves its file behind"
    with zdisco("names", *where) as third:
        third.wait_for("^endpoint")
        assert asked(f"ipc://{short_path}/names", "nobody") == ["UNKNOWN"]


# The list


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_list_names_every_peer_but_itself(proxy: str, backend: str) -> None:
    with peer(proxy, "bob", "--header", "role=robot") as bob, peer(proxy, "alice") as alice:
        bob.wait_for("Joined alice")
        with zdisco("ls", "--proxy", proxy, "--json", "--backend", backend) as program:
            assert program.exit_code() == 0
            rows = json.loads("\n".join(program.lines))
        assert [row["name"] for row in rows] == ["alice", "bob"]
        assert rows[1]["headers"] == {"role": "robot"}
        assert rows[1]["pid"] == bob.process.pid
        identity = rf"\tPeer {rows[1]['id']} with endpoint {rows[1]['endpoint']}$"
        assert bob.seen(identity)
        alice.wait_for("Gone zdisco-ls .* cause FAREWELL")


def test_the_list_is_a_table_for_people(proxy: str) -> None:
    with peer(proxy, "[bold]bob", "--header", "role=robot") as bob:
        bob.wait_for("Found proxy")
        with zdisco("ls", "--proxy", proxy) as program:
            assert program.exit_code() == 0
            head, row, total = program.lines
    assert head.split() == ["name", "id", "endpoint", "host", "pid", "headers"]
    assert row.split()[0] == "[bold]bob"
    assert row.split()[-2:] == [str(bob.process.pid), "role=robot"]
    assert total == "1 joined"


def test_the_list_of_links_says_who_hears_whom(proxy: str) -> None:
    with peer(proxy, "alice") as alice, peer(proxy, "bob") as bob:
        alice.wait_for("Joined bob")
        bob.wait_for("Joined alice")
        with zdisco("ls", "--links", "--proxy", proxy) as program:
            assert program.exit_code() == 0
            head, *rows, total = program.lines
        assert head.split()[:4] == ["name", "id", "endpoint", "hears"]
        assert [row.split()[0] for row in rows] == ["alice", "bob", "zdisco-ls"]
        assert all(row.endswith("2 of 2  2 of 2") for row in rows)
        assert total == "3 joined, zdisco ls among them"
        with zdisco("ls", "--links", "--json", "--proxy", proxy) as program:
            assert program.exit_code() == 0
            found = json.loads("\n".join(program.lines))
        assert (len(found["peers"]), found["broken"], found["mute"]) == (3, [], [])
        assert {len(links) for links in found["links"].values()} == {2}


def test_a_pair_that_does_not_hear_each_other_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    one, other, mute = [PeerInfo(uuid4(), "tcp://127.0.0.1:1", name=name) for name in "abc"]

    def link(peer: PeerInfo, inward: bool) -> LinkInfo:
        return LinkInfo(peer, LinkState.SUSPECT, 1.0, inward, inward, None, None)

    rows = {one.id: (link(other, False), link(mute, True)), other.id: (link(one, True), link(mute, True))}
    listing.print_links(Reachability({peer.id: peer for peer in (one, other, mute)}, rows))
    _, *lines, broken, total = capsys.readouterr().out.splitlines()
    assert [line.split("tcp://127.0.0.1:1")[1].strip() for line in lines] == [
        "1 of 2          1 of 1",
        "2 of 2          0 of 1",
        "gave no answer  2 of 2",
    ]
    assert (broken, total) == ("what b publishes does not reach a", "3 joined, zdisco ls among them")


def test_the_list_of_nobody_is_empty(proxy: str) -> None:
    with zdisco("ls", "--proxy", proxy, "--json", "--wait", "0.1") as program:
        assert program.exit_code() == 0
        assert program.lines == ["[]"]


def test_the_list_without_a_proxy_says_so() -> None:
    with zdisco("ls", "--proxy", "tcp://127.0.0.1:1", "--timeout", "0.2") as program:
        assert program.exit_code() == 1
        assert "no welcome" in program.errors


def test_only_peers_of_the_same_cluster_are_listed_and_the_others_mentioned(proxy: str) -> None:
    with peer(proxy, "alice", "--cluster", "red") as alice, peer(proxy, "bob", "--cluster", "blue") as bob:
        bob.wait_for("Found proxy")
        alice.wait_for("Found proxy")
        with zdisco("ls", "--proxy", proxy, "--cluster", "red", "--json", "--wait", "2") as program:
            alice.wait_for("Joined zdisco-ls")
            with peer(proxy, "carol", "--cluster", "blue") as carol:
                bob.wait_for("Joined carol")
                assert program.exit_code() == 0
            rows = json.loads("\n".join(program.lines))
        assert [row["name"] for row in rows] == ["alice"]
        assert rows[0]["cluster"] == "red"
        assert program.errors == "there are peers of another cluster, too (--cluster)\n"
        assert not carol.seen("Joined alice")


def test_no_cell_of_the_table_is_folded_and_no_line_ends_in_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    peers = [PeerInfo(uuid4(), "tcp://[2001:db8::1]:40000", name=name, host="h" * 60, pid=7) for name in ("日本", "ab")]
    listing.print_table(peers)
    *rows, total = capsys.readouterr().out.splitlines()
    assert [row for row in rows if row != row.rstrip()] == []
    assert total == "2 joined"
    # Each of the two characters takes two columns of a terminal.
    assert [row.index(text) for row, text in zip(rows, ["id", *(str(one.id) for one in peers)], strict=True)] == [
        6,
        4,
        6,
    ]
    assert [row.split()[1:] for row in rows[1:]] == [[str(p.id), p.endpoint, p.host, "7"] for p in peers]


def test_a_table_in_ascii_is_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    output = TextIOWrapper(BytesIO(), encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", output)
    listing.print_table([PeerInfo(ALICE.id, ALICE.endpoint, name=name) for name in ("é", "bob")])
    output.seek(0)
    head, *rows, _ = output.read().splitlines()
    assert rows[0].startswith(r"\xe9  ")
    assert {row.index(str(ALICE.id)) for row in rows} == {head.index("id")}


# Configuration files

GOOD = '# head\n\na = "1" # one\n    b = \'say "hi"\'\n'
UGLY = "# head\r\n\r\na=1 # one\r\n    b = 'say \"hi\"'\r\n\r\n"
BAD = "a = 1\n  b = 2\n"


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file of each kind."""
    monkeypatch.chdir(tmp_path)
    for name, text in [("good.zpl", GOOD), ("ugly.zpl", UGLY), ("bad.zpl", BAD)]:
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def zpl(*arguments: str, input: str | bytes | None = None) -> Result:
    return CliRunner().invoke(commands.zdisco, ["zpl", *arguments], input=input)


@pytest.mark.usefixtures("in_folder")
def test_a_check_names_file_line_and_column_of_what_is_wrong() -> None:
    result = zpl("check", "bad.zpl", "good.zpl", "ugly.zpl", "-", input="a = 'x\n")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "bad.zpl:2:3: indented by 2 spaces, which is no multiple of 4",
        "<stdin>:1:5: the quote is not closed",
    ]
    assert result.stderr == ""


@pytest.mark.usefixtures("in_folder")
def test_a_check_says_nothing_of_what_is_right() -> None:
    result = zpl("check", "good.zpl", "ugly.zpl", "-", input="")
    assert (result.exit_code, result.output) == (0, "")


def test_files_are_rewritten_in_one_form_and_the_others_left_alone(in_folder: Path) -> None:
    before = {name: (in_folder / name).stat() for name in ("good.zpl", "bad.zpl")}
    result = zpl("fmt", "bad.zpl", "good.zpl", "ugly.zpl")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "bad.zpl:2:3: indented by 2 spaces, which is no multiple of 4\n"
    assert (in_folder / "ugly.zpl").read_bytes() == GOOD.encode()
    for name, status in before.items():
        after = (in_folder / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert zpl("fmt", "ugly.zpl").exit_code == 0


def test_a_dry_run_names_what_would_change_and_changes_nothing(in_folder: Path) -> None:
    result = zpl("fmt", "--check", "good.zpl", "ugly.zpl", "-", input=UGLY)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["ugly.zpl", "<stdin>"]
    assert (in_folder / "ugly.zpl").read_bytes() == UGLY.encode()
    assert zpl("fmt", "--check", "good.zpl").exit_code == 0
    assert zpl("fmt", "--check", "bad.zpl").exit_code == 1


def test_standard_input_goes_to_standard_output_byte_by_byte() -> None:
    result = zpl("fmt", "-", input=b"a = \xff\xc3\xa9\r\n")
    assert result.exit_code == 0
    assert result.stdout_bytes == b'a = "\xff\xc3\xa9"\n'
    result = zpl("fmt", "-", input="a b")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "<stdin>:1:3: expected '=' or a comment after the name, not 'b'\n"


def test_a_file_that_cannot_be_written_ends_with_one_line(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    result = zpl("fmt", "ugly.zpl")
    assert result.exit_code == 1
    assert result.stderr == "Error: cannot write ugly.zpl: no space left on device\n"
    assert (in_folder / "ugly.zpl").read_bytes() == UGLY.encode()


def test_a_strange_name_reaches_no_terminal(in_folder: Path) -> None:
    for name in (b"\x1b[2J", b"\xff", "é".encode()):
        (in_folder / os.fsdecode(name)).write_text(BAD)
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(
            [os.fsencode(sys.executable), b"-m", b"zdisco", b"zpl", b"check", name],
            capture_output=True,
            check=False,
            timeout=TIMEOUT,
            env=environment,
        )
        assert done.returncode == 1
        assert done.stderr == b""
        assert done.stdout.endswith(b":2:3: indented by 2 spaces, which is no multiple of 4\n")
        assert done.stdout[:-1].isascii()
        assert done.stdout[:-1].decode().isprintable()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is full")
@pytest.mark.parametrize("arguments", [["check", "-"], ["fmt", "--check", "-"], ["fmt", "-"]])
def test_an_output_that_is_full_ends_a_look_at_files_with_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "zdisco", "zpl", *arguments],
            input=BAD if arguments[0] == "check" else UGLY,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=TIMEOUT,
            cwd=ROOT,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: cannot write to standard output: no space left on device\n"


# Where the lines go


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is full")
@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["peer"], ["peer", "--monitor"], ["proxy"], ["demo"]])
def test_an_output_that_is_full_ends_a_command_with_one_line(proxy: str, arguments: list[str]) -> None:
    where = {"proxy": ["--bind", ANY_PORT], "demo": []}.get(arguments[0], ["--proxy", proxy])
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "zdisco", *arguments, *where],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=TIMEOUT,
            cwd=ROOT,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: cannot write to standard output: no space left on device\n"


@pytest.mark.parametrize("arguments", [["ls", "--wait", "0.1"], ["ls", "--wait", "0.1", "--json"]])
def test_without_a_standard_output_nothing_is_printed(proxy: str, arguments: list[str]) -> None:
    code = "import sys; sys.stdout = None; from zdisco._cli import main; main()"
    with Program("-c", code, *arguments, "--proxy", proxy) as program:
        assert program.exit_code() == 0
        assert program.lines == []
        assert program.errors == ""


# Arguments


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["proxy", "--bind", "nonsense"],
            "'--bind': 'nonsense' must begin with its transport, as in tcp://127.0.0.1:5555",
        ),
        (["proxy", "--bind", "tcp://nonsense"], "not of the form tcp://host:port"),
        (["proxy", "--relay", "127.0.0.1:5556"], "'--relay': '127.0.0.1:5556' must begin with its transport"),
        (["proxy", "--advertise", "tcp://192.0.2.1"], "advertise takes a host, without tcp:// and port"),
        (["proxy", "--advertise", "192.0.2.1:5555"], "advertise takes a host, without tcp:// and port"),
        (["proxy", "--backend", "curio"], "'curio' is not one of"),
        (
            ["peer", "--proxy", "127.0.0.1:5555"],
            "'--proxy': '127.0.0.1:5555' must begin with its transport, as in tcp://",
        ),
        (["peer", "--proxy", "tcp://nonsense"], "'tcp://nonsense' is not a usable endpoint"),
        (["peer", "--proxy", "tcp://127.0.0.1:*"], "is not a usable endpoint"),
        (["peer", "--header", "role"], "'role' is not of the form KEY=TEXT"),
        (["peer", "--header", "role=a", "--header", "role=b"], "'--header': 'role' is given twice"),
        (["peer", "--port", "65536"], "65536 is not in the range 0<=x<=65535"),
        (["peer", "--host", "a b"], "'a b' is not a usable endpoint"),
        (["peer", "--advertise", "a b"], "'a b' is not a usable endpoint"),
        (["peer", "--subscribe", "t" * 1025], "1024"),
        (["peer", "--publish", "t" * 1025 + "=text"], "1024"),
        (["peer", "--publish", "=text"], "'=text' is not of the form TOPIC=TEXT"),
        (["peer", "--every", "0"], "0.0 is not in the range x>0"),
        (["peer", "--every", "soon"], "'soon' is not a valid number of seconds"),
        (["peer", "--every", "inf"], "'--every': inf is not a number of seconds"),
        (["ls", "--wait", "nan"], "'--wait': nan is not a number of seconds"),
        (["ls", "--timeout", "nan"], "'--timeout': nan is not a number of seconds"),
        (["peer", "--stop-reconnect-on", "4"], "4 is not in the range 0<=x<=3"),
        (["peer", "--timeout", "-1"], "-1.0 is not in the range x>0"),
        (["peer", "--name", "x" * 70_000], "the limit is 65536"),
        (["peer", "--register", "clock"], "'clock' is not of the form NAME=ENDPOINT"),
        (["peer", "--register", "clock=nonsense"], "'nonsense' is not a usable endpoint"),
        (["peer", "--register", "clock=tcp://127.0.0.1:*"], "others cannot know its port"),
        (["names", "--bind", "nonsense"], "'nonsense' is not a usable endpoint"),
        (["names", "--bind", "ipc://names"], "the path is not absolute"),
        (["names", "--hosts", "nowhere.zpl"], "cannot be used: no such file or directory"),
        (["ls", "--wait", "0"], "0.0 is not in the range x>0"),
        (["ls", "--proxy", ""], "'--proxy': '' must begin with its transport"),
        (["demo", "now"], "unexpected extra argument"),
        (["dance"], "No such command 'dance'"),
        (["zpl", "check"], "Missing argument 'FILE...'"),
        (["zpl", "check", "missing.zpl"], "File 'missing.zpl' does not exist"),
        (["zpl", "fmt", "missing.zpl"], "File 'missing.zpl' does not exist"),
        (["zpl", "fmt", "."], "File '.' is a directory"),
    ],
)
def test_bad_arguments_are_usage_errors(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(commands.zdisco, arguments)
    assert result.exit_code == 2
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_a_backend_that_is_not_installed_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(commands.zdisco, ["ls", "--backend", "trio"])
    assert result.exit_code == 2
    assert "trio is not installed" in result.output


@pytest.mark.parametrize(
    "command", [[], ["proxy"], ["peer"], ["names"], ["ls"], ["demo"], ["zpl"], ["zpl", "check"], ["zpl", "fmt"]]
)
def test_each_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(commands.zdisco, [*command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


def test_it_says_its_version() -> None:
    result = CliRunner().invoke(commands.zdisco, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"zdisco, version {importlib.metadata.version('zdisco')}\n"


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_extra_the_command_line_says_what_it_needs(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from zdisco._cli import main; main()"
    with Program("-c", code) as program:
        assert program.exit_code() == 2
        assert program.errors == f"zdisco: the command line needs {missing}: pip install 'zdisco[cli]'\n"


# The text of a line

ALICE = PeerInfo(uuid.UUID(int=4711), "tcp://127.0.0.1:4000", name="alice")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (PeerJoined(ALICE), f"Joined alice {ALICE.id} with endpoint tcp://127.0.0.1:4000"),
        (PeerUpdated(ALICE, ALICE), f"Updated alice {ALICE.id} revision 0"),
        (PeerSuspected(ALICE), f"Suspect alice {ALICE.id}"),
        (PeerRecovered(ALICE), f"Recovered alice {ALICE.id}"),
        (PeerGone(ALICE, Cause.REFUSED), f"Gone alice {ALICE.id} cause REFUSED"),
        (ProxyFound("tcp://127.0.0.1:5555"), "Found proxy tcp://127.0.0.1:5555"),
        (ProxyLost("tcp://127.0.0.1:5555"), "Lost proxy tcp://127.0.0.1:5555"),
        (EventsDropped(3), "Missed 3 events"),
    ],
)
def test_every_event_has_a_line(event: Event, text: str) -> None:
    assert lines.event_text(event) == text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Message(ALICE, "news", b"hello"), "Message news from alice: hello"),
        (Message(None, "news", b"hello"), "Message news from a classic peer: hello"),
        (Message(PeerInfo(ALICE.id, ALICE.endpoint), "t", b""), f"Message t from {ALICE.id}: "),
        (Message(ALICE, "n\udcff", b"\xff\n\x1b[2J \xc3\xa9"), r"Message n\udcff from alice: \xff\n\x1b[2J é"),
    ],
)
def test_a_message_becomes_one_line_that_no_terminal_obeys(message: Message, text: str) -> None:
    assert lines.message_text(message) == text


def test_a_warning_of_the_library_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("zdisco")
    discovery = logging.getLogger("zdisco.discovery")
    before = list(logger.handlers), discovery.level
    try:
        lines.print_log()
        logger.warning("no echo of our %s", "farewell")
        logger.debug("not for everybody")
    finally:
        logger.handlers[:] = before[0]
        discovery.setLevel(before[1])
    assert re.fullmatch(r"[\d:.]+\tno echo of our farewell\n", capsys.readouterr().out)
