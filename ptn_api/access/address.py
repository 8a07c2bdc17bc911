"""Client addresses: the connection's peer, or the address that a trusted proxy reports."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ptn_api.errors import SettingsError

__all__ = ["ClientAddress", "Proxies", "is_loopback"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPV6_SITE_BITS = 64
"""The prefix that identifies a site; a client can choose the other bits of its address freely."""


_FORWARDED_CHARACTERS = 1_024
"""The end of X-Forwarded-For that is read: more hops than any chain of proxies has."""
_CACHED_CHARACTERS = 128
"""Longer headers are not cached: a client that writes its own could fill the memory."""


class ClientAddress(NamedTuple):
    """`text` is for logs. `group` is the name under which limits count the client; None = exempt."""

    text: str
    group: str | None


class Proxies:
    """The trusted proxies, whose `X-Forwarded-For` header is used. Other peers' headers are ignored."""

    def __init__(self, trusted: str = "") -> None:
        """`trusted`: addresses or networks, separated by commas. Raises SettingsError."""
        try:
            self._networks = [ipaddress.ip_network(part) for part in trusted.replace(",", " ").split()]
        except ValueError as error:
            raise SettingsError(f"--trusted-proxies: {error}") from None
        self._client = lru_cache(4096)(self._find)

    @property
    def any(self) -> bool:
        """Whether any proxy is trusted."""
        return bool(self._networks)

    def client(self, peer: str, forwarded: Iterable[str] = ()) -> ClientAddress:
        """The client behind the connection. `forwarded`: the values of X-Forwarded-For in their order.

        Exempt from limits are loopback peers, behind which many clients may be, and a trusted proxy whose
        request has no usable header.
        """
        if not self._networks:
            return self._client(peer, "")
        header = ",".join(forwarded)[-_FORWARDED_CHARACTERS:]
        return self._client(peer, header) if len(header) <= _CACHED_CHARACTERS else self._find(peer, header)

    def trusts(self, peer: str) -> bool:
        """Whether the peer is a trusted proxy."""
        address = _parse(peer)
        return address is not None and self._trusts(address)

    def _find(self, peer: str, forwarded: str) -> ClientAddress:
        address = _parse(peer)
        if address is None:
            return ClientAddress(peer, None)
        if not self._trusts(address):
            return ClientAddress(peer, None if address.is_loopback else _group(address))
        # Each proxy appends its peer. Left of the last untrusted hop, the client may have written anything.
        for hop in reversed(forwarded.split(",")):
            client = _parse(hop.strip())
            if client is None:
                break
            if not self._trusts(client):
                return ClientAddress(str(client), _group(client))
        return ClientAddress(peer, None)

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


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
