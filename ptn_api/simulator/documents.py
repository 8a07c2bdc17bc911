"""The documents of a simulated validator of 2025: eliminations, challenge period, ledgers and statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timezone
from random import Random
from typing import Any

import msgspec

from ptn_api.simulator.journal import DocumentRewritten, Journal
from ptn_api.simulator.market import seeded
from ptn_api.simulator.miner import Miner
from ptn_api.simulator.position import SimulatedPosition
from ptn_api.simulator.validator import ValidatorFiles

__all__ = ["Documents"]

_ELIMINATIONS = "validation/eliminations.json"
_LEDGERS = "validation/perf_ledgers.json"
_STATISTICS = "runnable/minerstatistics.json"
_CHECKPOINT_MS = 43_200_000
_WINDOW_MS = 7_776_000_000
_CHALLENGE_MS = 60 * 86_400_000
_REASONS = (
    "MAX_TOTAL_DRAWDOWN",
    "FAILED_CHALLENGE_PERIOD_DRAWDOWN",
    "FAILED_CHALLENGE_PERIOD_TIME",
    "PLAGIARISM",
    "ZOMBIE",
    "LIQUIDATED",
)


_encode = msgspec.json.Encoder().encode


class _Eliminations(msgspec.Struct):
    eliminations: list[dict[str, Any]] = msgspec.field(default_factory=list)


class _ChallengePeriod(msgspec.Struct):
    testing: dict[str, int] = msgspec.field(default_factory=dict)
    success: dict[str, int] = msgspec.field(default_factory=dict)


class _Report(msgspec.Struct):
    """A miner's encoded ledgers and statistics, as last computed."""

    ledgers: msgspec.Raw
    statistics: msgspec.Raw


