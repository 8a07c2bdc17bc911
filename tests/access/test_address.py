"""Client addresses: X-Forwarded-For is used only from a trusted proxy."""

from __future__ import annotations

import tracemalloc

import pytest

from ptn_api.access.address import LONGEST_ADDRESS, ClientAddress, Proxies
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
        ("127.0.0.1", "127.0.0.1", ["x" * 20_000], ClientAddress("127.0.0.1", None)),
        ("127.0.0.1", "127.0.0.1", ["x" * 20_000 + ", 1.1.1.1"], ClientAddress("1.1.1.1", "1.1.1.1")),
    ],
)
def test_the_client_is_the_one_that_a_trusted_proxy_reports(
    trusted: str, peer: str, forwarded: list[str], expected: ClientAddress
) -> None:
    """The last hop that is not a trusted proxy. A loopback peer that is not a proxy is exempt from limits."""
    assert Proxies(trusted).client(peer, forwarded) == expected


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
def test_nothing_long_is_kept_of_a_header(trusted: str) -> None:
    """Neither from strangers nor of what a trusted proxy passes on."""
    proxies = Proxies(trusted)
    tracemalloc.start()
    try:
        for peer in ("9.9.9.9", "127.0.0.1"):
            for n in range(200):
                proxies.client(peer, [f"{n:020000d}", f"{n:020000d}, 1.1.1.1"])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000


def test_addresses_of_one_ipv6_site_share_a_group() -> None:
    """A client can choose its last 64 bits freely."""
    proxies = Proxies()
    assert proxies.client("2001:db8::1").group == proxies.client("2001:db8::2").group
    assert proxies.client("2001:db8::1").group != proxies.client("2001:db8:0:1::1").group


def test_a_malformed_proxy_is_an_error_that_names_the_flag() -> None:
    with pytest.raises(SettingsError, match=r"--trusted-proxies.*nonsense"):
        Proxies("127.0.0.1, nonsense")


def test_an_address_up_to_the_limit_is_read() -> None:
    """Longer text is no address: the proxy's own counts."""
    longest = "fe80::1%" + "x" * (LONGEST_ADDRESS - len("fe80::1%"))
    proxies = Proxies("127.0.0.1")
    assert proxies.client("127.0.0.1", [longest]).text == "fe80::1"
    assert proxies.client("127.0.0.1", [longest + "x"]).text == "127.0.0.1"
