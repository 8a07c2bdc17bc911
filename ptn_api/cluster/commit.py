"""A commit as it travels: the rows that one transaction wrote, by table, in entries of limited size.

The rows are encoded table by table, compressed as one stream and cut into parts, so a row may be larger than
an entry. An order is one entry of about 1 KiB; compression halves it in a few microseconds.

A copy stops at an entry that it cannot understand instead of skipping it: a commit that counts elsewhere must
not be missing here.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
import zstandard

from ptn_api.cluster.broker import PART_BYTES
from ptn_api.cluster.chain import Link
from ptn_api.errors import BrokerError, LogUnusableError
from ptn_api.event_log.schema import SCHEMA_VERSION

__all__ = ["Part", "TableRows", "decode_part", "decode_rows", "encode_part", "encode_rows", "new_id"]

_FORMAT = 1
"""Increase it if older versions cannot read the entries; upgrade copies before writers."""
_DIGEST_BYTES = 8
_LENGTH_BYTES = 4
_LEVEL = 1


class TableRows(NamedTuple):
    """Rows of one table as they are after the transaction, and the keys of those that it deleted."""

    table: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    deleted: list[tuple[Any, ...]]


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One entry of the stream: a commit, or a part of one."""

    link: Link
    schema: int
    """The version of the writer's schema."""
    before: tuple[int, int]
    """The log's sequence and revision before the commit; a copy that has others must not apply it."""
    after: tuple[int, int]
    body: bytes


_encoder = msgspec.msgpack.Encoder()
_parts = msgspec.msgpack.Decoder(Part)
_tables = msgspec.msgpack.Decoder(TableRows)


def new_id() -> bytes:
    """A new id of a commit."""
    return secrets.token_bytes(16)


def encode_part(part: Part) -> bytes:
    content = _encoder.encode(part)
    return bytes([_FORMAT]) + _digest(content) + content


def decode_part(payload: bytes) -> Part:
    """Raises LogUnusableError for an entry of a newer version, BrokerError for a damaged or malformed one.

    Another server of the broker may have the entry undamaged.
    """
    content = payload[1 + _DIGEST_BYTES :]
    if payload[:1] and payload[0] > _FORMAT:
        raise LogUnusableError("the cluster's writer has a newer version: upgrade", code="newer_commit")
    if payload[1 : 1 + _DIGEST_BYTES] != _digest(content):
        raise BrokerError("the broker returned a damaged commit", code="damaged_commit")
    with _well_formed():
        part = _parts.decode(content)
    if part.schema > SCHEMA_VERSION:
        raise LogUnusableError(
            f"the cluster's writer has a newer version (schema {part.schema}, supported {SCHEMA_VERSION}):"
            " upgrade",
            code="newer_commit",
        )
    return part


def encode_rows(tables: Iterable[TableRows]) -> Iterator[tuple[bytes, bool]]:
    """The bodies of a commit's parts, each with whether it is the last one."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
    body = bytearray()
    for table in tables:
        content = _encoder.encode(table)
        body += compressor.compress(len(content).to_bytes(_LENGTH_BYTES, "big") + content)
        while len(body) > PART_BYTES:
            yield bytes(body[:PART_BYTES]), False
            del body[:PART_BYTES]
    body += compressor.flush()
    while len(body) > PART_BYTES:
        yield bytes(body[:PART_BYTES]), False
        del body[:PART_BYTES]
    yield bytes(body), True


def decode_rows(bodies: Iterable[bytes]) -> Iterator[TableRows]:
    """The tables that `encode_rows` was given, one at a time. Raises BrokerError for malformed bodies."""
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    content = bytearray()
    for body in bodies:
        with _well_formed():
            content += decompressor.decompress(body)
        while len(content) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
            if len(content) < end:
                break
            with _well_formed():
                rows = _tables.decode(bytes(content[_LENGTH_BYTES:end]))
            yield rows
            del content[:end]


@contextlib.contextmanager
def _well_formed() -> Iterator[None]:
    """Turns the decoders' errors into BrokerError."""
    try:
        yield
    except (msgspec.DecodeError, zstandard.ZstdError) as error:
        raise BrokerError(f"a malformed commit: {error}", code="damaged_commit") from error


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