class Documents:
    """Writers of all documents. The large ones are recomputed for a share of the miners at a time.

    `checkpoints` is the length of a ledger: 180 (of 12 hours each) make 60 MB of ledgers for 250 miners.
    """

    CHALLENGEPERIOD = "validation/challengeperiod.json"

    def __init__(self, files: ValidatorFiles, journal: Journal, seed: int, checkpoints: int) -> None:
        self._files = files
        self._journal = journal
        self._seed = seed
        self._checkpoints = checkpoints
        self._eliminations = _Eliminations()
        self._challenge = _ChallengePeriod()
        self._reports: dict[str, _Report] = {}

    def load(self, miners: Iterable[Miner], now_ms: int) -> None:
        """Reads eliminations and challenge period; a missing or malformed file counts as empty."""
        self._eliminations = _read(self._files, _ELIMINATIONS, _Eliminations)
        self._challenge = _read(self._files, self.CHALLENGEPERIOD, _ChallengePeriod)

    # --- membership ---------------------------------------------------------------------------------------

    def eliminated(self) -> set[str]:
        return {str(row["hotkey"]) for row in self._eliminations.eliminations}

    def admit(self, miner: Miner, at_ms: int, *, veteran: bool) -> None:
        """Adds a miner to the challenge period, a veteran to those that passed it. Does not write."""
        group = self._challenge.success if veteran else self._challenge.testing
        group[miner.hotkey] = at_ms

    def promote(self, hotkey: str, now_ms: int) -> None:
        """Notes that a miner passed the challenge period, or starts again."""

    def forget(self, hotkey: str, now_ms: int) -> None:
        """Drops a removed miner from the challenge period and the reports."""
        self._challenge.testing.pop(hotkey, None)
        self._challenge.success.pop(hotkey, None)
        self._reports.pop(hotkey, None)
        self.write_challengeperiod(now_ms)

    def eliminate(self, hotkey: str, now_ms: int, rng: Random, prices: dict[str, float]) -> str:
        """Adds a miner to the eliminations and writes them; `prices` of its pairs. Returns the reason."""
        reason = rng.choice(_REASONS)
        dd = round(rng.uniform(0.82, 0.9), 6) if "DRAWDOWN" in reason else None
        self._eliminations.eliminations.append(
            {"hotkey": hotkey, "elimination_initiated_time_ms": now_ms, "dd": dd, "reason": reason}
        )
        self.write_eliminations(now_ms)
        self.forget(hotkey, now_ms)
        return reason

    def eliminations(self) -> list[dict[str, Any]]:
        """Returns a copy of the eliminations for `restore`."""
        return list(self._eliminations.eliminations)

    def restore(self, eliminations: list[dict[str, Any]], now_ms: int) -> None:
        """Replaces the eliminations by earlier ones and writes them."""
        self._eliminations.eliminations = list(eliminations)
        self.write_eliminations(now_ms)

    # --- accounts, which only validators of today keep ----------------------------------------------------

    def balance(self, hotkey: str) -> float:
        """Returns the USD that a miner may trade with."""
        return 0.0

    def book(self, position: SimulatedPosition) -> None:
        """Books a position's new orders."""

    def write_snapshots(self, miners: Iterable[Miner], now_ms: int, since_ms: int) -> None:
        """Writes the accounts since a time."""

    # --- writing ------------------------------------------------------------------------------------------

    def write_small(self, now_ms: int) -> None:
        """Writes the documents that only change with the membership."""
        self.write_eliminations(now_ms)
        self.write_challengeperiod(now_ms)

    def write_eliminations(self, now_ms: int) -> None:
        self._write(_ELIMINATIONS, _encode(self._eliminations), now_ms)

    def write_challengeperiod(self, now_ms: int) -> None:
        self._write(self.CHALLENGEPERIOD, _encode(self._challenge), now_ms)

    def write_reports(
        self, miners: Iterable[Miner], now_ms: int, rng: Random, *, share: float | None = None
    ) -> None:
        """Writes ledgers and statistics, recomputed for that share of the miners and for new ones."""
        share = 0.1 if share is None else share
        present = list(miners)
        for miner in present:
            if miner.hotkey not in self._reports or rng.random() < share:
                names = ("portfolio", *(instrument.id for instrument in miner.pairs))
                ledgers = {name: self._ledger(miner, name, now_ms) for name in names}
                statistics = self._miner_statistics(miner, ledgers["portfolio"], now_ms)
                self._reports[miner.hotkey] = _Report(
                    msgspec.Raw(_encode(ledgers)), msgspec.Raw(_encode(statistics))
                )
        reports = {m.hotkey: self._reports[m.hotkey] for m in present}
        self._write(_LEDGERS, _encode({hotkey: report.ledgers for hotkey, report in reports.items()}), now_ms)
        document = {
            "version": "7.1.0",
            "created_timestamp_ms": now_ms,
            "created_date": _date(now_ms, "%Y-%m-%d %H:%M:%S"),
            "data": [report.statistics for report in reports.values()],
            "constants": {"return_statistics": {}, "carry_fee_weekday": 2, "risk_free_rate": 0.0419},
        }
        self._write(_STATISTICS, _encode(document), now_ms)

    def _write(self, name: str, body: bytes, now_ms: int) -> None:
        self._files.write_document(name, body)
        self._journal.add(DocumentRewritten(at_ms=now_ms, name=name))

    # --- computing ----------------------------------------------------------------------------------------

    def _ledger(self, miner: Miner, name: str, now_ms: int) -> dict[str, Any]:
        rng = seeded(f"{self._seed}/ledger/{miner.hotkey}/{name}/{now_ms // _CHECKPOINT_MS}")
        first = now_ms // _CHECKPOINT_MS - self._checkpoints + 1
        checkpoints = []
        value = peak = 1.0
        for cell in range(first, first + self._checkpoints):
            checkpoint = _checkpoint(cell, value, peak, now_ms, miner.size, rng)
            checkpoints.append(checkpoint)
            value = checkpoint["prev_portfolio_ret"]
            peak = max(peak, value)
        return {
            "initialization_time_ms": first * _CHECKPOINT_MS,
            "max_return": peak,
            "target_cp_duration_ms": _CHECKPOINT_MS,
            "target_ledger_window_ms": _WINDOW_MS,
            "cps": checkpoints,
        }

    def _miner_statistics(self, miner: Miner, portfolio: dict[str, Any], now_ms: int) -> dict[str, Any]:
        rng = seeded(f"{self._seed}/statistics/{miner.hotkey}/{now_ms}")
        passed = miner.hotkey in self._challenge.success
        started = (self._challenge.success if passed else self._challenge.testing).get(miner.hotkey, now_ms)
        names = ("calmar", "sharpe", "omega", "sortino", "statistical_confidence", "return")
        scores = {name: _score(rng) for name in names}
        checkpoints = portfolio["cps"]
        return {
            "hotkey": miner.hotkey,
            "challengeperiod": {
                "status": "success" if passed else "testing",
                "start_time_ms": started,
                "remaining_time_ms": 0 if passed else max(0, started + _CHALLENGE_MS - now_ms),
            },
            "scores": scores,
            "augmented_scores": {name: _score(rng) for name in names},
            "daily_returns": _daily_returns(checkpoints),
            "volatility": {"annual": rng.uniform(0.02, 0.4), "annual_downside": rng.uniform(0.01, 0.3)},
            "drawdowns": {
                "instantaneous_max_drawdown": min((c["mdd"] for c in checkpoints), default=1.0),
                "daily_max_drawdown": min((c["mdd"] for c in checkpoints[::2]), default=1.0),
            },
            "plagiarism": round(rng.uniform(0, 0.3), 6),
            "engagement": {
                "n_checkpoints": len(checkpoints),
                "n_positions": rng.randint(10, 400),
                "position_duration": rng.uniform(1e6, 1e8),
                "checkpoint_durations": len(checkpoints) * _CHECKPOINT_MS,
            },
            "risk_profile": {"risk_profile_score": round(rng.random(), 6), "risk_profile_penalty": 1.0},
            "penalties": {"drawdown_threshold": 1.0, "risk_profile": 1.0, "total": 1.0},
            "weight": {
                "value": round(rng.random() / 100, 8),
                "rank": rng.randint(1, 250),
                "percentile": rng.random(),
            },
            "checkpoints": checkpoints,
        }


