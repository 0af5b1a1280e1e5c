"""The configuration of a gossip node: in a file, and set by hand."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path

import anyio
import pytest
import zmq

from rawgossip import ANYWHERE, TIMEOUT, eventually
from zdisco import BindError, Gossip, GossipConfig, InvalidEndpoint, ZPLError, _gossip_settings, zpl
from zdisco._gossip_settings import Published, Settings, SettingsFile, understood

QUICK = GossipConfig(reload_interval=0.01)

ALL = """\
server
    timeout = 60000
    verbose = 1
    workdir = .             # CZMQ's, and nothing to us
zgossip
    echo = I: hello
    echo = "I: again"
    bind
        endpoint = tcp://*:5670
    bind
        endpoint = inproc://gossip
    connect
        endpoint = tcp://192.0.2.7:5670
    connect
        endpoint = tcp://192.0.2.8:5670
        server_key = rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7
    publish
        key = service
        value = tcp://192.0.2.8:9000
    publish
        key = lives
        value = ""
        ttl = 1500
"""


def test_a_file_is_understood_as_a_whole() -> None:
    assert understood(zpl.loads(ALL)) == Settings(
        timeout=60.0,
        is_verbose=True,
        echoes=("I: hello", "I: again"),
        binds=("tcp://*:5670", "inproc://gossip"),
        connects=(
            ("tcp://192.0.2.7:5670", None),
            ("tcp://192.0.2.8:5670", "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"),
        ),
        tuples=(Published("service", "tcp://192.0.2.8:9000", None), Published("lives", "", 1.5)),
    )


def test_an_empty_file_says_nothing() -> None:
    assert understood(zpl.loads("")) == Settings(None, None, (), (), (), ())


def test_of_several_values_of_one_key_the_last_counts() -> None:
    text = "".join(f"    publish\n        key = {key}\n        value = {value}\n" for key, value in ("k1", "l1", "k2"))
    assert understood(zpl.loads(f"zgossip\n{text}")).tuples == (Published("k", "2", None), Published("l", "1", None))


def test_what_means_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert understood(zpl.loads("zgossip\n    conect\n        endpoint = tcp://127.0.0.1:1\n")).connects == ()
    assert "zgossip/conect, which means nothing here" in caplog.text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("server\n    timeout = soon\n", "server/timeout must be a whole number of milliseconds, not 'soon'"),
        ("server\n    timeout = -1\n", "server/timeout must be"),
        ("server\n    timeout = 1.5\n", "server/timeout must be"),
        ("server\n    timeout = ²\n", "server/timeout must be"),
        ("server\n    verbose = yes\n", "server/verbose must be 0 or 1, not 'yes'"),
        ("zgossip\n    bind\n", "zgossip/bind has no endpoint"),
        ("zgossip\n    bind\n        endpoint = nowhere\n", "'nowhere' is not a usable endpoint"),
        ("zgossip\n    connect\n        endpoint = tcp://127.0.0.1:*\n", "is not a usable endpoint"),
        ("zgossip\n    publish\n        key = k\n", "zgossip/publish has no value"),
        ("zgossip\n    publish\n        value = v\n", "zgossip/publish has no key"),
        ("zgossip\n    publish\n        key = k\n        value = v\n        ttl = 0\n", "ttl must be from"),
        (f"zgossip\n    publish\n        key = {'k' * 256}\n        value = v\n", "a key has at most 255 bytes"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        understood(zpl.loads(text))


@pytest.mark.anyio
async def test_a_file_is_loaded_and_what_it_says_is_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zdisco")
    async with Gossip(ANYWHERE) as other, Gossip() as node:
        path = tmp_path / "gossip.zpl"
        path.write_text(
            f"""\
server
    timeout = 500
zgossip
    echo = I: hello
    bind
        endpoint = {ANYWHERE}
    connect
        endpoint = {other.endpoints[0]}
    publish
        key = key
        value = value
