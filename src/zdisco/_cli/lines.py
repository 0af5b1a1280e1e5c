"""What the commands print: one line for each thing that happens, flushed at once.

Rule: text that came from the network goes through `shown`; control characters would reach the terminal.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import datetime

from .. import (
    Event,
    EventsDropped,
    Message,
    PeerGone,
    PeerInfo,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    PeerUpdated,
    ProxyFound,
    ProxyLost,
)


def print_line(text: str, at: datetime | None = None) -> None:
    """Print a line as the classic programs do: local time, tab, text."""
    at = datetime.now() if at is None else at
    print(f"{at:%H:%M:%S.%f}\t{text}", flush=True)


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
        case ProxyFound(endpoint):
            return f"Found proxy {endpoint}"
        case ProxyLost(endpoint):
            return f"Lost proxy {endpoint}"
        case EventsDropped(count):
            return f"Missed {count} events"


def message_text(message: Message) -> str:
    """One line for a message; its payload is shown as UTF-8."""
    sender = message.sender
    name = "a classic peer" if sender is None else shown(sender.name) or str(sender.id)
    text = message.payload.decode(errors="backslashreplace")
    return f"Message {shown(message.topic)} from {name}: {shown(text)}"


class LineHandler(logging.Handler):
    """Prints what the library logs among the other lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        with suppress(OSError):  # nobody reads us any more: raised by the next line that is not logged
            print_line(shown(record.getMessage()), datetime.fromtimestamp(record.created))


def print_log() -> None:
    """From now on print the discovery messages that arrive, what comes of them, and warnings."""
    logging.getLogger("zdisco").addHandler(LineHandler())
    logging.getLogger("zdisco.discovery").setLevel(logging.DEBUG)
