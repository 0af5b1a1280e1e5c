"""Every number of a peer, and of a gossip node, in one frozen class each.

Rule: policy lives here and nowhere else; no other module holds an interval, a timeout or a bound.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import Attribute, field, frozen
from attrs.validators import deep_iterable

from .model import Overflow, ReconnectStop

_MOST = 2**31 - 1
"""libzmq keeps its options in 32 bits ..."""
_LONGEST = 2_000_000.0
"""... and times in milliseconds."""
_LARGEST_PACK = 65_535
"""The sizes in a pack have two bytes."""


def _is_seconds(_: object, attribute: Attribute[float], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{attribute.name} must be a number of seconds, not {value!r}")
    if not 0 < value <= _LONGEST:
        raise ValueError(f"{attribute.name} must be more than 0 s and at most {_LONGEST:.0f} s, not {value!r}")


def _is_seconds_or_zero(_: object, attribute: Attribute[float], value: object) -> None:
    if isinstance(value, bool) or value != 0:
        _is_seconds(_, attribute, value)


def _is_count(_: object, attribute: Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{attribute.name} must be a whole number, not {value!r}")
    if not 1 <= value <= _MOST:
        raise ValueError(f"{attribute.name} must be from 1 to {_MOST}, not {value!r}")


def _is_pack_size(_: object, attribute: Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{attribute.name} must be a whole number, not {value!r}")
    if not 0 <= value <= _LARGEST_PACK:
        raise ValueError(f"{attribute.name} must be from 0 to {_LARGEST_PACK}, not {value!r}")


def _flags(value: object) -> ReconnectStop:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"reconnect_stop must be a number, not {value!r}")
    if not 0 <= value <= 3:
        raise ValueError(f"reconnect_stop must be a combination of the flags 1 and 2, not {value!r}")
    return ReconnectStop(value)


def _overflow(value: object) -> Overflow:
    if not isinstance(value, Overflow | str):
        raise TypeError(f"overflow must be a text or an Overflow, not {value!r}")
    try:
        return Overflow(value)
    except ValueError:
        known = " or ".join(repr(one.value) for one in Overflow)
        raise ValueError(f"overflow must be {known}, not {value!r}") from None


def _jitter(_: object, attribute: Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{attribute.name} must be a number, not {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name} must be at least 0 and less than 1, not {value!r}")


def _delays(values: object) -> tuple[float, ...]:
    if not isinstance(values, Iterable):
        raise TypeError(f"probe_delays must be several numbers of seconds, not {values!r}")
    return tuple(values)


@frozen(kw_only=True)
class PeerConfig:
    """Every interval, timeout and bound of a peer. Times are seconds.

    A departure is told within these bounds:

    * a killed process: a refused probe, at the ``probe_delays``, then every ``reconnect_interval``;
    * a link that breaks and stays broken: suspect after ``suspect_after``, gone with cause
      ``UNREACHABLE`` after ``suspect_timeout``;
    * a process that hangs: suspect after ``beat_timeout + indirect_ping_timeout + ping_timeout``, gone
      with cause ``UNREACHABLE`` after ``suspect_timeout`` more.

    Raises:
        ValueError: If a number is out of its range.
        TypeError: If a value is of the wrong type.
    """

    announce_retry_min: float = field(default=0.002, validator=_is_seconds)
    """An announce, or a farewell, without echo is repeated after this, then after twice as long ..."""
    announce_interval: float = field(default=1.0, validator=_is_seconds)
    """... up to this."""
    beacon_interval: float = field(default=30.0, validator=_is_seconds)
    """An announce is repeated this often as long as we live; with more than 8 peers more rarely, up to four times, so
    that each is told no more of them in all than among 8."""
    beacon_jitter: float = field(default=0.2, validator=_jitter)
    """The beacon comes after ``beacon_interval * (1 ± beacon_jitter)``, so that peers spread out."""
    discovery_timeout: float = field(default=10.0, validator=_is_seconds)
    """How long entering the block waits for the echo of our announce."""
    farewell_timeout: float = field(default=2.0, validator=_is_seconds_or_zero)
    """How long leaving waits for the echo of our farewell."""
    relay_retry_interval: float = field(default=2.0, validator=_is_seconds)
    """While a proxy is heard but does not hear us, its publish endpoint is connected anew this often."""
    welcome_retry_interval: float = field(default=0.1, validator=_is_seconds)
    """Where several publish endpoints were named for one proxy, each is tried that long, in turn; twice as long in
    each further round, up to ``relay_retry_interval``."""
    answer_delay_per_peer: float = field(default=0.001, validator=_is_seconds_or_zero)
    """A newcomer is answered after a random part of this times the number of known peers ..."""
    answer_delay_max: float = field(default=0.1, validator=_is_seconds_or_zero)
    """... and of this at most; one answer serves all newcomers of that time."""
    suspect_after: float = field(default=0.2, validator=_is_seconds)
    """A joined peer whose link is broken that long is suspect."""
    flap_memory: float = field(default=60.0, validator=_is_seconds)
    """A peer that was suspect and recovered is suspect again only after twice the time, then four times and so on, up
    to half of ``suspect_timeout``; halved again with each such time in which it is not."""
    suspect_timeout: float = field(default=5.0, validator=_is_seconds)
    """A joined peer whose link is not verified for that long is given up."""
    beat_interval: float = field(default=0.8, validator=_is_seconds)
    """A joined peer shows about this often to one other that it runs, see ``beat_timeout``."""
    beat_timeout: float = field(default=1.3, validator=_is_seconds)
    """A peer that shows nothing for that long is pinged, by us and by others. More than 1.5 times ``beat_interval``."""
    indirect_pings: int = field(default=2, validator=_is_count)
    """How many others are asked to ping it."""
    ping_timeout: float = field(default=0.2, validator=_is_seconds)
    """How long a ping waits for its answer ..."""
    indirect_ping_timeout: float = field(default=0.4, validator=_is_seconds)
    """... and how long where others were asked. If nothing is heard of the peer by then, it is suspect."""
    ping_interval: float = field(default=5.0, validator=_is_seconds)
    """One peer is pinged this often, give or take half of it, each once in random order before anyone again. So
    two that nobody listens for, since only they do not reach each other, find out after about as many intervals as
    there are peers; at most after three times as long."""
    address_interval: float = field(default=5.0, validator=_is_seconds)
    """So often a peer whose address was not given to it looks whether its machine still has that address, and moves
    to another one if not; also when the connection to a proxy ends."""
    announced_timeout: float = field(default=75.0, validator=_is_seconds)
    """A peer that announces itself and never joins is tried until that long after its last announce."""
    farewell_memory: float = field(default=3.0, validator=_is_seconds)
    """A farewell that came through a proxy waits that long for the link to confirm it."""
    reconnect_stop: ReconnectStop = field(default=ReconnectStop.CONN_REFUSED, converter=_flags)
    """When to stop reconnecting to a peer; 0: never, 1: when refused, 2: when the handshake failed."""
    reconnect_interval: float = field(default=0.1, validator=_is_seconds)
    """libzmq tries a broken connection again after this (at random up to twice this) ..."""
    reconnect_interval_max: float = field(default=2.0, validator=_is_seconds)
    """... doubling up to this."""
    connect_timeout: float = field(default=2.0, validator=_is_seconds)
    """A TCP connection that has not come about by then is tried anew. Else the system would wait twice as long before
    each further try, and notice as late that a way is free again."""
    probe_delays: tuple[float, ...] = field(
        default=(0.0, 0.002, 0.005, 0.010, 0.020), converter=_delays, validator=deep_iterable(_is_seconds_or_zero)
    )
    """A link that broke is probed after these times, then every ``reconnect_interval``."""
    probe_timeout: float = field(default=0.2, validator=_is_seconds)
    """A probe without answer is undecided after this."""
    zombie_after: float = field(default=0.1, validator=_is_seconds)
    """A connection that ended and that libzmq does not retry within this is connected anew."""
    handshake_interval: float = field(default=2.0, validator=_is_seconds)
    """A ZMTP handshake that takes longer has failed."""
    proxy_heartbeat: float = field(default=5.0, validator=_is_seconds)
    """ZMTP heartbeat on the proxy channel, by the peer; its answers show it that the proxy is there, too ..."""
    proxy_heartbeat_timeout: float = field(default=15.0, validator=_is_seconds)
    """... and how long silence is borne there."""
    tcp_timeout: float = field(default=10.0, validator=_is_seconds)
    """What TCP sent on the data channel may stay unacknowledged for that long (``ZMQ_TCP_MAXRT``)."""
    tcp_keepalive_idle: float = field(default=60.0, validator=_is_seconds)
    """A connection that is silent for that long is probed by TCP, to the second ..."""
    tcp_keepalive_interval: float = field(default=10.0, validator=_is_seconds)
    """... that often ..."""
    tcp_keepalive_count: int = field(default=3, validator=_is_count)
    """... and ends after so many probes without an answer."""
    link_retry_min: float = field(default=0.01, validator=_is_seconds)
    """A link message without answer is repeated after this, then after twice as long ..."""
    link_retry_max: float = field(default=1.0, validator=_is_seconds)
    """... up to this."""
    linger: float = field(default=0.5, validator=_is_seconds_or_zero)
    """How long closing waits for what was published to leave."""
    send_hwm: int = field(default=20_000, validator=_is_count)
    """Messages that wait for one peer before its queue is full, see ``overflow``; 0 is not allowed: it has no bound.
    Those that share a frame, see ``pack_size``, count as one."""
    pack_size: int = field(default=8_192, validator=_is_pack_size)
    """Bytes of messages that share a frame: where many messages of one topic are published at once, those that are
    small leave together, and cost less. 0: each has a frame of its own, which programs that know nothing of this can
    read. 64 bytes are reckoned for each message beside its own."""
    overflow: Overflow = field(default=Overflow.DROP, converter=_overflow)
    """What `Peer.publish` does when the queue to a subscriber is full. ``"drop"``: the newest messages are dropped
    for that one, nobody else is held up. ``"wait"``: it waits until every subscriber that the message is for has room;
    one that does not read holds up all who publish what it subscribed to, until it reads again or its connection
    ends."""
    receive_hwm: int = field(default=1_000, validator=_is_count)
    """Messages of one peer that libzmq holds before it stops reading from it."""
    stream_capacity: int = field(default=65_536, validator=_is_count)
    """Messages that wait in one subscription or inbox before the oldest are dropped, and requests that wait for one
    service before more of them fail."""
    request_timeout: float = field(default=10.0, validator=_is_seconds)
    """How long a request waits for its reply."""
    serve_limit: int = field(default=64, validator=_is_count)
    """Requests to one service that its handler works on at the same time."""
    hosts_interval: float = field(default=1.0, validator=_is_seconds)
    """A hosts file is looked at this often for a change, and whenever a name is asked for."""
    event_capacity: int = field(default=10_000, validator=_is_count)
    """Events that wait in one event or monitor stream before the oldest are dropped."""
    expected_peers: int = field(default=32, validator=_is_count)
    """How many others there will be. If the process may not open the two descriptors that each of them takes, a warning
    is logged when the block is entered."""
    max_peers: int = field(default=4_096, validator=_is_count)
    """Links in the roster."""
    max_links_per_id: int = field(default=4, validator=_is_count)
    """Links that may claim one id, and links that may claim one endpoint."""
    max_tombstones: int = field(default=1_024, validator=_is_count)
    """Peers that left and that no late announce may revive. Also bounds what is kept of connections that ended, two
    entries for each link that was ever up: by its peer and by its endpoint."""
    max_strangers: int = field(default=1_024, validator=_is_count)
    """Subscribers whose announce we have not had. Also bounds the markers that are kept of peers without a link."""
    max_welcomes: int = field(default=8, validator=_is_count)
    """Publish endpoints of one proxy that are tried in turn."""
    max_lookups: int = field(default=64, validator=_is_count)
    """Announces that wait until the name of their host is looked up."""
    tail_delay: float = field(default=0.1, validator=_is_seconds)
    """A topic that has rested this long is closed: its latest number is told again, then after twice as long ..."""
    tail_interval: float = field(default=30.0, validator=_is_seconds)
    """... up to this."""
    max_topics: int = field(default=65_536, validator=_is_count)
    """Topics whose sequence numbers a publisher keeps, and topics of one peer whose numbers a subscriber keeps."""
    max_retained: int = field(default=1_024, validator=_is_count)
    """Topics whose last value a publisher keeps for later subscribers; no more than half of ``send_hwm``."""
    max_probes: int = field(default=64, validator=_is_count)
    """Probes that run at the same time."""

    def __attrs_post_init__(self) -> None:
        if not self.beat_timeout > 1.5 * self.beat_interval:
            what = f"not {self.beat_timeout!r} and {self.beat_interval!r}"
            raise ValueError(f"beat_timeout must be more than 1.5 times beat_interval, {what}")


@frozen(kw_only=True)
class GossipConfig:
    """Every interval, timeout and bound of a gossip node. Times are seconds.

    Raises:
        ValueError: If a number is out of its range.
        TypeError: If a value is of the wrong type.
    """

    ping_interval: float = field(default=0.3, validator=_is_seconds)
    """A remote that is a real zgossip, or that has not said yet what it is, is pinged this often."""
    greeting_interval: float = field(default=5.0, validator=_is_seconds)
    """A remote of our own kind is greeted this often."""
    silence_timeout: float = field(default=15.0, validator=_is_seconds)
    """A remote that answers nothing for that long is connected anew."""
    digest_interval: float = field(default=30.0, validator=_is_seconds)
    """Stores that differ are compared when their nodes connect, and this often."""
    client_timeout: float = field(default=0.0, validator=_is_seconds_or_zero)
    """A client that is silent for that long must say HELLO again before it is told anything; 0: never."""
    settle_time: float = field(default=0.05, validator=_is_seconds)
    """What a real zgossip says waits that long, in case that our own kind brings the same with its version; and so
    long it is let speak first where it connects."""
    echo_timeout: float = field(default=2.0, validator=_is_seconds)
    """A real zgossip sends each change back. It is told no further value of a key before that, or before this."""
    pace_interval: float = field(default=0.2, validator=_is_seconds)
    """Real nodes are told another value of a key at the earliest that long after the one before."""
    damping_burst: int = field(default=16, validator=_is_count)
    """Changes of one key that are taken from real nodes at once ..."""
    damping_interval: float = field(default=0.1, validator=_is_seconds)
    """... then one in this time, always the latest."""
    tombstone_time: float = field(default=600.0, validator=_is_seconds)
    """So long a deleted key is remembered, so that a node that was away does not bring it back."""
    reconnect_interval: float = field(default=0.1, validator=_is_seconds)
    """libzmq tries a broken connection again after this (at random up to twice this) ..."""
    reconnect_interval_max: float = field(default=2.0, validator=_is_seconds)
    """... doubling up to this."""
    linger: float = field(default=0.5, validator=_is_seconds_or_zero)
    """How long what was sent last may take to leave when the node is closed."""
    reload_interval: float = field(default=1.0, validator=_is_seconds)
    """A configuration file that was loaded is looked at this often, and loaded again when it has changed."""
    queue_limit: int = field(default=50_000, validator=_is_count)
    """Frames that wait for one other node before its queue is full; it is brought up to date later."""
    max_clients: int = field(default=4_096, validator=_is_count)
    """Nodes that may be connected to this one; more make it forget the one that has been silent longest."""
    max_tuples: int = field(default=100_000, validator=_is_count)
    """Keys that have a value. What is published beyond that is dropped, and counted."""
    max_tombstones: int = field(default=10_000, validator=_is_count)
    """Keys that are remembered as deleted; beyond that the one that was deleted first is forgotten."""
    delivery_capacity: int = field(default=100_000, validator=_is_count)
    """Keys whose change waits in one stream of deliveries; of each key only the latest change waits."""
