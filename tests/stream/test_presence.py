"""Several processes of the stream share the limits of users and addresses.

Here they are streams in one process, connected by a network that can lose messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from ptn_api.access import Grant
from ptn_api.access.key_ring import fingerprint
from ptn_api.clock import monotonic_ms
from ptn_api.fanout.presence import Presence, UserPresence
from ptn_api.wire import close_codes
from tests.stream.live import KEY, Client, LiveStream, running, until


class Network:
    """The streams that are connected; `sent` has all messages, `heard` those that have arrived.

    While `loses`, none arrives; those in `deaf` get none.
    """

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.heard: list[bytes] = []
        self.repeats: Counter[str] = Counter()
        """How often each stream has sent its whole table."""
        self.loses = False
        self.deaf: set[str] = set()
        self.nodes: dict[str, Node] = {}

    def deliver(self, sender: str, receiver: Node, update: bytes) -> None:
        if sender in self.nodes:  # nothing of a process arrives after the news of its end
            receiver.receive(sender, update)
            self.heard.append(update)

    def end(self, name: str) -> None:
        del self.nodes[name]
        for node in self.nodes.values():
            node.gone(name)


class Node:
    """A stream's `Peers`."""

    def __init__(self, name: str, network: Network) -> None:
        self.name = name
        self._network = network

    def now_ms(self) -> int:
        return monotonic_ms()

    def publish(self, update: bytes) -> None:
        self._network.sent.append(update)
        self._network.repeats[self.name] += b'"whole":true' in update
        for node in list(self._network.nodes.values()):
            if node is not self and not self._network.loses and node.name not in self._network.deaf:
                asyncio.get_running_loop().call_soon(self._network.deliver, self.name, node, update)

    def listen(self, receive: Callable[[str, bytes], None], gone: Callable[[str], object]) -> None:
        self.receive, self.gone = receive, gone
        self._network.nodes[self.name] = self


class Streams:
    """Streams `a`, `b`, ... over one log."""

    def __init__(self, stack: contextlib.AsyncExitStack, **options: Any) -> None:
        self.network = Network()
        self.all: dict[str, LiveStream] = {}
        self._stack = stack
        self._options = options

    async def start(self, *names: str) -> None:
        for name in names:
            first = next(iter(self.all.values()), None)
            live = LiveStream(log=first and first.log, ready=first is None)
            peers = Node(name, self.network)
            self.all[name] = await self._stack.enter_async_context(
                running(live, peers=peers, **self._options)
            )

    async def connect(self, name: str, address: str = "") -> Client:
        headers = {"X-Forwarded-For": address} if address else {}
        return await self._stack.enter_async_context(self.all[name].client(additional_headers=headers))

    async def login(self, name: str, key: str = KEY, address: str = "") -> Client:
        client = await self.connect(name, address)
        assert (await client.login(key))["status"] == "success"
        return client

    def clients(self) -> int:
        return sum(live.counters.clients for live in self.all.values())

    async def settle(self) -> None:
        """Waits until the others know what each process knows now: each has repeated its table twice."""
        wanted = {name: count + 2 for name, count in self.network.repeats.items()}
        await until(lambda: all(self.network.repeats[name] >= count for name, count in wanted.items()))


@contextlib.asynccontextmanager
async def streams(*names: str, **options: Any) -> AsyncIterator[Streams]:
    async with contextlib.AsyncExitStack() as stack:
        started = Streams(stack, **{"presence_ms": 50} | options)
        await started.start(*names)
        yield started


async def test_the_oldest_connection_is_evicted_wherever_it_is() -> None:
    """With the same frame and close code as within one process; other users are unaffected."""
    async with streams("a", "b", "c", max_connections_per_key=3) as s:
        oldest = await s.login("a")
        bob = await s.login("a", "key-of-bob")
        second = await s.login("b")
        rest = [await s.login("c"), await s.login("c")]
        assert (await oldest.receive())["code"] == "MAX_CONNECTIONS_EXCEEDED"
        assert await oldest.close_code() == close_codes.REPLACED.code
        rest.append(await s.login("a"))
        assert await second.close_code() == close_codes.REPLACED.code
        await s.settle()
        assert s.clients() == 4
        for client in (bob, *rest):
            await client.send(type="ping", timestamp=1)
            assert (await client.receive())["type"] == "pong"


async def test_logins_at_the_same_moment_leave_the_newest() -> None:
    """In whatever order the processes learn of them, exactly the limit is left."""
    async with streams("a", "b", "c", max_connections_per_key=4, eviction_delay_ms=0) as s:
        connected = [await s.connect("abc"[n % 3]) for n in range(24)]
        await asyncio.gather(*(client.send(api_key=KEY) for client in connected))
        await until(lambda: sum(live.counters.logins for live in s.all.values()) == 24)
        await until(lambda: s.clients() == 4)
        await s.settle()
        assert s.clients() == 4
        assert sum(live.counters.evictions for live in s.all.values()) == 20


