"""``zdisco ls``: who is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import anyio

from .. import Peer, PeerInfo, PeerJoined
from .lines import shown
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
    print(json.dumps(rows, indent=2))


def print_table(peers: Sequence[PeerInfo]) -> None:
    """Print a row for each peer."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "id", "endpoint", "host", "pid", "headers", box=None, pad_edge=False)
    for peer in peers:
        headers = " ".join(f"{key}={value}" for key, value in sorted(peer.headers.items()))
        cells = (peer.name, str(peer.id), peer.endpoint, peer.host, str(peer.pid or ""), headers)
        # As text, or rich would take brackets for markup.
        table.add_row(*(Text(shown(cell), overflow="fold") for cell in cells))
    # What is not a terminal has no width to keep to.
    Console(width=None if sys.stdout.isatty() else 500, highlight=False).print(table)
    print(f"{len(peers)} joined")
