"""Write the generated parts of the documentation: tables and diagrams made from the code's own tables.

    python docs/_generate.py            writes them
    python docs/_generate.py --check    only says which are out of date

A page holds each part between ``<!-- generated: name -->`` and ``<!-- end -->``; whatever stands
there is replaced. ``tests/test_docs.py`` fails while a part is out of date.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path
from struct import Struct, calcsize
from types import ModuleType
from typing import Any
from uuid import UUID

import attrs

from zdisco import Cause, Drop, GossipConfig, LinkState, PeerConfig, PeerInfo
from zdisco._core import config, envelope, link, model, relay, wire
from zdisco._core.gossip import frames, talk
from zdisco._core.names import NAME_LIMIT

DOCS = Path(__file__).resolve().parent

REASONS = {
    "announce_interval": "A proxy that is slow for longer is not flooded.",
    "beacon_interval": "Only a safety net, for what the handshakes missed; it costs each peer less than its beats.",
    "announce_retry_min": "An echo on one machine takes 1 ms; an announce that met a connection which is just coming up"
    " is lost.",
    "welcome_retry_interval": "An answer from a publish endpoint takes milliseconds; a forged welcome should not delay"
    " us for long.",
    "probe_delays": "A dying process still accepts for some milliseconds.",
    "tail_delay": "A burst that was cut off is told soon; a topic that is published often never gets that far.",
    "tail_interval": "A reader that could not read for long is told of its last loss within this.",
    "max_retained": "With values of 1 KiB, 1 MiB for each publisher.",
    "tcp_timeout": "A network that acknowledges nothing for so long is down.",
    "tcp_keepalive_idle": "Only finds what is left: a link that says nothing at all and whose other end vanished.",
    "tcp_keepalive_interval": "As above.",
    "tcp_keepalive_count": "As above.",
    "max_welcomes": "More than a few proxies in a row at one endpoint are a forgery.",
    "max_lookups": "A look-up takes a thread.",
    "beacon_jitter": "Peers that were started together would beacon together for ever.",
    "discovery_timeout": "A proxy that is being started at the same time has come up by then; a person who mistyped"
    " the endpoint has not gone away yet.",
    "farewell_timeout": "The echo takes milliseconds; a process that is told to stop should not hang on a dead relay.",
    "relay_retry_interval": "Long enough for a handshake to finish (`handshake_interval`), short enough to go"
    " unnoticed.",
    "answer_delay_per_peer": "When N peers know a newcomer, their N answers spread over N ms instead of arriving at"
    " once.",
    "answer_delay_max": "A newcomer should know everybody within a blink, however many there are.",
    "suspect_after": "Bridges a connection that is made anew at once; a person does not notice it.",
    "flap_memory": "A link that fails again and again is one event in a while, not hundreds.",
    "suspect_timeout": "Long enough for a switch or a Wi-Fi cell to come back, short enough to act on.",
    "beat_interval": "Five frames in four seconds for each peer, however many: they are most of what rest costs.",
    "beat_timeout": "The next beat comes after 1.15 intervals at the most; the rest is room for a busy machine.",
    "indirect_pings": "Two others are hardly cut off from it by chance.",
    "ping_timeout": "A peer that runs answers within milliseconds.",
    "indirect_ping_timeout": "The answer goes two ways. With the times above and below it makes 1.9 s.",
    "ping_interval": "Finds what nobody listens for, and measures round trips. With the answers a third of the beats.",
    "address_interval": "Two questions to the system, some microseconds; nobody needs a machine that has moved sooner.",
    "announced_timeout": "Two beacons may be lost where there are few peers; where there are many it is tried again"
    " with each. A machine on which a hundred peers start at once needs many seconds.",
    "farewell_memory": "The direct farewell or the end of the link follows a true farewell within milliseconds;"
    " a forged one must not lie in wait.",
    "reconnect_stop": "A refused ephemeral port will not come back as the same peer; a failed handshake may be a host"
    " under load.",
    "reconnect_interval": "libzmq's own default.",
    "reconnect_interval_max": "A host that is away for minutes is not worth ten attempts a second, and is found again"
    " within 2 s.",
    "probe_timeout": "A reachable host answers a TCP connection attempt far sooner, also across a continent.",
    "zombie_after": "libzmq reports its own retry in the same millisecond; 100 ms leave room for a busy machine.",
    "connect_timeout": "A connection takes milliseconds, on the other side of the world some tenths of a second.",
    "handshake_interval": "libzmq's 30 s would hold a link to a stopped process for half a minute.",
    "proxy_heartbeat": "Per proxy, not per peer, so the cost is constant.",
    "proxy_heartbeat_timeout": "Three missed heartbeats.",
    "link_retry_min": "A link message is lost only while the other side is still connecting, which takes milliseconds.",
    "link_retry_max": "A peer that answers nothing for so long is not waiting for us.",
    "linger": "Enough for what is on its way; a stalled reader must not keep a process from ending.",
    "pack_size": "What libzmq and the system cost for each frame is shared by some 25 messages of 256 bytes.",
    "send_hwm": "With libzmq's 1,000 a burst of 20,000 small messages to an idle reader lost most of it.",
    "overflow": "One stalled reader must not hold up everybody, unless the program asks for that.",
    "receive_hwm": "Measured fastest; a peer that sends more than we read waits in its own queue, not in ours.",
    "stream_capacity": "A reader may fall behind by a burst of three `send_hwm`; the oldest data is the least useful.",
    "request_timeout": "A responder that dies is told at once, so this bounds only one that is slow, or an answer that"
    " was lost in a full queue.",
    "serve_limit": "Handlers wait most of the time; more at once than this want a number chosen for them.",
    "hosts_interval": "A look costs microseconds; who has changed the file does not wait for long.",
    "event_capacity": "Some thousand peers may come and go before somebody looks.",
    "expected_peers": "Tens of peers are what a full mesh is for.",
    "max_peers": "More than a full mesh of connections can carry anyway.",
    "max_links_per_id": "One that dies, one that replaces it, and two to spare; a liar gets no more.",
    "max_tombstones": "More than leave while an old announce is on its way; a table that never fills would grow.",
    "max_strangers": "More than connect before their announces come; the same.",
    "max_topics": "A topic per entity is common; a topic per message is a mistake that must not eat the memory.",
    "max_probes": "Descriptors are scarce when many peers die at once.",
}
"""Why a default is what it is. The meaning of each comes from ``PeerConfig`` itself."""

GOSSIP_REASONS = {
    "ping_interval": "A real zgossip forgets who is silent for a second.",
    "greeting_interval": "One of ours forgets nobody; this only finds connections that are dead and do not say so.",
    "silence_timeout": "Three greetings without an answer.",
    "digest_interval": "A safety net for what was lost in a full queue; where stores are equal it costs nothing.",
    "client_timeout": "A real zgossip as client says nothing by itself, so the 1 s of its server side loses tuples.",
    "settle_time": "Several times what a message takes on one network.",
    "echo_timeout": "An echo takes milliseconds; a real node that is held up for so long may have lost what it was"
    " told.",
    "pace_interval": "Two values within the time of an echo make real nodes swap them without end; this leaves room for"
    " a busy machine.",
    "damping_burst": "A program that changes a key some times in a row is not held up.",
    "damping_interval": "Real nodes that swap values do it thousands of times a second; ten can be borne.",
    "tombstone_time": "A restart, or a network that is away, takes minutes at the most.",
    "reconnect_interval": "libzmq's own default.",
    "reconnect_interval_max": "A machine that is away for minutes is not worth ten attempts a second, and is found"
    " again within 2 s.",
    "linger": "Enough for what is on its way; a stalled reader must not keep a process from ending.",
    "reload_interval": "As CZMQ has it; a look costs some microseconds.",
    "queue_limit": "More than a store of `max_tuples` takes to be told; a stalled reader must not eat all memory.",
    "max_clients": "More connections than one process should have.",
    "max_tuples": "With keys and values of 100 bytes, some 64 MiB.",
    "max_tombstones": "More than are deleted in `tombstone_time` where settings change slowly.",
    "delivery_capacity": "As many as there may be keys, so nothing is dropped.",
}
"""The same for ``GossipConfig``."""


# Tables


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(text: object) -> str:
    return f"`{text}`"


def _plain(docstring: str) -> str:
    """A docstring as Markdown: literals in single backticks, on one line."""
    return " ".join(docstring.replace("``", "`").split())


def member_docs(module: ModuleType, name: str) -> dict[str, str]:
    """The docstrings that follow the members of a class: Python itself does not keep them."""
    tree = ast.parse(inspect.getsource(module))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found: dict[str, str] = {}
    for member, after in pairwise(body):
        match member, after:
            case (
                ast.Assign(targets=[ast.Name(id=key)]) | ast.AnnAssign(target=ast.Name(id=key)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[key] = _plain(text)
    return found


def _default(value: object) -> str:
    match value:
        case Enum():
            return value.name
        case tuple():
            return ", ".join(map(_default, value))
        case float():
            return f"{value:g}"
        case _:
            return f"{value:,}"


def defaults(of: type, reasons: Mapping[str, str]) -> str:
    docs = member_docs(config, of.__name__)
    fields = attrs.fields(of)
    if {one.name for one in fields} != reasons.keys():
        raise SystemExit(f"reasons and {of.__name__} differ: { ({one.name for one in fields} ^ reasons.keys()) }")
    rows = []
    for one in fields:
        is_time = one.name != "beacon_jitter" and not isinstance(one.default, int | Enum)
        shown = _default(one.default) + (" s" if is_time else "")
        rows.append((_code(one.name), shown, docs[one.name], reasons[one.name]))
    return table(("setting", "default", "meaning", "why"), rows)


def causes() -> str:
    docs = member_docs(model, "Cause")
    return table(("cause", "meaning"), [(_code(cause.name), docs[cause.name]) for cause in Cause])


def reconnect_stop() -> str:
    docs = member_docs(model, "ReconnectStop")
    flags = model.ReconnectStop
    return table(
        ("flag", "value", "meaning"),
        [(_code(one.name), str(int(one)), docs.get(str(one.name), "Go on for ever.")) for one in [flags.NEVER, *flags]],
    )


def drops() -> str:
    return table(("reason", "meaning"), [(_code(f"Drop.{one.name}"), one.value) for one in Drop])


# Bytes


def _layout(layout: Struct) -> Iterator[tuple[int, int]]:
    """Offset and size of each field of a struct."""
    offset = 0
    for item in re.findall(r"\d*[a-zA-Z]", layout.format.lstrip(">")):
        size = calcsize(f">{item}")
        yield offset, size
        offset += size


def fields(layout: Struct, names: list[str], start: int = 0) -> str:
    return table(
        ("offset", "size", "field"),
        [(str(start + offset), str(size), name) for (offset, size), name in zip(_layout(layout), names, strict=True)],
    )


def discovery_layout() -> str:
    commands = (
        f"`{wire.WELCOME.decode()}` welcome, `{wire.ANNOUNCE.decode()}` announce, `{wire.FAREWELL.decode()}` farewell"
    )
    return fields(
        wire._CLASSIC,
        [
            f"command: {commands}",
            "id: the 36 characters of a lower-case UUID, then NUL",
            f"endpoint: at most {wire.ENDPOINT_LIMIT} bytes of UTF-8, then NUL; what follows the NUL is not defined",
        ],
    )


def extension_layout() -> str:
    flags = (
        f"flags: {wire._AGAIN} *again* (answer, though you know me), {wire._INFORMED} *informed*; others are ignored"
    )
    return fields(
        wire._EXTENSION,
        [
            f"`{wire._MAGIC.decode()}`",
            f"version: {wire._VERSION}; another one makes the message a classic one",
            flags,
            f"length of the JSON object that follows, at most {wire.EXTENSION_LIMIT:,} bytes",
        ],
        start=wire.CLASSIC_SIZE,
    )


KEYS = {
    "name": "text",
    "headers": "object, text to text",
    "groups": "list of texts",
    "services": "list of texts",
    "names": f"object; under each registered name, at most {NAME_LIMIT} bytes of UTF-8, a list of"
    " [endpoints](#registered-names), not empty",
    "cluster": "text; peers of different clusters do not link",
    "started": "integer; the first incarnation of this life, which is never raised: it tells the later of two processes"
    " with one id",
    "incarnation": "integer; start of the process in milliseconds of wall-clock time, raised only to refute",
    "revision": "integer; grows with each change that is announced",
    "session": "8 hexadecimal digits, not all zero: 4 random bytes chosen at start",
    "host": "text; host name of the sender",
    "pid": "integer; process id of the sender",
    "key": "text; always empty in this version",
    "capabilities": "list of texts; always empty in this version",
    "informed_by": "list of ids of proxies; only what travels as a tuple has it, see *Gossip*",
    "gossip": "text; where the gossip node of the sender listens",
}
"""What the keys of the extension hold; which keys there are comes from the encoder."""


def extension_keys() -> str:
    someone = UUID(int=1)
    messages: list[tuple[str, wire.DiscoveryMessage]] = [
        ("welcome", wire.Welcome(someone, "tcp://192.0.2.1:1")),
        ("announce", wire.Announce(PeerInfo(someone, "tcp://192.0.2.1:1"))),
        ("farewell", wire.Farewell(someone, "tcp://192.0.2.1:1")),
    ]
    users: dict[str, list[str]] = {}
    for name, message in messages:
        for key in wire._extension_fields(message):
            users.setdefault(key, []).append(name)
    if users.keys() != KEYS.keys():
        raise SystemExit(f"KEYS and the extension differ: {users.keys() ^ KEYS.keys()}")
    return table(("key", "in", "value"), [(_code(key), ", ".join(users[key]), text) for key, text in KEYS.items()])


def header_layout() -> str:
    magic = " ".join(f"{byte:02X}" for byte in envelope.MAGIC)
    return fields(
        envelope.HEADER,
        [
            f"`{magic}`",
            "peer id of the sender",
            "session of the sender",
            "stream number; 0 in a control frame",
            "kind",
            "sequence number, from 1; 0 in a control frame",
        ],
    )


def marker_layout() -> str:
    first = envelope._INBOX.hex().upper()
    return fields(envelope._MARKER, [f"`{first}`", "peer id of the subscriber", "its session", "counter, from 1"])


def confirm_body() -> str:
    return fields(
        envelope._CONFIRM,
        [
            "counter of the marker that was seen",
            "counter of the marker since which the pieces cover what was subscribed; 0: everything",
            "serial of the confirmation",
            "number of its pieces",
        ],
    )


def kinds() -> str:
    docs = member_docs(envelope, "Kind")
    return table(
        ("kind", "name", "what it is for"),
        [(str(int(kind)), _code(kind.name), docs[kind.name]) for kind in envelope.Kind],
    )


def link_body() -> str:
    flags = f"flags: {envelope._ANSWER_ME} *answer me*, {envelope._STRANGER} *stranger*; others are ignored"
    names = [
        flags,
        "counter of the sender's newest marker",
        "number of the sender's connection to the receiver, modulo 65536",
        "the last such number that the sender has seen from the receiver",
    ]
    return fields(envelope._LINK, names)


def request_body() -> str:
    rows = ["number of the request, chosen by the requester", "length of the name of the service"]
    return fields(envelope._REQUEST, rows) + "\n| 10 | any | name of the service, then the payload |"


def ping_body() -> str:
    docs = member_docs(envelope, "Question")
    questions = " ".join(f"{one.value} `{one.name}`: {docs[one.name]}" for one in envelope.Question)
    where = f"| {envelope._PING.size} | {envelope._LIFE.size} |"
    other = f"{where} unless the question is 0: id (16) and session (4) of that one |"
    return fields(envelope._PING, ["serial, chosen by the sender", questions]) + f"\n{other}"


def pong_body() -> str:
    return fields(envelope._PONG, ["serial of the ping", "1 if the peer that it was about has not answered, else 0"])


def suspect_body() -> str:
    return fields(envelope._LIFE, ["id of the peer of which nothing is heard", "its session"])


def reply_body() -> str:
    docs = member_docs(envelope, "Status")
    statuses = ", ".join(f"{status.value} `{status.name}`" for status in envelope.Status)
    meanings = " ".join(docs[status.name] for status in envelope.Status)
    names = ["number of the request", f"status: {statuses}"]
    return fields(envelope._REPLY, names) + f"\n| {envelope._REPLY.size} | any | the payload. {meanings} |"


# State machines


def _told(was: LinkState, signal: link.Signal) -> str:
    event = link.told(was, link.TRANSITIONS[was, signal], PeerInfo(UUID(int=1), ""), signal)
    if event is None:
        return ""
    cause = getattr(event, "cause", None)
    return _code(type(event).__name__ + (f"({cause.name})" if cause else ""))


def link_states() -> str:
    docs = member_docs(model, "LinkState")
    return table(("state", "meaning"), [(_code(state.name), docs[state.name]) for state in LinkState])


def link_table() -> str:
    rows = [
        (
            _code(state.name),
            f"{_code(signal.name)}: {signal.value}",
            _code(link.TRANSITIONS[state, signal].name),
            _told(state, signal),
        )
        for state in LinkState
        if state is not LinkState.GONE
        for signal in link.Signal
    ]
    return table(("state", "what happens", "next state", "what you are told"), rows)


def relay_states() -> str:
    return table(("state", "what goes through"), [(_code(state.name), state.value) for state in relay.RelayState])


def relay_table() -> str:
    rows = [
        (
            _code(signal.name) + f": {signal.value}",
            *(_code(relay.TRANSITIONS[state, signal].name) for state in relay.RelayState),
        )
        for signal in relay.RelaySignal
    ]
    return table(("what happens", *(f"in {_code(state.name)}" for state in relay.RelayState)), rows)


# Gossip


def gossip_trailers() -> str:
    version = "counter (8), id (16)"
    former = f"with flag {frames._FORMER} digests of former values (1 + 8 n)"
    entry = f"flags (1), key (1 + n), version: {version}, life in ms (4; 0: for ever), {former}"
    rows = [
        ("1", "greeting", "id of the node (16), sum of its store (8), number of its keys (4)"),
        (
            "2",
            "tuples",
            f"entries: {entry}; then the value (4 + n), with flag {frames._DELETED} nothing (deleted), with flag"
            f" {frames._RENEWED} the digest of a value that is the same as before (renewed); a digest is 64 bits of"
            " BLAKE2b",
        ),
        ("3", "sums", f"the sum of each of the {frames.BUCKETS} parts (8 each)"),
        (
            "4",
            "summary",
            f"which parts ({frames.BUCKETS // 8}; bit n is part n), the first key that it is about (1 + n), the one"
            " before which it ends (1 + n; empty: none), all keys (1 + n) of these parts in between, with versions",
        ),
        ("5", "wants", "keys (1 + n)"),
    ]
    return table(("", "trailer", "fields, with their sizes in bytes"), rows)


def gossip_table(transitions: Mapping[Any, talk.TalkState], signals: type[Enum]) -> str:
    states = [state for state in talk.TalkState if any(known is state for known, _ in transitions)]
    rows = [
        (f"{_code(signal.name)}: {signal.value}", *(_code(transitions[state, signal].name) for state in states))
        for signal in signals
    ]
    head = ("what happens", *(f"in {_code(state.name)}" for state in states))
    meanings = [(_code(state.name), state.value) for state in states]
    return table(("state", "what is at the other end"), meanings) + "\n\n" + table(head, rows)


# Diagrams: the states in a column, an arc for each pair of states that a signal connects

ROW, BOX, HALF, LINE = 110, 130, 18, 15


def diagram(title: str, transitions: Mapping[Any, Enum], states: type[Enum]) -> str:
    """A state diagram as SVG. Arcs down run on the right, arcs up on the left; what changes nothing is left out."""
    names = [state.name for state in states]
    arcs: dict[tuple[int, int], list[str]] = {}
    for (state, signal), target in transitions.items():
        if state is not target:
            arcs.setdefault((names.index(state.name), names.index(target.name)), []).append(signal.name)
    # The farthest reach, on either side, decides the width.
    left = 40 + max((_reach(a, b) + _text_width(s) for (a, b), s in arcs.items() if a > b), default=0)
    right = 40 + max((_reach(a, b) + _text_width(s) for (a, b), s in arcs.items() if a < b), default=0)
    width, height = left + BOX + right, ROW * len(names)
    middle = left + BOX / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"'
        f' width="{width:g}" height="{height:g}" role="img" aria-label="{title}"'
        ' font-family="sans-serif" font-size="12">',
        f"<title>{title}</title>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8"'
        ' orient="auto">'
        '<path d="M0 0 10 5 0 10z" fill="#3949ab"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    for (start, end), signals in sorted(arcs.items()):
        parts += _arc(start, end, sorted(set(signals), key=signals.index), middle)
    for index, name in enumerate(names):
        y = ROW * index + ROW / 2
        parts.append(
            f'<rect x="{middle - BOX / 2:g}" y="{y - HALF:g}" width="{BOX}" height="{2 * HALF}" rx="8"'
            ' fill="#e8eaf6" stroke="#3949ab"/>'
            f'<text x="{middle:g}" y="{y + 4:g}" text-anchor="middle" font-weight="bold" fill="#1a237e">{name}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _reach(start: int, end: int) -> float:
    return 70 * abs(start - end)


def _text_width(signals: list[str]) -> float:
    return 10 + 8.5 * max(map(len, signals))


def _arc(start: int, end: int, signals: list[str], middle: float) -> Iterator[str]:
    side = 1 if end > start else -1
    edge = middle + side * BOX / 2
    out = ROW * start + ROW / 2 + side * 6
    back = ROW * end + ROW / 2 - side * 6
    bend = edge + side * _reach(start, end) * 4 / 3
    yield (
        f'<path d="M{edge:g} {out:g}C{bend:g} {out:g} {bend:g} {back:g} {edge:g} {back:g}"'
        ' fill="none" stroke="#3949ab" marker-end="url(#tip)"/>'
    )
    # The apex of the curve, which no other arc of this side shares: see `_reach`.
    x, y = edge + side * (_reach(start, end) + 6), (out + back) / 2 - LINE * (len(signals) - 1) / 2 + 4
    anchor = "start" if side > 0 else "end"
    # The white edge keeps a label readable where another arc passes under it.
    style = 'fill="#1a237e" stroke="#ffffff" stroke-width="4" paint-order="stroke"'
    for number, signal in enumerate(signals):
        yield f'<text x="{x:g}" y="{y + LINE * number:g}" text-anchor="{anchor}" {style}>{signal}</text>'


# What goes where

PARTS: Mapping[str, Callable[[], str]] = {
    "causes": causes,
    "defaults": lambda: defaults(PeerConfig, REASONS),
    "discovery-layout": discovery_layout,
    "drops": drops,
    "extension-keys": extension_keys,
    "extension-layout": extension_layout,
    "gossip-defaults": lambda: defaults(GossipConfig, GOSSIP_REASONS),
    "gossip-client": lambda: gossip_table(talk.CLIENT, talk.ClientSignal),
    "gossip-remote": lambda: gossip_table(talk.REMOTE, talk.RemoteSignal),
    "gossip-trailers": gossip_trailers,
    "header-layout": header_layout,
    "kinds": kinds,
    "link-body": link_body,
    "confirm-body": confirm_body,
    "link-states": link_states,
    "link-table": link_table,
    "marker-layout": marker_layout,
    "ping-body": ping_body,
    "pong-body": pong_body,
    "reconnect-stop": reconnect_stop,
    "relay-states": relay_states,
    "relay-table": relay_table,
    "reply-body": reply_body,
    "request-body": request_body,
    "suspect-body": suspect_body,
}

DIAGRAMS: Mapping[str, Callable[[], str]] = {
    "diagrams/link.svg": lambda: diagram("States of a link", link.TRANSITIONS, LinkState),
    "diagrams/relay.svg": lambda: diagram("States of the connection to a proxy", relay.TRANSITIONS, relay.RelayState),
}

_MARKED = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered() -> dict[Path, str]:
    """Every file that holds something generated, as it should be."""
    files = {DOCS / name: draw() for name, draw in DIAGRAMS.items()}
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if _MARKED.search(text):
            files[page] = _MARKED.sub(lambda found: f"{found[1]}\n{PARTS[found['name']]()}\n\n{found[3]}", text)
    return files


def out_of_date() -> list[Path]:
    """The files that differ from what they should be."""
    return [path for path, text in rendered().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main() -> None:
    stale = out_of_date()
    if "--check" in sys.argv[1:]:
        raise SystemExit("\n".join(f"out of date: {path.relative_to(DOCS)}" for path in stale) or 0)
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(rendered()[path], encoding="utf-8")


if __name__ == "__main__":
    main()
