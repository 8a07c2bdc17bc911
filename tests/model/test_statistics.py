"""Reading the validator's documents about miners."""

from __future__ import annotations

import msgspec

from ptn_api.model.statistics import Eliminations, PerfLedger, Statistics

CHECKPOINT = {"last_update_ms": 5, "gain": 0.012, "loss": -0.002, "mdd": 0.995, "n_updates": 10, "newer": 1}


def test_statistics_are_read() -> None:
    """Known keys typed, unknown ones ignored, values without a fixed shape unchanged."""
    document = {
        "version": 6,
        "created_timestamp_ms": 1,
        "data": [
            {"hotkey": "a", "scores": {"omega": {"value": 1.5}}, "checkpoints": [CHECKPOINT], "newer": {}},
            {"hotkey": "b"},
        ],
        "constants": {"x": 1},
        "newer": [],
    }
    statistics = msgspec.convert(document, Statistics)
    first, second = statistics.data
    assert first.scores == {"omega": {"value": 1.5}}
    assert first.checkpoints is not None
    assert (first.checkpoints[0].gain, first.checkpoints[0].mpv) == (0.012, None)
    assert (second.checkpoints, second.weight) == (None, None)


def test_a_perf_ledger_is_read() -> None:
    """Even an empty one."""
    ledger = msgspec.convert({"max_return": 1.012, "cps": [CHECKPOINT, {}]}, PerfLedger)
    assert (ledger.max_return, len(ledger.cps), ledger.cps[1].gain) == (1.012, 2, None)
    assert msgspec.convert({}, PerfLedger).cps == []


def test_eliminations_are_read() -> None:
    """With a drawdown only if it was the reason."""
    document = {
        "eliminations": [{"hotkey": "a", "dd": None, "reason": "ZOMBIE"}, {"hotkey": "b", "dd": 0.91}]
    }
    first, second = msgspec.convert(document, Eliminations).eliminations
    assert (first.dd, first.reason, second.dd) == (None, "ZOMBIE", 0.91)
