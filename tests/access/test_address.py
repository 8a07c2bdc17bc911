"""Client addresses: X-Forwarded-For is used only from a trusted proxy."""

from __future__ import annotations

import tracemalloc

import pytest

from ptn_api.access.address import ClientAddress, Proxies
from ptn_api.errors import SettingsError


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "expected"),
    [
        ("", "9.9.9.9", [], ClientAddress("9.9.9.9", "9.9.9.9")),
        ("", "9.9.9.9", ["1.1.1.1"], ClientAddress("9.9.9.9", "9.9.9.9")),
        ("", "127.0.0.1", ["1.1.1.1"], ClientAddress("127.0.0.1", None)),
        ("", "::1", [], ClientAddress("::1", None)),
        ("127.0.0.1", "127.0.0.1", ["1.1.1.1"], ClientAddress("1.1.1.1", "1.1.1.1")),
        ("127.0.0.1", "127.0.0.1", [], ClientAddress("127.0.0.1", None)),
        ("127.0.0.1", "127.0.0.1", ["not an address"], ClientAddress("127.0.0.1", None)),
        ("127.0.0.1", "127.0.0.1", ["6.6.6.6, 1.1.1.1"], ClientAddress("1.1.1.1", "1.1.1.1")),
        ("127.0.0.1,10.0.0.0/8", "127.0.0.1", ["1.1.1.1, 10.2.3.4"], ClientAddress("1.1.1.1", "1.1.1.1")),
        ("127.0.0.1 10.0.0.0/8", "127.0.0.1", ["1.1.1.1", "10.9.9.9"], ClientAddress("1.1.1.1", "1.1.1.1")),
        ("127.0.0.1", "127.0.0.1", ["1.1.1.1:4711"], ClientAddress("1.1.1.1", "1.1.1.1")),
        ("127.0.0.1", "127.0.0.1", ["[2001:db8::7]:80"], ClientAddress("2001:db8::7", "2001:db8::/64")),
        ("", "::ffff:9.9.9.9", [], ClientAddress("::ffff:9.9.9.9", "9.9.9.9")),
        ("", "fe80::1%eth0", [], ClientAddress("fe80::1%eth0", "fe80::/64")),
        ("", "", [], ClientAddress("", None)),
    ],
)
def test_the_client_is_the_one_that_a_trusted_proxy_reports(
    trusted: str, peer: str, forwarded: list[str], expected: ClientAddress
) -> None:
    """The last hop that is not a trusted proxy. A loopback peer that is not a proxy is exempt from limits."""
    assert Proxies(trusted).client(peer, forwarded) == expected


def test_addresses_of_one_ipv6_site_share_a_group() -> None:
    """A client can choose its last 64 bits freely."""
    proxies = Proxies()
    assert proxies.client("2001:db8::1").group == proxies.client("2001:db8::2").group
    assert proxies.client("2001:db8::1").group != proxies.client("2001:db8:0:1::1").group


def test_a_malformed_proxy_is_an_error_that_names_the_flag() -> None:
    with pytest.raises(SettingsError, match=r"--trusted-proxies.*nonsense"):
        Proxies("127.0.0.1, nonsense")


@pytest.mark.parametrize("trusted", ["", "10.0.0.0/8"])
@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.1"])
def test_nothing_is_kept_of_long_headers(trusted: str, peer: str) -> None:
    """Clients write what they like into X-Forwarded-For; the hop that a proxy adds at its end counts."""
    proxies = Proxies(trusted)
    tracemalloc.start()
    try:
        for n in range(500):
            for long in (f"{n}," * 5_000, f"{n}" * 5_000 + ",", "10.0.0.2," * 4_000 + f"{n},"):
                client = proxies.client(peer, [long + "192.0.2.7"])
                assert client.text == ("192.0.2.7" if trusted and peer == "10.0.0.1" else peer)
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
