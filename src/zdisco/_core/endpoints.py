"""What an endpoint says, and the one numeric spelling of a ``tcp`` endpoint.

Rule 1: an endpoint that came from the network goes through `numeric` before libzmq sees it.
libzmq reads more than an address: ``tcp://source;address``, wildcards, ports of any length.

Rule 2: the numeric spelling is the identity of an endpoint. Two spellings of one address would
be two connections, and a disconnect of the one would miss the other.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from attrs import frozen

from .errors import InvalidEndpoint
from .model import Endpoint

_CACHED = 256
"""Endpoints of which is remembered what they say: each peer names its own in every announce."""
_HOST_LIMIT = 253
"""Characters of a DNS name in text form (RFC 1035 section 2.3.4)."""
_IPC_LIMIT = 107
"""Bytes in the path of a local socket: the system has 108, one is the NUL."""
ANYWHERE = frozenset({"*", "0.0.0.0", "[::]"})
"""Hosts, as they are written in an endpoint, that mean all interfaces."""

_ENDPOINT = re.compile(r"tcp://(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<plain>[^\[\]:]*)):(?P<port>[0-9]{1,5})")
# RFC 1123 section 2.1, and the underscore, which container networks use in names.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
# A resolver takes "127.1", "0x7f000001" and "2130706433" for addresses.
_NUMBER_AT_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)")


@frozen
class TcpEndpoint:
    """Host and port of an endpoint."""

    host: str
    """A name or an address, an IPv6 address without brackets."""
    port: int

    def __str__(self) -> Endpoint:
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


@lru_cache(_CACHED)
def parse(endpoint: Endpoint) -> TcpEndpoint:
    """Take an endpoint apart, strictly.

    Any address is allowed, also one that can only be bound (``0.0.0.0``).

    Raises:
        InvalidEndpoint: If it is not ``tcp://host:port`` with a port from 1 to 65535.
    """
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None:
        raise InvalidEndpoint(endpoint, "not of the form tcp://host:port")
    port = int(match["port"])
    if not 1 <= port <= 65535:
        raise InvalidEndpoint(endpoint, "the port is not from 1 to 65535")
    bracketed = match["bracketed"]
    host = match["plain"] if bracketed is None else bracketed
    if not (_is_name(host) if bracketed is None else _is_ipv6(host)):
        raise InvalidEndpoint(endpoint, "the host is neither a name nor an address")
    return TcpEndpoint(host, port)


def split_bound(endpoint: Endpoint) -> tuple[str, str]:
    """Host and port, as they are written, of a ``tcp`` endpoint to bind: both may be wildcards.

    Raises:
        InvalidEndpoint: If it is not of the form ``tcp://host:port``.
    """
    address, _, port = endpoint.rpartition(":")
    host = address.removeprefix("tcp://")
    somewhere = "tcp://0.0.0.0" if host == "*" else address
    try:
        parse(f"{somewhere}:{'1' if port in ('*', '0') else port}")
    except InvalidEndpoint as error:
        raise InvalidEndpoint(endpoint, error.reason) from None
    return host, port


def check_connectable(endpoint: Endpoint) -> None:
    """Check an endpoint that any program may be told to connect to.

    Raises:
        InvalidEndpoint: If it is neither ``tcp`` with the name or the address of one host, nor ``ipc`` with a path.
    """
    if not _is_ipc(endpoint):
        numeric(endpoint)


def check_bindable(endpoint: Endpoint) -> None:
    """Check an endpoint that any program may be told to bind; host and port may be wildcards.

    Raises:
        InvalidEndpoint: If it is neither ``tcp`` with a host and a port, nor ``ipc`` with a path.
    """
    if not _is_ipc(endpoint):
        split_bound(endpoint)


def _is_ipc(endpoint: Endpoint) -> bool:
    """Whether it is an ``ipc`` endpoint that means the same to every program of its machine.

    Raises:
        InvalidEndpoint: If it is one, but cannot be used, or is of a transport that does not lead to other programs.
    """
    if endpoint.startswith("tcp://"):
        return False
    path = endpoint.removeprefix("ipc://")
    if path == endpoint:
        raise InvalidEndpoint(endpoint, "neither of the form tcp://host:port nor ipc:///path")
    # What begins with @ has no file (Linux). A path that begins elsewhere is another one in each directory.
    if len(path) < 2 or path[0] not in "/@" or not path.isprintable():
        raise InvalidEndpoint(endpoint, "the path is not absolute, or not printable")
    if len(path.encode()) > _IPC_LIMIT:
        raise InvalidEndpoint(endpoint, f"the path has more than {_IPC_LIMIT} bytes")
    return True


def is_of_one_host(endpoint: Endpoint) -> bool:
    """Whether it can be reached from its own host only; never raises."""
    return endpoint.startswith("ipc://") or is_loopback(endpoint)


@lru_cache(_CACHED)
def numeric(endpoint: Endpoint) -> Endpoint | None:
    """The one numeric spelling of an endpoint to connect to; `None` if its host is a name.

    Raises:
        InvalidEndpoint: If it cannot be parsed, or nobody can be at that address.
    """
    parsed = parse(endpoint)
    address = _address(parsed.host)
    if address is None:
        return None
    if address.is_unspecified or address.is_multicast or address == IPv4Address("255.255.255.255"):
        raise InvalidEndpoint(endpoint, "not the address of one host")
    return str(TcpEndpoint(str(address), parsed.port))


@lru_cache(_CACHED)
def is_loopback(endpoint: Endpoint) -> bool:
    """Whether it can be reached from its own host only; never raises."""
    try:
        host = parse(endpoint).host
    except InvalidEndpoint:
        return False
    address = _address(host)
    if address is None:
        # RFC 6761 section 6.3: these names are always loopback.
        return host.lower() == "localhost" or host.lower().endswith(".localhost")
    return address.is_loopback


def _is_name(host: str) -> bool:
    """Whether it is a host name or an IPv4 address in its usual form."""
    if len(host) > _HOST_LIMIT or not _NAME.fullmatch(host):
        return False
    return _address(host) is not None or not _NUMBER_AT_END.fullmatch(host)


def _is_ipv6(host: str) -> bool:
    # A zone ("%eth0") means something on one host only.
    return "%" not in host and isinstance(_parsed_address(host), IPv6Address)


@lru_cache(_CACHED)
def _address(host: str) -> IPv4Address | IPv6Address | None:
    address = _parsed_address(host)
    # ::ffff:1.2.3.4 and 1.2.3.4 reach the same port.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _parsed_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
