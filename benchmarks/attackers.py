"""The attacks of `python -m benchmarks attacks`, and the process that runs one of them.

To add one, write `async def attack_x(target: Target) -> None`, which attacks until `target.over`, and add a
row to ATTACKS. Every attack is bounded in time, and in the number of its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import socket
import ssl
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from benchmarks.machine import many_files
from ptn_api.access.key_ring import digest_of
from tests import factories
from tests.hostile.raw import UPGRADE, deflated, frame

__all__ = ["ATTACKS", "Attack", "Target"]


class Target(msgspec.Struct):
    """What an attack may use: addresses, the attacker's key, files, the log's epoch, and when to end."""

    rest: str
    stream: str
    authority: str
    """The certificate authority of a server with TLS."""
    keys: list[str]
    """One for each window."""
    epoch: str
    oldest: int
    """The oldest sequence of the log."""
    key_file: str
    validator: str
    seconds: float
    share: float = 1
    """The share of the usual number of connections to open."""
    key: str = ""
    began: float = 0
    outcomes: dict[str, int] = {}
    """What became of the attacker's requests: HTTP statuses, close codes, and the kinds of errors."""

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    @property
    def left_s(self) -> float:
        return self.began + self.seconds - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left_s <= 0

    @contextlib.asynccontextmanager
    async def connection(
        self, url: str, read_bytes: int = 1 << 18
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        parts = urlsplit(url)
        tls = ssl.create_default_context(cafile=self.authority) if self.authority else None
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=tls, limit=read_bytes)
        # A reset instead of TIME_WAIT, which would leave no ports for the victim.
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def get(self, path: str, *headers: str, method: str = "GET") -> bytes:
        lines = (
            f"{method} {path} HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {self.key}",
            *headers,
            "",
            "",
        )
        return "\r\n".join(lines).encode()


async def _all(
    target: Target, connections: int, one: Callable[[int], Awaitable[object]], *, pause_s: float = 0
) -> None:
    """Runs that many of `one` side by side, each again as soon as it has ended, until time is up."""

    async def repeated(number: int) -> None:
        while not target.over:
            try:
                await one(number)
                await asyncio.sleep(pause_s)
            except (OSError, EOFError, ValueError, IndexError) as error:
                target.count(type(error).__name__)
                await asyncio.sleep(0.1)

    connections = max(2, round(connections * target.share))
    tasks = [asyncio.create_task(repeated(number)) for number in range(connections)]
    await asyncio.wait(tasks, timeout=max(0.0, target.left_s))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- REST -------------------------------------------------------------------------------------------------

_FILTERS = ("trade_pair=BTCUSD", "trade_pair=BTCUSD,ETHUSD,EURUSD", "status=closed", "status=open")
_FILTERED = [f"/miner-positions?tier=0&{query}" for query in _FILTERS]


async def attack_filters(target: Target) -> None:
    """300 connections that request filtered documents, uncompressed and compressed"""
    await _requests(target, _FILTERED, connections=300)


async def attack_slow_filters(target: Target) -> None:
    """300 connections that request filtered documents and read 8 KB/s each"""
    await _requests(target, _FILTERED[2:3], connections=300, read_bytes=8_192, pause_s=1)


async def attack_since(target: Target) -> None:
    """60 mirrors that request all changes since the log's start"""
    await _requests(target, [f"/miner-positions?since={target.epoch}:0"], connections=60)


async def attack_messages(target: Target) -> None:
    """60 clients that read the log from its start, with a filter that matches little"""
    path = f"/messages?after={target.oldest - 1}&limit=10000&trade_pair=EURUSD"
    await _requests(target, [path], connections=60)


async def attack_checkpoint(target: Target) -> None:
    """60 downloads of the checkpoint, uncompressed"""
    await _requests(target, ["/validator-checkpoint"], connections=60, codings=["identity"])


async def attack_downloads(target: Target) -> None:
    """100 downloads of the complete document, uncompressed and compressed"""
    await _requests(target, ["/miner-positions"], connections=100)


async def attack_slow_downloads(target: Target) -> None:
    """300 downloads of the complete document that read 8 KB/s each"""
    await _requests(target, ["/miner-positions?tier=0"], connections=300, read_bytes=8_192, pause_s=1)


async def attack_pipelined(target: Target) -> None:
    """50 connections with 64 pipelined requests at a time"""
    requests = target.get("/me") * 64

    async def one(_: int) -> None:
        async with target.connection(target.rest) as (reader, writer):
            while not target.over:
                writer.write(requests)
                answers = 0
                while answers < 64:
                    data = await reader.read(1 << 16)
                    if not data:
                        raise EOFError
                    answers += data.count(b"HTTP/1.1 ")
                target.count("rounds")

    await _all(target, 50, one)


