// A table that draws only the rows in view. Columns that do not fit are left out, least important first.

import type { ComponentChild, ComponentChildren, JSX } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { sortedBy, type Sorting } from "../pure/board.ts";
import { fitting, rowWindow } from "../pure/window.ts";

export type Column<Row> = {
  key: string;
  label: string;
  /** What the column means, where the label does not tell. */
  title?: string;
  width: number;
  /** 0 is always shown; of the others, the highest numbers are left out first. */
  priority: number;
  align?: "left" | "right" | "center";
  /** What to sort by; a column without it cannot be sorted. */
  value?: (row: Row) => number | string | null | undefined;
  /** Whether the first click sorts falling; the usual way for numbers. */
  falling?: boolean;
  cell: (row: Row) => ComponentChild;
};

type Props<Row> = {
  label: string;
  columns: Column<Row>[];
  rows: Row[];
  rowKey: (row: Row) => string | number;
  order?: Sorting;
  onOrder?: (order: Sorting) => void;
  onOpen?: (row: Row) => void;
  selected?: string | number | null;
  /** Changes when the row has news, which is shown for a moment. */
  news?: (row: Row) => number | string;
  empty: ComponentChildren;
  /** The most rows before the table scrolls by itself; without it, the table fills its place. */
  maxRows?: number;
};

const OVERSCAN = 8;

