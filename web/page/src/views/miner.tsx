import { signal } from "@preact/signals";
import { APIStatusError, type PTNClient } from "ptn-api-client";
import { useEffect, useMemo, useState } from "preact/hooks";
import { netOf, phaseOf, type Sorting } from "../pure/board.ts";
import { curveOf } from "../pure/curve.ts";
import { errorSentence } from "../pure/errors.ts";
import { minute, money, number, percent, period, price } from "../pure/format.ts";
import { isClosed, lastPrice, pairOf, type Order, type Position } from "../pure/model.ts";
import { linkTo } from "../pure/route.ts";
import { measures, type Measure } from "../pure/statistics.ts";
import { EquityChart, FillsChart } from "../parts/chart.tsx";
import { Ago, Figure, Gain, Leverage, Loss, PairLink, Phase, Side } from "../parts/small.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { board, isLive, load, now, tape } from "../store.ts";

/** Loads a document and keeps it current. It is undefined while it loads, and null where there is none. */
function useDocument<T>(name: string, request: (client: PTNClient) => Promise<T>, periodMs: number, news: unknown) {
  type State = { name: string; value: T | null | undefined; error: string };
  const [state, setState] = useState<State>({ name, value: undefined, error: "" });
  const current: State = state.name === name ? state : { name, value: undefined, error: "" };
  useEffect(() => {
    let ended = false;
    const update = async () => {
      try {
        const value = await load(request);
        // Without a change, the client returns the same object.
        if (!ended && (value !== current.value || current.error !== "")) setState({ name, value, error: "" });
      } catch (error) {
        if (ended) return;
        const missing = error instanceof APIStatusError && error.status === 404;
        setState({ name, value: missing ? null : current.value, error: errorSentence(error) });
      }
    };
    const first = setTimeout(() => void update(), current.value === undefined ? 0 : 250);
    const timer = setInterval(() => document.hidden || void update(), periodMs);
    return () => {
      ended = true;
      clearTimeout(first);
      clearInterval(timer);
    };
  }, [name, periodMs, news, current.value === undefined]);
  return current;
}

function ordersOf(position: Position): Order[] {
  return position.orders ?? [];
}

function heldMs(position: Position): number {
  const end = isClosed(position) && position.close_ms ? position.close_ms : now.peek();
  return end - (position.open_ms ?? end);
}

const pairColumn: Column<Position> = {
  key: "pair",
  label: "Pair",
  width: 110,
  priority: 0,
  value: pairOf,
  cell: (p) => <PairLink pair={pairOf(p)} />,
};
const entryColumn: Column<Position> = {
  key: "entry",
  label: "Entry",
  title: "Average entry price",
  width: 92,
  priority: 3,
  align: "right",
  value: (p) => p.average_entry_price ?? null,
  cell: (p) => price(p.average_entry_price),
};
const returnColumn: Column<Position> = {
  key: "return",
  label: "Return",
  title: "Return with fees",
  width: 82,
  priority: 0,
  align: "right",
  value: (p) => p.return_at_close,
  cell: (p) => <Gain factor={p.return_at_close} digits={3} />,
};
const ordersColumn: Column<Position> = {
  key: "orders",
  label: "Orders",
  width: 64,
  priority: 5,
  align: "right",
  value: (p) => ordersOf(p).length,
  cell: (p) => ordersOf(p).length,
};
const openedColumn: Column<Position> = {
  key: "opened",
  label: "Opened (UTC)",
  width: 126,
  priority: 6,
  align: "right",
  value: (p) => p.open_ms,
  cell: (p) => minute(p.open_ms),
};

const openColumns: Column<Position>[] = [
  pairColumn,
  { key: "side", label: "Side", width: 70, priority: 2, value: (p) => p.position_type, cell: (p) => <Side side={p.position_type} /> },
  {
    key: "leverage",
    label: "Net lev.",
    width: 80,
    priority: 0,
    align: "right",
    value: (p) => p.net_leverage,
    cell: (p) => <Leverage value={p.net_leverage} />,
  },
  entryColumn,
  {
    key: "last",
    label: "Last",
    title: "Last price that the validator used",
    width: 92,
    priority: 4,
    align: "right",
    cell: (p) => price(lastPrice(p)),
  },
  returnColumn,
  {
    key: "unrealized",
    label: "Unrealised",
    title: "USD",
    width: 90,
    priority: 7,
    align: "right",
    value: (p) => p.unrealized_pnl ?? null,
    cell: (p) => money(p.unrealized_pnl, true),
  },
  ordersColumn,
  openedColumn,
  { key: "age", label: "Age", width: 60, priority: 1, align: "right", value: (p) => p.open_ms, falling: false, cell: (p) => <Ago ms={p.open_ms} /> },
];

