// What all miners together hold, by trade pair.

import type { Miner } from "./model.ts";
import type { TapeOrder } from "./tape.ts";

export type Holding = { hotkey: string; rank: number; leverage: number };

export type PairExposure = {
  pair: string;
  holders: number;
  longs: number;
  shorts: number;
  longLeverage: number;
  /** At most 0. */
  shortLeverage: number;
  net: number;
  gross: number;
  /** The share of the gross leverage that is on the larger side: 0.5 is balanced, 1 one-sided. */
  oneSided: number;
  /** The share of the miners with open positions that hold this pair. */
  crowding: number;
  orders: number;
  lastMs: number | null;
};

export function exposures(miners: Miner[], tape: TapeOrder[]): PairExposure[] {
  const pairs = new Map<string, PairExposure>();
  const entry = (pair: string): PairExposure => {
    let found = pairs.get(pair);
    if (found === undefined) {
      found = {
        pair,
        holders: 0,
        longs: 0,
        shorts: 0,
        longLeverage: 0,
        shortLeverage: 0,
        net: 0,
        gross: 0,
        oneSided: 0,
        crowding: 0,
        orders: 0,
        lastMs: null,
      };
      pairs.set(pair, found);
    }
    return found;
  };
  let invested = 0;
  for (const miner of miners) {
    const held = Object.entries(miner.net_leverage);
    invested += Number(held.length > 0);
    for (const [pair, leverage] of held) {
      const exposure = entry(pair);
      exposure.holders += 1;
      if (leverage > 0) exposure.longs += 1;
      if (leverage < 0) exposure.shorts += 1;
      if (leverage > 0) exposure.longLeverage += leverage;
      else exposure.shortLeverage += leverage;
    }
  }
  for (const order of tape) {
    const exposure = entry(order.pair);
    exposure.orders += 1;
    exposure.lastMs = Math.max(exposure.lastMs ?? 0, order.processedMs);
  }
  for (const exposure of pairs.values()) {
    const { longLeverage, shortLeverage } = exposure;
    exposure.net = longLeverage + shortLeverage;
    exposure.gross = longLeverage - shortLeverage;
    exposure.oneSided = exposure.gross === 0 ? 0 : Math.max(longLeverage, -shortLeverage) / exposure.gross;
    exposure.crowding = invested === 0 ? 0 : exposure.holders / invested;
  }
  return [...pairs.values()];
}

/** Returns who holds a pair, largest position first. */
export function holdersOf(miners: Miner[], pair: string): Holding[] {
  return miners
    .filter((miner) => pair in miner.net_leverage)
    .map(({ hotkey, rank, net_leverage }) => ({ hotkey, rank, leverage: net_leverage[pair]! }))
    .sort((a, b) => Math.abs(b.leverage) - Math.abs(a.leverage));
}
