"""Endpoints: one spelling for each address, no quarter for hostile ones."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zdisco._core.endpoints import (
    TcpEndpoint,
    check_bindable,
    check_connectable,
    is_loopback,
    is_of_one_host,
    numeric,
    parse,
)
from zdisco._core.errors import InvalidEndpoint


@pytest.mark.parametrize(
    ("endpoint", "spelling"),
    [
        ("tcp://127.0.0.1:42133", "tcp://127.0.0.1:42133"),
        ("tcp://10.0.0.1:00080", "tcp://10.0.0.1:80"),
        ("tcp://[::1]:65535", "tcp://[::1]:65535"),
        ("tcp://[0:0:0:0:0:0:0:1]:1", "tcp://[::1]:1"),
        ("tcp://[2001:DB8::0A]:5", "tcp://[2001:db8::a]:5"),
        ("tcp://[::ffff:10.0.0.1]:5", "tcp://10.0.0.1:5"),
        ("tcp://[::FFFF:0a00:0001]:5", "tcp://10.0.0.1:5"),
    ],
)
def test_an_address_has_one_numeric_spelling(endpoint: str, spelling: str) -> None:
    assert numeric(endpoint) == spelling
    assert numeric(spelling) == spelling


@pytest.mark.parametrize(
    "host",
    ["localhost", "host1", "a-b.example.com", "my_service", "xn--zo-jka", "1st.example", "x" * 63, "a." * 126 + "a"],
)
def test_a_name_has_none_until_it_is_resolved(host: str) -> None:
    assert numeric(f"tcp://{host}:80") is None
    assert parse(f"tcp://{host}:80") == TcpEndpoint(host, 80)


HOSTILE = [
    "",
    "tcp://",
    "tcp://:80",
    "tcp://1.2.3.4",
    "tcp://1.2.3.4:",
    "1.2.3.4:80",
    "TCP://1.2.3.4:80",
    "udp://1.2.3.4:80",
    "ipc:///etc/x",
    "ipc://@abstract",
    "inproc://x",
    "pgm://eth0;239.0.0.1:5",
    "tcp://1.2.3.4:80;tcp://5.6.7.8:90",
    "tcp://1.2.3.4:80;5.6.7.8:90",
    "tcp://1.2.3.4;5.6.7.8:90",
    "tcp://eth0;5.6.7.8:90",
    "tcp://*:1",
    "tcp://1.2.3.4:*",
    "tcp://1.2.3.4:!",
    "tcp://a b:1",
    "tcp://a:1 ",
    " tcp://a:1",
    "tcp://a:1\n",
    "tcp://a\n:1",
    "tcp://a\0:1",
    "tcp://1.2.3.4:0",
    "tcp://1.2.3.4:65536",
    "tcp://1.2.3.4:000080",
    "tcp://1.2.3.4:" + "1" * 241,
    "tcp://1.2.3.4:-1",
    "tcp://1.2.3.4:+1",
    "tcp://1.2.3.4:1_0",
    "tcp://1.2.3.4:٨٠",
    "tcp://1.2.3.4:0x50",
    "tcp://1.2.3.4:80/",
    "tcp://1.2.3.4:80/x",
    "tcp://1.2.3.4:80?a",
    "tcp://1.2.3.4:80#a",
    "tcp://user@1.2.3.4:80",
    "tcp://user:pw@1.2.3.4:80",
    "tcp://::1:80",
    "tcp://[::1]",
    "tcp://[::1]80",
    "tcp://[::1:80",
    "tcp://[]:80",
    "tcp://[1.2.3.4]:80",
    "tcp://[host]:80",
    "tcp://[[::1]]:80",
    "tcp://[fe80::1%eth0]:80",
    "tcp://[::g]:80",
    "tcp://127.1:80",
    "tcp://2130706433:80",
    "tcp://0x7f000001:80",
    "tcp://0177.0.0.1:80",
    "tcp://127.0.0.0x1:80",
    "tcp://1.2.3.256:80",
    "tcp://1.2.3.4.5:80",
    "tcp://1.2.3.4.:80",
    "tcp://１.2.3.4:80",
    "tcp://é:80",
    "tcp://-a:80",
    "tcp://a-:80",
    "tcp://a..b:80",
    "tcp://.a:80",
    "tcp://" + "x" * 64 + ":80",
    "tcp://" + "a." * 127 + "a:80",
    "tcp://%31:80",
    "tcp://$(id):80",
]


@pytest.mark.parametrize("endpoint", HOSTILE)
def test_a_hostile_endpoint_is_refused(endpoint: str) -> None:
    for function in (parse, numeric):
        with pytest.raises(InvalidEndpoint) as caught:
            function(endpoint)
        assert caught.value.endpoint == endpoint
    assert not is_loopback(endpoint)


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "[::]",
        "[::ffff:0.0.0.0]",
        "224.0.0.1",
        "239.1.2.3",
        "[ff02::1]",
        "[::ffff:224.0.0.1]",
        "255.255.255.255",
    ],
)
def test_an_address_of_no_single_host_parses_but_cannot_be_connected_to(host: str) -> None:
    assert parse(f"tcp://{host}:80").port == 80
    with pytest.raises(InvalidEndpoint, match="not the address of one host"):
        numeric(f"tcp://{host}:80")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]", "localhost", "LocalHost", "a.localhost"]
)
def test_what_only_its_own_host_reaches_is_loopback(host: str) -> None:
    assert is_loopback(f"tcp://{host}:80")


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "128.0.0.1", "0.0.0.0", "[::2]", "[::ffff:10.0.0.1]", "host", "localhost.example", "notlocalhost"],
)
def test_what_others_reach_is_not_loopback(host: str) -> None:
    assert not is_loopback(f"tcp://{host}:80")


@given(st.ip_addresses(), st.integers(1, 65535))
def test_str_undoes_parse(address: object, port: int) -> None:
    endpoint = TcpEndpoint(str(address), port)
    assert parse(str(endpoint)) == endpoint


@given(
    st.text(max_size=40) | st.from_regex(r"tcp://[^:]*:[0-9]{0,6}") | st.ip_addresses().map(lambda a: f"tcp://[{a}]:1")
)
@example("tcp://\ud800:1")
def test_any_text_has_a_spelling_that_stays_or_is_refused(endpoint: str) -> None:
    is_loopback(endpoint)
    try:
        spelling = numeric(endpoint)
    except InvalidEndpoint:
        return
    assert spelling is None or (numeric(spelling) == spelling and is_loopback(spelling) == is_loopback(endpoint))


# What any program may be told


@pytest.mark.parametrize("endpoint", ["tcp://192.0.2.7:1", "tcp://[2001:db8::1]:65535", "tcp://localhost:1"])
def test_a_tcp_endpoint_of_one_host_can_be_connected_to_and_bound(endpoint: str) -> None:
    check_connectable(endpoint)
    check_bindable(endpoint)


@pytest.mark.parametrize("endpoint", ["ipc:///run/x", "ipc://@abstract", "ipc:///" + "x" * 106, "ipc:///é"])
def test_an_ipc_endpoint_can_be_connected_to_and_bound(endpoint: str) -> None:
    check_connectable(endpoint)
    check_bindable(endpoint)
    assert is_of_one_host(endpoint)


@pytest.mark.parametrize("endpoint", ["tcp://*:6000", "tcp://*:*", "tcp://0.0.0.0:0", "tcp://[::]:1", "tcp://eth0:*"])
def test_wildcards_can_only_be_bound(endpoint: str) -> None:
    check_bindable(endpoint)
    with pytest.raises(InvalidEndpoint):
        check_connectable(endpoint)


NO_USE = [
    "",
    "x",
    "tcp://",
    "tcp://*",
    "tcp://a:b",
    "tcp://a;b:1",
    "inproc://x",
    "ipc://",
    "ipc:///",
    "ipc://*",
    "ipc://x",
]


@pytest.mark.parametrize("endpoint", [*NO_USE, "ipc:///a\0b", "ipc:///\ud800", "ipc:///" + "x" * 107, "udp://a:1"])
def test_what_can_neither_be_connected_to_nor_bound_is_named(endpoint: str) -> None:
    for check in (check_connectable, check_bindable):
        with pytest.raises(InvalidEndpoint) as caught:
            check(endpoint)
        assert caught.value.endpoint == endpoint


@pytest.mark.parametrize(
    ("endpoint", "is_of_one"),
    [("tcp://127.0.0.1:1", True), ("tcp://localhost:1", True), ("tcp://192.0.2.7:1", False), ("nonsense", False)],
)
def test_loopback_and_ipc_are_of_one_host(endpoint: str, is_of_one: bool) -> None:
    assert is_of_one_host(endpoint) is is_of_one
