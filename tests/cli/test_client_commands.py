"""The commands that read a server, against a live one."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import struct
import subprocess
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ptn_api.client import Replay
from tests.answering import answering
from tests.cli.ptn import Ptn
from tests.live import Live
from tests.waiting import PATIENCE_S, until

MINER = "5Synr98gHa7RAmPKXBxQBMe4B4kLs8WYw1A64Ewmi21gB1Mu"
ENTITY = "5EntF8LjeU56zqG625LCRKjpGB2jyEH2av14rbJTmmBppUaG"
HOTKEY = re.compile(r"5[1-9A-HJ-NP-Za-km-z]{47}(_\d+)?")
"""A miner's, or that of an entity's subaccount."""


def test_positions(ptn: Ptn) -> None:
    """Piped: tab-separated, complete hotkeys, a line of names. Open positions by default."""
    header, *rows = ptn("positions").lines
    names = header.split("\t")
    assert names[:4] == ["miner_hotkey", "thirty_day_returns", "trade_pair", "position_type"]
    assert rows
    closed = names.index("closed")
    assert all(HOTKEY.fullmatch(row.split("\t")[0]) and row.split("\t")[closed] == "" for row in rows)
    rows = ptn("positions", "--status", "closed").lines[1:]
    assert rows
    assert all(row.split("\t")[closed] for row in rows)


def test_positions_are_exact(ptn: Ptn) -> None:
    """All formats hold the same values; `--limit` cuts the JSON like the rows."""
    chosen = ("positions", "--status", "closed", "--limit", 3, "-o")
    document = json.loads(ptn(*chosen, "json").stdout)
    positions = [position for entry in document.values() for position in entry["positions"]]
    rows = [json.loads(line) for line in ptn(*chosen, "ndjson").lines]
    cells = list(csv.DictReader(ptn(*chosen, "csv").lines))
    assert len(rows) == 3
    for name in ("position_uuid", "current_return", "average_entry_price", "net_leverage"):
        assert [position[name] for position in positions] == [row[name] for row in rows]
        assert [cell[name] for cell in cells] == [str(row[name]) for row in rows]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["opened"]) for row in rows)


def test_positions_as_json(ptn: Ptn) -> None:
    """The server's own response with the same filters; closed positions, since they stay closed."""
    chosen = ("--tier", 30, "--status", "closed")
    hotkey = ptn("positions", *chosen).lines[1].split("\t")[0]
    entries = json.loads(ptn("positions", "--miner", hotkey, *chosen, "--json").stdout)
    assert list(entries) == [hotkey]
    assert entries[hotkey]["tier"] == 30


def test_an_unknown_hotkey_is_told(ptn: Ptn) -> None:
    """A whole one is no error, since the miner may be new; the response is empty. The nearest is named."""
    known = ptn("positions").lines[1].split("\t")[0]
    other = known[:-1] + ("a" if known[-1] != "a" else "b")
    for command in ("positions", "orders"):
        ended = ptn(command, "--miner", other)
        assert len(ended.lines) == 1
        assert f"no known miner has the hotkey '{other}'; did you mean {known}" in ended.stderr


def test_the_first_letters_of_a_hotkey(ptn: Ptn) -> None:
    """Enough wherever a hotkey is asked for, also as tables show it; else the candidates are listed."""
    hotkey = ptn("top").lines[1].split("\t")[1]
    start = hotkey[:7]
    for command in (["positions", "--status", "all", "--miner"], ["orders", "--miner"], ["miner"]):
        ended = ptn(*command, f"{start}…", "-o", "csv")
        assert {row["miner_hotkey"] for row in csv.DictReader(ended.lines)} == {hotkey}, ended.stderr
    streamed = ptn("stream", "--miner", start, "--count", 1, "-o", "csv").lines
    assert next(csv.DictReader(streamed))["miner_hotkey"] == hotkey
    assert json.loads(ptn("stats", start).stdout)["hotkey"] == hotkey
    for command in (["positions", "--miner"], ["miner"], ["stream", "--miner"]):
        ambiguous, unknown = ptn(*command, "5"), ptn(*command, "nobody")
        assert (ambiguous.status, unknown.status) == (2, 2)
        assert "hotkeys begin with '5': " in ambiguous.stderr
        assert hotkey in ambiguous.stderr
        assert "no known miner's hotkey begins with 'nobody'" in unknown.stderr
    misspelt = ptn("miner", "5" + start[1:-1] + "0")  # no hotkey has this digit
    assert f"did you mean {hotkey}" in misspelt.stderr


