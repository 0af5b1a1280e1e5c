"""The examples run as they stand, each as a process of its own."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from programs import ROOT, Program

EXAMPLES = ROOT / "examples"
LINES = 40
ANY_PORT = "tcp://127.0.0.1:*"
TCP = r"tcp://127\.0\.0\.1:\d+"
ALL = sorted(EXAMPLES.glob("*.py"))


def example(name: str, *arguments: str) -> Program:
    return Program(f"examples/{name}.py", *arguments)


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    """The endpoint of the proxy that is an example, for all tests: it remembers nobody."""
    with example("proxy", ANY_PORT) as program:
        yield program.wait_for(rf"^{TCP}$")[0]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_each_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    assert f"python examples/{path.name}" in text.split('"""')[1]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_each_example_is_run_by_a_test(path: Path) -> None:
    assert f'example("{path.stem}"' in Path(__file__).read_text(encoding="utf-8")


def test_the_proxy_ends_on_ctrl_c_without_a_trace() -> None:
    with example("proxy", ANY_PORT) as program:
        program.wait_for(rf"^{TCP}$")
        assert program.leave(signal.SIGINT) == 0
        assert program.errors == ""


def test_two_peers_greet_each_other_and_leave(proxy: str) -> None:
    with example("peer", "alice", proxy) as alice, example("peer", "bob", proxy) as bob:
        assert alice.exit_code() == bob.exit_code() == 0
        assert alice.lines == ["hello from bob"]
        assert bob.lines == ["hello from alice"]
        assert alice.errors == bob.errors == ""


def test_what_one_types_in_the_chat_the_others_read(proxy: str) -> None:
    with example("chat", "alice", proxy) as alice, example("chat", "bob", proxy) as bob:
        alice.wait_for(r"^\* bob is here$")
        alice.write("how are you?")
        bob.wait_for("^alice: how are you")
        alice.write("  é  ")
        bob.wait_for("^alice: é$")
        bob.write("fine")
        alice.wait_for("^bob: fine$")
        bob.end_of_input()
        assert bob.exit_code() == 0
        # Who has joined whom is known to each at its own time: a message may come first.
        assert [line for line in bob.lines if line != "* alice is here"] == ["alice: how are you?", "alice: é"]
        assert bob.lines.count("* alice is here") == 1
        alice.wait_for(r"^\* bob is gone \(farewell\)$")
        alice.end_of_input()
        assert alice.exit_code() == 0
        assert alice.lines == ["* bob is here", "bob: fine", "* bob is gone (farewell)"]
        assert alice.errors == bob.errors == ""


def test_ctrl_c_leaves_the_chat_in_order(proxy: str) -> None:
    with example("chat", "alice", proxy) as alice, example("chat", "bob", proxy) as bob:
        alice.wait_for(r"^\* bob is here$")
        bob.wait_for(r"^\* alice is here$")
        assert bob.leave(signal.SIGINT) == 0
        assert bob.errors == ""
        alice.wait_for(r"^\* bob is gone \(farewell\)$")


@pytest.mark.parametrize("name", ["peer", "chat"])
def test_an_example_that_needs_a_name_says_so(name: str) -> None:
    with example(name) as program:
        assert program.exit_code() == 1
        assert program.errors == f"usage: python examples/{name}.py NAME [PROXY]\n"


@pytest.mark.parametrize("brings_its_own", [True, False])
def test_the_console_shows_eight_robots_come_and_go(proxy: str, brings_its_own: bool) -> None:
    with example("presence_console", *([] if brings_its_own else [proxy])) as console:
        assert console.exit_code() == 0
        assert console.errors == ""
    robots = [f"robot-{number}" for number in range(1, 9)]
    assert sorted(match[1] for match in console.seen(r"; (\S+) joined$")) == robots
    assert sorted(match[1] for match in console.seen(r"; (\S+) farewell$")) == robots
    assert re.match("0 robots here; ", console.lines[-1])
    assert all(re.match("[02-8] robots|1 robot ", line) for line in console.lines)


def test_who_asks_for_a_name_goes_on_with_the_next_server_when_one_is_killed(proxy: str) -> None:
    with example("names", proxy) as first, example("names", proxy) as second, example("names", proxy, "ask") as asking:
        line = rf"^hello you, I am process (\d+) at the first of (\d): ({TCP})$"
        asking.wait_for(line.replace(r"(\d):", "2:"))
        *_, latest = asking.seen(line)
        servers = {server.process.pid: server for server in (first, second)}
        killed = servers.pop(int(latest[1]))
        (other,) = servers.values()
        alone = line.replace(r"(\d+)", str(other.process.pid)).replace(r"(\d):", "1:")
        before = len(asking.seen(alone))
        killed.process.kill()
        assert asking.wait_for(alone, before + 1)[1] != latest[3]
        assert other.leave(signal.SIGINT) == asking.leave(signal.SIGINT) == 0
        assert other.errors == asking.errors == ""


@pytest.mark.parametrize("is_served", [True, False])
def test_the_logger_shows_the_events_of_a_socket(is_served: bool) -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as server:
        server.bind(ANY_PORT)
        endpoint = server.getsockopt_string(zmq.LAST_ENDPOINT)
        with example("monitor_logger", *([endpoint] if is_served else [])) as logger:
            logger.wait_for(rf"name:client .*desc:HANDSHAKE_SUCCEEDED endpoint:{endpoint if is_served else TCP}$")
            server.close(0)
            logger.wait_for("desc:CONNECT_RETRIED")
            assert logger.exit_code() == 0
            assert logger.errors == ""
    line = rf"[\d:.]+\tsocket:0x[0-9a-f]+ name:client value:\d+ event:\d+ desc:[A-Z_]+ endpoint:{TCP}"
    assert all(re.fullmatch(line, text) for text in logger.lines)


def test_ctrl_c_ends_the_logger_of_what_never_answers() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        example("monitor_logger", f"tcp://127.0.0.1:{silent.getsockname()[1]}") as logger,
    ):
        logger.wait_for(r"desc:CONNECTED ")
        assert logger.leave(signal.SIGINT) == 0
        assert logger.errors == ""


def test_programs_share_their_settings() -> None:
    with example("settings", "bind", ANY_PORT, "color=red") as first:
        endpoint = first.wait_for(rf"^{TCP}$")[0]
        with example("settings", "connect", endpoint, "size=7") as second:
            second.wait_for("^color is new: red$")
            first.wait_for("^size is new: 7$")
            with example("settings", "connect", endpoint, "color=blue") as third:
                first.wait_for("^color is changed: blue$")
                second.wait_for("^color is changed: blue$")
                assert third.leave(signal.SIGINT) == 0
            assert second.leave(signal.SIGINT) == 0
        assert first.leave(signal.SIGINT) == 0
        assert first.errors == second.errors == third.errors == ""
