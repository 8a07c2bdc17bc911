"""Compares what the validator did with what every bot received, and with what REST says at the end."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

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
from tests.soak.bots import BotReport, order_number, read_received

__all__ = [
    "Verdict",
    "check_bots",
    "check_mirrors",
    "check_state",
    "checksum_of",
    "files_of",
    "orders_placed",
]


class Verdict(msgspec.Struct):
    """Counts of what must not be; all zero is a pass. `problems` holds the first few in words."""

    lost: int = 0
    repeated: int = 0
    out_of_order: int = 0
    unknown: int = 0
    unmarked_stale: int = 0
    unexplained_gaps: int = 0
    state_differences: int = 0
    mirror_differences: int = 0
    problems: list[str] = []

    def add(self, kind: str, problem: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.problems) < 20:
            self.problems.append(f"{kind}: {problem}")

    @property
    def zeros(self) -> bool:
        return not any(getattr(self, name) for name in self.__struct_fields__ if name != "problems")


class OrdersPlaced(msgspec.Struct):
    """From the validator's journal. `must`: order uuid -> position uuid of what had to be announced.

    `may`: orders that were there before the bots were, that were taken away moments after they were
    written, or whose file a killed validator may not have written.
    """

    must: dict[str, str]
    may: set[str]


def orders_placed(journal: Path, since_ns: int, *, grace_ns: int = 15 * 10**9) -> OrdersPlaced:
    """What was written from `since_ns` on and not taken away again within `grace_ns`."""
    written: dict[str, tuple[str, int]] = {}
    may: set[str] = set()
    pending: dict[str, list[Placed]] = {}
    now_ns = 0
    for action in read_journal(journal):
        match action:
            case Placed():
                pending.setdefault(action.position_uuid, []).append(action)
            case Written():
                now_ns = action.written_ns
                for placed in pending.pop(action.position_uuid, []):
                    written.setdefault(placed.order_uuid, (placed.position_uuid, now_ns))
            case Dropped():
                may.add(action.order_uuid)
            case Removed():
                may.update(_recent(written, now_ns - grace_ns, action.position_uuid))
            case MinerRemoved():
                may.update(_recent(written, now_ns - grace_ns))
    may.update(placed.order_uuid for several in pending.values() for placed in several)
    may.update(uuid for uuid, (_, at) in written.items() if at < since_ns)
    return OrdersPlaced(must={u: position for u, (position, _) in written.items() if u not in may}, may=may)


def _recent(written: dict[str, tuple[str, int]], since_ns: int, position: str = "") -> Iterator[str]:
    """Orders written lately, the last first, of one position or of all."""
    for uuid in reversed(written):
        at = written[uuid][1]
        if at < since_ns:
            return
        if not position or written[uuid][0] == position:
            yield uuid


def check_bots(reports: list[BotReport], placed: OrdersPlaced, *, stale_ms: int) -> Verdict:
    """Every bot has every order once, in the order of the numbers, which all bots agree on."""
    verdict = Verdict()
    must = {order_number(uuid): uuid for uuid in placed.must}
    known = must.keys() | {order_number(uuid) for uuid in placed.may}
    numbers: dict[int, int] = {}
    for number, bot in enumerate(reports):
        if bot.kind == "mirror":
            continue
        name = f"bot {number}"
        got = _check_messages(name, bot, known, numbers, verdict, stale_ms)
        for order in must.keys() - got:
            verdict.add("lost", f"{name}: order {must[order]} of position {placed.must[must[order]]}")
        for gap in bot.gaps:
            verdict.add("unexplained_gaps", f"{name}: {gap}")
    return verdict


def _check_messages(
    name: str, bot: BotReport, known: Set[int], numbers: dict[int, int], verdict: Verdict, stale_ms: int
) -> set[int]:
    """The orders that a bot got. `numbers` is which order each sequence is, for all bots."""
    got: set[int] = set()
    last = None
    connected = sorted(bot.connected)
    for message in read_received(bot):
        if last is not None and message.sequence != last + 1:
            kind = "repeated" if message.sequence <= last else "out_of_order"
            verdict.add(kind, f"{name}: {message.sequence} after {last}")
        last = message.sequence
        if numbers.setdefault(message.sequence, message.order) != message.order:
            verdict.add("out_of_order", f"{name}: {message.sequence} is another order than for others")
        if message.order in got:
            verdict.add("repeated", f"{name}: the order of {message.sequence}")
        got.add(message.order)
        if message.order not in known:
            verdict.add("unknown", f"{name}: the order of {message.sequence} was never placed")
        if message.timestamp - message.processed_ms > stale_ms and not message.late:
            verdict.add("unmarked_stale", f"{name}: {message.sequence} is late and not marked")
        since = connected[bisect_right(connected, message.received) - 1]
        if message.timestamp < since - 1_000 and not message.replay:
            verdict.add("unmarked_stale", f"{name}: {message.sequence} is replayed and not marked")
    return got


def check_mirrors(reports: list[BotReport], files: dict[str, Any], verdict: Verdict) -> None:
    """Every mirror holds what the validator's files hold."""
    expected = {uuid: position_checksum(json.dumps(file).encode()) for uuid, file in files.items()}
    for number, bot in enumerate(reports):
        if bot.kind == "mirror" and bot.positions != expected:
            wrong = {u for u in expected.keys() | bot.positions if expected.get(u) != bot.positions.get(u)}
            verdict.add("mirror_differences", f"bot {number}: {len(wrong)} positions, one is {min(wrong)}")


def checksum_of(files: dict[str, Any]) -> str:
    """As heartbeats say it."""
    total = sum(position_checksum(json.dumps(file).encode()) for file in files.values())
    return f"{total % CHECKSUM_MODULUS:016x}"


def files_of(validator: Path) -> dict[str, Any]:
    """Position uuid -> its file, closed wins, as the validator's directory has them now."""
    found: dict[str, Any] = {}
    for folder in ("open", "closed"):
        for path in validator.glob(f"validation/miners/*/positions/*/{folder}/*"):
            found[path.name] = json.loads(path.read_text())
    return found


def check_state(
    what: str, positions: Iterable[dict[str, Any]], files: dict[str, Any], verdict: Verdict
) -> None:
    """Every position served equals its file (price sources apart, which age), and none is missing."""
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
