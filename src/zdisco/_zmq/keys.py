"""The keys of CURVE (RFC 26) that a gossip node is given."""

from __future__ import annotations

import struct

import zmq
from attrs import Attribute, field, frozen
from zmq.utils import z85

_Z85 = frozenset(z85.Z85CHARS)
"""The characters of RFC 32."""
_SIZE = 40
"""Characters in a key of 32 bytes."""
_LONGEST_DOMAIN = 255
"""Bytes; libzmq takes no more."""


@frozen
class Keys:
    """A key pair, in Z85."""

    public: bytes
    secret: bytes = field(repr=False)


def _is_domain(_: object, attribute: Attribute[str], value: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{attribute.name} cannot be UTF-8: {error}") from None
    if size > _LONGEST_DOMAIN:
        raise ValueError(f"{attribute.name} must have at most {_LONGEST_DOMAIN} bytes of UTF-8, not {size}")


@frozen
class Security:
    """Who a gossip node is, and whom it lets in.

    Raises:
        ValueError: If the domain can be none.
    """

    keys: Keys | None = None
    zap_domain: str = field(default="", validator=_is_domain)
    """What a ZAP handler (RFC 27) is told, which decides who may connect; if there is no handler, nobody may."""


def curve_keys(public: object, secret: object) -> Keys | None:
    """A key pair, checked; `None` where there is none.

    Raises:
        TypeError: If a key is neither text nor bytes.
        ValueError: If one of the two is missing, no key, or not of the other one.
        RuntimeError: If libzmq was built without CURVE.
    """
    if public is None and secret is None:
        return None
    if public is None or secret is None:
        missing = "public_key" if public is None else "secret_key"
        raise ValueError(f"public_key and secret_key are given together or not at all: {missing} is missing")
    keys = Keys(curve_key("public_key", public), curve_key("secret_key", secret))
    if zmq.curve_public(keys.secret) != keys.public:
        raise ValueError("public_key is not that of secret_key")
    return keys


def curve_key(name: str, key: object) -> bytes:
    """One key in Z85, checked.

    Raises:
        TypeError: If it is neither text nor bytes.
        ValueError: If it is no key.
        RuntimeError: If libzmq was built without CURVE.
    """
    # What was given stays out of every text: it may be a secret.
    if not isinstance(key, str | bytes):
        raise TypeError(f"{name} must be text or bytes, not of type {type(key).__name__}")
    raw = key.encode("utf-8", "replace") if isinstance(key, str) else key
    if len(raw) != _SIZE:
        raise ValueError(f"{name} must be 32 bytes in Z85, which are {_SIZE} characters, not {len(raw)}")
    if not _Z85.issuperset(raw):
        raise ValueError(f"{name} has characters that Z85 does not have")
    try:
        z85.decode(raw)
    except struct.error:
        raise ValueError(f"{name} must be 32 bytes in Z85, but has characters for more") from None
    if not zmq.has("curve"):
        raise RuntimeError("this libzmq was built without CURVE, so keys cannot be used")
    return raw
