"""The documents of a simulated validator of today: accounts, entities, ledgers, statistics.

Ledgers, statistics, snapshots and accounts are computed from the positions' files.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any

import msgspec

from ptn_api.simulator.documents import Documents
from ptn_api.simulator.journal import Journal
from ptn_api.simulator.market import Market, seeded
from ptn_api.simulator.miner import Miner, entity_of
from ptn_api.simulator.performance import (
    CHECKPOINT_MS,
    daily_returns,
    date_of,
    drawdowns,
    measure,
    perf_ledger,
    ranked,
    scores,
    snapshots,
    times_until,
)
from ptn_api.simulator.position import SimulatedPosition, TodaysPosition
from ptn_api.simulator.validator import ValidatorFiles

__all__ = ["TodaysDocuments"]

_ACCOUNTS = "validation/miner_account_sizes.json"
_SELECTIONS = "validation/asset_selections.json"
_ENTITIES = "validation/entities.json"
_PERF_LEDGERS = "validation/perf_ledgers.json.gz"
_DEBT_LEDGER = "validation/debt_ledger.json.gz"
_EMISSIONS_LEDGER = "validation/emissions_ledger.json.gz"
_PENALTY_LEDGER = "validation/penalty_ledger.json.gz"
_STATISTICS = ("runnable/minerstatistics.json", "runnable/minerstatistics.json.gz")
_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_CHALLENGE_MS = 60 * _DAY_MS
_THETA = 500.0
"""USD of account per unit of collateral."""
_MEASURED_AT_ONCE = 25
_ALPHA_A_CHECKPOINT = 150.0
_TAO_PER_ALPHA, _USD_PER_TAO = 0.07, 300.0
_LEDGER_CHECKPOINTS = 60
_CONSTANTS = {
    "SET_WEIGHT_LOOKBACK_RANGE_DAYS": 180,
    "TARGET_LEDGER_WINDOW_DAYS": 180,
    "TARGET_CHECKPOINT_DURATION_MS": CHECKPOINT_MS,
    "CHALLENGE_PERIOD_MAXIMUM_DAYS": 60,
    "ANNUAL_RISK_FREE_PERCENTAGE": 4.19,
    "DAYS_IN_YEAR_CRYPTO": 365,
    "DAYS_IN_YEAR_FOREX": 252,
    "MINIMUM_POSITION_DURATION_MS": 60_000,
    "VERSION": "9.3.1",
}
_SCORES = ("calmar", "sharpe", "omega", "sortino", "statistical_confidence", "return")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class _Account(msgspec.Struct):
    """A miner's account: what it deposited, and the totals of its positions in USD."""

    records: list[dict[str, Any]]
    asset_class: str
    hl_address: str | None
    realized: float = 0.0
    fees: float = 0.0
    dividends: float = 0.0
    unrealized: float = 0.0
    booked: dict[str, tuple[float, float]] = {}
    """Realized pnl and fees of each open position, as contained in the totals."""
    held: dict[str, tuple[str, float]] = {}
    """Category and value of each open position."""

    @property
    def size(self) -> float:
        return float(self.records[-1]["account_size"])

    @property
    def balance(self) -> float:
        return self.size + self.realized + self.dividends - self.fees


class _Report(msgspec.Struct, frozen=True):
    """A miner's ledger and what the statistics say of it, as last computed."""

    ledger: dict[str, Any]
    encoded: msgspec.Raw
    scores: dict[str, float]
    n_positions: int
    position_duration: float
    by_class: dict[str, dict[str, float]]


