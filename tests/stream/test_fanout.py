"""The fan-out: shared bytes, counters, congestion."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from ptn_api.event_log.contract import Event
from ptn_api.fanout.counters import StreamCounters
from ptn_api.fanout.groups import SubscriberGroups
from ptn_api.stream.framing import SocketFraming
from ptn_api.wire.client_frames import Subscription
from tests.factories import T0, order, position, written
from tests.memory_log import MemoryLog


class Client:
    """A subscriber that keeps what is written."""

    framing = SocketFraming(deflate=False)

    def __init__(self, subscription: Subscription | None = None) -> None:
        self.subscription = subscription or Subscription()
        self.got: list[bytes] = []
        self.counted = (0, 0)
        self.checked = 0

    @property
    def write(self) -> Callable[[bytes], None]:
        return self.got.append

    def count_sent(self, messages: int, sent_bytes: int) -> None:
        self.counted = (self.counted[0] + messages, self.counted[1] + sent_bytes)

    def check_buffer(self) -> None:
        self.checked += 1

    @property
    def size(self) -> int:
        return sum(map(len, self.got))


class Market:
    """A source of orders."""

    def __init__(self) -> None:
        self._log = MemoryLog(created_ms=T0)
        self._log.baseline([], T0)
        self._numbers = count(1)

    def orders(self, amount: int) -> list[Event]:
        after = self._log.head().sequence
        for number in (next(self._numbers) for _ in range(amount)):
            self._log.append([written(position(number, [order(number)]))], T0)
        return self._log.read(after, amount)


def test_equal_subscriptions_share_one_bytes_object() -> None:
    """A thousand clients that do not read cost the memory of one."""
    groups, market = SubscriberGroups(StreamCounters()), Market()
    clients = [Client() for _ in range(3)]
    for client in clients:
        groups.join(client)
    groups.send_orders(market.orders(1), 0)
    assert clients[0].got[0] is clients[1].got[0] is clients[2].got[0]


def test_each_subscriber_is_counted_what_it_was_sent() -> None:
    """Also when subscribers join, leave and change their subscription in between."""
    counters = StreamCounters()
    groups, market = SubscriberGroups(counters), Market()
    first, second = Client(), Client()
    groups.join(first)
    groups.send_orders(market.orders(2), 0)
    groups.join(second)
    groups.send_orders(market.orders(3), 0)
    groups.update_counts(first)
    assert first.counted == (5, first.size)
    first.subscription = Subscription(version=2, miners=frozenset(["nobody"]))
    groups.join(first)
    groups.send_orders(market.orders(4), 0)
    groups.leave(second)
    groups.leave(first)
    groups.send_orders(market.orders(5), 0)
    groups.update_counts(second)
    assert first.counted == (5, first.size)
    assert second.counted == (7, second.size)
    assert counters.deliveries == 12
    assert counters.sent_bytes == first.size + second.size


def test_only_live_congested_subscribers_are_checked() -> None:
    groups, market = SubscriberGroups(StreamCounters()), Market()
    slow, fast, replaying = Client(), Client(), Client()
    groups.join(slow)
    groups.join(fast)
    groups.congested(slow)
    groups.congested(replaying)
    groups.send_orders(market.orders(1), 0)
    groups.drained(slow)
    groups.send_orders(market.orders(1), 0)
    assert (slow.checked, fast.checked, replaying.checked) == (1, 0, 0)


def test_a_full_buffer_closes_a_subscriber_after_all_writes() -> None:
    """Its group disappears, and every other subscriber is sent the same orders."""
    groups, market = SubscriberGroups(StreamCounters()), Market()

    class Full(Client):
        @property
        def write(self) -> Callable[[bytes], None]:
            def write(data: bytes) -> None:
                self.got.append(data)
                groups.congested(self)

            return write

        def check_buffer(self) -> None:
            groups.leave(self)

    full, other = Full(), Client(Subscription(version=2, updates=True))
    groups.join(full)
    groups.join(other)
    groups.send_orders(market.orders(1), 0)
    groups.send_orders(market.orders(1), 0)
    assert (len(full.got), len(other.got)) == (1, 2)
