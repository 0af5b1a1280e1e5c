"""What a real zgossip node reads, and what ends it: a second reading of the format, from its description alone.

It is as strict as CZMQ's code is: a frame that ends before its last field ends the node. And as
lenient: what follows the last field is not looked at. Nothing of zdisco is used here, so that this can
judge it.
"""

from __future__ import annotations

HELLO, PUBLISH, PING, PONG, INVALID = 1, 2, 3, 4, 5


class DeadlyFrameError(Exception):
    """A real node would end when it gets this."""


def take(frame: bytes, at: int, size: int) -> tuple[bytes, int]:
    """A field, and where the next one begins."""
    if at + size > len(frame):
        raise DeadlyFrameError(f"the field at {at} takes {size} bytes, {len(frame) - at} are left")
    return frame[at : at + size], at + size


def take_number(frame: bytes, at: int, size: int) -> tuple[int, int]:
    raw, at = take(frame, at, size)
    return int.from_bytes(raw, "big"), at


def read(frame: bytes) -> tuple[int, bytes, bytes]:
    """Number, key and value of a message, the last two empty where it has none.

    Raises:
        DeadlyFrameError: If a real node would end.
    """
    signature, at = take_number(frame, 0, 2)
    if signature != 0xAAA0:
        raise DeadlyFrameError(f"the signature is {signature:04x}")
    number, at = take_number(frame, at, 1)
    version, at = take_number(frame, at, 1)
    if number not in (HELLO, PUBLISH, PING, PONG, INVALID):
        raise DeadlyFrameError(f"there is no message {number}")
    if version != 1:
        raise DeadlyFrameError(f"there is no version {version}")
    if number != PUBLISH:
        return number, b"", b""
    size, at = take_number(frame, at, 1)
    key, at = take(frame, at, size)
    size, at = take_number(frame, at, 4)
    value, at = take(frame, at, size)
    _, at = take_number(frame, at, 4)
    return number, key.split(b"\0")[0], value.split(b"\0")[0]


def publish(key: bytes, value: bytes, ttl: int = 0) -> bytes:
    """The frame of one tuple."""
    sizes = bytes([len(key)]), len(value).to_bytes(4, "big")
    return b"\xaa\xa0\x02\x01" + sizes[0] + key + sizes[1] + value + ttl.to_bytes(4, "big")


def plain(number: int) -> bytes:
    """The frame of a message that says nothing else."""
    return b"\xaa\xa0" + bytes([number, 1])
