import { signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import type { Sorting } from "../pure/board.ts";
import { leverage, number, percent } from "../pure/format.ts";
import { exposures, holdersOf, type Holding, type PairExposure } from "../pure/pairs.ts";
import { linkTo } from "../pure/route.ts";
import { Ago, Choice, Figure, Leverage, MinerLink, PairLink, Search } from "../parts/small.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { board, isLive, load, tape } from "../store.ts";
import { tapeColumns } from "./tape.tsx";

const text = signal("");
const category = signal("");
const order = signal<Sorting>({ column: "gross", falling: true });
/** The class of each pair, such as crypto; loaded once. */
const categories = signal<Record<string, string> | null>(null);

async function loadCategories(): Promise<void> {
  if (categories.peek() !== null) return;
  const answer = await load((client) => client.tradePairs()).catch(() => null);
  if (answer === null) return;
  const listed = [...answer.allowed, ...answer.disabled];
  categories.value = Object.fromEntries(listed.map((pair) => [pair.trade_pair_id, pair.trade_pair_category]));
}

/** Shorts to the left, longs to the right, on the scale of the largest pair. */
function Balance({ exposure, largest }: { exposure: PairExposure; largest: number }) {
  const width = (part: number) => (largest === 0 ? 0 : Math.min(50, (Math.abs(part) / largest) * 50));
  const [short, long] = [width(exposure.shortLeverage), width(exposure.longLeverage)];
  return (
    <svg class="balance" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">
      <rect class="down" x={50 - short} y="1" width={short} height="10" />
      <rect class="up" x="50" y="1" width={long} height="10" />
      <line x1="50" x2="50" y1="0" y2="12" />
    </svg>
  );
}

function columnsFor(largest: number, kinds: Record<string, string>): Column<PairExposure>[] {
  return [
    { key: "pair", label: "Pair", width: 104, priority: 0, value: (p) => p.pair, cell: (p) => <PairLink pair={p.pair} /> },
    {
      key: "class",
      label: "Class",
      width: 94,
      priority: 8,
      value: (p) => kinds[p.pair] ?? null,
      cell: (p) => <span class="muted">{kinds[p.pair] ?? "–"}</span>,
    },
    { key: "holders", label: "Miners", title: "Miners that hold the pair", width: 66, priority: 3, align: "right", value: (p) => p.holders, cell: (p) => p.holders },
    { key: "longs", label: "Long", title: "Miners that are long", width: 54, priority: 6, align: "right", value: (p) => p.longs, cell: (p) => p.longs },
    { key: "shorts", label: "Short", title: "Miners that are short", width: 56, priority: 6, align: "right", value: (p) => p.shorts, cell: (p) => p.shorts },
    {
      key: "short-leverage",
      label: "Short lev.",
      title: "Sum of the leverage of all short positions",
      width: 84,
      priority: 4,
      align: "right",
      falling: false,
      value: (p) => p.shortLeverage,
      cell: (p) => <Leverage value={p.shortLeverage} />,
    },
    { key: "balance", label: "Short | long", width: 150, priority: 2, align: "center", cell: (p) => <Balance exposure={p} largest={largest} /> },
    {
      key: "long-leverage",
      label: "Long lev.",
      title: "Sum of the leverage of all long positions",
      width: 84,
      priority: 4,
      align: "right",
      value: (p) => p.longLeverage,
      cell: (p) => <Leverage value={p.longLeverage} />,
    },
    { key: "net", label: "Net", title: "Long and short leverage together", width: 78, priority: 0, align: "right", value: (p) => p.net, cell: (p) => <Leverage value={p.net} /> },
    { key: "gross", label: "Gross", title: "Leverage of all positions without sign", width: 76, priority: 0, align: "right", value: (p) => p.gross, cell: (p) => number(p.gross, 3) },
    {
      key: "crowding",
      label: "Crowding",
      title: "Share of the miners with open positions that hold the pair",
      width: 82,
      priority: 1,
      align: "right",
      value: (p) => p.crowding,
      cell: (p) => percent(p.crowding),
    },
    {
      key: "one-sided",
      label: "One-sided",
      title: "Share of the gross leverage on the larger side: 50 % is balanced",
      width: 84,
      priority: 5,
      align: "right",
      value: (p) => (p.gross === 0 ? null : p.oneSided),
      cell: (p) => (p.gross === 0 ? <span class="none">–</span> : percent(p.oneSided)),
    },
    ...(isLive.value
      ? [
          { key: "orders", label: "Orders", title: "Among the newest orders on the tape", width: 66, priority: 7, align: "right", value: (p: PairExposure) => p.orders, cell: (p: PairExposure) => p.orders } as const,
          { key: "last", label: "Last order", width: 86, priority: 7, align: "right", value: (p: PairExposure) => p.lastMs, cell: (p: PairExposure) => <Ago ms={p.lastMs} /> } as const,
        ]
      : []),
  ];
}

export function Pairs({ pair }: { pair: string | null }) {
  useEffect(() => void loadCategories(), []);
  const all = useMemo(() => exposures(board.value?.miners ?? [], tape.value), [board.value, tape.value]);
  const kinds = categories.value ?? {};
  const largest = Math.max(0, ...all.map((p) => Math.max(p.longLeverage, -p.shortLeverage)));
  const columns = useMemo(() => columnsFor(largest, kinds), [largest, kinds, isLive.value]);
  const words = text.value.trim().toUpperCase().replace("/", "");
  const rows = all.filter(
    (p) => p.pair.includes(words) && (category.value === "" || kinds[p.pair] === category.value),
  );
  const known = [...new Set(all.map((p) => kinds[p.pair]))].filter((kind) => kind !== undefined).sort();
  if (pair !== null) return <Pair pair={pair} exposure={all.find((p) => p.pair === pair)} />;
  return (
    <section class="panel fill" aria-labelledby="pairs-title">
      <header class="bar">
        <h1 id="pairs-title">Pairs</h1>
        <span class="count" role="status">
          {rows.length} pairs
        </span>
        <Search label="Find pair" value={text.value} onChange={(value) => (text.value = value)} />
        <Choice
          label="Class"
          value={category.value}
          options={[["", "All"], ...known.map((kind): [string, string] => [kind, kind])]}
          onChange={(kind) => (category.value = kind)}
        />
        <p class="note wide">Leverage is summed over miners, each as a fraction of its own balance.</p>
      </header>
      <Table
        label="Exposure by trade pair"
        columns={columns}
        rows={rows}
        rowKey={(p) => p.pair}
        order={order.value}
        onOrder={(next) => (order.value = next)}
        onOpen={(p) => (location.hash = linkTo("pairs", p.pair))}
        empty={board.value === null ? "Loading…" : "No pair matches."}
      />
    </section>
  );
}

const holderColumns: Column<Holding>[] = [
  { key: "rank", label: "#", title: "Rank on the leaderboard", width: 44, priority: 1, align: "right", falling: false, value: (h) => h.rank, cell: (h) => h.rank },
  { key: "miner", label: "Miner", width: 140, priority: 0, value: (h) => h.hotkey, cell: (h) => <MinerLink hotkey={h.hotkey} /> },
  { key: "leverage", label: "Net leverage", width: 104, priority: 0, align: "right", value: (h) => h.leverage, cell: (h) => <Leverage value={h.leverage} /> },
];
const holderOrder = signal<Sorting>({ column: "", falling: true });

function Pair({ pair, exposure }: { pair: string; exposure: PairExposure | undefined }) {
  const holders = useMemo(() => holdersOf(board.value?.miners ?? [], pair), [board.value, pair]);
  const orders = useMemo(() => tape.value.filter((o) => o.pair === pair), [tape.value, pair]);
  return (
    <div class="stack">
      <section class="panel" aria-labelledby="pair-title">
        <header class="bar">
          <a class="back" href={linkTo("pairs")}>
            ‹ Pairs
          </a>
          <h1 id="pair-title">{pair}</h1>
        </header>
        <dl class="figures">
          <Figure label="Miners long">{exposure?.longs ?? 0}</Figure>
          <Figure label="Miners short">{exposure?.shorts ?? 0}</Figure>
          <Figure label="Long leverage">
            <Leverage value={exposure?.longLeverage ?? 0} />
          </Figure>
          <Figure label="Short leverage">
            <Leverage value={exposure?.shortLeverage ?? 0} />
          </Figure>
          <Figure label="Net">
            <Leverage value={exposure?.net ?? 0} />
          </Figure>
          <Figure label="Gross">{leverage(exposure?.gross ?? 0).replace("+", "")}</Figure>
          <Figure label="Crowding" title="Share of the miners with open positions that hold the pair">
            {percent(exposure?.crowding ?? 0)}
          </Figure>
        </dl>
      </section>
      <div class={isLive.value ? "halves" : ""}>
        <section class="panel" aria-labelledby="holders-title">
          <header class="bar">
            <h2 id="holders-title">Held by</h2>
            <span class="count">{holders.length} miners</span>
          </header>
          <Table
            label={`Miners that hold ${pair}`}
            columns={holderColumns}
            rows={holders}
            rowKey={(h) => h.hotkey}
            order={holderOrder.value}
            onOrder={(next) => (holderOrder.value = next)}
            onOpen={(h) => (location.hash = linkTo("miners", h.hotkey))}
            maxRows={18}
            empty="No miner holds this pair."
          />
        </section>
        {isLive.value && (
          <section class="panel" aria-labelledby="pair-orders-title">
            <header class="bar">
              <h2 id="pair-orders-title">Recent orders</h2>
              <span class="count">{orders.length}</span>
            </header>
            <Table
              label={`Recent orders of ${pair}`}
              columns={tapeColumns.filter(({ key }) => key !== "pair")}
              rows={orders}
              rowKey={(o) => o.sequence}
              news={(o) => o.sequence}
              maxRows={18}
              empty="None of the newest orders is of this pair."
            />
          </section>
        )}
      </div>
    </div>
  );
}
