"""For the tests of whoever builds on this library: a server in the test's own process.

from ptn_api.client.testing import FakeServer, quick_pace


def test_my_bot_survives_a_cut(tmp_path):
    def script(server):  # runs once a client follows
        server.order("BTCUSD", leverage=0.1)
        server.cut()
        server.order("ETHUSD")

    with FakeServer(script=script) as server:
        orders = follow(server.url, server.api_key, state_dir=tmp_path, pace=quick_pace())
        assert [next(orders).new_order.trade_pair for _ in range(2)] == ["BTCUSD", "ETHUSD"]

It speaks the real protocol on a free port of localhost, and is held to the same tests as the real server.
"""

from __future__ import annotations

from ptn_api.client.fake_positions import fake_order, fake_position
from ptn_api.client.fake_server import FakeServer
from ptn_api.client.pace import Pace

__all__ = ["FakeServer", "fake_order", "fake_position", "quick_pace"]


def quick_pace() -> Pace:
    """A client's periods, short enough for tests: it is back within a tenth of a second."""
    return Pace(
        connect=5.0,
        close=0.2,
        tick=0.02,
        backoff=0.02,
        backoff_max=0.1,
        eviction=0.05,
        refused=0.05,
        retry=0.01,
        settled=0.5,
    )
