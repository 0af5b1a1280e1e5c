"""The sockets of peers, proxies, gossip nodes and responders, with all options set before they bind or connect."""

from __future__ import annotations

from collections.abc import Mapping

import zmq

from .._core.config import GossipConfig, PeerConfig
from .._core.gossip.frames import FRAME_LIMIT
from .._core.model import Overflow, ReconnectStop
from .keys import Keys, Security
from .sockets import ZmqContext, ZmqSocket, new_socket

MAX_DISCOVERY_MESSAGE = 1 << 20
"""Bytes; libzmq ends the connection of whoever sends more on a discovery socket."""
MAX_SUBSCRIPTION = 1 << 16
"""Bytes; libzmq ends the connection of whoever sends more to `dataPub`, before it makes room for it."""
_LONGEST_TTL = 6_553_500
"""Milliseconds; on the wire it is tenths of seconds in 16 bits (ZMTP 3.1)."""
MAX_QUESTION = 4096
"""Bytes; libzmq ends the connection of whoever asks a responder more."""
BACKLOG = 4096
"""With libzmq's 100 it costs a second when many peers connect at once."""


def milliseconds(seconds: float) -> int:
    """Seconds as libzmq wants them; what is not zero does not become zero, which has a meaning of its own."""
    return 0 if seconds == 0 else max(1, round(seconds * 1000))


def _common(context: ZmqContext, kind: int, config: PeerConfig) -> ZmqSocket:
    socket = new_socket(context, kind)
    options: dict[int, int | bytes] = {
        zmq.HANDSHAKE_IVL: milliseconds(config.handshake_interval),
        zmq.CONNECT_TIMEOUT: milliseconds(config.connect_timeout),
        zmq.RECONNECT_IVL: milliseconds(config.reconnect_interval),
        zmq.RECONNECT_IVL_MAX: milliseconds(config.reconnect_interval_max),
        zmq.LINGER: milliseconds(config.linger),
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: max(1, round(config.tcp_keepalive_idle)),
        zmq.TCP_KEEPALIVE_INTVL: max(1, round(config.tcp_keepalive_interval)),
        zmq.TCP_KEEPALIVE_CNT: config.tcp_keepalive_count,
    }
    return _with(socket, options)


def _with(socket: ZmqSocket, options: Mapping[int, int | bytes]) -> ZmqSocket:
    try:
        for option, value in options.items():
            socket.setsockopt(option, value)
    except BaseException:
        socket.close(0)
        raise
    return socket


def data_send_hwm(config: PeerConfig) -> int:
    """``send_hwm`` as `dataPub` is told it: where publishers wait it is even, and can be doubled."""
    return config.send_hwm if config.overflow is Overflow.DROP else min(config.send_hwm + config.send_hwm % 2, 1 << 30)


def data_pub(context: ZmqContext, config: PeerConfig) -> ZmqSocket:
    """Make the XPUB that a peer publishes through."""
    options: dict[int, int | bytes] = {
        zmq.XPUB_VERBOSER: 1,
        zmq.XPUB_NODROP: int(config.overflow is Overflow.WAIT),
        zmq.SNDHWM: data_send_hwm(config),
        zmq.RCVHWM: 0,
        zmq.MAXMSGSIZE: MAX_SUBSCRIPTION,
        zmq.BACKLOG: BACKLOG,
        zmq.TCP_MAXRT: milliseconds(config.tcp_timeout),
    }
    return _with(_common(context, zmq.XPUB, config), options)


def data_sub(context: ZmqContext, config: PeerConfig) -> ZmqSocket:
    """Make the SUB that reads from all other peers.

    No heartbeat: with a bounded receive queue and a slow reader it ends the process. No
    RECONNECT_STOP: it throws away what the dead peer had sent.
    """
    options: dict[int, int | bytes] = {
        zmq.RCVHWM: config.receive_hwm,
        zmq.SNDHWM: 0,  # it would limit the number of subscriptions
        zmq.LINGER: 0,  # a disconnect would linger, too, and go on retrying so long
        zmq.TCP_MAXRT: milliseconds(config.tcp_timeout),
    }
    return _with(_common(context, zmq.SUB, config), options)


def _discovery(context: ZmqContext, kind: int, config: PeerConfig) -> ZmqSocket:
    options: dict[int, int | bytes] = {
        zmq.RCVHWM: 0,  # heartbeats need it
        zmq.MAXMSGSIZE: MAX_DISCOVERY_MESSAGE,
    }
    return _with(_common(context, kind, config), options)


def _heartbeats(config: PeerConfig) -> dict[int, int | bytes]:
    """Those of a peer serve both ends: it tells the proxy for how long it may be silent."""
    timeout = milliseconds(config.proxy_heartbeat_timeout)
    return {
        zmq.HEARTBEAT_IVL: milliseconds(config.proxy_heartbeat),
        zmq.HEARTBEAT_TIMEOUT: timeout,
        zmq.HEARTBEAT_TTL: min(timeout, _LONGEST_TTL),
    }


