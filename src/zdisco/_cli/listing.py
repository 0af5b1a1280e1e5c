"""``zdisco ls``: who is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

import anyio

from .. import Peer, PeerInfo, PeerJoined
from .lines import print_text, shown
from .running import until_signalled


async def joined_peers(peer: Peer, quiet: float) -> Sequence[PeerInfo]:
    """Join, wait until nobody has joined for ``quiet`` seconds, and leave; sorted by name.

    A signal ends the waiting.

    Raises:
        DiscoveryTimeout: If no proxy relays us.
    """
    events = peer.events()
    async with until_signalled() as work, peer:
        with work:
            await peer.discover()
            is_quiet = False
            while not is_quiet:
                with anyio.move_on_after(quiet) as silence:
                    while not isinstance(await anext(events), PeerJoined):
                        pass
                is_quiet = silence.cancelled_caught
        return sorted(peer.peers.values(), key=lambda info: (info.name, str(info.id)))


def print_json(peers: Sequence[PeerInfo]) -> None:
    """Print a JSON array with an object for each peer."""
    rows = [
        {
            "id": str(peer.id),
            "name": peer.name,
            "endpoint": peer.endpoint,
            "headers": dict(peer.headers),
            "groups": sorted(peer.groups),
            "services": sorted(peer.services),
            "cluster": peer.cluster,
            "incarnation": peer.incarnation,
            "revision": peer.revision,
            "host": peer.host,
            "pid": peer.pid,
        }
        for peer in peers
    ]
    print_text(json.dumps(rows, indent=2))


def print_table(peers: Sequence[PeerInfo]) -> None:
    """Print a row for each peer: no cell is cut off or folded, so that it can be copied."""
    rows = [("name", "id", "endpoint", "host", "pid", "headers")]
    for peer in peers:
        headers = " ".join(f"{key}={value}" for key, value in sorted(peer.headers.items()))
        rows.append((peer.name, str(peer.id), peer.endpoint, peer.host, str(peer.pid or ""), headers))
    for line in _aligned([[_as_printed(cell) for cell in row] for row in rows]):
        print_text(line)
    print_text(f"{len(peers)} joined")


def _as_printed(text: str) -> str:
    """The text with everything escaped that is not printable, or that standard output cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return shown(text).encode(encoding, "backslashreplace").decode(encoding)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
