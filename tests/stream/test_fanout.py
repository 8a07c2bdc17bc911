"""Who is sent what, at what price, and how it is counted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from ptn_api.event_log.contract import Event
from ptn_api.stream.counters import StreamCounters
from ptn_api.stream.fanout import Audience
from ptn_api.wire.client_frames import Subscription
from tests.factories import T0, order, position, written
from tests.memory_log import MemoryLog


class Client:
    """Keeps what it is sent."""

    deflate = False

    def __init__(self, subscription: Subscription | None = None) -> None:
        self.subscription = subscription or Subscription()
        self.got: list[bytes] = []
        self.credited = (0, 0)
        self.checked = 0

    @property
    def send(self) -> Callable[[bytes], None]:
        return self.got.append

    def credit(self, messages: int, sent_bytes: int) -> None:
        self.credited = (self.credited[0] + messages, self.credited[1] + sent_bytes)

    def check_buffer(self) -> None:
        self.checked += 1

    @property
    def size(self) -> int:
        return sum(map(len, self.got))


class Market:
    """Orders of a log, as many as asked for."""

    def __init__(self) -> None:
        self._log = MemoryLog(created_ms=T0)
        self._log.baseline([], T0)
        self._numbers = count(1)

    def orders(self, amount: int) -> list[Event]:
        after = self._log.head().sequence
        for number in (next(self._numbers) for _ in range(amount)):
            self._log.append([written(position(number, [order(number)]))], T0)
        return self._log.read(after, amount)


def test_everybody_with_the_same_subscription_is_sent_the_same_bytes_object() -> None:
    """What a thousand do not read costs the memory of one."""
    audience, market = Audience(StreamCounters()), Market()
    clients = [Client() for _ in range(3)]
    for client in clients:
        audience.join(client)
    audience.send_orders(market.orders(1))
    assert clients[0].got[0] is clients[1].got[0] is clients[2].got[0]


def test_each_is_credited_with_what_it_was_sent_and_nothing_else() -> None:
    """However members come, go and change their subscription, and whenever somebody asks."""
    counters = StreamCounters()
    audience, market = Audience(counters), Market()
    first, second = Client(), Client()
    audience.join(first)
    audience.send_orders(market.orders(2))
    audience.join(second)
    audience.send_orders(market.orders(3))
    audience.credit(first)
    assert first.credited == (5, first.size)
    first.subscription = Subscription(version=2, miners=frozenset(["nobody"]))
    audience.join(first)
    audience.send_orders(market.orders(4))
    audience.leave(second)
    audience.leave(first)
    audience.send_orders(market.orders(5))
    audience.credit(second)
    assert first.credited == (5, first.size)
    assert second.credited == (7, second.size)
    assert counters.deliveries == 12
    assert counters.sent_bytes == first.size + second.size


def test_only_the_congested_are_looked_at_and_only_while_they_are_live() -> None:
    audience, market = Audience(StreamCounters()), Market()
    slow, fast, replaying = Client(), Client(), Client()
    audience.join(slow)
    audience.join(fast)
    audience.congested(slow)
    audience.congested(replaying)
    audience.send_orders(market.orders(1))
    audience.flowing(slow)
    audience.send_orders(market.orders(1))
    assert (slow.checked, fast.checked, replaying.checked) == (1, 0, 0)