async def attack_unread(target: Target) -> None:
    """50 connections that pipeline requests and read no response"""

    async def one(_: int) -> None:
        async with target.connection(target.rest) as (_, writer):
            writer.write(target.get("/openapi.json") * 2_000)
            await asyncio.sleep(max(0.0, target.left_s))

    await _all(target, 50, one)


async def attack_not_modified(target: Target) -> None:
    """50 connections that request what has not changed (304)"""
    tags = {}
    for path in ("/miner-positions?tier=0", "/statistics", "/eliminations"):
        async with target.connection(target.rest) as (reader, writer):
            writer.write(target.get(path, "Connection: close", method="HEAD"))
            head = (await reader.read(1 << 16)).decode().lower().splitlines()
        tags[path] = next((line.partition(":")[2] for line in head if line.startswith("etag:")), '"x"')
    requests = [target.get(path, f"If-None-Match: {tag}") for path, tag in tags.items()]
    await _kept(target, requests, connections=50)


async def attack_head(target: Target) -> None:
    """50 connections that send HEAD for documents and filters"""
    paths = ["/miner-positions", "/validator-checkpoint", *_FILTERED]
    await _kept(target, [target.get(path, method="HEAD") for path in paths], connections=50)


async def attack_bad_keys(target: Target) -> None:
    """50 connections that try one unknown key after the other"""

    async def one(_: int) -> None:
        async with target.connection(target.rest) as (reader, writer):
            while not target.over:
                key = secrets.token_urlsafe(32)
                writer.write(f"GET /me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
                target.count(await _answered(reader))

    await _all(target, 50, one)


async def attack_malformed(target: Target) -> None:
    """50 clients that send malformed requests, each on a new connection, on both ports"""
    texts = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        UPGRADE + b"X: \xff\xfe\r\n\r\n",
        UPGRADE.replace(b"dGhl", b"????") + b"\r\n",
        UPGRADE + b"X: " + b"x" * 100_000,
        b"\0" * 5_000,
    ]

    async def one(number: int) -> None:
        text = texts[secrets.randbelow(len(texts))]
        async with target.connection((target.rest, target.stream)[number % 2]) as (reader, writer):
            writer.write(text)
            writer.transport.set_write_buffer_limits(0)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(1 << 16), 0.5)
            target.count("sent")

    await _all(target, 50, one)


async def _requests(
    target: Target,
    paths: list[str],
    *,
    connections: int,
    codings: tuple[str, ...] | list[str] = ("identity", "gzip"),
    read_bytes: int = 1 << 18,
    pause_s: float = 0,
) -> None:
    """Requests the paths in turn over that many connections, each again as soon as it is answered."""

    async def one(number: int) -> None:
        path, coding = paths[number % len(paths)], codings[number // len(paths) % len(codings)]
        async with target.connection(target.rest, read_bytes) as (reader, writer):
            writer.write(target.get(path, "Connection: close", f"Accept-Encoding: {coding}"))
            code = await _status(reader)
            target.count(code)
            while await reader.read(read_bytes):
                await asyncio.sleep(pause_s)
        await asyncio.sleep(0.2 if code != "200" else 0)

    await _all(target, connections, one)


async def _kept(target: Target, requests: list[bytes], *, connections: int) -> None:
    """Sends requests whose responses have no body on that many connections."""

    async def one(number: int) -> None:
        async with target.connection(target.rest) as (reader, writer):
            while not target.over:
                number += 1
                writer.write(requests[number % len(requests)])
                target.count(await _answered(reader, body=b"HEAD" not in requests[0]))

    await _all(target, connections, one)


async def _status(reader: asyncio.StreamReader) -> str:
    line = await reader.readline()
    if not line:
        raise EOFError
    return line.split()[1].decode()


async def _answered(reader: asyncio.StreamReader, *, body: bool = True) -> str:
    """Reads a response with a length; returns its status."""
    status = await _status(reader)
    size = 0
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.lower().partition(b":")
        size = int(value) if name == b"content-length" else size
    if body and status != "304":
        await reader.readexactly(size)
    return status


# --- both -------------------------------------------------------------------------------------------------


async def attack_connects(target: Target) -> None:
    """200 clients that open connections to both ports and reset them"""

    async def one(number: int) -> None:
        async with target.connection((target.rest, target.stream)[number % 2]) as (_, writer):
            writer.write(b"GET / HTTP/1.1\r\n" if number % 4 < 2 else b"")
        target.count("opened")

    await _all(target, 200, one)


async def attack_half_open(target: Target) -> None:
    """600 connections to each port at once, as an address may open in a minute, that send half a line"""
    await _half_open(target, 1_200)


async def attack_half_open_flood(target: Target) -> None:
    """5,000 connections to each port at once, from many addresses, that send half a line"""
    await _half_open(target, 10_000)


async def _half_open(target: Target, connections: int) -> None:
    async def one(number: int) -> None:
        async with target.connection((target.rest, target.stream)[number % 2]) as (reader, writer):
            target.count("opened")
            writer.write(b"GET / HTTP/1.1\r\nHo")
            await reader.read(1)  # until the server closes

    await _all(target, connections, one)


async def attack_tls(target: Target) -> None:
    """200 clients that begin TLS handshakes on both ports, or complete them and leave"""

    async def one(number: int) -> None:
        url = (target.rest, target.stream)[number % 2]
        if number % 4 < 2:
            parts = urlsplit(url)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))
                target.count("begun")
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.2)
            finally:
                writer.transport.abort()
        else:
            async with target.connection(url):
                target.count("completed")

    await _all(target, 200, one)