export function Table<Row>(props: Props<Row>): JSX.Element {
  const { columns, order, rowKey, maxRows } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const body = useRef<HTMLTableSectionElement>(null);
  const [view, setView] = useState({ top: 0, height: 900, width: 1200, row: 28 });
  const [active, setActive] = useState<string | number | null>(null);
  const follow = useRef<string | number | null>(null);
  const shownSince = useRef(performance.now());

  useLayoutEffect(() => {
    const element = scroller.current!;
    const measure = () => {
      const row = Number.parseFloat(getComputedStyle(element).getPropertyValue("--row")) || 28;
      setView((old) => ({ ...old, height: element.clientHeight, width: element.clientWidth, row }));
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, []);

  const shown = fitting(columns, view.width);
  const sorting = order && columns.find((column) => column.key === order.column);
  const rows = useMemo(
    () => (sorting?.value && order ? sortedBy(props.rows, sorting.value, order.falling) : props.rows),
    [props.rows, sorting?.key, order?.falling],
  );
  const { first, last } = rowWindow(view.top, view.height, view.row, rows.length, OVERSCAN);

  const onKeyDown = (event: KeyboardEvent) => {
    const page = Math.max(1, Math.floor(view.height / view.row) - 2);
    const steps: Record<string, number> = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: page,
      PageUp: -page,
      Home: -rows.length,
      End: rows.length,
    };
    const step = steps[event.key];
    const target = event.target as HTMLElement;
    if (event.key === "Enter" && target.tagName === "TR") {
      const row = rows.find((candidate) => String(rowKey(candidate)) === target.dataset["key"]);
      if (row !== undefined) props.onOpen?.(row);
    }
    if (step === undefined || rows.length === 0 || !target.closest("tbody")) return;
    event.preventDefault();
    const from = rows.findIndex((row) => rowKey(row) === active);
    const to = Math.min(rows.length - 1, Math.max(0, from + step));
    const element = scroller.current!;
    const head = 30;
    const [above, below] = [to * view.row, (to + 1) * view.row + head - element.clientHeight];
    if (element.scrollTop > above) element.scrollTop = above;
    else if (element.scrollTop < below) element.scrollTop = below;
    follow.current = rowKey(rows[to]!);
    setActive(follow.current);
    setView((old) => ({ ...old, top: element.scrollTop }));
  };

  // The row may be drawn only after the scrolling.
  useEffect(() => {
    if (follow.current === null) return;
    const row = body.current?.querySelector<HTMLElement>(`tr[data-key="${CSS.escape(String(follow.current))}"]`);
    if (row) {
      row.focus({ preventScroll: true });
      follow.current = null;
    }
  });

  const activeKey = rows.some((row) => rowKey(row) === active) ? active : rows[0] && rowKey(rows[0]);
  const total = shown.reduce((sum, column) => sum + column.width, 0);
  const height = maxRows === undefined ? undefined : Math.min(rows.length, maxRows) * view.row + 32;
  return (
    <div
      class={rows.length === 0 ? "table bare" : "table"}
      ref={scroller}
      style={height === undefined || rows.length === 0 ? {} : { height: `${height}px` }}
      onScroll={(event) => {
        const { scrollTop } = event.currentTarget;
        setView((old) => ({ ...old, top: scrollTop }));
      }}
      onKeyDown={onKeyDown}
    >
      <table aria-label={props.label} aria-rowcount={rows.length + 1}>
        <colgroup>
          {shown.map((column) => (
            <col key={column.key} style={{ width: `${(column.width / total) * 100}%` }} />
          ))}
        </colgroup>
        <thead>
          <tr aria-rowindex={1}>
            {shown.map((column) => {
              const isSorted = order?.column === column.key;
              return (
                <th
                  key={column.key}
                  scope="col"
                  class={column.align ?? "left"}
                  title={column.title}
                  aria-sort={isSorted ? (order.falling ? "descending" : "ascending") : undefined}
                >
                  {column.value && props.onOrder ? (
                    <button
                      type="button"
                      onClick={() =>
                        props.onOrder!({
                          column: column.key,
                          falling: isSorted ? !order.falling : (column.falling ?? column.align === "right"),
                        })
                      }
                    >
                      {column.label}
                      <span class="arrow" aria-hidden="true">
                        {isSorted ? (order.falling ? "▾" : "▴") : ""}
                      </span>
                    </button>
                  ) : (
                    column.label
                  )}
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody ref={body}>
          {first > 0 && (
            <tr key="above" class="space" aria-hidden="true" style={{ height: `${first * view.row}px` }}>
              <td colSpan={shown.length} />
            </tr>
          )}
          {rows.slice(first, last).map((row, index) => {
            const key = rowKey(row);
            return (
              <tr
                key={key}
                data-key={key}
                aria-rowindex={first + index + 2}
                tabIndex={key === activeKey ? 0 : -1}
                class={(key === props.selected ? "selected " : "") + (props.onOpen ? "opens" : "")}
                aria-current={key === props.selected ? "true" : undefined}
                onFocus={() => setActive(key)}
                onClick={(event) => {
                  if (!(event.target as HTMLElement).closest("a, button")) props.onOpen?.(row);
                }}
              >
                {shown.map((column, place) => (
                  <td key={column.key} class={column.align ?? "left"}>
                    {place === 0 && props.news ? <News key={props.news(row)} shownSince={shownSince.current} /> : null}
                    {column.cell(row)}
                  </td>
                ))}
              </tr>
            );
          })}
          {last < rows.length && (
            <tr
              key="below"
              class="space"
              aria-hidden="true"
              style={{ height: `${(rows.length - last) * view.row}px` }}
            >
              <td colSpan={shown.length} />
            </tr>
          )}
        </tbody>
      </table>
      {rows.length === 0 && <p class="empty">{props.empty}</p>}
    </div>
  );
}

/** A mark that fades. It is made anew, and therefore shown, whenever its key changes. */
function News({ shownSince }: { shownSince: number }) {
  const [fresh, setFresh] = useState(false);
  const drawn = performance.now();
  useEffect(() => {
    // The first rows of a table and those that scroll into view have no news.
    if (drawn - shownSince > 2000 && drawn - lastScroll > 300) setFresh(true);
  }, []);
  return <span class={fresh ? "news" : ""} />;
}

let lastScroll = 0;
addEventListener("scroll", () => (lastScroll = performance.now()), { capture: true, passive: true });
