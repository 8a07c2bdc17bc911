"""`ptn export`: files that Polars, pandas and csv read back with the server's values."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pandas as pd
import polars as pl
import pytest

from ptn_api.client import PTNClient
from ptn_api.client.calls import Call
from tests.cli.ptn import Ptn
from tests.live import bare_environment

CONTENTS = ["positions", "orders", "statistics", "ledgers"]


@pytest.fixture
def still(of_today: dict[str, str], tmp_path: Path) -> Ptn:
    """`ptn` with a server whose orders do not change."""
    return Ptn(tmp_path, bare_environment(tmp_path) | of_today)


@pytest.fixture
def api(of_today: dict[str, str]) -> Iterator[PTNClient]:
    with PTNClient(of_today["PTN_REST_URL"], of_today["PTN_API_KEY"]) as client:
        yield client


def expected(api: PTNClient, content: str) -> pl.DataFrame:
    """The same table, from the client."""
    if content in ("positions", "orders"):
        return api.miner_positions().to_polars(content)  # type: ignore[arg-type]
    if content == "statistics":
        return api.statistics().to_polars()
    frames = []
    for hotkey in api.hotkeys():
        try:
            frames.append(api.perf_ledger(hotkey).to_polars())
        except Exception:  # noqa: BLE001 - a miner without a ledger
            continue
    return pl.concat(frames)


@pytest.mark.parametrize("content", CONTENTS)
def test_every_format_has_the_servers_values(
    content: str, still: Ptn, api: PTNClient, tmp_path: Path
) -> None:
    """Read back by Polars, pandas and csv."""
    table = expected(api, content)
    assert len(table) > 0
    for form in ("parquet", "csv", "ndjson"):
        ended = still("export", content, "--format", form, "--out", tmp_path / f"x.{form}")
        assert (ended.status, ended.stdout) == (0, "")
        assert ended.stderr == f"ptn: {len(table)} rows in {tmp_path}/x.{form}\n"
    assert pl.read_parquet(tmp_path / "x.parquet").equals(table)
    by_pandas = pd.read_parquet(tmp_path / "x.parquet")
    assert list(by_pandas.columns) == table.columns
    assert len(by_pandas) == len(table)
    for name, kind in table.schema.items():
        if kind == pl.Float64:
            assert [None if v != v else v for v in by_pandas[name]] == table[name].to_list(), name
    rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text(), newline="")))
    for row, known in zip(rows, table.iter_rows(named=True), strict=True):
        assert {name: read_cell(row[name], value) for name, value in known.items()} == known
    lines = [msgspec.json.decode(line) for line in (tmp_path / "x.ndjson").read_bytes().splitlines()]
    assert len(lines) == len(table)
    check_lines(content, lines, api)
    assert not list(tmp_path.glob("*.part"))


def read_cell(cell: str, like: Any) -> Any:
    if cell == "":
        return "" if like == "" else None
    if isinstance(like, bool):
        return cell == "true"
    if isinstance(like, datetime):
        return datetime.fromisoformat(cell.replace("Z", "+00:00"))
    return type(like)(cell)


def check_lines(content: str, lines: list[dict[str, Any]], api: PTNClient) -> None:
    """Each line is the server's JSON."""
    if content == "positions":
        document = api.call(raw("/miner-positions", tier=100))
        assert lines == [position for entry in document.values() for position in entry["positions"]]
    if content == "orders":
        document = api.call(raw("/miner-positions", tier=100))
        orders = [o for entry in document.values() for p in entry["positions"] for o in p["orders"]]
        keys = {"miner_hotkey", "position_uuid", "trade_pair"}
        assert [{k: v for k, v in line.items() if k not in keys} for line in lines] == orders
    if content == "statistics":
        assert lines == api.call(raw("/statistics"))["data"]
    if content == "ledgers":
        assert all(line["trade_pair"] == "portfolio" for line in lines)


def raw(path: str, **parameters: Any) -> Any:

    return Call(path, lambda body, _: msgspec.json.decode(body), cached=False, **parameters)


