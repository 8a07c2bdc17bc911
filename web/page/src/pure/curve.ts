// Equity curves and what follows from them.

export type Curve = [number, number][];

/** Returns the loss from the highest value so far at each point, as a fraction at most 0. */
export function underwater(curve: Curve): number[] {
  let peak = -Infinity;
  return curve.map(([, value]) => {
    peak = Math.max(peak, value);
    return peak > 0 ? value / peak - 1 : 0;
  });
}

/** Returns the curve in a miner's statistics, which has more points than the leaderboard's; null without one. */
export function curveOf(checkpoints: unknown): Curve | null {
  if (!Array.isArray(checkpoints)) return null;
  const curve: Curve = [];
  for (const point of checkpoints as Record<string, unknown>[]) {
    const [time, value] = [point?.["last_update_ms"], point?.["prev_portfolio_ret"]];
    if (typeof time === "number" && typeof value === "number" && Number.isFinite(time * value)) {
      const last = curve.at(-1);
      if (last !== undefined && time <= last[0]) continue;
      curve.push([time, value]);
    }
  }
  return curve.length === 0 ? null : curve;
}

/** Returns the points of a polyline that fills a box of this size. */
export function sparkline(curve: Curve, width: number, height: number, margin = 2): string {
  const times = curve.map(([time]) => time);
  const values = curve.map(([, value]) => value);
  const [first, last] = [Math.min(...times), Math.max(...times)];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (time: number) => (last === first ? width / 2 : ((time - first) / (last - first)) * width);
  const y = (value: number) =>
    high === low ? height / 2 : height - margin - ((value - low) / (high - low)) * (height - 2 * margin);
  return curve.map(([time, value]) => `${x(time).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
}
