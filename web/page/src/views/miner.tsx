import { signal } from "@preact/signals";
import { useEffect, useMemo, useState } from "preact/hooks";
import { netOf, phaseOf, type Order } from "../pure/board.ts";
import { curveOf } from "../pure/curve.ts";
import { errorSentence } from "../pure/errors.ts";
import { minute, money, number, percent, period, price } from "../pure/format.ts";
import { isClosed, pairOf, type FullPosition, type RawOrder } from "../pure/model.ts";
import { linkTo } from "../pure/route.ts";
import { measures, type Measure } from "../pure/statistics.ts";
import { ApiError, type Answer } from "../api.ts";
import { EquityChart, FillsChart } from "../parts/chart.tsx";
import { Ago, Figure, Gain, Leverage, Loss, PairLink, Phase, Side } from "../parts/small.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { board, isLive, load, now, tape } from "../store.ts";

type Entry = {
  positions: FullPosition[];
  thirty_day_returns: number;
  all_time_returns: number;
  n_positions: number;
  percentage_profitable: number;
};

/** Loads a document and keeps it current. Returns undefined while it loads, and null where there is none. */
function useDocument<T>(path: string, periodMs: number, news: unknown) {
  const [state, setState] = useState<{ path: string; answer: Answer<T> | null | undefined; error: string }>({
    path,
    answer: undefined,
    error: "",
  });
  const current = state.path === path ? state : { path, answer: undefined, error: "" };
  useEffect(() => {
    let ended = false;
    const update = async () => {
      try {
        const answer = await load<T>(path, current.answer ?? null);
        if (!ended && answer !== current.answer) setState({ path, answer, error: "" });
      } catch (error) {
        if (ended) return;
        const missing = error instanceof ApiError && error.status === 404;
        setState({ path, answer: missing ? null : current.answer, error: errorSentence(error) });
      }
    };
    const wait = current.answer === undefined ? 0 : 250;
    const first = setTimeout(() => void update(), wait);
    const timer = setInterval(() => document.hidden || void update(), periodMs);
    return () => {
      ended = true;
      clearTimeout(first);
      clearInterval(timer);
    };
  }, [path, periodMs, news, current.answer === undefined]);
  return { value: current.answer === undefined ? undefined : (current.answer?.value ?? null), error: current.error };
}

function lastPrice(position: FullPosition): number | null {
  return isClosed(position) ? null : (position.last_price_source?.close ?? null);
}

function endOf(position: FullPosition): number {
  return isClosed(position) && position.close_ms ? position.close_ms : now.peek();
}

const pairColumn: Column<FullPosition> = {
  key: "pair",
  label: "Pair",
  width: 92,
  priority: 0,
  value: pairOf,
  cell: (p) => <PairLink pair={pairOf(p)} />,
};
const entryColumn: Column<FullPosition> = {
  key: "entry",
  label: "Entry",
  title: "Average entry price",
  width: 92,
  priority: 3,
  align: "right",
  value: (p) => p.average_entry_price ?? null,
  cell: (p) => price(p.average_entry_price),
};
const returnColumn: Column<FullPosition> = {
  key: "return",
  label: "Return",
  title: "Return with fees",
  width: 82,
  priority: 0,
  align: "right",
  value: (p) => p.return_at_close,
  cell: (p) => <Gain factor={p.return_at_close} digits={3} />,
};
const ordersColumn: Column<FullPosition> = {
  key: "orders",
  label: "Orders",
  width: 64,
  priority: 5,
  align: "right",
  value: (p) => p.orders.length,
  cell: (p) => p.orders.length,
};
const openedColumn: Column<FullPosition> = {
  key: "opened",
  label: "Opened (UTC)",
  width: 126,
  priority: 6,
  align: "right",
  value: (p) => p.open_ms,
  cell: (p) => minute(p.open_ms),
};

const openColumns: Column<FullPosition>[] = [
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

const closedColumns: Column<FullPosition>[] = [
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
    value: (p) => endOf(p) - p.open_ms,
    cell: (p) => period(endOf(p) - p.open_ms),
  },
];

const orderColumns: Column<RawOrder>[] = [
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

const openOrder = signal<Order>({ column: "opened", falling: true });
const closedOrder = signal<Order>({ column: "closed", falling: true });

export function MinerView({ hotkey }: { hotkey: string }) {
  const miner = board.value?.miners.find((candidate) => candidate.hotkey === hotkey);
  const newest = tape.value.find((order) => order.hotkey === hotkey)?.sequence;
  const path = encodeURIComponent(hotkey);
  const entry = useDocument<Entry>(`/miner-positions/${path}`, isLive.value ? 5_000 : 60_000, newest);
  const statistics = useDocument<Record<string, unknown>>(`/statistics/${path}`, 60_000, null);
  const [selected, setSelected] = useState<string | null>(null);
  useEffect(() => setSelected(null), [hotkey]);

  const positions = entry.value?.positions ?? [];
  const [open, closed] = useMemo(
    () => [positions.filter((p) => !isClosed(p)), positions.filter((p) => isClosed(p))],
    [positions],
  );
  const shown =
    positions.find((p) => p.position_uuid === selected) ??
    [...open].sort((a, b) => b.open_ms - a.open_ms)[0] ??
    [...closed].sort((a, b) => (b.close_ms ?? 0) - (a.close_ms ?? 0))[0];
  const curve = useMemo(
    () => curveOf(statistics.value?.["checkpoints"]) ?? miner?.curve ?? null,
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
            news={(p) => p.orders.length}
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
                {isClosed(shown) ? "closed" : "open"}, {shown.orders.length} orders
              </span>
            )}
          </header>
          {shown ? <Fills position={shown} /> : <p class="empty">Choose a position.</p>}
        </section>
      </div>
    </div>
  );
}

function Fills({ position }: { position: FullPosition }) {
  const orders = useMemo(() => [...position.orders].sort((a, b) => b.processed_ms - a.processed_ms), [position]);
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
