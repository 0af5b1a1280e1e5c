"""``zdisco gossip``, and peers that are told of gossip nodes on the command line."""

from __future__ import annotations

import json
import signal
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
        assert program.errors == "Error: 1 of 1 gossip nodes do not answer\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["get", "x"], "get needs --connect"),
        (["--connect", "127.0.0.1:1"], "must begin with tcp://"),
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