def test_standard_output_and_filters(still: Ptn, api: PTNClient, tmp_path: Path) -> None:
    """As of the other commands; Parquet goes through a pipe too."""
    table = expected(api, "orders")
    hotkey, pair = table["miner_hotkey"][0], table["trade_pair"][0]
    plain = next(name for name in table["miner_hotkey"] if "_" not in name)
    of_miner = table.filter((pl.col("miner_hotkey") == hotkey) & (pl.col("trade_pair") == pair))
    done = still("export", "orders", "--format", "csv", "--miner", hotkey, "--trade-pair", pair)
    assert len(done.lines) == len(of_miner) + 1
    for content in ("positions", "orders", "statistics", "ledgers"):  # the first letters are enough
        whole, start = (
            still("export", content, "--format", "ndjson", "--miner", name)
            for name in (plain, f"{plain[:8]}…")
        )
        assert (whole.status, start.lines) == (0, whole.lines)
        assert start.lines or content in ("statistics", "ledgers")
    middle = sorted(table["processed_at"])[len(table) // 2]
    ms = int(middle.timestamp() * 1000)
    before = still("export", "orders", "--format", "ndjson", "--to", ms).lines
    after = still("export", "orders", "--format", "ndjson", "--from", ms).lines
    assert len(before) + len(after) == len(table)
    assert all(msgspec.json.decode(line)["processed_ms"] >= ms for line in after)
    assert [msgspec.json.decode(line)["order_uuid"] for line in before] == (
        table.filter(pl.col("processed_at") < middle)["order_uuid"].to_list()
    )
    opened = still("export", "positions", "--format", "ndjson", "--status", "open").lines
    assert opened
    assert not any(msgspec.json.decode(line)["is_closed_position"] for line in opened)
    shell = still.shell("ptn export positions --format parquet | cat > piped.parquet")
    assert shell.status == 0, shell.stderr
    assert len(pl.read_parquet(tmp_path / "piped.parquet")) == len(expected(api, "positions"))
    cut = still.shell("ptn export positions --format parquet | head -c 4")
    assert (cut.status, cut.stdout, cut.stderr) == (0, "PAR1", "")
    full = still.shell("ptn export positions --format parquet > /dev/full")
    assert (full.status, full.stderr) == (1, "ptn: No space left on device\n")
    nobody = still("export", "statistics", "--format", "csv", "--miner", "nobody")
    assert (nobody.status, nobody.stdout) == (2, "")


def test_a_file_is_replaced_only_with_force(still: Ptn, stranger: Ptn, tmp_path: Path) -> None:
    """And stays what it was if the export fails."""
    file = tmp_path / "x.csv"
    file.write_text("mine")
    refused = still("export", "orders", "--format", "csv", "--out", file)
    assert (refused.status, refused.stderr) == (2, f"ptn: {file} exists (pass --force to replace it)\n")
    failed = stranger(
        *("export", "orders", "--format", "csv", "--out", file, "--force", "--url", "http://127.0.0.1:1"),
        PTN_API_KEY="key",
    )
    assert failed.status == 4
    assert file.read_text() == "mine"
    assert still("export", "orders", "--format", "csv", "--out", file, "--force").status == 0
    assert file.read_text().startswith("miner_hotkey,")
    assert [path.name for path in tmp_path.glob("x.csv*")] == ["x.csv"]
    missing = still("export", "orders", "--format", "csv", "--out", tmp_path / "no" / "x.csv")
    assert (missing.status, len(missing.stderr.splitlines())) == (1, 1)


def test_a_filter_that_does_not_apply_is_an_error(still: Ptn) -> None:
    """Rather than being ignored."""
    ended = still("export", "ledgers", "--format", "csv", "--trade-pair", "BTCUSD")
    assert (ended.status, ended.stderr) == (2, "ptn: --trade-pair: ledgers have no such filter\n")


def test_parquet_without_polars_is_one_line(still: Ptn, tmp_path: Path) -> None:
    """CSV and NDJSON work without it."""
    with patch.dict(sys.modules, {"polars": None}):
        ended = still("export", "orders", "--format", "parquet", "--out", tmp_path / "x.parquet")
        assert still("export", "orders", "--format", "csv").status == 0
    problem = "Parquet needs Polars: pip install 'ptn-api[dataframe]' (CSV and NDJSON do not)"
    assert (ended.status, ended.stderr) == (1, f"ptn: {problem}\n")
    assert not (tmp_path / "x.parquet").exists()