# --- the stream -------------------------------------------------------------------------------------------

_DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


@contextlib.asynccontextmanager
async def _upgraded(
    target: Target, more: bytes = b""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with target.connection(target.stream) as (reader, writer):
        writer.write(UPGRADE + more + b"\r\n")
        target.count((await reader.readuntil(b"\r\n\r\n")).split()[1].decode())
        yield reader, writer


def _login(target: Target, **fields: object) -> bytes:
    return frame(msgspec.json.encode({"api_key": target.key, **fields}))


async def _until_closed(reader: asyncio.StreamReader) -> None:
    """Reads up to the server's close frame, which a malicious client does not answer, or the end."""
    while (data := await reader.read(1 << 18)) and b"\x88" not in data:
        pass


async def attack_bombs(target: Target) -> None:
    """50 strangers whose first frame of 1 KB inflates to a megabyte of nested lists"""
    bomb = frame(deflated(b'{"a":[' + b"[]," * 349_000 + b"[]]}"), first=0xC1)

    async def one(_: int) -> None:
        async with _upgraded(target, _DEFLATE) as (reader, writer):
            writer.write(bomb)
            await _until_closed(reader)

    await _all(target, 50, one)


async def attack_unfinished(target: Target) -> None:
    """400 strangers that send most of a frame of a megabyte"""
    part = frame(b"x" * 300_000, claimed=1 << 20)

    async def one(_: int) -> None:
        async with _upgraded(target) as (reader, writer):
            writer.write(part)
            await _until_closed(reader)

    await _all(target, 400, one)


async def attack_fragments(target: Target) -> None:
    """50 strangers that send one message in thousands of tiny fragments"""
    part = frame(b"", first=0x00) * 1_000

    async def one(_: int) -> None:
        async with _upgraded(target) as (_, writer):
            writer.write(frame(b"{", first=0x01))
            while not target.over and not writer.is_closing():
                writer.write(part)
                await writer.drain()

    await _all(target, 50, one)


async def attack_bad_logins(target: Target) -> None:
    """50 strangers that log in with unknown keys"""

    async def one(_: int) -> None:
        async with _upgraded(target) as (reader, writer):
            writer.write(frame(msgspec.json.encode({"api_key": secrets.token_urlsafe(32)})))
            await _until_closed(reader)

    await _all(target, 50, one)


async def attack_waiting_logins(target: Target) -> None:
    """200 connections of one user, which evict each other and wait for their delay"""

    async def one(_: int) -> None:
        async with _upgraded(target) as (reader, writer):
            writer.write(_login(target))
            await _until_closed(reader)

    await _all(target, 200, one)


async def attack_subscribes(target: Target) -> None:
    """5 connections of one user that subscribe again and again with 2,048 names"""
    names = [f"5{number:047d}" for number in range(2_048)]
    subscribe = frame(msgspec.json.encode({"type": "subscribe", "all": True, "miners": names}))
    await _flood(target, subscribe, connections=5)


async def attack_frames(target: Target) -> None:
    """5 connections of one user that send pings and WebSocket pings as fast as they can"""
    pings = frame(b'{"type":"ping","timestamp":1}') * 200 + frame(b"x" * 125, first=0x89) * 200
    await _flood(target, pings, connections=5)


async def _flood(target: Target, data: bytes, *, connections: int) -> None:
    async def one(_: int) -> None:
        async with _upgraded(target) as (reader, writer):
            writer.write(_login(target, version=2))
            reading = asyncio.create_task(_until_closed(reader))
            try:
                while not target.over and not reading.done():
                    writer.write(data)
                    await writer.drain()
                    await asyncio.sleep(0.001)
            finally:
                reading.cancel()

    await _all(target, connections, one)


async def attack_replays(target: Target) -> None:
    """5 connections of one user that resume from the log's start, read it and begin again"""
    await _resume(target, connections=5, pause_s=0)


async def attack_unread_replays(target: Target) -> None:
    """5 connections of one user that resume from the log's start and read 8 KB/s"""
    await _resume(target, connections=5, pause_s=1)


async def _resume(target: Target, *, connections: int, pause_s: float) -> None:
    login = _login(target, version=2, epoch=target.epoch, last_sequence=target.oldest - 1)

    async def one(_: int) -> None:
        async with _upgraded(target) as (reader, writer):
            writer.write(login + frame(b'{"type":"subscribe","all":true}'))
            silent = False
            while not target.over and not silent:
                try:
                    data = await asyncio.wait_for(reader.read(8_192 if pause_s else 1 << 18), 0.3)
                except asyncio.TimeoutError:
                    silent = not pause_s  # all that there was
                    continue
                if not data:
                    break
                await asyncio.sleep(pause_s)
            target.count("resumed")

    await _all(target, connections, one)


# --- the operator's side ----------------------------------------------------------------------------------


async def attack_key_file(target: Target) -> None:
    """A key file of 10,000 more entries that is replaced ten times a second"""
    path = Path(target.key_file)
    before = path.read_bytes()
    entries = json.loads(before)
    try:
        while not target.over:
            for number in range(10_000):
                digest = digest_of(f"{number} {target.left_s}").hex()
                entries[f"other-{number}"] = {"key_sha256": digest, "tier": number % 2 * 100}
            _replace(path, json.dumps(entries).encode())
            target.count("replaced")
            await asyncio.sleep(0.1)
    finally:
        _replace(path, before)


async def attack_files(target: Target) -> None:
    """Malformed, deep, huge and unreadable position files, twenty a second"""
    from tests.hostile.test_files import BODIES

    folder = Path(target.validator, "validation", "miners", factories.MINER, "positions", "BTCUSD", "open")
    folder.mkdir(parents=True, exist_ok=True)
    written: set[Path] = set()
    try:
        while not target.over:
            for name, body in BODIES.items():
                path = folder / f"hostile-{name}"
                written.add(path)
                _replace(path, body)
                target.count("written")
                await asyncio.sleep(0.05)
                if target.over:
                    break
    finally:
        for path in written:
            path.unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.touch(0o600)
    temporary.write_bytes(content)
    os.replace(temporary, path)


# --- the table --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Attack:
    """A row of the table. `tier` is the attacker's.

    Those with `files`, a limit of open files, or `tls` need a server of their own.
    """

    run: Callable[[Target], Awaitable[None]]
    tier: int = 100
    files: int = 0
    tls: bool = False

    @property
    def description(self) -> str:
        return (self.run.__doc__ or "") + (f", {self.files:,} files" if self.files else "")


ATTACKS: dict[str, Attack] = {
    "filters": Attack(attack_filters, tier=0),
    "slow-filters": Attack(attack_slow_filters, tier=0),
    "since": Attack(attack_since),
    "messages": Attack(attack_messages),
    "checkpoint": Attack(attack_checkpoint),
    "downloads": Attack(attack_downloads),
    "slow-downloads": Attack(attack_slow_downloads, tier=0),
    "pipelined": Attack(attack_pipelined),
    "unread": Attack(attack_unread),
    "not-modified": Attack(attack_not_modified),
    "head": Attack(attack_head),
    "bad-keys": Attack(attack_bad_keys),
    "malformed": Attack(attack_malformed),
    "connects": Attack(attack_connects),
    "half-open": Attack(attack_half_open),
    "half-open-flood": Attack(attack_half_open_flood),
    "bombs": Attack(attack_bombs),
    "unfinished": Attack(attack_unfinished),
    "fragments": Attack(attack_fragments),
    "bad-logins": Attack(attack_bad_logins),
    "waiting-logins": Attack(attack_waiting_logins),
    "subscribes": Attack(attack_subscribes),
    "frames": Attack(attack_frames),
    "replays": Attack(attack_replays),
    "unread-replays": Attack(attack_unread_replays),
    "key-file": Attack(attack_key_file),
    "files": Attack(attack_files),
    "tls": Attack(attack_tls, tls=True),
    "connects-64-files": Attack(attack_connects, files=64),
    "half-open-64-files": Attack(attack_half_open, files=64),
    "half-open-1024-files": Attack(attack_half_open, files=1_024),
}


def _main(name: str) -> None:
    """The attacker's process: attacks once for each line of its input, and prints the outcomes."""
    many_files()
    target = msgspec.json.decode(sys.stdin.readline(), type=Target)
    for key in target.keys:
        print("ready", flush=True)
        if not sys.stdin.readline():
            return
        target.key, target.began, target.outcomes = key, time.monotonic(), {}
        asyncio.run(ATTACKS[name].run(target))  # type: ignore[arg-type]
        print(msgspec.json.encode(target.outcomes).decode(), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
