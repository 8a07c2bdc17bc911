// The API's answers, as the client reads them, and what several views ask of a position.

import type { Health, Leaderboard, LeaderboardEntry, Order, OrderMessage, Position } from "ptn-api-client";

export type { Health, Order, OrderMessage, Position };
export type Miner = LeaderboardEntry;
export type Board = Leaderboard;

export function pairOf(position: Pick<Position, "trade_pair">): string {
  const given: unknown = position.trade_pair;
  const pair = Array.isArray(given) ? given[0] : ((given as { trade_pair_id?: unknown } | null)?.trade_pair_id ?? given);
  return typeof pair === "string" ? pair : "?";
}

export function isClosed(position: Pick<Position, "close_ms" | "is_closed_position">): boolean {
  return position.is_closed_position ?? Boolean(position.close_ms);
}

/** Returns the last price that the validator used for an open position. */
export function lastPrice(position: Position): number | null {
  const source = position.last_price_source as { close?: unknown } | null | undefined;
  return !isClosed(position) && typeof source?.close === "number" ? source.close : null;
}