def test_top(ptn: Ptn) -> None:
    """Best first or by a column; complete hotkeys when piped; the formats hold the same miners."""
    header, *rows = (line.split("\t") for line in ptn("top", "--limit", 0).lines)
    assert header[:4] == ["rank", "miner_hotkey", "thirty_day_returns", "all_time_returns"]
    assert {"percentage_profitable", "drawdown", "open_positions", "net_leverage", "phase"} <= {*header}
    assert [row[0] for row in rows] == [str(n + 1) for n in range(len(rows))]
    assert all(HOTKEY.fullmatch(row[1]) for row in rows)
    lines = ptn("top", "-o", "ndjson", "--limit", 3).lines
    assert [json.loads(line)["rank"] for line in lines] == [1, 2, 3]

    def hold_the_same() -> bool:
        """The miners trade: the next response may differ."""
        shown = [line.split("\t")[1] for line in ptn("top", "--limit", 3).lines[1:]]
        miners = json.loads(ptn("top", "--json", "--limit", 3).stdout)["miners"]
        cells = list(csv.DictReader(ptn("top", "-o", "csv", "--limit", 3).lines))
        best = float(cells[0]["thirty_day_returns"])
        return [miner["hotkey"] for miner in miners] == [
            cell["miner_hotkey"] for cell in cells
        ] == shown and miners[0]["thirty_day_returns"] == best

    until(hold_the_same, what="equal responses")


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("all-time", lambda row: -row["all_time_returns"]),
        ("won", lambda row: -row["percentage_profitable"]),
        ("lost", lambda row: 2.0 if row["drawdown"] is None else row["drawdown"]),
        ("open", lambda row: -row["open_positions"]),
        ("net", lambda row: -sum(row["net_leverage"].values())),
        ("last", lambda row: -(row["last_order"] or {}).get("processed_ms", 0)),
    ],
)
def test_top_by_a_column(ptn: Ptn, sort: str, key: Any) -> None:
    rows = [json.loads(line) for line in ptn("top", "--sort", sort, "-o", "ndjson").lines]
    assert rows
    assert [key(row) for row in rows] == sorted(key(row) for row in rows)


def test_live_top_prints_changes(ptn: Ptn) -> None:
    """Piped: the rows again once something has changed, until the reader or the user ends it."""
    ended = ptn.shell("ptn top --live --interval 0.1 --limit 1 -o ndjson | head -2")
    assert [json.loads(line)["rank"] for line in ended.lines] == [1, 1]


