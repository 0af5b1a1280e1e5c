"""``zdisco gossip``, and peers that are told of gossip nodes on the command line."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from programs import Program, zdisco

pytest.importorskip("click")
pytest.importorskip("rich")

ANY_PORT = "tcp://127.0.0.1:*"
NOBODY = "tcp://127.0.0.1:1"


def node(*arguments: str) -> Program:
    return zdisco("gossip", "--bind", ANY_PORT, *arguments)


def endpoint(program: Program) -> str:
    return program.wait_for(r"^endpoint (tcp://.*)")[1]


def ask(where: str, *arguments: str) -> Program:
    return zdisco("gossip", "--connect", where, *arguments)


def answer(where: str, *arguments: str) -> list[str]:
    with ask(where, *arguments) as program:
        assert program.exit_code() == 0, program.errors
        return program.lines


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_set_by_one_command_is_got_by_the_next(backend: str) -> None:
    with node("--backend", backend) as program:
        where = endpoint(program)
        assert answer(where, "set", "color", "red") == []
        program.wait_for(r"\tnew color=red$")
        assert answer(where, "set", "color", "blue") == []
        program.wait_for(r"\tchanged color=blue$")
        answer(where, "set", "size", "7")
        assert answer(where, "get", "color") == ["blue"]
        assert answer(where, "get") == ["color=blue", "size=7"]
        assert answer(where, "unset", "size") == []
        program.wait_for(r"\tremoved size$")
        assert answer(where, "status") == ["tuples 1", "tombstones 1"]
        assert program.leave(signal.SIGINT) == 0
        assert program.lines[-2:] == ["tuples 1", "dropped 0"]
        assert program.errors == ""


def test_a_value_with_a_time_to_live_outlives_the_command_and_expires() -> None:
    with node() as program:
        answer(endpoint(program), "set", "color", "red", "--ttl", "1.5")
        program.wait_for(r"\tnew color=red$")
        program.wait_for(r"\texpired color$")


def test_watch_prints_what_is_there_and_what_comes() -> None:
    with node() as program:
        where = endpoint(program)
        answer(where, "set", "a.1", "x")
        with ask(where, "watch", "a.") as watcher:
            watcher.wait_for(r"\tnew a\.1=x$")
            answer(where, "set", "b", "y")
            answer(where, "set", "a.2", "\x1b[2J")
            watcher.wait_for(r"\tnew a\.2=\\x1b\[2J$")
            assert watcher.leave(signal.SIGTERM) == 0
            assert not [line for line in watcher.lines if "b=y" in line]


def test_what_is_not_there_ends_with_one_line() -> None:
    with node() as program:
        where = endpoint(program)
        for command in ("get", "unset"):
            with ask(where, command, "nothing") as asker:
                assert asker.exit_code() == 1
                assert asker.errors == "Error: 'nothing' has no value\n"


def test_who_asks_nobody_is_told_so() -> None:
    with ask(NOBODY, "get", "x", "--timeout", "0.3") as program:
        assert program.exit_code() == 1
        assert program.errors == f"Error: 1 of 1 gossip nodes do not answer: {NOBODY}\n"


@pytest.mark.parametrize("command", [["get", "x"], ["set", "x", "y"], ["unset", "x"], ["status"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_signal_ends_before_it_is_done_is_no_success(command: list[str], number: signal.Signals) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        ask(f"tcp://127.0.0.1:{mute.getsockname()[1]}", *command, "--timeout", "60") as program,
        mute.accept()[0],
    ):
        assert program.leave(number) == 128 + number
        assert (program.lines, program.errors) == ([], "")


@pytest.mark.parametrize("command", ["set", "unset", "get", "watch", "status"])
def test_the_help_of_a_command_needs_nothing(command: str) -> None:
    with zdisco("gossip", command, "--help") as program:
        assert program.exit_code() == 0
        assert f"Usage: zdisco gossip {command}" in program.lines[0]


def test_values_can_be_had_as_json() -> None:
    with node() as program:
        where = endpoint(program)
        for key, value in (("a=b", "c\nd"), ("\x1b", "\\n")):
            answer(where, "set", key, value)
        assert json.loads("\n".join(answer(where, "get", "--json"))) == {"a=b": "c\nd", "\x1b": "\\n"}
        assert json.loads("\n".join(answer(where, "get", "a=b", "--json"))) == {"a=b": "c\nd"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["set", "k" * 256, "x"], "a key has at most 255 bytes"),
        (["set", "k", "v", "--ttl", "1e30"], "ttl must be from 0.001"),
        (["set", "k", "v", "--ttl", "0.0001"], "ttl must be from 0.001"),
    ],
)
def test_what_cannot_be_set_is_wrong_usage(arguments: list[str], complaint: str) -> None:
    with node() as program, ask(endpoint(program), *arguments) as asker:
        assert asker.exit_code() == 2
        assert complaint in asker.errors
        assert "Traceback" not in asker.errors


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("zgossip\n    bind\n        x = 1\n", "endpoint"),
        ("zgossip\n    publish\n        key = x\n", "value"),
        ("server\n    timeout = soon\n", "timeout"),
        ("zgossip\n    bind\n        endpoint = nowhere\n", "nowhere"),
        ("a\n   b\n", "indented by 3 spaces"),
    ],
)
def test_a_configuration_without_sense_is_wrong_usage_and_named(tmp_path: Path, text: str, complaint: str) -> None:
    config = tmp_path / "gossip.cfg"
    config.write_text(text)
    with zdisco("gossip", "--config", str(config)) as program:
        assert program.exit_code() == 2
        assert program.errors.splitlines()[-1].startswith(f"Error: {config}:")
        assert program.errors.count(str(config)) == 1
        assert complaint in program.errors
        assert "Traceback" not in program.errors


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["get", "x"], "needs --connect before get"),
        (["--connect", "127.0.0.1:1"], "must begin with its transport"),
        (["--connect", "tcp://127.0.0.1", "status"], "tcp://host:port"),
        (["--connect", NOBODY, "set", "k"], "Missing argument 'VALUE'"),
        (["--connect", NOBODY, "set", "k", "v", "--ttl", "0"], "0"),
        (["--config", "/no/such/file"], "does not exist"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], complaint: str) -> None:
    with zdisco("gossip", *arguments) as program:
        assert program.exit_code() == 2
        assert complaint in program.errors


def test_a_configuration_is_loaded_and_loaded_again(tmp_path: Path) -> None:
    config = tmp_path / "gossip.cfg"
    config.write_text('zgossip\n    publish\n        key = "color"\n        value = "red"\n', encoding="utf-8")
    with node("--config", str(config)) as program:
        program.wait_for(r"\tnew color=red$")
        config.write_text('zgossip\n    publish\n        key = "color"\n        value = "blue"\n', encoding="utf-8")
        program.wait_for(r"\tchanged color=blue$")


def test_peers_find_each_other_over_gossip() -> None:
    with zdisco("peer", "--name", "alice", "--gossip-bind", ANY_PORT) as alice:
        where = alice.wait_for(r"\tGossip at (tcp://.*)")[1]
        with zdisco("peer", "--name", "bob", "--gossip", where) as bob:
            bob.wait_for(r"\tJoined alice ")
            alice.wait_for(r"\tJoined bob ")
            with zdisco("ls", "--gossip", where, "--json") as listing:
                assert listing.exit_code() == 0, listing.errors
                assert sorted(row["name"] for row in json.loads("".join(listing.lines))) == ["alice", "bob"]
            assert bob.leave(signal.SIGINT) == 0
        alice.wait_for(r"\tGone bob .* cause FAREWELL$")


def test_what_a_configuration_cannot_bind_is_no_wrong_usage(tmp_path: Path) -> None:
    config = tmp_path / "gossip.cfg"
    with node() as other:
        config.write_text(f'zgossip\n    bind\n        endpoint = "{endpoint(other)}"\n')
        with zdisco("gossip", "--config", str(config)) as program:
            assert program.exit_code() == 1
            assert program.errors.startswith(f"Error: cannot bind {endpoint(other)}: ")


@pytest.mark.parametrize("option", ["--proxy", "--gossip"])
@pytest.mark.parametrize("more", [[], ["--json"], ["--links"]])
def test_a_list_that_a_signal_ends_is_none(option: str, more: list[str]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        zdisco("ls", option, f"tcp://127.0.0.1:{mute.getsockname()[1]}", "--timeout", "60", *more) as program,
        mute.accept()[0],
    ):
        assert program.leave(signal.SIGINT) == 128 + signal.SIGINT
        assert (program.lines, program.errors) == ([], "")


def test_a_list_by_way_of_nobody_is_none() -> None:
    with zdisco("ls", "--gossip", NOBODY, "--timeout", "0.3") as program:
        assert program.exit_code() == 1
        assert (program.lines, program.errors) == ([], "Error: no gossip node answers within 0.3 s\n")