"""
        )
        await node.load(path)
        assert "I: hello" in caplog.messages
        assert len(node.endpoints) == 1
        assert await other.wait_for("key", timeout=TIMEOUT) == "value"
        # Again: nothing is bound, connected or published twice.
        await other.publish("key", "changed")
        assert await node.wait_for("key", timeout=TIMEOUT)
        await eventually(lambda: node["key"] == "changed")
        await node.load(path)
        await node.settle(TIMEOUT)
        assert (len(node.endpoints), node["key"], other.status().clients) == (1, "changed", 1)


@pytest.mark.anyio
async def test_a_file_that_has_changed_is_loaded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "gossip.zpl"

    def write(value: str) -> None:
        new = tmp_path / "new"
        new.write_text(f"zgossip\n    publish\n        key = key\n        value = {value}\n")
        new.replace(path)

    async with Gossip(config=QUICK) as node:
        write("1")
        await node.load(path)
        deliveries = node.deliveries()
        with anyio.fail_after(TIMEOUT):
            assert (await anext(deliveries)).value == "1"
            write("2")
            assert (await anext(deliveries)).value == "2"
            path.write_text("zgossip\n  broken\n")
            await eventually(lambda: "cannot be used" in caplog.text)
            assert f"{path}:2:3: " in caplog.text
            path.unlink()
            await anyio.sleep(0.03)
            write("3")
            assert (await anext(deliveries)).value == "3"
    assert caplog.text.count("cannot be used") == 1


CURVE = pytest.mark.skipif(not zmq.has("curve"), reason="libzmq was built without CURVE")
REMOTE = "zgossip\n    connect\n        endpoint = tcp://127.0.0.1:1\n        server_key = {}\n"
NONSENSE = {
    "a time without end": f"server\n    timeout = {'9' * 400}\n",
    "more digits than a number has": f"server\n    timeout = {'9' * 5000}\n",
    "a life without end": f"zgossip\n    publish\n        key = k\n        value = v\n        ttl = {'9' * 400}\n",
    "a key that is none": REMOTE.format("%" * 40),
}


@pytest.mark.anyio
@CURVE
@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
async def test_no_change_of_a_file_ends_the_node(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, new = tmp_path / "gossip.zpl", tmp_path / "new"
    path.write_text("")
    public, secret = zmq.curve_keypair()
    async with Gossip(config=QUICK, public_key=public, secret_key=secret) as node:
        await node.load(path)
        new.write_text(text)
        new.replace(path)
        await eventually(lambda: "cannot be used" in caplog.text)
        with pytest.raises(ValueError, match="must be"):
            await node.load(path)
        new.write_text("zgossip\n    publish\n        key = key\n        value = value\n")
        new.replace(path)
        assert await node.wait_for("key", timeout=TIMEOUT) == "value"


@pytest.mark.anyio
async def test_a_server_key_in_a_file_is_of_no_use_to_a_node_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gossip.zpl"
    path.write_text(REMOTE.format("0" * 40))
    monkeypatch.setattr(zmq, "has", lambda _: False)
    async with Gossip() as node:
        with pytest.raises(ValueError, match="without the public_key and secret_key"):
            await node.load(path)


LATE = 1_000_000_000_000_000_000
"""A time of a file, in nanoseconds."""


def write(path: Path, text: str) -> None:
    """As if all was written in the same moment."""
    path.write_text(text)
    os.utime(path, ns=(LATE, LATE))


def test_a_change_is_seen_though_the_file_seems_to_be_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = LATE
    monkeypatch.setattr(time, "time_ns", lambda: now)
    path = tmp_path / "gossip.zpl"
    file = SettingsFile(path)
    write(path, "zgossip\n    echo = 1\n    mine = x\n")
    assert file.read()[1].echoes == ("1",)
    assert file.refresh() is None
    write(path, "zgossip\n    echo = 2\n    mine = x\n")
    found = file.refresh()
    assert found is not None
    assert found[1].echoes == ("2",)
    found[0].put("server/verbose", "1")
    assert file.refresh() is None, "what became of it does not count"
    assert caplog.text.count("zgossip/mine, which means nothing here") == 2
    for text in ("zgossip\n  echo = 3\n     mine = x\n", "zgossip\n    bind = 3\n    mine = x\n"):
        write(path, text)
        with pytest.raises(ValueError, match=r":2:3: |has no endpoint"):
            file.refresh()
        assert file.refresh() is None, "it is told once"
    # Later nobody can have written it in that moment.
    now = LATE + 10_000_000_000
    write(path, "zgossip\n    echo = 4\n    mine = x\n")
    assert file.refresh() is None


@pytest.mark.anyio
async def test_a_file_that_could_not_be_read_is_read_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, new = tmp_path / "gossip.zpl", tmp_path / "new"
    path.write_text("")
    tried: list[str] = []

    def fail(path: str) -> zpl.Section:
        tried.append(path)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with Gossip(config=QUICK) as node:
        await node.load(path)
        with monkeypatch.context() as patch:
            patch.setattr(_gossip_settings, "load", fail)
            write(new, "zgossip\n    publish\n        key = key\n        value = value\n")
            new.replace(path)
            await eventually(lambda: len(tried) == 3)
        assert await node.wait_for("key", timeout=TIMEOUT) == "value"
    assert caplog.text.count("cannot be used") == 1


@pytest.mark.anyio
async def test_what_did_not_change_in_a_file_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    path = tmp_path / "gossip.zpl"
    path.write_text("zgossip\n    publish\n        key = a\n        value = 1\n")
    async with Gossip(ANYWHERE, config=QUICK) as node, Gossip(config=QUICK) as other:
        await node.load(path)
        now += 0.01
        await other.publish("a", "2")
        now += 0.01
        await node.load(path)
        await other.connect(node.endpoints[0])
        await other.settle(TIMEOUT)
        # It was written last by who had not heard of it, and not by loading the file again.
        assert dict(node) == {"a": "2"}


@pytest.mark.anyio
async def test_what_has_gone_from_a_file_is_not_undone(tmp_path: Path) -> None:
    path = tmp_path / "gossip.zpl"
    async with Gossip() as node:
        path.write_text("zgossip\n    publish\n        key = a\n        value = 1\n")
        await node.load(path)
        path.write_text("zgossip\n    publish\n        key = b\n        value = 1\n")
        await node.load(path)
        assert dict(node) == {"a": "1", "b": "1"}


@pytest.mark.anyio
async def test_a_key_that_stands_twice_in_a_file_is_left_as_others_changed_it(tmp_path: Path) -> None:
    path = tmp_path / "gossip.zpl"
    path.write_text("zgossip\n" + "".join(f"    publish\n        key = key\n        value = {one}\n" for one in "12"))
    async with Gossip() as node:
        await node.load(path)
        assert dict(node) == {"key": "2"}
        await node.publish("key", "of others")
        await node.load(path)
        assert dict(node) == {"key": "of others"}


@pytest.mark.anyio
async def test_a_file_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gossip.zpl"
    publish = "zgossip\n    publish\n        key = key\n        value = value\n"
    async with Gossip() as node:
        with pytest.raises(FileNotFoundError):
            await node.load(path)
        path.write_text(publish + " x\n")
        with pytest.raises(ZPLError, match="5:2"):
            await node.load(path)
        path.write_text(publish + "    bind\n        endpoint = tcp://nowhere\n")
        with pytest.raises(InvalidEndpoint):
            await node.load(path)
        path.write_text(publish + "    connect\n        endpoint = tcp://127.0.0.1:1\n        server_key = x\n")
        with pytest.raises(ValueError, match="server_key"):
            await node.load(path)
        path.write_text(publish + "    bind\n        endpoint = tcp://192.0.2.1:7000\n")
        with pytest.raises(BindError):
            await node.load(path)
        assert (dict(node), node.endpoints) == ({}, ())


@pytest.mark.anyio
async def test_a_file_that_was_given_by_a_relative_path_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gossip.zpl").write_text("zgossip\n    publish\n        key = key\n        value = 1\n")
    (tmp_path / "elsewhere").mkdir()
    async with Gossip(config=QUICK) as node:
        monkeypatch.chdir(tmp_path)
        await node.load("gossip.zpl")
        monkeypatch.chdir(tmp_path / "elsewhere")
        (tmp_path / "gossip.zpl").write_text("zgossip\n    publish\n        key = key\n        value = again\n")
        await eventually(lambda: node["key"] == "again")


@pytest.mark.anyio
async def test_what_was_loaded_and_set_is_saved_and_can_be_loaded(tmp_path: Path) -> None:
    source, target = tmp_path / "source.zpl", tmp_path / "target.zpl"
    source.write_text("# mine\nserver\n    timeout = 500\nmine\n    text = x\n")
    async with Gossip() as node:
        await node.load(source)
        node.set("server/timeout", "100")
        node.set("/mine/new/path", "with space")
        await node.publish("not", "in it")
        await node.save(target)
        assert zpl.load(target).get("server/timeout") == "100"
        assert target.read_text().startswith("# mine\n")
        assert sorted(os.listdir(tmp_path)) == ["source.zpl", "target.zpl"]
        with pytest.raises(OSError, match="no-such"):
            await node.save(tmp_path / "no-such" / "file")
    async with Gossip() as other:
        await other.load(target)
        await other.save(source)
        assert zpl.load(source) == zpl.load(target)


@pytest.mark.anyio
async def test_settings_may_come_before_the_node_is_entered() -> None:
    node = Gossip()
    node.set("server/timeout", "100")
    node.set("server/verbose", "1")
    async with node:
        assert node._config.client_timeout == 0.1
        assert node._opened.is_verbose


@pytest.mark.parametrize(
    ("path", "value", "error", "complaint"),
    [
        ("server/timeout", "x", ValueError, "server/timeout must be"),
        ("server/verbose", "2", ValueError, "server/verbose must be"),
        ("no name", "x", ValueError, "cannot be a name"),
        ("a", "x\ny", ValueError, "ZPL cannot hold"),
        (7, "x", TypeError, "path must be of type str"),
        ("a", 7, TypeError, "value must be of type str"),
    ],
)
def test_settings_that_can_be_none_are_refused(path: str, value: str, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        Gossip().set(path, value)


@pytest.mark.anyio
async def test_a_time_that_is_refused_is_neither_kept_nor_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zdisco")
    source, target = tmp_path / "source.zpl", tmp_path / "target.zpl"
    source.write_text("server\n    timeout = 500\n")
    async with Gossip() as node:
        await node.load(source)
        with pytest.raises(ValueError, match="client_timeout must be"):
            node.set("server/timeout", "9" * 12)
        source.write_text(f"server\n    timeout = {'9' * 12}\nzgossip\n    echo = hello\n")
        with pytest.raises(ValueError, match="client_timeout must be"):
            await node.load(source)
        assert "hello" not in caplog.messages
        await node.save(target)
        assert target.read_text() == 'server\n    timeout = "500"\n'
        await node.load(target)


@pytest.mark.anyio
@CURVE
async def test_a_file_may_have_server_keys(tmp_path: Path) -> None:
    server_public, server_secret = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    async with (
        Gossip(ANYWHERE, public_key=server_public, secret_key=server_secret) as server,
        Gossip(public_key=public, secret_key=secret) as client,
    ):
        tree = zpl.Section()
        tree.put("zgossip/connect/endpoint", server.endpoints[0])
        tree.put("zgossip/connect/server_key", server_public.decode())
        zpl.dump(tree, tmp_path / "file")
        await client.load(tmp_path / "file")
        await client.settle(TIMEOUT)
