"""docs/accounting.md, 2 to 4, implemented word by word and slowly, as a reference for the fast code.

Works on plain dicts in the validator's JSON shape and shares nothing with the package.
"""

from __future__ import annotations

import hashlib
import json
import math
from datetime import datetime, timezone
from typing import Any

S, F, V4 = 1739937600000, 1720843707000, 1713198680000
HOUR = 3_600_000
CARRY = {
    "crypto": math.exp(math.log(1 - 0.1095) / 1095),
    "forex": math.exp(math.log(1 - 0.03) / 365),
    "equities": math.exp(math.log(1 - 0.0525) / 365),
}


def state_of(
    orders: list[dict[str, Any]], category: str, rate: float, uuid: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns (state, orders that the accounting appends) of the position with these orders."""
    first = orders[0]
    p0 = effective(first) if first["processed_ms"] >= S else first["price"]
    state: dict[str, Any] = {
        "position_type": None,
        "is_closed_position": False,
        "open_ms": 0,
        "close_ms": None,
        "net_leverage": 0.0,
        "average_entry_price": 0.0,
        "cumulative_entry_value": 0.0,
        "realized_pnl": 0.0,
        "current_return": 1.0,
        "return_at_close": 1.0,
        "initial_entry_price": p0,
    }
    for order in orders:
        t, leverage, price = order["processed_ms"], order["leverage"], order["price"]
        if state["position_type"] is None:
            state["open_ms"] = t
            state["position_type"] = "LONG" if leverage > 0 else "SHORT"
        net = state["net_leverage"]
        if closes(order, state):
            state |= {"position_type": "FLAT", "is_closed_position": True, "close_ms": t}
        if order.get("src") == 1:
            state["net_leverage"] = 0.0
            return state, []
        average = state["average_entry_price"]
        if t >= S:
            if order["order_type"] != state["position_type"] or state["position_type"] == "FLAT":
                state["realized_pnl"] += -(effective(order) - average) * leverage
            m = min([net, net + leverage], key=abs)
            gain = (state["realized_pnl"] + (price - average) * m) / p0
        else:
            gain = (price - average) * net / p0
        state["current_return"] = 0.0 if gain <= -1 else 1 + gain
        fees = fee_at(t, orders, category, rate, state["open_ms"], state["close_ms"])
        state["return_at_close"] = state["current_return"] * fees
        if state["current_return"] == 0 and not state["is_closed_position"]:
            state |= {"position_type": "FLAT", "is_closed_position": True, "close_ms": t}
            flat = liquidation_flat(t, uuid)
            held = any(o["order_uuid"] == flat["order_uuid"] and o.get("src") == 1 for o in orders)
            return state, [] if held else [flat]
        if state["position_type"] == "FLAT":
            state["net_leverage"] = 0.0
            return state, []
        if t < S:
            state["average_entry_price"] = (average * net + price * leverage) / (net + leverage)
            state["cumulative_entry_value"] += price * leverage
        elif order["order_type"] == state["position_type"]:
            state["average_entry_price"] = (average * net + effective(order) * leverage) / (net + leverage)
            state["cumulative_entry_value"] += effective(order) * leverage
        state["net_leverage"] = net + leverage
    return state, []


def closes(order: dict[str, Any], state: dict[str, Any]) -> bool:
    after = state["net_leverage"] + order["leverage"]
    kind = state["position_type"]
    reached = (kind == "LONG" and after <= 0) or (kind == "SHORT" and after >= 0)
    return bool(order["order_type"] == "FLAT" or reached)


def liquidation_flat(t: int, uuid: str) -> dict[str, Any]:
    return {
        "order_type": "FLAT",
        "leverage": 0.0,
        "price": 0.0,
        "bid": 0.0,
        "ask": 0.0,
        "slippage": 0.0,
        "processed_ms": t,
        "order_uuid": "".join(reversed(uuid)),
        "price_sources": [],
        "src": 1,
    }


def effective(order: dict[str, Any]) -> float:
    sign = 1 if order["leverage"] > 0 else -1
    return float(order["price"] * (1 + sign * (order.get("slippage") or 0.0)))


def fee_at(
    t: int, orders: list[dict[str, Any]], category: str, rate: float, open_ms: int, close_ms: int | None
) -> float:
    if t < V4:
        return 1 - rate * largest_running(orders)
    return carry_at(t, orders, category, open_ms, close_ms)[0] * spread_at(t, orders, rate)


def spread_at(t: int, orders: list[dict[str, Any]], rate: float) -> float:
    return 1.0 if t >= S else 1 - cumulative(orders) * rate / 2


def cumulative(orders: list[dict[str, Any]]) -> float:
    running = total = 0.0
    for order in orders:
        if order.get("src"):
            continue
        previous, running = running, running + order["leverage"]
        if order["order_type"] == "FLAT" or running == 0 or previous * running < 0:
            return total + abs(previous)
        total += abs(order["leverage"])
    return total


def largest_running(orders: list[dict[str, Any]]) -> float:
    running = largest = 0.0
    for order in orders:
        previous, running = running, running + order["leverage"]
        if order["order_type"] == "FLAT" or running == 0 or previous * running < 0:
            break
        largest = max(largest, abs(running))
    return largest


def carry_at(
    t: int, orders: list[dict[str, Any]], category: str, open_ms: int, close_ms: int | None
) -> tuple[float, int]:
    """Returns (factor, time of its next change), walking every interval."""
    step = 8 * HOUR if category == "crypto" else 24 * HOUR
    if close_ms is not None and t > close_ms:
        t = close_ms
    start = max(F, open_ms)
    if t < start:
        return 1.0, min(t + step, start)
    n = (t - start) // step
    if (t - start) % step >= until(start, category):
        n += 1
    factor = 1.0
    interval = (start, start + until(t, category))
    for _ in range(n):
        charge = CARRY[category] ** max_leverage(orders, *interval)
        if category != "crypto":
            weekday = utc(interval[1]).strftime("%a")
            charge = {"Sat": 1.0, "Sun": 1.0, "Wed": charge**3}.get(weekday, charge)
        factor *= charge
        interval = (interval[1], interval[1] + 8 * HOUR)
    return factor, t + until(t, category)


def until(t: int, category: str) -> int:
    """Returns the ms to the next boundary strictly after t, trying every full hour."""
    hours = (4, 12, 20) if category == "crypto" else (21,)
    following = (t // HOUR + 1) * HOUR
    while utc(following).hour not in hours:
        following += HOUR
    return following - t


def utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, tz=timezone.utc)


def max_leverage(orders: list[dict[str, Any]], s: int, e: int) -> float:
    running = 0.0
    qualified: list[float] = []
    for order in orders:
        before = running
        after = before + order["leverage"]
        ended = order["order_type"] == "FLAT" or after == 0 or before * after < 0
        running = 0.0 if ended else after
        t = order["processed_ms"]
        if t > e:
            qualified.append(abs(before))
            break
        if t == s:
            qualified.append(abs(running))
        elif t > s:
            qualified += [abs(before), abs(running)]
        if ended:
            break
    return max(qualified) if qualified else abs(running)


def shown(body: dict[str, Any], tier: int, now_ms: int, category: str, rate: float) -> dict[str, Any] | None:
    """Returns what the tier shows of a position in REST; None if it is hidden."""
    cutoff = now_ms - 24 * HOUR
    uuid = body["position_uuid"]
    result = json.loads(json.dumps(body))
    share = int(hashlib.sha256(uuid.encode()).hexdigest(), 16) % 100
    live = tier == 100 or share < tier
    if not live and not (body["is_closed_position"] and body["close_ms"] < cutoff):
        orders = [o for o in result["orders"] if o["processed_ms"] < cutoff]
        if not orders:
            return None
        state, appended = state_of(orders, category, rate, uuid)
        identity = {key: body[key] for key in ("miner_hotkey", "position_uuid", "trade_pair")}
        result = identity | state | {"orders": orders + appended}
        if "initial_entry_price" not in body:
            del result["initial_entry_price"]
    if not result["is_closed_position"]:
        result["close_ms"] = 0
    for order in result["orders"]:
        if order["processed_ms"] < now_ms - 7 * 24 * HOUR:
            order["price_sources"] = []
    return dict(result)