async def test_a_closed_connection_frees_its_slot_everywhere() -> None:
    """Nothing is evicted while the user stays within the limit."""
    async with streams("a", "b", max_connections_per_key=1) as s:
        for name in "abab":
            client = await s.login(name)
            await client.connection.close()
            await until(lambda: s.clients() == 0)
            await s.settle()
        assert [live.counters.evictions for live in s.all.values()] == [0, 0]


async def test_lost_messages_are_made_up_for() -> None:
    """By the table that every process repeats."""
    async with streams("a", "b", max_connections_per_key=1) as s:
        await s.settle()
        s.network.loses = True
        older = await s.login("a")
        newer = await s.login("b")
        await s.settle()
        assert s.clients() == 2
        s.network.loses = False
        assert await older.close_code() == close_codes.REPLACED.code
        s.network.loses = True
        await newer.connection.close()
        await until(lambda: s.clients() == 0)
        last = await s.login("a")
        s.network.loses = False
        await s.settle()
        await last.send(type="ping", timestamp=1)
        assert (await last.receive())["type"] == "pong"


async def test_a_process_that_hangs_locks_no_user_out() -> None:
    """The user may have the limit once more elsewhere. The process evicts its own when it is back."""
    async with streams("a", "b", max_connections_per_key=2, eviction_delay_ms=0) as s:
        old = [await s.login("a"), await s.login("a")]
        await s.settle()
        s.network.deaf = {"a"}
        newer = [await s.login("b") for _ in range(4)]
        for client in newer[:2]:
            assert await client.close_code() == close_codes.REPLACED.code
        await s.settle()
        assert s.clients() == 4
        s.network.deaf = set()
        for client in old:
            assert await client.close_code() == close_codes.REPLACED.code
        await s.settle()
        assert (s.all["a"].counters.clients, s.all["b"].counters.clients) == (0, 2)


async def test_a_new_process_learns_of_the_others_at_once() -> None:
    """Without waiting for the next repetition, and the others learn of it."""
    async with streams("a", max_connections_per_key=1, presence_ms=3_600_000) as s:
        older = await s.login("a")
        await s.start("b")
        newer = await s.login("b")
        assert await older.close_code() == close_codes.REPLACED.code
        await s.login("a")
        assert await newer.close_code() == close_codes.REPLACED.code


async def test_the_connections_of_a_process_that_ended_no_longer_count() -> None:
    """From the moment that it is reported, whatever its table was; it can come back."""
    async with streams("a", "b", max_connections_per_key=2, presence_ms=3_600_000) as s:
        await s.login("b")
        await s.login("b")
        users = lambda update: json.loads(update).get("users", {})  # noqa: E731
        await until(lambda: any(len(users(update).get("alice", [[]])[0]) == 2 for update in s.network.heard))
        s.network.end("b")
        kept = [await s.login("a"), await s.login("a")]
        assert s.all["a"].counters.evictions == 0
        await s.start("b")
        await s.login("b")
        assert await kept[0].close_code() == close_codes.REPLACED.code


async def test_a_limit_that_appears_applies_to_connections_everywhere() -> None:
    """Connections of a user without a limit are not even announced."""
    async with streams("a", "b") as s:
        grant = Grant("entity", "key-of-entity", 200)
        for live in s.all.values():
            live.keys.replace([grant])
        clients = [await s.login("abab"[n], "key-of-entity") for n in range(4)]
        await s.settle()
        assert s.clients() == 4
        assert not any(b"entity" in message for message in s.network.sent)
        for live in s.all.values():
            live.keys.replace([grant._replace(max_connections=1)])
        for client in clients[:3]:
            assert await client.close_code() == close_codes.REPLACED.code
        await s.settle()
        assert s.clients() == 1


async def test_evictions_anywhere_delay_logins_everywhere() -> None:
    """As many waiting logins of a user are allowed in all processes together as in one."""
    async with streams("a", "b", max_connections_per_key=1, eviction_delay_ms=60_000) as s:
        for name in "abab":
            await s.login(name)
            await s.settle()
        assert sum(live.counters.evictions for live in s.all.values()) == 3
        for n in range(10):
            await (await s.connect("ab"[n % 2])).send(api_key=KEY)
            await s.settle()
        assert s.clients() == 1
        for name in "ab":
            late = await s.connect(name)
            await late.send(api_key=KEY)
            assert await late.close_code() == close_codes.TOO_MANY_REQUESTS.code
        other = await s.login("a", "key-of-bob")
        await other.send(type="ping", timestamp=1)


