"""What callers give, checked where they give it: an error names the argument and shows what it was."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from ._core.endpoints import TcpEndpoint, numeric, parse
from ._core.errors import InvalidEndpoint
from ._core.gossip.frames import KEY_LIMIT, LONGEST_LIFE, VALUE_LIMIT
from ._core.gossip.model import to_bytes
from ._core.model import Endpoint

T = TypeVar("T")


def proxy_endpoints(proxies: object) -> tuple[Endpoint, ...]:
    endpoints = (proxies,) if isinstance(proxies, str) else several_texts("proxies", proxies)
    if not endpoints:
        raise InvalidEndpoint("", "no proxy is given, at least one is needed")
    for endpoint in endpoints:
        if endpoint.startswith("tcp://"):
            parse(endpoint)
        elif not endpoint.startswith("ipc://"):
            raise InvalidEndpoint(endpoint, "it must begin with tcp:// or ipc://")
    return tuple(dict.fromkeys(endpoints))


def gossip_endpoints(endpoints: object) -> tuple[Endpoint, ...]:
    given = (endpoints,) if isinstance(endpoints, str) else several_texts("gossip", endpoints)
    return tuple(dict.fromkeys(map(gossip_endpoint, given)))


def gossip_endpoint(endpoint: object) -> Endpoint:
    """Where a gossip node can connect to."""
    return _gossip_endpoint(endpoint, parse)


def gossip_address(endpoint: object) -> Endpoint:
    """Where a gossip node can listen."""
    return _gossip_endpoint(endpoint, _parse_wildcards)


def _gossip_endpoint(endpoint: object, check_tcp: Callable[[Endpoint], object]) -> Endpoint:
    text = of_type("an endpoint", endpoint, str)
    transport, _, rest = text.partition("://")
    if transport == "tcp":
        _check_host(text, text, check_tcp)
    elif transport not in ("ipc", "inproc"):
        raise InvalidEndpoint(text, "it must begin with tcp://, ipc:// or inproc://")
    elif not rest or "\0" in rest:
        raise InvalidEndpoint(text, "no name follows the transport" if not rest else "its name holds a NUL")
    return text


def _parse_wildcards(endpoint: Endpoint) -> TcpEndpoint:
    host, _, port = endpoint.rpartition(":")
    return parse(f"{'tcp://0.0.0.0' if host == 'tcp://*' else host}:{'1' if port in ('*', '0') else port}")


def gossip_key(key: object) -> bytes:
    return _gossip_text("key", key, KEY_LIMIT)


def gossip_value(value: object) -> bytes:
    return _gossip_text("value", value, VALUE_LIMIT)


def _gossip_text(name: str, text: object, limit: int) -> bytes:
    try:
        raw = to_bytes(of_type(name, text, str))
    except UnicodeEncodeError as error:
        raise ValueError(f"a {name} cannot be UTF-8: {error}") from None
    if len(raw) > limit:
        raise ValueError(f"a {name} has at most {limit:,} bytes of UTF-8, not {len(raw):,}")
    if b"\0" in raw:
        raise ValueError(f"a {name} holds no NUL: {text!r:.200}")
    return raw


def ttl_seconds(ttl: object) -> float:
    """A time to live that is at least one of the milliseconds that it has on the wire."""
    if not isinstance(ttl, int | float) or isinstance(ttl, bool):
        raise TypeError(f"ttl must be a number of seconds, not {ttl!r}")
    if not 0.001 <= ttl <= LONGEST_LIFE / 1000:
        raise ValueError(f"ttl must be from 0.001 to {LONGEST_LIFE // 1000:,} seconds, not {ttl!r}")
    return ttl


def gossip_bind_endpoint(endpoint: str) -> Endpoint:
    text = of_type("gossip_bind", endpoint, str)
    _check_host(text, text, _parse_wildcards)
    return text


def bind_host(host: str | None) -> str | None:
    """The host without the brackets of an IPv6 address."""
    if host is None or of_type("host", host, str) == "*":
        return host
    bare = _bare(host)
    _check_host(host, str(TcpEndpoint(bare, 1)), parse)
    return bare


def advertised_endpoint(advertise: str, port: int) -> Endpoint:
    """The endpoint to announce for ``advertise``, which may name only a host."""
    is_endpoint = of_type("advertise", advertise, str).startswith("tcp://")
    endpoint = advertise if is_endpoint else str(TcpEndpoint(_bare(advertise), port))
    _check_host(advertise, endpoint, numeric)
    return endpoint


def _bare(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _check_host(given: str, endpoint: Endpoint, check: Callable[[Endpoint], object]) -> None:
    """Check an endpoint that was made of what the caller gave, and name in the error what he gave."""
    try:
        check(endpoint)
    except InvalidEndpoint as error:
        raise InvalidEndpoint(given, error.reason) from None


def port_number(port: int) -> int:
    if not 0 <= of_type("port", port, int) <= 65535:
        raise ValueError(f"port must be from 0 to 65535, not {port}")
    return port


_WILDCARDS = re.compile(r"[*?[]")


def literal_prefix(pattern: str) -> str:
    """What every text begins with that a glob pattern matches."""
    return _WILDCARDS.split(pattern, maxsplit=1)[0]


def glob_pattern(pattern: str) -> Callable[[str], bool]:
    """Says whether a whole text matches a glob pattern."""
    match = re.compile(fnmatch.translate(pattern)).match
    return lambda text: match(text) is not None


def positive_number(name: str, value: int) -> int:
    if of_type(name, value, int) < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value


def of_type(name: str, value: object, kind: type[T]) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} must be of type {kind.__name__}, not {value!r}")
    return value


def timeout_seconds(timeout: object) -> float:
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    return timeout


def payload_bytes(payload: object) -> bytes:
    if not isinstance(payload, bytes | bytearray | memoryview):
        raise TypeError(f"a payload is bytes, not {type(payload).__name__}: {payload!r}")
    return bytes(payload)


def several_texts(name: str, values: object) -> tuple[str, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be several texts, not {values!r}")
    return tuple(of_type(f"each of {name}", value, str) for value in values)


def text_pairs(name: str, pairs: object) -> Mapping[str, str]:
    if not isinstance(pairs, Mapping):
        raise TypeError(f"{name} must map text to text, not be {pairs!r}")
    for key, value in pairs.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"{name} must map text to text, not {key!r} to {value!r}")
    return dict(pairs)