def _checkpoint(
    cell: int, before: float, peak: float, now_ms: int, size: float, rng: Random
) -> dict[str, Any]:
    gain = abs(rng.gauss(0, 0.02 * size))
    loss = -abs(rng.gauss(0, 0.02 * size))
    after = before * math.exp(gain + loss)
    until_ms = min(now_ms, (cell + 1) * _CHECKPOINT_MS)
    accumulated = until_ms - cell * _CHECKPOINT_MS
    return {
        "last_update_ms": until_ms,
        "prev_portfolio_ret": after,
        "prev_portfolio_spread_fee": 1.0,
        "prev_portfolio_carry_fee": 1.0 - 1e-5 * rng.random(),
        "accum_ms": accumulated,
        "open_ms": int(accumulated * rng.random()),
        "n_updates": rng.randint(0, 4_000),
        "gain": gain,
        "loss": loss,
        "spread_fee_loss": 0.0,
        "carry_fee_loss": -1e-5 * rng.random(),
        "mdd": min(1.0, after / peak),
        "mpv": max(before, after),
    }


def _daily_returns(checkpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "date": _date(day[0]["last_update_ms"] - 1, "%Y-%m-%d"),
            "value": 100 * (math.exp(sum(c["gain"] + c["loss"] for c in day)) - 1),
        }
        for day in (checkpoints[place : place + 2] for place in range(0, len(checkpoints), 2))
    ]


def _score(rng: Random) -> dict[str, Any]:
    return {
        "value": rng.gauss(0, 1.5),
        "rank": rng.randint(1, 250),
        "percentile": rng.random(),
        "overall_contribution": rng.random() / 10,
    }


def _date(at_ms: int, form: str) -> str:
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc).strftime(form)


def _read(files: ValidatorFiles, name: str, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(files.read_document(name) or b"{}", type=kind)
    except msgspec.DecodeError:
        return kind()
