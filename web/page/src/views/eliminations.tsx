import { signal } from "@preact/signals";
import { APIStatusError } from "ptn-api-client";
import { useEffect, useMemo, useState } from "preact/hooks";
import type { Sorting } from "../pure/board.ts";
import { errorSentence } from "../pure/errors.ts";
import { minute, number } from "../pure/format.ts";
import { Ago, MinerLink, Search } from "../parts/small.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { load } from "../store.ts";

type Elimination = { hotkey: string; reason?: string | null; dd?: number | null; elimination_initiated_time_ms?: number | null };

const columns: Column<Elimination>[] = [
  { key: "miner", label: "Miner", width: 140, priority: 0, value: (e) => e.hotkey, cell: (e) => <MinerLink hotkey={e.hotkey} /> },
  {
    key: "reason",
    label: "Reason",
    width: 190,
    priority: 0,
    value: (e) => e.reason ?? null,
    cell: (e) => (e.reason ?? "–").toLowerCase().replaceAll("_", " "),
  },
  {
    key: "dd",
    label: "Drawdown",
    title: "As the validator states it, in percent",
    width: 90,
    priority: 1,
    align: "right",
    value: (e) => e.dd ?? null,
    cell: (e) => (e.dd == null ? <span class="none">–</span> : `${number(e.dd, 2)}%`),
  },
  {
    key: "time",
    label: "Eliminated (UTC)",
    width: 150,
    priority: 2,
    align: "right",
    value: (e) => e.elimination_initiated_time_ms ?? null,
    cell: (e) => minute(e.elimination_initiated_time_ms),
  },
  { key: "ago", label: "Age", width: 70, priority: 0, align: "right", value: (e) => e.elimination_initiated_time_ms ?? null, cell: (e) => <Ago ms={e.elimination_initiated_time_ms} /> },
];
const order = signal<Sorting>({ column: "time", falling: true });
const text = signal("");

export function Eliminations() {
  const [rows, setRows] = useState<Elimination[] | null>(null);
  const [error, setError] = useState("");
  useEffect(() => {
    const update = () =>
      void load((client) => client.eliminations()).then(
        (answer) => {
          setRows(answer as Elimination[]);
          setError("");
        },
        (failure: unknown) => {
          // A validator that has eliminated nobody has no such document.
          const none = failure instanceof APIStatusError && failure.status === 404;
          if (none) setRows([]);
          setError(none ? "" : errorSentence(failure));
        },
      );
    update();
    const timer = setInterval(() => document.hidden || update(), 30_000);
    return () => clearInterval(timer);
  }, []);
  const words = text.value.trim().toUpperCase();
  const shown = useMemo(
    () => (rows ?? []).filter((row) => `${row.hotkey} ${row.reason ?? ""}`.toUpperCase().includes(words)),
    [rows, words],
  );
  return (
    <section class="panel fill" aria-labelledby="eliminations-title">
      <header class="bar">
        <h1 id="eliminations-title">Eliminations</h1>
        <span class="count" role="status">
          {rows === null ? "" : `${shown.length} miners`}
        </span>
        {rows !== null && error !== "" && <span class="note bad">{error}</span>}
        <Search label="Find miner or reason" value={text.value} onChange={(value) => (text.value = value)} />
      </header>
      <Table
        label="Eliminated miners"
        columns={columns}
        rows={shown}
        rowKey={(row) => row.hotkey}
        order={order.value}
        onOrder={(next) => (order.value = next)}
        empty={rows === null ? error || "Loading…" : rows.length === 0 ? "No miner is eliminated." : "No row matches."}
      />
    </section>
  );
}