const closedColumns: Column<Position>[] = [
  pairColumn,
  entryColumn,
  returnColumn,
  {
    key: "realized",
    label: "Realised",
    title: "USD",
    width: 90,
    priority: 4,
    align: "right",
    value: (p) => p.realized_pnl ?? null,
    cell: (p) => money(p.realized_pnl, true),
  },
  ordersColumn,
  openedColumn,
  {
    key: "closed",
    label: "Closed (UTC)",
    width: 126,
    priority: 0,
    align: "right",
    value: (p) => p.close_ms,
    cell: (p) => minute(p.close_ms),
  },
  {
    key: "held",
    label: "Held",
    title: "Time from opening to closing",
    width: 64,
    priority: 1,
    align: "right",
    value: heldMs,
    cell: (p) => period(heldMs(p)),
  },
];

const orderColumns: Column<Order>[] = [
  { key: "time", label: "Time (UTC)", width: 126, priority: 0, cell: (o) => minute(o.processed_ms) },
  { key: "side", label: "Side", width: 70, priority: 0, cell: (o) => <Side side={o.order_type} /> },
  { key: "leverage", label: "Leverage", width: 82, priority: 0, align: "right", cell: (o) => <Leverage value={o.leverage} /> },
  { key: "price", label: "Price", width: 96, priority: 0, align: "right", cell: (o) => price(o.price) },
  { key: "type", label: "Type", width: 96, priority: 1, cell: (o) => <span class="muted">{(o.execution_type ?? "market").toLowerCase().replace("_", " ")}</span> },
];

const measureColumns: Column<Measure>[] = [
  { key: "name", label: "Measure", width: 150, priority: 0, cell: (m) => m.name },
  { key: "value", label: "Value", width: 90, priority: 0, align: "right", cell: (m) => m.value },
  { key: "rank", label: "Rank", title: "1 is the best of all miners", width: 56, priority: 0, align: "right", cell: (m) => m.rank ?? <span class="none">–</span> },
  {
    key: "percentile",
    label: "Pctl.",
    title: "Percentile among all miners",
    width: 60,
    priority: 1,
    align: "right",
    cell: (m) => (m.percentile === null ? <span class="none">–</span> : number(m.percentile, 0)),
  },
];

const openOrder = signal<Sorting>({ column: "opened", falling: true });
const closedOrder = signal<Sorting>({ column: "closed", falling: true });

