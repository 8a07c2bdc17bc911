"""Every route over a synthetic directory of a validator of 2026, compared with what it should answer."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ptn_api.event_log import Document
from ptn_api.model.trade_pair import trade_pairs
from tests import newest
from tests.factories import MINER
from tests.rest.serving import DAY, FakeClock, Served, document, filled_log, serving

NOW: int = newest.expected()["now_ms"]
CHECKPOINT: dict[str, Any] = newest.expected()["checkpoint"]
FIRST = "5Synr98gHa7RAmPKXBxQBMe4B4kLs8WYw1A64Ewmi21gB1Mu"
ENTITY = "5EntF8LjeU56zqG625LCRKjpGB2jyEH2av14rbJTmmBppUaG"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    log = filled_log(newest.changes(), now_ms=NOW)
    async with serving(log, clock=FakeClock(NOW), requests_per_minute=0) as running:
        yield running


def assert_close(actual: Any, expected: Any, where: str = "") -> None:
    """Equal with the same order of keys, floats to 1e-9; hotkeys and pairs in any order."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        assert actual.keys() == expected.keys(), where
        if "positions" in expected or "order_uuid" in expected:
            assert list(actual) == list(expected), where
        for key, value in expected.items():
            assert_close(actual[key], value, f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(actual, list):
        assert len(actual) == len(expected), where
        for n, value in enumerate(expected):
            assert_close(actual[n], value, f"{where}[{n}]")
    elif isinstance(expected, float) and isinstance(actual, float | int):
        assert math.isclose(actual, expected, rel_tol=1e-9, abs_tol=1e-9), (where, actual, expected)
    else:
        assert actual == expected, where


def stored(path: str) -> Any:
    return json.loads(newest.files()[path])


# --- the checkpoint ---------------------------------------------------------------------------------------


async def test_the_checkpoint(served: Served) -> None:
    """All keys in order, all values; miners best first."""
    checkpoint = (await served.get("/validator-checkpoint")).json()
    assert list(checkpoint) == list(CHECKPOINT)
    assert list(checkpoint["positions"]) == list(CHECKPOINT["positions"])
    assert_close(checkpoint, CHECKPOINT)


def restored(text: bytes) -> dict[str, Any]:
    """Restores a checkpoint as a validator of either generation reads it, into files by path."""
    checkpoint = json.loads(text)
    assert checkpoint["created_timestamp_ms"] > 0
    assert checkpoint["youngest_order_processed_ms"] <= checkpoint["oldest_order_processed_ms"]
    files = {}
    for hotkey, entry in checkpoint["positions"].items():
        for position in entry["positions"]:
            pair, folder = position["trade_pair"][0], "closed" if position["is_closed_position"] else "open"
            assert pair in trade_pairs()
            path = f"validation/miners/{hotkey}/positions/{pair}/{folder}/{position['position_uuid']}"
            files[path] = position
    files["validation/eliminations.json"] = {"eliminations": checkpoint["eliminations"]}
    for name in ("challengeperiod", "miner_account_sizes", "asset_selections", "entities"):
        files[f"validation/{name}.json"] = checkpoint.get(name, {})
    files["validation/perf_ledgers.json.gz"] = checkpoint.get("perf_ledgers", {})
    for pair, by_miner in checkpoint.get("limit_orders", {}).items():
        for hotkey, orders in by_miner.items():
            for order in orders:
                assert (order["trade_pair_id"], order["src"] in (5, 8, 13)) == (pair, True)
                path = f"validation/miners/{hotkey}/limit_orders/{pair}/unfilled/{order['order_uuid']}"
                files[path] = {key: order[key] for key in ("order_uuid", "processed_ms", "quantity")}
    return files


async def test_a_validator_restores_its_files(served: Served) -> None:
    """Every position, waiting order and document of the directory; `close_ms` of open positions is 0."""
    found = restored((await served.get("/validator-checkpoint")).content)
    expected = {
        path for path in newest.files() if "/positions/" in path or "/unfilled/" in path or path in found
    }
    assert found.keys() == expected
    for path, content in found.items():
        original = stored(path)
        if "/limit_orders/" in path:
            original = {key: original[key] for key in content}
        if "/positions/" in path:
            original["close_ms"] = original["close_ms"] or 0
            for order in original["orders"]:
                if order["processed_ms"] < NOW - 7 * DAY:
                    order["price_sources"] = []
        assert_close(content, original, path)


async def test_the_checkpoint_without_anything_but_a_directory() -> None:
    """Empty defaults; without orders the times are null and 0."""
    log = filled_log([document(Document.MINERS, [MINER])])
    async with serving(log) as served:
        checkpoint = (await served.get("/validator-checkpoint")).json()
        assert list(checkpoint["positions"]) == [MINER]
        times = [checkpoint[f"{name}_order_processed_ms"] for name in ("youngest", "oldest")]
        assert times == [None, 0]
        assert [checkpoint[key] for key in CHECKPOINT if checkpoint[key] == {}] == [{}] * 7
        assert checkpoint["eliminations"] == []


# --- positions and orders ---------------------------------------------------------------------------------


async def test_archived_positions_belong_to_one_route(served: Served) -> None:
    """Listed and counted with the live ones at tier 100 and above, and nowhere else."""
    everyone = (await served.get("/miner-positions")).json()
    for hotkey, sums in newest.expected()["archived_included"].items():
        archived = {p["position_uuid"] for p in CHECKPOINT["archived_positions"][hotkey]["positions"]}
        live = {p["position_uuid"] for p in CHECKPOINT["positions"][hotkey]["positions"]}
        for key in ("k100", "k200"):
            entry = (await served.get(f"/miner-positions/{hotkey}", key)).json()
            assert {p["position_uuid"] for p in entry["positions"]} == archived | live
            assert_close({name: entry[name] for name in sums}, sums, hotkey)
        below = await served.get(f"/miner-positions/{hotkey}", "k50")
        assert not archived & {p["position_uuid"] for p in below.json()["positions"]}
        assert {p["position_uuid"] for p in everyone[hotkey]["positions"]} == live
    epoch = "e" * 32
    changed = (await served.get(f"/miner-positions?since={epoch}:0")).json()
    for hotkey, entry in CHECKPOINT["archived_positions"].items():
        archived = {p["position_uuid"] for p in entry["positions"]}
        assert not archived & {p["position_uuid"] for p in changed["positions"][hotkey]}


async def test_limit_orders(served: Served) -> None:
    """Without `status` the unfilled ones; with it by status, of which filled ones are none."""
    for hotkey, expected in newest.expected()["limit_orders"].items():
        unfilled = sorted(expected["unfilled"], key=lambda order: order["processed_ms"])
        cancelled = sorted(expected["closed"], key=lambda order: order["processed_ms"])
        path = f"/limit-orders/{hotkey}"
        assert_close((await served.get(path)).json(), unfilled, hotkey)
        by_status = (await served.get(path + "?status=cancelled,%20Unfilled,filled")).json()
        assert list(by_status) == ["cancelled", "unfilled", "filled"]
        assert_close(by_status, {"cancelled": cancelled, "unfilled": unfilled, "filled": []}, hotkey)
        orders = (await served.get(f"/orders/{hotkey}")).json()
        assert_close(orders["unfilled"], unfilled)
        assert_close(orders["cancelled"], cancelled)
        assert list(orders) == ["unfilled", "filled", "cancelled"]
        filled = [o for p in CHECKPOINT["positions"][hotkey]["positions"] for o in p["orders"]]
        times = [order["processed_ms"] for order in orders["filled"]]
        assert times == sorted(times)
        assert {o["order_uuid"] for o in orders["filled"]} == {o["order_uuid"] for o in filled}
        assert all(list(o) == list(unfilled[0]) for o in orders["filled"])


async def test_miners_without_orders(served: Served) -> None:
    """404 with the miner's name; one who has none of the requested ones, too."""
    without = "5SynEnUtzSBUCXFruKjpUSRKu4YztMaKsVquhJgcL1RWw1Ex"
    for path, sentence in [
        ("/orders/5Unknown", "No orders found for miner 5Unknown"),
        (f"/orders/{without}?status=unfilled", f"No orders found for miner {without}"),
        ("/limit-orders/5Unknown", "No limit orders found for miner 5Unknown"),
        (f"/limit-orders/{without}", f"No limit orders found for miner {without}"),
    ]:
        response = await served.get(path)
        assert (response.status_code, response.json()["error"]) == (404, sentence)
    assert list((await served.get(f"/orders/{without}")).json()["unfilled"]) == []


@pytest.mark.parametrize("route", ["orders", "limit-orders"])
async def test_unknown_statuses(served: Served, route: str) -> None:
    """400, naming the unknown ones and the valid ones."""
    response = await served.get(f"/{route}/{FIRST}?status=open,filled,%27x%27")
    assert (response.status_code, response.json()["code"]) == (400, "bad_parameter")
    assert response.json()["error"] == (
        "Invalid status values: {\"'x'\", 'open'}. Valid values are: unfilled, filled, cancelled"
    )


# --- documents --------------------------------------------------------------------------------------------


async def test_ledgers(served: Served) -> None:
    """As in their files; perf ledgers by hotkey, debt ledgers also in numbers."""
    for hotkey, ledger in CHECKPOINT["perf_ledgers"].items():
        assert (await served.get(f"/perf-ledger/{hotkey}", "k0")).json() == {hotkey: ledger}
    for name in ("debt", "emissions", "penalty"):
        for hotkey, ledger in stored(f"validation/{name}_ledger.json.gz")["ledgers"].items():
            assert (await served.get(f"/{name}-ledger/{hotkey}", "k0")).json() == ledger
        missing = await served.get(f"/{name}-ledger/5Unknown", "k0")
        sentence = f"{name.capitalize()} ledger data not found"
        assert (missing.status_code, missing.json()["error"]) == (404, sentence)
    summaries = (await served.get("/debt-ledger", "k0")).json()
    assert summaries[FIRST] == {
        "hotkey": FIRST,
        "total_checkpoints": 1,
        "cumulative_emissions_alpha": 1.5,
        "cumulative_emissions_tao": 0.01,
        "cumulative_emissions_usd": 4.0,
        "portfolio_return": 1.01,
        "weighted_score": 1.0,
        "latest_checkpoint_ms": 1795608000000,
        "net_pnl": 4.0,
        "total_fees": -2.0,
    }


@pytest.mark.parametrize(
    ("hotkey", "expected"),
    [
        (FIRST, [("CHALLENGE", 1787834096789), ("MAINCOMP", 1790426096789)]),
        (
            "5Synj5GjvAxZpRhUVBrr7ZJzg6keG23ShqMeNNG6P4tCLUzK",
            [("CHALLENGE", 1787834096789), ("PROBATION", 1793882096789)],
        ),
        (
            "5SynAcFoeqEcvFCw58cd1zVwyRWzEDWx4PNDiWu2ybnCFbSF",
            [("CHALLENGE", 1787834096789), ("MAINCOMP", 1790426096789)],
        ),
        (ENTITY, [("ENTITY", 1792154096789)]),
    ],
)
async def test_challenge_periods(served: Served, hotkey: str, expected: list[tuple[str, int]]) -> None:
    """From each form of the file; the history is oldest first."""
    periods = [{"bucket": bucket, "start_time_ms": start} for bucket, start in expected]
    now = {"status": "success", "hotkey": hotkey, "challenge_period": periods[-1], "timestamp": NOW}
    assert (await served.get(f"/challenge-period/{hotkey}", "k0")).json() == now
    with_history = (await served.get(f"/challenge-period/{hotkey}?history=true", "k0")).json()
    assert with_history == now | {"history": periods}


async def test_an_eliminated_miner_in_the_challenge_period() -> None:
    """The reason comes from the eliminations; unknown miners are 404; the oldest form of the file."""
    log = filled_log(
        [
            document(Document.CHALLENGEPERIOD, {"a": [{"bucket": "ELIMINATED", "bucket_start_time": 7}]}),
            document(Document.ELIMINATIONS, {"eliminations": [{"hotkey": "a", "reason": "ZOMBIE"}]}),
        ]
    )
    async with serving(log) as served:
        found = (await served.get("/challenge-period/a")).json()
        assert found["challenge_period"] == {"bucket": "ELIMINATED", "start_time_ms": 7, "reason": "ZOMBIE"}
        missing = await served.get("/challenge-period/b")
        assert (missing.status_code, missing.json()["error"]) == (404, "Miner ID b not found")
        log.append([document(Document.CHALLENGEPERIOD, {"testing": {"b": 5}, "success": {}})], NOW)
        found = (await served.get("/challenge-period/b")).json()
        assert found["challenge_period"] == {"bucket": "CHALLENGE", "start_time_ms": 5}


async def test_account_snapshots(served: Served) -> None:
    """The last ones, oldest first, with the return on the account's size."""
    lines = newest.files()[f"validation/miners/{FIRST}/snapshots.jsonl"].splitlines()
    rows = [json.loads(line) for line in lines]
    answer = (await served.get(f"/account-snapshots/{FIRST}", "k0")).json()
    assert (answer["hotkey"], answer["count"]) == (FIRST, len(rows))
    first = answer["snapshots"][0]
    assert first == rows[0] | {
        "snapshot_date": "2026-11-24 06:34:56",
        "equity_return": rows[0]["equity"] / rows[0]["account_size"],
    }
    last = (await served.get(f"/account-snapshots/{FIRST}?limit=2", "k0")).json()["snapshots"]
    assert [row["snapshot_ms"] for row in last] == [row["snapshot_ms"] for row in rows[-2:]]
    for query, status, sentence in [
        ("limit=x", 400, "limit must be an integer"),
        ("limit=0", 400, "limit must be >= 1"),
        ("limit=99999999999999999999", 200, None),
    ]:
        response = await served.get(f"/account-snapshots/{FIRST}?{query}")
        assert (response.status_code, response.json().get("error")) == (status, sentence)
    missing = await served.get("/account-snapshots/5Unknown")
    assert (missing.status_code, missing.json()["error"]) == (
        404,
        "No snapshots found for miner 5Unknown",
    )


async def test_odd_snapshots() -> None:
    """The older key of the time counts; a line without a number is skipped; a size of 0 has no return."""
    lines = [
        {"day_open_ms": 0, "account_size": 0.0, "balance": 1.0, "equity": 2.0},
        {"snapshot_ms": 1, "account_size": None, "balance": 1.0, "equity": 2.0},
        {"account_size": 1.0, "balance": 1.0, "equity": 2.0},
        {"snapshot_ms": 1e300, "account_size": 1.0, "balance": 1.0, "equity": 2.0},
        {"snapshot_ms": 1, "account_size": 1e-300, "balance": 1.0, "equity": 1e300},
    ]
    async with serving(filled_log([document(Document.SNAPSHOTS, lines, "a")])) as served:
        answer = (await served.get("/account-snapshots/a")).json()
        assert answer["snapshots"] == [
            {
                "snapshot_ms": 0,
                "snapshot_date": "1970-01-01 00:00:00",
                "account_size": 0.0,
                "balance": 1.0,
                "equity": 2.0,
                "equity_return": 1.0,
            }
        ]


async def test_collateral(served: Served) -> None:
    """The records of each miner, from all forms of the file; the account's other values are left out."""
    answer = (await served.get("/collateral/", "k0")).json()
    records = [r for r in CHECKPOINT["miner_account_sizes"][FIRST] if "update_time_ms" in r]
    assert answer["data"][FIRST] == records
    assert (answer["status"], answer["miner_count"], answer["total_records"]) == ("success", 4, 5)
    assert answer["timestamp"] == NOW
    one = (await served.get(f"/collateral/?hotkey={FIRST}&most_recent=true", "k0")).json()
    assert one["data"] == {FIRST: records[-1:]}
    assert (await served.get("/collateral/?hotkey=5Unknown", "k0")).json()["data"] == {}
    sizes = {"a": {"miner_hotkey": "a", "collateral_records": records}, "_cost_per_theta": 5.0}
    served.log.append([document(Document.ACCOUNT_SIZES, sizes)], NOW)
    assert (await served.get("/collateral/", "k0")).json()["data"] == {"a": records}


async def test_an_order_that_moves_an_account_leaves_no_trace_in_the_collateral(served: Served) -> None:
    """The file changes with every order: neither the bytes nor the timestamp may tell."""
    before = await served.get("/collateral/", "k0")
    sizes = json.loads(newest.files()["validation/miner_account_sizes.json"])
    sizes[FIRST][-1]["capital_used"] = 5000.0
    served.log.append([document(Document.ACCOUNT_SIZES, sizes)], NOW)
    served.clock.now_ms += 5_000
    after = await served.get("/collateral/", "k0")
    assert after.content == before.content
    assert after.headers["etag"] == before.headers["etag"]


async def test_selections_and_entities(served: Served) -> None:
    """As in their files, with counts."""
    selections = (await served.get("/miner-selections", "k0")).json()
    classes = CHECKPOINT["asset_selections"]
    assert selections == {"miner_selections": classes, "total_miners": 5, "timestamp": NOW}
    listed = (await served.get("/entities", "k200")).json()
    assert listed == {
        "status": "success",
        "entities": CHECKPOINT["entities"],
        "entity_count": 1,
        "timestamp": NOW,
    }
    entity = (await served.get(f"/entity/{ENTITY}", "k200")).json()
    assert entity == {"status": "success", "entity": CHECKPOINT["entities"][ENTITY]}
    missing = await served.get("/entity/5Unknown", "k200")
    assert (missing.status_code, missing.json()["error"]) == (404, "Entity 5Unknown not found")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (f"subaccount={ENTITY}_1", 200),
        (f"subaccount={ENTITY}_3", 200),
        ("hl_address=0xABABABABABABABABABABABABABABABABABABABAB", 200),
        ("hl_address=0x00", 404),
        (f"subaccount={ENTITY}", 404),
        ("hl_address=", 400),
        ("", 400),
    ],
)
async def test_entity_endpoints(served: Served, query: str, status: int) -> None:
    """Without a key; by subaccount, or by address in any case."""
    response = await served.get(f"/entity/endpoint?{query}", None)
    assert response.status_code == status
    if status == 200:
        assert response.json() == {
            "status": "success",
            "entity_hotkey": ENTITY,
            "endpoint_url": "https://gateway.example.invalid",
        }