def test_live_top_follows_the_size_of_its_terminal(ptn: Ptn) -> None:
    """After a change the screen is cleared: the terminal has broken the lines. No number is shortened."""
    import fcntl  # not on Windows
    import termios

    ours, theirs = os.openpty()

    def resize(columns: int) -> None:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    resize(100)
    process = subprocess.Popen(
        [*ptn.command, "top", "--live", "--interval", "0.1"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ptn.home,
        env={k: v for k, v in ptn.environment.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"},
    )
    shown = bytearray()

    def until_shown(sign: bytes) -> None:
        def read() -> bool:
            with suppress(BlockingIOError):
                shown.extend(os.read(ours, 65_536))
            return sign in shown

        until(read, what=str(sign))

    os.set_blocking(ours, False)
    try:
        until_shown(b"phase")
        assert b"\x1b[2J" not in shown
        resize(50)
        until_shown(b"\x1b[2J")
        del shown[: shown.index(b"\x1b[2J")]
        until_shown(b"Not shown here")
        assert not re.search(r"[+.-]\d*\.?\d*…", shown.decode(errors="replace"))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
        os.close(theirs)
        os.close(ours)


def test_live_top_outlives_a_restart_of_the_server(ptn: Ptn) -> None:
    """Errors of a proxy in front of it, and its own while it starts. A refused key is the end."""
    leaderboard = {"tier": 100, "delay_ms": 0, "lookback_days": 90, "miners": []}
    bodies = [
        leaderboard,
        None,
        {"error": "starting", "code": "starting"},
        leaderboard | {"lookback_days": 30},
    ]
    answers = iter(zip([200, 502, 503, 200], bodies, strict=True))

    def respond(handler: BaseHTTPRequestHandler) -> None:
        status, body = next(answers, (401, {"error": "Unauthorized access", "code": "unauthorized"}))
        content = b"<h1>Bad Gateway</h1>" if body is None else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("content-length", str(len(content)))
        handler.send_header("retry-after", "100")
        handler.end_headers()
        handler.wfile.write(content)

    with answering(respond) as url:
        ended = ptn("top", "--live", "--interval", 0.1, "--json", "--url", url)
    assert [json.loads(line)["lookback_days"] for line in ended.lines] == [90, 30]
    assert ended.status != 0
    assert url in ended.stderr


def test_miner(ptn: Ptn) -> None:
    hotkey = ptn("positions").lines[1].split("\t")[0]
    ended = ptn("miner", hotkey)
    assert f"# miner_hotkey: {hotkey}" in ended.lines
    assert json.loads(ptn("miner", hotkey, "--json").stdout)["tier"] == 100
    opened = [row["opened"] for row in map(json.loads, ptn("miner", hotkey, "-o", "ndjson").lines)]
    assert opened == sorted(opened)
    newest = [
        row["opened"] for row in map(json.loads, ptn("miner", hotkey, "-o", "ndjson", "--limit", 2).lines)
    ]
    assert newest == opened[-2:]
    cut = json.loads(ptn("miner", hotkey, "--json", "--limit", 2).stdout)["positions"]
    assert len(cut) == len(newest)
    unknown = ptn("miner", "5" * 48)
    assert (unknown.status, unknown.stderr) == (1, f"ptn: Miner ID not found: '{'5' * 48}'\n")
    misspelt = ptn("miner", hotkey[:-1] + "?")
    assert (misspelt.status, f"; did you mean {hotkey}" in misspelt.stderr) == (1, True)


def test_orders(ptn: Ptn) -> None:
    """The newest orders, newest last, filtered by pair and time."""
    orders = json.loads(ptn("orders", "--limit", 20, "--json").stdout)
    times = [order["processed_ms"] for order in orders]
    assert len(times) == 20
    assert times == sorted(times)
    pair, middle = orders[7]["trade_pair"], times[7] + 1
    chosen = json.loads(ptn("orders", "--limit", 0, "--trade-pair", pair, "--to", middle, "--json").stdout)
    assert {order["trade_pair"] for order in chosen} == {pair}
    assert max(order["processed_ms"] for order in chosen) < middle
    assert len(ptn("orders", "--limit", 5).lines) == 6
    traded = {order["trade_pair"] for order in json.loads(ptn("orders", "--limit", 1000, "--json").stdout)}
    idle = next(name for name in ("ADAUSD", "DOGEUSD", "XRPUSD", "GBPCHF", "NZDCHF") if name not in traded)
    none = ptn("orders", "--trade-pair", idle)
    said = f"ptn: no orders of {idle} pass the filters; the newest orders are of "
    assert (none.status, none.stderr.startswith(said)) == (0, True)
    assert set(none.stderr.removeprefix(said).strip().split(", ")) <= traded
    assert ptn("orders", "--from", "2100-01-01").lines[1:] == []
    delayed = json.loads(ptn("orders", "--tier", 50, "--limit", 5, "--json").stdout)
    assert (len(delayed), list(delayed[0])) == (5, list(orders[0]))
    recent = json.loads(ptn("orders", "--from", times[3], "--limit", 0, "--json").stdout)
    newer = [order for order in orders if order["processed_ms"] >= times[3]]
    assert newer == [order for order in recent if order in orders]


def test_positions_of_the_past(ptn: Ptn) -> None:
    """As they were: orders placed since then are absent; a time that has no answer is an error."""
    processed = json.loads(ptn("orders", "--limit", 20, "--json").stdout)[0]["processed_ms"]
    body = json.loads(ptn("positions", "--at", processed, "--status", "all", "--json").stdout)
    times = [
        order["processed_ms"]
        for entry in body.values()
        for position in entry["positions"]
        for order in position["orders"]
    ]
    assert max(times) < processed
    shown = ptn("positions", "--at", "2100-01-01")
    assert (shown.status, "at lies in the future" in shown.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "key"), [(["stats"], "data"), (["eliminations"], "eliminations"), (["me"], "tier")]
)
def test_documents(ptn: Ptn, words: list[str], key: str) -> None:
    """A table with a header, and the server's JSON."""
    assert "\t" in ptn(*words).lines[0]
    assert key in json.loads(ptn(*words, "--json").stdout)


@pytest.mark.parametrize(
    ("words", "columns", "key"),
    [
        ("limit-orders MINER", "time trade_pair execution_type", "unfilled"),
        ("limit-orders MINER --cancelled", "time trade_pair execution_type", "cancelled"),
        ("ledger debt", "miner_hotkey cumulative_emissions_alpha cumulative_emissions_tao", "MINER"),
        ("account MINER --limit 2", "hour account_size", "snapshots"),
        ("collateral", "miner_hotkey account_size", "data"),
        ("collateral MINER --all", "miner_hotkey account_size", "data"),
        ("challenge-period MINER", "since bucket", "challenge_period"),
        ("selections", "miner_hotkey asset_class", "miner_selections"),
        ("entities", "entity_hotkey synthetic_hotkey status", "entities"),
        ("entities ENTITY", "entity_hotkey synthetic_hotkey status", "entity"),
        ("trade-pairs", "trade_pair_id trade_pair trade_pair_category", "allowed"),
        ("trade-pairs --asset-class forex", "trade_pair_id trade_pair trade_pair_category", "allowed"),
    ],
)
def test_documents_of_a_present_validator(
    ptn: Ptn, of_today: dict[str, str], words: str, columns: str, key: str
) -> None:
    """A table with as many cells in each row as its header, and the server's JSON."""
    names = {"MINER": MINER, "ENTITY": ENTITY}
    arguments = [names.get(word, word) for word in words.split()]
    ended = ptn(*arguments, **of_today)
    assert (ended.status, ended.stderr) == (0, "")
    header, *rows = ended.lines
    assert header.replace("\t", " ").startswith(columns)
    assert rows
    assert {row.count("\t") for row in rows} == {header.count("\t")}
    assert names.get(key, key) in json.loads(ptn(*arguments, "--json", **of_today).stdout)


@pytest.mark.parametrize("kind", ["perf", "debt", "emissions", "penalty"])
def test_one_miners_ledger(ptn: Ptn, of_today: dict[str, str], kind: str) -> None:
    """A row per checkpoint, of which `--limit` keeps the newest; only the debt ledgers have a summary."""
    words = ("ledger", kind, MINER)
    [raw] = ptn(*words, "--json", **of_today).lines
    ledger = json.loads(raw)
    checkpoints = ledger[MINER]["cps"] if kind == "perf" else ledger["checkpoints"]
    rows = list(csv.DictReader(ptn(*words, "-o", "csv", **of_today).lines))
    assert len(rows) == len(checkpoints)
    assert len(ptn(*words, "-o", "ndjson", **of_today).lines) == len(rows)
    if len(rows) > 1:
        [newest] = map(json.loads, ptn(*words, "-o", "ndjson", "--limit", 1, **of_today).lines)
        assert newest["last_update"] == rows[-1]["last_update"] > rows[0]["last_update"]
        cut = json.loads(ptn(*words, "--json", "--limit", 1, **of_today).stdout)
        assert cut[MINER]["cps"] == checkpoints[-1:]
    shown = Ptn(ptn.home, ptn.environment | of_today).on_terminal(*words, columns=80)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert f" of the {kind} ledger of {MINER[:8]}" in shown
    assert max(map(len, lines)) <= 80
    if kind != "debt":
        assert ptn("ledger", kind, **of_today).status == 2


def test_a_tier_above_100_reads_as_100(ptn: Ptn, of_today: dict[str, str]) -> None:
    """And orders of which the validator did not compute the leverage are printed."""
    assert ptn("positions", "--status", "all", **of_today).lines[1:]
    assert ptn("orders", "--limit", 0, **of_today).lines[1:]
    assert "tier\t200" in ptn("me", **of_today).lines


def test_one_miners_statistics(ptn: Ptn) -> None:
    rows = [line.split("\t") for line in ptn("stats").lines]
    assert rows[0][:3] == ["rank", "miner_hotkey", "weight"]
    weights = [float(row[2]) for row in rows[1:]]
    assert weights == sorted(weights, reverse=True)
    document = json.loads(ptn("stats", "--limit", 2, "--json").stdout)
    assert {miner["hotkey"] for miner in document["data"]} == {row[1] for row in rows[1:3]}
    hotkey = rows[1][1]
    element = json.loads(ptn("stats", hotkey).stdout)
    assert element["hotkey"] == hotkey
    assert "checkpoints" not in element
    assert "checkpoints" in json.loads(ptn("stats", hotkey, "--checkpoints", "--json").stdout)


def test_me_never_shows_the_key(ptn: Ptn, live: Live) -> None:
    for ended in (ptn("me"), ptn("me", "--json")):
        assert live.key not in ended.stdout + ended.stderr


def test_checkpoint(ptn: Ptn, tmp_path: Path) -> None:
    """The file is complete; its size is printed on standard error, or as JSON."""
    ended = ptn("checkpoint", "-o", "checkpoint.json")
    assert (ended.status, ended.stdout) == (0, "")
    assert json.loads((tmp_path / "checkpoint.json").read_bytes())["positions"]
    said = json.loads(ptn("checkpoint", "-o", "checkpoint.json", "--json").stdout)
    assert said["bytes"] == (tmp_path / "checkpoint.json").stat().st_size
    refused = ptn("checkpoint", "-o", "nowhere/checkpoint.json")
    assert refused.status == 1
    assert "nowhere/checkpoint.json." in refused.stderr
    assert refused.stderr.endswith(".part: No such file or directory\n")


def test_tables_colours_and_a_progress_bar_on_a_terminal(ptn: Ptn) -> None:
    """A title, colours, shortened hotkeys, and a progress bar for the checkpoint."""
    shown = ptn.on_terminal("orders", "--limit", 3)
    assert "3 newest orders, newest last" in shown
    assert "\x1b[3" in shown
    assert "…" in shown
    assert "checkpoint" in ptn.on_terminal("checkpoint", "-o", "checkpoint.json")
    assert "\x1b[" in ptn.on_terminal("stream", "--count", 1)


# --- the stream -------------------------------------------------------------------------------------------


def test_stream_outputs(ptn: Ptn) -> None:
    """Every format prints the same orders; the connection's states go to standard error."""
    table = ptn("stream", "--count", 2)
    assert table.lines[0].split("\t")[:2] == ["sequence", "timestamp"]
    assert "ptn: live" in table.stderr
    rows = list(csv.DictReader(ptn("stream", "--count", 2, "--output", "csv").lines))
    assert int(rows[1]["sequence"]) == int(rows[0]["sequence"]) + 1
    lines = [json.loads(line) for line in ptn("stream", "--count", 2, "--json").lines]
    assert all(line.keys() - {"late"} == {"data", "sequence", "timestamp"} for line in lines)
    assert json.loads(ptn("stream", "--count", 1, "--output", "json").stdout)["data"]["position"]["orders"]
    delta = json.loads(ptn("stream", "--count", 1, "--json", "--delta").stdout)
    assert "orders" not in delta["data"]["position"]


def test_stream_filters(ptn: Ptn) -> None:
    """Only orders of the given pair and miner."""
    first = json.loads(ptn("stream", "--count", 1, "--json").stdout)["data"]["position"]
    rows = csv.DictReader(
        ptn("stream", "--miner", first["miner_hotkey"], "--count", 2, "--output", "csv").lines
    )
    assert {row["miner_hotkey"] for row in rows} == {first["miner_hotkey"]}
    pair = first["trade_pair"][0]
    row, *_ = csv.DictReader(ptn("stream", "--trade-pair", pair, "--count", 1, "-o", "csv").lines)
    assert row["trade_pair"] == pair


def test_trade_pairs_in_lower_case(ptn: Ptn, tmp_path: Path) -> None:
    """Accepted, in any usual spelling and with commas. An unknown pair is an error that suggests another."""
    pair = ptn("orders", "--limit", 1).lines[1].split("\t")[2]
    small = ptn("orders", "--trade-pair", f"{pair.lower()},")
    assert {row.split("\t")[2] for row in small.lines[1:]} == {pair}
    assert small.stderr == ""
    misspelt = ptn("orders", "--trade-pair", "BTCUSDX")
    assert (misspelt.status, misspelt.stdout) == (2, "")
    assert "did you mean BTCUSD or BTCUSDC" in misspelt.stderr
    for command in (["stream"], ["record", "orders.ndjson"], ["replay"]):
        refused = ptn(*command, "--trade-pair", "btc/usd,BTCUSDX")
        assert (refused.status, refused.stdout) == (2, "")
        assert "did you mean BTCUSD or BTCUSDC" in refused.stderr
    assert not (tmp_path / "orders.ndjson").exists()
    assert ptn("orders", "--miner", ",").status == 2


def test_resume_continues_after_the_last_order(ptn: Ptn) -> None:
    """No order is printed twice, and none in between is missing."""
    runs = [ptn("stream", "--resume", "--count", 3, "--json").lines for _ in range(3)]
    sequences = [json.loads(line)["sequence"] for lines in runs for line in lines]
    assert sequences == list(range(sequences[0], sequences[0] + 9))


def test_the_status_of_the_command_decides_whether_an_order_is_done(ptn: Ptn, tmp_path: Path) -> None:
    """After a failure the order is delivered again, after success it is not."""
    seen = tmp_path / "seen"
    succeeded = ptn("stream", "--exec", f"cat >> {seen}", "--count", 2)
    assert succeeded.status == 0, succeeded.stderr
    failed = ptn("stream", "--exec", f"cat >> {seen}; exit 7")
    assert failed.status == 5
    assert "the command of --exec ended with status 7 on order" in failed.stderr
    assert ptn("stream", "--exec", f"cat >> {seen}", "--count", 1).status == 0
    first, second, third, again = (json.loads(line)["sequence"] for line in seen.read_text().splitlines())
    assert (second, third, again) == (first + 1, first + 2, first + 2)


def test_a_plain_stream_leaves_no_place(ptn: Ptn, tmp_path: Path) -> None:
    """The first --exec begins now: nobody's command is fed what was missed since somebody looked."""
    seen = tmp_path / "seen"
    printed = [ptn("stream", *how, "--count", 1, "--json") for how in ([], ["--resume"])]
    first = ptn("stream", "--exec", f"cat >> {seen}", "--count", 1)
    assert [run.status for run in (*printed, first)] == [0, 0, 0]
    assert "replaying" not in first.stderr
    assert "replay" not in json.loads(seen.read_text())
    places = [path for path in tmp_path.rglob("cursor-*.json") if "moved_to" not in path.read_text()]
    assert len(places) == 2  # of --resume and of --exec


def test_old_orders_are_skipped_by_age(ptn: Ptn) -> None:
    """Each is reported."""
    process = ptn.begin("stream", "--max-age", "0")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert next(line for line in lines if "live" not in line and "connecting" not in line).startswith(
        "ptn: skipped order "
    )
    process.terminate()
    assert process.wait(PATIENCE_S) == 0
    process.stdout.close()
    refused = ptn("stream", "--max-age", "soon")
    assert (refused.status, "--max-age" in refused.stderr) == (2, True)


def test_exec_can_skip_an_order_after_a_failure(ptn: Ptn) -> None:
    """Skipped orders are reported, and the stream continues."""
    ended = ptn("stream", "--exec", "cat > /dev/null; exit 1", "--on-error", "skip", "--count", 2)
    assert ended.status == 0
    assert ended.stderr.count("are missing: handler") == 2


def test_exec_never_shows_an_order_to_the_shell(ptn: Ptn, tmp_path: Path) -> None:
    """It is on standard input only, not in an argument or the environment."""
    ptn(
        "stream", "--exec", "env > env.txt; cat /proc/$$/cmdline > cmdline.txt; cat > /dev/null", "--count", 1
    )
    for name in ("env.txt", "cmdline.txt"):
        assert "order_uuid" not in (tmp_path / name).read_text()


def test_a_reader_that_ends_early(ptn: Ptn) -> None:
    """As in `ptn replay | head -1`: status 0."""
    process = ptn.begin("replay")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("sequence")
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_in_order(ptn: Ptn, number: signal.Signals) -> None:
    process = ptn.begin("stream")
    assert process.stdout is not None
    while not process.stdout.readline()[:1].isdigit():  # an order, by its sequence
        pass
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 0
    assert "Traceback" not in process.stdout.read()
    process.stdout.close()


# --- recordings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["orders.ndjson", "orders.ndjson.zst"])
def test_record_and_replay(ptn: Ptn, tmp_path: Path, name: str) -> None:
    """Each run continues where the file ends, and the replay equals the stream."""
    assert ptn("record", name, "--count", 3).status == 0
    assert json.loads(ptn("record", name, "--count", 3, "--json").stdout) == {"file": name, "orders": 3}
    replayed = [json.loads(line) for line in ptn("replay", name, "--json").lines]
    sequences = [message["sequence"] for message in replayed]
    assert sequences == list(range(sequences[0], sequences[0] + 6))
    streamed = {m["sequence"]: m for m in map(json.loads, ptn("replay", "--json").lines)}
    assert list(map(announced, replayed)) == [announced(streamed[n]) for n in sequences]
    middle = replayed[3]["timestamp"]
    later = ptn("replay", name, "--from", middle, "--json").lines
    assert later == [
        line for line in ptn("replay", name, "--json").lines if json.loads(line)["timestamp"] >= middle
    ]


def announced(message: dict[str, Any]) -> tuple[int, Any]:
    """The part that never changes; prices and sources of recent orders may be corrected."""
    order = message["data"]["position"]["orders"][-1]
    return message["timestamp"], (order["order_uuid"], order["processed_ms"], order["leverage"])


def test_a_killed_recorder_leaves_no_gap(ptn: Ptn, tmp_path: Path) -> None:
    """The next run after kill -9 continues the file."""
    path = tmp_path / "orders.ndjson"
    for _ in range(3):
        size = path.stat().st_size if path.exists() else 0
        process = ptn.begin("record", path)
        until(lambda size=size: path.exists() and path.stat().st_size > size + 4_000, what="orders")  # type: ignore[misc]
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    sequences = [message.sequence for message in Replay(path)]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


def test_a_checkpoint_is_replayed(ptn: Ptn) -> None:
    """Its orders come in order of time."""
    ptn("checkpoint", "-o", "checkpoint.json")
    times = [
        int(row["timestamp"]) for row in csv.DictReader(ptn("replay", "checkpoint.json", "-o", "csv").lines)
    ]
    assert len(times) > 30
    assert times == sorted(times)


def test_an_empty_replay_says_so(ptn: Ptn) -> None:
    """A terminal that stays empty looks like a failure."""
    ended = ptn("replay", "--to", "2020-01-01", "--json")
    assert (ended.status, ended.stdout, ended.stderr) == (0, "", "ptn: no orders match\n")


def test_replay_serves_any_client(ptn: Ptn, live: Live) -> None:
    """An ordinary client receives the recorded orders over the real protocol."""
    ptn("record", "orders.ndjson", "--count", 20)
    process = ptn.begin("replay", "orders.ndjson", "--serve", "--port", 0, "--speed", "10x")
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    served = ptn("stream", "--url", url, "--json", "--count", 20, PTN_API_KEY="any").lines
    assert served == ptn("replay", "orders.ndjson", "--json").lines
    assert "20 orders served" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    process.stdout.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_completion(ptn: Ptn, shell: str) -> None:
    """It is printed for the named shell; detection is off, since any shell may run the tests."""
    shown = ptn("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_PTN_COMPLETE" in shown.stdout
    assert f"complete_{shell}" in shown.stdout


@pytest.mark.parametrize(
    "asked",
    [
        {"_PTN_COMPLETE": "complete_bash", "COMP_WORDS": "ptn stream --trade-pair BT", "COMP_CWORD": "3"},
        {"_PTN_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "ptn stream --trade-pair BT"},
        {
            "_PTN_COMPLETE": "complete_fish",
            "_TYPER_COMPLETE_ARGS": "ptn stream --trade-pair BT",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        },
    ],
    ids=["bash", "zsh", "fish"],
)
def test_completion(ptn: Ptn, asked: dict[str, str]) -> None:
    """As each shell requests it: the known pairs, without a warning about the incomplete one."""
    completed = ptn(**asked)
    assert re.findall(r"\w+USDC?\b", completed.stdout) == ["BTCUSD", "BTCUSDC"]
    assert completed.stderr == ""
