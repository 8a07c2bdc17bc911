// Charts. Their colours come from the style sheet, so that they follow the theme.

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useEffect, useRef } from "preact/hooks";
import { gain, minute, number, price as priceText } from "../pure/format.ts";
import { underwater, type Curve } from "../pure/curve.ts";
import { theme } from "../theme.ts";

type Colours = Record<"text" | "grid" | "up" | "down" | "accent" | "fill" | "loss", string>;

function colours(): Colours {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string) => style.getPropertyValue(name).trim();
  return {
    text: read("--muted"),
    grid: read("--line"),
    up: read("--up"),
    down: read("--down"),
    accent: read("--accent"),
    fill: read("--accent-fill"),
    loss: read("--down-fill"),
  };
}

/** Draws a chart that keeps its width, and is made anew when the data or the theme changes. */
function useChart(
  height: number,
  data: uPlot.AlignedData,
  options: (c: Colours) => Omit<uPlot.Options, "width" | "height">,
) {
  const place = useRef<HTMLDivElement>(null);
  const scheme = theme.value;
  useEffect(() => {
    const element = place.current!;
    const chart = new uPlot({ ...options(colours()), width: element.clientWidth || 300, height }, data, element);
    const observer = new ResizeObserver(() => {
      if (element.clientWidth > 0) chart.setSize({ width: element.clientWidth, height });
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
      chart.destroy();
    };
  }, [data, scheme, height]);
  return place;
}

const FONT = "11px Inter, system-ui, sans-serif";

function axis(c: Colours, size: number, values?: (value: number) => string): uPlot.Axis {
  return {
    stroke: c.text,
    font: FONT,
    size,
    grid: { stroke: c.grid, width: 1 },
    ticks: { show: false },
    gap: 6,
    ...(values ? { values: (_, splits) => splits.map(values) } : {}),
  };
}

/** Labels in one line: a date where the day changes or days apart, else the time of day. */
const timeAxis = (c: Colours): uPlot.Axis => ({
  ...axis(c, 26),
  space: 74,
  values: (_, splits, _index, _space, step) =>
    splits.map((seconds) => {
      const text = new Date(seconds * 1000).toISOString();
      const day = `${Number(text.slice(8, 10))} ${MONTHS[Number(text.slice(5, 7)) - 1]}`;
      if (step >= 86_400) return step >= 300 * 86_400 ? text.slice(0, 4) : day;
      return text.endsWith("T00:00:00.000Z") ? day : step >= 60 ? text.slice(11, 16) : text.slice(11, 19);
    }),
});
const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

const utc = (seconds: number) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC");
const sync = uPlot.sync("curve");

/** Equity above, the loss from its peak below; the cursor is in both. */
export function EquityChart({ curve, label }: { curve: Curve; label: string }) {
  const times = curve.map(([ms]) => ms / 1000);
  const returns = curve.map(([, value]) => (value - 1) * 100);
  const losses = underwater(curve).map((loss) => loss * 100);
  const key = JSON.stringify([curve.length, curve[0], curve.at(-1)]);
  const equity = useMemoOf<uPlot.AlignedData>(key, [times, returns]);
  const water = useMemoOf<uPlot.AlignedData>(key, [times, losses]);
  const percentText = (value: number) => `${number(value, Math.abs(value) < 1 && value !== 0 ? 2 : 1)}%`;
  const above = useChart(222, equity, (c) => ({
    tzDate: utc,
    cursor: { sync: { key: sync.key }, y: false },
    legend: { live: true },
    scales: { x: { time: true } },
    axes: [timeAxis(c), axis(c, 58, percentText)],
    series: [
      { label: "UTC", value: (_, seconds: number | null) => (seconds == null ? "–" : minute(seconds * 1000)) },
      {
        label: "Return",
        stroke: c.accent,
        fill: c.fill,
        fillTo: 0,
        width: 1.5,
        points: { show: false },
        value: (_, value: number | null) => (value == null ? "–" : gain(value / 100 + 1)),
      },
    ],
  }));
  const below = useChart(150, water, (c) => ({
    tzDate: utc,
    cursor: { sync: { key: sync.key }, y: false },
    scales: { x: { time: true }, y: { range: (_, low) => [Math.min(low * 1.1, -0.1), 0] } },
    axes: [timeAxis(c), axis(c, 58, percentText)],
    series: [
      { label: "UTC", value: (_, seconds: number | null) => (seconds == null ? "–" : minute(seconds * 1000)) },
      {
        label: "From peak",
        stroke: c.down,
        fill: c.loss,
        fillTo: 0,
        width: 1.25,
        points: { show: false },
        value: (_, value: number | null) => (value == null ? "–" : gain(value / 100 + 1)),
      },
    ],
  }));
  return (
    <div class="charts">
      <h3>Portfolio return</h3>
      <div ref={above} role="img" aria-label={`Equity curve of ${label}, ${gain(curve.at(-1)![1])} at the end`} />
      <h3>Underwater</h3>
      <div ref={below} role="img" aria-label={`Loss from the peak, ${number(Math.min(...losses), 2)}% at the deepest`} />
    </div>
  );
}

export type Fill = { ms: number; price: number; side: string };

/** Fills by time and price: triangles up buy, triangles down sell, circles close. The line is the last price. */
export function FillsChart({ fills, last, label }: { fills: Fill[]; last: number | null; label: string }) {
  const data = useMemoOf<uPlot.AlignedData>(
    JSON.stringify([fills.length, fills[0], fills.at(-1), last]),
    (() => {
      const ends = fills.length === 1 ? [fills[0]!.ms - 60_000, fills[0]!.ms, fills[0]!.ms + 60_000] : null;
      const times = (ends ?? fills.map((fill) => fill.ms)).map((ms) => ms / 1000);
      const pick = (side: string) => {
        const values = fills.map((fill) => (fill.side === side ? fill.price : null));
        return ends === null ? values : [null, values[0]!, null];
      };
      return [times, pick("LONG"), pick("SHORT"), pick("FLAT"), times.map(() => last)] as uPlot.AlignedData;
    })(),
  );
  const place = useChart(210, data, (c) => {
    const value = (_: uPlot, price: number | null) => (price == null ? "–" : priceText(price));
    const marks = (name: string, colour: string, shape: "up" | "down" | "dot"): uPlot.Series => ({
      label: name,
      stroke: colour,
      paths: () => null,
      value,
      points: { show: true, size: 9, fill: colour, paths: markers(shape) },
    });
    return {
      tzDate: utc,
      scales: {
        x: { time: true },
        // Fills may all have one price.
        y: { range: (_, low, high) => widened(low, high) },
      },
      axes: [timeAxis(c), axis(c, 74, (price) => priceText(price))],
      series: [
        { label: "UTC", value: (_, seconds: number | null) => (seconds == null ? "–" : minute(seconds * 1000)) },
        marks("Buy", c.up, "up"),
        marks("Sell", c.down, "down"),
        marks("Flat", c.text, "dot"),
        { label: "Last price", stroke: c.accent, width: 1, dash: [4, 4], points: { show: false }, value },
      ],
    };
  });
  return <div class="charts fills" ref={place} role="img" aria-label={label} />;
}

function widened(low: number, high: number): [number, number] {
  const margin = Math.max((high - low) * 0.12, Math.abs(high) * 0.0002, 1e-9);
  return [low - margin, high + margin];
}

function markers(shape: "up" | "down" | "dot"): uPlot.Series.Points.PathBuilder {
  return (chart, index, first, last) => {
    const path = new Path2D();
    const size = 4.5 * devicePixelRatio;
    const [times, values] = [chart.data[0], chart.data[index]!];
    for (let i = first; i <= last; i += 1) {
      const value = values[i];
      if (value == null) continue;
      const x = chart.valToPos(times[i]!, "x", true);
      const y = chart.valToPos(value, "y", true);
      if (shape === "dot") {
        path.moveTo(x + size * 0.8, y);
        path.arc(x, y, size * 0.8, 0, 2 * Math.PI);
      } else {
        const tip = shape === "up" ? -size : size;
        path.moveTo(x, y + tip);
        path.lineTo(x + size, y - tip);
        path.lineTo(x - size, y - tip);
        path.closePath();
      }
    }
    return { fill: path, stroke: null };
  };
}

/** Returns the same object as long as the key is the same. */
function useMemoOf<T>(key: string, value: T): T {
  const kept = useRef<{ key: string; value: T } | null>(null);
  if (kept.current?.key !== key) kept.current = { key, value };
  return kept.current.value;
}