async def test_trade_pairs(served: Served) -> None:
    """Without a key; of one class, or all."""
    everything = (await served.get("/trade-pairs", None)).json()
    assert (everything["total_allowed"], everything["total_disabled"]) == (1124, 26)
    assert everything["timestamp"] == NOW
    crypto = (await served.get("/trade-pairs?asset_class=Crypto", None)).json()
    assert {pair["trade_pair_category"] for pair in crypto["allowed"]} == {"crypto"}
    assert {pair["trade_pair_source"] for pair in crypto["allowed"]} == {"hyperliquid"}
    unknown = await served.get("/trade-pairs?asset_class=Bonds", None)
    assert unknown.status_code == 400
    assert unknown.json()["error"].startswith(
        "Invalid asset class: Bonds. Allowed values are crypto, forex, "
    )


# --- access -----------------------------------------------------------------------------------------------


async def test_health_for_todays_clients(served: Served) -> None:
    """Healthy only while the service is."""
    healthy = await served.get("/api/health", None)
    expected = {"status": "healthy", "service": "ValidatorRestServer", "timestamp_ms": NOW}
    assert (healthy.status_code, healthy.json()) == (200, expected)
    assert healthy.headers["cache-control"] == "no-store"
    served.log.set_source(type(served.log.source())(swept_ms=NOW, stale=True, reason="unreadable"))
    response = await served.get("/api/health", None)
    assert (response.status_code, response.json()["status"]) == (503, "unhealthy")