async def test_failed_logins_of_an_address_count_together() -> None:
    """Not N times as many in N processes. Keys that logged in from there anywhere are exempt everywhere."""
    options = {"trusted_proxies": "127.0.0.1", "failed_logins_per_minute": 3}
    async with streams("a", "b", **options) as s:
        await s.login("a", KEY, "1.1.1.1")
        for name in "aba":
            guess = await s.connect(name, "1.1.1.1")
            assert (await guess.login("guessed"))["status"] == "error"
            await s.settle()
        for name in "ab":
            guess = await s.connect(name, "1.1.1.1")
            await guess.send(api_key="key-of-bob")
            assert await guess.close_code() == close_codes.TOO_MANY_REQUESTS.code
            await s.login(name, KEY, "1.1.1.1")
            await s.login(name, "key-of-bob", "2.2.2.2")


async def test_first_frames_that_are_no_login_count_together() -> None:
    """As failed logins."""
    options = {"trusted_proxies": "127.0.0.1", "failed_logins_per_minute": 2}
    async with streams("a", "b", **options) as s:
        for name in "ab":
            stranger = await s.connect(name, "1.1.1.1")
            await stranger.connection.send("nonsense")
            assert await stranger.close_code() == close_codes.BAD_FIRST_FRAME.code
            await s.settle()
        client = await s.connect("a", "1.1.1.1")
        await client.send(api_key=KEY)
        assert await client.close_code() == close_codes.TOO_MANY_REQUESTS.code


async def test_connects_of_an_address_count_together() -> None:
    """A refused one does not count, as within one process."""
    options = {"trusted_proxies": "127.0.0.1", "connects_per_minute": 4}
    async with streams("a", "b", **options) as s:
        for name in "abab":
            await s.login(name, KEY, "1.1.1.1")
            await s.settle()
        for name in "abab":
            refused = await s.connect(name, "1.1.1.1")
            assert await refused.close_code() == close_codes.TOO_MANY_REQUESTS.code
        await s.login("a", KEY, "2.2.2.2")


async def test_messages_have_no_keys_in_them() -> None:
    """Only aliases, fingerprints, addresses, times and counts."""
    async with streams("a", "b", trusted_proxies="127.0.0.1") as s:
        await s.login("a", KEY, "1.1.1.1")
        guess = await s.connect("b", "1.1.1.1")
        assert (await guess.login("guessed-key"))["status"] == "error"
        await s.settle()
        text = b"".join(s.network.sent)
        assert b"alice" in text
        assert fingerprint(KEY).encode() in text
        assert b"1.1.1.1" in text
        assert KEY.encode() not in text
        assert b"guessed" not in text


async def test_a_message_that_cannot_be_read_is_skipped() -> None:
    """As from another version: it is logged, and the stream goes on."""
    async with streams("a", "b", max_connections_per_key=1) as s:
        older = await s.login("a")
        with structlog.testing.capture_logs() as logs:
            deep = b'{"more":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
            for nonsense in (b"", b"{}x", b'{"users":7}', b'{"events":[["unknown","a",""]]}', deep):
                s.network.nodes["a"].receive("c", nonsense)
        assert [line["event"] for line in logs] == ["presence_malformed"] * 5
        await s.login("b")
        assert await older.close_code() == close_codes.REPLACED.code


async def test_a_process_that_falls_silent_is_forgotten() -> None:
    """As on a machine that died, whose end nobody reports. One that has no news repeats its table."""
    async with streams("a", "b", "c", max_connections_per_key=2) as s:
        await s.login("b")
        await s.login("c")
        await s.settle()
        del s.network.nodes["b"]
        silent = s.network.repeats["a"]
        await until(lambda: s.network.repeats["a"] > silent + 6)
        await s.login("a")
        await s.settle()
        assert sum(live.counters.evictions for live in s.all.values()) == 0
        await s.login("a")
        await until(lambda: s.all["c"].counters.evictions == 1)


async def test_a_large_table_fits_into_messages() -> None:
    """Of 1 MiB between machines; a larger one would be dropped, and its users counted nowhere else."""
    network = Network()
    sender, receiver = (Presence(Node(name, network)) for name in "ab")
    users = {f"{n:0200}": UserPresence([n]) for n in range(10_000)}
    for alias, user in users.items():
        sender.set_user(alias, user)
    await until(lambda: bool(network.sent))  # the changes, which come in a few at a time with real logins
    receiver._forget("a")
    network.sent.clear()
    repeating = asyncio.create_task(sender.repeat(3_600_000))
    await until(lambda: all(receiver.logins(alias) for alias in users))
    repeating.cancel()
    assert max(map(len, network.sent)) < 1 << 19
    assert network.repeats["a"] == 1
