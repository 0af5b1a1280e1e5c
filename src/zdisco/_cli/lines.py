"""What the commands print: one line for each thing that happens, flushed at once.

Rule 1: text that came from the network goes through `shown`; control characters would reach the terminal.

Rule 2: whatever is printed goes through `writing`, so that a full disk ends a command with one line.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import IO, Any

import click

from .. import (
    Event,
    EventsDropped,
    Message,
    MessagesLost,
    PeerGone,
    PeerInfo,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    PeerUpdated,
    ProxyFound,
    ProxyLost,
)


class CannotWrite(click.ClickException):
    """Standard output does not take what we print."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {(error.strerror or str(error)).lower()}")

    def show(self, file: IO[Any] | None = None) -> None:
        """Say so on standard error."""
        super().show(file)
        # What was not written would fail once more when Python ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextmanager
def writing() -> Iterator[None]:
    """Around each ``print``.

    Raises:
        CannotWrite: If standard output does not take it.
        BrokenPipeError: If nobody reads it any more, which ends a command without a word.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(error) from error


def print_text(text: str) -> None:
    """Print one line, or several."""
    with writing():
        print(text, flush=True)


def print_line(text: str, at: datetime | None = None) -> None:
    """Print a line as the classic programs do: local time, tab, text."""
    at = datetime.now() if at is None else at
    print_text(f"{at:%H:%M:%S.%f}\t{text}")


def shown(text: str) -> str:
    """The text with every character escaped that is not printable."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def title(peer: PeerInfo) -> str:
    """Name and id of a peer."""
    return f"{shown(peer.name) or '-'} {peer.id}"


def event_text(event: Event) -> str:
    """One line for an event."""
    match event:
        case PeerJoined(peer):
            return f"Joined {title(peer)} with endpoint {shown(peer.endpoint)}"
        case PeerUpdated(peer):
            return f"Updated {title(peer)} revision {peer.revision}"
        case PeerSuspected(peer):
            return f"Suspect {title(peer)}"
        case PeerRecovered(peer):
            return f"Recovered {title(peer)}"
        case PeerGone(peer, cause):
            return f"Gone {title(peer)} cause {cause.name}"
        case MessagesLost(sender, topic, count):
            return f"Lost {count} messages of topic {shown(topic)} from {_name(sender)}"
        case ProxyFound(endpoint):
            return f"Found proxy {endpoint}"
        case ProxyLost(endpoint):
            return f"Lost proxy {endpoint}"
        case EventsDropped(count):
            return f"Missed {count} events"


def _name(sender: PeerInfo | None) -> str:
    return "a classic peer" if sender is None else shown(sender.name) or str(sender.id)


def message_text(message: Message) -> str:
    """One line for a message; its payload is shown as UTF-8."""
    text = message.payload.decode(errors="backslashreplace")
    return f"Message {shown(message.topic)} from {_name(message.sender)}: {shown(text)}"


class LineHandler(logging.Handler):
    """Prints what the library logs among the other lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        with suppress(OSError, CannotWrite):  # raised again by the next line that is not logged
            print_line(shown(record.getMessage()), datetime.fromtimestamp(record.created))


def print_log() -> None:
    """From now on print the discovery messages that arrive, what comes of them, and warnings."""
    logging.getLogger("zdisco").addHandler(LineHandler())
    logging.getLogger("zdisco.discovery").setLevel(logging.DEBUG)
