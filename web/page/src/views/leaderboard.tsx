import { signal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { ageDays, matchingMiners, netOf, phaseOf, type BoardFilter, type Sorting } from "../pure/board.ts";
import { number, percent, phase } from "../pure/format.ts";
import type { Miner } from "../pure/model.ts";
import { linkTo } from "../pure/route.ts";
import { Ago, Choice, Gain, Leverage, Loss, MinerLink, Phase, Search, Sparkline } from "../parts/small.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { board, boardError, isLive, now } from "../store.ts";
import { Tape } from "./tape.tsx";

// They outlive the view, so that the back button returns to the same list.
const filter = signal<BoardFilter>({ text: "", phase: "", openOnly: false });
const order = signal<Sorting>({ column: "rank", falling: false });

function columnsFor(lookbackDays: number): Column<Miner>[] {
  return [
    { key: "rank", label: "#", width: 46, priority: 0, align: "right", falling: false, value: (m) => m.rank, cell: (m) => m.rank },
    { key: "hotkey", label: "Miner", width: 132, priority: 0, value: (m) => m.hotkey, cell: (m) => <MinerLink hotkey={m.hotkey} /> },
    {
      key: "phase",
      label: "Phase",
      title: "Bucket of the challenge period",
      width: 104,
      priority: 5,
      value: (m) => phaseOf(m),
      cell: (m) => <Phase bucket={phaseOf(m)} title={m.elimination?.reason ?? undefined} />,
    },
    {
      key: "return",
      label: `${lookbackDays} d`,
      title: `Return over the ${lookbackDays} days that the validator looks back`,
      width: 84,
      priority: 0,
      align: "right",
      value: (m) => m.thirty_day_returns,
      cell: (m) => <Gain factor={m.thirty_day_returns} />,
    },
    {
      key: "all",
      label: "All time",
      title: "Return over all positions",
      width: 84,
      priority: 4,
      align: "right",
      value: (m) => m.all_time_returns,
      cell: (m) => <Gain factor={m.all_time_returns} />,
    },
    {
      key: "drawdown",
      label: "Drawdown",
      title: "Largest loss from a peak, from the performance ledger",
      width: 86,
      priority: 3,
      align: "right",
      value: (m) => m.drawdown,
      cell: (m) => <Loss fraction={m.drawdown} />,
    },
    {
      key: "curve",
      label: "Equity",
      title: "Portfolio return over the performance ledger",
      width: 108,
      priority: 2,
      align: "center",
      cell: (m) => <Sparkline curve={m.curve} />,
    },
    {
      key: "open",
      label: "Open",
      title: "Open positions",
      width: 58,
      priority: 6,
      align: "right",
      value: (m) => m.open_positions,
      cell: (m) => m.open_positions,
    },
    {
      key: "net",
      label: "Net lev.",
      title: "Sum of the open positions' signed leverage",
      width: 80,
      priority: 1,
      align: "right",
      value: netOf,
      cell: (m) => <Leverage value={netOf(m)} />,
    },
    {
      key: "closed",
      label: "Closed",
      title: "Closed positions",
      width: 68,
      priority: 10,
      align: "right",
      value: (m) => m.n_positions,
      cell: (m) => number(m.n_positions, 0),
    },
    {
      key: "wins",
      label: "Wins",
      title: "Share of closed positions with a profit",
      width: 60,
      priority: 8,
      align: "right",
      value: (m) => m.percentage_profitable,
      cell: (m) => percent(m.percentage_profitable),
    },
    {
      key: "last",
      label: "Last order",
      title: "Time since the newest order",
      width: 86,
      priority: 7,
      align: "right",
      value: (m) => m.last_order?.processed_ms ?? null,
      cell: (m) => <Ago ms={m.last_order?.processed_ms} />,
    },
    {
      key: "age",
      label: "Age",
      title: "Days since the first entry of the performance ledger",
      width: 60,
      priority: 9,
      align: "right",
      value: (m) => ageDays(m, now.peek()),
      cell: (m) => {
        const days = ageDays(m, now.peek());
        return days === null ? <span class="none">–</span> : `${Math.floor(days)} d`;
      },
    },
  ];
}

export function Leaderboard() {
  const current = board.value;
  const lookback = current?.lookback_days ?? 180;
  const columns = useMemo(() => columnsFor(lookback), [lookback]);
  const phases = useMemo(
    () => [...new Set((current?.miners ?? []).map((miner) => phaseOf(miner)))].filter((p) => p !== null).sort(),
    [current],
  );
  const rows = useMemo(() => matchingMiners(current?.miners ?? [], filter.value), [current, filter.value]);
  const set = (change: Partial<BoardFilter>) => (filter.value = { ...filter.value, ...change });
  return (
    <div class={isLive.value ? "split" : "split single"}>
      <section class="panel fill" aria-labelledby="board-title">
        <header class="bar">
          <h1 id="board-title">Leaderboard</h1>
          <span class="count" role="status">
            {current === null ? "" : rows.length === current.miners.length ? `${rows.length} miners` : `${rows.length} of ${current.miners.length} miners`}
          </span>
          <Search label="Find miner or pair" value={filter.value.text} onChange={(text) => set({ text })} />
          <Choice
            label="Phase"
            value={filter.value.phase}
            options={[["", "All"], ...phases.map((name): [string, string] => [name, phase(name)])]}
            onChange={(name) => set({ phase: name })}
          />
          <label class="check" title="Only miners with open positions">
            <input
              type="checkbox"
              checked={filter.value.openOnly}
              onChange={(event) => set({ openOnly: event.currentTarget.checked })}
            />
            Open only
          </label>
        </header>
        <Table
          label="Leaderboard"
          columns={columns}
          rows={rows}
          rowKey={(miner) => miner.hotkey}
          order={order.value}
          onOrder={(next) => (order.value = next)}
          onOpen={(miner) => (location.hash = linkTo("miners", miner.hotkey))}
          news={(miner) => miner.last_order?.processed_ms ?? 0}
          empty={
            current === null
              ? boardError.value || "Loading…"
              : current.miners.length === 0
                ? "The key's tier shows no miner yet."
                : "No miner matches."
          }
        />
      </section>
      {isLive.value && <Tape compact />}
    </div>
  );
}
