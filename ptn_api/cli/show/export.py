"""`ptn export`: positions, orders, statistics and ledgers as Parquet, CSV or NDJSON, with exact values."""

from __future__ import annotations

import csv
import io
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import msgspec

from ptn_api.cli.client import fetch, open_client
from ptn_api.cli.show.choices import chosen_hotkeys
from ptn_api.client import calls
from ptn_api.client.arguments import as_list
from ptn_api.client.rest import PTNClient
from ptn_api.client.tables.columns import Table, ledgers, orders, positions, statistics
from ptn_api.errors import APIStatusError, ClientError, SettingsError
from ptn_api.model.position import Position
from ptn_api.model.tiers import TIERS, data_tier
from ptn_api.model.trade_pair import pair_id
from ptn_api.summary import counted

__all__ = ["Content", "Filters", "Format", "run"]

Content = Literal["positions", "orders", "statistics", "ledgers"]
Format = Literal["parquet", "csv", "ndjson"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Filters(NamedTuple):
    """What to export; times are epoch ms, the end excluded."""

    tier: int | None
    miners: Sequence[str]
    trade_pairs: Sequence[str]
    status: str | None
    start_ms: int | None
    end_ms: int | None


_TAKEN: dict[Content, set[str]] = {
    "positions": {"tier", "miners", "trade_pairs", "status"},
    "orders": {"tier", "miners", "trade_pairs", "start_ms", "end_ms"},
    "statistics": {"miners"},
    "ledgers": {"miners"},
}
"""The filters that each content has."""
_FLAGS = {
    "tier": "--tier",
    "miners": "--miner",
    "trade_pairs": "--trade-pair",
    "status": "--status",
    "start_ms": "--from",
    "end_ms": "--to",
}


class _Part(NamedTuple):
    """Some of the rows: as a table, and each as the server's JSON."""

    table: Table
    lines: list[bytes]


def run(
    url: str | None,
    api_key_file: Path | None,
    *,
    content: Content,
    form: Format,
    out: Path | None,
    force: bool,
    filters: Filters,
) -> None:
    """Writes the rows to a file, which appears when it is complete, or to standard output."""
    for name, value in filters._asdict().items():
        if value not in (None, [], ()) and name not in _TAKEN[content]:
            raise SettingsError(f"{_FLAGS[name]}: {content} have no such filter")
    if form == "parquet":
        try:
            Table({}).to_polars()
        except ClientError:
            problem = "Parquet needs Polars: pip install 'ptn-api[dataframe]' (CSV and NDJSON do not)"
            raise ClientError(problem, code="no_polars") from None
        if out is None and sys.stdout.isatty():
            raise SettingsError("Parquet is not text: write it to a file with --out")
    if out is not None and not force and out.exists():
        raise SettingsError(f"{out} exists (pass --force to replace it)")
    # The file is opened first: a wrong folder is an error before the download.
    with _opened(out, force=force) as file, open_client(url, api_key_file) as client:
        if filters.miners:
            as_list(filters.miners)  # an empty choice is an error
            filters = filters._replace(miners=chosen_hotkeys(client, filters.miners))
        count = _WRITERS[form](_READERS[content](client, filters), file)
    if out is not None:
        print(f"ptn: {counted(count, 'rows')} in {out}", file=sys.stderr)


# --- rows -------------------------------------------------------------------------------------------------


class _RawEntry(msgspec.Struct):
    positions: list[msgspec.Raw] = []


class _RawOrders(msgspec.Struct):
    orders: list[msgspec.Raw] = []


class _RawStatistics(msgspec.Struct):
    data: list[msgspec.Raw] = []


class _RawLedger(msgspec.Struct):
    cps: list[msgspec.Raw] = []


_position = msgspec.json.Decoder(Position)
_raw_entries = msgspec.json.Decoder(dict[str, _RawEntry])
_raw_orders = msgspec.json.Decoder(_RawOrders)


def _entries(client: PTNClient, filters: Filters) -> Iterator[list[msgspec.Raw]]:
    """Yields each miner's positions."""
    wanted = data_tier(client.me().tier) if filters.tier is None else filters.tier
    known = next((tier for tier in TIERS if tier == wanted), None)
    if known is None:
        raise SettingsError(f"--tier: expected 0, 30, 50 or 100, not {wanted}")
    status: Any = None if filters.status in (None, "all") else filters.status
    call = calls.miner_positions(
        tier=known,
        miner=list(filters.miners) or None,
        trade_pair=list(filters.trade_pairs) or None,
        status=status,
    )
    body = client.call(
        calls.Call(call.path, lambda body, _: body, cached=False, join=call.join, **call.parameters)
    )
    entries = _raw_entries.decode(body)
    for hotkey in filters.miners:
        if hotkey not in entries:
            print(f"ptn: no positions of miner {hotkey!r} for these filters", file=sys.stderr)
    for entry in entries.values():
        yield entry.positions


def _behind(keys: dict[str, str], text: msgspec.Raw) -> bytes:
    """Returns an object's JSON as the server sent it, with these keys in front."""
    rest = bytes(text).lstrip()[1:].lstrip()
    return msgspec.json.encode(keys)[:-1] + (b"" if rest.startswith(b"}") else b",") + rest


def read_positions(client: PTNClient, filters: Filters) -> Iterator[_Part]:
    yield _Part(positions([]), [])
    for raw in _entries(client, filters):
        yield _Part(positions(map(_position.decode, raw)), [bytes(text) for text in raw])


def read_orders(client: PTNClient, filters: Filters) -> Iterator[_Part]:
    start, end = filters.start_ms, filters.end_ms
    yield _Part(orders([]), [])
    for raw in _entries(client, filters):
        found, lines, places = [], [], []
        for text in raw:
            position = _position.decode(text)
            chosen = [
                n
                for n, order in enumerate(position.orders)
                if (start is None or start <= order.processed_ms)
                and (end is None or order.processed_ms < end)
            ]
            keys = {
                "miner_hotkey": position.miner_hotkey,
                "position_uuid": position.position_uuid,
                "trade_pair": pair_id(position.trade_pair),
            }
            texts = _raw_orders.decode(text).orders
            lines += [_behind(keys, texts[n]) for n in chosen]
            places += [n + 1 for n in chosen]
            position.orders = [position.orders[n] for n in chosen]
            found.append(position)
        table = orders(found)
        table.columns["place"] = ("int", places)
        yield _Part(table, lines)


def read_statistics(client: PTNClient, filters: Filters) -> Iterator[_Part]:
    body, document = fetch(client, calls.statistics())
    texts = msgspec.json.decode(body, type=_RawStatistics).data
    miners = set(filters.miners)
    chosen = [n for n, miner in enumerate(document.data) if not miners or miner.hotkey in miners]
    yield _Part(statistics([document.data[n] for n in chosen]), [bytes(texts[n]) for n in chosen])


def read_ledgers(client: PTNClient, filters: Filters) -> Iterator[_Part]:
    """One request per miner."""
    yield _Part(ledgers({}), [])
    for hotkey in filters.miners or client.hotkeys():
        try:
            body, found = fetch(client, calls.perf_ledger(hotkey))
        except APIStatusError as error:
            if error.status != 404:
                raise
            if filters.miners:
                print(f"ptn: no ledger of miner {hotkey!r}", file=sys.stderr)
            continue
        lines = []
        try:
            by_pair = msgspec.json.decode(body, type=dict[str, _RawLedger])
        except msgspec.ValidationError:  # an older server sends one ledger
            by_pair = {hotkey: msgspec.json.decode(body, type=_RawLedger)}
        for name, ledger in by_pair.items():
            keys = {"hotkey": hotkey, "trade_pair": "portfolio" if name == hotkey else name}
            lines += [_behind(keys, text) for text in ledger.cps]
        yield _Part(ledgers({hotkey: found}), lines)


_READERS: dict[Content, Callable[[PTNClient, Filters], Iterator[_Part]]] = {
    "positions": read_positions,
    "orders": read_orders,
    "statistics": read_statistics,
    "ledgers": read_ledgers,
}

# --- formats ----------------------------------------------------------------------------------------------


def write_ndjson(parts: Iterable[_Part], file: BinaryIO) -> int:
    count = 0
    for part in parts:
        count += len(part.lines)
        # A line break within a value is escaped in JSON; one between values is white space.
        file.writelines(line.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" for line in part.lines)
    return count


def write_csv(parts: Iterable[_Part], file: BinaryIO) -> int:
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    rows = csv.writer(text, lineterminator="\n")
    count = 0
    for n, (table, _) in enumerate(parts):
        if n == 0:
            rows.writerow(table.columns)
        cells = [[_cell(kind, value) for value in values] for kind, values in table.columns.values()]
        for row in zip(*cells, strict=True):
            rows.writerow(row)
            count += 1
    text.detach()
    return count


def _cell(kind: str, value: Any) -> Any:
    """Floats keep every digit, times are ISO 8601 with ms; a missing value is an empty cell."""
    if value is None:
        return ""
    if kind == "time":
        try:
            time = _EPOCH + timedelta(milliseconds=value)
        except OverflowError:
            return f"{value} ms"
        return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if kind == "float":
        return repr(float(value))
    return str(value).lower() if kind == "bool" else str(value)


def write_parquet(parts: Iterable[_Part], file: BinaryIO) -> int:
    frames = [part.table.to_polars() for part in parts]
    frame = frames[0]
    for more in frames[1:]:
        frame = frame.vstack(more)
    # Polars would wrap the error of a closed pipe or a full disk.
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(buffer)
    file.write(buffer.getbuffer())
    return len(frame)


_WRITERS: dict[Format, Callable[[Iterable[_Part], BinaryIO], int]] = {
    "ndjson": write_ndjson,
    "csv": write_csv,
    "parquet": write_parquet,
}


@contextmanager
def _opened(out: Path | None, *, force: bool) -> Iterator[BinaryIO]:
    """Opens standard output, or a temporary file that becomes `out` if the block ends without an error."""
    if out is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = out.with_name(f"{out.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            part.replace(out)
            return
        try:
            os.link(part, out)  # unlike a rename, it fails if the file appeared meanwhile
        except FileExistsError:
            raise SettingsError(f"{out} exists (pass --force to replace it)") from None
        except OSError:  # a file system without hard links
            part.replace(out)
    finally:
        part.unlink(missing_ok=True)
