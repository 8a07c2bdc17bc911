"""The network's own results for files of 2025 and 2026, through intake and a REST server."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from ptn_api.rest.app import App
from ptn_api.rest.routes import ROUTES
from tests.factories import written
from tests.intake.running import running
from tests.intake.validator_dir import ValidatorDir
from tests.model.expected import golden, same
from tests.rest.serving import DAY, FakeClock, Served, context_over, filled_log, key_ring, respond, serving

TIERS = (0, 30, 50, 100)


def as_stored(body: dict[str, Any], now_ms: int) -> dict[str, Any]:
    """Returns a file as it is shown: price sources for 7 days, close_ms 0 while open."""
    orders = [
        o | ({"price_sources": []} if o["processed_ms"] < now_ms - 7 * DAY else {}) for o in body["orders"]
    ]
    return body | {"orders": orders, "close_ms": body["close_ms"] or 0}


def wanted_in(case: dict[str, Any], tier: int) -> dict[str, dict[str, Any]]:
    """Returns what the tier shows of each miner, by uuid."""
    wanted: dict[str, dict[str, Any]] = {}
    for hotkey, bodies in case["files"].items():
        for body in bodies:
            uuid = body["position_uuid"]
            sample = int.from_bytes(hashlib.sha256(uuid.encode()).digest(), "big") % 100
            shown = as_stored(body, case["now_ms"])
            if sample >= tier and uuid in case["replayed"]:
                shown = case["replayed"][uuid]
            if shown is not None:
                wanted.setdefault(hotkey, {})[uuid] = shown | {"close_ms": shown["close_ms"] or 0}
    return wanted


def sums_of(positions: list[dict[str, Any]], now_ms: int, lookback_days: int) -> dict[str, Any]:
    counted = [p for p in positions if p["close_ms"] and p["close_ms"] - p["open_ms"] >= 60_000]
    recent = [p for p in counted if p["open_ms"] > now_ms - lookback_days * DAY]
    return {
        "thirty_day_returns": math.prod(p["return_at_close"] for p in recent),
        "all_time_returns": math.prod(p["return_at_close"] for p in counted),
        "n_positions": len(counted),
        "percentage_profitable": sum(p["return_at_close"] > 1 for p in counted) / max(1, len(counted)),
    }


async def served_positions(served: Served, tier: int) -> Any:
    """Returns the tier's document; every other route about positions agrees with it."""
    key = f"k{tier}"
    document = (await served.get(f"/miner-positions?tier={tier}", key)).json()
    assert (await served.get("/miner-hotkeys", key)).json() == sorted(document)
    for hotkey, entry in document.items():
        one = await served.get(f"/miner-positions?tier={tier}&miner={hotkey}", key)
        assert one.json() == {hotkey: entry}
        if tier < 100:
            assert (await served.get(f"/miner-positions/{hotkey}", key)).json() == entry
    return document


@pytest.mark.parametrize(
    ("name", "lookback_days"), [("tiers", 180), ("tiers", 120), ("tiers", 90), ("tiers_dec2025", 180)]
)
async def test_a_directory_in_every_tier(tmp_path: Path, name: str, lookback_days: int) -> None:
    """Every position and sum, with the clock at the time of the data."""
    case, sums = golden(name), golden("aggregates")
    archived = sums["archived"] if name == "tiers" else {}
    now_ms = case["now_ms"]
    validator = ValidatorDir(tmp_path / "validator")
    for bodies in case["files"].values():
        for body in bodies:
            validator.write(body)
    for bodies in archived.values():
        for body in bodies:
            path = str(validator.file(body)).replace("/positions/", "/archived_positions/")
            validator.put(Path(path), json.dumps(body).encode())
    statistics = {"data": [], "constants": {"SET_WEIGHT_LOOKBACK_RANGE_DAYS": lookback_days}}
    validator.document("runnable/minerstatistics.json", json.dumps(statistics).encode())
    async with (
        running(tmp_path / "data", validator, created_ms=now_ms) as intake,
        serving(intake.log, clock=FakeClock(now_ms), requests_per_minute=0) as served,  # type: ignore[arg-type]
    ):
        await intake.swept()
        for tier in TIERS:
            document, wanted = await served_positions(served, tier), wanted_in(case, tier)
            assert document.keys() == (case["files"] if tier == 100 else wanted).keys()
            for hotkey, entry in document.items():
                positions = {p["position_uuid"]: p for p in entry["positions"]}
                assert same(positions, wanted.get(hotkey, {})), (tier, hotkey)
                assert all(list(p) == list(wanted[hotkey][uuid]) for uuid, p in positions.items())
                shown = sums_of(entry["positions"], now_ms, lookback_days)
                assert same({key: entry[key] for key in shown}, shown)
                if tier == 100 and name == "tiers":
                    assert same(shown, sums["expected"][str(lookback_days)][hotkey])
        if lookback_days == 180:
            for hotkey, expected in (sums["expected"]["180_with_archived"] if archived else {}).items():
                entry = (await served.get(f"/miner-positions/{hotkey}")).json()
                assert same({key: entry[key] for key in expected}, expected)


@pytest.mark.parametrize("name", ["accounting_usd", "accounting_dec2025", "accounting_nov2025"])
async def test_a_delayed_view_after_each_order(name: str) -> None:
    """A day after each of a position's orders, tier 0 is shown the network's own state after it."""
    met = 0
    for case in golden(name)["cases"]:
        file, states = case["file"], case.get("states_rebuilt") or case["states"]
        times = [order["processed_ms"] for order in file["orders"]]
        hotkey = file["miner_hotkey"]
        clock = FakeClock(times[0])
        context = await context_over(filled_log([written(file)], now_ms=times[0]), clock)
        app = App(context, key_ring(), ROUTES, monotonic=clock)
        for length, state in enumerate(states, 1):
            cutoff_ms = times[length - 1] + 1
            if [t < cutoff_ms for t in times] != [True] * length + [False] * (len(times) - length):
                continue  # no moment shows these orders alone
            if file["is_closed_position"] and file["close_ms"] < cutoff_ms:
                break
            clock.now_ms = cutoff_ms + DAY
            await context.follower.catch_up()
            response = await respond(app, f"/miner-positions/{hotkey}", "k0")
            if state is None:
                assert response.status == 404
                continue
            (shown,) = json.loads(response.body)["positions"]
            known = state.keys() & shown.keys() - {"orders", "fee_history", "close_ms"}
            assert len(known) > 8
            assert same({key: shown[key] for key in known}, {key: state[key] for key in known}), case["case"]
            assert shown["close_ms"] == (state["close_ms"] or 0)
            met += 1
    assert met > 100
