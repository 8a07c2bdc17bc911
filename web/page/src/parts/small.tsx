// Small parts that several views share.

import type { ComponentChildren } from "preact";
import { clock, gain, leverage, minute, NOTHING, percent, period, phase, shortHotkey, tone } from "../pure/format.ts";
import { linkTo } from "../pure/route.ts";
import { sparkline, type Curve } from "../pure/curve.ts";
import { now } from "../store.ts";

export function Ago({ ms }: { ms: number | null | undefined }) {
  if (ms == null) return <span class="none">{NOTHING}</span>;
  return <time title={`${minute(ms)}:${clock(ms).slice(6)} UTC`}>{period(now.value - ms)}</time>;
}

export function Gain({ factor, digits = 2 }: { factor: number | null | undefined; digits?: number }) {
  const text = gain(factor, digits);
  return <span class={tone(text)}>{text}</span>;
}

export function Leverage({ value }: { value: number | null | undefined }) {
  const text = leverage(value);
  return <span class={tone(text)}>{text}</span>;
}

export function Loss({ fraction }: { fraction: number | null }) {
  return <span class={fraction === null ? "none" : ""}>{percent(fraction, 2)}</span>;
}

export function MinerLink({ hotkey }: { hotkey: string }) {
  return (
    <a class="mono" href={linkTo("miners", hotkey)} title={hotkey}>
      {shortHotkey(hotkey)}
    </a>
  );
}

export function PairLink({ pair }: { pair: string }) {
  return (
    <a class="pair" href={linkTo("pairs", pair)}>
      {pair}
    </a>
  );
}

export function Side({ side }: { side: string | null | undefined }) {
  const kind = side === "LONG" ? "up" : side === "SHORT" ? "down" : "";
  return <span class={`side ${kind}`}>{side ?? NOTHING}</span>;
}

export function Phase({ bucket, title }: { bucket: string | null; title?: string | undefined }) {
  if (bucket === null) return <span class="none">{NOTHING}</span>;
  const kind = bucket === "ELIMINATED" ? "bad" : /MAIN|FUNDED|ALPHA/.test(bucket) ? "good" : "";
  return (
    <span class={`badge ${kind}`} title={title}>
      {phase(bucket)}
    </span>
  );
}

export function Sparkline({ curve }: { curve: Curve | null }) {
  if (curve === null || curve.length < 2) return <span class="none">{NOTHING}</span>;
  const gained = curve.at(-1)![1] >= 1;
  return (
    <svg class={`spark ${gained ? "up" : "down"}`} viewBox="0 0 96 20" preserveAspectRatio="none" aria-hidden="true">
      <polyline points={sparkline(curve, 96, 20)} />
    </svg>
  );
}

export function Figure({ label, title, children }: { label: string; title?: string; children: ComponentChildren }) {
  return (
    <div class="figure" title={title}>
      <dt>{label}</dt>
      <dd>{children}</dd>
    </div>
  );
}

export function Search(props: { label: string; value: string; onChange: (text: string) => void }) {
  return (
    <label class="search">
      <span class="hidden">{props.label}</span>
      <input
        type="search"
        data-search
        placeholder={props.label}
        value={props.value}
        spellcheck={false}
        autocomplete="off"
        onInput={(event) => props.onChange(event.currentTarget.value)}
      />
    </label>
  );
}

export function Choice<T extends string>(props: {
  label: string;
  value: T;
  options: [T, string][];
  onChange: (value: T) => void;
}) {
  return (
    <label class="choice">
      <span>{props.label}</span>
      <select value={props.value} onChange={(event) => props.onChange(event.currentTarget.value as T)}>
        {props.options.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}