class TodaysDocuments(Documents):
    """Writers of all documents of a validator of today.

    `positions` returns all of a miner's positions. `checkpoints` is the greatest length of a ledger.
    """

    def __init__(
        self,
        files: ValidatorFiles,
        journal: Journal,
        seed: int,
        checkpoints: int,
        market: Market,
        positions: Callable[[str], Iterable[SimulatedPosition]],
    ) -> None:
        super().__init__(files, journal, seed, checkpoints)
        self._market = market
        self._positions = positions
        self._accounts: dict[str, _Account] = {}
        self._encoded: dict[str, msgspec.Raw] = {}
        self._buckets: dict[str, list[dict[str, Any]]] = {}
        self._entities: dict[str, dict[str, Any]] = {}
        self._measured: dict[str, _Report] = {}
        self._ledgers_ms = 0

    # --- membership ---------------------------------------------------------------------------------------

    def load(self, miners: Iterable[Miner], now_ms: int) -> None:
        super().load(miners, now_ms)
        self._buckets = {
            hotkey: entry["entries"] for hotkey, entry in self._stored(self.CHALLENGEPERIOD).items()
        }
        self._entities = self._stored(_ENTITIES)
        records = self._stored(_ACCOUNTS)
        for miner in miners:
            kept = [row for row in records.get(miner.hotkey, ()) if "account_size_theta" in row]
            self._open_account(miner, kept or [_record(miner.account_size, now_ms)])
            self.settle_account(miner.hotkey)

    def _stored(self, name: str) -> dict[str, Any]:
        try:
            stored = _decode(self._files.read_document(name) or b"{}")
        except msgspec.DecodeError:
            return {}
        return stored if isinstance(stored, dict) else {}

    def admit(self, miner: Miner, at_ms: int, *, veteran: bool) -> None:
        first, second = (
            ("SUBACCOUNT_CHALLENGE", "SUBACCOUNT_FUNDED") if miner.entity else ("CHALLENGE", "MAINCOMP")
        )
        entries = [{"bucket": first, "bucket_start_time": at_ms}]
        if veteran:
            entries.append({"bucket": second, "bucket_start_time": at_ms + _CHALLENGE_MS})
        self._buckets[miner.hotkey] = entries
        self._open_account(miner, [_record(miner.account_size, at_ms)])
        self.settle_account(miner.hotkey)  # a restored backup brings back miners that had positions
        if miner.entity is not None:
            self._add_subaccount(miner.entity, miner, at_ms)

    def _open_account(self, miner: Miner, records: list[dict[str, Any]]) -> None:
        self._accounts[miner.hotkey] = _Account(records, miner.asset_class, miner.hl_address)

    def _add_subaccount(self, hotkey: str, miner: Miner, at_ms: int) -> None:
        place = miner.hotkey.partition("_")[2]
        entity = self._entities.setdefault(
            hotkey,
            {
                "entity_hotkey": hotkey,
                "subaccounts": {},
                "next_subaccount_id": 0,
                "registered_at_ms": at_ms - _DAY_MS,
                "endpoint_url": None,
            },
        )
        self._buckets.setdefault(hotkey, [{"bucket": "ENTITY", "bucket_start_time": at_ms - _DAY_MS}])
        rng = seeded(f"{self._seed}/subaccount/{miner.hotkey}")
        entity["next_subaccount_id"] = max(entity["next_subaccount_id"], int(place) + 1)
        entity["subaccounts"][place] = {
            "subaccount_id": int(place),
            "subaccount_uuid": f"{rng.getrandbits(128):032x}",
            "synthetic_hotkey": miner.hotkey,
            "status": "active",
            "created_at_ms": at_ms,
            "eliminated_at_ms": None,
            "account_size": miner.account_size,
            "standard_account_size": None,
            "pro_account_size": None,
            "reg_fee_theta": 0.0,
            "reg_fee_slashed_ms": float(at_ms),
            "asset_class": miner.asset_class,
            "drawdown_criteria": "trailing",
            "account_type": "standard",
            "hl_address": miner.hl_address,
            "payout_address": None,
        }

    def promote(self, hotkey: str, now_ms: int) -> None:
        """Starts the miner's next bucket and an account without positions."""
        bucket = "SUBACCOUNT_FUNDED" if entity_of(hotkey) else "MAINCOMP"
        if self._buckets[hotkey][-1]["bucket"] != bucket:
            self._buckets[hotkey].append({"bucket": bucket, "bucket_start_time": now_ms})
        self._measured.pop(hotkey, None)
        self.settle_account(hotkey)
        self.write_challengeperiod(now_ms)
        self.write_accounts(now_ms)

    def forget(self, hotkey: str, now_ms: int) -> None:
        for kept in (self._buckets, self._accounts, self._encoded, self._measured):
            kept.pop(hotkey, None)
        self.write_challengeperiod(now_ms)
        self.write_accounts(now_ms)

    def eliminate(self, hotkey: str, now_ms: int, rng: Random, prices: dict[str, float]) -> str:
        report = self._measured.get(hotkey)
        deepest = drawdowns(report.ledger)["instantaneous_max_drawdown"] if report else 1.0
        reason = rng.choice(("PLAGIARISM", "ZOMBIE", "FAILED_CHALLENGE_PERIOD_TIME", "LIQUIDATED"))
        dd = None
        if deepest < 0.95:
            funded = self._buckets[hotkey][-1]["bucket"] in ("MAINCOMP", "SUBACCOUNT_FUNDED")
            reason = f"FAILED_{'FUNDED' if funded else 'CHALLENGE'}_PERIOD_INTRADAY_DRAWDOWN"
            dd = round(100 * (1 - deepest), 6)
        row = {
            "hotkey": hotkey,
            "dd": dd,
            "reason": reason,
            "elimination_initiated_time_ms": now_ms,
            "price_info": prices,
            "return_info": {},
        }
        self._eliminations.eliminations.append(row)
        self._buckets[hotkey].append({"bucket": "ELIMINATED", "bucket_start_time": now_ms})
        entity = self._entities.get(entity_of(hotkey) or "")
        if entity is not None:
            subaccount = entity["subaccounts"][hotkey.partition("_")[2]]
            subaccount["status"], subaccount["eliminated_at_ms"] = "eliminated", now_ms
            self.write_entities(now_ms)
        self.write_eliminations(now_ms)
        self.write_challengeperiod(now_ms)
        return reason

    # --- accounts -----------------------------------------------------------------------------------------

    def balance(self, hotkey: str) -> float:
        return max(self._accounts[hotkey].balance, 1_000.0)

    def book(self, position: SimulatedPosition) -> None:
        """Adds a position's new orders to its miner's account, and writes the accounts."""
        if isinstance(position, TodaysPosition) and position.miner_hotkey in self._accounts:
            self._add(position)
            self._files.write_document(_ACCOUNTS, self._accounts_text(position.miner_hotkey))

    def _add(self, position: TodaysPosition) -> None:
        account, uuid = self._accounts[position.miner_hotkey], position.position_uuid
        realized = position.state.realized_pnl or 0.0
        fees = sum(amount for _, amount in position.fee_amounts())
        booked = account.booked.pop(uuid, (0.0, 0.0))
        account.realized += realized - booked[0]
        account.fees += fees - booked[1]
        account.held.pop(uuid, None)
        if not position.closed:
            account.booked[uuid] = (realized, fees)
            account.held[uuid] = (position.instrument.category, abs(position.net[2]))

    def settle_account(self, hotkey: str) -> None:
        """Computes an account's totals again from the miner's positions."""
        account = self._accounts[hotkey]
        account.realized = account.fees = account.dividends = account.unrealized = 0.0
        account.booked, account.held = {}, {}
        for position in self._of(hotkey):
            self._add(position)
            account.dividends += sum(amount for _, amount in position.dividend_amounts())
            account.unrealized += 0.0 if position.closed else position.state.unrealized_pnl or 0.0
        self._encoded.pop(hotkey, None)

    def _of(self, hotkey: str) -> Iterator[TodaysPosition]:
        return (p for p in self._positions(hotkey) if isinstance(p, TodaysPosition))

    def _accounts_text(self, changed: str) -> bytes:
        self._encoded.pop(changed, None)
        for hotkey, account in self._accounts.items():
            if hotkey not in self._encoded:
                fields = self._account_fields(hotkey, account)
                self._encoded[hotkey] = msgspec.Raw(_encode([*account.records, fields]))
        return _encode(self._encoded)

    def _account_fields(self, hotkey: str, account: _Account) -> dict[str, Any]:
        report = self._measured.get(hotkey)
        used: dict[str, float] = {}
        for category, value in account.held.values():
            used[category] = used.get(category, 0.0) + value
        equity = account.balance + account.unrealized
        return {
            "miner_hotkey": hotkey,
            "asset_class": account.asset_class,
            "miner_bucket": self._buckets[hotkey][-1]["bucket"],
            "hl_address": account.hl_address,
            "total_realized_pnl": account.realized,
            "capital_used": sum(used.values()),
            "total_borrowed_amount": 0.0,
            "total_fees_paid": account.fees,
            "total_dividend_income": account.dividends,
            "max_return": report.ledger["max_return"] if report else 1.0,
            "unrealized_pnl": account.unrealized,
            "capital_used_by_class": used,
            "daily_open_snapshot": None,
            "account_size": account.size,
            "balance": account.balance,
            "buying_power": max(0.0, account.balance - sum(used.values())),
            "equity": equity,
        }

    # --- writing ------------------------------------------------------------------------------------------

    def write_small(self, now_ms: int) -> None:
        super().write_small(now_ms)
        self.write_accounts(now_ms)
        self.write_entities(now_ms)

    def write_challengeperiod(self, now_ms: int) -> None:
        standings: dict[str, Any] = {
            hotkey: {"entries": entries, "drawdown": {}, "rank": None}
            for hotkey, entries in self._buckets.items()
        }
        self._write(self.CHALLENGEPERIOD, _encode(standings), now_ms)

    def write_accounts(self, now_ms: int) -> None:
        """Writes the accounts and the miners' classes of assets."""
        self._write(_ACCOUNTS, self._accounts_text(""), now_ms)
        selections = {hotkey: account.asset_class for hotkey, account in self._accounts.items()}
        self._write(_SELECTIONS, _encode(selections), now_ms)

    def write_entities(self, now_ms: int) -> None:
        self._write(_ENTITIES, _encode(self._entities), now_ms)

    def write_reports(
        self, miners: Iterable[Miner], now_ms: int, rng: Random, *, share: float | None = None
    ) -> None:
        present = [miner for miner in miners if miner.hotkey in self._accounts]
        share = min(1.0, _MEASURED_AT_ONCE / max(len(present), 1)) if share is None else share
        for miner in present:
            if miner.hotkey not in self._measured or rng.random() < share:
                self._measured[miner.hotkey] = self._report(miner, now_ms)
                self.settle_account(miner.hotkey)
        reports = {miner.hotkey: self._measured[miner.hotkey] for miner in present}
        ledgers = {hotkey: report.encoded for hotkey, report in reports.items()}
        self._write(_PERF_LEDGERS, _gzip(_encode(ledgers)), now_ms)
        self.write_accounts(now_ms)
        if now_ms // CHECKPOINT_MS != self._ledgers_ms // CHECKPOINT_MS:
            self._ledgers_ms = now_ms
            self._write_other_ledgers(reports, now_ms)
        eliminated = self.eliminated()
        active = {hotkey: report for hotkey, report in reports.items() if hotkey not in eliminated}
        text = _encode(self._statistics(active, now_ms))
        for name in _STATISTICS:
            self._write(name, _gzip(text) if name.endswith(".gz") else text, now_ms)

    def write_snapshots(self, miners: Iterable[Miner], now_ms: int, since_ms: int) -> None:
        """Appends each miner's account at the full hours after a time; at least the one now."""
        hours = range((since_ms // _HOUR_MS + 1) * _HOUR_MS, now_ms, _HOUR_MS)
        times = [at_ms for at_ms in hours if at_ms < now_ms] + [now_ms]
        for miner in miners:
            if (account := self._accounts.get(miner.hotkey)) is not None:
                performance = measure(self._of(miner.hotkey), account.size, self._market, times)
                lines = b"".join(_encode(row) + b"\n" for row in snapshots(performance))
                self._files.append(miner.hotkey, "snapshots.jsonl", lines)

    # --- computing ----------------------------------------------------------------------------------------

    def _report(self, miner: Miner, now_ms: int) -> _Report:
        positions = list(self._of(miner.hotkey))
        first_ms = min((p.state.open_ms for p in positions), default=now_ms - CHECKPOINT_MS)
        times = times_until(now_ms, first_ms, self._checkpoints)
        performance = measure(positions, self._accounts[miner.hotkey].size, self._market, times)
        held = {p.pair: p.instrument for p in positions if not p.closed}
        ledger = perf_ledger(performance) | {
            "last_known_prices": {
                pair: [self._market.mark(instrument, now_ms), now_ms] for pair, instrument in held.items()
            }
        }
        durations = [(p.state.close_ms or now_ms) - p.state.open_ms for p in positions]
        by_class: dict[str, dict[str, float]] = {}
        for position in positions:
            entry = by_class.setdefault(position.instrument.category, {"n_positions": 0, "pnl": 0.0})
            entry["n_positions"] += 1
            entry["pnl"] += (position.state.realized_pnl or 0.0) + (position.state.unrealized_pnl or 0.0)
        return _Report(
            ledger=ledger,
            encoded=msgspec.Raw(_encode(ledger)),
            scores=scores(ledger),
            n_positions=len(positions),
            position_duration=sum(durations) / max(len(durations), 1),
            by_class=by_class,
        )

    def _statistics(self, reports: dict[str, _Report], now_ms: int) -> dict[str, Any]:
        """Returns the statistics of all miners, with ranks among them."""
        ranks = {
            name: ranked({hotkey: report.scores[name] for hotkey, report in reports.items()})
            for name in _SCORES
        }
        pnl = {hotkey: _pnl(report) for hotkey, report in reports.items()}
        total = sum(max(0.0, value) for value in pnl.values()) or 1.0
        weights = ranked({hotkey: max(0.0, value) / total for hotkey, value in pnl.items()})
        raw_pnl = ranked(pnl)
        rows = []
        for hotkey, report in reports.items():
            by_score = {name: ranks[name][hotkey] for name in _SCORES}
            rows.append(
                {
                    "hotkey": hotkey,
                    "challengeperiod": self._standing(hotkey, now_ms),
                    "scores": by_score,
                    "augmented_scores": by_score,
                    "daily_returns": daily_returns(report.ledger),
                    "volatility": {name: report.scores[name] for name in ("annual", "annual_downside")},
                    "drawdowns": drawdowns(report.ledger),
                    "plagiarism": 0.0,
                    "engagement": {
                        "n_checkpoints": len(report.ledger["cps"]),
                        "n_positions": report.n_positions,
                        "position_duration": report.position_duration,
                        "checkpoint_durations": sum(cp["accum_ms"] for cp in report.ledger["cps"]),
                    },
                    "risk_profile": {"risk_profile_score": 0.0, "risk_profile_penalty": 1.0},
                    "asset_class_performance": report.by_class,
                    "pnl_info": {"raw_pnl": raw_pnl[hotkey]},
                    "account_size_info": {
                        "account_sizes": [
                            {"account_size": row["account_size"], "timestamp_ms": row["update_time_ms"]}
                            for row in self._accounts[hotkey].records
                        ]
                    },
                    "penalties": {"drawdown_threshold": 1.0, "risk_profile": 1.0, "total": 1.0},
                    "weight": weights[hotkey],
                    "checkpoints": report.ledger["cps"],
                }
            )
        return {
            "version": _CONSTANTS["VERSION"],
            "created_timestamp_ms": now_ms,
            "created_date": date_of(now_ms, "%Y-%m-%d %H:%M:%S"),
            "data": rows,
            "constants": _CONSTANTS,
            "network_data": {},
        }

    def _standing(self, hotkey: str, now_ms: int) -> dict[str, Any]:
        entry = self._buckets[hotkey][-1]
        testing = entry["bucket"] in ("CHALLENGE", "SUBACCOUNT_CHALLENGE")
        started = entry["bucket_start_time"]
        return {
            "status": "testing" if testing else "success",
            "start_time_ms": started,
            "remaining_time_ms": max(0, started + _CHALLENGE_MS - now_ms) if testing else 0,
        }

    def _write_other_ledgers(self, reports: dict[str, _Report], now_ms: int) -> None:
        """Writes the debt, emissions and penalty ledgers: checkpoints of 12 hours that are complete."""
        head = {"format_version": "1.0", "last_update_ms": now_ms}
        total = sum(max(0.0, _pnl(report)) for report in reports.values()) or 1.0
        debts, emissions, penalties = {}, {}, {}
        for hotkey, report in reports.items():
            alpha = _ALPHA_A_CHECKPOINT * max(0.0, _pnl(report)) / total
            complete = [cp for cp in report.ledger["cps"] if cp["last_update_ms"] % CHECKPOINT_MS == 0]
            cps, bucket = complete[-_LEDGER_CHECKPOINTS:], self._buckets[hotkey][-1]["bucket"]
            debts[hotkey] = _debt_ledger(hotkey, cps, alpha, bucket)
            emissions[hotkey] = _emissions_ledger(hotkey, cps, alpha)
            rows = [{"last_processed_ms": cp["last_update_ms"]} | _penalties(bucket) for cp in cps]
            penalties[hotkey] = {"hotkey": hotkey, "total_checkpoints": len(rows), "checkpoints": rows}
        network = {"netuid": 8, "archive_endpoint": "wss://archive.example.invalid"}
        runtime = {"accumulated_runtime_seconds": 1.0, "last_full_rebuild_ms": now_ms}
        for name, document in (
            (_DEBT_LEDGER, head | {"ledgers": debts}),
            (_EMISSIONS_LEDGER, head | network | {"ledgers": emissions}),
            (_PENALTY_LEDGER, head | runtime | {"ledgers": penalties}),
        ):
            self._write(name, _gzip(_encode(document)), now_ms)


def _pnl(report: _Report) -> float:
    return sum(entry["pnl"] for entry in report.by_class.values())


def _record(account_size: float, at_ms: int) -> dict[str, Any]:
    """Returns a deposit as the account file lists it."""
    return {
        "account_size": account_size,
        "account_size_theta": account_size / _THETA,
        "update_time_ms": at_ms,
        "valid_date_timestamp": (at_ms // _DAY_MS + 1) * _DAY_MS,
    }


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=4, mtime=0)


def _rates(alpha: float) -> dict[str, float]:
    return {
        "avg_alpha_to_tao_rate": _TAO_PER_ALPHA,
        "avg_tao_to_usd_rate": _USD_PER_TAO,
        "tao_balance_snapshot": 0.0,
        "alpha_balance_snapshot": alpha,
    }


def _penalties(bucket: str) -> dict[str, Any]:
    return {"drawdown": 1.0, "risk_profile": 1.0, "cumulative": 1.0, "challenge_period_status": bucket}


def _debt_ledger(hotkey: str, cps: list[dict[str, Any]], alpha: float, bucket: str) -> dict[str, Any]:
    rows = []
    for number, cp in enumerate(cps, start=1):
        tao = alpha * _TAO_PER_ALPHA
        performance = {"portfolio_return": cp["prev_portfolio_ret"]}
        performance |= {name: cp[name] for name in ("realized_pnl", "unrealized_pnl", "mdd")}
        rows.append(
            {
                "timestamp_ms": cp["last_update_ms"],
                "timestamp_utc": date_of(cp["last_update_ms"], "%Y-%m-%dT%H:%M:%S+00:00"),
                "emissions": {"chunk_alpha": alpha, "chunk_tao": tao, "chunk_usd": tao * _USD_PER_TAO}
                | _rates(alpha * number),
                "performance": performance,
                "penalties": _penalties(bucket),
                "derived": {"return_after_fees": cp["equity_ret"], "weighted_score": cp["equity_ret"]},
            }
        )
    summary = {}
    if cps:
        tao = alpha * _TAO_PER_ALPHA * len(cps)
        summary = {
            "cumulative_emissions_alpha": alpha * len(cps),
            "cumulative_emissions_tao": tao,
            "cumulative_emissions_usd": tao * _USD_PER_TAO,
            "portfolio_return": cps[-1]["prev_portfolio_ret"],
            "weighted_score": cps[-1]["equity_ret"],
            "total_fees": -cps[-1]["cumulative_fees_usd"],
        }
    return {"hotkey": hotkey, "total_checkpoints": len(rows), "summary": summary, "checkpoints": rows}


def _emissions_ledger(hotkey: str, cps: list[dict[str, Any]], alpha: float) -> dict[str, Any]:
    rows = []
    for number, cp in enumerate(cps, start=1):
        until_ms, block = cp["last_update_ms"], cp["last_update_ms"] // 12_000
        tao = alpha * _TAO_PER_ALPHA
        rows.append(
            {
                "chunk_start_ms": until_ms - CHECKPOINT_MS,
                "chunk_end_ms": until_ms,
                "chunk_start_utc": date_of(until_ms - CHECKPOINT_MS, "%Y-%m-%dT%H:%M:%S+00:00"),
                "chunk_end_utc": date_of(until_ms, "%Y-%m-%dT%H:%M:%S+00:00"),
                "chunk_emissions": alpha,
                "chunk_emissions_tao": tao,
                "chunk_emissions_usd": tao * _USD_PER_TAO,
                "num_blocks": 3600,
                "block_start": block - 3600,
                "block_end": block,
            }
            | _rates(alpha * number)
        )
    tao = alpha * _TAO_PER_ALPHA * len(cps)
    return {
        "hotkey": hotkey,
        "coldkey": f"5Cold{hotkey[-8:]}",
        "total_checkpoints": len(rows),
        "cumulative_emissions": alpha * len(cps),
        "cumulative_emissions_tao": tao,
        "cumulative_emissions_usd": tao * _USD_PER_TAO,
        "checkpoints": rows,
    }
