// A miner's statistics as rows of a table. Validators add measures over time, so every known shape is optional.

import { money, number, percent, period } from "./format.ts";

export type Measure = { name: string; value: string; rank: number | null; percentile: number | null };

const NAMES: Record<string, string> = {
  calmar: "Calmar",
  sharpe: "Sharpe",
  omega: "Omega",
  sortino: "Sortino",
  statistical_confidence: "Statistical confidence",
  return: "Return",
};

type Ranked = { value?: unknown; rank?: unknown; percentile?: unknown };
type Sections = Record<string, Record<string, unknown> | undefined>;

export function measures(statistics: unknown): Measure[] {
  const sections = asObject(statistics) as Sections;
  const rows: Measure[] = [];
  const ranked = (name: string, entry: unknown, text: (value: number) => string) => {
    const { value, rank, percentile } = asObject(entry) as Ranked;
    if (typeof value !== "number") return;
    rows.push({ name, value: text(value), rank: asNumber(rank), percentile: asNumber(percentile) });
  };
  const plain = (name: string, value: unknown, text: (value: number) => string) => {
    if (typeof value === "number") rows.push({ name, value: text(value), rank: null, percentile: null });
  };
  ranked("Weight", sections["weight"], (value) => percent(value, 2));
  for (const [key, entry] of Object.entries(asObject(sections["augmented_scores"] ?? sections["scores"]))) {
    const text = key === "return" ? (value: number) => percent(value, 2) : (value: number) => number(value, 3);
    ranked(NAMES[key] ?? words(key), entry, text);
  }
  ranked("PnL, USD", asObject(sections["pnl_info"])["raw_pnl"], (value) => money(value, true));
  plain("Volatility, annual", asObject(sections["volatility"])["annual"], (value) => percent(value, 2));
  plain("Downside volatility", asObject(sections["volatility"])["annual_downside"], (value) => percent(value, 2));
  plain("Daily drawdown", asObject(sections["drawdowns"])["daily_max_drawdown"], (value) => percent(1 - value, 2));
  plain("Positions", asObject(sections["engagement"])["n_positions"], (value) => number(value, 0));
  plain("Mean duration", asObject(sections["engagement"])["position_duration"], period);
  plain("Risk profile", asObject(sections["risk_profile"])["risk_profile_score"], (value) => number(value, 3));
  plain("Penalty", asObject(sections["penalties"])["total"], (value) => number(value, 3));
  const sizes = asObject(sections["account_size_info"])["account_sizes"];
  plain("Account size, USD", asObject(Array.isArray(sizes) ? sizes.at(-1) : null)["account_size"], (value) => money(value));
  return rows;
}

function words(key: string): string {
  return key.charAt(0).toUpperCase() + key.slice(1).replaceAll("_", " ");
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

function asNumber(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}