@pytest.mark.parametrize("key", ["k0", "k30", "k50"])
async def test_a_lower_tier_knows_the_miners_that_it_shows(served: Served, key: str) -> None:
    """The same in the document of all, the list of hotkeys and single requests."""
    shown = (await served.get(f"/miner-positions?tier={key[1:]}", key)).json()
    assert all(entry["positions"] for entry in shown.values())
    assert (await served.get("/miner-hotkeys", key)).json() == sorted(shown)
    for hotkey in CHECKPOINT["positions"]:
        response = await served.get(f"/miner-positions/{hotkey}", key)
        assert response.status_code == (200 if hotkey in shown else 404)


async def test_the_hotkey_for_tests_is_not_listed() -> None:
    """Its positions are served."""
    log = filled_log([document(Document.MINERS, ["DEVELOPMENT", MINER])])
    async with serving(log) as served:
        assert (await served.get("/miner-hotkeys")).json() == [MINER]
        assert (await served.get("/miner-positions/DEVELOPMENT")).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"/miner/{FIRST}",
        f"/entity/subaccount/{ENTITY}_0",
        "/v2/anything/at/all",
        "/hl-traders/0x00/limits",
        "/hl-leaderboard",
        f"/collateral/balance/{FIRST}",
        "/api/health/rpc",
    ],
)
async def test_what_is_not_in_files_is_not_served(served: Served, path: str) -> None:
    """404 with a sentence that says so."""
    response = await served.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert response.json()["error"].startswith("Not served: ")
