"""The hosts file: what it may say, what is wrong with it, when it is read again."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from zdisco import InvalidHosts, Peer, zpl
from zdisco._hosts import Host, HostsFile
from zdisco.testing import MemoryNetwork

ONE, TWO, THREE = "tcp://192.0.2.1:6000", "tcp://192.0.2.2:6000", "ipc:///run/three"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hosts.zpl"


def hosts_of(file: Path, text: str) -> HostsFile:
    file.write_text(text, encoding="utf-8")
    return HostsFile(file)


def test_a_name_has_one_endpoint_or_some_to_connect_to_and_one_to_bind(file: Path) -> None:
    text = f"""
#   what this machine knows
prices = "{ONE}"
bare = {THREE}  # a path

orders
    connect = {TWO}
    connect = "{ONE}"
    bind = tcp://*:6000
news
    connect = {TWO}
camera/1
    bind = "tcp://eth0:*"
"""
    assert hosts_of(file, text).hosts == {
        "prices": Host((ONE,), ONE),
        "bare": Host((THREE,), THREE),
        "orders": Host((TWO, ONE), "tcp://*:6000"),
        "news": Host((TWO,)),
        "camera/1": Host((), "tcp://eth0:*"),
    }


def test_a_file_that_says_nothing_is_one(file: Path) -> None:
    assert hosts_of(file, "").hosts == hosts_of(file, "# nothing yet\n").hosts == {}


WRONG = {
    "no zpl": ("prices = 'x\n", "line 1, column 10: "),
    "wrong indent": ("prices\n   connect = tcp://a:1\n", "line 2, column 4: "),
    "no endpoint at all": ("prices\n", "'prices' has one endpoint, or lines"),
    "an endpoint and lines": (f"prices = {ONE}\n    bind = {ONE}\n", "'prices' has one endpoint, or lines"),
    "no endpoint": ("prices = nonsense\n", "'nonsense' is not a usable endpoint"),
    "an endpoint that can only be bound": ("prices = tcp://*:6000\n", "the host is neither a name nor an address"),
    "the same in a line": ("prices\n    connect = tcp://0.0.0.0:6000\n", "not the address of one host"),
    "no endpoint in a line": ("prices\n    connect\n", "'' is not a usable endpoint"),
    "no endpoint to bind": ("prices\n    bind = tcp://*\n", "'tcp://*' is not a usable endpoint"),
    "two to bind": (f"prices\n    bind = {ONE}\n    bind = {ONE}\n", "one with bind, but no 'bind' beside them"),
    "another line": (f"prices\n    conect = {ONE}\n", "but no 'conect' beside them"),
    "more below": (f"prices\n    bind = {ONE}\n        port = 1\n", "'prices' has nothing below 'bind'"),
    "a name twice": (f"prices = {ONE}\nprices = {TWO}\n", "'prices' stands there twice"),
    "a name that is too long": (f"{'x' * 256} = {ONE}\n", "at most 255 bytes"),
    "no text": (b"prices = tcp://\xff:1\n", "is not a usable endpoint"),
    "too much": ("#" + "x" * (1 << 20), "it is no file of at most 1048576 bytes"),
}


@pytest.mark.parametrize(("text", "reason"), WRONG.values(), ids=WRONG)
def test_a_file_that_cannot_be_used_is_refused_as_a_whole(file: Path, text: str | bytes, reason: str) -> None:
    good = f"good = {ONE}\n".encode()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidHosts) as caught:
        HostsFile(file)
    assert reason in caught.value.reason
    assert caught.value.path == str(file)
    assert str(caught.value) == f"the hosts file {file} cannot be used: {caught.value.reason}"
    with pytest.raises(InvalidHosts):
        Peer(hosts=file, network=MemoryNetwork())
    file.write_bytes(good)
    hosts = HostsFile(file)
    file.write_bytes(good + (text if isinstance(text, bytes) else text.encode()))
    with pytest.raises(InvalidHosts):
        hosts.refresh()
    assert hosts.hosts == {"good": Host((ONE,), ONE)}


def test_a_file_that_is_not_there_is_no_hosts_file(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidHosts, match="no such file or directory"):
        Peer(hosts=file, network=MemoryNetwork())
    os.mkfifo(file)
    for path in (file, tmp_path):
        with pytest.raises(InvalidHosts, match="it is no file"):
            HostsFile(path)


def test_the_path_is_that_of_the_beginning(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f"prices = {ONE}\n")
    monkeypatch.chdir(file.parent)
    hosts = HostsFile(file.name)
    monkeypatch.chdir("/")
    file.write_text(f"prices = {TWO}\n")
    assert hosts.refresh()
    assert hosts.path == file


def test_a_change_is_told_once(file: Path) -> None:
    hosts = hosts_of(file, f"prices = {ONE}\n")
    assert not hosts.refresh()
    file.write_text(f"prices = {TWO}\n")
    assert hosts.refresh()
    assert not hosts.refresh()
    file.write_text(f"# the same\nprices = {TWO}\n")
    assert not hosts.refresh()
    assert hosts.hosts == {"prices": Host((TWO,), TWO)}


def test_what_is_wrong_is_raised_once_and_once_more_if_something_else_is(file: Path) -> None:
    hosts = hosts_of(file, f"prices = {ONE}\n")
    for text in ("nonsense = x\n", "nonsense = y\n"):
        file.write_text(text)
        with pytest.raises(InvalidHosts):
            hosts.refresh()
        assert not hosts.refresh()
    file.unlink()
    with pytest.raises(InvalidHosts, match="no such file"):
        hosts.refresh()
    assert not hosts.refresh()
    file.write_text(f"prices = {ONE}\n")
    assert not hosts.refresh(), "it says what counted all the time"
    file.write_text("nonsense = y\n")
    with pytest.raises(InvalidHosts):
        hosts.refresh()


def test_what_is_wrong_next_is_told_even_if_the_file_seems_to_be_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = hosts_of(file, f"prices = {ONE}\n")
    stamp = hosts._seen
    monkeypatch.setattr(hosts, "_stamp", lambda: stamp)
    for text, reason in [("nonsense = x\n", "'x'"), ("nonsense = y\n", "'y'"), ("nonsense\n", "'nonsense'")]:
        file.write_text(text)
        with pytest.raises(InvalidHosts, match=reason):
            hosts.refresh()
        assert not hosts.refresh()


def test_a_file_is_read_again_only_if_it_may_have_changed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = hosts_of(file, f"prices = {ONE}\n")
    read: list[Path] = []
    load = zpl.load

    def spy(path: Path) -> zpl.Section:
        read.append(path)
        return load(path)

    monkeypatch.setattr(zpl, "load", spy)
    # One that was written just now may have been written once more in the same moment, of the same size.
    stamp = hosts._seen
    assert stamp is not None
    monkeypatch.setattr(hosts, "_stamp", lambda: stamp)
    file.write_text(f"prices = {TWO}\n")
    assert hosts.refresh()
    assert len(read) == 1
    now = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now)
    file.write_text(f"prices = {ONE}\n")
    assert not hosts.refresh()
    assert len(read) == 1
    monkeypatch.setattr(hosts, "_stamp", lambda: (*stamp[:-1], stamp[-1] + 1))
    assert hosts.refresh()
    assert len(read) == 2


def test_a_file_that_could_not_be_read_is_read_at_the_next_look(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = hosts_of(file, f"prices = {ONE}\n")
    now = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now)
    file.write_text(f"# another one\nprices = {TWO}\n")
    tried: list[Path] = []

    def fail(path: Path) -> zpl.Section:
        tried.append(path)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(zpl, "load", fail)
        with pytest.raises(InvalidHosts, match=os.strerror(errno.EMFILE).lower()):
            hosts.refresh()
        assert not hosts.refresh(), "it is told once"
        assert len(tried) == 2
        assert hosts.hosts == {"prices": Host((ONE,), ONE)}
    assert hosts.refresh()
    assert hosts.hosts == {"prices": Host((TWO,), TWO)}
    with monkeypatch.context() as patch:
        patch.setattr(zpl, "load", fail)
        assert not hosts.refresh()
    assert len(tried) == 2
