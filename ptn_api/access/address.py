"""Client addresses: the connection's peer, or the address that a trusted proxy reports."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ptn_api.errors import SettingsError

__all__ = ["ClientAddress", "Proxies", "is_loopback", "url_host"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPV6_SITE_BITS = 64
"""The prefix that identifies a site; a client can choose the other bits of its address freely."""
LONGEST_ADDRESS = 64
"""The longest hop that is parsed and remembered: an IPv6 address with zone, brackets and port is shorter."""


class ClientAddress(NamedTuple):
    """`text` is for logs. `group` is the name under which limits count the client; None = exempt."""

    text: str
    group: str | None


class _Known(NamedTuple):
    text: str
    group: str
    is_loopback: bool
    trusted: bool


class Proxies:
    """The trusted proxies, whose `X-Forwarded-For` header is used. Other peers' headers are ignored."""

    def __init__(self, trusted: str = "") -> None:
        """`trusted`: addresses or networks, separated by commas. Raises SettingsError."""
        try:
            self._networks = [ipaddress.ip_network(part) for part in trusted.replace(",", " ").split()]
        except ValueError as error:
            raise SettingsError(f"--trusted-proxies: {error}") from None
        self._look_up = lru_cache(4096)(self._read)

    @property
    def any(self) -> bool:
        """Whether any proxy is trusted."""
        return bool(self._networks)

    def client(self, peer: str, forwarded: Iterable[str] = ()) -> ClientAddress:
        """The client behind the connection. `forwarded`: the values of X-Forwarded-For in their order.

        Exempt from limits are loopback peers, behind which many clients may be, and a trusted proxy whose
        request has no usable header.
        """
        known = self._look_up(peer)
        if known is None:
            return ClientAddress(peer, None)
        if not known.trusted:  # its header is neither read nor kept
            return ClientAddress(peer, None if known.is_loopback else known.group)
        # Each proxy appends its peer. Left of the last untrusted hop, the client may have written anything.
        for hop in reversed(",".join(forwarded).split(",")):
            text = hop.strip()
            client = self._look_up(text) if len(text) <= LONGEST_ADDRESS else None
            if client is None:
                break
            if not client.trusted:
                return ClientAddress(client.text, client.group)
        return ClientAddress(peer, None)

    def trusts(self, peer: str) -> bool:
        """Whether the peer is a trusted proxy."""
        known = self._look_up(peer)
        return known is not None and known.trusted

    def _read(self, text: str) -> _Known | None:
        address = _parse(text)
        if address is None:
            return None
        trusted = any(address in network for network in self._networks)
        return _Known(str(address), _group(address), address.is_loopback, trusted)


def is_loopback(host: str) -> bool:
    """Whether a server that listens on this host is reachable from this machine only."""
    address = _parse(host)
    return host == "localhost" if address is None else address.is_loopback


def _parse(text: str) -> _Address | None:
    """The address, which may have a port, brackets or a zone. An IPv4-mapped IPv6 address becomes IPv4."""
    host, colon, _ = text.rpartition(":")
    if colon and (host.count(":") == 0 or host.startswith("[")):
        text = host
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _group(address: _Address) -> str:
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, _IPV6_SITE_BITS), strict=False))


def url_host(host: str) -> str:
    """Returns the host of URLs for a server that listens on this address, which may be a wildcard."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared
    return f"[{host}]" if ":" in host else host
