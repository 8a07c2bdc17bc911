// The leaderboard: live orders applied to the server's rows, filters and sorting.

import type { Board, Miner } from "./model.ts";
import type { TapeOrder } from "./tape.ts";

/**
 * Returns the board with these orders, oldest first. Harmless for orders that the board contains already: an order
 * states the position after it. Returns change only on the server, so they follow with its next answer.
 */
export function applied(board: Board, orders: TapeOrder[]): Board {
  const changed = new Map<string, Miner>();
  const known = new Map(board.miners.map((miner) => [miner.hotkey, miner]));
  for (const order of orders) {
    const miner = changed.get(order.hotkey) ?? known.get(order.hotkey);
    if (miner === undefined) continue;
    const net = { ...miner.net_leverage };
    const wasOpen = order.pair in net;
    if (order.closed) delete net[order.pair];
    else net[order.pair] = order.netLeverage;
    const isNewest = order.processedMs >= (miner.last_order?.processed_ms ?? 0);
    changed.set(order.hotkey, {
      ...miner,
      net_leverage: net,
      open_positions: miner.open_positions + Number(!order.closed) * Number(!wasOpen) - Number(order.closed && wasOpen),
      last_order: isNewest
        ? {
            processed_ms: order.processedMs,
            trade_pair: order.pair,
            order_type: order.side,
            leverage: order.leverage,
          }
        : miner.last_order,
    });
  }
  if (changed.size === 0) return board;
  return { ...board, miners: board.miners.map((miner) => changed.get(miner.hotkey) ?? miner) };
}

export function netOf(miner: Miner): number {
  return Object.values(miner.net_leverage).reduce((sum, leverage) => sum + leverage, 0);
}

/** Returns the days since the first point of the curve, or null without one. */
export function ageDays(miner: Miner, nowMs: number): number | null {
  const first = miner.curve?.[0];
  return first === undefined ? null : Math.max(0, (nowMs - first[0]) / 86_400_000);
}

export type BoardFilter = { text: string; phase: string; openOnly: boolean };

/** Text matches a part of a hotkey, or the start of a trade pair that the miner holds. */
export function matchingMiners(miners: Miner[], filter: BoardFilter): Miner[] {
  const words = filter.text.trim().toUpperCase().split(/\s+/).filter(Boolean);
  return miners.filter(
    (miner) =>
      (filter.phase === "" || phaseOf(miner) === filter.phase) &&
      (!filter.openOnly || miner.open_positions > 0) &&
      words.every(
        (word) =>
          miner.hotkey.toUpperCase().includes(word) ||
          Object.keys(miner.net_leverage).some((pair) => pair.startsWith(word.replace("/", ""))),
      ),
  );
}

export function phaseOf(miner: Miner): string | null {
  return miner.elimination === null ? miner.phase : "ELIMINATED";
}

export type Sorting = { column: string; falling: boolean };

/** Returns the rows by this value; rows without a value come last in both directions, and ties keep their order. */
export function sortedBy<Row>(rows: Row[], value: (row: Row) => number | string | null | undefined, falling: boolean): Row[] {
  const sign = falling ? -1 : 1;
  return rows
    .map((row) => ({ row, value: value(row) ?? null }))
    .sort((a, b) => {
      if (a.value === null || b.value === null) return Number(a.value === null) - Number(b.value === null);
      if (a.value === b.value) return 0;
      return a.value < b.value ? -sign : sign;
    })
    .map((entry) => entry.row);
}
