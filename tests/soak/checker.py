"""Compares the validator's actions with the messages of every bot, and with REST's final state."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ptn_api.model.checksum import CHECKSUM_MODULUS, position_checksum
from ptn_api.simulator.journal import (
    Dropped,
    MinerRemoved,
    Placed,
    Removed,
    Written,
    read_journal,
)
from tests.soak.report import BotReport, Record
from tests.waiting import until

__all__ = [
    "Deliveries",
    "Verdict",
    "check_mirrors",
    "check_state",
    "checksum_of",
    "files_of",
    "orders_placed",
]


class Verdict(msgspec.Struct):
    """Counts of faults; all zero is a pass. `problems` describes the first few.

    `lost`: orders that a bot did not get though it got later ones. `behind`: orders that were still to come
    to bots which got everything before them; the machine may have been too slow. `nonsense`: connections
    that brought what is no frame, or not the next message, without the network's doing. `wrong_answers`: what
    traders' programs got where the client library promises something else. `server_errors`: exceptions in
    the server's log.
    """

    lost: int = 0
    behind: int = 0
    repeated: int = 0
    out_of_order: int = 0
    nonsense: int = 0
    unknown: int = 0
    unmarked_stale: int = 0
    unexplained_gaps: int = 0
    state_differences: int = 0
    mirror_differences: int = 0
    trouble_not_shown: int = 0
    trouble_still_shown: int = 0
    wrong_answers: int = 0
    server_errors: int = 0
    problems: list[str] = []

    def add(self, kind: str, problem: str, count: int = 1) -> None:
        setattr(self, kind, getattr(self, kind) + count)
        if len(self.problems) < 20:
            self.problems.append(f"{kind}: {problem}")

    def expect(self, kind: str, what: str, condition: Callable[[], object], seconds: float = 90.0) -> None:
        """Waits until the condition holds; if it does not, that is a fault."""
        try:
            until(condition, seconds=seconds)
        except AssertionError:
            self.add(kind, what)

    @property
    def zeros(self) -> bool:
        return not any(getattr(self, name) for name in self.__struct_fields__ if name != "problems")


class _Suspect(NamedTuple):
    """A message that was not marked as replayed, though intake saw the order before the connection began."""

    bot: str
    sequence: int
    connected: int


class OrdersPlaced(msgspec.Struct):
    """From the validator's journal. `must`: order uuid -> position uuid of what had to be announced.

    `may`: orders that were there before the bots were, that were taken away moments after they were
    written, or whose file a killed validator may not have written.
    """

    must: dict[str, str]
    may: set[str]


def orders_placed(
    journal: Path, since_ns: int, *, created_ms: int, grace_ns: int = 15 * 10**9
) -> OrdersPlaced:
    """The orders written since `since_ns` and not removed again within `grace_ns`.

    Those processed before `created_ms`, the log's creation, must not be announced.
    """
    written: dict[str, tuple[str, int]] = {}
    may: set[str] = set()
    pending: dict[str, list[Placed]] = {}
    now_ns = 0
    for action in read_journal(journal):
        match action:
            case Placed() if action.processed_ms > created_ms:
                pending.setdefault(action.position_uuid, []).append(action)
            case Written():
                now_ns = action.written_ns
                for placed in pending.pop(action.position_uuid, []):
                    written.setdefault(placed.order_uuid, (placed.position_uuid, now_ns))
            case Dropped() if action.order_uuid in written:
                may.update(_recent(written, now_ns - grace_ns, order=action.order_uuid))
            case Dropped():
                may.add(action.order_uuid)
            case Removed():
                may.update(_recent(written, now_ns - grace_ns, position=action.position_uuid))
            case MinerRemoved():
                may.update(_recent(written, now_ns - grace_ns))
    may.update(placed.order_uuid for several in pending.values() for placed in several)
    may.update(uuid for uuid, (_, at) in written.items() if at < since_ns)
    return OrdersPlaced(must={u: position for u, (position, _) in written.items() if u not in may}, may=may)


def _recent(
    written: dict[str, tuple[str, int]], since_ns: int, *, position: str = "", order: str = ""
) -> Iterator[str]:
    """Recent orders, newest first: all, those of a position, or a single one."""
    for uuid in reversed(written):
        of, at = written[uuid]
        if at < since_ns:
            return
        if position in ("", of) and order in ("", uuid):
            yield uuid


class Deliveries:
    """Reads the messages of the bots, each once, and sums them up.

    It remembers the number of each order and when the first bot had it, and of each bot, only while it is
    read, which orders it got: tens of millions of deliveries fit.
    """

    def __init__(self, placed: OrdersPlaced, verdict: Verdict, *, stale_ms: int, spread_ms: int = 0) -> None:
        """`spread_ms`: by how much one of several machines may be behind another."""
        self._placed = placed
        self._must = {Record.number_of(uuid): uuid for uuid in placed.must}
        self._known = self._must.keys() | {Record.number_of(uuid) for uuid in placed.may}
        self._verdict = verdict
        self._stale_ms = stale_ms
        self._spread_ms = spread_ms
        self._orders: dict[int, int] = {}
        self._first_received: dict[int, int] = {}
        self._suspects: list[_Suspect] = []
        self._missing: list[tuple[BotReport, set[int]]] = []
        self._counts: Counter[str] = Counter()
        self._lags: Counter[int] = Counter()

    def check(self, reports: list[BotReport], head: int, doubled: int) -> None:
        """Every bot has every order once, in the order of the numbers, which all bots agree on.

        `head` is the last number; `doubled` is how often the network sent bytes twice.
        """
        bots = [bot for bot in reports if bot.kind != "mirror"]
        for bot in bots:
            self._read(bot)
        self._judge_suspects()
        self._judge_missing(somebody_is_there=any(bot.last >= head for bot in bots))
        for bot in reports:
            if bot.last < head:
                left = head - bot.last
                self._verdict.add("behind", f"bot {bot.number} ({bot.kind}): {left} orders to go", left)
            for gap in bot.gaps:
                self._verdict.add("unexplained_gaps", f"bot {bot.number} ({bot.kind}): {gap}")
        broken_off = sum(bot.broken_off for bot in bots)
        if broken_off > doubled:
            problem = f"{broken_off} connections brought some, {doubled} times bytes came twice"
            self._verdict.add("nonsense", problem, broken_off - doubled)

    def figures(self) -> dict[str, object]:
        """`lag_ms`: from intake's first sight of an order until a connected bot had handled it."""
        shares = {"half": 0.5, "99 of 100": 0.99, "all": 1.0}
        return (
            {"orders": len(self._orders)}
            | self._counts
            | {"lag_ms": {name: self._lag(share) for name, share in shares.items()}}
        )

    def pauses_ms(self, times: list[tuple[str, int, int]]) -> dict[str, int]:
        """The longest time without a new order, by fault; `times` has when each fault began and was over."""
        received = sorted(self._first_received.values())
        longest: dict[str, int] = {}
        for name, began, ended in times:
            pauses = [b - a for a, b in pairwise(received) if b > began and a < ended]
            longest[name] = max([longest.get(name, 0), *pauses])
        return longest

    def _lag(self, share: float) -> int:
        left = share * self._lags.total()
        for lag in sorted(self._lags):
            left -= self._lags[lag]
            if left <= 0:
                return lag
        return 0

    def _read(self, bot: BotReport) -> None:
        add, name, marks = self._verdict.add, f"bot {bot.number} ({bot.kind})", bot.kind != "version 1"
        got: set[int] = set()
        last = None
        for message in Record.read(bot):
            sequence, order, timestamp, received, processed_ms, late, replay, since = message
            if last is not None and sequence != last + 1:
                add("repeated" if sequence <= last else "out_of_order", f"{name}: {sequence} after {last}")
            last = sequence
            if order in got:
                add("repeated", f"{name}: the order of {sequence}")
            got.add(order)
            if self._orders.setdefault(sequence, order) != order:
                add("out_of_order", f"{name}: {sequence} is another order than for others")
            if order not in self._known:
                add("unknown", f"{name}: the order of {sequence} was never placed")
            if self._first_received.setdefault(sequence, received) > received:
                self._first_received[sequence] = received
            if marks and not late and timestamp - processed_ms > self._stale_ms:
                add("unmarked_stale", f"{name}: {sequence} is late and not marked")
            if not since:
                pass
            elif timestamp >= since:
                self._lags[received - timestamp] += 1
            elif marks and not replay:
                self._suspects.append(_Suspect(name, sequence, since))
            self._counts["replayed"] += replay
            self._counts["late"] += late
        self._counts["deliveries"] += len(got)
        if missing := self._must.keys() - got:
            self._missing.append((bot, missing))

    def _judge_suspects(self) -> None:
        """An order is replayed if another bot had it before this connection began.

        (If only intake had seen it, it may just have been slow in coming.)
        """
        for name, sequence, since in self._suspects:
            if self._first_received[sequence] < since - self._spread_ms:
                self._verdict.add("unmarked_stale", f"{name}: {sequence} is replayed and not marked")

    def _judge_missing(self, *, somebody_is_there: bool) -> None:
        """An order is lost if a later one arrived, and only behind if none did."""
        sequences = {order: sequence for sequence, order in self._orders.items()}
        for bot, missing in self._missing:
            for order in missing:
                sequence = sequences.get(order)
                if somebody_is_there if sequence is None else sequence <= bot.last:
                    uuid = self._must[order]
                    problem = f"order {uuid} of position {self._placed.must[uuid]}"
                    self._verdict.add("lost", f"bot {bot.number} ({bot.kind}): {problem}")


