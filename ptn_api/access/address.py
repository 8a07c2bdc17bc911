"""Where a client is: its peer, or what a proxy that is trusted says of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from ptn_api.errors import SettingsError

__all__ = ["ClientAddress", "Proxies", "is_loopback"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPV6_SITE = 64
"""Bits of an IPv6 address that tell sites apart; the rest a client chooses as it likes."""


class ClientAddress(NamedTuple):
    """`text` is for logs. `group` is the name under which limits count it; None: they do not."""

    text: str
    group: str | None


class Proxies:
    """The proxies in front, whose `X-Forwarded-For` is believed; nobody else's is."""

    def __init__(self, trusted: str = "") -> None:
        """Addresses or networks, separated by commas. Raises SettingsError."""
        try:
            self._networks = [ipaddress.ip_network(part) for part in trusted.replace(",", " ").split()]
        except ValueError as error:
            raise SettingsError(f"--trusted-proxies: {error}") from None
        self._client = lru_cache(4096)(self._find)

    @property
    def any(self) -> bool:
        """Whether there are proxies that are believed."""
        return bool(self._networks)

    def client(self, peer: str, forwarded: Iterable[str] = ()) -> ClientAddress:
        """Who is behind the connection. `forwarded`: the values of X-Forwarded-For, in their order.

        Limits do not count loopback peers, behind which everybody would be one, nor a proxy that does not
        say for whom it asks.
        """
        return self._client(peer, tuple(forwarded))

    def trusts(self, peer: str) -> bool:
        """Whether this peer is a proxy that is believed."""
        address = _parse(peer)
        return address is not None and self._trusts(address)

    def _find(self, peer: str, forwarded: tuple[str, ...]) -> ClientAddress:
        address = _parse(peer)
        if address is None:
            return ClientAddress(peer, None)
        if not self._trusts(address):
            return ClientAddress(peer, None if address.is_loopback else _group(address))
        client = self._behind(",".join(forwarded).split(","))
        return ClientAddress(peer, None) if client is None else ClientAddress(str(client), _group(client))

    def _behind(self, hops: Sequence[str]) -> _Address | None:
        """The last hop that is no trusted proxy: what stands before it anybody may have written."""
        for hop in reversed(hops):
            address = _parse(hop.strip())
            if address is None or not self._trusts(address):
                return address
        return None

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    address = _parse(host)
    return host == "localhost" if address is None else address.is_loopback


def _parse(text: str) -> _Address | None:
    """With or without a port, brackets, zone; an IPv4 address in IPv6 clothes is one."""
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
    return str(ipaddress.ip_network((address, _IPV6_SITE), strict=False))
