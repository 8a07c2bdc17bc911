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
        document(Document.CHALLENGEPERIOD, files["challengeperiod_json"]),
        document(Document.PERF_LEDGERS, files["perf_ledgers_json"]),
    ]
    context = await context_over(filled_log(changes, now_ms=now_ms), FakeClock(now_ms))
    for tier, miners in expected["tiers"].items():
        shown = await body_of(context, int(tier))
        assert shown.keys() == miners.keys()
        for hotkey, entry in miners.items():
            assert_close(in_any_order(shown[hotkey]), in_any_order(entry), f"{tier}.{hotkey}")
            close_times = [p["close_ms"] or math.inf for p in shown[hotkey]["positions"]]
            assert close_times == sorted(close_times)
    returns = [entry["thirty_day_returns"] for entry in (await body_of(context, 100)).values()]
    assert returns == sorted(returns, reverse=True)

    snapshot = context.checkpoint.snapshot()
    assert snapshot is not None
    checkpoint = json.loads(encoded(snapshot))
    positions = checkpoint.pop("positions")
    assert (
        list(checkpoint) == [key for key in expected["checkpoint_without_positions"] if key != "positions"]
        or checkpoint.keys() == expected["checkpoint_without_positions"].keys()
    )
    assert_close(
        {key: value for key, value in checkpoint.items() if key != "version"},
        {k: v for k, v in expected["checkpoint_without_positions"].items() if k != "version"},
        "checkpoint",
    )
    for hotkey, entry in expected["tiers"]["100"].items():
        without_tier = {key: value for key, value in entry.items() if key != "tier"}
        assert_close(in_any_order(positions[hotkey]), in_any_order(without_tier), f"checkpoint.{hotkey}")
