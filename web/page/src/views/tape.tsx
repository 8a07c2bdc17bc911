import { signal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { clock, delay, price } from "../pure/format.ts";
import { linkTo } from "../pure/route.ts";
import { matching, type TapeFilter, type TapeOrder } from "../pure/tape.ts";
import type { Miner } from "../pure/model.ts";
import { Ago, Choice, Leverage, MinerLink, PairLink, Search, Side } from "../parts/small.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { board, isLive, tape } from "../store.ts";

const filter = signal<TapeFilter>({ text: "", side: "", minLeverage: 0 });
/** The orders that are shown while the tape is held; null while it runs. */
const held = signal<TapeOrder[] | null>(null);

export const tapeColumns: Column<TapeOrder>[] = [
  {
    key: "time",
    label: "UTC",
    width: 84,
    priority: 0,
    cell: (o) => <time title={new Date(o.processedMs).toISOString()}>{clock(o.processedMs)}</time>,
  },
  { key: "pair", label: "Pair", width: 110, priority: 0, cell: (o) => <PairLink pair={o.pair} /> },
  { key: "side", label: "Side", width: 64, priority: 0, cell: (o) => <Side side={o.side} /> },
  {
    key: "leverage",
    label: "Leverage",
    title: "Signed change of the position's leverage",
    width: 80,
    priority: 0,
    align: "right",
    cell: (o) => <Leverage value={o.leverage} />,
  },
  { key: "price", label: "Price", width: 96, priority: 3, align: "right", cell: (o) => price(o.price) },
  {
    key: "action",
    label: "Effect",
    title: "What the order did to the position",
    width: 70,
    priority: 4,
    cell: (o) => <span class={`action ${o.action}`}>{o.action}</span>,
  },
  {
    key: "net",
    label: "Net after",
    title: "The position's leverage after the order",
    width: 84,
    priority: 5,
    align: "right",
    cell: (o) => <Leverage value={o.netLeverage} />,
  },
  { key: "miner", label: "Miner", width: 132, priority: 1, cell: (o) => <MinerLink hotkey={o.hotkey} /> },
  {
    key: "type",
    label: "Type",
    width: 92,
    priority: 6,
    cell: (o) => <span class="muted">{o.execution.toLowerCase().replace("_", " ")}</span>,
  },
  {
    key: "lag",
    label: "Seen after",
    title: "From the validator's order to the server's log",
    width: 84,
    priority: 7,
    align: "right",
    cell: (o) => (o.late ? <span class="badge warn">late</span> : <span class="muted">{delay(o.seenMs - o.processedMs)}</span>),
  },
];
const compactColumns = tapeColumns.filter(({ key }) => ["time", "pair", "side", "leverage", "price"].includes(key));

/** The live orders; `compact` for the column beside the leaderboard. */
export function Tape({ compact = false }: { compact?: boolean }) {
  const source = compact ? tape.value : (held.value ?? tape.value);
  const rows = useMemo(() => (compact ? source : matching(source, filter.value)), [source, filter.value, compact]);
  const set = (change: Partial<TapeFilter>) => (filter.value = { ...filter.value, ...change });
  const missed = held.value === null ? 0 : tape.value.findIndex((o) => o.sequence === held.value![0]?.sequence);
  return (
    <section class="panel fill tape" aria-labelledby={compact ? "side-tape" : "tape-title"}>
      <header class="bar">
        {compact ? <h2 id="side-tape">Orders</h2> : <h1 id="tape-title">Orders</h1>}
        {!compact && (
          <>
            <span class="count" role="status">
              {rows.length === source.length ? `newest ${rows.length}` : `${rows.length} of ${source.length}`}
            </span>
            <Search label="Find pair or miner" value={filter.value.text} onChange={(text) => set({ text })} />
            <Choice
              label="Kind"
              value={filter.value.side}
              options={[
                ["", "All"],
                ["LONG", "Long"],
                ["SHORT", "Short"],
                ["FLAT", "Flat"],
                ["open", "Opening"],
                ["close", "Closing"],
              ]}
              onChange={(side) => set({ side })}
            />
            <Choice
              label="Leverage"
              value={String(filter.value.minLeverage)}
              options={[
                ["0", "Any"],
                ["0.05", "≥ 0.05"],
                ["0.1", "≥ 0.1"],
                ["0.25", "≥ 0.25"],
                ["0.5", "≥ 0.5"],
                ["1", "≥ 1"],
              ]}
              onChange={(value) => set({ minLeverage: Number(value) })}
            />
            <button
              type="button"
              class="button"
              aria-pressed={held.value !== null}
              onClick={() => (held.value = held.value === null ? tape.value : null)}
            >
              {held.value === null ? "Hold" : `Resume${missed > 0 ? ` (${missed} new)` : ""}`}
            </button>
          </>
        )}
      </header>
      <Table
        label={compact ? "Newest orders" : "Orders, newest first"}
        columns={compact ? compactColumns : tapeColumns}
        rows={rows}
        rowKey={(o) => o.sequence}
        news={(o) => o.sequence}
        onOpen={(o) => (location.hash = linkTo("miners", o.hotkey))}
        empty={source.length === 0 ? "Waiting for the next order…" : "No order matches."}
      />
    </section>
  );
}

const lastColumns: Column<Miner>[] = [
  { key: "miner", label: "Miner", width: 132, priority: 0, cell: (m) => <MinerLink hotkey={m.hotkey} /> },
  { key: "pair", label: "Pair", width: 110, priority: 0, cell: (m) => <PairLink pair={m.last_order!.trade_pair} /> },
  { key: "side", label: "Side", width: 70, priority: 0, cell: (m) => <Side side={m.last_order!.order_type} /> },
  { key: "leverage", label: "Leverage", width: 80, priority: 1, align: "right", cell: (m) => <Leverage value={m.last_order!.leverage} /> },
  { key: "ago", label: "Age", width: 64, priority: 0, align: "right", cell: (m) => <Ago ms={m.last_order!.processed_ms} /> },
];

/** Below tier 100 there is no stream: the newest order that the tier shows of each miner. */
function LastOrders() {
  const rows = useMemo(
    () =>
      (board.value?.miners ?? [])
        .filter((miner) => miner.last_order !== null)
        .sort((a, b) => b.last_order!.processed_ms - a.last_order!.processed_ms),
    [board.value],
  );
  return (
    <section class="panel fill" aria-labelledby="last-title">
      <header class="bar">
        <h1 id="last-title">Newest order of each miner</h1>
        <p class="note">The live orders need a key of tier 100.</p>
      </header>
      <Table label="Newest orders" columns={lastColumns} rows={rows} rowKey={(m) => m.hotkey} empty="No orders." />
    </section>
  );
}

export function Orders() {
  return isLive.value ? <Tape /> : <LastOrders />;
}