def _rare_heartbeats(config: PeerConfig) -> dict[int, int | bytes]:
    """Those of a proxy are for whoever sends none."""
    timeout = milliseconds(config.proxy_heartbeat_timeout)
    return {zmq.HEARTBEAT_IVL: timeout, zmq.HEARTBEAT_TIMEOUT: timeout}


def proxy_sub(context: ZmqContext, config: PeerConfig) -> ZmqSocket:
    """Make the SUB that a peer connects to a proxy's well-known endpoint."""
    return _with(_discovery(context, zmq.SUB, config), {zmq.SNDHWM: 0, zmq.LINGER: 0, **_heartbeats(config)})


def proxy_pub(context: ZmqContext, config: PeerConfig) -> ZmqSocket:
    """Make the XPUB that a peer connects to the publish endpoint of a proxy."""
    options: dict[int, int | bytes] = {
        zmq.XPUB_VERBOSER: 1,
        zmq.SNDHWM: config.send_hwm,
        zmq.RECONNECT_STOP: int(ReconnectStop.CONN_REFUSED),
        **_heartbeats(config),
    }
    return _with(_discovery(context, zmq.XPUB, config), options)


def proxy_xpub(context: ZmqContext, config: PeerConfig) -> ZmqSocket:
    """Make the XPUB that a proxy binds at its well-known endpoint."""
    options: dict[int, int | bytes] = {zmq.XPUB_VERBOSER: 1, zmq.SNDHWM: config.send_hwm, zmq.BACKLOG: BACKLOG}
    return _with(_discovery(context, zmq.XPUB, config), options | _rare_heartbeats(config))


def proxy_xsub(context: ZmqContext, config: PeerConfig) -> ZmqSocket:
    """Make the XSUB that a proxy binds at its publish endpoint."""
    options: dict[int, int | bytes] = {zmq.SNDHWM: 0, zmq.BACKLOG: BACKLOG}
    return _with(_discovery(context, zmq.XSUB, config), options | _rare_heartbeats(config))


def _gossip(context: ZmqContext, kind: int, config: GossipConfig, more: Mapping[int, int | bytes]) -> ZmqSocket:
    """No heartbeats: with a bounded receive queue and a slow reader they end the process."""
    common = PeerConfig(
        reconnect_interval=config.reconnect_interval,
        reconnect_interval_max=config.reconnect_interval_max,
        linger=config.linger,
    )
    options: dict[int, int | bytes] = {
        zmq.SNDHWM: config.queue_limit,
        zmq.RCVHWM: config.queue_limit,
        zmq.MAXMSGSIZE: FRAME_LIMIT,
        zmq.TCP_MAXRT: milliseconds(common.tcp_timeout),
        **more,
    }
    return _with(_common(context, kind, common), options)


def _curve(keys: Keys) -> dict[int, int | bytes]:
    return {zmq.CURVE_PUBLICKEY: keys.public, zmq.CURVE_SECRETKEY: keys.secret}


def gossip_router(context: ZmqContext, config: GossipConfig, security: Security) -> ZmqSocket:
    """Make the ROUTER that the clients of a gossip node connect to."""
    options: dict[int, int | bytes] = {
        zmq.ROUTER_MANDATORY: 1,
        # A client with a routing id of its own may come back before the end of its former connection is noticed.
        zmq.ROUTER_HANDOVER: 1,
        zmq.BACKLOG: BACKLOG,
    }
    if security.zap_domain:
        options[zmq.ZAP_DOMAIN] = security.zap_domain.encode()
        options[zmq.ZAP_ENFORCE_DOMAIN] = 1  # without a handler everybody would be let in
    if security.keys is not None:
        options |= {zmq.CURVE_SERVER: 1, **_curve(security.keys)}
    return _gossip(context, zmq.ROUTER, config, options)


def gossip_dealer(context: ZmqContext, config: GossipConfig, keys: Keys | None, server_key: bytes | None) -> ZmqSocket:
    """Make the DEALER for one connection to a remote; with the key of that one it speaks CURVE."""
    options: dict[int, int | bytes] = {}
    if keys is not None and server_key is not None:
        options = {zmq.CURVE_SERVERKEY: server_key, **_curve(keys)}
    return _gossip(context, zmq.DEALER, config, options)


def name_router(context: ZmqContext, config: PeerConfig) -> ZmqSocket:
    """Make the ROUTER that answers programs which ask for names.

    Who does not read its answers loses those that have no room; with REP it would be the same.
    """
    return _with(_common(context, zmq.ROUTER, config), {zmq.MAXMSGSIZE: MAX_QUESTION, zmq.BACKLOG: BACKLOG})