export function MinerView({ hotkey }: { hotkey: string }) {
  const miner = board.value?.miners.find((candidate) => candidate.hotkey === hotkey);
  const newest = tape.value.find((order) => order.hotkey === hotkey)?.sequence;
  const entry = useDocument(`positions ${hotkey}`, (c) => c.miner(hotkey), isLive.value ? 5_000 : 60_000, newest);
  const statistics = useDocument(`statistics ${hotkey}`, (c) => c.minerStatistics(hotkey), 60_000, null);
  const [selected, setSelected] = useState<string | null>(null);
  useEffect(() => setSelected(null), [hotkey]);

  const positions = entry.value?.positions ?? [];
  const [open, closed] = useMemo(
    () => [positions.filter((p) => !isClosed(p)), positions.filter((p) => isClosed(p))],
    [positions],
  );
  const shown =
    positions.find((p) => p.position_uuid === selected) ??
    [...open].sort((a, b) => (b.open_ms ?? 0) - (a.open_ms ?? 0))[0] ??
    [...closed].sort((a, b) => (b.close_ms ?? 0) - (a.close_ms ?? 0))[0];
  const curve = useMemo(
    () => curveOf(statistics.value?.checkpoints) ?? miner?.curve ?? null,
    [statistics.value, miner?.curve],
  );
  const rows = useMemo(() => measures(statistics.value), [statistics.value]);
  const lookback = board.value?.lookback_days ?? 180;
  const totals = miner ?? entry.value ?? null;
  if (entry.value === null && miner === undefined) {
    return (
      <section class="panel fill">
        <header class="bar">
          <a class="back" href={linkTo("miners")}>
            ‹ Leaderboard
          </a>
          <h1 class="mono">{hotkey}</h1>
        </header>
        <p class="empty">{entry.error || "This miner is not known."} Its positions may be hidden from this key's tier.</p>
      </section>
    );
  }
  return (
    <div class="stack">
      <section class="panel" aria-labelledby="miner-title">
        <header class="bar">
          <a class="back" href={linkTo("miners")}>
            ‹ Leaderboard
          </a>
          <h1 id="miner-title" class="mono hotkey">
            {hotkey}
          </h1>
          <Copy text={hotkey} />
          {miner && <Phase bucket={phaseOf(miner)} />}
          {miner?.elimination && (
            <span class="note">
              {(miner.elimination.reason ?? "").toLowerCase().replaceAll("_", " ")},{" "}
              {minute(miner.elimination.elimination_initiated_time_ms)} UTC
            </span>
          )}
          {entry.error !== "" && <span class="note bad">{entry.error}</span>}
        </header>
        <dl class="figures">
          <Figure label="Rank">{miner ? `${miner.rank} of ${board.value!.miners.length}` : "–"}</Figure>
          <Figure label={`Return ${lookback} d`}>
            <Gain factor={totals?.thirty_day_returns} />
          </Figure>
          <Figure label="All time">
            <Gain factor={totals?.all_time_returns} />
          </Figure>
          <Figure label="Drawdown" title="Largest loss from a peak, from the performance ledger">
            <Loss fraction={miner?.drawdown ?? null} />
          </Figure>
          <Figure label="Open positions">{miner?.open_positions ?? open.length}</Figure>
          <Figure label="Net leverage">
            <Leverage value={miner ? netOf(miner) : null} />
          </Figure>
          <Figure label="Closed">{totals?.n_positions ?? "–"}</Figure>
          <Figure label="Wins">{percent(totals?.percentage_profitable)}</Figure>
          <Figure label="Last order">
            <Ago ms={miner?.last_order?.processed_ms} />
          </Figure>
        </dl>
      </section>
      <div class="thirds">
        <section class="panel" aria-labelledby="curve-title">
          <header class="bar">
            <h2 id="curve-title">Equity</h2>
          </header>
          {curve !== null && curve.length > 1 ? (
            <EquityChart curve={curve} label={hotkey} />
          ) : (
            <p class="empty">{statistics.value === undefined ? "Loading…" : "No performance ledger."}</p>
          )}
        </section>
        <section class="panel" aria-labelledby="statistics-title">
          <header class="bar">
            <h2 id="statistics-title">Statistics</h2>
          </header>
          <Table
            label="Statistics with rank"
            columns={measureColumns}
            rows={rows}
            rowKey={(m) => m.name}
            maxRows={14}
            empty={statistics.value === undefined ? "Loading…" : "The validator has no statistics of this miner."}
          />
        </section>
      </div>
      <div class="halves">
        <section class="panel" aria-labelledby="open-title">
          <header class="bar">
            <h2 id="open-title">Open positions</h2>
            <span class="count">{open.length}</span>
          </header>
          <Table
            label="Open positions"
            columns={openColumns}
            rows={open}
            rowKey={(p) => p.position_uuid}
            order={openOrder.value}
            onOrder={(next) => (openOrder.value = next)}
            onOpen={(p) => setSelected(p.position_uuid)}
            selected={shown?.position_uuid ?? null}
            news={(p) => ordersOf(p).length}
            maxRows={10}
            empty={entry.value === undefined ? "Loading…" : "No open position."}
          />
          <header class="bar">
            <h2 id="closed-title">Closed positions</h2>
            <span class="count">{closed.length}</span>
          </header>
          <Table
            label="Closed positions"
            columns={closedColumns}
            rows={closed}
            rowKey={(p) => p.position_uuid}
            order={closedOrder.value}
            onOrder={(next) => (closedOrder.value = next)}
            onOpen={(p) => setSelected(p.position_uuid)}
            selected={shown?.position_uuid ?? null}
            maxRows={12}
            empty={entry.value === undefined ? "Loading…" : "No closed position."}
          />
        </section>
        <section class="panel" aria-labelledby="orders-title">
          <header class="bar">
            <h2 id="orders-title">Orders{shown ? ` of ${pairOf(shown)}` : ""}</h2>
            {shown && (
              <span class="count">
                {isClosed(shown) ? "closed" : "open"}, {ordersOf(shown).length} orders
              </span>
            )}
          </header>
          {shown ? <Fills position={shown} /> : <p class="empty">Choose a position.</p>}
        </section>
      </div>
    </div>
  );
}

function Fills({ position }: { position: Position }) {
  const orders = useMemo(() => [...ordersOf(position)].sort((a, b) => b.processed_ms - a.processed_ms), [position]);
  const fills = orders
    .filter((order) => typeof order.price === "number" && order.price > 0)
    .map((order) => ({ ms: order.processed_ms, price: order.price!, side: order.order_type }))
    .reverse();
  return (
    <>
      {fills.length > 0 && (
        <FillsChart
          fills={fills}
          last={lastPrice(position)}
          label={`Fills of ${pairOf(position)} by time and price; the table below has them as text`}
        />
      )}
      <Table
        label={`Orders of ${pairOf(position)}`}
        columns={orderColumns}
        rows={orders}
        rowKey={(order) => order.order_uuid}
        maxRows={12}
        empty="No orders."
      />
    </>
  );
}

function Copy({ text }: { text: string }) {
  const [done, setDone] = useState(false);
  if (!navigator.clipboard) return null;
  return (
    <button
      type="button"
      class="button"
      onClick={() =>
        void navigator.clipboard.writeText(text).then(() => {
          setDone(true);
          setTimeout(() => setDone(false), 1500);
        })
      }
    >
      {done ? "Copied" : "Copy"}
    </button>
  );
}
