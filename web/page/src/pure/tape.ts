// The newest orders, newest first. Bounded, so that a page that is open for days does not grow.

import { isClosed, pairOf, type Order, type OrderMessage } from "./model.ts";

export const TAPE_LIMIT = 2000;

export type Action = "open" | "add" | "reduce" | "close" | "flip";

export type TapeOrder = {
  sequence: number;
  uuid: string;
  /** When the server first saw the order. */
  seenMs: number;
  processedMs: number;
  /** When it arrived here, by this computer's clock; null for a replayed one. */
  arrivedMs: number | null;
  hotkey: string;
  pair: string;
  side: Order["order_type"];
  leverage: number | null;
  price: number | null;
  execution: string;
  action: Action;
  netLeverage: number;
  closed: boolean;
  late: boolean;
};

/** Returns the order that a message of the format `delta` announces; null if the message has none. */
export function tapeOrder(message: OrderMessage, arrivedMs: number | null): TapeOrder | null {
  const { order, position, n_orders } = message.data;
  if (!order) return null;
  const [closed, net] = [isClosed(position), position.net_leverage ?? 0];
  return {
    sequence: message.sequence,
    uuid: order.order_uuid,
    seenMs: message.timestamp,
    processedMs: order.processed_ms,
    arrivedMs: message.replay ? null : arrivedMs,
    hotkey: position.miner_hotkey,
    pair: pairOf(position),
    side: order.order_type,
    leverage: order.leverage ?? null,
    price: order.price ?? null,
    execution: order.execution_type ?? "MARKET",
    action: closed ? "close" : (n_orders ?? 1) <= 1 ? "open" : actionOf(order.leverage ?? 0, net),
    netLeverage: closed ? 0 : net,
    closed,
    late: message.late,
  };
}

/** Returns what an order did that left a position open with this net leverage. */
function actionOf(leverage: number, net: number): Action {
  const before = net - leverage;
  if (before * net < 0) return "flip";
  return Math.abs(net) >= Math.abs(before) ? "add" : "reduce";
}

/** Returns the tape with these orders, in any order; those that it has already are left out. */
export function extended(tape: TapeOrder[], orders: TapeOrder[], limit = TAPE_LIMIT): TapeOrder[] {
  const newest = tape[0]?.sequence ?? -1;
  const fresh = orders.filter((order) => order.sequence > newest).sort((a, b) => b.sequence - a.sequence);
  const older = orders.filter((order) => order.sequence <= newest);
  if (older.length === 0) return fresh.length === 0 ? tape : [...fresh, ...tape].slice(0, limit);
  const known = new Set(tape.map((order) => order.sequence));
  const missing = older.filter((order) => !known.has(order.sequence));
  return [...fresh, ...tape, ...missing].sort((a, b) => b.sequence - a.sequence).slice(0, limit);
}

export type TapeFilter = { text: string; side: string; minLeverage: number };

/** Text matches the start of a trade pair or any part of a hotkey. */
export function matching(tape: TapeOrder[], filter: TapeFilter): TapeOrder[] {
  const words = filter.text.trim().toUpperCase().split(/\s+/).filter(Boolean);
  return tape.filter(
    (order) =>
      (filter.side === "" || order.side === filter.side || order.action === filter.side) &&
      Math.abs(order.leverage ?? 0) >= filter.minLeverage &&
      words.every(
        (word) => order.pair.startsWith(word.replace("/", "")) || order.hotkey.toUpperCase().includes(word),
      ),
  );
}

/** Returns the orders per minute, and the median time from the validator to this screen. */
export function pace(tape: TapeOrder[], nowMs: number, clockAheadMs: number) {
  let perMinute = 0;
  for (const order of tape) {
    if (order.seenMs < nowMs - clockAheadMs - 60_000) break;
    perMinute += 1;
  }
  const oldest = tape.at(-1);
  if (oldest !== undefined && perMinute === tape.length && tape.length >= TAPE_LIMIT) {
    // The tape is full before it covers a minute.
    perMinute = Math.round((perMinute * 60_000) / Math.max(1, nowMs - clockAheadMs - oldest.seenMs));
  }
  const lags = tape
    .slice(0, 200)
    .filter((order) => order.arrivedMs !== null && !order.late)
    .slice(0, 25)
    .map((order) => Math.max(0, order.arrivedMs! - clockAheadMs - order.processedMs))
    .sort((a, b) => a - b);
  return { perMinute, lagMs: lags[lags.length >> 1] ?? null };
}
