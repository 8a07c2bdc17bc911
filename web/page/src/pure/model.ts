// The API's answers as this page reads them. Fields that older validators do not write are optional.

export type LastOrder = {
  processed_ms: number;
  trade_pair: string;
  order_type: string;
  leverage: number | null;
};

export type Miner = {
  hotkey: string;
  rank: number;
  thirty_day_returns: number;
  all_time_returns: number;
  n_positions: number;
  percentage_profitable: number;
  open_positions: number;
  net_leverage: Record<string, number>;
  last_order: LastOrder | null;
  phase: string | null;
  elimination: { reason: string | null; elimination_initiated_time_ms: number | null } | null;
  drawdown: number | null;
  curve: [number, number][] | null;
};

export type Board = { tier: number; delay_ms: number; lookback_days: number; miners: Miner[] };

export type RawOrder = {
  order_uuid: string;
  order_type: string;
  leverage?: number | null;
  price?: number | null;
  processed_ms: number;
  src?: number;
  execution_type?: string | null;
};

export type Position = {
  miner_hotkey: string;
  position_uuid: string;
  open_ms: number;
  close_ms: number | null;
  trade_pair: unknown[];
  position_type: string | null;
  net_leverage: number;
  average_entry_price?: number | null;
  current_return: number;
  return_at_close: number;
  realized_pnl?: number | null;
  unrealized_pnl?: number | null;
  is_closed_position?: boolean;
  last_price_source?: { close?: number | null } | null;
};
export type FullPosition = Position & { orders: RawOrder[] };

/** A message of the stream in the format `delta`. */
export type Message = {
  sequence: number;
  timestamp: number;
  late?: boolean;
  replay?: boolean;
  data: { order: RawOrder; position: Position; n_orders: number };
};

export type Health = {
  status: string;
  problems: string[];
  details: Record<string, unknown>;
  source: { swept_ms: number | null; stale: boolean; reason: string } | null;
};

export function pairOf(position: { trade_pair: unknown }): string {
  const given = position.trade_pair;
  const pair = Array.isArray(given) ? given[0] : ((given as { trade_pair_id?: unknown } | null)?.trade_pair_id ?? given);
  return typeof pair === "string" ? pair : "?";
}

export function isClosed(position: { close_ms?: number | null; is_closed_position?: boolean }): boolean {
  return position.is_closed_position ?? Boolean(position.close_ms);
}
