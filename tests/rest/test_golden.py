"""Every tier's document and the checkpoint equal independently computed ones."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from ptn_api.event_log import Document
from tests.factories import written
from tests.rest.serving import FakeClock, body_of, context_over, document, encoded, filled_log

GOLDEN = Path(__file__).parents[3] / "shared/data/golden/tiers.json.gz"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="the golden data is not at hand")


def scenarios() -> list[Any]:
    if not GOLDEN.exists():
        return []
    found: list[Any] = json.loads(gzip.decompress(GOLDEN.read_bytes()))["scenarios"]
    return found


def assert_close(actual: Any, expected: Any, where: str) -> None:
    """Equal, floats to 1e-9."""
    if isinstance(expected, float) or isinstance(actual, float):
        assert math.isclose(actual, expected, rel_tol=1e-9, abs_tol=1e-12), (where, actual, expected)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_close(actual[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for n, value in enumerate(expected):
            assert_close(actual[n], value, f"{where}[{n}]")
    else:
        assert actual == expected, where


def assert_entry(actual: dict[str, Any], expected: dict[str, Any], where: str, *, sums: bool) -> None:
    """Equal entries. Without `sums` their aggregates are not compared: the data was computed when those of
    eliminated miners were neutral.
    """
    actual, expected = in_any_order(actual), in_any_order(expected)
    if sums:
        assert_close(actual, expected, where)
    else:
        assert_close(actual["positions"], expected["positions"], where)


def in_any_order(entry: dict[str, Any]) -> dict[str, Any]:
    """Sorts positions with equal close_ms, whose order is arbitrary in the data."""
    return {**entry, "positions": sorted(entry["positions"], key=lambda p: p["position_uuid"])}


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario["name"])
async def test_tiers_and_checkpoint(scenario: dict[str, Any]) -> None:
    """Entries, miners' order in tier 100, and the checkpoint, for the files of a validator."""
    files, expected, now_ms = scenario["input"], scenario["expected"], scenario["now_ms"]
    changes = [written(body) for bodies in files["positions_on_disk"].values() for body in bodies]
    changes += [
        document(Document.ELIMINATIONS, files["eliminations_json"]),
        document(Document.STATISTICS, {"constants": {"SET_WEIGHT_LOOKBACK_RANGE_DAYS": 90}}),
        document(Document.CHALLENGEPERIOD, files["challengeperiod_json"]),
        document(Document.PERF_LEDGERS, files["perf_ledgers_json"]),
    ]
    context = await context_over(filled_log(changes, now_ms=now_ms), FakeClock(now_ms))
    eliminated = {row["hotkey"] for row in files["eliminations_json"]["eliminations"]}
    for tier, miners in expected["tiers"].items():
        shown = await body_of(context, int(tier))
        # Below tier 100 the expected document still names miners of whom the tier shows nothing.
        assert shown.keys() == {key for key, entry in miners.items() if entry["positions"] or tier == "100"}
        for hotkey, entry in shown.items():
            assert_entry(entry, miners[hotkey], f"{tier}.{hotkey}", sums=hotkey not in eliminated)
            close_times = [p["close_ms"] or math.inf for p in entry["positions"]]
            assert close_times == sorted(close_times)
    returns = [entry["thirty_day_returns"] for entry in (await body_of(context, 100)).values()]
    assert returns == sorted(returns, reverse=True)

    snapshot = await context.checkpoint.snapshot()
    assert snapshot is not None
    checkpoint = json.loads(encoded(snapshot))
    positions = checkpoint.pop("positions")
    known = expected["checkpoint_without_positions"]
    assert known.keys() <= {"positions", *checkpoint}
    for key in known.keys() - {"version", "positions"}:
        assert_close(checkpoint[key], known[key], f"checkpoint.{key}")
    for hotkey, entry in expected["tiers"]["100"].items():
        without_tier = {key: value for key, value in entry.items() if key != "tier"}
        where = f"checkpoint.{hotkey}"
        assert_entry(positions[hotkey], without_tier, where, sums=hotkey not in eliminated)