def check_mirrors(reports: list[BotReport], files: dict[str, Any], verdict: Verdict) -> None:
    """Every mirror holds what the validator's files hold."""
    expected = {uuid: position_checksum(json.dumps(file).encode()) for uuid, file in files.items()}
    for number, bot in enumerate(reports):
        if bot.kind == "mirror" and bot.positions != expected:
            wrong = {u for u in expected.keys() | bot.positions if expected.get(u) != bot.positions.get(u)}
            verdict.add("mirror_differences", f"bot {number}: {len(wrong)} positions, one is {min(wrong)}")


def checksum_of(files: dict[str, Any]) -> str:
    """The checksum that heartbeats carry."""
    total = sum(position_checksum(json.dumps(file).encode()) for file in files.values())
    return f"{total % CHECKSUM_MODULUS:016x}"


def files_of(validator: Path) -> dict[str, Any]:
    """The current file of each position, by its uuid; `closed/` wins."""
    found: dict[str, Any] = {}
    for folder in ("open", "closed"):
        for path in validator.glob(f"validation/miners/*/positions/*/{folder}/*"):
            found[path.name] = json.loads(path.read_text())
    return found


def check_state(
    what: str, positions: Iterable[dict[str, Any]], files: dict[str, Any], verdict: Verdict
) -> None:
    """Every position served equals its file, except for price sources, which age; none is missing."""
    served = {position["position_uuid"]: _comparable(position) for position in positions}
    for uuid in files.keys() - served.keys():
        verdict.add("state_differences", f"{what}: position {uuid} is missing")
    for uuid, position in served.items():
        if uuid not in files:
            verdict.add("state_differences", f"{what}: position {uuid} should be gone")
        elif position != _comparable(files[uuid]):
            verdict.add("state_differences", f"{what}: position {uuid} differs from its file")


def _comparable(position: dict[str, Any]) -> dict[str, Any]:
    orders = [{k: v for k, v in o.items() if k != "price_sources"} for o in position["orders"]]
    return position | {"orders": orders, "close_ms": position["close_ms"] or None}
